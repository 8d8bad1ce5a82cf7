package socketio

import (
	"time"

	"github.com/tidemark-sync/tidemark"
)

// lateConnect ends a session that has not asked for the namespace in time.
func (s *session) lateConnect() {
	if s.current() == stageOpened {
		s.Close(tidemark.ClosedPing)
	}
}

// beat is what the heartbeat's timer calls: it pings, or finds that no pong came.
func (s *session) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stage == stageClosing:
	case !s.pinged:
		s.pinged, s.pingOut = true, false
		s.heartbeat.Reset(s.host.opts.PingTimeout) // before the ping goes out: the pong may be faster than we
		s.push(frame{data: []byte{enginePing}})
	case !s.pingOut: // it waits behind something big, for which the line has a time-out
		s.heartbeat.Reset(s.host.opts.PingTimeout)
	default:
		d := s.alive()
		if d <= 0 {
			s.abandon(tidemark.ClosedPing)
			return
		}
		s.heartbeat.Reset(d)
		s.pingOut = false
		s.push(frame{data: []byte{enginePing}}) // the client measures our silence too
	}
}

// pingWritten starts the time that the client has. It is called under mu, perhaps after the pong.
func (s *session) pingWritten() {
	s.pingOut = true
	if s.pinged && s.stage != stageClosing {
		s.heartbeat.Reset(s.host.opts.PingTimeout)
	}
}

// alive returns for how much longer the client may leave a ping unanswered. A
// pong can be held up behind something big on a narrow line, or behind a message
// that its receiver has not finished with: neither is silence.
func (s *session) alive() time.Duration {
	if s.receiving.Load() {
		return s.host.opts.PingTimeout
	}
	return s.host.opts.PingTimeout - s.line.quiet()
}

// pong is called when one arrives.
func (s *session) pong() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage != stageClosing && s.pinged {
		s.pinged = false
		s.heartbeat.Reset(s.host.opts.PingInterval)
	}
}
