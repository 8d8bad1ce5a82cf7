package bundriver

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// migrateChunk is how many rows one transaction of Migrate concerns.
const migrateChunk = 2000

// Migrate makes the metadata table and the table of uids where they are absent,
// then goes through the registered tables in chunks: each uid that belongs to no
// model yet is its table's, and a row without metadata gets some, created now.
// Where two tables have a row of one uid, it is the first table's. Several processes may
// migrate at once.
func (d *Driver) Migrate(ctx context.Context) error {
	if err := d.usable(ctx); err != nil {
		return err
	}
	err := d.within(ctx, func(t *tx) error { return d.dialect.createTables(ctx, t, d.metadata) })
	if err != nil {
		return err
	}
	now := tidemark.StampOf(d.now())
	for _, s := range d.schemas {
		m := d.models[s.Name()]
		for after, more := "", true; more; {
			err := d.within(ctx, func(t *tx) (err error) {
				after, more, err = t.adoptChunk(ctx, m, after, now)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// within runs fn in a transaction, again when it meets another process's.
func (d *Driver) within(ctx context.Context, fn func(*tx) error) error {
	for attempt := 1; ; attempt++ {
		err := d.once(ctx, fn)
		again, ok := err.(*retryError)
		if !ok {
			return err
		}
		if attempt == maxAttempts {
			return unavailable(again.cause)
		}
	}
}

func (d *Driver) once(ctx context.Context, fn func(*tx) error) error {
	t, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer t.end(ctx)
	if err := fn(t); err != nil {
		return err
	}
	return t.commit(ctx)
}

// adoptChunk is Migrate for the rows whose uids follow after, in the column's own order.
func (t *tx) adoptChunk(ctx context.Context, m *model, after string, now tidemark.Stamp) (last string, more bool, err error) {
	d := t.d.dialect
	statement := `SELECT c.uid, o.model, m.uid FROM (SELECT t."uid" AS uid FROM ` + m.from + ` t WHERE t."uid" > ` + d.placeholder(1) + ` ORDER BY t."uid" LIMIT ` + strconv.Itoa(migrateChunk) + `) c
		LEFT JOIN ` + d.uids() + ` o ON o.uid = c.uid LEFT JOIN ` + t.d.metadata + ` m ON m.uid = c.uid ORDER BY c.uid`
	var owned, metas []entry
	n := 0
	times := []json.RawMessage{now.AppendJSON(nil), json.RawMessage("null"), json.RawMessage("null")}
	rd := newReader(nil, 3)
	err = t.query(ctx, rd, m, func() error {
		n++
		last = rd.text(0)
		owner := rd.text(1)
		if owner == "" {
			owned = append(owned, entry{uid: last})
		}
		if rd.values[2] == nil && (owner == "" || owner == m.name) {
			metas = append(metas, entry{last, times})
		}
		return nil
	}, statement, after)
	if err == nil {
		err = t.own(ctx, m, owned)
	}
	if err == nil {
		err = t.writeMeta(ctx, metas, true)
	}
	return last, n == migrateChunk, err
}
