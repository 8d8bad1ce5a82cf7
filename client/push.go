package client

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

const (
	// pushMost is how many writes a batch has at most, and a unit.
	pushMost = 500
	// pushBytes is about how large a batch is, unless it is one unit.
	pushBytes = 256 << 10
	// pushWindow is how many batches are on their way at once: while the server decides
	// one, the verdicts of the other are stored here.
	pushWindow = 2
)

// batched is the state of one connection's push path in the second protocol.
type batched struct {
	flights []*batch
	sent    int64 // the number of the last write sent; 0 when the head of the outbox is next
	known   int64 // the number up to which the server has decided; 0 when it knows nothing under this name
	offered int   // how many writes the server takes at once
	most    int   // how many are sent at once: fewer, while the one that the server fails on is looked for
	ahead   bool  // the clock is to be lowered once nothing is on its way
	renamed bool  // the server did not accept the last name, and nothing has been decided since
}

// batch is a part of the outbox on its way to the server.
type batch struct {
	name string // the client's
	ms   []tidemark.Mutation
	// void says that not all before it was decided: so nothing of it is, and it will
	// be sent again.
	void bool
}

// pushBatches sends the outbox from where it was sent to, as far as there is room.
func (s *session) pushBatches(ctx context.Context) error {
	b := &s.pushing.batched
	for len(b.flights) < b.window() && !b.halted() && !s.now().Before(s.pushing.retryAt) {
		if b.ahead {
			if len(b.flights) > 0 {
				return nil
			}
			if err := s.c.lower(ctx); err != nil {
				return err
			}
			b.ahead = false
		}
		if more, err := s.pushBatch(ctx); err != nil || !more {
			return err
		}
	}
	return nil
}

// window is how many batches may be on their way: one under a name that the server does
// not know. It would let any batch be the first, also one behind another that it lost.
func (b *batched) window() int {
	if b.known == 0 {
		return 1
	}
	return pushWindow
}

// halted reports whether what is on its way has to land before more is sent.
func (b *batched) halted() bool {
	return slices.ContainsFunc(b.flights, func(f *batch) bool { return f.void })
}

// abandon has everything from the head of the outbox sent again.
func (b *batched) abandon() {
	for _, f := range b.flights {
		f.void = true
	}
	b.sent = 0
}

// pushBatch sends the next batch; more says that there may be another one.
func (s *session) pushBatch(ctx context.Context) (more bool, err error) {
	b := &s.pushing.batched
	highest := s.c.highest.Load()
	if len(b.flights) > 0 && b.sent >= highest {
		return false, nil
	}
	var name string
	var ms []tidemark.Mutation
	if s.c.pending.Load() > 0 {
		if name, ms, err = s.c.queue(ctx, b.sent); err != nil {
			return false, err
		}
	}
	if len(b.flights) == 0 {
		s.c.pushed(before(ms, highest))
	}
	if len(ms) == 0 {
		s.pushing.paused = s.pushing.paused || len(b.flights) == 0
		return false, s.drained(ctx)
	}
	if last := cmp.Or(b.sent, b.known); last > 0 && ms[0].N > last+1 {
		if len(b.flights) > 0 {
			return false, nil // first the verdicts of what went under the old name
		}
		return true, s.rename(ctx, "the numbers of the outbox have a hole")
	}
	return s.sendHead(ctx, name, ms)
}

// before returns the number up to which the outbox is empty, when ms begins it and
// highest was the last number queued before it was read.
func before(ms []tidemark.Mutation, highest int64) int64 {
	if len(ms) > 0 {
		return ms[0].N - 1
	}
	return highest
}

// queue returns the client's name and the writes that follow number after, no
// more than a batch can have.
func (c *Client) queue(ctx context.Context, after int64) (name string, ms []tidemark.Mutation, err error) {
	err = c.store.View(ctx, func(tx tidemark.StoreTx) error {
		raw, err := tx.Load(keyClient)
		if err == nil {
			name = string(raw)
			ms, err = tx.Outbox(after, pushMost)
		}
		return err
	})
	if err == nil && name == "" {
		name, err = c.name(ctx)
	}
	return name, ms, err
}

