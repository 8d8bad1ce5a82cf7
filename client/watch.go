package client

import (
	"bytes"
	"context"
	"iter"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// WatchOptions of [Model.Watch]. The zero value, and nil, are usable.
type WatchOptions struct {
	// WaitSynced makes the first result wait for the clause's synchronisation,
	// as long as the server can be reached; when it cannot, the local rows come
	// at once. Defaults to false: the local rows first, whatever the connection.
	WaitSynced bool
}

// watcher is one live query. A signal says that its result may have changed.
type watcher struct {
	pred  *tidemark.Predicate
	ready chan struct{}
}

func (w *watcher) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (c *Client) subscribe(p *tidemark.Predicate) *watcher {
	w := &watcher{pred: p, ready: make(chan struct{}, 1)}
	model := p.Schema().Name()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers[model] == nil {
		c.watchers[model] = map[*watcher]struct{}{}
	}
	c.watchers[model][w] = struct{}{}
	return w
}

func (c *Client) unsubscribe(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watchers[w.pred.Schema().Name()], w)
}

func (c *Client) watching(model string) []*watcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*watcher, 0, len(c.watchers[model]))
	for w := range c.watchers[model] {
		out = append(out, w)
	}
	return out
}

// notify signals the live queries that selected a row before its change, or do after.
func (c *Client) notify(changes []change) {
	byModel := map[string][]change{}
	for _, ch := range changes {
		byModel[ch.model] = append(byModel[ch.model], ch)
	}
	for model, changes := range byModel {
		for _, w := range c.watching(model) {
			if slices.ContainsFunc(changes, func(ch change) bool { return w.pred.Match(ch.before) || w.pred.Match(ch.after) }) {
				w.signal()
			}
		}
	}
}

// watch yields the rows that p selects, and again when they have changed. It
// keeps p synchronised meanwhile.
func (c *Client) watch(ctx context.Context, p *tidemark.Predicate, opts WatchOptions) iter.Seq2[[]tidemark.Row, error] {
	return func(yield func([]tidemark.Row, error) bool) {
		scope, err := c.register(ctx, p)
		if err != nil {
			yield(nil, err)
			return
		}
		defer scope.Release()
		w := c.subscribe(p)
		defer c.unsubscribe(w)
		if opts.WaitSynced {
			err := c.awaitScope(ctx, scope.s, true)
			if ctx.Err() != nil || err != nil && !yield(nil, err) {
				return
			}
		}
		c.results(ctx, w, yield)
	}
}

func (c *Client) results(ctx context.Context, w *watcher, yield func([]tidemark.Row, error) bool) {
	var last []tidemark.Row
	for first := true; ; first = false {
		rows, err := c.find(ctx, w.pred)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !yield(nil, err) || c.closed() != nil {
				return
			}
		case first || !slices.EqualFunc(rows, last, func(a, b tidemark.Row) bool { return bytes.Equal(a, b) }):
			last = rows
			if !yield(slices.Clone(rows), nil) {
				return
			}
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return
		case <-c.ctx.Done():
			yield(nil, tidemark.ErrClosed)
			return
		}
	}
}

func (c *Client) find(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	return c.store.Find(ctx, p)
}
