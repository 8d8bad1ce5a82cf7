package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// scopeID names a scope: clauses that select the same rows share one.
type scopeID struct{ model, key string }

func (id scopeID) compare(other scopeID) int {
	if c := strings.Compare(id.model, other.model); c != 0 {
		return c
	}
	return strings.Compare(id.key, other.key)
}

// entry returns the key under which the store remembers the scope. A clause that
// is too long for a key is hashed; the value has it whole.
func (id scopeID) entry() string {
	key := id.key
	if len(key) > 800 {
		sum := sha256.Sum256([]byte(key))
		key = hex.EncodeToString(sum[:])
	}
	return keyScopes + id.model + "/" + key
}

// scope is a registered clause. Client.mu protects all but id and pred.
type scope struct {
	id   scopeID
	pred *tidemark.Predicate

	holders int    // Watches and Registers of this run
	cover   *scope // another scope that selects all of this one's rows; nil for none

	want, have int64 // it is synchronised when have, the round of its last sync, has reached want
	err        error // why the last sync failed; nil when it did not
	failed     int64 // the round of the sync that failed
	beyond     bool  // it failed because the server holds as many scopes as it may
	retryAt    time.Time
	backoff    backoff

	told, total int // rows of the pass under way; total is 0 when that is not known
}

// synced reports whether the scope's rows are the server's.
func (s *scope) synced() bool { return s.have >= s.want && s.have > 0 }

func (s *scope) disconnect() {
	s.have, s.err, s.failed, s.beyond, s.retryAt = 0, nil, 0, false, time.Time{}
	s.told, s.total = 0, 0
	s.backoff.reset()
}

// Scope is a clause that the client keeps synchronised, held by [Model.Register].
type Scope struct {
	c    *Client
	s    *scope
	once sync.Once
}

// Where returns the clause in its canonical form.
func (s *Scope) Where() json.RawMessage { return json.RawMessage(s.s.id.key) }

// Synced waits until the scope has been synchronised on the present connection,
// or on the next one. It returns the server's error when that refuses to
// synchronise the scope, and ctx's when it ends first. A failure that may pass ends
// nothing: it is tried again, and Status.LastError has it meanwhile. That the server
// holds as many scopes as it may ([tidemark.CodeLimit]) is returned at once: the scope is
// synchronised when another one was released.
func (s *Scope) Synced(ctx context.Context) error { return s.c.awaitScope(ctx, s.s, false) }

// Release ends the scope, unless others hold the same one: it is no longer kept
// in step. Its rows stay readable on the device, and a later Register or Watch of the
// clause goes on where it was, until Options.ScopeAge or [Model.Evict]. Release is
// idempotent, and does nothing after Close: then the scope stays in step with the next run.
func (s *Scope) Release() { s.once.Do(func() { s.c.release(s.s) }) }

// register makes p a scope of the client, or takes hold of the one that it is.
func (c *Client) register(ctx context.Context, p *tidemark.Predicate) (*Scope, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	s := c.addScope(p)
	s.holders++
	c.mu.Unlock()
	held := &Scope{c: c, s: s}
	if err := c.saveScope(ctx, s.id); err != nil {
		held.Release()
		return nil, err
	}
	c.poke()
	return held, nil
}

// addScope is called with mu held.
func (c *Client) addScope(p *tidemark.Predicate) *scope {
	id := scopeID{p.Schema().Name(), p.Key()}
	s := c.scopes[id]
	if s == nil {
		s = &scope{id: id, pred: p, want: c.round}
		c.scopes[id] = s
		c.recover(id.model)
		c.changed()
	}
	return s
}

func (c *Client) release(s *scope) {
	if c.closed() != nil {
		return
	}
	c.mu.Lock()
	s.holders--
	last := s.holders <= 0 && c.scopes[s.id] == s
	if last {
		delete(c.scopes, s.id)
		c.recover(s.id.model)
		c.makeRoom()
		c.changed()
	}
	c.mu.Unlock()
	if !last {
		return
	}
	if err := c.saveScope(c.ctx, s.id); err != nil && c.closed() == nil {
		c.log.Warn("released scope stays remembered", "model", s.id.model, "error", err)
	}
	c.poke()
}

// saveScope makes the store remember the scope as registered, or as released, as it is
// at the moment of the transaction, so that the order of calls does not matter.
func (c *Client) saveScope(ctx context.Context, id scopeID) error {
	return c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		c.mu.Lock()
		_, registered := c.scopes[id]
		c.mu.Unlock()
		saved, err := loadScope(tx, id)
		if err != nil {
			return err
		}
		if !registered && saved.progress == (progress{}) {
			return tx.Save(id.entry(), nil)
		}
		saved.At, saved.Released = tidemark.StampOf(c.opts.Now()), !registered
		return saved.save(tx, id.entry())
	})
}

// inUse has what is remembered of a scope say that it is in use now, if somebody holds it.
func (c *Client) inUse(s *scope, saved *savedScope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.holders > 0 {
		saved.At = tidemark.StampOf(c.opts.Now())
	}
}

