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
	ask := func(numbers func(*item) []int64, row func(*item) tidemark.Row, skip func(i int) bool) (map[string]tidemark.Row, error) {
		var rows []tidemark.RowMeta
		for i := range t.items {
			if it := &t.items[i]; it.key.model == model && touches(numbers(it), scopes) && !skip(i) {
				rows = append(rows, tidemark.RowMeta{Row: row(it)})
			}
		}
		r := svc.newReading(ctx, &Call{Caller: CallerClient, Session: s}, json.RawMessage(where.Key()))
		return r.filtered(rows)
	}
	is, was := func(it *item) []int64 { return it.is }, func(it *item) []int64 { return it.was }
	now, err := ask(is, func(it *item) tidemark.Row { return it.after }, func(int) bool { return false })
	if err != nil {
		return err
	}
	for i := range t.items {
		if it := &t.items[i]; it.key.model == model {
			if sights[i].own = true; touches(it.is, scopes) {
				sights[i].row = now[it.key.uid]
			}
		}
	}
	before, err := ask(was, func(it *item) tidemark.Row { return it.before }, func(i int) bool { return sights[i].row != nil })
	if err != nil {
		return err
	}
	for i := range t.items {
		if it := &t.items[i]; it.key.model == model {
			_, seen := before[it.key.uid]
			sights[i].hidden = !seen
		}
	}
	return nil
}

// touches reports whether the lists have a number in common.
func touches(a, b []int64) bool {
	return slices.ContainsFunc(a, func(n int64) bool { return slices.Contains(b, n) })
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
