package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// syncWindow is how many scopes are synchronised at once: enough to hide the way
// to the server, few enough that answers are not all held in memory.
const syncWindow = 4

// syncing is a call of Sync that waits.
type syncing struct {
	round  int64
	target int64 // mutations up to this number need a verdict
	done   chan error
}

// Sync returns when everything that was pending at the call has a verdict, and
// all scopes have been synchronised after the call. It waits for a connection
// until ctx ends. When the server refuses to synchronise a scope, also because it holds
// as many as it may, it returns the server's error.
func (c *Client) Sync(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	c.mu.Lock()
	c.round++
	sy := &syncing{round: c.round, target: c.highest.Load(), done: make(chan error, 1)}
	c.syncs[sy] = struct{}{}
	for _, s := range c.scopes {
		s.want, s.retryAt = c.round, time.Time{}
	}
	c.changed()
	c.mu.Unlock()
	c.poke()
	defer func() {
		c.mu.Lock()
		delete(c.syncs, sy)
		c.mu.Unlock()
	}()
	select {
	case err := <-sy.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return tidemark.ErrClosed
	}
}

// pushed is told that no mutation up to number n is in the outbox any more.
func (c *Client) pushed(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.pushed = max(c.line.pushed, n)
}

// settleSyncs ends the calls of Sync that have what they wait for.
func (c *Client) settleSyncs() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sy := range c.syncs {
		if err, over := c.outcome(sy); over {
			delete(c.syncs, sy)
			sy.done <- err
		}
	}
}

// extendSyncs makes waiting calls of Sync wait for rows too that the server asked for.
func (c *Client) extendSyncs(asked int) {
	if asked == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for sy := range c.syncs {
		sy.target = max(sy.target, c.highest.Load())
	}
}

func (c *Client) outcome(sy *syncing) (err error, over bool) {
	over = c.line.connected && c.line.pushed >= sy.target
	for _, s := range c.scopes {
		if s.have >= sy.round {
			continue
		}
		over = false
		if e := s.failure(); e != nil && s.leader().failed >= sy.round {
			return e, true
		}
	}
	return nil, over
}

func (s *scope) leader() *scope {
	if s.cover != nil {
		return s.cover
	}
	return s
}

// nextSyncRetry returns when the next scope that failed is due; zero for none.
func (c *Client) nextSyncRetry(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var next time.Time
	for _, s := range c.scopes {
		if s.cover == nil && !s.synced() && s.retryAt.After(now) && (next.IsZero() || s.retryAt.Before(next)) {
			next = s.retryAt
		}
	}
	return next
}

// syncNext starts to synchronise scopes that need it, within the window.
func (s *session) syncNext(ctx context.Context) error {
	for len(s.syncs) < syncWindow {
		sc, round := s.c.dueScope(s.syncs, s.now())
		if sc == nil {
			return nil
		}
		if err := s.prune(ctx, sc.id.model); err != nil {
			return err
		}
		var held []tidemark.Meta
		var wait bool
		err := s.c.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
			if wait, err = s.strays(tx); err != nil || wait {
				return err
			}
			held, err = tx.Held(sc.pred)
			held = slices.DeleteFunc(held, tidemark.Meta.Deleted) // what left is not deleted
			return err
		})
		if err != nil || wait {
			return err
		}
		reqs := s.c.speak.sync(sc.pred, held, s.c.opts.mostBytes(s.link))
		if err := s.syncPiece(ctx, sc, round, reqs); err != nil {
			return err
		}
	}
	return nil
}

// dueScope returns a scope that is not synchronised, covered, under way or
// waiting for its next attempt; nil when there is none. Scopes go in the order
// of their names.
func (c *Client) dueScope(under map[*scope]*flight, now time.Time) (*scope, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due *scope
	for _, s := range c.scopes {
		if s.cover != nil || s.synced() || under[s] != nil || now.Before(s.retryAt) {
			continue
		}
		if due == nil || s.id.compare(due.id) < 0 {
			due = s
		}
	}
	return due, c.round
}

// prune removes a model's tombstones, before the connection's first sync of it:
// they keep messages that are older from bringing rows back, and no message of
// an earlier connection can arrive any more.
func (s *session) prune(ctx context.Context, model string) error {
	if s.pruned[model] {
		return nil
	}
	s.notePruned(model)
	return s.c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		return tx.Prune(model, 1<<62)
	})
}

// pruneIn is prune in a transaction, to be followed by notePruned.
func (s *session) pruneIn(w *work, model string) error {
	if s.pruned[model] {
		return nil
	}
	return w.tx.Prune(model, 1<<62)
}

func (s *session) notePruned(model string) { s.pruned[model] = true }

// syncPiece sends the first of reqs, and the others after its answer.
func (s *session) syncPiece(ctx context.Context, sc *scope, round int64, reqs []request) error {
	f, err := s.send(ctx, reqs[0], func(ctx context.Context, a tidemark.Answer, err error) error {
		delete(s.syncs, sc)
		if err == nil && a.Err != nil {
			err = a.Err
		}
		var r tidemark.SyncResult
		if err == nil {
			r, err = s.c.speak.synced(sc.pred.Schema(), a.Result)
		}
		if stranger(err) {
			return err
		}
		if err != nil {
			s.c.syncFailed(sc, round, err, s.now())
			return nil
		}
		if err := s.applySync(ctx, sc, r); err != nil {
			return err
		}
		if len(reqs) > 1 {
			return s.syncPiece(ctx, sc, round, reqs[1:])
		}
		s.c.syncDone(sc, round)
		return nil
	})
	if err == nil {
		s.syncs[sc] = f
	}
	return err
}

