package server

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// settle tells what became of a publication whose transaction may have been committed or not: what
// the rows now say. Where that cannot be read, those whom it concerns are ended: they come back
// and catch up.
func (l *live) settle(g *publication) {
	ctx, cancel := l.server.bound(l.server.ctx)
	defer cancel()
	items := g.items()
	happened, inDoubt, err := l.happened(ctx, g, items)
	if err == nil {
		items = happened
		l.cursor.doubt(inDoubt)
	}
	t := l.address(items)
	if t == nil {
		return
	}
	if t.whole = true; err == nil {
		t.send()
		return
	}
	l.server.log.Warn("sessions ended, as it is unknown what was committed", slog.Any("error", err))
	for _, g := range t.groups() {
		for _, s := range g.sessions {
			s.close(tidemark.ClosedError)
		}
	}
}

// happened returns those of the items that are to be told, as far as the rows show what was committed, and those
// that it may be too early to speak of.
func (l *live) happened(ctx context.Context, g *publication, items []item) (told, inDoubt []item, err error) {
	const patience = 500 * time.Millisecond
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		keys := make([]rowKey, len(items))
		for i := range items {
			keys[i] = items[i].key
		}
		now, err := l.server.reread(ctx, keys)
		if err != nil {
			return nil, nil, err
		}
		var open []item
		for _, it := range items {
			switch l.fate(g, &it, now[it.key]) {
			case committed:
				told = append(told, it)
			case asBefore:
				inDoubt = append(inDoubt, it)
			case unknown:
				open = append(open, it)
			}
		}
		if len(open) == 0 {
			return told, inDoubt, nil
		}
		if wait > patience { // another program has written the row: it is told as it is
			for _, it := range open {
				it.after, it.meta = now[it.key].Row, now[it.key].Meta
				if it.meta.T() != 0 {
					told = append(told, it)
				}
			}
			return told, inDoubt, nil
		}
		items = open
		select { // who wrote the row after us may be about to say so
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

type fate uint8

const (
	unknown fate = iota
	committed
	rolledBack
	asBefore // as if it was rolled back, or not committed yet
)

// doubt is a row that is as it was before a transaction of which the driver has not heard the end. Nearly always
// that was rolled back. But a COMMIT whose connection broke may be on its way, and land later.
type doubt struct {
	item  item
	until time.Time // when it is given up
}

const (
	doubtful  = time.Minute // for how long
	maxDoubts = 4096        // rows
)

// reconsider looks at rows in doubt again, and returns those that are as they were. Where one has landed, the
// sessions that it concerns keep their cursors, and get it when they come back. Where it was written since, they
// have heard of that, but for those who lost the row.
func (l *live) reconsider(ctx context.Context, doubts []doubt) (rest []doubt, err error) {
	keys := make([]rowKey, len(doubts))
	for i := range doubts {
		keys[i] = doubts[i].item.key
	}
	now, err := l.server.reread(ctx, keys)
	if err != nil {
		return doubts, err
	}
	for _, d := range doubts {
		rm := now[d.item.key]
		landed := rm.Meta == d.item.meta && bytes.Equal(rm.Row, d.item.after)
		if landed || !bytes.Equal(rm.Row, d.item.before) {
			l.missed(item{key: d.item.key, before: d.item.before, after: rm.Row}, landed)
		} else if time.Now().Before(d.until) {
			rest = append(rest, d)
		}
	}
	return rest, nil
}

// missed has the sessions keep their cursors that were not told of the change: all, or those who lost the row.
func (l *live) missed(it item, all bool) {
	items := []item{it}
	t := l.address(items)
	if t == nil {
		return
	}
	for _, h := range t.touched {
		if all || !slices.Contains(items[0].is, h.scope.number) {
			for _, s := range h.sessions {
				s.missing.Store(true)
			}
		}
	}
}

// fate tells by the row as it now is, and by what was written after it, what became of an item.
func (l *live) fate(g *publication, it *item, now tidemark.RowMeta) fate {
	switch {
	case now.Meta == it.meta && bytes.Equal(now.Row, it.after):
		return committed
	case bytes.Equal(now.Row, it.before), bytes.Equal(it.before, it.after):
		return asBefore // or what came after it tells everything
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch next := g.next(it.key); {
	case next == nil:
		return unknown
	case bytes.Equal(next.before, it.after):
		return committed
	case bytes.Equal(next.before, it.before):
		return rolledBack
	}
	return unknown
}

// next returns what is to be told of the row after g, nil when that is nothing yet.
func (g *publication) next(key rowKey) *item {
	find := func(p *part) *item {
		for i := range p.items {
			if p.items[i].key == key {
				return &p.items[i]
			}
		}
		return nil
	}
	for _, p := range slices.Backward(g.parts) {
		if find(p) == nil {
			continue
		}
		for _, f := range p.followers { // in their order
			if next := find(f); next != nil {
				return next
			}
		}
		return nil
	}
	return nil
}

// reread returns rows as they now are.
func (s *Server) reread(ctx context.Context, keys []rowKey) (map[rowKey]tidemark.RowMeta, error) {
	byModel := make(map[string][]string)
	for _, key := range keys {
		byModel[key.model] = append(byModel[key.model], key.uid)
	}
	now := make(map[rowKey]tidemark.RowMeta)
	for model, uids := range byModel {
		svc, ok := s.Lookup(model)
		if !ok || svc.model == nil {
			continue
		}
		none, err := tidemark.ParseWhere(svc.model, []byte(`{"uid":{"gt":null}}`))
		if err != nil {
			return nil, err
		}
		snap, err := s.driver.Snapshot(ctx, none, uids)
		if err != nil {
			return nil, err
		}
		for _, rm := range snap.Others {
			uid := rm.Meta.UID
			if uid == "" {
				uid = rm.Row.UID()
			}
			now[rowKey{model, uid}] = rm
		}
	}
	return now, nil
}
