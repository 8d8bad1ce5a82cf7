package storetest

import (
	"context"
	"errors"

	"github.com/tidemark-sync/tidemark"
)

// writeAll makes a write of each sort, after seed, so that a rollback has everything to undo.
func writeAll(t *T, tx tidemark.StoreTx) {
	t.must(tx.Put("item", []tidemark.Record{synced("a", `"qty":2`), synced("b", ""), {UID: "gone"}}))
	t.must(tx.Prune("item", 100))
	t.must(tx.Enqueue([]tidemark.Mutation{mutation("b")}))
	t.must(tx.Dequeue([]int64{1}))
	t.must(tx.Save("k", []byte("new")))
	t.must(tx.Save("other", nil))
}

func seed(t *T) {
	t.declare()
	t.put(synced("a", `"qty":1`), synced("gone", ""), tombstone("t", 1))
	t.enqueue(mutation("a"))
	t.save("k", []byte("old"))
	t.save("other", []byte("old"))
}

// unchanged ends the check unless everything is as seed left it.
func unchanged(t *T) {
	t.Helper()
	recs := t.records("a", "b", "gone", "t")
	if string(recs[0].Row.Get("qty")) != "1" || recs[1].Row != nil || recs[2].Row == nil || !recs[3].Meta.Deleted() {
		t.fatalf("records changed: %+v", recs)
	}
	if got := t.find(tidemark.Where{"qty": 1}); len(got) != 1 {
		t.fatalf("an index changed: found %v", got)
	}
	if ms := t.outbox(0, 0); len(ms) != 1 || ms[0].N != 1 {
		t.fatalf("the outbox changed: %v", ms)
	}
	if string(t.load("k")) != "old" || string(t.load("other")) != "old" {
		t.fatalf("entries changed")
	}
}

