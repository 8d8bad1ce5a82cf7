package bundriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// tx is a transaction on a connection of its own: database/sql's Tx cannot
// say BEGIN IMMEDIATE whatever the application's data source name is. Or it is a part
// of the application's transaction; then conn is nil.
type tx struct {
	d         *Driver
	conn      *sql.Conn
	on        statements
	piped     bool          // statements can travel together
	first     []request     // what opens the transaction, until the first statement takes it along
	place     chan struct{} // among those who write, or read, at once
	done      bool
	attempt   attempt         // at the same writes
	witnessed bool            // somebody hears of the changes as they are made
	taken     map[string]bool // uids that were taken for their models
}

// statements is where a transaction's statements go.
type statements interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// begin opens a transaction that writes, waiting for its turn where writers take turns. The
// caller must end it.
func (d *Driver) begin(ctx context.Context) (*tx, error) {
	if tidemark.TxOf(ctx) != nil { // it would wait for that one
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "this cannot be part of a transaction")
	}
	if err := acquire(ctx, d.writing); err != nil {
		return nil, err
	}
	t := &tx{d: d, place: d.writing, attempt: attempt{n: 1}}
	return t, t.open(ctx, d.dialect.begin())
}

// look opens a transaction that only reads, and sees the database as of one moment.
func (d *Driver) look(ctx context.Context) (*tx, error) {
	if err := acquire(ctx, d.reading); err != nil {
		return nil, err
	}
	t := &tx{d: d, place: d.reading, attempt: attempt{n: 1}}
	return t, t.open(ctx, d.dialect.look())
}

func (t *tx) open(ctx context.Context, statements []string) error {
	var err error
	if t.conn, err = t.d.db.Conn(ctx); err != nil {
		yield(t.place)
		return t.d.failed(ctx, err, nil)
	}
	t.on = t.conn
	if err := t.conn.Raw(func(dc any) error { t.piped = pipes(dc); return nil }); err != nil {
		t.end(ctx)
		return t.d.failed(ctx, err, nil)
	}
	if t.piped {
		for _, s := range statements {
			t.first = append(t.first, silent(s))
		}
		return nil
	}
	if err := t.exec(ctx, strings.Join(statements, "; ")); err != nil {
		t.end(ctx)
		return err
	}
	return nil
}

func (t *tx) commit(ctx context.Context) error {
	if err := t.do(ctx, silent("COMMIT")); err != nil {
		return err
	}
	t.done = true
	return nil
}

// end gives the connection back, rolling back what is not committed. A connection
// that does not even do that is not given back.
func (t *tx) end(ctx context.Context) {
	if t.conn == nil {
		return
	}
	if !t.done && len(t.first) == 0 {
		if _, err := t.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK"); err != nil {
			_ = t.conn.Raw(func(any) error { return driver.ErrBadConn })
		}
	}
	_ = t.conn.Close()
	t.conn = nil
	yield(t.place)
}

// acquire waits for a place among those who write, or read, at once; nil has any number.
func acquire(ctx context.Context, places chan struct{}) error {
	if places == nil {
		return nil
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

func yield(places chan struct{}) {
	if places != nil {
		<-places
	}
}

func (t *tx) exec(ctx context.Context, statement string, args ...any) error {
	return t.do(ctx, request{statement: statement, args: args})
}

// affect is exec for a statement about a model, and tells how many rows it concerned.
func (t *tx) affect(ctx context.Context, m *model, statement string, args ...any) (int, error) {
	res, err := t.on.ExecContext(ctx, statement, t.d.args(args)...)
	if err != nil {
		return 0, t.d.failed(ctx, err, m)
	}
	n, err := res.RowsAffected()
	return int(n), err
}

func (t *tx) scan(ctx context.Context, into any, statement string, args ...any) error {
	if err := t.do(ctx); err != nil { // opens the transaction
		return err
	}
	if err := t.on.QueryRowContext(ctx, statement, t.d.args(args)...).Scan(into); err != nil {
		return t.d.failed(ctx, err, nil)
	}
	return nil
}

// query calls each for the rows of a statement about m, of which r reads.
func (t *tx) query(ctx context.Context, r *reader, m *model, each func() error, statement string, args ...any) error {
	rows, err := t.on.QueryContext(ctx, statement, t.d.args(args)...)
	if err != nil {
		return t.d.failed(ctx, err, m)
	}
	return t.d.each(ctx, rows, r, m, each)
}

// each reads rows to their end and closes them.
func (d *Driver) each(ctx context.Context, rows *sql.Rows, r *reader, m *model, fn func() error) error {
	defer rows.Close()
	for rows.Next() {
		if err := r.scan(rows); err != nil {
			return d.failed(ctx, err, m)
		}
		if err := fn(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return d.failed(ctx, err, m)
	}
	return nil
}

// failed makes the database's error one of ours; when ctx has ended that is the reason, whatever
// the database says.
func (d *Driver) failed(ctx context.Context, err error, m *model) error {
	if ctx.Err() != nil {
		return unavailable(errors.Join(ctx.Err(), err))
	}
	return d.dialect.translate(err, m)
}

// atomically runs fn such that its effect is undone when it fails, and what came before stays.
func (t *tx) atomically(ctx context.Context, fn func() error) error {
	if err := t.exec(ctx, "SAVEPOINT tidemark"); err != nil {
		return err
	}
	err := fn()
	// In the application's transaction its deferred constraints stay deferred.
	if check := t.d.dialect.checkNow(); err == nil && check != "" && t.conn != nil {
		err = t.exec(ctx, check)
	}
	if err != nil {
		if refusal(err) == nil && err != errUndo {
			return err // the whole transaction ends
		}
		if err := t.exec(ctx, "ROLLBACK TO SAVEPOINT tidemark"); err != nil {
			return err
		}
	}
	if released := t.exec(ctx, "RELEASE SAVEPOINT tidemark"); released != nil {
		return released
	}
	return err
}

// errUndo undoes the part of a transaction that atomically runs, and nothing else.
var errUndo = errors.New("bundriver: undo")

// refusal returns err if it is about the row that was written, and nil if it says nothing of it.
func refusal(err error) *tidemark.Error {
	e, ok := errors.AsType[*tidemark.Error](err)
	if ok && (e.Code == tidemark.CodeConstraint || e.Code == tidemark.CodeInvalidData) {
		return e
	}
	return nil
}
