package sqlite_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"
	"testing"

	"github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// counter is a connector whose connections count what is executed on them.
type counter struct {
	dsn string
	n   atomic.Int64
}

func (c *counter) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }

func (c *counter) Connect(context.Context) (driver.Conn, error) {
	conn, err := (&sqlite3.SQLiteDriver{}).Open(c.dsn)
	return &countedConn{conn, &c.n}, err
}

type countedConn struct {
	driver.Conn
	n *atomic.Int64
}

func (c *countedConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.n.Add(1)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c *countedConn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, q)
	return &countedStmt{s, c.n}, err
}

type countedStmt struct {
	driver.Stmt
	n *atomic.Int64
}

func (s *countedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.n.Add(1)
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s *countedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.n.Add(1)
	return s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
}

func (c *counter) count(fn func()) int64 {
	before := c.n.Load()
	fn()
	return c.n.Load() - before
}

// What a sync does with its rows takes a few statements to read them, and one for every 32 to store them.
func TestStatementsAreFew(t *testing.T) {
	t.Parallel()
	c := &counter{dsn: sqlite.DSN(file(t))}
	db := sql.OpenDB(c)
	defer func() { _ = db.Close() }()
	s, err := sqlite.Open(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Declare(t.Context(), posts); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "post", "none"); err != nil { // connects, which takes statements of its own
		t.Fatal(err)
	}
	for _, n := range []int{320, 3200} {
		recs := records(makePosts(n))
		uids := make([]string, n)
		for i := range recs {
			uids[i] = recs[i].UID
		}
		counts := map[string]int64{}
		most := map[string]int64{"reading": 2, "storing": int64(n/32 + n/512 + 1), "finding": 1, "held": 2}
		if err := s.Update(t.Context(), func(tx tidemark.StoreTx) (err error) {
			counts["reading"] = c.count(func() {
				_, err = tx.Records("post", uids)
				if err == nil {
					_, err = tx.Pending("post", uids)
				}
			})
			counts["storing"] = c.count(func() {
				if err == nil {
					err = tx.Put("post", recs)
				}
			})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		all, err := tidemark.Where{}.Compile(posts)
		if err != nil {
			t.Fatal(err)
		}
		counts["finding"] = c.count(func() { _, err = s.Find(t.Context(), all) })
		if err != nil {
			t.Fatal(err)
		}
		err = s.View(t.Context(), func(tx tidemark.StoreTx) (err error) {
			counts["held"] = c.count(func() { _, err = tx.Held(all) })
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range counts {
			if got < 1 || got > most[what] {
				t.Errorf("%s %d rows takes %d statements, want at most %d", what, n, got, most[what])
			}
		}
	}
}
