package storetest

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

// calls are all methods of a store but Close.
func (t *T) calls(s tidemark.Store) map[string]func(context.Context) error {
	p := t.compile(nil)
	nothing := func(tidemark.StoreTx) error { return nil }
	return map[string]func(context.Context) error{
		"Declare": func(ctx context.Context) error { return s.Declare(ctx, item) },
		"Find":    func(ctx context.Context) error { _, err := s.Find(ctx, p); return err },
		"Get":     func(ctx context.Context) error { _, err := s.Get(ctx, "item", "a"); return err },
		"View":    func(ctx context.Context) error { return s.View(ctx, nothing) },
		"Update":  func(ctx context.Context) error { return s.Update(ctx, nothing) },
	}
}

var closeRules = []Rule{
	{Name: "close/ErrClosed", Says: "after Close every method returns ErrClosed",
		check: func(t *T) {
			t.declare()
			t.must(t.store.Close())
			for name, call := range t.calls(t.store) {
				if err := call(t.Context()); !errors.Is(err, tidemark.ErrClosed) {
					t.fatalf("%s: %v", name, err)
				}
			}
		}},
	{Name: "close/idempotent", Says: "Close is idempotent",
		check: func(t *T) {
			t.together(4, func(int) error { return errors.Join(t.store.Close(), t.store.Close()) })
		}},
	{Name: "close/waits", Says: "Close waits for a running Update, which ends as if there were no Close; who waits for its turn gets ErrClosed",
		check: func(t *T) {
			t.declare()
			started, release, closed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			var finished atomic.Bool
			updated := make(chan error, 1)
			go func() {
				updated <- t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
					close(started)
					<-release
					finished.Store(true)
					return tx.Save("k", []byte("v"))
				})
			}()
			<-started
			waiting := make(chan error, 1)
			go func() { waiting <- t.store.Update(t.Context(), func(tidemark.StoreTx) error { return nil }) }()
			go func() {
				err := t.store.Close()
				if err == nil && !finished.Load() {
					err = errors.New("Close did not wait")
				}
				closed <- err
			}()
			for err := error(nil); !errors.Is(err, tidemark.ErrClosed); { // until Close has begun
				_, err = t.store.Get(t.Context(), "item", "a")
			}
			if err := <-waiting; !errors.Is(err, tidemark.ErrClosed) {
				t.fatalf("who waited got %v", err)
			}
			close(release)
			t.must(<-updated)
			t.must(<-closed)
		}},
	{Name: "close/context ended", Says: "every method returns ctx's error when ctx has ended, and does nothing",
		check: func(t *T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for name, call := range t.calls(t.store) {
				if err := call(ctx); !errors.Is(err, context.Canceled) {
					t.fatalf("%s: %v", name, err)
				}
			}
			if err := t.store.Update(ctx, func(tx tidemark.StoreTx) error { return tx.Save("k", []byte("v")) }); err == nil {
				t.fatalf("it wrote")
			}
			if t.load("k") != nil {
				t.fatalf("it wrote")
			}
		}},
	{Name: "close/twice opened", Says: "closing one store leaves another of the same file working", another: true,
		check: func(t *T) {
			other := t.open()
			t.must(t.store.Close())
			t.store = other
			t.declare()
			t.put(synced("a", ""))
		}},
}
