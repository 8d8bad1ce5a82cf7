package bundriver

import (
	"context"
	"strconv"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// purgeChunk is how many clients one transaction of Purge looks at, and purgeEntries how many entries of the log.
const (
	purgeChunk   = 500
	purgeEntries = 5000
)

// purgeRest is how long Purge lets others write between two transactions: who waits for SQLite's lock in another process
// does not queue, but asks now and then.
const purgeRest = 10 * time.Millisecond

// Purge forgets the changes that are older than before, from the beginning of the log to the
// first that is not, by the database's clock in PostgreSQL and Options.Now in SQLite. It goes
// along the log by transactions of some thousand entries, so that it holds up neither writers nor, in PostgreSQL,
// the horizon. When it is interrupted, what it has removed stays removed, and the next Purge goes on there; it then
// returns how many that were, besides the error. Several processes may purge at once.
//
// PostgreSQL's autovacuum makes the room free for new entries, and does not give it back to the disk.
func (d *Driver) Purge(ctx context.Context, before time.Time) (int64, error) {
	if err := d.usable(ctx); err != nil {
		return 0, err
	}
	var removed int64
	for more := true; more; {
		n := 0
		err := d.within(ctx, func(t *tx) (err error) {
			n, more, err = t.purge(ctx, before)
			return err
		})
		if err != nil {
			return removed, err
		}
		removed += int64(n)
		if more {
			select {
			case <-time.After(purgeRest):
			case <-ctx.Done():
				return removed, unavailable(ctx.Err())
			}
		}
	}
	for after, more := "", true; more; {
		err := d.within(ctx, func(t *tx) (err error) {
			after, more, err = t.forget(ctx, before, after)
			return err
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// purge removes the first entries of the log that are old, and remembers the last of them. Others' purges wait for
// the state's row, before anything is read: where they went on from what they had read, the floor would go back. What
// was removed before, and may still lie in the index, is passed over by starting from the floor; a transaction of which only a part is
// removed counts as gone.
func (t *tx) purge(ctx context.Context, before time.Time) (removed int, more bool, err error) {
	d := t.d.dialect
	p := d.positions()
	log, state := d.table("log"), d.table("state")
	instant, arg := d.instant(1, before)
	position, seq, nonce := "", "", ""
	looked, young := 0, false
	locked, rd := newReader(nil, 1), newReader(nil, 4)
	err = t.do(ctx,
		request{statement: "SELECT m.id FROM " + state + " m" + d.forUpdate(), reads: locked, each: func() error { return nil }},
		request{
			statement: "SELECT CAST(" + p.column + " AS text), CAST(l.seq AS text), CAST(l.nonce AS text), CASE WHEN l.at < " + instant + " THEN 1 ELSE 0 END FROM " + log + " l WHERE " +
				p.column + " >= (SELECT s.forgotten FROM " + state + " s) AND " + p.column + " < " + p.next + " ORDER BY " + p.order + " LIMIT " + strconv.Itoa(purgeEntries),
			args: []any{arg}, reads: rd,
			each: func() error {
				if old, _ := rd.values[3].(int64); young || old == 0 {
					young = true
					return nil
				}
				looked++
				position, seq, nonce = rd.text(0), rd.text(1), rd.text(2)
				return nil
			},
		})
	if err != nil || looked == 0 {
		return 0, false, err
	}
	integer := func(n int) string { return "CAST(" + d.placeholder(n) + " AS bigint)" }
	err = t.do(ctx,
		// The floor is read here before it is written.
		request{statement: "DELETE FROM " + log + " AS l WHERE " + p.column + " >= (SELECT s.forgotten FROM " + state + " s) AND " + p.column + " <= " + p.bound(d, 1) +
			" AND (" + p.column + ", l.seq) <= (" + p.bound(d, 1) + ", " + integer(2) + ")", args: []any{position, seq}, done: func(n int) error { removed = n; return nil }},
		request{statement: "UPDATE " + state + " SET forgotten = " + p.bound(d, 1) + ", nonce = " + integer(2), args: []any{position, nonce}})
	return removed, looked == purgeEntries, err
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
