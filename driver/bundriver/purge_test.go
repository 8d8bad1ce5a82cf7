package bundriver_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
)

// age puts n entries into the log that one transaction made long ago, and returns the cursor after them.
func (e engine) age(t testing.TB, d *bundriver.Driver, db *bun.DB, what string, n int) tidemark.Cursor {
	t.Helper()
	statement := `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) INSERT INTO ` + e.own("log") + ` (model, uid, stamp, origin, at) SELECT 'note', ? || i, 1, '', `
	if e.name == "postgres" {
		statement += `'2020-01-01' FROM c`
	} else {
		statement += `1577836800000000 FROM c`
	}
	if _, err := db.ExecContext(t.Context(), statement, n, what); err != nil {
		t.Fatal(err)
	}
	return e.settled(t, d, db)
}

// settled waits until no open transaction holds the horizon back: other tests use the same cluster.
func (e engine) settled(t testing.TB, d *bundriver.Driver, db *bun.DB) tidemark.Cursor {
	t.Helper()
	open := "SELECT 0"
	if e.name == "postgres" {
		open = "SELECT count(*) FROM tidemark.log WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())"
	}
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		var n int
		if err := db.QueryRowContext(t.Context(), open).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("something holds the horizon back")
		}
	}
	c, err := d.Horizon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func entries(t testing.TB, e engine, db *bun.DB) (n int64) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM "+e.own("log")).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func good(t testing.TB, d *bundriver.Driver, c tidemark.Cursor, what string) {
	t.Helper()
	f := follow(t, d, nil, 10)
	f.cursor = c
	if _, err := f.pass(context.Background()); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// A purge goes by transactions of a bounded size. Where it is interrupted, those that were committed stay, and the
// cursors are right: what has lost something behind it is too old, the others are good.
func TestPurgeIsInterrupted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		const size, transactions = 700, 20
		before := e.settled(t, d, db)
		var cursors []tidemark.Cursor
		for i := range transactions {
			cursors = append(cursors, e.age(t, d, db, fmt.Sprintf("t%d-", i), size))
		}
		poison := `CREATE TRIGGER poison BEFORE DELETE ON tidemark_log WHEN OLD.uid = 't16-5' BEGIN SELECT RAISE(ABORT, 'poison'); END`
		if e.name == "postgres" {
			mustExec(t, db, `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$poison$$; END'`)
			poison = `CREATE TRIGGER poison BEFORE DELETE ON tidemark.log FOR EACH ROW WHEN (OLD.uid = 't16-5') EXECUTE FUNCTION poison()`
		}
		mustExec(t, db, poison)
		removed, err := d.Purge(t.Context(), time.Now())
		left := entries(t, e, db)
		if err == nil || removed == 0 || left+removed != size*transactions || left < size*4 {
			t.Fatalf("removed %d, %v; %d are left", removed, err, left)
		}
		tooOld(t, d, before, "before everything")
		for i, c := range cursors {
			if gone := int64(i+1)*size < removed; gone {
				tooOld(t, d, c, fmt.Sprintf("after transaction %d of which %d entries are gone", i, removed))
			} else {
				good(t, d, c, fmt.Sprintf("after transaction %d", i))
			}
		}
		mustExec(t, db, `DROP TRIGGER poison`+map[string]string{"postgres": " ON tidemark.log"}[e.name])
		if n, err := d.Purge(t.Context(), time.Now()); n != left || err != nil {
			t.Errorf("then removed %d of %d, %v", n, left, err)
		}
		tooOld(t, d, cursors[transactions-2], "the last but one")
		good(t, d, cursors[transactions-1], "the last one")
	})
}

// Two servers purge at the same time, one of them more: the floor does not go back.
func TestPurgesAtTheSameTime(t *testing.T) {
	t.Parallel()
	e := engines[0]
	d, db := e.ready(t)
	middle := e.age(t, d, db, "first", 10)
	end := e.age(t, d, db, "second", 10)
	mustExec(t, db, "UPDATE tidemark.log SET at = '2021-01-01' WHERE uid LIKE 'second%'")
	first, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.ExecContext(t.Context(), "SELECT 1 FROM tidemark.state FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	for i, year := range []int{2022, 2021} {
		go func() {
			_, err := d.Purge(context.Background(), time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
			done <- err
		}()
		for waiting := 0; waiting <= i; runtime.Gosched() {
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := entries(t, e, db); n != 0 {
		t.Fatalf("%d entries are left", n)
	}
	tooOld(t, d, middle, "in the middle of what was purged")
	good(t, d, end, "after everything that was purged")
}
