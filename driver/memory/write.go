package memory

import (
	"context"
	"maps"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// Write makes the mutations in a transaction of their own, or the one that ctx carries.
func (d *Driver) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	return d.WriteTx(ctx, ms, nobody{})
}

// nobody is a witness that does not care.
type nobody struct{}

func (nobody) Decided(int, []tidemark.Outcome) {}
func (nobody) Ended(bool)                      {}

// WriteTx is Write with a witness.
func (d *Driver) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	t, err := d.txOf(ctx)
	if err != nil {
		return nil, err
	}
	if t != nil {
		return t.write(ctx, ms, w)
	}
	if err := d.take(ctx); err != nil {
		return nil, err
	}
	defer d.release()
	outcomes, err := d.applyAndCommit(ctx, ms, w)
	if err != nil {
		return nil, err
	}
	w.Decided(0, outcomes)
	w.Ended(true)
	return outcomes, nil
}

func (d *Driver) applyAndCommit(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	n := len(d.made)
	outcomes := d.writeAll(ms)
	d.unheard(n, w)
	d.commit()
	return outcomes, nil
}

// apply makes the mutations under one lock, of a transaction that goes on.
func (d *Driver) apply(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	return d.writeAll(ms), nil
}

func (d *Driver) writeAll(ms []tidemark.Mutation) []tidemark.Outcome {
	outcomes := make([]tidemark.Outcome, len(ms))
	for i := range ms {
		o, err := d.write(&ms[i])
		if err != nil {
			o = tidemark.Outcome{Err: tidemark.WireError(err)}
		}
		outcomes[i] = o
	}
	return outcomes
}

func (d *Driver) write(m *tidemark.Mutation) (tidemark.Outcome, error) {
	var o tidemark.Outcome
	t := d.tables[m.Model]
	if t == nil {
		return o, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model %s", m.Model)
	}
	if err := tidemark.CheckUID(m.UID); err != nil {
		return o, err
	}
	e := d.metas[m.UID]
	if e.model != "" && e.model != m.Model {
		return o, tidemark.NewError(tidemark.CodeUIDTaken, "the uid belongs to another model").OnField("uid")
	}
	before, present := t.rows[m.UID]
	dec, err := tidemark.Decide(m.Op, m.UID, m.Stamp, e.meta, present)
	if err != nil {
		return o, err
	}
	after, err := t.effect(dec.Effect, m, before)
	if err != nil {
		return o, err
	}
	t.put(m.UID, after)
	if !dec.Meta.IsZero() {
		d.metas[m.UID] = entry{m.Model, dec.Meta}
	}
	o = tidemark.Outcome{Applied: dec.Applied, Row: slices.Clone(after), Meta: dec.Meta, Changed: dec.Changes(e.meta, present)}
	if o.Changed {
		o.Before = slices.Clone(before)
		c := change{model: m.Model, uid: m.UID, before: before}
		if m.Op == tidemark.Adopt { // nobody was told of it
			c.before = nil
		}
		d.made = append(d.made, c)
	}
	if o.Applied && m.Op == tidemark.Delete {
		o.Row = slices.Clone(before)
	}
	return o, nil
}

// effect returns the row as it stands after m, nil when there is none.
func (t *table) effect(effect tidemark.Effect, m *tidemark.Mutation, before tidemark.Row) (tidemark.Row, error) {
	switch effect {
	case tidemark.Remove:
		return nil, nil
	case tidemark.Upsert:
		base := before
		if base == nil {
			base = t.empty(m.UID)
		}
		after := base.Merge(m.Data)
		return after, t.checkRequired(after)
	}
	return before, nil
}

func (t *table) put(uid string, row tidemark.Row) {
	if _, present := t.rows[uid]; present != (row != nil) {
		t.order = nil
	}
	if row == nil {
		delete(t.rows, uid)
		return
	}
	t.rows[uid] = row
}

// sorted returns the uids of all rows in their order.
func (t *table) sorted() []string {
	if t.order == nil {
		t.order = slices.Sorted(maps.Keys(t.rows))
	}
	return t.order
}

// empty returns a row of all columns, null but for the uid: what an INSERT of the uid alone would make.
func (t *table) empty(uid string) tidemark.Row {
	row := append(tidemark.Row(`{"uid":`), tidemark.AppendString(nil, uid)...)
	for _, f := range t.schema.Fields()[1:] {
		row = append(row, ',')
		row = tidemark.AppendString(row, f.Name)
		row = append(row, ":null"...)
	}
	return append(row, '}')
}

func (t *table) checkRequired(row tidemark.Row) error {
	return tidemark.EachMember(row, func(key string, value []byte) error {
		f, ok := t.schema.Field(key)
		if !ok || !f.Required || f.ReadOnly || string(value) != "null" {
			return nil
		}
		e := tidemark.NewError(tidemark.CodeConstraint, "%s is required", key).OnField(key)
		e.Kind = tidemark.ConstraintRequired
		return e
	})
}