// sendHead sends those of ms that go as one batch.
func (s *session) sendHead(ctx context.Context, name string, ms []tidemark.Mutation) (more bool, err error) {
	b := &s.pushing.batched
	most := s.c.opts.mostBytes(s.link)
	head := s.c.batchOf(ms, b.most, min(pushBytes, most*3/4))
	if len(head) == 0 {
		if len(b.flights) == 0 {
			return false, s.undeclared(ms[0].Model)
		}
		return false, nil
	}
	out := tidemark.Batch{Client: name, Confirmed: head[0].N - 1, Mutations: head}
	if len(b.flights) > 0 {
		out.Confirmed = b.flights[0].ms[0].N - 1
	}
	raw, err := out.MarshalJSON()
	if err != nil {
		return false, err
	}
	req := request{service: tidemark.ServiceSync, method: tidemark.MethodPush, args: []json.RawMessage{raw}}
	if n := req.size(); n > most || len(head) > b.offered {
		e := tidemark.NewError(tidemark.CodeTooLarge, "%d writes that go together, of %d bytes, are more than %d, or than %d bytes", len(head), n, b.offered, most)
		return true, s.divide(ctx, head, e)
	}
	f := &batch{name: name, ms: head}
	_, err = s.send(ctx, req, func(ctx context.Context, a tidemark.Answer, err error) error { return s.landed(ctx, f, a, err) })
	if err != nil {
		return false, err
	}
	b.flights = append(b.flights, f)
	b.sent = head[len(head)-1].N
	return true, nil
}

// batchOf returns those of ms, the first that are due, that go as one batch: with
// consecutive numbers, of declared models, in whole units, as many and as large as they may be; at
// least one unit. Of a unit of which writes were discarded, what is left in
// consecutive numbers is one: their Unit is set.
func (c *Client) batchOf(ms []tidemark.Mutation, most, bytes int) []tidemark.Mutation {
	n, size := 0, 0
	for n < len(ms) {
		to := unitEnd(ms, n)
		for i := n; i < to; i++ {
			if ms[i].N != ms[0].N+int64(i) || c.schema(ms[i].Model) == nil {
				return ms[:n]
			}
			size += len(ms[i].Data) + len(ms[i].UID) + len(ms[i].Model) + 64
		}
		cut := to == pushMost && ms[n].Unit > ms[to-1].N // the rest of it was not read
		if n > 0 && (cut || to > most || size > bytes) {
			break
		}
		unit := ms[to-1].N
		if to-n == 1 {
			unit = 0
		}
		for ; n < to; n++ {
			ms[n].Unit = unit
		}
	}
	return ms[:n]
}

// unitEnd returns where the unit, or the write on its own, ends that begins at from.
func unitEnd(ms []tidemark.Mutation, from int) int {
	to := from + 1
	for ms[from].Unit != 0 && to < len(ms) && ms[to].Unit == ms[from].Unit && ms[to].N == ms[to-1].N+1 {
		to++
	}
	return to
}

// landed deals with the answer to a batch.
func (s *session) landed(ctx context.Context, f *batch, a tidemark.Answer, err error) error {
	b := &s.pushing.batched
	b.flights = slices.DeleteFunc(b.flights, func(other *batch) bool { return other == f })
	if err == nil && a.Err != nil {
		err = a.Err
	}
	if stranger(err) {
		return err
	}
	if f.void {
		return nil
	}
	var answer tidemark.PushAnswer
	if err == nil {
		answer, err = f.read(a.Result)
	}
	if err == nil {
		return s.verdicts(ctx, f, &answer)
	}
	b.abandon()
	switch code := tidemark.CodeOf(err); {
	case code == tidemark.CodeGap || code == tidemark.CodeRepeated:
		if b.renamed { // not even under a name that was new: no reason to hurry
			s.undelivered(f.ms[0].N, err)
		}
		b.renamed = true
		return s.rename(ctx, "the server remembers another outbox: "+string(code))
	case tidemark.Temporary(err), closedTo(code):
		s.undelivered(f.ms[0].N, err)
		return nil
	}
	return s.divide(ctx, f.ms, tidemark.WireError(err))
}

