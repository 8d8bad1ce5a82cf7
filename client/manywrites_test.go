package client_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// readStore counts the mutations that are read.
type readStore struct {
	tidemark.Store
	read int
}

func (s *readStore) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.Store.Update(ctx, func(tx tidemark.StoreTx) error { return fn(&readTx{tx, s}) })
}

type readTx struct {
	tidemark.StoreTx
	s *readStore
}

func (t *readTx) Pending(model string, uids []string) ([]tidemark.Mutation, error) {
	ms, err := t.StoreTx.Pending(model, uids)
	t.s.read += len(ms)
	return ms, err
}

func (t *readTx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	ms, err := t.StoreTx.Outbox(after, limit)
	t.s.read += len(ms)
	return ms, err
}

// A write of a row on which many are pending reads none of them, and is shown on top of them, newer than all.
func TestAWriteDoesNotReadTheWritesBeforeIt(t *testing.T) {
	t.Parallel()
	store := &readStore{Store: openFile(t, filepath.Join(t.TempDir(), "many.db"))}
	_, items := openOn(t, store, nil, nil)
	if _, err := items.Create(t.Context(), Item{UID: "a", Label: "0"}); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		got, err := items.Update(t.Context(), "a", client.Patch{"score": i})
		if err != nil || got.Score == nil || *got.Score != int64(i) || got.Label != "0" {
			t.Fatalf("%+v, %v after write %d", got, err, i)
		}
	}
	if err := items.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := items.Create(t.Context(), Item{UID: "a", Label: "again"}); err != nil {
		t.Fatal(err)
	}
	if store.read > 0 {
		t.Errorf("%d mutations were read", store.read)
	}
	err := store.View(t.Context(), func(tx tidemark.StoreTx) error {
		ms, err := tx.Pending("item", []string{"a"})
		if err != nil {
			return err
		}
		for i := range ms[1:] {
			if ms[i+1].Stamp/1000 <= ms[i].Stamp/1000 {
				t.Errorf("write %d is not later than the one before", ms[i+1].N)
			}
		}
		recs, err := tx.Records("item", []string{"a"})
		want, _ := tidemark.Rebase(nil, tidemark.Meta{}, ms)
		if string(recs[0].Row) != string(want) || recs[0].Pending != len(ms) {
			t.Errorf("%s, %d pending, want %s, %d", recs[0].Row, recs[0].Pending, want, len(ms))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// BenchmarkUpdateOfOneRow writes a row on which so many writes are pending.
func BenchmarkUpdateOfOneRow(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			store := openFile(b, filepath.Join(b.TempDir(), "one.db"))
			_, items := openOn(b, store, nil, nil)
			if _, err := items.Create(b.Context(), Item{UID: "a"}); err != nil {
				b.Fatal(err)
			}
			err := store.Update(b.Context(), func(tx tidemark.StoreTx) error {
				recs, err := tx.Records("item", []string{"a"})
				if err != nil {
					return err
				}
				ms := make([]tidemark.Mutation, n)
				for i := range ms {
					ms[i] = tidemark.Mutation{Model: "item", UID: "a", Op: tidemark.Update, Data: tidemark.Row(`{"score":1}`), Stamp: tidemark.Stamp(i)}
				}
				recs[0].Pending += n
				if err := tx.Enqueue(ms); err != nil {
					return err
				}
				return tx.Put("item", recs)
			})
			if err != nil {
				b.Fatal(err)
			}
			for i := 0; b.Loop(); i++ {
				if _, err := items.Update(b.Context(), "a", client.Patch{"score": i}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
