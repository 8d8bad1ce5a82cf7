package sim

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// dbFault is what goes wrong with the next write of the server's database.
type dbFault int32

const (
	noFault    dbFault = iota
	failBefore         // nothing is written, and the caller does not know
	failAfter          // it is committed, and the caller does not know
	crashAfter         // it is committed, and the server dies before it can say so
	slowAnswer         // it is committed, and takes its time
	lastFault          // the number of faults
)

// database is the driver that the server gets: the real one, with faults. After its
// server died it does nothing any more.
type database struct {
	tidemark.TxDriver
	books   *books
	dead    atomic.Bool
	next    atomic.Int32 // the dbFault of the next write
	forgets bool         // it is told to forget verdicts
	crash   func()       // asks the scheduler for the crash of the server
	slow    func(context.Context)
}

var errGone = tidemark.NewError(tidemark.CodeUnavailable, "the database does not answer")

// unsure is the witness of a commit whose answer is lost.
type unsure struct{ tidemark.Witness }

func (u unsure) Ended(bool) { u.Witness.Ended(false) }

// recorder notes in the books what was decided, when it is committed.
type recorder struct {
	tidemark.Witness
	d    *database
	ms   []tidemark.Mutation
	mu   sync.Mutex // protects outs
	outs map[int]tidemark.Outcome
}

func (r *recorder) Decided(from int, outs []tidemark.Outcome) {
	r.mu.Lock()
	for i := range outs {
		r.outs[from+i] = outs[i]
	}
	r.mu.Unlock()
	r.Witness.Decided(from, outs)
}

func (r *recorder) Ended(committed bool) {
	r.mu.Lock()
	for i := range r.ms { // in the order in which they were made
		if o, ok := r.outs[i]; ok && committed {
			r.d.books.decided(&r.ms[i], &o)
		}
	}
	clear(r.outs)
	r.mu.Unlock()
	r.Witness.Ended(committed)
}

func (d *database) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	var outs []tidemark.Outcome
	err := d.write(ctx, w, ms, func(w tidemark.Witness) (err error) {
		outs, err = d.TxDriver.WriteTx(ctx, ms, w)
		return err
	})
	return outs, err
}

func (d *database) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	return d.WriteTx(ctx, ms, nobody{})
}

type nobody struct{}

func (nobody) Decided(int, []tidemark.Outcome) {}
func (nobody) Ended(bool)                      {}

// write makes a write with the fault that is due.
func (d *database) write(ctx context.Context, w tidemark.Witness, ms []tidemark.Mutation, do func(tidemark.Witness) error) error {
	if d.dead.Load() {
		return errGone
	}
	if w == nil {
		w = nobody{}
	}
	r := &recorder{Witness: w, d: d, ms: ms, outs: map[int]tidemark.Outcome{}}
	switch dbFault(d.next.Swap(int32(noFault))) {
	case failBefore:
		return errGone
	case failAfter:
		r.Witness = unsure{w}
		if err := do(r); err != nil {
			return err
		}
		return errGone
	case crashAfter:
		r.Witness = unsure{w}
		if err := do(r); err != nil {
			return err
		}
		d.dead.Store(true)
		d.crash()
		return errGone
	case slowAnswer:
		err := do(r)
		d.slow(ctx)
		return err
	}
	return do(r)
}

func (d *database) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	if d.dead.Load() {
		return nil, errGone
	}
	return d.TxDriver.Find(ctx, p, limit)
}

func (d *database) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	if d.dead.Load() {
		return nil, errGone
	}
	return d.TxDriver.Snapshot(ctx, p, uids)
}

// storeFault is what goes wrong with an update of a device's store.
type storeFault int32

const (
	soundStore storeFault = iota
	dieBefore             // the process dies before the commit
	dieAfter              // the process dies after the commit
	diskFull              // the update fails
	lastStoreFault
)

// file is the store that a device's client gets: the real one, until its process dies.
type file struct {
	tidemark.Store
	dead atomic.Bool
	next atomic.Int32 // the storeFault of the next update
	die  func()

	updates atomic.Int64 // how many were begun
}

func (f *file) Find(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
	if f.dead.Load() {
		return nil, errDead
	}
	return f.Store.Find(ctx, p)
}

func (f *file) Get(ctx context.Context, model, uid string) (tidemark.Row, error) {
	if f.dead.Load() {
		return nil, errDead
	}
	return f.Store.Get(ctx, model, uid)
}

func (f *file) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Store.View(ctx, fn)
}

func (f *file) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	f.updates.Add(1)
	if f.dead.Load() {
		return errDead
	}
	switch storeFault(f.next.Swap(int32(soundStore))) {
	case dieBefore:
		return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
			if err := fn(tx); err != nil {
				return err
			}
			f.dead.Store(true)
			f.die()
			return errDead
		})
	case dieAfter:
		err := f.Store.Update(ctx, fn)
		f.dead.Store(true)
		f.die()
		if err == nil {
			err = errDead
		}
		return err
	case diskFull:
		return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return errFull
		})
	}
	return f.Store.Update(ctx, fn)
}

var (
	errDead = tidemark.NewError(tidemark.CodeUnavailable, "the process is dead")
	errFull = tidemark.NewError(tidemark.CodeUnavailable, "the disk is full")
)

func newDatabase(d tidemark.TxDriver, b *books) *database { return &database{TxDriver: d, books: b} }

// driver returns d as what the real driver is.
func (d *database) driver() tidemark.Driver {
	if l, ok := d.TxDriver.(tidemark.LogDriver); ok {
		return &logDatabase{database: d, log: l}
	}
	return d
}

func (d *database) kill() { d.dead.Store(true) }

// logDatabase is a database with a change log.
type logDatabase struct {
	*database
	log tidemark.LogDriver
}

func (d *logDatabase) Push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	var verdicts []tidemark.Verdict
	err := d.write(ctx, w, b.Mutations, func(w tidemark.Witness) (err error) {
		if verdicts, err = d.log.Push(ctx, b, w); err == nil {
			d.books.judged(b, verdicts, d.forgets)
		}
		return err
	})
	return verdicts, err
}

func (d *logDatabase) Own(ctx context.Context, from, to tidemark.Cursor) (bool, error) {
	if d.dead.Load() {
		return false, errGone
	}
	return d.log.Own(ctx, from, to)
}

func (d *logDatabase) Horizon(ctx context.Context) (tidemark.Cursor, error) {
	if d.dead.Load() {
		return tidemark.Cursor{}, errGone
	}
	return d.log.Horizon(ctx)
}

func (d *logDatabase) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	if d.dead.Load() {
		return nil, errGone
	}
	return d.log.Pull(ctx, q)
}

func (d *logDatabase) Known(ctx context.Context, client string) (int64, error) {
	if d.dead.Load() {
		return 0, errGone
	}
	return d.log.Known(ctx, client)
}

func (d *logDatabase) Purge(ctx context.Context, before time.Time) (int64, error) {
	if d.dead.Load() {
		return 0, errGone
	}
	return d.log.Purge(ctx, before)
}
