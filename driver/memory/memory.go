// Package memory is a [tidemark.Driver] that keeps everything in the process: for
// tests, for examples, and for simulations in a testing/synctest bubble, where no
// database can live. It decides as every driver does, by [tidemark.Decide].
package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.TxDriver = (*Driver)(nil)

// Driver is a database in memory. Reads see the rows in the order of their uids.
// It is safe for concurrent use.
type Driver struct {
	schemas []*tidemark.Schema
	writing chan struct{} // held by the transaction under way

	mu     sync.RWMutex // protects what follows
	tables map[string]*table
	metas  map[string]entry // by uid, for all models together, as in the guide's table
	clock  *tidemark.Clock
	closed bool
}

type table struct {
	schema *tidemark.Schema
	rows   map[string]tidemark.Row
}

// entry is a row of the metadata table with the model that it belongs to, "" when
// that is not known.
type entry struct {
	model string
	meta  tidemark.Meta
}

// New returns an empty database with one table a schema. Two schemas of one name
// are a programmer's error, and New panics.
func New(schemas ...*tidemark.Schema) *Driver {
	d := &Driver{
		schemas: slices.Clone(schemas),
		writing: make(chan struct{}, 1),
		tables:  make(map[string]*table, len(schemas)),
		metas:   make(map[string]entry),
		clock:   tidemark.NewClock(nil),
	}
	for _, s := range schemas {
		if d.tables[s.Name()] != nil {
			panic(fmt.Sprintf("memory: model %s stands twice", s.Name()))
		}
		d.tables[s.Name()] = &table{schema: s, rows: make(map[string]tidemark.Row)}
	}
	return d
}

// Models returns the schemas, in the order in which New got them.
func (d *Driver) Models() []*tidemark.Schema { return slices.Clone(d.schemas) }

// Migrate gives metadata, created now, to rows that were put without.
func (d *Driver) Migrate(ctx context.Context) error {
	if tidemark.TxOf(ctx) != nil { // it would wait for that one
		return tidemark.NewError(tidemark.CodeInvalidRequest, "this cannot be part of a transaction")
	}
	if err := d.take(ctx); err != nil {
		return err
	}
	defer d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	for _, s := range d.schemas {
		for _, uid := range slices.Sorted(maps.Keys(d.tables[s.Name()].rows)) {
			e, known := d.metas[uid]
			switch {
			case !known:
				d.metas[uid] = entry{s.Name(), tidemark.Meta{UID: uid, CreatedAt: d.clock.Now()}}
			case e.model == "" && !e.meta.Deleted():
				e.model = s.Name()
				d.metas[uid] = e
			}
		}
	}
	return nil
}

// Find returns the rows that p selects, sorted by uid.
func (d *Driver) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	d, err := d.seen(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	t, err := d.table(ctx, p)
	if err != nil {
		return nil, err
	}
	var rows []tidemark.Row
	for _, uid := range t.selected(p, limit) {
		rows = append(rows, slices.Clone(t.rows[uid]))
	}
	return rows, nil
}

// Snapshot reads under one lock, which is its moment.
func (d *Driver) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	d, err := d.seen(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	t, err := d.table(ctx, p)
	if err != nil {
		return nil, err
	}
	snap := &tidemark.Snapshot{}
	seen := make(map[string]bool, len(uids))
	for _, uid := range t.selected(p, 0) {
		seen[uid] = true
		snap.Selected = append(snap.Selected, d.rowMeta(t, uid))
	}
	for _, uid := range uids {
		if seen[uid] {
			continue
		}
		seen[uid] = true
		if rm := d.rowMeta(t, uid); rm.Row != nil || rm.Meta.UID != "" {
			snap.Others = append(snap.Others, rm)
		}
	}
	return snap, nil
}

// Close ends the driver; what it held is gone.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return nil
}

// rowMeta is what table t knows of uid; metadata of another model is none.
func (d *Driver) rowMeta(t *table, uid string) tidemark.RowMeta {
	rm := tidemark.RowMeta{Row: slices.Clone(t.rows[uid])}
	if e := d.metas[uid]; e.model == "" || e.model == t.schema.Name() {
		rm.Meta = e.meta
	}
	return rm
}

func (d *Driver) usable(ctx context.Context) error {
	if d.closed {
		return tidemark.ErrClosed
	}
	return ctx.Err()
}

func (d *Driver) table(ctx context.Context, p *tidemark.Predicate) (*table, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	name := p.Schema().Name()
	t := d.tables[name]
	if t == nil {
		return nil, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model %s", name)
	}
	return t, nil
}

// selected returns the uids of the rows that p selects, sorted, at most limit unless it is 0.
func (t *table) selected(p *tidemark.Predicate, limit int) []string {
	var uids []string
	for uid, row := range t.rows {
		if p.Match(row) {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	if limit > 0 && len(uids) > limit {
		uids = uids[:limit]
	}
	return uids
}
