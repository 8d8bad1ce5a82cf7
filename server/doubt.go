package server

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/tidemark-sync/tidemark"
)

// settle tells what became of a publication whose transaction may have been committed or not: as the
// rows now are. Where that cannot be read, those whom it concerns are ended: they come back
// and catch up.
func (l *live) settle(g *publication) {
	ctx, cancel := l.server.bound(l.server.ctx)
	defer cancel()
	items := g.items()
	changed, err := l.reread(ctx, items)
	if err == nil {
		items = changed
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

// reread returns those of the items whose rows are not as they were before, as they now are.
func (l *live) reread(ctx context.Context, items []item) (changed []item, err error) {
	byModel := make(map[string][]string)
	for i := range items {
		byModel[items[i].key.model] = append(byModel[items[i].key.model], items[i].key.uid)
	}
	now := make(map[rowKey]tidemark.RowMeta)
	for model, uids := range byModel {
		svc, ok := l.server.Lookup(model)
		if !ok || svc.model == nil {
			continue
		}
		none, err := tidemark.ParseWhere(svc.model, []byte(`{"uid":{"gt":null}}`))
		if err != nil {
			return nil, err
		}
		snap, err := l.server.driver.Snapshot(ctx, none, uids)
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
	for _, it := range items {
		rm := now[it.key]
		if bytes.Equal(rm.Row, it.before) || rm.Meta.T() == 0 {
			continue
		}
		it.after, it.meta = rm.Row, rm.Meta
		changed = append(changed, it)
	}
	return changed, nil
}
