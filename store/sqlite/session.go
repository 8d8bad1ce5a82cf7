package sqlite

import (
	"context"
	"database/sql"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// maxStatements bounds a session's cache of prepared statements.
const maxStatements = 256

// session is one connection with the statements that were prepared on it. One
// goroutine at a time uses it.
type session struct {
	conn    *sql.Conn
	stmts   map[string]*sql.Stmt
	restore []string // undo our settings before the connection goes back
}

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, translate(ctx, err)
	}
	return &session{conn: conn, stmts: make(map[string]*sql.Stmt)}, nil
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
	for _, s := range c.stmts {
		_ = s.Close()
	}
	clear(c.stmts)
}

func (c *session) prepared(ctx context.Context, text string) (*sql.Stmt, error) {
	if s := c.stmts[text]; s != nil {
		return s, nil
	}
	if len(c.stmts) >= maxStatements {
		c.forget()
	}
	s, err := c.conn.PrepareContext(ctx, text)
	if err == nil {
		c.stmts[text] = s
	}
	return s, err
}

// exec runs a statement that is not to be cut short: a write that is interrupted
// would end its transaction.
func (c *session) exec(ctx context.Context, text string, args ...any) (sql.Result, error) {
	quiet := context.WithoutCancel(ctx)
	s, err := c.prepared(quiet, text)
	if err != nil {
		return nil, translate(ctx, err)
	}
	res, err := s.ExecContext(quiet, args...)
	return res, translate(ctx, err)
}

// query calls scan for each row of the result. ctx interrupts it.
func (c *session) query(ctx context.Context, scan func(*sql.Rows) error, text string, args ...any) error {
	s, err := c.prepared(ctx, text)
	if err != nil {
		return translate(ctx, err)
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return translate(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return translate(ctx, err)
		}
	}
	return translate(ctx, rows.Err())
}

// number returns the last number of a result, 0 when it is empty.
func (c *session) number(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = c.query(ctx, func(r *sql.Rows) error { return r.Scan(&n) }, text, args...)
	return n, err
}

func (c *session) text(ctx context.Context, text string, args ...any) (s string, err error) {
	err = c.query(ctx, func(r *sql.Rows) error { return r.Scan(&s) }, text, args...)
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
