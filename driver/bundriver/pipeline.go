package bundriver

import (
	"bytes"
	"context"
	"database/sql/driver"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// flushBytes is how many bytes of arguments are collected: the database works on what it has got
// while the rest is written.
const flushBytes = 64 << 10

func (t *tx) send(ctx context.Context, conn *pgx.Conn, requests []request) error {
	prepared := make([]*pgconn.StatementDescription, len(requests))
	for i := range requests {
		q := &requests[i]
		if len(t.d.mode) == 0 || !t.d.texts.may(q.statement) {
			continue
		}
		var err error
		if prepared[i], err = conn.Prepare(ctx, q.statement, q.statement); err != nil {
			return t.d.failed(ctx, err, q.m)
		}
	}
	pipe := conn.PgConn().StartPipeline(ctx)
	if err := sendAll(pipe, conn.TypeMap(), requests, prepared); err != nil {
		_ = pipe.Close() // which is broken
		return t.d.failed(ctx, err, nil)
	}
	for i := range requests {
		if err := t.receive(ctx, pipe, conn.TypeMap(), &requests[i]); err != nil {
			_ = pipe.Close() // the same error, or what came of it
			return err
		}
	}
	if err := pipe.Close(); err != nil {
		return t.d.failed(ctx, err, nil)
	}
	return nil
}

// sendAll writes the statements, with prepared ones' descriptions.
func sendAll(pipe *pgconn.Pipeline, types *pgtype.Map, requests []request, prepared []*pgconn.StatementDescription) error {
	waiting := 0
	for i := range requests {
		values, formats, size := bound(requests[i].args)
		if s := prepared[i]; s != nil {
			results := make([]int16, len(s.Fields))
			for k := range s.Fields {
				results[k] = types.FormatCodeForOID(s.Fields[k].DataTypeOID)
			}
			pipe.SendQueryStatement(s, values, formats, results)
		} else {
			pipe.SendQueryParams(requests[i].statement, values, nil, formats, nil)
		}
		if waiting += size; waiting < flushBytes || i == len(requests)-1 {
			continue
		}
		if err := pipe.Flush(); err != nil {
			return err
		}
		waiting = 0
	}
	return pipe.Sync()
}

// bound are arguments as they travel: texts, arrays of them, and nil.
func bound(args []any) (values [][]byte, formats []int16, size int) {
	values, formats = make([][]byte, len(args)), make([]int16, len(args))
	for i, v := range args {
		switch v := v.(type) {
		case string:
			values[i] = []byte(v)
		case *array:
			values[i], formats[i] = v.binary(), pgx.BinaryFormatCode
		}
		size += len(values[i])
	}
	return values, formats, size
}

// receive reads the result of one statement.
func (t *tx) receive(ctx context.Context, pipe *pgconn.Pipeline, types *pgtype.Map, q *request) error {
	n, result, failed := 0, (*pgconn.ResultReader)(nil), error(nil)
	got, err := pipe.GetResults()
	if err == nil {
		result = got.(*pgconn.ResultReader) // as for each statement
		for q.reads != nil && failed == nil && result.NextRow() {
			n++
			if err = q.reads.take(result, types); err != nil {
				return t.d.failed(ctx, err, q.m)
			}
			failed = q.each()
		}
		var tag pgconn.CommandTag
		if tag, err = result.Close(); q.reads == nil {
			n = int(tag.RowsAffected())
		}
	}
	if err != nil {
		return q.explain(t.d.failed(ctx, err, q.m))
	}
	if failed == nil && q.done != nil {
		failed = q.done(n)
	}
	return failed
}

// take reads a row of pgx's as scan reads one of database/sql's.
func (r *reader) take(rows *pgconn.ResultReader, types *pgtype.Map) error {
	fields := rows.FieldDescriptions()
	for i, b := range rows.Values() {
		switch f := &fields[i]; {
		case b == nil:
			r.values[i] = nil
		case f.DataTypeOID == pgtype.TextOID:
			r.values[i] = string(b)
		default:
			v, err := valueOf(types, f, b)
			if err != nil {
				return err
			}
			r.values[i] = v
		}
	}
	return nil
}

// valueOf is a value as database/sql has it.
func valueOf(types *pgtype.Map, f *pgconn.FieldDescription, b []byte) (any, error) {
	t, known := types.TypeForOID(f.DataTypeOID)
	if !known && f.Format == pgx.TextFormatCode {
		return string(b), nil
	}
	if !known {
		return bytes.Clone(b), nil
	}
	v, err := t.Codec.DecodeValue(types, f.DataTypeOID, f.Format, b)
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
	return v, err
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
