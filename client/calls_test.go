package client_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

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
		if calls[0] == 0 || calls[0] != calls[1] {
			t.Errorf("%d calls of the store for 10 rows, %d for 1,000", calls[0], calls[1])
		}
	})
}
