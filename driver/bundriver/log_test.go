package bundriver_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgserver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

// follower holds a copy of a scope and keeps it by cursors.
type follower struct {
	d      *bundriver.Driver
	scope  *tidemark.Predicate
	cursor tidemark.Cursor
	limit  int
	rows   map[string]string
}

func follow(t testing.TB, d *bundriver.Driver, where tidemark.Where, limit int) *follower {
	t.Helper()
	p, err := where.Compile(d.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	return &follower{d: d, scope: p, limit: limit, rows: make(map[string]string)}
}

// pass reads what has changed and returns how many rows that were.
func (f *follower) pass(ctx context.Context) (n int, err error) {
	q := tidemark.Pull{Scope: f.scope, From: f.cursor, Limit: f.limit, Bytes: 1 << 20}
	for first := true; ; first = false {
		page, err := f.d.Pull(ctx, q)
		if err != nil {
			return n, err
		}
		if first {
			f.cursor = page.Horizon
		}
		for _, rm := range page.Rows {
			f.rows[rm.Row.UID()] = string(rm.Row)
		}
		for _, rm := range page.Gone {
			delete(f.rows, rm.Meta.UID)
		}
		n += len(page.Rows) + len(page.Gone)
		if q.After = page.Last; !page.More {
			return n, nil
		}
	}
}

// check compares the copy with the table.
func (f *follower) check(t testing.TB) {
	t.Helper()
	rows, err := f.d.Find(context.Background(), f.scope, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, r := range rows {
		want[r.UID()] = string(r)
	}
	if !maps.Equal(f.rows, want) {
		for uid := range want {
			if f.rows[uid] != want[uid] {
				t.Errorf("%s: the copy has %q, the table %q", uid, f.rows[uid], want[uid])
			}
		}
		for uid := range f.rows {
			if want[uid] == "" {
				t.Errorf("%s: the copy has %q, the table nothing", uid, f.rows[uid])
			}
		}
	}
}

// The trap of numbers: A takes its number first and commits last, while a reader has
// moved on.
func TestTheFirstNumberCommitsLast(t *testing.T) {
	t.Parallel()
	d, _ := engines[0].ready(t)
	ctx := t.Context()
	f := follow(t, d, nil, 10)
	err := d.RunInTx(ctx, func(tx context.Context, _ bun.Tx) error {
		if _, err := d.Write(tx, []tidemark.Mutation{note("a", 1, 10)}); err != nil {
			return err
		}
		write(t, d, note("b", 1, 10))
		_, err := f.pass(ctx)
		if len(f.rows) != 1 || err != nil {
			t.Errorf("before the commit: %v, %v", f.rows, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.pass(ctx); err != nil {
		t.Fatal(err)
	}
	f.check(t)
	waitFor(t, func() bool { // until no other test's transaction is open that began before
		n, err := f.pass(ctx)
		return n == 0 && err == nil
	})
}

// Writers commit in another order than they began, and readers follow all the while. Half of the writes are
// the only ones of their uids: no later change brings what a reader has skipped.
func TestCommitOrder(t *testing.T) {
	t.Parallel()
	for _, e := range append(engines, prepared) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			d, _ := e.ready(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			readers := []*follower{follow(t, d, nil, 1000), follow(t, d, nil, 3), follow(t, d, tidemark.Where{"n": tidemark.Range{GTE: 50}}, 4)}
			const parts = 4 // after each of which the copies are compared
			rounds := 500
			if testing.Short() {
				rounds = 50
			}
			var stamp atomic.Int64
			for writers := 2; writers <= 8; writers += 2 {
				r := &race{t: t, d: d, stamp: &stamp, postgres: e.name != "sqlite"}
				random := rand.New(rand.NewPCG(seed, uint64(writers)))
				for part := range parts {
					r.run(readers, fmt.Sprintf("client%d.%d", writers, part), writers, max(rounds/writers/parts, 1), random)
					for _, f := range readers {
						if _, err := f.pass(t.Context()); err != nil {
							t.Fatal(err)
						}
						f.check(t)
					}
					if t.Failed() {
						return // what was skipped is missing from now on
					}
				}
			}
		})
	}
}

type race struct {
	t        *testing.T
	d        *bundriver.Driver
	stamp    *atomic.Int64
	postgres bool
}

func (r *race) run(readers []*follower, clients string, writers, rounds int, random *rand.Rand) {
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	for k := range writers {
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		writing.Go(func() {
			for i := range rounds {
				if err := r.once(own, fmt.Sprint(clients, ".", k), int64(i+1)); err != nil && !tidemark.Temporary(err) {
					r.t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	for _, f := range readers {
		reading.Go(func() {
			for !done.Load() {
				if _, err := f.pass(r.t.Context()); err != nil {
					r.t.Errorf("reader: %v", err)
					return
				}
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
}

// once writes a few rows, by one of the ways to do so.
func (r *race) once(random *rand.Rand, client string, n int64) error {
	ms := make([]tidemark.Mutation, 1+random.IntN(3))
	for i := range ms {
		at := r.stamp.Add(1)
		ms[i] = tidemark.Mutation{Model: "note", UID: fmt.Sprint("u", random.IntN(12)), Op: tidemark.Update, Stamp: tidemark.Stamp(at), Data: tidemark.Row(fmt.Sprintf(`{"n":%d}`, random.IntN(100)))}
		switch random.IntN(8) {
		case 0, 1:
			ms[i].Op, ms[i].Data = tidemark.Delete, nil
		case 2, 3, 4, 5:
			ms[i].UID = fmt.Sprint("once", at)
		}
	}
	ctx := r.t.Context()
	switch random.IntN(3) {
	case 0:
		_, err := r.d.Write(ctx, ms)
		return err
	case 1:
		ms = ms[:1]
		ms[0].N = 1
		_, err := r.d.Push(ctx, &tidemark.Batch{Client: fmt.Sprint(client, ".", n), Mutations: ms}, nil)
		return err
	}
	return r.d.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		for i := range ms {
			if _, err := r.d.Write(ctx, ms[i:i+1]); err != nil {
				return err
			}
			if r.postgres {
				if _, err := tx.ExecContext(ctx, "SELECT pg_sleep(?)", random.Float64()/1000); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func tooOld(t testing.TB, d *bundriver.Driver, c tidemark.Cursor, what string) {
	t.Helper()
	f := follow(t, d, nil, 10)
	f.cursor = c
	if _, err := f.pass(context.Background()); tidemark.CodeOf(err) != tidemark.CodeCursorTooOld {
		t.Errorf("%s: got %v", what, err)
	}
}

// In another cluster transactions are numbered anew: cursors of the former are refused, and the restored log,
// whose numbers mean nothing there, goes at the next start.
func TestARestoredDump(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	db := pgtest.Connect(t, dsn)
	mustExec(t, db, postgresTables)
	d := engines[0].driver(t, db, models)
	other, err := pgserver.Start(pgserver.Careless...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Stop)
	for i := range 50 { // so that the numbers of the first cluster are the higher ones
		write(t, d, note(fmt.Sprint("u", i), i, 10))
	}
	mustExec(t, db, "SELECT pg_current_xact_id() FROM generate_series(1, 10)")
	cursor, err := d.Horizon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore(t, dsn, other.DSN())
	copied := pgtest.Connect(t, other.DSN())
	d2, err := bundriver.New(t.Context(), copied, models, nil)
	if err != nil {
		t.Fatal(err)
	}
	tooOld(t, d2, cursor, "before Migrate")
	if err := d2.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	tooOld(t, d2, cursor, "after Migrate")
	f := follow(t, d2, nil, 10)
	if n, err := f.pass(t.Context()); n != 50 || err != nil {
		t.Fatalf("a fresh copy has %d rows, %v", n, err)
	}
	write(t, d2, note("u1", 7, 20))
	if n, err := f.pass(t.Context()); n != 1 || err != nil {
		t.Errorf("one row changed, and %d are told, %v", n, err)
	}
	f.check(t)
}

// restore copies a database as pg_dump and psql do.
func restore(t testing.TB, from, to string) {
	t.Helper()
	bin := func(name string) string {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
		if len(found) == 0 {
			testneeds.Missing(t, name, "it copies the database, as a restore does")
		}
		return found[len(found)-1]
	}
	dump, err := exec.Command(bin("pg_dump"), "--no-owner", "-d", from).Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	load := exec.Command(bin("psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", to)
	load.Stdin = strings.NewReader(string(dump))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
}

// A history that was cut off and went on otherwise, as after a restore to a point in time, or a
// copied file: the numbers are the same, the nonces are not.
func TestAnotherHistoryOfTheSameNumbers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		write(t, d, note("a", 1, 10), note("b", 1, 10))
		var cursor tidemark.Cursor
		var last int64
		if err := db.QueryRowContext(t.Context(), "SELECT nonce FROM "+e.own("log")+" WHERE uid = 'b'").Scan(&last); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() (done bool) { // until no other test's transaction is open that began before
			var err error
			cursor, err = d.Horizon(t.Context())
			return err == nil && cursor.Nonce == uint64(last)
		})
		f := follow(t, d, nil, 10)
		f.cursor = cursor
		if _, err := f.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db, "UPDATE "+e.own("log")+" SET nonce = nonce + 1 WHERE uid = 'b'")
		tooOld(t, d, cursor, "another nonce")
		cursor.Nonce++
		cursor.Epoch += "x"
		tooOld(t, d, cursor, "another epoch")
	})
}

// own names one of the driver's tables.
func (e engine) own(table string) string { return strings.TrimSuffix(e.uids, "uids") + table }

// A database that the former version has migrated gets its log; what is found by the first Migrate with a log is
// not logged, what a later one adopts is.
func TestMigrateFromTheFormerVersion(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		mustExec(t, db, e.tables)
		ctx := t.Context()
		if e.name == "postgres" {
			mustExec(t, db, "CREATE SCHEMA tidemark")
		}
		mustExec(t, db, "CREATE TABLE "+e.uids+" (uid text PRIMARY KEY, model text NOT NULL)")
		mustExec(t, db, "CREATE TABLE metadata (uid text PRIMARY KEY, created_at timestamp, updated_at timestamp, deleted_at timestamp)")
		mustExec(t, db, "INSERT INTO note (uid, n) VALUES ('old', 1), ('new', 2)")
		mustExec(t, db, "INSERT INTO "+e.uids+" VALUES ('old', 'note')")
		mustExec(t, db, "INSERT INTO metadata (uid, created_at) VALUES ('old', '2020-01-01 00:00:00')")
		d := e.driver(t, db, models)
		f := follow(t, d, nil, 10)
		if n, err := f.pass(ctx); n != 2 || err != nil {
			t.Fatalf("%d rows, %v", n, err)
		}
		logged := func(want int) {
			t.Helper()
			var n int
			if err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+e.own("log")).Scan(&n); err != nil || n != want {
				t.Errorf("%d entries, %v; want %d", n, err, want)
			}
		}
		logged(0)
		mustExec(t, db, "INSERT INTO note (uid, n) VALUES ('theirs', 3)")
		for range 2 {
			if err := d.Migrate(ctx); err != nil {
				t.Fatal(err)
			}
			logged(1)
		}
		if n, err := f.pass(ctx); n != 1 || err != nil {
			t.Errorf("the adopted row: %d rows, %v", n, err)
		}
		f.check(t)
	})
}

// A row that another program removed is gone, with a tombstone.
func TestGoneBehindTheDriversBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		f := follow(t, d, nil, 10)
		write(t, d, note("a", 1, 10))
		if _, err := f.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		write(t, d, note("a", 2, 20))
		mustExec(t, db, "DELETE FROM note")
		page, err := d.Pull(t.Context(), tidemark.Pull{Scope: f.scope, From: f.cursor, Limit: 1, Bytes: 1})
		if err != nil || len(page.Gone) != 1 || page.Gone[0].Row != nil || page.Gone[0].Meta.DeletedAt != 20 {
			t.Errorf("%+v %v", page, err)
		}
	})
}

// Pages go by the order of the table's uids, whatever that is, and that of the other tables.
func TestPagesInTheOrderOfTheUIDs(t *testing.T) {
	t.Parallel()
	for _, tables := range []string{
		`CREATE TABLE list (uid text COLLATE "en-x-icu" PRIMARY KEY, title text NOT NULL)`,
		`CREATE TABLE list (uid text PRIMARY KEY, title text NOT NULL);
CREATE TABLE metadata (uid text COLLATE "en-x-icu" PRIMARY KEY, created_at timestamp, updated_at timestamp, deleted_at timestamp)`,
		`CREATE TABLE list (uid text PRIMARY KEY, title text NOT NULL)`,
	} {
		db := pgtest.Open(t)
		mustExec(t, db, tables)
		d := engines[0].driver(t, db, []any{(*List)(nil)})
		uids := []string{"a", "B", "c", "D", "é", "f", "_x", "10", "9", "Ω"}
		var ms []tidemark.Mutation
		for _, uid := range uids {
			ms = append(ms, create("list", uid, `{"title":"x"}`, 10))
		}
		write(t, d, ms...)
		c, err := d.Horizon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range ms {
			ms[i].Stamp = 20
		}
		write(t, d, ms...)
		for _, where := range []tidemark.Where{nil, {"title": "x"}} {
			for _, from := range []tidemark.Cursor{{}, c} {
				f := follow(t, d, where, 3)
				f.cursor = from
				if n, err := f.pass(t.Context()); n != len(uids) || err != nil {
					t.Errorf("%d of %d rows, %v", n, len(uids), err)
				}
				f.check(t)
				page, err := d.Pull(t.Context(), tidemark.Pull{Scope: f.scope, Limit: 100, Bytes: 1 << 20})
				if err != nil {
					t.Fatal(err)
				}
				for _, rm := range page.Rows {
					if rm.Meta.UID != rm.Row.UID() || rm.Meta.T() != 20 {
						t.Errorf("%s has metadata %+v", rm.Row, rm.Meta)
					}
				}
			}
		}
	}
}

// The number of statements depends neither on that of the rows nor on that of the mutations.
func TestLogStatementsDoNotGrow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _, c := openCounted(t, e)
		ctx := context.Background()
		f := follow(t, d, tidemark.Where{"n": 1}, 100_000)
		count := func(what string, most int64, fn func() error) {
			t.Helper()
			before := c.n.Load()
			if err := fn(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if got := c.n.Load() - before; got > most {
				t.Errorf("%s takes %d statements", what, got)
			}
		}
		next := int64(1)
		for _, n := range []int{1, 10, 3000} {
			push := func(op tidemark.Op, data string, stamp tidemark.Stamp) func() error {
				ms := creates(n)
				for i := range ms {
					ms[i].UID, ms[i].Op, ms[i].Data, ms[i].Stamp, ms[i].N = fmt.Sprint(n, ms[i].UID), op, tidemark.Row(data), stamp, next
					next++
				}
				return func() error {
					vs, err := d.Push(ctx, &tidemark.Batch{Client: "c", Confirmed: ms[0].N - 1, Mutations: ms}, nil)
					for _, v := range vs {
						if err == nil && v.Err != nil {
							err = v.Err
						}
					}
					return err
				}
			}
			pull := func(want int) func() error {
				return func() error {
					got, err := f.pass(ctx)
					if err == nil && (got < want || got > want && e.name == "sqlite") { // in PostgreSQL some may come again
						err = fmt.Errorf("told of %d rows, want %d", got, want)
					}
					return err
				}
			}
			// BEGIN, ledger (and a new one), uids, metadata, rows; rows, uids, metadata, log, ledger; COMMIT
			create := push(tidemark.Create, `{"n":1}`, 10)
			count("a push of creates", 12, create)
			count("the same again", 9, create)
			count("a page", 7, pull(n)) // BEGIN, a setting, the log's state, the rows, COMMIT
			count("a push of updates", 11, push(tidemark.Update, `{"n":2}`, 20))
			count("a page of departures", 7, pull(n)) // and the rows before, and as they are
			count("a push of deletes", 11, push(tidemark.Delete, "", 30))
			count("a page of rows that are none of the scope's", 7, pull(0))
			count("a purge", 8, func() error { _, err := d.Purge(ctx, time.Now().Add(-time.Hour)); return err })
		}
		for i := range 3 {
			f.cursor = tidemark.Cursor{}
			count(fmt.Sprint("pass ", i), 5, func() error { _, err := f.pass(ctx); return err })
		}
	})
}
