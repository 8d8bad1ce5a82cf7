package bundriver

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// migrateChunk is how many rows one transaction of Migrate concerns.
const migrateChunk = 2000

// Migrate makes the driver's own tables where they are absent, also in a database
// that a former version has migrated,
// then goes through the registered tables in chunks: each uid that belongs to no
// model yet is its table's, and a row without metadata gets some, created now.
// That is a change, which the log has, but for what the very first Migrate finds. Where two tables have a row of one uid, it is the first table's. Several processes may
// migrate at once.
func (d *Driver) Migrate(ctx context.Context) error {
	if err := d.usable(ctx); err != nil {
		return err
	}
	first := false // nobody has a cursor yet
	err := d.within(ctx, func(t *tx) (err error) {
		first, err = d.dialect.createTables(ctx, t, d.metadata)
		return err
	})
	if err != nil {
		return err
	}
	now := tidemark.StampOf(d.now())
	for _, s := range d.schemas {
		m := d.models[s.Name()]
		for after, more := "", true; more; {
			err := d.within(ctx, func(t *tx) (err error) {
				after, more, err = t.adoptChunk(ctx, m, after, now, !first)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return d.remember(ctx)
}

// within runs fn in a transaction, again when it meets another process's.
func (d *Driver) within(ctx context.Context, fn func(*tx) error) error {
	return again(func() error {
		t, err := d.begin(ctx)
		if err != nil {
			return err
		}
		defer t.end(ctx)
		if err := fn(t); err != nil {
			return err
		}
		return t.commit(ctx)
	})
}

// again runs once until it meets with nothing that the next attempt need not meet.
func again(once func() error) error {
	for attempt := 1; ; attempt++ {
		err := once()
		met, ok := err.(*retryError)
		if !ok {
			return err
		}
		if attempt == maxAttempts {
			return unavailable(met.cause)
		}
	}
}

// adoptChunk is Migrate for the rows whose uids follow after, in the column's own order.
func (t *tx) adoptChunk(ctx context.Context, m *model, after string, now tidemark.Stamp, log bool) (last string, more bool, err error) {
	d := t.d.dialect
	var owned, metas, logged []entry
	stamp := strconv.AppendInt(nil, int64(now), 10)
	rd := newReader(nil, 3)
	n := 0
	err = t.do(ctx, request{
		m: m, statement: `SELECT c.uid, o.model, m.uid FROM (SELECT t."uid" AS uid FROM ` + m.from + ` t WHERE t."uid" > ` + d.placeholder(1) + ` ORDER BY t."uid" LIMIT ` + strconv.Itoa(migrateChunk) + `) c
		LEFT JOIN ` + d.table("uids") + ` o ON o.uid = c.uid LEFT JOIN ` + t.d.metadata + ` m ON m.uid = c.uid ORDER BY c.uid`,
		args: []any{after}, reads: rd,
		each: func() error {
			n++
			last = rd.text(0)
			owner := rd.text(1)
			if owner == "" {
				owned = append(owned, entry{last, []json.RawMessage{m.quoted}})
			}
			if rd.values[2] == nil && (owner == "" || owner == m.name) {
				metas = append(metas, metaEntry(tidemark.Meta{UID: last, CreatedAt: now}))
				logged = append(logged, entry{last, []json.RawMessage{m.quoted, json.RawMessage("null"), stamp}})
			}
			return nil
		},
	})
	if err != nil {
		return "", false, err
	}
	var requests []request
	if len(owned) > 0 {
		requests = append(requests, t.own(owned))
	}
	if len(metas) > 0 {
		requests = append(requests, t.newMeta(metas))
	}
	if log {
		requests = append(requests, t.log(logged, "")...)
	}
	return last, n == migrateChunk, t.do(ctx, requests...)
}