// closedTo reports whether the server takes no batch from this client, whatever is in it.
func closedTo(code tidemark.Code) bool {
	return code == tidemark.CodeDenied || code == tidemark.CodeMissingService || code == tidemark.CodeMissingMethod
}

// read reads the answer to f: verdicts of its first writes, at least one.
func (f *batch) read(result json.RawMessage) (a tidemark.PushAnswer, err error) {
	err = a.UnmarshalJSON(result)
	if err == nil && (len(a.Verdicts) == 0 || len(a.Verdicts) > len(f.ms) || a.Verdicts[0].N != f.ms[0].N) {
		err = tidemark.NewError(tidemark.CodeInvalidData, "the verdicts are of other writes")
	}
	if err != nil {
		err = tidemark.Wrap(err, tidemark.CodeUnavailable, "the server's answer to a batch is malformed")
	}
	return a, err
}

// divide deals with writes that are refused together, for no reason that says which
// of them is meant: they are sent again in smaller batches. A unit that goes alone
// and is refused is rejected here. The server never decides its numbers, so the
// client's name is the next to go: see pushBatch.
func (s *session) divide(ctx context.Context, ms []tidemark.Mutation, e *tidemark.Error) error {
	if unitEnd(ms, 0) < len(ms) {
		s.pushing.batched.most = max(len(ms)/2, 1)
		return nil
	}
	s.c.log.Info("writes were rejected", "first", ms[0].N, "writes", len(ms), "code", e.Code)
	ds := make([]decision, len(ms))
	for i := range ms {
		ds[i] = decisionOf(&ms[i])
		ds[i].err = e
	}
	return s.conclude(ctx, ds...)
}

// verdicts stores what the server decided, in one transaction. What it has not
// come to is sent again.
func (s *session) verdicts(ctx context.Context, f *batch, a *tidemark.PushAnswer) error {
	b := &s.pushing.batched
	ds := make([]decision, len(a.Verdicts))
	for i := range a.Verdicts {
		ds[i] = s.c.decisionBy(&a.Verdicts[i], &f.ms[i])
	}
	last := f.ms[len(ds)-1].N
	err := s.c.commit(ctx, func(w *work) error {
		if err := w.conclude(ds); err != nil {
			return err
		}
		return w.decidedUpto(f.name, last)
	})
	if err != nil {
		return err
	}
	b.known, b.renamed = last, false
	s.pushing.backoff.reset()
	s.c.correct(a.Now, s.took)
	b.ahead = s.c.ahead()
	if len(ds) < len(f.ms) {
		b.abandon()
	} else {
		b.most = min(b.most*2, b.offered)
	}
	return nil
}

// decisionBy is what a verdict says about the write m. A state that cannot be one of its
// row's counts as none: the verdict stands all the same, since the queue must go on.
func (c *Client) decisionBy(v *tidemark.Verdict, m *tidemark.Mutation) decision {
	d := decisionOf(m)
	d.err = v.Err
	if v.Meta.T() != 0 {
		v.Meta.UID = m.UID
		d.state = tidemark.RowMeta{Row: v.Row, Meta: v.Meta}
		err := clean(c.schema(m.Model), &d.state)
		if err == nil && d.state.Row != nil && d.state.Row.UID() != m.UID {
			err = tidemark.NewError(tidemark.CodeInvalidData, "the row is another one")
		}
		if err != nil {
			c.log.Warn("malformed row of a verdict", "model", m.Model, "n", m.N, "error", err)
			d.state = tidemark.RowMeta{}
		}
	}
	c.observe(d.state.Meta.T())
	d.applied = v.Err == nil && (v.Applied || again(*m, d.state))
	return d
}

// again reports whether a write that was superseded by the state t was so by itself:
// it had been applied before, when the client had another name.
func again(m tidemark.Mutation, t tidemark.RowMeta) bool {
	return t.Meta.UID != "" && applied(m, t) && contains(t.Row, m.Data)
}
