package server

import (
	"context"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// kind is a kind of work that is counted.
type kind int

const (
	calls    kind = iota // calls that were taken and are not yet answered
	routines             // goroutines that the server started, and sessions
)

// work counts what runs, so that a shutdown can wait for it, and holds the
// sessions in the order in which they came. It waits on a channel, not in a WaitGroup, so that a wait can end.
type work struct {
	mu       sync.Mutex // protects what follows
	count    [2]int
	draining bool
	changed  chan struct{} // closed when a count reaches zero; nil while nobody waits
	live     set
}

// begin counts one more of k. It reports false, and counts nothing, for a call that comes while draining.
func (w *work) begin(k kind) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k == calls && w.draining {
		return false
	}
	w.count[k]++
	return true
}

func (w *work) end(k kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count[k]--
	if w.count[k] == 0 && w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// enter counts a session, unless the server is draining.
func (w *work) enter(s *Session) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining {
		return false
	}
	w.count[routines]++
	w.live.add(s)
	return true
}

// leave is the end of a session that entered.
func (w *work) leave(s *Session) {
	w.mu.Lock()
	w.live.remove(s)
	w.mu.Unlock()
	w.end(routines)
}

func (w *work) sessions() []*Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Session(nil), w.live.list...)
}

func (w *work) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
}

// wait returns when nothing of the given kinds runs, or with ctx's error.
func (w *work) wait(ctx context.Context, kinds ...kind) error {
	for {
		w.mu.Lock()
		n := 0
		for _, k := range kinds {
			n += w.count[k]
		}
		if n == 0 {
			w.mu.Unlock()
			return nil
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// spawn runs fn in a goroutine that the server waits for.
func (s *Server) spawn(fn func()) {
	s.work.begin(routines)
	go func() {
		defer s.work.end(routines)
		fn()
	}()
}

var errShutdown = tidemark.NewError(tidemark.CodeUnavailable, "the server is shutting down")
