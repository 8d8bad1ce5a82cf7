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
	happened, err := l.happened(ctx, g, items)
	if err == nil {
		items = happened
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

// happened returns those of the items that are to be told, as far as the rows show what was committed.
func (l *live) happened(ctx context.Context, g *publication, items []item) (told []item, err error) {
	const patience = 500 * time.Millisecond
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		keys := make([]rowKey, len(items))
		for i := range items {
			keys[i] = items[i].key
		}
		now, err := l.server.reread(ctx, keys)
		if err != nil {
			return nil, err
		}
		var open []item
		for _, it := range items {
			switch l.fate(g, &it, now[it.key]) {
			case committed:
				told = append(told, it)
			case unknown:
				open = append(open, it)
			}
		}
		if len(open) == 0 {
			return told, nil
		}
		if wait > patience { // another program has written the row: it is told as it is
			for _, it := range open {
				it.after, it.meta = now[it.key].Row, now[it.key].Meta
				if it.meta.T() != 0 {
					told = append(told, it)
				}
			}
			return told, nil
		}
		items = open
		select { // who wrote the row after us may be about to say so
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type fate uint8

const (
	unknown fate = iota
	committed
	rolledBack
)

// fate tells by the row as it now is, and by what was written after it, what became of an item.
func (l *live) fate(g *publication, it *item, now tidemark.RowMeta) fate {
	switch {
	case now.Meta == it.meta && bytes.Equal(now.Row, it.after):
		return committed
	case bytes.Equal(now.Row, it.before), bytes.Equal(it.before, it.after):
		return rolledBack // or what came after it tells everything
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
