package server_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// titles returns the events as "action title", in their order.
func (c *client) titles() []string {
	c.t.Helper()
	var out []string
	for _, e := range c.events() {
		action, tuple, _ := strings.Cut(e, " ")
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(tuple)); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, action+" "+titleOf(rm.Row))
	}
	return out
}

// settled waits until all events that are on their way to c have come.
func (c *client) settled() {
	c.t.Helper()
	c.result("post", "findMany", map[string]any{})
}

func TestCallsOfATransactionArePublishedAfterItsCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	var tr trace
	post.Before(tr.hook("before"))
	post.After(tr.hook("after"))
	say, err := b.server.Handle("board", server.Methods{"say": func(context.Context, *server.Call) (any, error) {
		return []any{map[string]any{"title": "said"}, nil}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	say.Publish(server.To("all"))
	c := b.dial()
	err = b.db.RunInTx(t.Context(), func(ctx context.Context) error {
		for i, title := range []string{"1", "2"} {
			raw, err := post.Call(ctx, "updateWithMeta", "a", map[string]any{"title": title}, stamp(i))
			if err != nil || !strings.Contains(string(raw), title) {
				t.Errorf("got %s, %v", raw, err)
			}
		}
		if _, err := say.Call(ctx, "say"); err != nil {
			t.Error(err)
		}
		equalList(t, tr.take(), []string{"before", "after", "before", "after"})
		if raw, err := post.Call(ctx, "findUnique", tidemark.Where{"uid": "a"}); err != nil || !strings.Contains(string(raw), `"title":"2"`) {
			t.Errorf("inside, the row is %s, %v", raw, err)
		}
		equal(t, c.result("post", "findMany", map[string]any{}), "[]") // others see nothing
		equalList(t, c.events(), nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.settled()
	equalList(t, c.titles(), []string{`updateWithMeta "1"`, `updateWithMeta "2"`, `say "said"`})
	if n := b.server.Rows(); n != 0 {
		t.Errorf("%d rows are still held or waited for", n)
	}
}

func TestARollbackPublishesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	b.db.Put("post", tidemark.Row(`{"uid":"a","title":"old","owner":null,"likes":null,"due":null}`), tidemark.Meta{UID: "a", CreatedAt: 1})
	c := b.dial()
	failure := errors.New("no")
	for _, end := range []func() error{func() error { return failure }, func() error { panic("no") }} {
		func() {
			defer func() { _ = recover() }()
			err := b.db.RunInTx(t.Context(), func(ctx context.Context) error {
				for _, uid := range []string{"a", "b"} {
					if _, err := post.Call(ctx, "updateWithMeta", uid, map[string]any{"title": "new"}, stamp(1)); err != nil {
						t.Error(err)
					}
				}
				return end()
			})
			if !errors.Is(err, failure) {
				t.Errorf("got %v", err)
			}
		}()
	}
	c.settled()
	equalList(t, c.events(), nil)
	equal(t, titleOf(b.db.Get("post", "a").Row), `"old"`)
	if rm := b.db.Get("post", "b"); rm.Row != nil || rm.Meta.UID != "" {
		t.Errorf("left: %s %+v", rm.Row, rm.Meta)
	}
	// The rows' later events are not held up, nor are their writers.
	c.result("post", "updateWithMeta", "a", map[string]any{"title": "later"}, at(2))
	equalList(t, c.titles(), []string{`updateWithMeta "later"`})
	if n := b.server.Rows(); n != 0 {
		t.Errorf("%d rows are still held or waited for", n)
	}
}

// A call that fails does not end the transaction; its function decides.
func TestARefusedCallInATransaction(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	post.After(func(_ context.Context, c *server.Call) error {
		if strings.Contains(string(c.Result.(*tidemark.RowMeta).Row), "denied") {
			return tidemark.NewError(tidemark.CodeDenied, "no")
		}
		return nil
	}, "createWithMeta")
	c := b.dial()
	err := b.db.RunInTx(t.Context(), func(ctx context.Context) error {
		for title, code := range map[string]tidemark.Code{"": tidemark.CodeConstraint, "denied": tidemark.CodeDenied, "fine": ""} {
			data := map[string]any{"title": title}
			if title == "" {
				data["title"] = nil
			}
			if _, err := post.Call(ctx, "createWithMeta", "u"+title, data, stamp(0)); tidemark.CodeOf(err) != code {
				t.Errorf("%q: got %v", title, err)
			}
		}
		// A part that is undone by itself is not told of either.
		_ = b.db.RunInTx(ctx, func(ctx context.Context) error {
			if _, err := post.Call(ctx, "updateWithMeta", "ufine", map[string]any{"title": "undone"}, stamp(1)); err != nil {
				t.Error(err)
			}
			return errors.New("no")
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.settled()
	equalList(t, c.titles(), []string{`createWithMeta "fine"`})
	equal(t, titleOf(b.db.Get("post", "ufine").Row), `"fine"`)
	if n := b.server.Rows(); n != 0 {
		t.Errorf("%d rows are still held or waited for", n)
	}
}

// A hook's own calls are made in the transaction of the call that it was called for.
func TestNestedCallsJoinTheTransaction(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	b.server.Service("post").After(func(ctx context.Context, c *server.Call) error {
		_, err := b.server.Service("tag").Call(ctx, "createWithMeta", "tag", map[string]any{"name": "by hook"}, stamp(0))
		return err
	}, "createWithMeta")
	c := b.dial()
	for _, fails := range []bool{true, false} {
		_ = b.db.RunInTx(t.Context(), func(ctx context.Context) error {
			if _, err := b.server.Service("post").Call(ctx, "createWithMeta", "a", map[string]any{"title": "x"}, stamp(0)); err != nil {
				t.Error(err)
			}
			if fails {
				return errors.New("no")
			}
			return nil
		})
		if got := b.db.Get("tag", "tag").Row == nil; got != fails {
			t.Errorf("fails %v, and the hook's row is there: %v", fails, !got)
		}
	}
	c.settled()
	if got := len(c.events()); got != 2 {
		t.Errorf("%d events: %v", got, c.events())
	}
}

// A method that a client calls may bound a transaction: its events come before the answer.
func TestATransactionInsideAMethod(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	if _, err := b.server.Handle("shop", server.Methods{"buy": func(ctx context.Context, _ *server.Call) (any, error) {
		return true, b.db.RunInTx(ctx, func(ctx context.Context) error {
			for i := range 3 {
				if _, err := b.server.Service("post").Call(ctx, "createWithMeta", fmt.Sprint("u", i), map[string]any{"title": fmt.Sprint(i)}, stamp(0)); err != nil {
					return err
				}
			}
			return nil
		})
	}}); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	c.result("shop", "buy")
	equalList(t, c.titles(), []string{`createWithMeta "0"`, `createWithMeta "1"`, `createWithMeta "2"`})
}

func TestTransactionsThatCannotBeJoined(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	foreign := memory.New(schemas(t)...)
	plain := setupOver(t, foreign, struct{ tidemark.Driver }{foreign}, nil) // a driver without transactions
	say, err := plain.server.Handle("board", server.Methods{"say": func(context.Context, *server.Call) (any, error) { return 1, nil }})
	if err != nil {
		t.Fatal(err)
	}
	say.Publish(server.To("all"))
	refused := func(what string, err error) {
		t.Helper()
		if tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("%s: got %v", what, err)
		}
	}
	var ended context.Context
	err = foreign.RunInTx(t.Context(), func(ctx context.Context) error {
		ended = ctx
		for name, srv := range map[string]*server.Server{"another driver's": b.server, "a driver's without transactions": plain.server} {
			_, err := srv.Service("post").Call(ctx, "createWithMeta", "a", map[string]any{"title": "x"}, stamp(0))
			refused(name, err)
		}
		_, err := b.server.Service("post").Call(ctx, "findMany", tidemark.Where{})
		refused("a read", err)
		_, err = say.Call(ctx, "say")
		refused("a publication", err)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = b.db.RunInTx(t.Context(), func(ctx context.Context) error {
		_, err := b.server.Service("sync").Call(ctx, "go", "post", tidemark.Where{}, map[string]any{})
		refused("a sync", err)
		ended = ctx
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.server.Service("post").Call(ended, "createWithMeta", "a", map[string]any{"title": "x"}, stamp(0))
	refused("one that has ended", err)
	for _, b := range []*bench{b, plain} {
		if n := b.db.Len("post") + b.server.Rows(); n != 0 {
			t.Errorf("%d rows were written or are held", n)
		}
	}
}

// Sessions and transactions write the same rows at once: everybody hears of each row in
// the order of its commits, as the stamps that decide tell.
func TestEventsOfTransactionsLeaveInTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := setup(t, nil).shared()
	writersOfRows(t, b, rand.New(rand.NewPCG(seed, 0)), b.db.RunInTx)
}

// writersOfRows has sessions and transactions race for two rows of model post.
func writersOfRows(t *testing.T, b *bench, rng *rand.Rand, inTx func(context.Context, func(context.Context) error) error) {
	t.Helper()
	const writers, each = 16, 8
	stamps := rng.Perm(writers * each)
	c := b.dial()
	sessions := make([]*client, writers)
	for i := range sessions {
		sessions[i] = b.dial()
	}
	var wg sync.WaitGroup
	for i, session := range sessions {
		wg.Go(func() {
			for k, s := range stamps[i*each : i*each+each] {
				uid, data := fmt.Sprint("hot", k%2), map[string]any{"title": fmt.Sprint(s)}
				if i%2 == 0 {
					if a := session.ask("post", "updateWithMeta", uid, data, at(s-1000)); a.Err != nil {
						t.Error(a.Err)
					}
					continue
				}
				if err := inTx(t.Context(), func(ctx context.Context) error {
					_, err := b.server.Service("post").Call(ctx, "updateWithMeta", uid, data, stamp(s-1000))
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c.until("all events", func() bool { return len(c.got) == writers*each+1 })
	last := map[string]tidemark.Stamp{}
	for _, e := range c.events() {
		_, tuple, _ := strings.Cut(e, " ")
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(tuple)); err != nil {
			t.Fatal(err)
		}
		if rm.Meta.T() < last[rm.Meta.UID] {
			t.Fatalf("of %s we hear of %v after %v", rm.Meta.UID, rm.Meta.T(), last[rm.Meta.UID])
		}
		last[rm.Meta.UID] = rm.Meta.T()
	}
	if n := b.server.Rows(); n != 0 {
		t.Errorf("%d rows are still held or waited for", n)
	}
}
