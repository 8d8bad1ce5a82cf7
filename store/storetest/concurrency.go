package storetest

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// increment adds one to the number stored under each of the keys.
func increment(tx tidemark.StoreTx, keys ...string) error {
	for _, key := range keys {
		v, err := tx.Load(key)
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(v))
		if err := tx.Save(key, []byte(strconv.Itoa(n+1))); err != nil {
			return err
		}
	}
	return nil
}

// together runs fn n times at once and ends the check at the first error.
func (t *T) together(n int, fn func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	t.must(errors.Join(errs...))
}

var concurrencyRules = []Rule{
	{Name: "concurrency/updates exclude each other", Says: "updates exclude each other: none reads what another is about to change",
		check: func(t *T) {
			t.together(8, func(int) error {
				for range 25 {
					if err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error { return increment(tx, "n") }); err != nil {
						return err
					}
				}
				return nil
			})
			if got := string(t.load("n")); got != "200" {
				t.fatalf("200 increments made %s", got)
			}
		}},
	{Name: "concurrency/two stores exclude each other", Says: "updates exclude each other across processes too, and each sees the other's", another: true,
		check: func(t *T) {
			stores := []tidemark.Store{t.store, t.open(), t.open()}
			for _, s := range stores {
				t.must(s.Declare(t.Context(), item))
			}
			t.together(6, func(i int) error {
				s := stores[i%3]
				for n := range 20 {
					uid := strconv.Itoa(i) + "-" + strconv.Itoa(n)
					err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
						return errors.Join(increment(tx, "n"), tx.Put("item", []tidemark.Record{synced(uid, "")}), tx.Enqueue([]tidemark.Mutation{mutation(uid)}))
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
			for _, s := range stores {
				t.store = s
				if n, rows, queued := string(t.load("n")), len(t.find(nil)), len(t.outbox(0, 0)); n != "120" || rows != 120 || queued != 120 {
					t.fatalf("120 increments made %s, %d rows, %d mutations", n, rows, queued)
				}
			}
		}},
	{Name: "concurrency/one state", Says: "View and Find see one state: all of an update or nothing",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":0`), synced("b", `"qty":0`))
			p := t.compile(nil)
			t.together(4, func(i int) error {
				for n := range 25 {
					if i == 0 {
						v := `"qty":` + strconv.Itoa(n)
						if err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
							return errors.Join(increment(tx, "x", "y"), tx.Put("item", []tidemark.Record{synced("a", v)}), tx.Put("item", []tidemark.Record{synced("b", v)}))
						}); err != nil {
							return err
						}
						continue
					}
					rows, err := t.store.Find(t.Context(), p)
					if err != nil {
						return err
					}
					if len(rows) != 2 || string(rows[0].Get("qty")) != string(rows[1].Get("qty")) {
						return errors.New("Find saw half an update")
					}
					if err := t.store.View(t.Context(), oneState); err != nil {
						return err
					}
				}
				return nil
			})
		}},
	{Name: "concurrency/undisturbed", Says: "an Update neither waits for a View nor is seen by one that runs already", parallel: true,
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":1`))
			t.view(func(tx tidemark.StoreTx) error {
				before, err := tx.Load("k")
				t.must(err)
				t.update(func(tx tidemark.StoreTx) error {
					return errors.Join(tx.Save("k", []byte("v")), tx.Put("item", []tidemark.Record{synced("b", `"qty":1`)}), tx.Enqueue([]tidemark.Mutation{mutation("b")}))
				})
				after, err := tx.Load("k")
				t.must(err)
				metas, err := tx.Held(t.compile(tidemark.Where{"qty": 1}))
				t.must(err)
				ms, err := tx.Outbox(0, 0)
				t.must(err)
				if before != nil || after != nil || len(metas) != 1 || len(ms) != 0 {
					t.fatalf("the View sees what came later: %q, %v, %v", after, metas, ms)
				}
				return nil
			})
			if got := t.find(nil); len(got) != 2 {
				t.fatalf("found %v", got)
			}
		}},
	{Name: "concurrency/waiting ends with the context", Says: "an Update that waits for another returns when its ctx ends",
		check: func(t *T) {
			t.update(func(tidemark.StoreTx) error {
				ctx, cancel := context.WithCancel(t.Context())
				result := make(chan error, 1)
				go func() {
					result <- t.store.Update(ctx, func(tidemark.StoreTx) error { return errStop })
				}()
				cancel()
				if err := <-result; !errors.Is(err, context.Canceled) {
					t.fatalf("it returned %v", err)
				}
				return nil
			})
		}},
	{Name: "concurrency/waiting for another store ends with the context", Says: "an Update that waits for another process returns when its ctx ends", another: true,
		check: func(t *T) {
			other := t.open()
			t.update(func(tidemark.StoreTx) error {
				ctx, cancel := context.WithCancel(t.Context())
				result := make(chan error, 1)
				go func() {
					result <- other.Update(ctx, func(tidemark.StoreTx) error { return errStop })
				}()
				cancel()
				if err := <-result; !errors.Is(err, context.Canceled) {
					t.fatalf("it returned %v", err)
				}
				return nil
			})
		}},
	{Name: "concurrency/everything at once", Says: "all methods may be called concurrently",
		check: func(t *T) {
			t.declare()
			p := t.compile(tidemark.Where{"qty": tidemark.Range{GTE: 0}})
			t.together(12, func(i int) error {
				uid := "u" + strconv.Itoa(i)
				for range 5 {
					_, err := t.store.Find(t.Context(), p)
					_, err2 := t.store.Get(t.Context(), "item", uid)
					if err := errors.Join(err, err2, t.store.Declare(t.Context(), item),
						t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
							_, err := tx.Held(p)
							return errors.Join(err, tx.Put("item", []tidemark.Record{synced(uid, `"qty":1`)}))
						}),
						t.store.View(t.Context(), func(tx tidemark.StoreTx) error {
							_, err := tx.Records("item", []string{uid, "u0"})
							return err
						})); err != nil {
						return err
					}
				}
				return nil
			})
			if got := t.find(nil); len(got) != 12 {
				t.fatalf("found %v", got)
			}
		}},
}

func oneState(tx tidemark.StoreTx) error {
	x, err := tx.Load("x")
	y, err2 := tx.Load("y")
	if string(x) != string(y) {
		return errors.New("View saw half an update: " + string(x) + ", " + string(y))
	}
	return errors.Join(err, err2)
}
