package bundriver

import (
	"context"
	"slices"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

// joined is a transaction of the application's, in which the driver takes part.
type joined struct {
	d    *Driver
	base tx
	bun  bun.Tx

	turn      chan struct{} // held by the operation under way; protects what follows
	witnesses []tidemark.Witness
	ended     bool
	broken    error // why it must not be committed
}

// RunInTx runs fn in one transaction of the application's database and commits it
// when fn returns nil. An error of fn, or a panic, rolls it back, and is RunInTx's.
// It stands where an application has bun's own RunInTx:
//
//	err := driver.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error {
//		if _, err := tx.NewInsert().Model(&entry).Exec(ctx); err != nil { // its own tables
//			return err
//		}
//		_, err := srv.Service("post").Call(ctx, tidemark.MethodUpdate, uid, patch, srv.Now()) // models
//		return err
//	})
//
// Calls of services with the ctx that fn gets are made in the transaction, hooks
// included. What they publish leaves after the commit; nothing is published, and no row or
// metadata written, when there is none. A write that the database refuses leaves the transaction
// usable: fn decides whether the error ends it. Constraints that are deferred fail at the commit.
//
// RunInTx with such a ctx is a savepoint: an error of its fn undoes what that did, and no more.
//
// fn must pass on its own ctx, and use it and tx in one goroutine at a time. With another ctx, or
// past tx, a write waits for the transaction: in SQLite for good, as there is one writer.
// It must neither end tx nor call services inside tx.RunInTx. Keep it short: the sessions' writes
// of the same rows, in SQLite all writes, wait for its end, and their time runs.
//
// The transaction has the isolation READ COMMITTED in PostgreSQL, and begins as a writer in SQLite.
// As any, it may lose to a deadlock in PostgreSQL: the error is then CodeUnavailable, and
// RunInTx may be called again. Where fn locks rows itself, it should write their models first,
// since a write locks a row's metadata and then the row.
func (d *Driver) RunInTx(ctx context.Context, fn func(ctx context.Context, tx bun.Tx) error) error {
	if err := d.usable(ctx); err != nil {
		return err
	}
	j, err := d.joined(ctx)
	if err != nil {
		return err
	}
	if j != nil {
		return j.nest(ctx, fn)
	}
	if j, err = d.open(ctx); err != nil {
		return err
	}
	committed := false
	defer func() { j.end(committed) }() // also when fn panics
	if err := fn(tidemark.WithTx(ctx, j), j.bun); err != nil {
		return err
	}
	err = j.commit(ctx)
	committed = err == nil
	return err
}

// joined returns the transaction that ctx carries, nil for none.
func (d *Driver) joined(ctx context.Context) (*joined, error) {
	v := tidemark.TxOf(ctx)
	if v == nil {
		return nil, nil
	}
	if j, ok := v.(*joined); ok && j.d == d {
		return j, nil
	}
	return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "the context carries a transaction of another driver")
}

func (d *Driver) open(ctx context.Context) (*joined, error) {
	if err := acquire(ctx, d.turn); err != nil {
		return nil, err
	}
	btx, err := d.bun.BeginTx(ctx, d.dialect.options())
	if err != nil {
		yield(d.turn)
		return nil, d.failed(ctx, err, nil)
	}
	j := &joined{d: d, bun: btx, base: tx{d: d, on: btx.Tx}, turn: make(chan struct{}, 1)}
	if seize := d.dialect.seize(); seize != "" {
		if err := j.base.exec(ctx, seize); err != nil {
			j.end(false)
			return nil, err
		}
	}
	return j, nil
}

// commit ends the transaction if nothing speaks against it.
func (j *joined) commit(ctx context.Context) error {
	if err := j.enter(ctx); err != nil {
		return err
	}
	defer j.leave()
	if j.broken != nil {
		return j.broken
	}
	if err := j.bun.Commit(); err != nil {
		return final(j.d.failed(ctx, err, nil))
	}
	return nil
}

