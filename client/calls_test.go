package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// countedStore counts what is done in transactions on rows.
type countedStore struct {
	tidemark.Store
	n atomic.Int64
}

func (s *countedStore) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.Store.Update(ctx, func(tx tidemark.StoreTx) error { return fn(&countedTx{tx, &s.n}) })
}

func (s *countedStore) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.Store.View(ctx, func(tx tidemark.StoreTx) error { return fn(&countedTx{tx, &s.n}) })
}

type countedTx struct {
	tidemark.StoreTx
	n *atomic.Int64
}

func (t *countedTx) Records(model string, uids []string) ([]tidemark.Record, error) {
	t.n.Add(1)
	return t.StoreTx.Records(model, uids)
}

func (t *countedTx) Put(model string, recs []tidemark.Record) error {
	t.n.Add(1)
	return t.StoreTx.Put(model, recs)
}

func (t *countedTx) Pending(model string, uids []string) ([]tidemark.Mutation, error) {
	t.n.Add(1)
	return t.StoreTx.Pending(model, uids)
}

func (t *countedTx) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	t.n.Add(1)
	return t.StoreTx.Held(p)
}

// A sync, first or with nothing changed, works on its rows together: what it does
// in the store does not grow with them.
func TestASyncDoesNotWorkRowByRow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var calls [2]int64
		held := 0
		for i, rows := range []int{10, 1000} {
			for ; held < rows; held++ {
				uid := fmt.Sprint("u", held)
				w.db.Put("item", tidemark.Row(fmt.Sprintf(`{"uid":%q,"label":"l","score":1}`, uid)), tidemark.Meta{UID: uid, CreatedAt: 5})
			}
			b := w.device(&client.Options{Offline: true})
			store := &countedStore{Store: b.store}
			c, items := openOn(t, store, dialerFunc(w.dial), nil)
			scope, err := items.Register(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := scope.Synced(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, err := items.FindWhere(t.Context(), nil); err != nil || len(got) != rows {
				t.Fatalf("%d rows, %v", len(got), err)
			}
			calls[i] = store.n.Load()
		}
		const leeway = 2 // a look at the store that two goroutines may need, or one
		if calls[0] == 0 || max(calls[0], calls[1])-min(calls[0], calls[1]) > leeway {
			t.Errorf("%d calls of the store for 10 rows, %d for 1,000", calls[0], calls[1])
		}
	})
}

func TestServersCallIsAnswered(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.script.mu.Lock()
		defer b.script.mu.Unlock()
		_ = b.script.conn.Send(&tidemark.Message{Kind: tidemark.CallMessage, ID: 7, Event: "whatever"})
		synctest.Wait()
		if got := b.script.answers.Load(); got != 1 {
			t.Errorf("%d answers came", got)
		}
	})
}

func TestCallsOfServices(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on("greet.hello", func(c *call) { c.raw(`"Hello, ` + c.text(0) + `!"`) })
		b.script.on("greet.nothing", func(c *call) { c.answer(tidemark.Answer{}) })
		b.script.on("greet.broken", func(c *call) { c.fail("my-code") })
		b.script.on("greet.mute", func(*call) {})
		b.script.on("greet.garbage", func(c *call) { _ = c.conn.Send(c.msg.NewAnswer(json.RawMessage(`7`))) })
		b.script.on("greet.empty", func(c *call) { _ = c.conn.Send(c.msg.NewAnswer()) })
		b.open()
		got, err := b.client.Call(t.Context(), "greet", "hello", "<World>")
		if err != nil || string(got) != `"Hello, <World>!"` {
			t.Errorf("got %s, %v", got, err)
		}
		if got, err := b.client.Call(t.Context(), "greet", "nothing"); err != nil || got != nil {
			t.Errorf("got %s, %v", got, err)
		}
		_, err = b.client.Call(t.Context(), "greet", "broken")
		wantCode(t, err, "my-code")
		for _, m := range []string{"garbage", "empty"} {
			_, err = b.client.Call(t.Context(), "greet", m)
			wantCode(t, err, tidemark.CodeUnavailable)
		}
		began := time.Now()
		_, err = b.client.Call(t.Context(), "greet", "mute")
		wantCode(t, err, tidemark.CodeTimeout)
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("timed out after %v", d)
		}
		_, err = b.client.Call(t.Context(), "greet", "hello", make(chan int))
		wantCode(t, err, tidemark.CodeInvalidData)
		_, err = b.client.Call(t.Context(), "greet", "hello", make([]byte, 1_000_000))
		wantCode(t, err, tidemark.CodeTooLarge)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = b.client.Call(ctx, "greet", "mute")
		wantIs(t, err, context.DeadlineExceeded)
	})
}

func TestCallWithoutConnectionOrWhoseConnectionBreaks(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on("greet.mute", func(*call) { b.pipe.Cut() })
		b.open()
		_, err := b.client.Call(t.Context(), "greet", "mute")
		wantIs(t, err, tidemark.ErrOffline)
		if !tidemark.Temporary(err) {
			t.Error("a broken link is not temporary")
		}
		b.client.GoOffline()
		synctest.Wait()
		_, err = b.client.Call(t.Context(), "greet", "mute")
		wantIs(t, err, tidemark.ErrOffline)
	})
}

func TestHandlersMayCallTheServer(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on("greet.hello", func(c *call) { c.raw(`"hi"`) })
		b.open()
		answers := make(chan string, 1)
		b.client.OnNotice("ask", func(json.RawMessage) {
			got, err := b.client.Call(t.Context(), "greet", "hello")
			if err != nil {
				t.Error(err)
			}
			b.create("u", "from a handler")
			answers <- string(got)
		})
		b.script.emit(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "ask"})
		if got := <-answers; got != `"hi"` {
			t.Errorf("got %s", got)
		}
		b.sees("from a handler")
	})
}

func TestHandlerThatHangsDoesNotHoldUpSyncing(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(nil)
		hung := make(chan struct{})
		b.client.OnNotice("hang", func(json.RawMessage) { <-hung })
		for range 500 {
			b.script.emit(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "hang"})
		}
		b.script.event(tidemark.MethodCreate, live("u", "theirs", T1))
		b.sees("theirs")
		close(hung)
	})
}

func TestHandlerTooFarBehindLosesItsConnectionNotAnEvent(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		hung := make(chan struct{})
		b.client.OnNotice("hang", func(json.RawMessage) { <-hung })
		lost := make(chan error, 1)
		b.script.mu.Lock()
		first := b.script.conn
		b.script.mu.Unlock()
		go func() {
			for s := range b.client.WatchStatus(t.Context()) {
				if s.LastError != nil {
					lost <- s.LastError
					return
				}
			}
		}()
		m, err := tidemark.NewEvent(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "hang"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 12_000 {
			if first.Send(m) != nil {
				break
			}
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		wantCode(t, <-lost, tidemark.CodeLimit)
		close(hung)
		pass(time.Minute)
		b.state(client.Synced)
	})
}
