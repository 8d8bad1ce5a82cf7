package memory

import (
	"context"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// client is what is remembered of a client that has pushed.
type client struct {
	ledger *tidemark.Ledger
	pushed time.Time // when it did so last
}

// Push makes the mutations under one lock. A context that carries a transaction is refused:
// there is one writer, and Push would wait for itself.
func (d *Driver) Push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	if err := d.alone(ctx); err != nil {
		return nil, err
	}
	defer d.release()
	heard := w
	if w == nil {
		heard = nobody{}
	}
	repeated, outcomes, err := d.push(ctx, b, heard)
	if err != nil {
		return nil, err
	}
	if fresh := outcomes[repeated:]; w != nil && len(fresh) > 0 {
		w.Decided(repeated, fresh)
		w.Ended(true)
	}
	verdicts := make([]tidemark.Verdict, len(outcomes))
	for i := range outcomes {
		verdicts[i] = tidemark.Verdict{N: b.Mutations[i].N, Outcome: outcomes[i], Repeated: i < repeated}
	}
	return verdicts, nil
}

// push returns the outcomes of all mutations, the first of which are repetitions.
func (d *Driver) push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) (repeated int, outcomes []tidemark.Outcome, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return 0, nil, err
	}
	c, err := d.client(b)
	if err != nil {
		return 0, nil, err
	}
	if repeated, err = c.ledger.Admit(b); err != nil {
		return 0, nil, err
	}
	fresh := make([]tidemark.Outcome, 0, len(b.Mutations)-repeated)
	_ = tidemark.EachUnit(b.Mutations[repeated:], func(from, to int) error { // the function returns no error
		fresh = append(fresh, d.unit(b, repeated+from, repeated+to)...)
		return nil
	})
	for i := range b.Mutations[:repeated] {
		outcomes = append(outcomes, d.again(&b.Mutations[i], c.ledger.Receipt(b.Mutations[i].N)))
	}
	c.ledger.Record(b, fresh)
	c.pushed = d.now()
	d.clients[b.Client] = c
	d.unheard(0, w)
	d.commit()
	return repeated, append(outcomes, fresh...), nil
}

// client returns what is known of the batch's client.
func (d *Driver) client(b *tidemark.Batch) (*client, error) {
	if c := d.clients[b.Client]; c != nil {
		return c, nil
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	return &client{ledger: tidemark.NewLedger(b)}, nil
}

// again returns the outcome of a mutation that was decided before.
func (d *Driver) again(m *tidemark.Mutation, r *tidemark.Receipt) tidemark.Outcome {
	o := tidemark.Outcome{Applied: r.Applied, Err: tidemark.WireErrorOf(r.Err)}
	if t := d.tables[m.Model]; t != nil && r.Err == nil {
		rm := d.rowMeta(t, m.UID)
		o.Row, o.Meta = rm.Row, rm.Meta
	}
	return o
}

// unit makes b.Mutations[from:to], all of them or none.
func (d *Driver) unit(b *tidemark.Batch, from, to int) []tidemark.Outcome {
	outcomes := make([]tidemark.Outcome, to-from)
	made, undo := len(d.made), make([]saved, 0, to-from)
	refused := false
	for i := range outcomes {
		m := &b.Mutations[from+i]
		if e := b.Refusal(from + i); e != nil {
			outcomes[i].Err = tidemark.WireErrorOf(e)
		} else {
			undo = append(undo, d.save(m))
			outcomes[i] = d.writeAll(b.Mutations[from+i : from+i+1])[0]
		}
		refused = refused || outcomes[i].Err != nil
	}
	if !refused {
		return outcomes
	}
	d.made = d.made[:made]
	for _, s := range slices.Backward(undo) {
		d.restore(s)
	}
	for i := range outcomes {
		if outcomes[i].Err == nil {
			outcomes[i] = tidemark.Outcome{Err: tidemark.NewError(tidemark.CodeUnit, "another write of the unit was refused")}
		}
	}
	return outcomes
}

// saved is how a row stood before a mutation that may be undone.
type saved struct {
	table *table // nil for a model that does not exist
	uid   string
	row   tidemark.Row
	entry entry
	known bool // whether there is an entry
}

func (d *Driver) save(m *tidemark.Mutation) saved {
	s := saved{table: d.tables[m.Model], uid: m.UID}
	if s.table != nil {
		s.row = s.table.rows[m.UID]
	}
	s.entry, s.known = d.metas[m.UID]
	return s
}

func (d *Driver) restore(s saved) {
	if s.table != nil {
		s.table.put(s.uid, s.row)
	}
	if s.known {
		d.metas[s.uid] = s.entry
	} else {
		delete(d.metas, s.uid)
	}
}

// Known returns the highest number of the client's mutations.
func (d *Driver) Known(ctx context.Context, client string) (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(ctx); err != nil {
		return 0, err
	}
	if c := d.clients[client]; c != nil {
		return c.ledger.Highest, nil
	}
	return 0, nil
}

// alone waits for the caller's turn to write, in a transaction of its own.
func (d *Driver) alone(ctx context.Context) error {
	if tidemark.TxOf(ctx) != nil { // it would wait for that one
		return tidemark.NewError(tidemark.CodeInvalidRequest, "this cannot be part of a transaction")
	}
	return d.take(ctx)
}
