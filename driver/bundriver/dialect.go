package bundriver

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"

	"github.com/tidemark-sync/tidemark"
)

// dialect is what PostgreSQL and SQLite do differently.
type dialect interface {
	// check refuses a database on which values would change on their way.
	check(ctx context.Context, db *sql.DB, log *slog.Logger) error
	// inspect fills in what the catalogue knows of the model's columns.
	inspect(ctx context.Context, db *sql.DB, m *model) error
	// createTables makes the driver's own tables where they are absent, and refuses
	// a metadata table that is not the guide's. It runs in a write transaction.
	createTables(ctx context.Context, t *tx, metadata string) error

	// uids is the quoted name of the table that knows each uid's model.
	uids() string
	// placeholder is the n-th bound value, from 1.
	placeholder(n int) string
	// list is a source x with the column u: count texts in a JSON array, bound as the n-th value.
	list(n, count int) string
	// batch is a source x of count rows, bound as a JSON text in the first value.
	batch(columns []*column, count int) source
	// appendValue appends a canonical JSON value in the form that a batch has for it.
	appendValue(b []byte, c *column, raw json.RawMessage) []byte
	// readMeta is a metadata column of table m in a select list.
	readMeta(name string) string

	// isNull and compare are conditions on a column of table t; the operator is
	// one of = < <= > >=. They must mean what Predicate.Match does.
	isNull(c *column) string
	compare(cl *clause, c *column, operator string, v tidemark.Value) string
	// limits are the ends of a range that has a bound on one side only, nil for
	// none: what lies beyond them has no JSON form and counts as null.
	limits(c *column) (low, high *tidemark.Bound)

	// begin opens a transaction that is going to write.
	begin() string
	// options and seize are the same for a transaction that database/sql opens: a
	// statement that makes it a writer at once, "" where none is needed.
	options() *sql.TxOptions
	seize() string
	// checkNow makes deferred constraints speak up; "" where they cannot be made to.
	checkNow() string
	// lock locks the metadata of a list of uids (see list), in one order for all; ""
	// where a transaction has the database to itself.
	lock(metadata string, count int) string
	// claim decides and writes the metadata of a batch of writes in one conditional
	// statement; "" where a transaction has the database to itself.
	claim(metadata string, op tidemark.Op, count int) string
	// translate makes the database's error one of ours.
	translate(err error, m *model) error
}

// source tells statements how to read a batch.
type source struct {
	from    string // what stands after FROM
	uid     string
	columns []string // one expression a column
	object  bool     // a row is an object with the members u, c0, c1, ..., otherwise an array
}

// metaTimes are the columns of the metadata table as columns of a batch.
var metaTimes = []*column{
	{name: "created_at", sql: `"created_at"`, kind: tidemark.Timestamp, base: "timestamp"},
	{name: "updated_at", sql: `"updated_at"`, kind: tidemark.Timestamp, base: "timestamp"},
	{name: "deleted_at", sql: `"deleted_at"`, kind: tidemark.Timestamp, base: "timestamp"},
}

// entry is one row of a batch.
type entry struct {
	uid    string
	values []json.RawMessage // one a column
}

// appendBatch appends entries as the JSON text that the source src reads.
func appendBatch(b []byte, d dialect, src source, columns []*column, entries []entry) []byte {
	b = append(b, '[')
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		if src.object {
			b = append(b, `{"u":`...)
		} else {
			b = append(b, '[')
		}
		b = tidemark.AppendString(b, e.uid)
		for k, c := range columns {
			b = append(b, ',')
			if src.object {
				b = append(tidemark.AppendString(b, member(k)), ':')
			}
			b = d.appendValue(b, c, e.values[k])
		}
		if src.object {
			b = append(b, '}')
		} else {
			b = append(b, ']')
		}
	}
	return append(b, ']')
}

// appendList appends uids as the JSON text that dialect.list reads.
func appendList(b []byte, uids []string) []byte {
	b = append(b, '[')
	for i, u := range uids {
		if i > 0 {
			b = append(b, ',')
		}
		b = tidemark.AppendString(b, u)
	}
	return append(b, ']')
}
