package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// queue is what a store should know of some rows and their mutations.
type queue struct {
	last   int64
	outbox []tidemark.Mutation
	recs   map[string]tidemark.Record
}

func (q *queue) clone() *queue {
	return &queue{last: q.last, outbox: slices.Clone(q.outbox), recs: maps.Clone(q.recs)}
}

func (q *queue) pending(model string, uids []string) (ms []tidemark.Mutation) {
	for _, m := range q.outbox {
		if m.Model == model && slices.Contains(uids, m.UID) {
			ms = append(ms, m)
		}
	}
	return ms
}

func (q *queue) held() (uids []string) {
	for _, uid := range slices.Sorted(maps.Keys(q.recs)) {
		if q.recs[uid].Base != nil {
			uids = append(uids, uid)
		}
	}
	return uids
}

// walk changes a store and what it should know in the same way.
type walk struct {
	*T
	r     *rand.Rand
	uids  []string
	trace []string
}

// checkQueue makes random transactions and compares.
func checkQueue(t *T, seed uint64) {
	w := &walk{T: t, r: rand.New(rand.NewPCG(seed, 2)), uids: []string{"a", "b", "c", "d", "e", "none"}}
	w.trace = append(w.trace, fmt.Sprint("seed ", seed))
	t.declare()
	q := &queue{recs: map[string]tidemark.Record{}}
	for range 150 {
		next := q.clone()
		fails := w.r.IntN(6) == 0
		err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
			for range 1 + w.r.IntN(6) {
				w.step(tx, next)
				if w.r.IntN(3) == 0 {
					w.compare(tx, next)
				}
			}
			if fails {
				return errStop
			}
			return nil
		})
		if fails {
			w.trace = append(w.trace, "rolled back")
		} else {
			t.must(err)
			q = next
			w.trace = append(w.trace, "committed")
		}
		if t.harness.Reopen && w.r.IntN(20) == 0 {
			t.reopen()
		}
		t.view(func(tx tidemark.StoreTx) error { w.compare(tx, q); return nil })
	}
}

func (w *walk) some() []string {
	n := w.r.IntN(len(w.uids))
	return slices.Clone(w.uids[n : n+w.r.IntN(len(w.uids)-n)])
}

func (w *walk) step(tx tidemark.StoreTx, q *queue) {
	switch w.r.IntN(5) {
	case 0, 1:
		var ms []tidemark.Mutation
		uids := w.some()
		if w.r.IntN(4) == 0 { // many of each row
			uids = slices.Repeat(uids, 12)
		}
		for _, uid := range uids {
			m := mutation(uid)
			m.Model = []string{"item", "item", "item", "never declared"}[w.r.IntN(4)]
			q.last++
			m.N, m.Stamp = q.last, tidemark.Stamp(w.r.IntN(100))
			ms = append(ms, m)
		}
		q.outbox = append(q.outbox, ms...)
		w.trace = append(w.trace, fmt.Sprint("enqueue ", numbers(ms)))
		w.must(tx.Enqueue(ms))
	case 2:
		var ns []int64
		q.outbox = slices.DeleteFunc(q.outbox, func(m tidemark.Mutation) bool {
			gone := w.r.IntN(3) > 0
			if gone {
				ns = append(ns, m.N)
			}
			return gone
		})
		w.trace = append(w.trace, fmt.Sprint("dequeue ", ns))
		w.must(tx.Dequeue(ns))
	default:
		var recs []tidemark.Record
		for _, uid := range w.some() {
			recs = append(recs, w.record(q, uid))
		}
		if len(recs) > 0 && w.r.IntN(5) == 0 {
			recs = append(recs, w.record(q, recs[0].UID)) // one uid twice
		}
		for _, r := range recs {
			if q.recs[r.UID] = r; r.IsZero() {
				delete(q.recs, r.UID)
			}
			w.trace = append(w.trace, fmt.Sprintf("put %s: %s over %s", r.UID, r.Row, r.Base))
		}
		w.must(tx.Put("item", recs))
	}
}

// record returns any record of the row, with as many pending as there are.
func (w *walk) record(q *queue, uid string) tidemark.Record {
	r := tidemark.Record{UID: uid, Pending: len(q.pending("item", []string{uid}))}
	switch w.r.IntN(5) {
	case 0:
		r.Pending = 0
		return r
	case 1:
		r.Meta = tidemark.Meta{UID: uid, CreatedAt: 5}
		r.Base = row(uid, fmt.Sprintf(`"qty":%d`, w.r.IntN(3)))
		r.Row = r.Base
		return r
	}
	if w.r.IntN(3) > 0 {
		r.Row = row(uid, fmt.Sprintf(`"name":"%d","qty":%d`, w.r.IntN(20), w.r.IntN(3)))
	}
	if w.r.IntN(3) > 0 {
		r.Base = row(uid, fmt.Sprintf(`"name":"%d","qty":%d`, w.r.IntN(20), w.r.IntN(3)))
	}
	return r
}

func (w *walk) compare(tx tidemark.StoreTx, q *queue) {
	w.Helper()
	got, err := tx.Outbox(0, 0)
	w.must(err)
	w.same("outbox", got, q.outbox)
	uids := w.some()
	for _, model := range []string{"item", "never declared"} {
		got, err = tx.Pending(model, uids)
		w.must(err)
		w.same(fmt.Sprint("pending of ", uids, " of ", model), got, q.pending(model, uids))
		for _, uid := range uids {
			want := tidemark.Stamp(0)
			for _, m := range q.pending(model, []string{uid}) {
				want = m.Stamp
			}
			if got, err := tx.Newest(model, uid); err != nil || got != want {
				w.fatalf("newest of %s of %s: %d (%v), want %d, after\n%q", uid, model, got, err, want, w.trace)
			}
		}
	}
	metas, err := tx.Held(w.compile(nil))
	w.must(err)
	if got, want := slices.Collect(mapped(metas)), q.held(); !slices.Equal(got, want) {
		w.fatalf("held %v, want %v, after\n%q", got, want, w.trace)
	}
	recs, err := tx.Records("item", w.uids)
	w.must(err)
	for _, r := range recs {
		want := q.recs[r.UID]
		want.UID = r.UID
		if !sameRecord(r, want) {
			w.fatalf("record %+v, want %+v, after\n%q", r, want, w.trace)
		}
	}
}

func (w *walk) same(what string, got, want []tidemark.Mutation) {
	w.Helper()
	if !slices.EqualFunc(got, want, sameMutation) {
		w.fatalf("%s: %v, want %v, after\n%q", what, numbers(got), numbers(want), w.trace)
	}
}
