package bundriver

import (
	"context"
	"database/sql/driver"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pgxConn is a connection of pgx's database/sql driver, which is not imported: it
// would register itself.
type pgxConn interface{ Conn() *pgx.Conn }

// pipes reports whether statements can travel together on a connection of database/sql.
func pipes(dc any) bool {
	c, ok := dc.(pgxConn)
	return ok && c.Conn().Config().DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol
}

// pipeline makes the statements in one round trip. A connection whose prepared statements are
// outdated is not used again, and what met with them is tried anew.
func (t *tx) pipeline(ctx context.Context, requests []request) error {
	var failed error
	err := t.conn.Raw(func(dc any) error {
		failed = t.send(ctx, dc.(pgxConn).Conn(), requests)
		if len(t.d.mode) > 0 && outdated(failed) {
			return driver.ErrBadConn
		}
		return nil
	})
	switch {
	case failed != nil && err != nil:
		return &retryError{failed}
	case err != nil:
		return t.d.failed(ctx, err, nil)
	}
	return failed
}

// outdated reports whether err says that the session forgot its prepared statements, or that a table was altered
// since they were prepared.
func outdated(err error) bool {
	if err == nil {
		return false
	}
	state, _, _ := sqlState(err)
	return state == "26000" || state == "0A000"
}

func (t *tx) send(ctx context.Context, conn *pgx.Conn, requests []request) error {
	var batch pgx.Batch
	for i := range requests {
		q := &requests[i]
		if len(t.d.mode) > 0 && t.d.texts.may(q.statement) {
			if _, err := conn.Prepare(ctx, q.statement, q.statement); err != nil {
				return t.d.failed(ctx, err, q.m)
			}
		}
		batch.Queue(q.statement, q.args...)
	}
	results := conn.SendBatch(ctx, &batch)
	for i := range requests {
		if err := t.receive(ctx, results, &requests[i]); err != nil {
			_ = results.Close() // the same error, or what came of it
			return err
		}
	}
	if err := results.Close(); err != nil {
		return t.d.failed(ctx, err, nil)
	}
	return nil
}

// receive reads the result of one statement.
func (t *tx) receive(ctx context.Context, results pgx.BatchResults, q *request) error {
	n := 0
	var failed error
	if q.reads == nil {
		tag, err := results.Exec()
		if err != nil {
			return q.explain(t.d.failed(ctx, err, q.m))
		}
		n = int(tag.RowsAffected())
	} else {
		rows, err := results.Query()
		for err == nil && failed == nil && rows.Next() {
			n++
			if err = q.reads.take(rows); err == nil {
				failed = q.each()
			}
		}
		rows.Close()
		if err == nil {
			err = rows.Err()
		}
		if err != nil {
			return t.d.failed(ctx, err, q.m)
		}
	}
	if failed == nil && q.done != nil {
		failed = q.done(n)
	}
	return failed
}

// take reads a row of pgx's as scan reads one of database/sql's.
func (r *reader) take(rows pgx.Rows) error {
	values, err := rows.Values()
	if err != nil {
		return err
	}
	for i, v := range values {
		switch n := v.(type) {
		case int16:
			v = int64(n)
		case int32:
			v = int64(n)
		case float32:
			v = float64(n)
		case pgtype.InfinityModifier:
			v = nil // no value of a kind is infinite
		}
		r.values[i] = v
	}
	return nil
}

// mostTexts is how many statements stay prepared on each connection. Those of the driver are few; those that write
// rows depend on the columns that clients write.
const mostTexts = 200

// texts are statements that stay prepared, the first ones that came.
type texts struct {
	mu   sync.RWMutex // protects seen
	seen map[string]bool
}

// may reports whether a statement is, or from now on may be, one of them.
func (x *texts) may(statement string) bool {
	x.mu.RLock()
	known, n := x.seen[statement], len(x.seen)
	x.mu.RUnlock()
	if known || n >= mostTexts {
		return known
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen == nil {
		x.seen = make(map[string]bool)
	}
	x.seen[statement] = true
	return true
}
