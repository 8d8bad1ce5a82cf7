package client

import (
	"bytes"
	"context"

	"github.com/tidemark-sync/tidemark"
)

// work is one transaction of the store, with what has to be told to others once
// it is durable.
type work struct {
	c  *Client
	tx tidemark.StoreTx

	changes    []change
	queued     int                 // mutations that went into the outbox
	local      []tidemark.Mutation // those of them that the application made now
	dequeued   int
	highest    int64 // the number of the last one queued
	rejections []Rejection
	dismissed  int // rejections that were removed
	lease      tidemark.Stamp
	loss       int64 // the pass before which all may be lost; 0 when nothing was found lost
}

// change is one row that looks different to the application now.
type change struct {
	model         string
	before, after tidemark.Row
}

// commit runs fn in one transaction of the store and then tells live queries,
// the status and the connection loop what has changed.
func (c *Client) commit(ctx context.Context, fn func(*work) error) error {
	if err := c.closed(); err != nil {
		return err
	}
	w, done := &work{c: c}, false
	defer func() {
		if !done && w.queued > 0 { // fn may have panicked
			c.pending.Add(int64(-w.queued))
			c.recount.Store(true) // somebody may have counted since the transaction was undone
			c.poke()
		}
	}()
	err := c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		w.tx = tx
		return fn(w)
	})
	if err != nil {
		return err
	}
	done = true
	w.publish()
	return nil
}

func (w *work) publish() {
	c := w.c
	if w.lease > 0 {
		c.lease.Store(int64(w.lease))
	}
	if w.loss > 0 {
		c.pass.Store(w.loss)
		c.loss.Store(w.loss)
	}
	if left := c.pending.Add(int64(-w.dequeued)); w.dequeued > 0 && left <= 0 {
		c.recount.Store(true)
	}
	c.rejected.Add(int64(len(w.rejections) - w.dismissed))
	for h := c.highest.Load(); w.highest > h && !c.highest.CompareAndSwap(h, w.highest); {
		h = c.highest.Load()
	}
	c.notify(w.changes)
	if w.queued+w.dequeued+len(w.rejections)+w.dismissed > 0 {
		c.touch()
	}
	if w.queued > 0 {
		c.poke()
	}
	if fn := c.opts.OnRejection; fn != nil {
		for _, r := range w.rejections {
			if !c.callbacks.add(func() { fn(r) }) {
				c.log.Warn("callbacks are too far behind, a rejection was not signalled", "id", r.ID)
			}
		}
	}
}

// records returns the records of uids by uid.
func (w *work) records(model string, uids []string) (map[string]*tidemark.Record, []tidemark.Record, error) {
	recs, err := w.tx.Records(model, uids)
	if err != nil {
		return nil, nil, err
	}
	byUID := make(map[string]*tidemark.Record, len(recs))
	for i := range recs {
		byUID[recs[i].UID] = &recs[i]
	}
	return byUID, recs, nil
}

// pendings are the mutations in the outbox of some rows, by uid, in their order.
type pendings map[string][]tidemark.Mutation

// pendingOf reads the pending writes of those of the records that have some.
func (w *work) pendingOf(model string, recs []tidemark.Record) (pendings, error) {
	var uids []string
	for i := range recs {
		if recs[i].Pending > 0 {
			uids = append(uids, recs[i].UID)
		}
	}
	out := pendings{}
	if len(uids) == 0 {
		return out, nil
	}
	ms, err := w.tx.Pending(model, uids)
	for _, m := range ms {
		out[m.UID] = append(out[m.UID], m)
	}
	return out, err
}

// resettle settles records whose pending writes are as they were.
func (w *work) resettle(model string, recs []tidemark.Record) error {
	pending, err := w.pendingOf(model, recs)
	if err != nil {
		return err
	}
	return w.settle(model, recs, pending)
}

// settle stores records whose Base, Meta or pending writes have changed: the one
// place where a visible row is computed, but for that of a new write (see show).
func (w *work) settle(model string, recs []tidemark.Record, pending pendings) error {
	if len(recs) == 0 {
		return nil
	}
	for i := range recs {
		r := &recs[i]
		before := r.Row
		r.Row, _ = tidemark.Rebase(r.Base, r.Meta, pending[r.UID])
		r.Pending = len(pending[r.UID])
		if r.Pending == 0 && r.Meta.Deleted() {
			r.Base = nil // it had left, and was kept for what was pending
		}
		w.changed(model, before, r.Row)
	}
	return w.store(model, recs)
}

