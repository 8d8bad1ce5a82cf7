package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// hearing is what a session is about to hear of its scopes. Where hooks must be asked first,
// which takes time, what comes later waits behind it.
type hearing struct {
	session *Session

	mu      sync.Mutex // protects what follows
	queue   []func() []*tidemark.Message
	running bool // a goroutine works on the queue
}

const (
	maxHearing = 1024 // after so much that waits for hooks a session is ended; it comes back and catches up
	maxLooking = 16   // sessions for which hooks run at a time
)

// send sends messages, at once unless something waits for hooks.
func (h *hearing) send(messages []*tidemark.Message) {
	h.mu.Lock()
	if h.running {
		h.put(func() []*tidemark.Message { return messages })
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	h.session.sendAll(messages)
}

// sendAll sends messages until one is not taken: the transport then closes the session.
func (s *Session) sendAll(messages []*tidemark.Message) {
	for _, m := range messages {
		if s.send(m) != nil {
			return
		}
	}
}

// add sends what make returns, which may take time, in its turn.
func (h *hearing) add(make func() []*tidemark.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(make)
	if !h.running {
		h.running = true
		h.session.server.spawn(h.run)
	}
}

// put adds to the queue. mu is held.
func (h *hearing) put(make func() []*tidemark.Message) {
	if len(h.queue) >= maxHearing {
		h.session.close(tidemark.ClosedSlowReader)
		return
	}
	h.queue = append(h.queue, make)
	h.session.server.live.queued.Add(1)
}

func (h *hearing) run() {
	l := h.session.server.live
	for {
		h.mu.Lock()
		if len(h.queue) == 0 {
			h.queue, h.running = nil, false
			h.mu.Unlock()
			return
		}
		next := h.queue[0]
		h.queue = h.queue[1:]
		h.mu.Unlock()
		select {
		case l.looking <- struct{}{}:
			h.session.sendAll(next())
			<-l.looking
		case <-h.session.ctx.Done():
		}
		l.queued.Add(-1)
	}
}

// seenBy returns what s hears where hooks decide about rows. A session for which they fail
// is ended: it comes back and catches up.
func (t *telling) seenBy(s *Session, scopes []int64) []*tidemark.Message {
	if s.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := t.live.server.bound(s.ctx)
	defer cancel()
	sights := make([]sight, len(t.items))
	for model, svc := range t.filtered {
		if err := t.look(ctx, s, svc, model, scopes, sights); err != nil {
			if s.ctx.Err() == nil {
				t.live.server.log.Warn("session ended, as a hook failed", slog.String("session", s.id), slog.String("model", model), slog.Any("error", err))
			}
			s.close(tidemark.ClosedError)
			return nil
		}
	}
	return t.messages(scopes, sights, false)
}

// look has the hooks of a model look at the rows as they are, and at those as they were that would be
// told to have left: of a row that was never the session's to see it is told nothing.
func (t *telling) look(ctx context.Context, s *Session, svc *Service, model string, scopes []int64, sights []sight) error {
	where := t.whereOf(model, scopes)
	if where == nil {
		return nil
	}
	find := func(rows []tidemark.RowMeta) (map[string]tidemark.Row, error) {
		r := svc.newReading(ctx, &Call{Caller: CallerClient, Session: s}, json.RawMessage(where.Key()))
		left, err := r.after(rows)
		if left == nil && err == nil { // the hooks have gone meanwhile
			left, err = rowsOf(rowsIn(rows))
		}
		return left, err
	}
	mine := func(key rowKey, numbers []int64) bool {
		return key.model == model && slices.ContainsFunc(numbers, func(n int64) bool { return slices.Contains(scopes, n) })
	}
	var now, before []tidemark.RowMeta
	for i := range t.items {
		if it := &t.items[i]; mine(it.key, it.is) {
			now = append(now, tidemark.RowMeta{Row: it.after, Meta: it.meta})
		}
	}
	left, err := find(now)
	if err != nil {
		return err
	}
	for i := range t.items {
		it := &t.items[i]
		if mine(it.key, it.is) {
			sights[i] = sight{row: left[it.key.uid], own: true}
		}
		if sights[i].row == nil && mine(it.key, it.was) {
			before = append(before, tidemark.RowMeta{Row: it.before})
		}
	}
	if len(before) > 0 {
		if left, err = find(before); err != nil {
			return err
		}
	}
	for i := range t.items {
		it := &t.items[i]
		if it.key.model != model || sights[i].row != nil {
			continue
		}
		_, seen := left[it.key.uid]
		sights[i].own, sights[i].hidden = true, !mine(it.key, it.was) || !seen
	}
	return nil
}

func rowsIn(list []tidemark.RowMeta) []tidemark.Row {
	rows := make([]tidemark.Row, len(list))
	for i := range list {
		rows[i] = list[i].Row
	}
	return rows
}

// whereOf returns the where of the first of the scopes that is the model's, nil when none is.
func (t *telling) whereOf(model string, scopes []int64) *tidemark.Predicate {
	for _, h := range t.touched {
		if h.scope.where.Schema().Name() == model && slices.Contains(scopes, h.scope.number) {
			return h.scope.where
		}
	}
	return nil
}
