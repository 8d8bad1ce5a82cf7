package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// maxStatements bounds a session's cache of prepared statements.
const maxStatements = 256

// session is one connection with the statements that were prepared on it. One
// goroutine at a time uses it.
//
// It speaks to the driver itself, through [sql.Conn.Raw]: database/sql takes as long
// to hand a row on as SQLite to find it.
type session struct {
	conn    *sql.Conn
	stmts   map[string]*statement
	restore []string // undo our settings before the connection goes back

	args   []driver.NamedValue // of the statement that is executed, to be used again
	result result              // likewise
}

// statement is a prepared statement.
type statement struct {
	driver.Stmt
	columns int // of its result, 0 while unknown
}

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, translate(ctx, err)
	}
	return &session{conn: conn, stmts: make(map[string]*statement)}, nil
}

// close gives the connection back to its handle.
func (c *session) close() {
	for _, undo := range c.restore {
		_, _ = c.number(context.Background(), undo)
	}
	c.forget()
	_ = c.conn.Close()
}

// set changes settings of the connection until it goes back.
func (c *session) set(ctx context.Context, settings [][2]string) error {
	for _, set := range settings {
		old, err := c.number(ctx, "PRAGMA "+set[0])
		if err != nil {
			return err
		}
		if _, err := c.number(ctx, "PRAGMA "+set[0]+" = "+set[1]); err != nil {
			return err
		}
		c.restore = append(c.restore, "PRAGMA "+set[0]+" = "+strconv.FormatInt(old, 10))
	}
	return nil
}

func (c *session) forget() {
	_ = c.conn.Raw(func(any) error {
		c.closeAll()
		return nil
	})
	clear(c.stmts)
}

func (c *session) closeAll() {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	clear(c.stmts)
}

// use calls fn with the prepared statement text. fn must not use the session.
func (c *session) use(ctx context.Context, text string, fn func(*statement) error) error {
	err := c.conn.Raw(func(conn any) error {
		s, err := c.prepared(ctx, conn, text)
		if err != nil {
			return err
		}
		return fn(s)
	})
	return translate(ctx, err)
}

func (c *session) prepared(ctx context.Context, conn any, text string) (*statement, error) {
	if s := c.stmts[text]; s != nil {
		return s, nil
	}
	if len(c.stmts) >= maxStatements {
		c.closeAll()
	}
	var made driver.Stmt
	var err error
	if p, ok := conn.(driver.ConnPrepareContext); ok {
		made, err = p.PrepareContext(ctx, text)
	} else {
		made, err = conn.(driver.Conn).Prepare(text)
	}
	if err != nil {
		return nil, err
	}
	s := &statement{Stmt: made}
	c.stmts[text] = s
	return s, nil
}

// bind returns args as a driver takes them, until the next call.
func (c *session) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, v := range args {
		if n, ok := v.(int); ok {
			v = int64(n)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.args
}

// plain are arguments for drivers that know no context.
func plain(args []driver.NamedValue) []driver.Value {
	out := make([]driver.Value, len(args))
	for i := range args {
		out[i] = args[i].Value
	}
	return out
}

func (s *statement) exec(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if x, ok := s.Stmt.(driver.StmtExecContext); ok {
		return x.ExecContext(ctx, args)
	}
	return s.Exec(plain(args)) //nolint:staticcheck // what else such a driver has
}

func (s *statement) query(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if q, ok := s.Stmt.(driver.StmtQueryContext); ok {
		return q.QueryContext(ctx, args)
	}
	return s.Query(plain(args)) //nolint:staticcheck // what else such a driver has
}

// endless is context.WithoutCancel, which makes one for each statement.
func endless(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// exec runs a statement that is not to be cut short: a write that is interrupted
// would end its transaction.
func (c *session) exec(ctx context.Context, text string, args ...any) (res driver.Result, err error) {
	quiet := endless(ctx)
	err = c.use(quiet, text, func(s *statement) (err error) {
		res, err = s.exec(quiet, c.bind(args))
		return err
	})
	return res, err
}

// query calls scan for each row of the result. ctx interrupts it. scan must not use the session.
func (c *session) query(ctx context.Context, scan func(*result) error, text string, args ...any) error {
	return c.use(ctx, text, func(s *statement) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rows, err := s.query(ctx, c.bind(args))
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		if s.columns == 0 {
			s.columns = len(rows.Columns())
		}
		return c.each(rows, s.columns, scan)
	})
}

func (c *session) each(rows driver.Rows, columns int, scan func(*result) error) error {
	r := &c.result
	if cap(r.values) < columns {
		r.values = make([]driver.Value, columns)
	}
	r.values, r.err = r.values[:columns], nil
	defer clear(r.values)
	for {
		switch err := rows.Next(r.values); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := scan(r); err != nil {
			return err
		}
		if r.err != nil {
			return r.err
		}
	}
}

// number returns the last number of a result, 0 when it is empty.
func (c *session) number(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = c.query(ctx, func(r *result) error {
		n = r.number(0)
		return nil
	}, text, args...)
	return n, err
}

func (c *session) text(ctx context.Context, text string, args ...any) (s string, err error) {
	err = c.query(ctx, func(r *result) error {
		s = r.text(0)
		return nil
	}, text, args...)
	return s, err
}

// transaction runs fn with the file's write lock. When fn fails or panics, or ctx
// has ended when it returns, nothing has happened.
func (c *session) transaction(ctx context.Context, fn func() error) error {
	if err := waitBusy(ctx, func() error { return c.begin(ctx) }); err != nil {
		return err
	}
	return c.finish(ctx, fn)
}

// finish runs fn in the transaction that was begun, and ends it.
func (c *session) finish(ctx context.Context, fn func() error) (err error) {
	done := false
	defer func() {
		if !done {
			_, _ = c.exec(ctx, "ROLLBACK") // fails when SQLite has rolled back by itself
		}
	}()
	if err := fn(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err = c.exec(ctx, "COMMIT")
	done = err == nil
	return err
}

func (c *session) begin(ctx context.Context) error {
	_, err := c.exec(ctx, "BEGIN IMMEDIATE")
	return err
}

// snapshot runs fn on one state of the file.
func (c *session) snapshot(ctx context.Context, fn func() error) error {
	if _, err := c.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	defer func() { _, _ = c.exec(ctx, "COMMIT") }()
	return fn()
}

var errReadOnly = tidemark.NewError(tidemark.CodeInternal, "a View must not write")
