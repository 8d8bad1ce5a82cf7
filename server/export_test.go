package server

// SyncsOf returns how many syncs of a model run or wait.
func (s *Server) SyncsOf(model string) int {
	s.scopes.mu.Lock()
	defer s.scopes.mu.Unlock()
	return len(s.scopes.models[model])
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
