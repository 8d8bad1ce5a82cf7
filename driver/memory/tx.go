package memory

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// tx is a transaction of RunInTx. It works on a copy, which takes the place of
// the driver's tables at the commit.
type tx struct {
	d *Driver

	mu        sync.Mutex // protects what follows
	copy      *Driver    // nil when the transaction has ended
	witnesses []tidemark.Witness
}

// RunInTx runs fn in a transaction and commits it when fn returns nil. Find, Snapshot and Write with
// the ctx that fn gets take part in it; others see nothing of it before the commit, and their
// writes wait for its end. An error of fn, or a panic, undoes everything, and is
// RunInTx's. With such a ctx RunInTx is a part that can be undone by itself. The cost is a copy of all
// tables' maps.
func (d *Driver) RunInTx(ctx context.Context, fn func(ctx context.Context) error) error {
	t, err := d.txOf(ctx)
	if err != nil {
		return err
	}
	if t != nil {
		return t.nest(ctx, fn)
	}
	if err := d.take(ctx); err != nil {
		return err
	}
	t = &tx{d: d, copy: d.clone()}
	committed := false
	defer func() { t.end(committed) }() // also when fn panics
	if err := fn(tidemark.WithTx(ctx, t)); err != nil {
		return err
	}
	if err := t.commit(ctx); err != nil {
		return err
	}
	committed = true
	return nil
}

// commit has the driver take the copy's tables.
func (t *tx) commit(ctx context.Context) error {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if err := t.d.usable(ctx); err != nil {
		return err
	}
	t.d.tables, t.d.metas, t.d.made = t.copy.tables, t.copy.metas, t.copy.made
	t.d.commit()
	return nil
}

func (t *tx) end(committed bool) {
	t.mu.Lock()
	t.copy = nil
	witnesses := t.witnesses
	t.mu.Unlock()
	t.d.release()
	for _, w := range witnesses {
		w.Ended(committed)
	}
}

func (t *tx) write(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copy == nil {
		return nil, errEnded
	}
	n := len(t.copy.made)
	outcomes, err := t.copy.apply(ctx, ms)
	if err != nil {
		return nil, err
	}
	t.copy.unheard(n, w)
	w.Decided(0, outcomes)
	t.witnesses = append(t.witnesses, w)
	return outcomes, nil
}

// nest runs fn as a part that can be undone.
func (t *tx) nest(ctx context.Context, fn func(context.Context) error) error {
	before, err := t.seen()
	if err != nil {
		return err
	}
	t.mu.Lock()
	mark := len(t.witnesses)
	t.copy = before.clone()
	t.mu.Unlock()
	done := false
	defer func() {
		if done {
			return
		}
		t.mu.Lock()
		undone := t.witnesses[mark:]
		t.copy, t.witnesses = before, t.witnesses[:mark:mark]
		t.mu.Unlock()
		for _, w := range undone {
			w.Ended(false)
		}
	}()
	if err := fn(ctx); err != nil {
		return err
	}
	done = true
	return nil
}

func (t *tx) seen() (*Driver, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.copy == nil {
		return nil, errEnded
	}
	return t.copy, nil
}

var errEnded = tidemark.NewError(tidemark.CodeInvalidRequest, "the transaction that the context carries has ended")

// txOf returns the transaction that ctx carries, nil when there is none.
func (d *Driver) txOf(ctx context.Context) (*tx, error) {
	v := tidemark.TxOf(ctx)
	if v == nil {
		return nil, nil
	}
	if t, ok := v.(*tx); ok && t.d == d {
		return t, nil
	}
	return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "the context carries a transaction of another driver")
}

// seen returns the driver whose tables a reader with ctx sees.
func (d *Driver) seen(ctx context.Context) (*Driver, error) {
	t, err := d.txOf(ctx)
	if t == nil {
		return d, err
	}
	return t.seen()
}

// take waits for the caller's turn to write.
func (d *Driver) take(ctx context.Context) error {
	select {
	case d.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return over(ctx)
	}
}

func (d *Driver) release() { <-d.writing }

// clone returns a driver with the same rows, which may change without the other. It
// has no log: what it makes goes into that of the driver that takes its tables.
func (d *Driver) clone() *Driver {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := &Driver{schemas: d.schemas, now: d.now, clock: d.clock, closed: d.closed,
		tables: make(map[string]*table, len(d.tables)), metas: maps.Clone(d.metas), made: slices.Clone(d.made)}
	for name, t := range d.tables {
		c.tables[name] = &table{schema: t.schema, rows: maps.Clone(t.rows), order: t.order}
	}
	return c
}
