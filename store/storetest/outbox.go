package storetest

import (
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

var errStop = errors.New("stop")

var outboxRules = []Rule{
	{Name: "outbox/numbered", Says: "Enqueue numbers mutations in their order from 1, without gaps, and sets their N",
		check: func(t *T) {
			if got := numbers(t.enqueue(mutation("a"), mutation("b"))); !slices.Equal(got, []int64{1, 2}) {
				t.fatalf("numbers %v, want 1, 2", got)
			}
			if got := numbers(t.enqueue(mutation("c"))); !slices.Equal(got, []int64{3}) {
				t.fatalf("number %v, want 3", got)
			}
		}},
	{Name: "outbox/whole", Says: "Outbox returns mutations as they were enqueued",
		check: func(t *T) {
			want := t.enqueue(
				tidemark.Mutation{Model: "item", UID: "a", Op: tidemark.Create, Data: tidemark.Row(`{"name":"日 \" \\"}`), Stamp: 1 << 60},
				tidemark.Mutation{Model: "other item", UID: "a", Op: tidemark.Update, Data: tidemark.Row(`{}`), Stamp: -5},
				tidemark.Mutation{Model: "item", UID: "b", Op: tidemark.Delete, Stamp: 3, N: 77, Unit: 1 << 61})
			if p := t.pending("item", "b"); !slices.EqualFunc(p, want[2:], sameMutation) {
				t.fatalf("pending %+v, want %+v", p, want[2:])
			}
			got := t.outbox(0, 0)
			if !slices.EqualFunc(got, want, sameMutation) {
				t.fatalf("got  %+v\nwant %+v", got, want)
			}
		}},
	{Name: "outbox/pages", Says: "Outbox returns up to limit mutations with N greater than after, by number; limit 0 means all",
		check: func(t *T) {
			t.enqueue(slices.Repeat([]tidemark.Mutation{mutation("a")}, 10)...)
			for _, c := range []struct {
				after int64
				limit int
				want  []int64
			}{{0, 3, []int64{1, 2, 3}}, {3, 3, []int64{4, 5, 6}}, {8, 5, []int64{9, 10}}, {8, 0, []int64{9, 10}}, {10, 3, nil}, {1 << 62, 0, nil}} {
				if got := numbers(t.outbox(c.after, c.limit)); !slices.Equal(got, c.want) {
					t.fatalf("after %d, limit %d: %v, want %v", c.after, c.limit, got, c.want)
				}
			}
		}},
	{Name: "outbox/pending", Says: "Pending returns the mutations of the given rows, by number, each once",
		check: func(t *T) {
			other := mutation("a")
			other.Model = "other item"
			t.enqueue(mutation("a"), mutation("b"), mutation("a"), other, mutation("c"))
			for _, c := range []struct {
				uids []string
				want []int64
			}{{[]string{"a"}, []int64{1, 3}}, {[]string{"b", "a", "a", "none"}, []int64{1, 2, 3}}, {[]string{"none"}, nil}, {nil, nil}} {
				if got := numbers(t.pending("item", c.uids...)); !slices.Equal(got, c.want) {
					t.fatalf("%v: %v, want %v", c.uids, got, c.want)
				}
			}
			if got := t.pending("other item", "a"); len(got) != 1 || got[0].N != 4 || got[0].Model != "other item" {
				t.fatalf("of the other model: %+v", got)
			}
		}},
	{Name: "outbox/newest", Says: "Newest returns the stamp of the row's mutation with the highest number, 0 when it has none",
		check: func(t *T) {
			want := func(model, uid string, stamp tidemark.Stamp) {
				t.Helper()
				t.must(t.store.View(t.Context(), func(tx tidemark.StoreTx) error {
					if got, err := tx.Newest(model, uid); err != nil || got != stamp {
						t.fatalf("%s %s: %d (%v), want %d", model, uid, got, err, stamp)
					}
					return nil
				}))
			}
			stamped := func(uid string, stamp tidemark.Stamp) tidemark.Mutation {
				m := mutation(uid)
				m.Stamp = stamp
				return m
			}
			other := stamped("a", 70)
			other.Model = "never declared"
			t.declare()
			want("item", "a", 0)
			t.put(tidemark.Record{UID: "a", Row: row("a", ""), Pending: 1})
			t.enqueue(stamped("a", 50), other, stamped("b", 60), stamped("a", 40))
			want("item", "a", 40)
			want("item", "b", 60)
			want("never declared", "a", 70)
			want("never declared", "b", 0)
			t.amend(tidemark.Mutation{N: 4, Stamp: 45})
			want("item", "a", 45)
			for i := range 40 {
				t.enqueue(stamped("a", tidemark.Stamp(100+i)))
				t.put(tidemark.Record{UID: "a", Row: row("a", ""), Pending: 3 + i})
			}
			want("item", "a", 139)
			t.dequeue(44)
			want("item", "a", 138)
			for n := int64(4); n < 44; n++ {
				t.dequeue(n)
			}
			want("item", "a", 50)
			t.dequeue(1)
			want("item", "a", 0)
		}},
	{Name: "outbox/dequeue", Says: "Dequeue removes the mutations of the given numbers; unknown numbers are ignored",
		check: func(t *T) {
			t.enqueue(mutation("a"), mutation("a"), mutation("b"), mutation("c"))
			t.dequeue(99, 2, -1, 2)
			t.dequeue()
			t.dequeue(3)
			if got := numbers(t.outbox(0, 0)); !slices.Equal(got, []int64{1, 4}) {
				t.fatalf("left %v, want 1, 4", got)
			}
			if got := numbers(t.pending("item", "a", "b")); !slices.Equal(got, []int64{1}) {
				t.fatalf("pending %v, want 1", got)
			}
		}},
	{Name: "outbox/amend", Says: "Amend gives the mutations of the given numbers a Stamp and a Unit, and changes nothing else; unknown numbers are ignored",
		check: func(t *T) {
			want := t.enqueue(mutation("a"), mutation("b"), mutation("c"))
			t.dequeue(2)
			t.amend(tidemark.Mutation{N: 3, Stamp: 9, Unit: 4, Model: "other item", UID: "x", Op: tidemark.Delete, Data: tidemark.Row(`{}`)},
				tidemark.Mutation{N: 2, Stamp: 9}, tidemark.Mutation{N: 99, Stamp: 9}, tidemark.Mutation{Stamp: 9})
			t.amend()
			want[2].Stamp, want[2].Unit = 9, 4
			for _, got := range [][]tidemark.Mutation{t.outbox(0, 0), append(t.pending("item", "a"), t.pending("item", "c")...)} {
				if !slices.EqualFunc(got, []tidemark.Mutation{want[0], want[2]}, sameMutation) {
					t.fatalf("got  %+v\nwant %+v and %+v", got, want[0], want[2])
				}
			}
			if got := t.pending("item", "x", "b"); len(got) != 0 {
				t.fatalf("pending %+v", got)
			}
			t.amend(tidemark.Mutation{N: 3, Stamp: 5})
			if got := t.outbox(2, 1)[0]; got.Stamp != 5 || got.Unit != 0 {
				t.fatalf("amended again: %+v", got)
			}
		}},
	{Name: "outbox/queued", Says: "Queued counts the mutations in the outbox, and tells the highest number that was ever given", reopen: true,
		check: func(t *T) {
			want := func(count int, highest int64) {
				t.must(t.store.View(t.Context(), func(tx tidemark.StoreTx) error {
					if c, h, err := tx.Queued(); err != nil || c != count || h != highest {
						t.fatalf("%d of at most %d (%v), want %d, %d", c, h, err, count, highest)
					}
					return nil
				}))
			}
			want(0, 0)
			t.enqueue(mutation("a"), mutation("b"), mutation("c"))
			want(3, 3)
			t.dequeue(2)
			want(2, 3)
			t.dequeue(3)
			want(1, 3)
			t.must(t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
				t.must(tx.Enqueue([]tidemark.Mutation{mutation("d")}))
				if c, h, err := tx.Queued(); err != nil || c != 2 || h != 4 {
					t.fatalf("in the transaction: %d of at most %d (%v), want 2, 4", c, h, err)
				}
				return nil
			}))
			t.dequeue(1)
			t.dequeue(4)
			want(0, 4)
			t.reopen()
			want(0, 4)
			t.enqueue(mutation("e"))
			want(1, 5)
		}},
	{Name: "outbox/numbers are never reused", Says: "a number is given once, though the highest was removed",
		check: func(t *T) {
			t.enqueue(mutation("a"), mutation("a"))
			t.dequeue(1, 2)
			if got := numbers(t.enqueue(mutation("b"))); !slices.Equal(got, []int64{3}) {
				t.fatalf("number %v, want 3", got)
			}
		}},
	{Name: "outbox/numbers survive reopening", Says: "a number is given once, though the highest was removed and the store reopened", reopen: true,
		check: func(t *T) {
			t.enqueue(mutation("a"), mutation("a"))
			t.dequeue(1, 2)
			t.reopen()
			if got := numbers(t.enqueue(mutation("b"))); !slices.Equal(got, []int64{3}) {
				t.fatalf("number %v, want 3", got)
			}
		}},
	{Name: "outbox/no gap after a rollback", Says: "numbers that were rolled back are given to the next mutations",
		check: func(t *T) {
			t.enqueue(mutation("a"))
			_ = t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
				t.must(tx.Enqueue([]tidemark.Mutation{mutation("b")}))
				return errStop
			})
			if got := numbers(t.enqueue(mutation("c"))); !slices.Equal(got, []int64{2}) {
				t.fatalf("number %v, want 2", got)
			}
		}},
	{Name: "outbox/undeclared models", Says: "the outbox takes and keeps mutations of models that nobody has declared",
		check: func(t *T) {
			m := mutation("a")
			m.Model = "never declared"
			t.enqueue(m)
			if got := t.pending("never declared", "a"); len(got) != 1 {
				t.fatalf("pending %v", got)
			}
		}},
	{Name: "outbox/in any order", Says: "Outbox, Pending, Held and Records are right in whatever order records and mutations of a row come and go; here at random",
		check: func(t *T) { checkQueue(t, rand.Uint64()) }},
	{Name: "outbox/the caller's", Says: "mutations that a store returns belong to the caller, and what it was given stays the caller's",
		check: func(t *T) {
			ms := t.enqueue(mutation("a"))
			want := string(ms[0].Data)
			scribble(ms[0].Data)
			scribble(t.outbox(0, 0)[0].Data)
			scribble(t.pending("item", "a")[0].Data)
			if got := t.outbox(0, 0)[0].Data; string(got) != want {
				t.fatalf("got %s, want %s", got, want)
			}
		}},
	{Name: "outbox/many", Says: "Enqueue, Pending, Amend and Dequeue take thousands at once",
		check: func(t *T) {
			uids := number(3000)
			ms := make([]tidemark.Mutation, len(uids))
			for i, uid := range uids {
				ms[i] = mutation(uid)
			}
			ns := numbers(t.enqueue(ms...))
			if got := numbers(t.pending("item", uids...)); !slices.Equal(got, ns) {
				t.fatalf("%d pending", len(got))
			}
			for i := range ms {
				ms[i].Stamp += tidemark.Stamp(i)
			}
			t.amend(ms...)
			if got := t.outbox(0, 0); !slices.EqualFunc(got, ms, sameMutation) {
				t.fatalf("%d mutations after Amend, or others", len(got))
			}
			t.dequeue(ns[1:]...)
			if got := numbers(t.outbox(0, 0)); !slices.Equal(got, []int64{1}) {
				t.fatalf("left %v", got)
			}
		}},
}
