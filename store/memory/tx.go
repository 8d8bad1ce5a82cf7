package memory

import (
	"math"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.StoreTx = (*tx)(nil)

// tx is a transaction: a state of its own.
type tx struct {
	state    state
	writable bool
	over     bool
}

func (t *tx) end() { t.over = true }

// check reports whether the transaction may go on, to write or to read.
func (t *tx) check(write bool) error {
	switch {
	case t.over:
		return tidemark.ErrClosed
	case write && !t.writable:
		return tidemark.NewError(tidemark.CodeInternal, "a View must not write")
	}
	return nil
}

func (t *tx) rows(model string) (*tree[string, tidemark.Record], error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	rows, known := t.state.models.get(model)
	if !known {
		return nil, tidemark.NewError(tidemark.CodeUnknownModel, "model %s is not declared", model)
	}
	return rows, nil
}

func (t *tx) Records(model string, uids []string) ([]tidemark.Record, error) {
	rows, err := t.rows(model)
	if err != nil {
		return nil, err
	}
	recs := make([]tidemark.Record, len(uids))
	for i, uid := range uids {
		recs[i], _ = rows.get(uid)
		recs[i] = copyOf(recs[i])
		recs[i].UID = uid
	}
	return recs, nil
}

func (t *tx) Put(model string, recs []tidemark.Record) error {
	rows, err := t.rows(model)
	if err == nil {
		err = t.check(true)
	}
	if err != nil {
		return err
	}
	for i := range recs {
		if err := recs[i].Check(); err != nil {
			return err
		}
	}
	for _, r := range recs {
		if r.IsZero() {
			rows = rows.remove(r.UID)
		} else {
			rows = rows.set(r.UID, copyOf(r))
		}
	}
	t.state.models = t.state.models.set(model, rows)
	return nil
}

// copyOf returns r with rows of its own, an empty one as nil.
func copyOf(r tidemark.Record) tidemark.Record {
	r.Row, r.Base = cloneRow(r.Row), cloneRow(r.Base)
	return r
}

func cloneRow(r tidemark.Row) tidemark.Row {
	if len(r) == 0 {
		return nil
	}
	return slices.Clone(r)
}

func (t *tx) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	rows, err := t.rows(p.Schema().Name())
	var held []tidemark.Meta
	for uid, r := range rows.all() {
		if p.Match(r.Base) {
			r.Meta.UID = uid // also where the server told of no metadata
			held = append(held, r.Meta)
		}
	}
	return held, err
}

func (t *tx) Unseen(p *tidemark.Predicate, pass int64) ([]string, error) {
	rows, err := t.rows(p.Schema().Name())
	if err != nil {
		return nil, err
	}
	var uids []string
	for uid, r := range rows.all() {
		if r.Seen < pass && p.Match(r.Base) {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}

func (t *tx) Prune(model string, before tidemark.Stamp) error {
	rows, err := t.rows(model)
	if err == nil {
		err = t.check(true)
	}
	if err != nil {
		return err
	}
	kept := rows
	for uid, r := range rows.all() {
		if r.Meta.Deleted() && r.Meta.DeletedAt < before && len(r.Base) == 0 && r.Pending == 0 {
			kept = kept.remove(uid)
		}
	}
	t.state.models = t.state.models.set(model, kept)
	return nil
}

func (t *tx) Enqueue(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		t.state.last++
		ms[i].N = t.state.last
		m := ms[i]
		m.Data = cloneRow(m.Data)
		t.state.outbox = t.state.outbox.set(m.N, m)
		t.state.pending = t.state.pending.set(rowOf(m.Model, m.UID).numbered(m.N), m.N)
		t.state.queued++
	}
	return nil
}

func (t *tx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	var ms []tidemark.Mutation
	for n, m := range t.state.outbox.from(after) {
		if n == after {
			continue
		}
		m.Data = cloneRow(m.Data)
		if ms = append(ms, m); len(ms) == limit {
			break
		}
	}
	return ms, t.check(false)
}

func (t *tx) Queued() (count int, highest int64, err error) {
	return t.state.queued, t.state.last, t.check(false)
}

func (t *tx) Pending(model string, uids []string) ([]tidemark.Mutation, error) {
	var ns []int64
	for _, uid := range uids {
		of := rowOf(model, uid)
		for key, n := range t.state.pending.from(of.numbered(0)) {
			if key > of.numbered(math.MaxInt64) {
				break
			}
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	var ms []tidemark.Mutation
	for _, n := range slices.Compact(ns) {
		m, _ := t.state.outbox.get(n)
		m.Data = cloneRow(m.Data)
		ms = append(ms, m)
	}
	return ms, t.check(false)
}

func (t *tx) Newest(model, uid string) (tidemark.Stamp, error) {
	of := rowOf(model, uid)
	key, n, found := t.state.pending.upTo(of.numbered(math.MaxInt64))
	if !found || key < of.numbered(0) {
		return 0, t.check(false)
	}
	m, _ := t.state.outbox.get(n)
	return m.Stamp, t.check(false)
}

func (t *tx) Amend(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		if m, queued := t.state.outbox.get(ms[i].N); queued {
			m.Stamp, m.Unit = ms[i].Stamp, ms[i].Unit
			t.state.outbox = t.state.outbox.set(m.N, m)
		}
	}
	return nil
}

func (t *tx) Dequeue(ns []int64) error {
	if err := t.check(true); err != nil {
		return err
	}
	for _, n := range ns {
		if m, queued := t.state.outbox.get(n); queued {
			t.state.outbox = t.state.outbox.remove(n)
			t.state.pending = t.state.pending.remove(rowOf(m.Model, m.UID).numbered(n))
			t.state.queued--
		}
	}
	return nil
}

func (t *tx) Load(key string) ([]byte, error) {
	value, _ := t.state.entries.get(key)
	return slices.Clone(value), t.check(false)
}

func (t *tx) Save(key string, value []byte) error {
	err := t.check(true)
	if err == nil {
		err = tidemark.CheckKey(key)
	}
	if err != nil {
		return err
	}
	if value == nil {
		t.state.entries = t.state.entries.remove(key)
	} else {
		t.state.entries = t.state.entries.set(key, slices.Clone(value))
	}
	return nil
}

func (t *tx) Entries(prefix string) ([]tidemark.Entry, error) {
	var found []tidemark.Entry
	for key, value := range t.state.entries.from(prefix) {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		found = append(found, tidemark.Entry{Key: key, Value: slices.Clone(value)})
	}
	return found, t.check(false)
}
