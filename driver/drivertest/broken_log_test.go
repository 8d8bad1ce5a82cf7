package drivertest_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// brokenLog is the memory driver whose log has one mistake; what is nil is as it should be.
type brokenLog struct {
	*memory.Driver
	write   func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error)
	runInTx func(ctx context.Context, fn func(context.Context) error) error
	horizon func(ctx context.Context) (tidemark.Cursor, error)
	pull    func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error)
	push    func(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error)
	own     func(ctx context.Context, from, to tidemark.Cursor) (bool, error)
	known   func(ctx context.Context, client string) (int64, error)
	purge   func(ctx context.Context, before time.Time) (int64, error)
	finds   atomic.Int64 // how often rows were read
}

func (b *brokenLog) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	defer b.finds.Add(1)
	return b.Driver.Find(ctx, p, limit)
}

// untilRead returns when somebody has read rows between its call and its return, or nobody does.
func (b *brokenLog) untilRead() {
	before, soon := b.finds.Load(), time.Now().Add(50*time.Millisecond)
	for b.finds.Load() < before+2 && time.Now().Before(soon) {
		runtime.Gosched()
	}
}

func (b *brokenLog) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	if b.write == nil {
		return b.Driver.Write(ctx, ms)
	}
	return b.WriteTx(ctx, ms, silent{})
}

func (b *brokenLog) Own(ctx context.Context, from, to tidemark.Cursor) (bool, error) {
	if b.own != nil {
		return b.own(ctx, from, to)
	}
	return b.Driver.Own(ctx, from, to)
}

type silent struct{}

func (silent) Decided(int, []tidemark.Outcome) {}
func (silent) Ended(bool)                      {}

func (b *brokenLog) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if b.write != nil {
		return b.write(ctx, ms, w)
	}
	return b.Driver.WriteTx(ctx, ms, w)
}

func (b *brokenLog) RunInTx(ctx context.Context, fn func(context.Context) error) error {
	if b.runInTx != nil {
		return b.runInTx(ctx, fn)
	}
	return b.Driver.RunInTx(ctx, fn)
}

func (b *brokenLog) Horizon(ctx context.Context) (tidemark.Cursor, error) {
	if b.horizon != nil {
		return b.horizon(ctx)
	}
	return b.Driver.Horizon(ctx)
}

func (b *brokenLog) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	if b.pull != nil {
		return b.pull(ctx, q)
	}
	return b.Driver.Pull(ctx, q)
}

func (b *brokenLog) Push(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	if b.push != nil {
		return b.push(ctx, batch, w)
	}
	return b.Driver.Push(ctx, batch, w)
}

func (b *brokenLog) Known(ctx context.Context, client string) (int64, error) {
	if b.known != nil {
		return b.known(ctx, client)
	}
	return b.Driver.Known(ctx, client)
}

func (b *brokenLog) Purge(ctx context.Context, before time.Time) (int64, error) {
	if b.purge != nil {
		return b.purge(ctx, before)
	}
	return b.Driver.Purge(ctx, before)
}

// asks breaks what is asked of Pull, tells what it answers.
func asks(change func(q *tidemark.Pull)) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			change(&q)
			return b.Driver.Pull(ctx, q)
		}
	}
}

func tells(change func(b *brokenLog, q tidemark.Pull, p *tidemark.Page)) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			p, err := b.Driver.Pull(ctx, q)
			if err == nil {
				change(b, q, p)
			}
			return p, err
		}
	}
}

// pushesWith breaks what is pushed, judges the verdicts.
func pushesWith(change func(b *tidemark.Batch)) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			other := *batch
			other.Mutations = slices.Clone(batch.Mutations)
			change(&other)
			return b.Driver.Push(ctx, &other, w)
		}
	}
}

func judges(change func(b *tidemark.Batch, vs []tidemark.Verdict)) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			vs, err := b.Driver.Push(ctx, batch, w)
			if err == nil {
				change(batch, vs)
			}
			return vs, err
		}
	}
}

// accepts breaks Push where it should fail with a code: the batch is made under another name.
func accepts(code tidemark.Code) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			vs, err := b.Driver.Push(ctx, batch, w)
			if tidemark.CodeOf(err) != code || len(batch.Mutations) == 0 {
				return vs, err
			}
			other := *batch
			other.Client += " again"
			return b.Driver.Push(ctx, &other, w)
		}
	}
}

// outcomes breaks what Write tells.
func outcomes(change func(m tidemark.Mutation, o *tidemark.Outcome)) func(b *brokenLog) {
	return func(b *brokenLog) {
		b.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
			outs, err := b.Driver.WriteTx(ctx, ms, w)
			for i := range outs {
				change(ms[i], &outs[i])
			}
			return outs, err
		}
	}
}

// unlogged has Adopt give the metadata as another program would.
func unlogged(b *brokenLog) {
	b.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
		if len(ms) == 1 && ms[0].Op == tidemark.Adopt && tidemark.TxOf(ctx) == nil {
			now := b.Get(ms[0].Model, ms[0].UID)
			if now.Row != nil && now.Meta.IsZero() && ms[0].Stamp != 0 {
				now.Meta = tidemark.Meta{UID: ms[0].UID, CreatedAt: ms[0].Stamp}
				b.Put(ms[0].Model, now.Row, now.Meta)
				return []tidemark.Outcome{{Applied: true, Changed: true, Row: now.Row, Before: now.Row, Meta: now.Meta}}, nil
			}
		}
		return b.Driver.WriteTx(ctx, ms, w)
	}
}

