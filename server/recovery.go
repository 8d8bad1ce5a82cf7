package server

import (
	"context"
	"crypto/rand"
	"maps"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// Recovery are the settings of connection state recovery: a client whose line broke, and
// which comes back soon, goes on with its session. It keeps its name, its channels and
// what Session.Set kept, and first gets the events that it missed, each once. The application
// sees a session that ended and one that begins, for which Session.Recovered reports true.
//
// A session that ended by a goodbye of either side is not kept. A client that comes
// back before its old line was found broken ends that.
type Recovery struct {
	// Off switches recovery off: events then carry no offset, and nothing is kept.
	Off bool
	// MaxAge is how long sessions that broke, and events, are kept. Defaults to 2 minutes.
	MaxAge time.Duration
	// MaxBytes bounds the events that are kept, in bytes of memory, roughly; the oldest go
	// first. Defaults to 16 MiB.
	MaxBytes int
	// MaxSessions is how many sessions that broke are kept; the oldest go first. Defaults to 10,000.
	MaxSessions int
}

// remains is what a server keeps of what is over: events, and sessions that may come back.
type remains struct {
	server   *Server
	recovery bool // whether sessions can be resumed
	transfer bool // whether pages that were loaded anew can take over

	// mu protects what follows. With recovery it is held while an event gets its
	// position and goes to the queues of its sessions, so that each gets them in the order of
	// their positions, and a session that resumes neither misses one nor gets it twice.
	// No queue waits.
	mu       sync.Mutex
	journal  journal
	broken   shelf               // sessions to be resumed, by their private names
	unloaded shelf               // sessions to be taken over, by their public names
	live     map[string]*Session // by their private names, until their disconnect listeners have run
	sweeper  *time.Timer         // nil while there is nothing to sweep
}

func newRemains(s *Server) *remains {
	r, t := s.opts.Recovery, s.opts.Transfer
	return &remains{
		server: s, recovery: !r.Off, transfer: t.On,
		journal:  newJournal(r.MaxAge, r.MaxBytes),
		broken:   shelf{age: r.MaxAge, limit: r.MaxSessions},
		unloaded: shelf{age: t.MaxAge, limit: t.MaxSessions},
		live:     make(map[string]*Session),
	}
}

// broadcast sends m to the union of the channels, but for those who hear of what it is about by their scopes.
func (r *remains) broadcast(channels []string, m *tidemark.Message, about topic) {
	c := &r.server.channels
	if !r.recovery {
		for _, s := range c.members(channels) {
			if s.hears(about) {
				_ = s.send(m)
			}
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	members, at := c.next(channels)
	r.journal.stamp(m, at)
	if len(members) > 0 || r.broken.all.Len() > 0 {
		r.add(at, channels, m, about)
	}
	for _, s := range members {
		if s.hears(about) {
			_ = s.send(m)
		}
	}
}

// emit sends m to one session, as if to the channel of its name.
func (r *remains) emit(s *Session, m *tidemark.Message) error {
	if !r.recovery {
		return s.send(m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, at := r.server.channels.next(nil)
	r.journal.stamp(m, at)
	if err := s.send(m); err != nil {
		return err
	}
	r.add(at, []string{s.id}, m, other)
	return nil
}

func (r *remains) add(at uint64, channels []string, m *tidemark.Message, about topic) {
	r.journal.add(at, channels, m, about, time.Now())
	r.sweep()
}

// unnoticed returns the session that a client asks to resume, when its end is
// not known or not over yet; nil otherwise.
func (r *remains) unnoticed(private string) *Session {
	if private == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[private]
}

// begin gives s a name and channels: those of the session that it resumes, or its own.
// It returns what the client is told, and what puts things back when that cannot be told.
func (r *remains) begin(s *Session, hello tidemark.Hello) (w tidemark.Welcome, undo func()) {
	undo = func() {}
	if r.recovery {
		r.mu.Lock()
		defer r.mu.Unlock()
		now := time.Now()
		old, replay := r.resumable(hello, now)
		if old != nil {
			r.broken.take(old.private, now)
			r.unloaded.take(old.id, now)
			undo = func() { r.putBack(s, old, now) }
			s.id, s.private, s.token, s.data, s.recovered = old.id, old.private, old.token, old.data, true
			s.scoped.Store(old.scoped)
			w.Replay = replay
			r.server.channels.rejoin(old.channels, s)
		} else {
			s.private = rand.Text()
		}
		r.live[s.private] = s
	}
	r.server.channels.join(s.id, s)
	w.ID, w.Session = s.id, s.private
	return w, undo
}

// resumable returns the session that hello asks to resume and what it missed, nil
// when there is none or something may be missing.
func (r *remains) resumable(hello tidemark.Hello, now time.Time) (*former, []*tidemark.Message) {
	f := r.broken.get(hello.Session, now)
	if f == nil {
		return nil, nil
	}
	after, ok := r.journal.position(hello.Offset)
	if !ok {
		return nil, nil
	}
	replay, ok := r.journal.since(after, f.channels, f.scoped)
	if !ok {
		return nil, nil
	}
	return f, replay
}

// putBack is for a client that left before it heard that it was recognised.
func (r *remains) putBack(s *Session, f *former, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.channels = r.server.channels.leaveAll(s)
	delete(r.live, f.private)
	r.put(f, true, r.reloadable(f.token), now)
}

// keep takes an ended session out of its channels, and keeps what can be taken up again.
func (r *remains) keep(s *Session, reason tidemark.CloseReason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	channels := r.server.channels.leaveAll(s)
	if r.server.ctx.Err() != nil || !s.established() {
		return
	}
	f := &former{id: s.id, private: s.private, token: s.transferToken(), channels: channels, data: s.values(), scoped: s.scoped.Load()}
	f.channels[s.id] = channels[s.id] // what Emit sent is its own, in the channel or not
	r.put(f, r.recovery && reason.Resumable(), reason != tidemark.ClosedByServer && r.reloadable(f.token), time.Now())
}

func (r *remains) put(f *former, resume, reload bool, now time.Time) {
	if resume {
		r.broken.put(f.private, f, now)
	}
	if reload {
		r.unloaded.put(f.id, f, now)
	}
	if resume || reload {
		r.sweep()
	}
}

// reloadable reports whether a session with that token can be taken over.
func (r *remains) reloadable(token string) bool {
	return r.transfer && (token != "" || r.server.opts.Transfer.InsecureWithoutToken)
}

// forget is the end of a session whose listeners have run.
func (r *remains) forget(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[s.private] == s {
		delete(r.live, s.private)
	}
}

// sweep sees to it that what is too old is dropped, until nothing is left. mu is held.
func (r *remains) sweep() {
	if r.sweeper == nil && r.server.ctx.Err() == nil {
		r.sweeper = time.AfterFunc(r.period(), r.sweepNow)
	}
}

// period is how often the remains are swept: what is too old stays for a part of its age more.
func (r *remains) period() time.Duration {
	const often = 8 // times within the age
	age := r.server.opts.Recovery.MaxAge
	if r.transfer {
		age = min(age, r.server.opts.Transfer.MaxAge)
	}
	return max(age/often, time.Millisecond)
}

func (r *remains) sweepNow() {
	r.server.work.begin(routines)
	defer r.server.work.end(routines)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sweeper == nil { // stopped
		return
	}
	now := time.Now()
	r.broken.sweep(now)
	r.unloaded.sweep(now)
	left := r.broken.all.Len()+r.unloaded.all.Len() > 0
	r.server.channels.whileStill(func(inUse func(string) bool) {
		r.journal.sweep(now, inUse)
		left = left || !r.journal.idle(inUse)
	})
	if left && r.server.ctx.Err() == nil {
		r.sweeper.Reset(r.period())
	} else {
		r.sweeper = nil
	}
}

// stop ends the sweeping, with the server.
func (r *remains) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sweeper != nil {
		r.sweeper.Stop()
		r.sweeper = nil
	}
}

// waitGone returns when the session's listeners have run, or ctx is done.
func (s *Session) waitGone(ctx context.Context) {
	select {
	case <-s.gone:
	case <-ctx.Done():
	}
}

func (s *Session) values() map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.data)
}
