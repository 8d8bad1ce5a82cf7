package client

import (
	"context"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// The push path: the outbox goes to the server from its head, in its order, so that
// a parent precedes its child, whatever the models. In the guide's protocol one
// write goes alone, and the next one only after its verdict; in the second, batches do.

// outboxPage is how many writes are read of the outbox at once where all are looked at.
const outboxPage = 1000

// pushing is the state of one connection's push path.
type pushing struct {
	flight  *flight // the write whose verdict is awaited in the guide's protocol, nil for none
	n       int64   // its number
	batched batched
	retryAt time.Time
	backoff backoff
	// paused says that the outbox was empty, or its head could not be delivered,
	// so that synchronising need not wait for it any longer.
	paused bool
}

// pushNext sends what can be sent of the outbox.
func (s *session) pushNext(ctx context.Context) error {
	if err := s.c.countAgain(ctx); err != nil {
		return err
	}
	if s.opened != nil {
		return s.pushBatches(ctx)
	}
	return s.pushOne(ctx)
}

// pushOne sends the head of the outbox, unless one is on its way.
func (s *session) pushOne(ctx context.Context) error {
	p := &s.pushing
	if p.flight != nil || s.now().Before(p.retryAt) {
		return nil
	}
	for p.flight == nil {
		highest := s.c.highest.Load()
		if s.c.pending.Load() <= 0 {
			p.paused = true
			s.c.pushed(highest)
			return nil
		}
		var head []tidemark.Mutation
		err := s.c.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
			head, err = tx.Outbox(0, 1)
			return err
		})
		if err != nil {
			return err
		}
		if len(head) == 0 {
			p.paused = true
			s.c.pushed(highest)
			return s.drained(ctx)
		}
		s.c.pushed(head[0].N - 1)
		if s.c.schema(head[0].Model) == nil {
			return s.undeclared(head[0].Model)
		}
		if err := s.push(ctx, head[0]); err != nil {
			return err
		}
	}
	return nil
}

// drained is called when there is nothing to send. Where writes are pending none the less, another
// client over the same store has pushed them.
func (s *session) drained(ctx context.Context) error {
	if s.c.pending.Load() > 0 && s.pushing.flight == nil && len(s.pushing.batched.flights) == 0 {
		s.c.recount.Store(true)
	}
	return s.c.countAgain(ctx)
}

// undeclared leaves the outbox as it is: its head is of a model that this run has
// not declared yet, and those behind it may depend on it. Declaring wakes the session.
func (s *session) undeclared(model string) error {
	s.pushing.paused = true
	s.c.fault(tidemark.NewError(tidemark.CodeUnknownModel, "writes wait until the model %s is declared", model))
	return nil
}

func (s *session) push(ctx context.Context, m tidemark.Mutation) error {
	req := s.c.speak.push(m)
	if most := s.c.opts.mostBytes(s.link); req.size() > most {
		return s.refused(ctx, m, tidemark.NewError(tidemark.CodeTooLarge, "the write exceeds %d bytes", most))
	}
	f, err := s.send(ctx, req, func(ctx context.Context, a tidemark.Answer, err error) error {
		s.pushing.flight = nil
		return s.verdict(ctx, m, a, err)
	})
	s.pushing.flight, s.pushing.n = f, m.N
	return err
}

// verdict deals with the answer to m: what the server decided is stored; what
// says nothing about the write itself leaves it pending, to be sent again.
func (s *session) verdict(ctx context.Context, m tidemark.Mutation, a tidemark.Answer, err error) error {
	schema := s.c.schema(m.Model)
	if err == nil && a.Err != nil {
		err = a.Err
	}
	var t tidemark.RowMeta
	if err == nil {
		t, err = s.c.speak.verdict(schema, m, a.Result)
		if err != nil {
			err = tidemark.Wrap(err, tidemark.CodeUnavailable, "the server's answer to a write is malformed")
		}
	}
	switch {
	case stranger(err):
		return err
	case err == nil:
		s.pushing.backoff.reset()
		return s.decided(ctx, m, t)
	case tidemark.Temporary(err):
		s.undelivered(m.N, err)
		return nil
	}
	s.pushing.backoff.reset()
	return s.refused(ctx, m, tidemark.WireError(err))
}

// undelivered has the outbox from number n on wait before it is sent again.
func (s *session) undelivered(n int64, err error) {
	s.pushing.paused = true
	s.pushing.retryAt = s.now().Add(s.pushing.backoff.next(&s.c.opts))
	s.c.log.Debug("writes stay pending", "from", n, "error", err)
	s.c.fault(err)
}

// decided stores the server's state after m, whoever won.
func (s *session) decided(ctx context.Context, m tidemark.Mutation, t tidemark.RowMeta) error {
	s.c.observe(t.Meta.T())
	if m.Stamp > t.Meta.T() && m.Op != tidemark.Delete {
		s.c.clamped(m.Stamp, t.Meta.T())
	}
	d := decisionOf(&m)
	d.applied, d.state = applied(m, t), t
	return s.conclude(ctx, d)
}

// refused stores that m was refused, and takes it out of the visible row.
func (s *session) refused(ctx context.Context, m tidemark.Mutation, e *tidemark.Error) error {
	s.c.log.Info("write was rejected", "n", m.N, "model", m.Model, "code", e.Code)
	d := decisionOf(&m)
	d.err = e
	return s.conclude(ctx, d)
}

func (s *session) conclude(ctx context.Context, ds ...decision) error {
	return s.c.commit(ctx, func(w *work) error { return w.conclude(ds) })
}