// recallScopes registers the scopes that the store remembers of a model. They
// stay, though nobody holds them, until a Watch or Register of the same clause
// has been released, or they have not been asked for during Options.ScopeAge.
func (c *Client) recallScopes(ctx context.Context, schema *tidemark.Schema) error {
	var entries []tidemark.Entry
	err := c.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
		entries, err = tx.Entries(keyScopes + schema.Name() + "/")
		return err
	})
	if err != nil {
		return err
	}
	var old []string
	var kept, gone []*tidemark.Predicate // whose rows stay, and whose go
	whole := true
	oldest := tidemark.StampOf(c.opts.Now().Add(-c.opts.ScopeAge))
	for _, e := range entries {
		var saved savedScope
		if err := json.Unmarshal(e.Value, &saved); err != nil || saved.Model != schema.Name() {
			continue // a model whose name continues after a slash, or a damaged entry
		}
		p, err := tidemark.ParseWhere(schema, saved.Where)
		switch {
		case err != nil: // kept: an older version of the application may come back
			c.log.Warn("remembered scope does not fit the model", "model", schema.Name(), "error", err)
			whole = false
		case saved.At < oldest:
			old = append(old, e.Key)
			if saved.Released {
				gone = append(gone, p)
			} else {
				kept = append(kept, p)
			}
		case saved.Released: // remembered for its progress
			kept = append(kept, p)
		default:
			kept = append(kept, p)
			c.mu.Lock()
			c.addScope(p)
			c.mu.Unlock()
		}
	}
	if !whole { // what the scope selects that does not fit is not known
		gone = nil
	}
	return c.forgetScopes(ctx, old, gone, kept)
}

// forgetScopes forgets scopes by their keys, and the rows that gone select and kept do not.
func (c *Client) forgetScopes(ctx context.Context, keys []string, gone, kept []*tidemark.Predicate) error {
	if len(keys) == 0 {
		return nil
	}
	return c.commit(ctx, func(w *work) error {
		for _, k := range keys {
			if err := w.tx.Save(k, nil); err != nil {
				return err
			}
		}
		for _, p := range gone {
			_, err := w.evict(p, func(r tidemark.Row) bool {
				return slices.ContainsFunc(kept, func(q *tidemark.Predicate) bool { return q.Match(r) })
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// recover finds out again, with mu held, which scopes of a model are covered by
// another one: those need no sync of their own.
func (c *Client) recover(model string) {
	var all []*scope
	for _, s := range c.scopes {
		if s.id.model == model {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *scope) int { return a.id.compare(b.id) })
	for _, s := range all {
		s.cover = nil
	}
	for i, s := range all {
		for j, other := range all {
			// Of two that cover each other the first counts; a covered one covers
			// nothing, so that covers do not form chains. Nor does one that the server refuses.
			if i != j && other.cover == nil && other.failure() == nil && other.pred.Covers(s.pred) && (j < i || !s.pred.Covers(other.pred)) {
				s.cover = other
				break
			}
		}
	}
	for _, s := range all {
		for s.cover != nil && s.cover.cover != nil {
			s.cover = s.cover.cover
		}
		if s.cover != nil {
			s.have = max(s.have, s.cover.have)
		}
	}
}

// registered returns the scopes of a model that are kept in step.
func (c *Client) registered(model string) map[scopeID]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := map[scopeID]bool{}
	for id := range c.scopes {
		if id.model == model {
			ids[id] = true
		}
	}
	return ids
}

// wanted returns a function that says whether some scope of the model selects a row.
func (c *Client) wanted(model string) func(tidemark.Row) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var preds []*tidemark.Predicate
	for _, s := range c.scopes {
		if s.id.model == model && s.cover == nil {
			preds = append(preds, s.pred)
		}
	}
	return func(r tidemark.Row) bool {
		return slices.ContainsFunc(preds, func(p *tidemark.Predicate) bool { return p.Match(r) })
	}
}

// awaitScope waits until s is synchronised. With local set it also returns, nil,
// as soon as there is no connection to wait for.
func (c *Client) awaitScope(ctx context.Context, s *scope, local bool) error {
	for {
		c.mu.Lock()
		status, next := c.currentStatus(), c.line.changed
		synced, err := s.synced(), s.failure()
		unreachable := status.State == Offline || status.State == Connecting && c.line.failed
		c.mu.Unlock()
		switch {
		case c.closed() != nil:
			return tidemark.ErrClosed
		case synced, local && unreachable:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
		}
	}
}

// failure returns why the scope cannot be synchronised: the server's verdict on
// it or on the scope that covers it. What is only temporary does not count, but for
// the limit of scopes: that passes when the program releases one, and not in time.
func (s *scope) failure() error {
	if s.cover != nil {
		s = s.cover
	}
	if s.err == nil || tidemark.Temporary(s.err) && !s.beyond {
		return nil
	}
	return s.err
}

// makeRoom has the scopes beyond the server's limit tried again at once. It is called with mu held
// when a scope is released, and when the server no longer holds one.
func (c *Client) makeRoom() {
	for _, s := range c.scopes {
		if s.beyond {
			s.err, s.beyond, s.retryAt = nil, false, time.Time{}
		}
	}
}
