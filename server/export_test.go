package server

// SyncsOf returns how many syncs of a model run or wait.
func (s *Server) SyncsOf(model string) int {
	s.syncs.mu.Lock()
	defer s.syncs.mu.Unlock()
	return len(s.syncs.models[model])
}

// Rows returns how many rows have writers or events under way.
func (s *Server) Rows() int {
	s.order.mu.Lock()
	defer s.order.mu.Unlock()
	return len(s.order.rows)
}

// Channels returns how many channels have somebody in them.
func (s *Server) Channels() int {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return len(s.channels.groups)
}

// Remains returns how much the server keeps of what is over: events, channels whose events
// were dropped, sessions that can be resumed, and sessions that can be taken over.
func (s *Server) Remains() (events, marks, broken, unloaded int) {
	r := s.remains
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.journal.entries), len(r.journal.dropped), r.broken.all.Len(), r.unloaded.all.Len()
}

// Held reports whether a writer holds the row.
func (s *Server) Held(model, uid string) bool {
	s.order.mu.Lock()
	defer s.order.mu.Unlock()
	q := s.order.rows[rowKey{model, uid}]
	return q != nil && q.held
}

// LiveScopes returns how many scopes are live.
func (s *Server) LiveScopes() int {
	s.live.scopes.mu.Lock()
	defer s.live.scopes.mu.Unlock()
	return len(s.live.scopes.byNumber)
}

// Publications returns how many rows are to be told to live scopes, transactions of the server's
// code that have something to tell, calls of the driver that are under way or have, and what
// waits for hooks.
func (s *Server) Publications() int {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return len(s.live.rows) + len(s.live.txs) + s.live.young + s.live.old + int(s.live.queued.Load())
}

// Doubts returns how many rows are in doubt.
func (s *Server) Doubts() int {
	s.live.cursor.mu.Lock()
	defer s.live.cursor.mu.Unlock()
	return len(s.live.cursor.doubts)
}

// ArmCursor has a cursor told.
func (s *Server) ArmCursor() { s.live.cursor.arm() }