// store stores records whose visible rows are right.
func (w *work) store(model string, recs []tidemark.Record) error {
	w.c.disturb(model)
	return w.tx.Put(model, recs)
}

// changed notes what a row has become, if that is another.
func (w *work) changed(model string, before, after tidemark.Row) {
	if !bytes.Equal(before, after) {
		w.changes = append(w.changes, change{model, before, after})
	}
}

// enqueue appends to the outbox; it sets the numbers of ms. They are counted at
// once, so that the count is never below what a concurrent reader can find.
func (w *work) enqueue(ms []tidemark.Mutation) error {
	if len(ms) == 0 {
		return nil
	}
	if err := w.tx.Enqueue(ms); err != nil {
		return err
	}
	w.queued += len(ms)
	w.c.pending.Add(int64(len(ms)))
	if w.c.given.Swap(ms[len(ms)-1].N) < ms[0].N-1 {
		w.c.recount.Store(true)
	}
	w.highest = ms[len(ms)-1].N
	return nil
}

// countAgain counts what is pending, when there may be writes of another client over the
// same store: a number was given to somebody else, or all seems to be pushed. Nobody
// writes meanwhile.
func (c *Client) countAgain(ctx context.Context) error {
	if !c.recount.Swap(false) {
		return nil
	}
	return c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		count, highest, err := tx.Queued()
		if err != nil {
			return err
		}
		if c.pending.Swap(int64(count)) != int64(count) {
			c.highest.Store(max(c.highest.Load(), highest))
			c.touch()
		}
		return nil
	})
}

func (w *work) dequeue(ns []int64) error {
	w.dequeued += len(ns)
	return w.tx.Dequeue(ns)
}

// local is a write that the application makes.
type local struct {
	model, uid string
	op         tidemark.Op
	data       tidemark.Row
	// may returns why it cannot be made of a row that looks so, nil when it can; nil for always.
	may func(visible tidemark.Row) error
}

// write makes a local write, and returns the row that is visible afterwards. An
// error of l.may leaves everything as it was. How many writes of the row are pending makes
// no difference to what it takes: the new one is newer than all of them.
func (w *work) write(l local) (tidemark.Row, error) {
	recs, err := w.tx.Records(l.model, []string{l.uid})
	if err != nil {
		return nil, err
	}
	r := &recs[0]
	if l.may != nil {
		if err := l.may(r.Row); err != nil {
			return r.Row, err
		}
	}
	newest := r.Meta.T()
	if r.Pending > 0 {
		last, err := w.tx.Newest(l.model, l.uid)
		if err != nil {
			return nil, err
		}
		newest = max(newest, last)
	}
	ms := []tidemark.Mutation{{Model: l.model, UID: l.uid, Op: l.op, Data: l.data, Stamp: w.c.stampAfter(newest)}}
	if err := w.saveClock(ms[0].Stamp); err != nil {
		return nil, err
	}
	if err := w.enqueue(ms); err != nil {
		return nil, err
	}
	w.local = append(w.local, tidemark.Mutation{N: ms[0].N, Stamp: ms[0].Stamp})
	err = w.show(r, ms)
	if err == nil {
		err = w.store(l.model, recs)
	}
	return r.Row, err
}

// show puts the newest write of a row on top of what is visible of it.
func (w *work) show(r *tidemark.Record, ms []tidemark.Mutation) error {
	m, before := &ms[0], r.Row
	switch {
	case r.Pending == 0:
		r.Row, _ = tidemark.Rebase(r.Base, r.Meta, ms)
	case before != nil || m.Op != tidemark.Update:
		r.Row, _ = tidemark.Rebase(before, tidemark.Meta{}, ms)
	default: // an update of what is hidden, tried again: it may bring back what the server deleted
		pending, err := w.tx.Pending(m.Model, []string{m.UID})
		if err != nil {
			return err
		}
		r.Row, _ = tidemark.Rebase(r.Base, r.Meta, pending)
	}
	r.Pending++
	w.changed(m.Model, before, r.Row)
	return nil
}

// unite makes the local writes of this transaction one unit, unless there is only one.
func (w *work) unite() error {
	if len(w.local) < 2 {
		return nil
	}
	unit := w.local[len(w.local)-1].N
	for i := range w.local {
		w.local[i].Unit = unit
	}
	return w.tx.Amend(w.local)
}
