package bundriver_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

// counted is a connector whose connections count statements, and can be told to fail.
type counted struct {
	driver.Connector
	n    atomic.Int64
	fail func(statement string) error // nil never; set before use
}

func (c *counted) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, c}, nil
}

type countedConn struct {
	driver.Conn
	c *counted
}

func (c *countedConn) count(statement string) error {
	c.c.n.Add(1)
	if c.c.fail != nil {
		return c.c.fail(statement)
	}
	return nil
}

func (c *countedConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.count(q); err != nil {
		return nil, err
	}
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

func (c *countedConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.count(q); err != nil {
		return nil, err
	}
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

type sqliteConnector struct{ dsn string }

func (c sqliteConnector) Connect(context.Context) (driver.Conn, error) {
	return (&sqlite3.SQLiteDriver{}).Open(c.dsn)
}
func (c sqliteConnector) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }

// failAt breaks the at-th statement from now on, from 1, but for those that roll back. It returns
// a function that reports whether it did.
func (c *counted) failAt(at int, err error) (did func() bool) {
	c.fail = func(statement string) error {
		if strings.HasPrefix(statement, "ROLLBACK") {
			return nil
		}
		if at--; at == 0 {
			return err
		}
		return nil
	}
	return func() bool { return at <= 0 }
}

// openCounted is a database of the suite's tables behind a counter.
func openCounted(t testing.TB, e engine) (*bundriver.Driver, *bun.DB, *counted) {
	t.Helper()
	c := &counted{}
	var db *bun.DB
	if e.name == "postgres" {
		c.Connector = stdlib.GetConnector(*pgtest.Config(t, pgtest.DSN(t)))
		db = bun.NewDB(sql.OpenDB(c), pgdialect.New())
	} else {
		c.Connector = sqliteConnector{"file:" + t.TempDir() + "/test.db?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on"}
		db = bun.NewDB(sql.OpenDB(c), sqlitedialect.New())
	}
	t.Cleanup(func() { _ = db.Close() })
	mustExec(t, db, e.tables)
	return e.driver(t, db, models), db, c
}

func creates(n int) []tidemark.Mutation {
	ms := make([]tidemark.Mutation, n)
	for i := range ms {
		ms[i] = tidemark.Mutation{Model: "note", UID: fmt.Sprintf("u%06d", i), Op: tidemark.Create, Data: tidemark.Row(`{"text":"x","n":1}`), Stamp: 10}
	}
	return ms
}

func TestStatementsDoNotGrow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _, c := openCounted(t, e)
		ctx := context.Background()
		all, err := tidemark.Where{}.Compile(d.Models()[0])
		if err != nil {
			t.Fatal(err)
		}
		for name, run := range map[string]func(n int){
			"create": func(n int) { write(t, d, creates(n)...) },
			"update": func(n int) {
				ms := creates(n)
				for i := range ms {
					ms[i].Op, ms[i].Stamp = tidemark.Update, 20
				}
				write(t, d, ms...)
			},
			"delete": func(n int) {
				ms := creates(n)
				for i := range ms {
					ms[i].Op, ms[i].Stamp, ms[i].Data = tidemark.Delete, 30, nil
				}
				write(t, d, ms...)
			},
			"snapshot": func(n int) {
				uids := make([]string, n)
				for i := range uids {
					uids[i] = fmt.Sprintf("u%06d", i)
				}
				if _, err := d.Snapshot(ctx, all, uids); err != nil {
					t.Fatal(err)
				}
			},
		} {
			// BEGIN, claim, metadata, read, update, insert, log, COMMIT; for updates of rows that do not exist
			// BEGIN, metadata, read, ROLLBACK before.
			const most = 12
			for _, n := range []int{1, 10, 3000} {
				before := c.n.Load()
				run(n)
				if got := c.n.Load() - before; got > most || name == "snapshot" && got != 1 {
					t.Errorf("%s of %d rows takes %d statements", name, n, got)
				}
			}
		}
	})
}

func write(t testing.TB, d *bundriver.Driver, ms ...tidemark.Mutation) []tidemark.Outcome {
	t.Helper()
	outs, err := d.Write(context.Background(), ms)
	if err != nil {
		t.Fatal(err)
	}
	return outs
}

func create(model, uid, data string, at tidemark.Stamp) tidemark.Mutation {
	return tidemark.Mutation{Model: model, UID: uid, Op: tidemark.Create, Data: tidemark.Row(data), Stamp: at}
}

