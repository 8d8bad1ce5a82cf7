package client

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// The push path: the head of the outbox goes to the server, alone, and the next
// one only after its verdict. So a parent precedes its child, whatever the models.

// pushing is the state of one connection's push path.
type pushing struct {
	flight  *flight // the mutation whose verdict is awaited, nil for none
	retryAt time.Time
	backoff backoff
	// paused says that the outbox was empty, or its head could not be delivered,
	// so that synchronising need not wait for it any longer.
	paused bool
}

// pushNext sends the head of the outbox, unless one is on its way.
func (s *session) pushNext(ctx context.Context) error {
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
			return nil
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
	s.pushing.flight = f
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
		s.pushing.paused = true
		s.pushing.retryAt = s.now().Add(s.pushing.backoff.next(&s.c.opts))
		s.c.log.Debug("write stays pending", "n", m.N, "error", err)
		s.c.fault(err)
		return nil
	}
	s.pushing.backoff.reset()
	return s.refused(ctx, m, tidemark.WireError(err))
}

// decided stores the server's state after m, whoever won.
func (s *session) decided(ctx context.Context, m tidemark.Mutation, t tidemark.RowMeta) error {
	s.c.now().Observe(t.Meta.T(), tidemark.DefaultMaxDrift)
	if m.Stamp > t.Meta.T() && m.Op != tidemark.Delete {
		s.c.clamped(m.Stamp, t.Meta.T())
	}
	return s.conclude(ctx, m, func(w *work, r *tidemark.Record, later []tidemark.Mutation) error {
		won := applied(m, t)
		if won && m.Op != tidemark.Delete && t.Row == nil {
			// The server told no row: it is the former one with this write.
			base, meta := tidemark.Rebase(r.Base, r.Meta, []tidemark.Mutation{m})
			if meta.T() == m.Stamp {
				t.Row = base
			}
		}
		w.told(r, t, true)
		if won || overwritten(m, t.Meta, later) {
			return nil
		}
		return w.reject(m, nil, t.Row, t.Meta)
	})
}

// refused stores that the server refused m, and takes it out of the visible row.
func (s *session) refused(ctx context.Context, m tidemark.Mutation, e *tidemark.Error) error {
	s.c.log.Info("write was rejected", "n", m.N, "model", m.Model, "code", e.Code)
	return s.conclude(ctx, m, func(w *work, r *tidemark.Record, _ []tidemark.Mutation) error {
		return w.reject(m, e, r.Base, r.Meta)
	})
}

// conclude removes m from the outbox and changes its row's record by fn, in one
// transaction. When m is no longer there (the model was reset) nothing is done.
func (s *session) conclude(ctx context.Context, m tidemark.Mutation, fn func(w *work, r *tidemark.Record, later []tidemark.Mutation) error) error {
	return s.c.commit(ctx, func(w *work) error {
		recs, err := w.tx.Records(m.Model, []string{m.UID})
		if err != nil {
			return err
		}
		pending, err := w.pendingOf(m.Model, recs)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(pending[m.UID], func(p tidemark.Mutation) bool { return p.N == m.N })
		if at < 0 {
			return nil
		}
		if err := fn(w, &recs[0], pending[m.UID][at+1:]); err != nil {
			return err
		}
		if err := w.dequeue([]int64{m.N}); err != nil {
			return err
		}
		pending[m.UID] = slices.Delete(pending[m.UID], at, at+1)
		return w.settle(m.Model, recs, pending)
	})
}

// applied reports whether the state t is what m wanted: it has m's stamp, or an
// earlier one that the server clamped it to. In the second case a state with
// other values than m's is somebody else's. A row that is deleted is deleted,
// whoever did it.
func applied(m tidemark.Mutation, t tidemark.RowMeta) bool {
	if t.Meta.Deleted() || m.Op == tidemark.Delete {
		return t.Meta.Deleted() && m.Op == tidemark.Delete
	}
	switch at := t.Meta.T(); {
	case at > m.Stamp:
		return false
	case at == m.Stamp, t.Row == nil:
		return true
	}
	return contains(t.Row, m.Data)
}

// contains reports whether row has no value that differs from the patch's.
func contains(row, patch tidemark.Row) bool {
	same := true
	_ = tidemark.EachMember(patch, func(key string, value []byte) error {
		if got := row.Get(key); got != nil && !bytes.Equal(got, value) {
			same = false
		}
		return nil
	})
	return same
}

// overwritten reports whether a later write of the row, which will win over meta,
// replaces all that m wrote: then nothing of the user's is lost with m.
func overwritten(m tidemark.Mutation, meta tidemark.Meta, later []tidemark.Mutation) bool {
	for _, l := range later {
		if l.Stamp <= meta.T() {
			continue
		}
		if l.Op == tidemark.Delete {
			return true
		}
		covered := true
		_ = tidemark.EachMember(m.Data, func(key string, _ []byte) error {
			covered = covered && l.Data.Get(key) != nil
			return nil
		})
		if covered && m.Op != tidemark.Delete {
			return true
		}
	}
	return false
}
