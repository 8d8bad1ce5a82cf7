package bundriver

import (
	"context"

	"github.com/tidemark-sync/tidemark"
)

// fresh are the mutations of a batch that are not repetitions, in a transaction. The
// members of a unit are made together, or refused together.
type fresh struct {
	*work
	b       *tidemark.Batch
	careful bool // with a savepoint for each unit
	stepped bool // run by run, see applyAll
}

func (t *tx) fresh(b *tidemark.Batch) *fresh {
	outs := make([]tidemark.Outcome, len(b.Mutations))
	for i := range outs {
		outs[i].Err = tidemark.WireErrorOf(b.Refusal(i))
	}
	f := &fresh{b: b, careful: t.attempt.careful}
	f.work = t.work(f.plan(t.d, outs), outs)
	if f.mixed {
		f.careful = true
	}
	f.stepped = !f.careful && t.attempt.n > 1 && len(f.runs) > 1
	return f
}

// plan cuts what is not refused into runs.
func (f *fresh) plan(d *Driver, outs []tidemark.Outcome) []*run {
	f.close(outs)
	for {
		runs := d.plan(f.b.Mutations, outs)
		if !f.close(outs) {
			return runs
		}
	}
}

// close refuses the others of a unit of which one is refused, and reports whether there were any.
func (f *fresh) close(outs []tidemark.Outcome) (more bool) {
	_ = tidemark.EachUnit(f.b.Mutations, func(from, to int) error {
		if !refused(outs[from:to]) {
			return nil
		}
		for i := from; i < to; i++ {
			if outs[i].Err == nil {
				outs[i], more = tidemark.Outcome{Err: errUnit}, true
			}
		}
		return nil
	})
	return more
}

var errUnit = tidemark.NewError(tidemark.CodeUnit, "another write of the unit was refused")

func refused(outs []tidemark.Outcome) bool {
	for i := range outs {
		if outs[i].Err != nil {
			return true
		}
	}
	return false
}

// read locks all rows, and reads them where they are decided together.
func (f *fresh) read() []request {
	switch {
	case len(f.runs) == 0:
		return nil
	case f.careful || f.stepped:
		return append(f.claim(true), f.metas())
	}
	return append(f.claim(false), f.work.read()...)
}

// make makes what was read. record returns the statement that stores the verdicts, when all are known.
func (f *fresh) make(ctx context.Context, record func() request) error {
	if !f.careful && !f.stepped {
		if err := f.secured(); err != nil {
			return err
		}
		all := f.runs
		for f.decide(); f.close(f.outs); f.decide() {
			f.runs = f.plan(f.t.d, f.outs)
		}
		more := record()
		err := f.carryOut(ctx, f.b.Client, more)
		f.runs = all
		return err
	}
	if err := f.parts(ctx); err != nil {
		return err
	}
	return f.t.do(ctx, append(f.t.finish(f.runs, f.outs, f.b.Client), record())...)
}

// parts makes what is decided as one by itself.
func (f *fresh) parts(ctx context.Context) error {
	if f.stepped {
		for _, r := range f.runs {
			if err := f.t.apply(ctx, []*run{r}, f.outs); err != nil {
				return err
			}
		}
		if f.close(f.outs) { // too late: the others of the unit are written
			return constraint(errUndo, tidemark.ConstraintCheck, "")
		}
		return nil
	}
	begin := 0 // of mutations that stand alone
	err := tidemark.EachUnit(f.b.Mutations, func(from, to int) error {
		if to-from == 1 {
			return nil
		}
		if err := f.singles(ctx, begin, from); err != nil {
			return err
		}
		begin = to
		return f.unit(ctx, from, to)
	})
	if err != nil {
		return err
	}
	return f.singles(ctx, begin, len(f.b.Mutations))
}

func (f *fresh) singles(ctx context.Context, from, to int) error {
	outs := f.outs[from:to]
	for _, r := range f.t.d.plan(f.b.Mutations[from:to], outs) {
		if err := f.t.applyRun(ctx, r, outs, true); err != nil {
			return err
		}
	}
	return nil
}

// unit makes a unit, or finds out which of its mutations is refused.
func (f *fresh) unit(ctx context.Context, from, to int) error {
	outs := f.outs[from:to]
	if refused(outs) { // before it came here: all of them
		return nil
	}
	err := f.together(ctx, f.b.Mutations[from:to], outs, to-from)
	if refusal(err) != nil { // by the database, which does not say which
		clear(outs)
		err = f.together(ctx, f.b.Mutations[from:to], outs, 1)
	}
	if e := refusal(err); e != nil { // it says so only when all are written
		clear(outs)
		outs[len(outs)-1].Err = e
		err = errUndo
	}
	if err == errUndo {
		f.close(f.outs)
		return nil
	}
	return err
}

// together makes mutations, so many at a time, such that all are undone when one of them is
// refused, with errUndo where it is known which.
func (f *fresh) together(ctx context.Context, ms []tidemark.Mutation, outs []tidemark.Outcome, size int) error {
	return f.t.atomically(ctx, func() error {
		for at := 0; at < len(ms); at += size {
			some := outs[at : at+size]
			for _, r := range f.t.d.plan(ms[at:at+size], some) {
				err := f.t.apply(ctx, []*run{r}, some)
				if e := refusal(err); e != nil && size == 1 {
					some[0] = tidemark.Outcome{Err: e}
				} else if err != nil {
					return err
				}
			}
			if refused(some) {
				return errUndo
			}
		}
		return nil
	})
}
