package client

import (
	"context"
	"time"

	"github.com/tidemark-sync/tidemark"
)

func (c *Client) reset(ctx context.Context, s *tidemark.Schema, discard bool) error {
	model := s.Name()
	all, err := tidemark.Where{}.Compile(s)
	if err != nil {
		return err
	}
	err = c.commit(ctx, func(w *work) error {
		pending, err := w.pendingIn(model)
		if err != nil {
			return err
		}
		if len(pending) > 0 && !discard {
			return tidemark.ErrPending
		}
		uids := map[string]bool{}
		ns := make([]int64, len(pending))
		for i, m := range pending {
			ns[i], uids[m.UID] = m.N, true
		}
		if err := w.dequeue(ns); err != nil {
			return err
		}
		held, err := w.tx.Held(all)
		if err != nil {
			return err
		}
		for _, m := range held {
			uids[m.UID] = true
		}
		if err := w.drop(model, uids); err != nil {
			return err
		}
		if err := w.forget(s, func(scopeID, *tidemark.Predicate) bool { return true }); err != nil {
			return err
		}
		return w.tx.Prune(model, 1<<62)
	})
	if err != nil {
		return err
	}
	c.resync(model)
	return nil
}

// pendingIn returns the model's mutations in the outbox.
func (w *work) pendingIn(model string) ([]tidemark.Mutation, error) {
	var out []tidemark.Mutation
	for after := int64(0); ; {
		page, err := w.tx.Outbox(after, 1000)
		if err != nil || len(page) == 0 {
			return out, err
		}
		for _, m := range page {
			if m.Model == model {
				out = append(out, m)
			}
		}
		after = page[len(page)-1].N
	}
}

// drop forgets all that is known of rows without pending writes.
func (w *work) drop(model string, uids map[string]bool) error {
	list := make([]string, 0, len(uids))
	for uid := range uids {
		list = append(list, uid)
	}
	_, recs, err := w.records(model, list)
	if err != nil {
		return err
	}
	for i := range recs {
		recs[i].Base, recs[i].Meta = nil, tidemark.Meta{}
	}
	return w.settle(model, recs, nil)
}

// resync has the model's scopes synchronised afresh. What is under way was asked
// for with rows that are no longer held, and does not count.
func (c *Client) resync(model string) {
	c.mu.Lock()
	c.round++
	for _, s := range c.scopes {
		if s.id.model == model {
			s.want, s.retryAt = c.round, time.Time{}
		}
	}
	c.changed()
	c.mu.Unlock()
	c.poke()
}

func (c *Client) evict(ctx context.Context, p *tidemark.Predicate) (int, error) {
	model := p.Schema().Name()
	evicted := 0
	err := c.commit(ctx, func(w *work) error {
		kept := c.registered(model) // before wanted: a scope between the two is told from the beginning, in vain
		n, err := w.evict(p, c.wanted(model))
		if err != nil {
			return err
		}
		evicted = n
		return w.forget(p.Schema(), func(id scopeID, q *tidemark.Predicate) bool {
			return !kept[id] && q.Overlaps(p)
		})
	})
	if err != nil {
		return 0, err
	}
	return evicted, nil
}

// evict drops the rows that p selects and wanted does not, of which nothing is pending.
func (w *work) evict(p *tidemark.Predicate, wanted func(tidemark.Row) bool) (int, error) {
	model := p.Schema().Name()
	held, err := w.tx.Held(p)
	if err != nil {
		return 0, err
	}
	uids := make([]string, len(held))
	for i, m := range held {
		uids[i] = m.UID
	}
	_, recs, err := w.records(model, uids)
	if err != nil {
		return 0, err
	}
	drop := map[string]bool{}
	for _, r := range recs {
		if r.Pending == 0 && !wanted(r.Base) {
			drop[r.UID] = true
		}
	}
	return len(drop), w.drop(model, drop)
}