// twice logs what a transaction wrote a second time.
func twice(b *brokenLog) {
	b.runInTx = func(ctx context.Context, fn func(context.Context) error) error {
		return b.Driver.RunInTx(ctx, func(inner context.Context) error {
			if err := fn(inner); err != nil || tidemark.TxOf(ctx) != nil {
				return err
			}
			p, err := b.Driver.Pull(ctx, tidemark.Pull{Scope: all(b), Limit: 1, Bytes: 1})
			if err != nil || len(p.Rows) > 0 {
				return err
			}
			_, err = b.Driver.Write(inner, []tidemark.Mutation{{Model: "list", UID: "once more", Op: tidemark.Delete, Stamp: 1 << 50}})
			return err
		})
	}
}

// dead are the rows in the scope that are under tombstones.
func dead(b *brokenLog, q tidemark.Pull) (rows []tidemark.RowMeta) {
	found, err := b.Driver.Find(context.Background(), q.Scope, 0)
	if err != nil {
		panic(err)
	}
	for _, row := range found {
		if rm := b.Get(q.Scope.Schema().Name(), row.UID()); rm.Meta.Deleted() {
			rows = append(rows, rm)
		}
	}
	return rows
}

func all(b *brokenLog) *tidemark.Predicate {
	p, err := tidemark.Where{}.Compile(b.Models()[1])
	if err != nil {
		panic(err)
	}
	return p
}

// ahead has a horizon that counts the changes of an open transaction: numbers are given
// when a change is made, and a reader moves on to the highest.
func ahead(b *brokenLog) {
	var mu sync.Mutex
	open := int64(0)
	nonces := map[int64]uint64{}
	const promised = 0xbad // the nonce of a change that is not yet made
	note := func() {
		c, err := b.Driver.Horizon(context.Background())
		if err == nil {
			mu.Lock()
			nonces[c.At] = c.Nonce
			mu.Unlock()
		}
	}
	promise := func(c tidemark.Cursor) tidemark.Cursor {
		mu.Lock()
		defer mu.Unlock()
		if open > 0 {
			c.At, c.Nonce = c.At+open, promised
		}
		return c
	}
	b.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
		outs, err := b.Driver.WriteTx(ctx, ms, w)
		if err == nil && tidemark.TxOf(ctx) != nil {
			mu.Lock()
			open += int64(len(ms))
			mu.Unlock()
		}
		return outs, err
	}
	b.runInTx = func(ctx context.Context, fn func(context.Context) error) error {
		err := b.Driver.RunInTx(ctx, fn)
		mu.Lock()
		open = 0
		mu.Unlock()
		note()
		return err
	}
	b.horizon = func(ctx context.Context) (tidemark.Cursor, error) {
		note()
		c, err := b.Driver.Horizon(ctx)
		return promise(c), err
	}
	b.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
		note()
		now, err := b.Driver.Horizon(ctx)
		if err != nil {
			return nil, err
		}
		if q.From.Nonce == promised {
			mu.Lock()
			for nonces[q.From.At] == 0 && q.From.At < now.At {
				q.From.At++
			}
			q.From.Nonce = nonces[q.From.At]
			mu.Unlock()
		}
		p, err := b.Driver.Pull(ctx, q)
		if err == nil {
			p.Horizon = promise(p.Horizon)
		}
		return p, err
	}
}

// forgiving takes cursors that differ from its own in one part.
func forgiving(part func(good, c *tidemark.Cursor)) func(b *brokenLog) {
	return func(b *brokenLog) {
		seen := sync.Map{} // the cursors that it gave, by position
		b.horizon = func(ctx context.Context) (tidemark.Cursor, error) {
			c, err := b.Driver.Horizon(ctx)
			seen.Store(c.At, c)
			return c, err
		}
		b.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			now, err := b.Driver.Horizon(ctx)
			if err != nil {
				return nil, err
			}
			if !q.From.IsZero() {
				good, ok := seen.Load(q.From.At)
				if !ok {
					good = now
				}
				c := good.(tidemark.Cursor)
				part(&c, &q.From)
			}
			p, err := b.Driver.Pull(ctx, q)
			if err == nil {
				seen.Store(p.Horizon.At, p.Horizon)
			}
			return p, err
		}
	}
}

// racy looks whether a batch is known, and makes it under a name of its own if not: two that look at once both make it.
func racy(b *brokenLog) {
	var mu sync.Mutex
	made := map[string][]tidemark.Verdict{}
	n := 0
	b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
		if batch.Client != "c" || len(batch.Mutations) != 5 || batch.Mutations[3].Model != "list" || batch.Mutations[4].Model != "note" {
			return b.Driver.Push(ctx, batch, w)
		}
		key := fmt.Sprint(batch.Mutations[0].N)
		mu.Lock()
		vs := slices.Clone(made[key])
		mu.Unlock()
		if vs != nil {
			for i := range vs {
				vs[i].Repeated = true
			}
			return vs, nil
		}
		for range 1000 {
			runtime.Gosched()
		}
		mu.Lock()
		n++
		other := *batch
		other.Client = fmt.Sprint("c ", n)
		mu.Unlock()
		vs, err := b.Driver.Push(ctx, &other, w)
		mu.Lock()
		made[key] = vs
		mu.Unlock()
		return slices.Clone(vs), err
	}
}
