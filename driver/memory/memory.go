// Package memory is a [tidemark.Driver] that keeps everything in the process: for
// tests, for examples, and for simulations in a testing/synctest bubble, where no
// database can live. It decides as every driver does, by [tidemark.Decide].
package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
)

var (
	_ tidemark.LogDriver   = (*Driver)(nil)
	_ tidemark.Remembering = (*Driver)(nil)
)

// Driver is a database in memory. Reads see the rows in the order of their uids.
// It is safe for concurrent use.
type Driver struct {
	schemas []*tidemark.Schema
	writing chan struct{} // held by the transaction under way
	now     func() time.Time

	mu      sync.RWMutex // protects what follows
	tables  map[string]*table
	metas   map[string]entry // by uid, for all models together, as in the guide's table
	made    []change         // by the transaction under way, not yet in the log
	log     *changeLog
	clients map[string]*client
	clock   *tidemark.Clock
	closed  bool
}

type table struct {
	schema *tidemark.Schema
	rows   map[string]tidemark.Row
	order  []string // the uids of rows, sorted; nil when that is not known
}

// entry is a row of the metadata table with the model that it belongs to, "" when
// that is not known.
type entry struct {
	model string
	meta  tidemark.Meta
}

// Options are what a simulation wants to have in its hand.
type Options struct {
	// Rand is where the log's epoch and the nonces of its entries come from: 48 bytes are
	// read. Defaults to crypto/rand.
	Rand io.Reader
	// Now dates the log's entries, and the rows that Migrate finds. Defaults to time.Now.
	Now func() time.Time
}

// New returns an empty database with one table a schema. Two schemas of one name
// are a programmer's error, and New panics.
func New(schemas ...*tidemark.Schema) *Driver { return NewWith(schemas, nil) }

// NewWith is New with options, which may be nil. It also panics when Options.Rand fails.
func NewWith(schemas []*tidemark.Schema, o *Options) *Driver {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	d := &Driver{
		schemas: slices.Clone(schemas),
		writing: make(chan struct{}, 1),
		now:     opts.Now,
		tables:  make(map[string]*table, len(schemas)),
		metas:   make(map[string]entry),
		log:     newLog(opts.Rand),
		clients: make(map[string]*client),
		clock:   tidemark.NewClock(opts.Now),
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
	if err := d.alone(ctx); err != nil {
		return err
	}
	defer d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return err
	}
	for _, s := range d.schemas {
		t := d.tables[s.Name()]
		for _, uid := range t.sorted() {
			e, known := d.metas[uid]
			switch {
			case !known:
				d.metas[uid] = entry{s.Name(), tidemark.Meta{UID: uid, CreatedAt: d.clock.Now()}}
				d.made = append(d.made, change{model: s.Name(), uid: uid, unheard: true})
			case e.model == "" && !e.meta.Deleted():
				e.model = s.Name()
				d.metas[uid] = e
			}
		}
	}
	d.commit()
	return nil
}

// Newest returns the newest stamp that is stored.
func (d *Driver) Newest() tidemark.Stamp {
	d.mu.RLock()
	defer d.mu.RUnlock()
	bound := tidemark.StampOf(d.now().Add(tidemark.MaxRemembered))
	var newest tidemark.Stamp
	for _, e := range d.metas {
		for _, s := range []tidemark.Stamp{e.meta.CreatedAt, e.meta.UpdatedAt, e.meta.DeletedAt} {
			if s <= bound {
				newest = max(newest, s)
			}
		}
	}
	return newest
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
	return over(ctx)
}

// over returns why ctx has ended, nil while it has not.
func over(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return tidemark.Wrap(ctx.Err(), tidemark.CodeUnavailable, "the call was given up")
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
