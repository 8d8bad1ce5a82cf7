package server

import (
	"context"
	"encoding/json"

	"github.com/tidemark-sync/tidemark"
)

// reading is what reads a model's rows for a client on another way than findMany: with the
// hooks of findMany, which bind every way alike.
type reading struct {
	ctx   context.Context
	svc   *Service
	setup *setup
	find  *Call // of findMany, for the hooks around it
}

// newReading returns a reading of where for the caller of c. With hooks that change the call's
// arguments c keeps its own.
func (svc *Service) newReading(ctx context.Context, c *Call, where json.RawMessage) reading {
	return reading{ctx: ctx, svc: svc, setup: svc.setup.Load(), find: &Call{Service: svc.name, Method: tidemark.MethodFindMany,
		Args: []json.RawMessage{where}, Caller: c.Caller, Session: c.Session, Server: svc.server}}
}

// narrow runs the before-hooks of findMany, which may narrow the where or refuse. It returns
// the where that was asked for and what they left of it.
func (r *reading) narrow() (asked, selects *tidemark.Predicate, err error) {
	if asked, err = r.svc.where(r.find.arg(0)); err != nil {
		return nil, nil, err
	}
	for _, hooks := range [][]Hook{r.setup.beforeAll, r.setup.before[tidemark.MethodFindMany]} {
		if err := r.hooks(hooks); err != nil {
			return nil, nil, err
		}
	}
	selects, err = r.svc.where(r.find.arg(0))
	return asked, selects, err
}

func (r *reading) hooks(hooks []Hook) error {
	for _, h := range hooks {
		if err := safely(func() error { return h(r.ctx, r.find) }); err != nil {
			return err
		}
	}
	return nil
}

// narrows reports whether before-hooks run on the where of findMany.
func (s *setup) narrows() bool {
	return len(s.beforeAll)+len(s.before[tidemark.MethodFindMany]) > 0
}

// filters reports whether after-hooks run on the rows that findMany returns.
func (s *setup) filters() bool {
	return len(s.afterAll)+len(s.after[tidemark.MethodFindMany]) > 0
}

// after runs the after-hooks of findMany on rows, and returns those that they
// leave, as they leave them. Without hooks it returns nil, for all as they are. They
// run where there are no rows too: a hook that refuses a where must not tell by that whether it selects any.
func (r *reading) after(rows []tidemark.RowMeta) (map[string]tidemark.Row, error) {
	if !r.setup.filters() {
		return nil, nil
	}
	list := make([]tidemark.Row, len(rows))
	for i := range rows {
		list[i] = rows[i].Row
	}
	r.find.Result = list
	for _, hooks := range [][]Hook{r.setup.after[tidemark.MethodFindMany], r.setup.afterAll} {
		if err := r.hooks(hooks); err != nil {
			return nil, err
		}
	}
	return rowsOf(r.find.Result)
}

// filtered is after where there may be no hooks: all rows are then left. Of no rows nothing is asked.
func (r *reading) filtered(rows []tidemark.RowMeta) (map[string]tidemark.Row, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	left, err := r.after(rows)
	if left == nil && err == nil {
		left = make(map[string]tidemark.Row, len(rows))
		for _, rm := range rows {
			left[rm.Row.UID()] = rm.Row
		}
	}
	return left, err
}

// rowsOf returns the rows that hooks have left, by uid.
func rowsOf(result any) (map[string]tidemark.Row, error) {
	rows, ok := result.([]tidemark.Row)
	if !ok {
		raw, err := encode(result)
		if err == nil {
			err = tidemark.EachElement(raw, func(_ int, v []byte) error {
				rows = append(rows, v)
				return nil
			})
		}
		if err != nil {
			return nil, tidemark.Wrap(err, tidemark.CodeInternal, "a hook of findMany left something else than rows")
		}
	}
	left := make(map[string]tidemark.Row, len(rows))
	for _, row := range rows {
		left[row.UID()] = row
	}
	return left, nil
}
