package client_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// watching runs a Watch in the background and keeps the labels of its results.
type watching struct {
	results [][]string
	err     error
	cancel  context.CancelFunc
	ended   chan struct{}
}

func (b *bench) watch(where tidemark.Where, opts *client.WatchOptions) *watching {
	ctx, cancel := context.WithCancel(b.t.Context())
	w := &watching{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for items, err := range b.items.Watch(ctx, where, opts) {
			if err != nil {
				w.err = err
				continue
			}
			labels := []string{}
			for _, i := range items {
				labels = append(labels, i.Label)
			}
			w.results = append(w.results, labels)
		}
	}()
	synctest.Wait()
	b.t.Cleanup(func() { cancel(); <-w.ended })
	return w
}

func (w *watching) got(t *testing.T, want ...[]string) {
	t.Helper()
	synctest.Wait()
	if !slices.EqualFunc(w.results, want, slices.Equal) {
		t.Fatalf("the results were %q, want %q", w.results, want)
	}
	w.results = nil
}

func TestWatchYieldsLocalRowsAtOnceAndThenEachChange(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.hold(live("a", "x", T1), live("b", "y", T1)).open()
		w := b.watch(tidemark.Where{"label": "x"}, nil)
		w.got(t, []string{"x"})
		b.create("c", "x")
		w.got(t, []string{"x", "x"})
		b.update("b", "z") // concerns no row of the clause, before or after
		w.got(t)
		b.update("a", "z") // leaves
		w.got(t, []string{"x"})
		b.update("b", "x") // enters
		w.got(t, []string{"x", "x"})
		b.remove("b")
		w.got(t, []string{"x"})
		b.update("c", "x") // no visible change
		w.got(t)
	})
}

func TestWatchYieldsWhatOthersWrite(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		w := b.watch(tidemark.Where{"label": "x"}, nil)
		w.got(t, []string{})
		b.script.event(tidemark.MethodCreate, live("u", "x", T1))
		w.got(t, []string{"x"})
		b.script.event(tidemark.MethodDelete, tombstone("u", "x", T2))
		w.got(t, []string{})
	})
}

func TestRollbackIsSeenByWatch(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		w := b.watch(nil, nil)
		b.create("u", "mine")
		w.got(t, []string{}, []string{"mine"})
		b.script.next().fail("no")
		w.got(t, []string{})
	})
}

func TestBurstIsOneResultAndOnlyTheLatestCounts(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		go_ := make(chan struct{})
		var sizes []int
		done := make(chan struct{})
		go func() {
			defer close(done)
			for items, err := range b.items.Watch(t.Context(), nil, nil) {
				if err != nil {
					t.Error(err)
				}
				sizes = append(sizes, len(items))
				if len(items) == 100 {
					return
				}
				<-go_ // a slow reader: nothing is queued for it, and nobody waits
			}
		}()
		synctest.Wait()
		for range 100 {
			b.create("", "x")
		}
		close(go_)
		<-done
		if !slices.Equal(sizes, []int{0, 100}) {
			t.Errorf("the results had %v rows, want 0 and 100", sizes)
		}
	})
}

func TestLoopBodyMayUseTheClient(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		for items, err := range b.items.Watch(t.Context(), nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			if len(items) == 3 {
				break
			}
			b.create("", "x")
		}
		b.sees("x", "x", "x")
		if s := b.client.Status(); s.Scopes != 0 {
			t.Errorf("%d scopes are left after the loop", s.Scopes)
		}
	})
}

func TestWatchKeepsItsScopeAndReleasesIt(t *testing.T) { // 76
	run(t, func(t *testing.T, b *bench) {
		b.pipe.Block()
		b.open()
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			c.synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "x", T1)}})
		})
		w := b.watch(tidemark.Where{"label": "x"}, nil)
		w.got(t, []string{})
		b.pipe.Unblock()
		pass(time.Minute)
		w.got(t, []string{"x"})
		w.cancel()
		<-w.ended
		b.script.requests()
		b.pipe.Cut()
		pass(time.Minute)
		b.sent()
		b.sees("x") // the row stays readable
	})
}

func TestWaitSynced(t *testing.T) { // 71
	synced := &client.WatchOptions{WaitSynced: true}
	t.Run("first result has the server's rows", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			b.script.on(tidemark.MethodSyncGo, nil)
			b.open()
			w := b.watch(nil, synced)
			w.got(t)
			b.script.next().synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "x", T1)}})
			w.got(t, []string{"x"})
		})
	})
	t.Run("offline the local rows come at once", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			b.opts.Offline = true
			b.hold(live("u", "x", T1)).open()
			b.watch(nil, synced).got(t, []string{"x"})
		})
	})
	t.Run("while connecting it waits until that has failed once", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			b.pipe.Block()
			b.hold(live("u", "x", T1)).open()
			b.watch(nil, synced).got(t, []string{"x"})
		})
	})
	t.Run("when the connection is lost meanwhile the local rows come", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			b.script.on(tidemark.MethodSyncGo, func(*call) {})
			b.hold(live("u", "x", T1)).open()
			w := b.watch(nil, synced)
			w.got(t)
			b.pipe.Block()
			b.pipe.Cut()
			pass(time.Minute)
			w.got(t, []string{"x"})
		})
	})
	t.Run("the server's refusal is the first result", func(t *testing.T) {
		run(t, func(t *testing.T, b *bench) {
			b.script.on(tidemark.MethodSyncGo, func(c *call) { c.fail(tidemark.CodeDenied) })
			b.open()
			w := b.watch(nil, synced)
			w.got(t, []string{})
			wantCode(t, w.err, tidemark.CodeDenied)
		})
	})
}

func TestWatchOfAWrongClause(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		for _, err := range b.items.Watch(t.Context(), tidemark.Where{"nope": 1}, nil) {
			wantCode(t, err, tidemark.CodeUnknownField)
		}
		for _, err := range b.items.Watch(t.Context(), tidemark.Where{"score": "1"}, nil) {
			wantCode(t, err, tidemark.CodeInvalidWhere)
		}
	})
}

func TestEachRangeOverAWatchIsOneOfItsOwn(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.hold(live("u", "x", T1)).open()
		seq := b.items.Watch(t.Context(), nil, nil)
		for range 2 {
			for items, err := range seq {
				if err != nil || len(items) != 1 {
					t.Errorf("got %v, %v", items, err)
				}
				break
			}
		}
	})
}
