package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// unanswered are writes that were decided, and whose transaction may have been committed or not:
// the driver lost the answer. Their callers have an error. Those that were made nevertheless go on
// as if the answer had come: after-hooks run, and channels hear of them. Without it members of
// channels would show the row as it was until somebody writes it again.
type unanswered struct {
	server *Server
	ms     []tidemark.Mutation
	runs   []*run // of each, nil for one that needs nothing
}

// afterwards looks after the writes of d that are unanswered. d and runs may be nil.
func (s *Server) afterwards(d *deciding, runs []*run, err error) {
	if d == nil || len(runs) == 0 || !tidemark.Temporary(err) {
		return
	}
	u := &unanswered{server: s}
	for _, open := range d.unanswered {
		for i := open[0]; i < open[1]; i++ {
			if r := runs[i]; r != nil && d.ms[i].Stamp != 0 {
				u.ms, u.runs = append(u.ms, d.ms[i]), append(u.runs, r.again())
			}
		}
	}
	if len(u.ms) > 0 {
		s.spawn(u.run)
	}
}

// again returns a copy of the run for what follows its commit, which the caller does not wait for.
func (r *run) again() *run {
	again, call := *r, *r.call
	again.call, again.ctx, again.err = &call, context.WithoutCancel(r.ctx), nil
	return &again
}

// run looks at the rows until it is known what became of the writes. The database may need a while to come back, and a
// COMMIT whose connection broke may land after a look: who seems to have been rolled back is looked at again.
func (u *unanswered) run() {
	const patience = 30 * time.Second
	again, failing := []time.Duration{time.Second, 4 * time.Second}, time.Duration(0)
	for {
		err := u.look()
		wait := time.Duration(0)
		switch {
		case err != nil:
			if failing = max(2*failing, 10*time.Millisecond); failing > patience {
				u.server.log.Warn("it is unknown what was committed: channels may not have heard of it", slog.Any("error", err))
				return
			}
			wait = failing
		case len(u.ms) == 0 || len(again) == 0:
			return
		default:
			wait, again, failing = again[0], again[1:], 0
		}
		select {
		case <-time.After(wait):
		case <-u.server.ctx.Done():
			return
		}
	}
}

// look tells of the writes that were made, and keeps those of which that is not known yet.
func (u *unanswered) look() error {
	s := u.server
	ctx, cancel := s.bound(s.ctx)
	defer cancel()
	slots := make(map[rowKey]*slot, len(u.ms)) // those that nothing goes into
	defer func() {
		for _, slot := range slots {
			slot.settle(false)
		}
	}()
	keys := make([]rowKey, len(u.ms))
	for i := range u.ms {
		keys[i] = rowKey{u.ms[i].Model, u.ms[i].UID}
	}
	now, err := s.readInOrder(ctx, keys, slots)
	if err != nil {
		return err
	}
	rest := unanswered{server: s}
	var made []func()
	for i, r := range u.runs {
		rm, slot := now[keys[i]], slots[keys[i]]
		switch at := rm.Meta.T(); {
		case at < u.ms[i].Stamp:
			rest.ms, rest.runs = append(rest.ms, u.ms[i]), append(rest.runs, r)
		case at == u.ms[i].Stamp && slot != nil: // else who wrote later has told everything
			delete(slots, keys[i])
			made = append(made, func() { r.late(rm, slot) })
		}
	}
	for key, slot := range slots {
		slot.settle(false)
		delete(slots, key)
	}
	*u = rest
	for _, tell := range made {
		tell()
	}
	return nil
}

// readInOrder reads rows as they are behind the events about them that are under way, and keeps places for events about
// what it has read: into slots come one for each row.
func (s *Server) readInOrder(ctx context.Context, keys []rowKey, slots map[rowKey]*slot) (map[rowKey]tidemark.RowMeta, error) {
	var before []*slot
	for _, key := range keys {
		if slots[key] == nil {
			var others []*slot
			slots[key], others = s.order.behind(key)
			before = append(before, others...)
		}
	}
	for _, slot := range before {
		select {
		case <-slot.sent:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.reread(ctx, keys)
}

// late runs what follows the commit that has made the row what it is, with the place of its event.
func (r *run) late(now tidemark.RowMeta, slot *slot) {
	ctx, cancel := r.svc.server.bound(r.ctx)
	defer cancel()
	r.ctx = ctx
	slot.settle(true)
	r.committed(&tidemark.Outcome{Applied: true, Row: now.Row, Meta: now.Meta}, slot)
	if r.tell(); r.err != nil {
		r.svc.server.log.Warn("call failed after its commit", slog.String("service", r.call.Service),
			slog.String("method", r.call.Method), slog.Any("error", r.err))
	}
}