// TestClaimAgreesWithDecide covers metadata that Put of the conformance suite cannot make: no
// stamp at all, 1970 itself, and what is before it.
func TestClaimAgreesWithDecide(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		n := 0
		for _, stored := range []struct {
			sql  string
			meta tidemark.Meta
		}{
			{"NULL, NULL, NULL", tidemark.Meta{}},
			{"'1970-01-01 00:00:00', NULL, NULL", tidemark.Meta{CreatedAt: 1}},
			{"'2026-01-01 00:00:00', '1970-01-01 00:00:00', NULL", tidemark.Meta{CreatedAt: 1767225600000000, UpdatedAt: 1}},
			{"NULL, NULL, '1970-01-01 00:00:00'", tidemark.Meta{DeletedAt: 1}},
			{"NULL, NULL, '1969-12-31 23:59:59.5'", tidemark.Meta{DeletedAt: 1}},
		} {
			for op := tidemark.Create; op <= tidemark.Adopt; op++ {
				for _, at := range []tidemark.Stamp{1, 2, 1767225600000000} {
					n++
					uid := fmt.Sprintf("u%d", n)
					mustExec(t, db, "INSERT INTO metadata VALUES ('"+uid+"', "+stored.sql+")")
					meta := stored.meta
					meta.UID = uid
					want, err := tidemark.Decide(op, uid, at, meta, false)
					if err != nil {
						t.Fatal(err)
					}
					got := write(t, d, tidemark.Mutation{Model: "note", UID: uid, Op: op, Stamp: at})[0]
					if got.Applied != want.Applied || got.Meta != want.Meta || got.Err != nil {
						t.Errorf("%s at %d over (%s): got %v %+v %v, want %v %+v", op, at, stored.sql, got.Applied, got.Meta, got.Err, want.Applied, want.Meta)
					}
				}
			}
		}
	})
}

func TestDataThatNoPatchMakes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _ := e.ready(t)
		for _, data := range []string{`{"nope":1}`, `{"uid":"other"}`, `{"shown":"x"}`, `{"text\" = 1 --":1}`, `[]`, `{`, `null`, `"x"`} {
			if o := write(t, d, create("note", "a", data, 5))[0]; o.Err == nil || o.Err.Code != tidemark.CodeInvalidData {
				t.Errorf("%s: %+v", data, o)
			}
		}
		if o := write(t, d, create("note", "a", `{}`, 5))[0]; !o.Applied {
			t.Errorf("%+v", o)
		}
		for _, m := range []tidemark.Mutation{{Model: "note", UID: "b", Op: 9, Stamp: 1}, {Model: "note", UID: "b\x00", Op: tidemark.Create, Stamp: 1}} {
			if o := write(t, d, m)[0]; o.Err == nil || o.Err.Code != tidemark.CodeInvalidData {
				t.Errorf("%+v: %+v", m, o)
			}
		}
		if o := write(t, d, create("note", "b", `{}`, 1<<62))[0]; o.Err == nil || o.Err.Code != tidemark.CodeInvalidStamp {
			t.Errorf("%+v", o)
		}
	})
}

// TestFailuresLeaveNothing breaks each statement of a write in turn.
func TestFailuresLeaveNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db, c := openCounted(t, e)
		write(t, d, create("list", "old", `{"title":"x"}`, 5))
		broken := errors.New("the cable broke: EOF")
		for at := 1; ; at++ {
			c.failAt(at, broken)
			_, err := d.Write(context.Background(), []tidemark.Mutation{create("list", "a", `{"title":"x"}`, 10),
				{Model: "list", UID: "old", Op: tidemark.Update, Data: tidemark.Row(`{"title":"y"}`), Stamp: 10},
				{Model: "list", UID: "gone", Op: tidemark.Delete, Stamp: 10}})
			c.fail = nil
			if err == nil {
				if at < 6 {
					t.Errorf("only %d statements", at)
				}
				break
			}
			if tidemark.CodeOf(err) != tidemark.CodeUnavailable || !errors.Is(err, broken) {
				t.Errorf("statement %d: %v", at, err)
			}
			var rows, metas int
			ctx := context.Background()
			if err := db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM list), (SELECT count(*) FROM metadata)").Scan(&rows, &metas); err != nil || rows != 1 || metas != 1 {
				t.Errorf("statement %d: %d rows, %d metadata, %v; want 1 and 1", at, rows, metas, err)
			}
		}
	})
}