var transactionRules = []Rule{
	{Name: "transactions/rolled back", Says: "when fn returns an error there are no effects, and Update returns that error",
		check: func(t *T) {
			seed(t)
			err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
				writeAll(t, tx)
				return errStop
			})
			if err != errStop {
				t.fatalf("Update returned %v", err)
			}
			unchanged(t)
		}},
	{Name: "transactions/panic", Says: "when fn panics there are no effects, the panic goes on, and the store works on",
		check: func(t *T) {
			seed(t)
			func() {
				defer func() {
					if recover() != errStop {
						t.fatalf("the panic did not go on")
					}
				}()
				_ = t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
					writeAll(t, tx)
					panic(errStop)
				})
			}()
			unchanged(t)
			t.put(synced("after", ""))
		}},
	{Name: "transactions/context ended inside", Says: "when ctx ends before fn returns there are no effects, whatever fn returns, and Update returns ctx's error",
		check: func(t *T) {
			seed(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := t.store.Update(ctx, func(tx tidemark.StoreTx) error {
				writeAll(t, tx)
				cancel()
				return nil
			})
			if !errors.Is(err, context.Canceled) {
				t.fatalf("Update returned %v", err)
			}
			unchanged(t)
		}},
	{Name: "transactions/reads its own writes", Says: "a transaction sees what it has written",
		check: func(t *T) {
			seed(t)
			t.update(func(tx tidemark.StoreTx) error {
				writeAll(t, tx)
				recs, err := tx.Records("item", []string{"a", "b", "gone", "t"})
				t.must(err)
				if string(recs[0].Row.Get("qty")) != "2" || recs[1].Row == nil || recs[2].Row != nil || recs[3].Meta.Deleted() {
					t.fatalf("records: %+v", recs)
				}
				ms, err := tx.Outbox(0, 0)
				t.must(err)
				pending, err := tx.Pending("item", []string{"b"})
				t.must(err)
				if len(ms) != 1 || ms[0].N != 2 || len(pending) != 1 {
					t.fatalf("outbox: %v, pending: %v", ms, pending)
				}
				v, err := tx.Load("k")
				t.must(err)
				es, err := tx.Entries("")
				t.must(err)
				if string(v) != "new" || len(es) != 1 {
					t.fatalf("entries: %v", es)
				}
				return nil
			})
		}},
	{Name: "transactions/visible after", Says: "what Update did is seen by every call after it has returned",
		check: func(t *T) {
			seed(t)
			t.update(func(tx tidemark.StoreTx) error { writeAll(t, tx); return nil })
			if r, err := t.store.Get(t.Context(), "item", "b"); err != nil || r == nil {
				t.fatalf("Get: %s, %v", r, err)
			}
			if got := t.find(tidemark.Where{"qty": 2}); len(got) != 1 {
				t.fatalf("found %v", got)
			}
			if string(t.load("k")) != "new" {
				t.fatalf("View does not see it")
			}
		}},
	{Name: "transactions/view does not write", Says: "a write in View is an error and has no effect",
		check: func(t *T) {
			seed(t)
			t.view(func(tx tidemark.StoreTx) error {
				for i, err := range []error{tx.Put("item", []tidemark.Record{synced("b", "")}), tx.Prune("item", 100),
					tx.Enqueue([]tidemark.Mutation{mutation("b")}), tx.Dequeue([]int64{1}), tx.Save("k", []byte("new"))} {
					if err == nil {
						t.fatalf("write %d was taken", i)
					}
				}
				return nil
			})
			unchanged(t)
		}},
	{Name: "transactions/over", Says: "a transaction that is over answers ErrClosed and does nothing",
		check: func(t *T) {
			seed(t)
			for _, run := range []func(context.Context, func(tidemark.StoreTx) error) error{t.store.View, t.store.Update} {
				var kept tidemark.StoreTx
				t.must(run(t.Context(), func(tx tidemark.StoreTx) error { kept = tx; return nil }))
				_, err := kept.Load("k")
				_, err2 := kept.Records("item", []string{"a"})
				for i, err := range []error{err, err2, kept.Put("item", []tidemark.Record{synced("b", "")}), kept.Save("k", nil), kept.Enqueue([]tidemark.Mutation{mutation("b")})} {
					if !errors.Is(err, tidemark.ErrClosed) {
						t.fatalf("call %d: %v", i, err)
					}
				}
			}
			unchanged(t)
		}},
	{Name: "transactions/view's error", Says: "View returns fn's error, and calls fn once",
		check: func(t *T) {
			for _, want := range []error{errStop, tidemark.NewError(tidemark.CodeUnknownModel, "the caller's"), errors.New("no such column")} {
				calls := 0
				err := t.store.View(t.Context(), func(tidemark.StoreTx) error { calls++; return want })
				if err != want || calls != 1 {
					t.fatalf("%v after %d calls, want %v", err, calls, want)
				}
			}
		}},
	{Name: "transactions/empty", Says: "writes of nothing are fine",
		check: func(t *T) {
			t.declare()
			t.update(func(tx tidemark.StoreTx) error {
				t.must(tx.Put("item", nil))
				t.must(tx.Enqueue(nil))
				t.must(tx.Dequeue(nil))
				return nil
			})
		}},
	{Name: "transactions/durable", Says: "what Update did is there after reopening", reopen: true,
		check: func(t *T) {
			seed(t)
			t.update(func(tx tidemark.StoreTx) error { writeAll(t, tx); return nil })
			before := t.records("a", "b", "gone", "t")
			t.reopen()
			for i, r := range t.records("a", "b", "gone", "t") {
				if !sameRecord(r, before[i]) {
					t.fatalf("record %+v was %+v", r, before[i])
				}
			}
			if ms := t.outbox(0, 0); len(ms) != 1 || ms[0].N != 2 || !sameMutation(ms[0], t.pending("item", "b")[0]) {
				t.fatalf("outbox: %v", ms)
			}
			if string(t.load("k")) != "new" || t.load("other") != nil {
				t.fatalf("entries differ")
			}
		}},
}