// syncDone notes that sc, and with it what it covers, is synchronised.
func (c *Client) syncDone(sc *scope, round int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	refused := sc.failure() != nil
	sc.err, sc.beyond = nil, false
	sc.backoff.reset()
	if refused {
		c.recover(sc.id.model)
	}
	c.synced(sc, round)
	c.changed()
}

func (c *Client) syncFailed(sc *scope, round int64, err error, now time.Time) {
	c.scopeFailed(sc, round, err, false, now)
}

func (c *Client) scopeFailed(sc *scope, round int64, err error, beyond bool, now time.Time) {
	c.log.Warn("scope was not synchronised", "model", sc.id.model, "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	sc.err, sc.failed, sc.beyond = err, round, beyond
	sc.retryAt = now.Add(sc.backoff.next(&c.opts))
	if sc.failure() != nil {
		c.recover(sc.id.model)
	}
	c.line.err = err
	c.changed()
}

// applySync stores the answer to a sync, whole, and queues again the rows that
// the server has lost.
func (s *session) applySync(ctx context.Context, sc *scope, r tidemark.SyncResult) error {
	model := sc.id.model
	all := func(tidemark.Row) bool { return true }
	defer s.c.extendSyncs(len(r.AddDatabase) + len(r.UpdateDatabase))
	return s.c.commit(ctx, func(w *work) error {
		if err := w.applyStates(model, append(r.AddClient, r.UpdateClient...), all, false); err != nil {
			return err
		}
		if err := w.applyDeletions(model, r.DeleteClient); err != nil {
			return err
		}
		lost := make(map[string]tidemark.Op, len(r.AddDatabase)+len(r.UpdateDatabase))
		for _, raw := range r.AddDatabase {
			if m, err := tidemark.ParseMeta(raw); err == nil {
				lost[m.UID] = tidemark.Create
			}
		}
		for _, raw := range r.UpdateDatabase {
			if m, err := tidemark.ParseMeta(raw); err == nil {
				lost[m.UID] = tidemark.Update
			}
		}
		return w.restore(model, lost)
	})
}

// applyDeletions drops rows that the server has deleted, or no longer shows,
// unless a newer state of theirs has arrived meanwhile.
func (w *work) applyDeletions(model string, deletions []tidemark.Deletion) error {
	if len(deletions) == 0 {
		return nil
	}
	uids := make([]string, len(deletions))
	for i, d := range deletions {
		uids[i] = d.UID
	}
	byUID, recs, err := w.records(model, uids)
	if err != nil {
		return err
	}
	touched := map[string]bool{}
	for _, d := range deletions {
		r := byUID[d.UID]
		meta := r.Meta
		meta.UID, meta.DeletedAt = d.UID, max(d.At, 1)
		if take(r, tidemark.RowMeta{Meta: meta}, false) {
			touched[d.UID] = true
		}
	}
	return w.resettle(model, only(recs, touched))
}

// restore queues rows that the server asked for, with their own stamps, before
// the writes of them that are pending already. Their base goes, since the server
// has no such state: until the verdict they are visible as pending writes, and if
// the server refuses them they end as rejections, with all their columns.
func (w *work) restore(model string, lost map[string]tidemark.Op) error {
	if len(lost) == 0 {
		return nil
	}
	_, recs, err := w.records(model, slices.Sorted(maps.Keys(lost)))
	if err != nil {
		return err
	}
	recs = slices.DeleteFunc(recs, func(r tidemark.Record) bool { return r.Base == nil })
	pending, err := w.pendingOf(model, recs)
	if err != nil {
		return err
	}
	var ms []tidemark.Mutation
	var moved []int64
	for i := range recs {
		r := &recs[i]
		ms = append(ms, w.anew(model, r, lost[r.UID])...)
		for _, m := range pending[r.UID] {
			moved = append(moved, m.N)
			ms = append(ms, m)
		}
		r.Base, r.Meta = nil, tidemark.Meta{}
	}
	if err := w.dequeue(moved); err != nil {
		return err
	}
	if err := w.enqueue(ms); err != nil {
		return err
	}
	clear(pending)
	for _, m := range ms {
		pending[m.UID] = append(pending[m.UID], m)
	}
	return w.settle(model, recs, pending)
}

// anew returns the writes that make the server's state what the record's base is.
func (w *work) anew(model string, r *tidemark.Record, op tidemark.Op) []tidemark.Mutation {
	m := tidemark.Mutation{Model: model, UID: r.UID, Data: r.Base.Without("uid")}
	var ms []tidemark.Mutation
	if op == tidemark.Create && (r.Meta.CreatedAt != 0 || r.Meta.UpdatedAt == 0) {
		m.Op, m.Stamp = tidemark.Create, r.Meta.CreatedAt
		if m.Stamp == 0 {
			m.Stamp = w.c.now().Now()
		}
		ms = append(ms, m)
	}
	if r.Meta.UpdatedAt != 0 {
		m.Op, m.Stamp = tidemark.Update, r.Meta.UpdatedAt
		ms = append(ms, m)
	}
	if len(ms) == 0 { // an update was asked for, and there is only a date of creation
		m.Op, m.Stamp = tidemark.Update, r.Meta.T()
		ms = append(ms, m)
	}
	return ms
}
