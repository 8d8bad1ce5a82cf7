package server

import (
	"context"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// overlaps lets one sync at a time work on a scope: a sync waits while one that
// came before it, running or waiting, has a where that overlaps its own. So a
// broad where is not overtaken for ever, and disjoint ones do not wait.
type overlaps struct {
	mu     sync.Mutex            // protects what follows
	models map[string][]*holding // in the order in which they came
}

type holding struct {
	where   *tidemark.Predicate
	waits   int // for so many before it
	granted chan struct{}
}

// hold waits for p's turn, and returns how to let go. When ctx ends first nothing is held.
func (o *overlaps) hold(ctx context.Context, p *tidemark.Predicate) (release func(), err error) {
	model := p.Schema().Name()
	h := &holding{where: p, granted: make(chan struct{})}
	o.mu.Lock()
	if o.models == nil {
		o.models = make(map[string][]*holding)
	}
	for _, before := range o.models[model] {
		if before.where.Overlaps(p) {
			h.waits++
		}
	}
	o.models[model] = append(o.models[model], h)
	if h.waits == 0 {
		close(h.granted)
	}
	o.mu.Unlock()
	release = sync.OnceFunc(func() { o.release(model, h) })
	select {
	case <-h.granted:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
}

// release takes h out of the line, wherever it stands, and grants those that waited for it alone.
func (o *overlaps) release(model string, h *holding) {
	o.mu.Lock()
	defer o.mu.Unlock()
	line := o.models[model]
	i := slices.Index(line, h)
	for _, later := range line[i+1:] {
		if later.waits > 0 && h.where.Overlaps(later.where) {
			if later.waits--; later.waits == 0 {
				close(later.granted)
			}
		}
	}
	if line = slices.Delete(line, i, i+1); len(line) == 0 {
		delete(o.models, model)
		return
	}
	o.models[model] = line
}
