package server

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// Transfer are the settings of the guide's reload plugin: a page that is loaded anew is a
// new session, and asks for the channels of its former one and for what Session.Set kept
// there. A page that tells its session a random token is the only one that can ask for
// it; with a wrong token, or for a session that is not kept, the answer is "cnx-transfer-error".
type Transfer struct {
	// On switches transfers on. Without it every request for one is answered with an error.
	On bool
	// MaxAge is how long a session that ended is kept for its page. Defaults to 2 minutes.
	MaxAge time.Duration
	// MaxSessions is how many are kept; the oldest go first. Defaults to 10,000.
	MaxSessions int
	// Authorize, when set, decides about each transfer: an error refuses it. It may
	// change what is handed over. It runs after the connect listeners of the new session, and may wait
	// until ctx ends.
	Authorize func(ctx context.Context, from *Former, to *Session) error
	// InsecureWithoutToken lets sessions that have no token be taken over too, as the
	// guide's first plugin did: whoever knows the id of a session that ended gets its channels and values.
	InsecureWithoutToken bool
}

const (
	maxToken       = 256 // bytes
	maxName        = 1024
	maxWrongTokens = 3 // after which a session is kept no longer
)

// setToken takes the token by which a successor can ask for this session's channels.
func (s *Session) setToken(m *tidemark.Message) {
	if !s.server.remains.transfer || len(m.Args) == 0 {
		return
	}
	token, err := tidemark.DecodeString(m.Args[0])
	if err != nil || len(token) > maxToken || token == s.id {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

func (s *Session) transferToken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// transfer answers a page that was loaded anew and asks for what its former session had.
func (s *Session) transfer(m *tidemark.Message) {
	if len(m.Args) < 2 {
		return
	}
	from, err1 := tidemark.DecodeString(m.Args[0])
	to, err2 := tidemark.DecodeString(m.Args[1])
	if err1 != nil || err2 != nil || to != s.id {
		return
	}
	token := ""
	if len(m.Args) > 2 {
		token, _ = tidemark.DecodeString(m.Args[2])
	}
	long := len(from) > maxName || len(token) > maxToken // as no session's is
	if long {
		from = short(from)
	}
	if !s.server.remains.transfer || long {
		_ = s.Emit(tidemark.EventTransferFail, from, to)
		return
	}
	if s.outstanding.Add(1) > int64(s.server.opts.MaxOutstanding) {
		s.outstanding.Add(-1)
		_ = s.Emit(tidemark.EventTransferFail, from, to)
		return
	}
	s.server.spawn(func() {
		defer s.outstanding.Add(-1)
		event := tidemark.EventTransferAck
		if err := s.takeOver(from, token); err != nil {
			event = tidemark.EventTransferFail
			s.server.log.Debug("transfer refused", slog.String("session", s.id), slog.Any("error", err))
		}
		_ = s.Emit(event, from, to)
	})
}

// takeOver gives s the channels and values of a session that ended.
func (s *Session) takeOver(id, token string) error {
	ctx, cancel := s.server.bound(s.ctx)
	defer cancel()
	select {
	case <-s.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	if old, ok := s.server.Session(id); ok && old != s && old.ctx.Err() != nil { // it is ending
		old.waitGone(ctx)
	}
	f := s.server.remains.takeUnloaded(id, token)
	if f == nil {
		return errNotKept
	}
	from := f.export()
	if authorize := s.server.opts.Transfer.Authorize; authorize != nil {
		if err := safely(func() error { return authorize(ctx, from, s) }); err != nil {
			return err
		}
	}
	for key, value := range from.Data {
		s.Set(key, value)
	}
	for _, name := range from.Channels {
		s.Join(name)
	}
	return nil
}

var errNotKept = tidemark.NewError(tidemark.CodeDenied, "no session is kept under that id and token")

// takeUnloaded returns the session that ended under id, once, to who has its token.
func (r *remains) takeUnloaded(id, token string) *former {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	f := r.unloaded.get(id, now)
	if f == nil {
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(f.token), []byte(token)) != 1 {
		if f.wrong++; f.wrong == maxWrongTokens {
			r.unloaded.take(id, now)
		}
		return nil
	}
	r.unloaded.take(id, now)
	r.broken.take(f.private, now)
	return f
}
