package logstore

import (
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.StoreTx = (*tx)(nil)

// tx is a transaction: a state of its own, and what it changed.
type tx struct {
	state    state
	changes  []change
	writable bool
	over     bool
}

func (t *tx) end() { t.over = true }

// do makes a change, and remembers it for the log.
func (t *tx) do(c change) {
	t.state.apply(c)
	t.changes = append(t.changes, c)
}

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

// rows returns the records of a declared model.
func (t *tx) rows(model string) (map[string]tidemark.Record, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	rows, known := t.state.models[model]
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
		r := rows[uid]
		r.UID, r.Row, r.Base = uid, slices.Clone(r.Row), slices.Clone(r.Base) // what is returned is the caller's
		recs[i] = r
	}
	return recs, nil
}

func (t *tx) Put(model string, recs []tidemark.Record) error {
	_, err := t.rows(model)
	if err == nil {
		err = t.check(true)
	}
	for i := range recs {
		if err == nil {
			err = recs[i].Check()
		}
	}
	if err != nil {
		return err // before the first is stored
	}
	for _, r := range recs {
		t.do(change{Put: recordOf(model, r)})
	}
	return nil
}

func (t *tx) Held(p *tidemark.Predicate) (held []tidemark.Meta, err error) {
	rows, err := t.rows(p.Schema().Name())
	for _, uid := range sortedKeys(rows) {
		if r := rows[uid]; p.Match(r.Base) {
			r.Meta.UID = uid // also where the server told of no metadata
			held = append(held, r.Meta)
		}
	}
	return held, err
}

func (t *tx) Unseen(p *tidemark.Predicate, pass int64) (uids []string, err error) {
	rows, err := t.rows(p.Schema().Name())
	for _, uid := range sortedKeys(rows) {
		if r := rows[uid]; r.Seen < pass && p.Match(r.Base) {
			uids = append(uids, uid)
		}
	}
	return uids, err
}

func (t *tx) Prune(model string, before tidemark.Stamp) error {
	rows, err := t.rows(model)
	if err == nil {
		err = t.check(true)
	}
	if err != nil {
		return err
	}
	for _, uid := range sortedKeys(rows) {
		if r := rows[uid]; r.Meta.Deleted() && r.Meta.DeletedAt < before && len(r.Base) == 0 && r.Pending == 0 {
			t.do(change{Put: &record{Model: model, UID: uid}})
		}
	}
	return nil
}

func (t *tx) Enqueue(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		ms[i].N = t.state.last + 1
		t.do(change{Enqueue: mutationOf(ms[i])})
	}
	return nil
}

func (t *tx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	return t.queued(limit, func(m *tidemark.Mutation) bool { return m.N > after })
}

func (t *tx) Queued() (count int, highest int64, err error) {
	return len(t.state.outbox), t.state.last, t.check(false)
}

func (t *tx) Pending(model string, uids []string) ([]tidemark.Mutation, error) {
	wanted := make(map[string]bool, len(uids))
	for _, uid := range uids {
		wanted[uid] = true
	}
	return t.queued(0, func(m *tidemark.Mutation) bool { return m.Model == model && wanted[m.UID] })
}

func (t *tx) Newest(model, uid string) (newest tidemark.Stamp, err error) {
	highest := int64(0)
	for n, m := range t.state.outbox {
		if n > highest && m.Model == model && m.UID == uid {
			highest, newest = n, m.Stamp
		}
	}
	return newest, t.check(false)
}

// queued returns the mutations that are asked for, by number, at most limit unless it is 0.
func (t *tx) queued(limit int, asked func(*tidemark.Mutation) bool) (ms []tidemark.Mutation, err error) {
	for _, n := range sortedKeys(t.state.outbox) {
		m := t.state.outbox[n]
		if !asked(&m) {
			continue
		}
		m.Data = slices.Clone(m.Data)
		if ms = append(ms, m); len(ms) == limit {
			break
		}
	}
	return ms, t.check(false)
}

func (t *tx) Amend(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		if m, queued := t.state.outbox[ms[i].N]; queued {
			m.Stamp, m.Unit = ms[i].Stamp, ms[i].Unit
			t.do(change{Amend: mutationOf(m)})
		}
	}
	return nil
}

func (t *tx) Dequeue(ns []int64) error {
	if err := t.check(true); err != nil {
		return err
	}
	for _, n := range ns {
		if _, queued := t.state.outbox[n]; queued {
			t.do(change{Dequeue: n})
		}
	}
	return nil
}

func (t *tx) Load(key string) ([]byte, error) {
	return slices.Clone(t.state.entries[key]), t.check(false)
}

func (t *tx) Save(key string, value []byte) error {
	err := t.check(true)
	if err == nil {
		err = tidemark.CheckKey(key)
	}
	if err != nil {
		return err
	}
	t.do(change{Save: &entry{key, slices.Clone(value)}})
	return nil
}

func (t *tx) Entries(prefix string) (es []tidemark.Entry, err error) {
	for _, key := range sortedKeys(t.state.entries) {
		if strings.HasPrefix(key, prefix) {
			es = append(es, tidemark.Entry{Key: key, Value: slices.Clone(t.state.entries[key])})
		}
	}
	return es, t.check(false)
}
