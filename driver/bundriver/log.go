package bundriver

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// positions are how a database orders the log's entries, so that nothing can appear behind a
// reader. SQLite has one writer, so its order is that of the numbers that the entries get. In
// PostgreSQL a transaction that took its numbers first may commit last; so the order is
// that of the transactions' ids, and the horizon is the oldest that is still open.
type positions struct {
	column   string // of the log l
	kind     string // its type
	order    string // all that orders entries
	backward string // the other way round
	next     string // the horizon
	epoch    string // of the table state s
}

// bound is the n-th value as a position.
func (p positions) bound(d dialect, n int) string {
	return "CAST(" + d.placeholder(n) + " AS " + p.kind + ")"
}

var logColumns = []*column{modelColumn[0], {name: "before", kind: tidemark.JSON, base: "text"}, {name: "stamp", kind: tidemark.Integer, base: "bigint"}}

// logged is the statement that logs what the runs changed, none for nothing. What was adopted
// has no row before: nobody was told of it.
func (t *tx) logged(runs []*run, outs []tidemark.Outcome, origin string) []request {
	var entries []entry
	for _, r := range runs {
		for i := range r.items {
			o := &outs[r.items[i].at]
			if o.Err != nil || !o.Changed {
				continue
			}
			before := json.RawMessage("null")
			if o.Before != nil && r.op != tidemark.Adopt {
				before = json.RawMessage(o.Before)
			}
			entries = append(entries, entry{r.items[i].uid, []json.RawMessage{r.model.quoted, before, strconv.AppendInt(nil, int64(o.Meta.T()), 10)}})
		}
	}
	if t.witnessed {
		origin = t.d.node + origin
	}
	return t.log(entries, origin)
}

// log is the statement that writes entries of logColumns.
func (t *tx) log(entries []entry, origin string) []request {
	if len(entries) == 0 {
		return nil
	}
	d := t.d.dialect
	src, args := d.batch(logColumns, entries)
	args = append(args, origin)
	by := d.placeholder(len(args))
	at, now := d.clock(len(args)+1, t.d.now())
	return []request{{statement: "INSERT INTO " + d.table("log") + " (uid, model, before, stamp, origin, at) SELECT " + src.uid + ", " + src.columns[0] + ", " + src.columns[1] + ", " + src.columns[2] +
		", " + by + ", " + at + " FROM " + src.from, args: append(args, now...)}}
}

// reach is what the log has, as of one moment.
type reach struct {
	horizon   tidemark.Cursor
	forgotten int64  // the position of the last entry that is not kept, 0 for none
	below     uint64 // the nonce of the last entry below the cursor that was asked about
}

// reach is the statement that reads it, for a cursor.
func (t *tx) reach(from tidemark.Cursor, into *reach) request {
	d := t.d.dialect
	p := d.positions()
	nonce := func(position string) string {
		// From the floor on: what was purged may still lie in the index, millions of entries of it.
		return "coalesce((SELECT l.nonce FROM " + d.table("log") + " l WHERE " + p.column + " >= s.forgotten AND " + p.column + " < " + position + " ORDER BY " + p.backward + " LIMIT 1), s.nonce)"
	}
	rd := newReader(nil, 5)
	return request{
		statement: "SELECT " + p.epoch + ", CAST(" + p.next + " AS text), CAST(s.forgotten AS text), " + nonce(p.next) + ", " + nonce(p.bound(d, 1)) + " FROM " + d.table("state") + " s",
		args:      []any{strconv.FormatInt(max(from.At, 0), 10)}, reads: rd,
		each: func() error {
			at, _ := strconv.ParseInt(rd.text(1), 10, 64)
			into.forgotten, _ = strconv.ParseInt(rd.text(2), 10, 64)
			last, _ := rd.values[3].(int64)
			below, _ := rd.values[4].(int64)
			into.horizon, into.below = tidemark.Cursor{Epoch: rd.text(0), At: at, Nonce: uint64(last)}, uint64(below)
			return nil
		},
		done: func(n int) error {
			if n == 0 {
				return tidemark.NewError(tidemark.CodeInternal, "the database has no log: it was not migrated")
			}
			return nil
		},
	}
}

// check refuses a cursor whose continuation the log does not have.
func (r *reach) check(from tidemark.Cursor) error {
	if from.Epoch != r.horizon.Epoch || from.At <= r.forgotten || from.At > r.horizon.At || from.Nonce != r.below {
		return tidemark.NewError(tidemark.CodeCursorTooOld, "the log does not have what followed the cursor")
	}
	return nil
}

// Horizon returns the cursor below which the log is complete: in PostgreSQL that of the oldest
// transaction that writes anywhere in the cluster, whatever it writes. It takes part in no
// transaction that ctx carries.
func (d *Driver) Horizon(ctx context.Context) (tidemark.Cursor, error) {
	var r reach
	err := d.seeing(ctx, func(t *tx) error { return t.do(ctx, t.reach(tidemark.Cursor{}, &r)) })
	return r.horizon, err
}

// Own looks for entries of the log that are another driver's, or that no witness heard of.
func (d *Driver) Own(ctx context.Context, from, to tidemark.Cursor) (bool, error) {
	p := d.dialect.positions()
	own := true
	var r reach
	rd := newReader(nil, 1)
	err := d.seeing(ctx, func(t *tx) error {
		own = true
		return t.do(ctx, t.reach(from, &r), request{
			statement: "SELECT 1 FROM " + d.dialect.table("log") + " l WHERE " + p.column + " >= " + p.bound(d.dialect, 1) + " AND " + p.column + " < " + p.bound(d.dialect, 2) +
				" AND substr(l.origin, 1, " + strconv.Itoa(len(d.node)) + ") <> " + d.dialect.placeholder(3) + " LIMIT 1",
			args: []any{strconv.FormatInt(from.At, 10), strconv.FormatInt(to.At, 10), d.node}, reads: rd,
			each: func() error {
				own = false
				return nil
			},
		})
	})
	return own && r.check(from) == nil, err
}

// seeing runs fn in a transaction that reads, again where the connection was of no use.
func (d *Driver) seeing(ctx context.Context, fn func(*tx) error) error {
	if err := d.usable(ctx); err != nil {
		return err
	}
	return again(func() error {
		t, err := d.look(ctx)
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