// end rolls back what is not committed, and tells the witnesses.
func (j *joined) end(committed bool) {
	j.turn <- struct{}{}
	if !committed {
		_ = j.bun.Rollback() // of a transaction that ended by itself it fails
	}
	j.ended = true
	yield(j.d.turn)
	witnesses := j.witnesses
	j.leave()
	for _, w := range witnesses {
		w.Ended(committed)
	}
}

// enter begins an operation of the driver, and waits for one of another goroutine's.
func (j *joined) enter(ctx context.Context) error {
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	if j.ended {
		j.leave()
		return tidemark.NewError(tidemark.CodeInvalidRequest, "the transaction that the context carries has ended")
	}
	return nil
}

func (j *joined) leave() { <-j.turn }

func (j *joined) query(ctx context.Context, r *reader, m *model, each func() error, statement string, args ...any) error {
	if err := j.enter(ctx); err != nil {
		return err
	}
	defer j.leave()
	return j.base.query(ctx, r, m, each, statement, args...)
}

// write makes the mutations in a part of the transaction that can be undone.
func (j *joined) write(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if err := j.enter(ctx); err != nil {
		return nil, err
	}
	defer j.leave()
	outs := make([]tidemark.Outcome, len(ms))
	runs := j.d.plan(ms, outs)
	err := repeat(runs, outs, func(a attempt) error {
		part := j.base
		part.attempt, part.witnessed = a, heard(w)
		err := j.undoable(ctx, func() error { return part.applyAll(ctx, runs, outs) })
		if state, _, _ := sqlState(err); len(state) == 5 && state[:2] == "40" {
			return final(err) // the others' locks, and ours, stay as they are
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	w.Decided(0, outs)
	j.witnesses = append(j.witnesses, w)
	return outs, nil
}

// undoable runs fn in a savepoint. When the savepoint cannot be gone back to,
// the transaction must not be committed: it may have half of what fn did.
func (j *joined) undoable(ctx context.Context, fn func() error) error {
	if err := j.base.exec(ctx, "SAVEPOINT tidemark_part"); err != nil {
		return final(err)
	}
	done := false
	defer func() {
		if !done { // an error, or a panic
			if err := j.base.exec(context.WithoutCancel(ctx), "ROLLBACK TO SAVEPOINT tidemark_part"); err != nil {
				j.broken = final(err)
			}
		}
	}()
	if err := fn(); err != nil {
		return err
	}
	done = true
	return j.base.exec(ctx, "RELEASE SAVEPOINT tidemark_part")
}

// nest runs fn in a savepoint of its own.
func (j *joined) nest(ctx context.Context, fn func(context.Context, bun.Tx) error) error {
	mark, err := j.mark(ctx)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // an error, or a panic
			j.backTo(ctx, mark)
		}
	}()
	if err := fn(ctx, j.bun); err != nil {
		return err
	}
	done = true
	if err := j.enter(ctx); err != nil {
		return err
	}
	defer j.leave()
	if err := j.base.exec(ctx, "RELEASE SAVEPOINT tidemark_nested"); err != nil {
		j.broken = final(err)
	}
	return j.broken
}

// mark makes a savepoint and returns how many witnesses there are.
func (j *joined) mark(ctx context.Context) (int, error) {
	if err := j.enter(ctx); err != nil {
		return 0, err
	}
	defer j.leave()
	return len(j.witnesses), final(j.base.exec(ctx, "SAVEPOINT tidemark_nested"))
}

// backTo undoes what was done since mark, and tells its witnesses.
func (j *joined) backTo(ctx context.Context, mark int) {
	ctx = context.WithoutCancel(ctx)
	if j.enter(ctx) != nil {
		return
	}
	err := j.base.exec(ctx, "ROLLBACK TO SAVEPOINT tidemark_nested")
	if err == nil {
		err = j.base.exec(ctx, "RELEASE SAVEPOINT tidemark_nested")
	}
	if err != nil {
		j.broken = final(err)
	}
	undone := slices.Clone(j.witnesses[mark:])
	j.witnesses = j.witnesses[:mark]
	j.leave()
	for _, w := range undone {
		w.Ended(false)
	}
}

// final is err where there will be no other attempt at what failed.
func final(err error) error {
	if again, ok := err.(*retryError); ok {
		return unavailable(again.cause)
	}
	return err
}
