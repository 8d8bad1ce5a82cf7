package bundriver

import (
	"context"
	"strconv"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// purgeChunk is how many clients one transaction of Purge looks at.
const purgeChunk = 500

// Purge forgets the changes that are older than before, from the beginning of the log to the
// first that is not, by the database's clock in PostgreSQL and Options.Now in SQLite.
func (d *Driver) Purge(ctx context.Context, before time.Time) (int64, error) {
	if err := d.usable(ctx); err != nil {
		return 0, err
	}
	var removed int64
	err := d.within(ctx, func(t *tx) error {
		n, err := t.purge(ctx, before)
		removed = int64(n)
		return err
	})
	for after, more := "", true; more && err == nil; {
		err = d.within(ctx, func(t *tx) (err error) {
			after, more, err = t.forget(ctx, before, after)
			return err
		})
	}
	return removed, err
}

// purge removes the entries before the first that is to stay, and remembers the last of them.
func (t *tx) purge(ctx context.Context, before time.Time) (removed int, err error) {
	d := t.d.dialect
	p := d.positions()
	log := d.table("log")
	instant, arg := d.instant(1, before)
	first := ""
	rd := newReader(nil, 1)
	err = t.do(ctx, request{
		// The horizon, where there is no younger entry below it.
		statement: "SELECT CAST(b.f AS text) FROM (SELECT " + p.next + " AS f UNION ALL SELECT * FROM (SELECT " + p.column + " FROM " + log + " l WHERE l.at >= " + instant +
			" ORDER BY " + p.order + " LIMIT 1) AS younger) AS b ORDER BY b.f LIMIT 1",
		args: []any{arg}, reads: rd,
		each: func() error { first = rd.text(0); return nil },
	})
	if err != nil {
		return 0, err
	}
	older := p.column + " < " + p.bound(d, 1)
	err = t.do(ctx,
		request{statement: "UPDATE " + d.table("state") + " SET forgotten = l.position, nonce = l.nonce FROM (SELECT " + p.column + " AS position, l.nonce FROM " + log + " l WHERE " + older +
			" ORDER BY " + p.backward + " LIMIT 1) AS l", args: []any{first}},
		request{statement: "DELETE FROM " + log + " AS l WHERE " + older, args: []any{first}, done: func(n int) error { removed = n; return nil }})
	return removed, err
}

// forget drops the verdicts of clients that have not pushed for long, of those whose names follow after.
func (t *tx) forget(ctx context.Context, before time.Time, after string) (last string, more bool, err error) {
	d := t.d.dialect
	instant, arg := d.instant(2, before)
	var entries []entry
	rd := newReader(nil, 2)
	err = t.do(ctx, request{
		statement: "SELECT m.client, m.ledger FROM " + d.table("clients") + " m WHERE m.client > " + d.placeholder(1) + " AND m.at < " + instant + " ORDER BY m.client LIMIT " + strconv.Itoa(purgeChunk) + d.forUpdate(),
		args:      []any{after, arg}, reads: rd,
		each: func() error {
			last = rd.text(0)
			l, err := tidemark.ParseLedger([]byte(rd.text(1)))
			if err != nil {
				return err
			}
			l.Forget()
			entries = append(entries, ledgerEntry(last, l))
			return nil
		},
	})
	if err != nil || len(entries) == 0 {
		return "", false, err
	}
	src, args := d.batch(ledgerColumn, entries)
	return last, len(entries) == purgeChunk, t.do(ctx, request{statement: "UPDATE " + d.table("clients") + " AS m SET ledger = " + src.columns[0] + ", at = NULL FROM " + src.from + " WHERE m.client = " + src.uid, args: args})
}
