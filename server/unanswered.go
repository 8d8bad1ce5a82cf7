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

func (u *unanswered) run() {
	keys := make([]rowKey, len(u.ms))
	for i := range u.ms {
		keys[i] = rowKey{u.ms[i].Model, u.ms[i].UID}
	}
	now, err := u.read(keys)
	if err != nil {
		u.server.log.Warn("it is unknown what was committed: channels may not have heard of it", slog.Any("error", err))
		return
	}
	for i, r := range u.runs {
		if rm, ok := now[keys[i]]; ok && rm.Meta.T() == u.ms[i].Stamp { // else it was not made, or who wrote later has told everything
			r.late(rm)
		}
	}
}

// read reads the rows as they are now. The database may need a while to come back.
func (u *unanswered) read(keys []rowKey) (now map[rowKey]tidemark.RowMeta, err error) {
	s := u.server
	const patience = 30 * time.Second
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		ctx, cancel := s.bound(s.ctx)
		now, err = s.reread(ctx, keys)
		cancel()
		if err == nil || wait > patience {
			return now, err
		}
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return nil, err
		}
	}
}

// late runs what follows the commit that has made the row what it is.
func (r *run) late(now tidemark.RowMeta) {
	ctx, cancel := r.svc.server.bound(r.ctx)
	defer cancel()
	r.ctx = ctx
	slot := r.svc.server.order.reserve(rowKey{r.svc.name, now.Meta.UID})
	slot.settle(true)
	r.committed(&tidemark.Outcome{Applied: true, Row: now.Row, Meta: now.Meta}, slot)
	if r.tell(); r.err != nil {
		r.svc.server.log.Warn("call failed after its commit", slog.String("service", r.call.Service),
			slog.String("method", r.call.Method), slog.Any("error", r.err))
	}
}
