package bundriver

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// dialect is what PostgreSQL and SQLite do differently.
type dialect interface {
	// check refuses a database on which values would change on their way.
	check(ctx context.Context, db *sql.DB, log *slog.Logger) error
	// inspect fills in what the catalogue knows of the model's columns.
	inspect(ctx context.Context, db *sql.DB, m *model) error
	// createTables makes the driver's own tables where they are absent, and refuses
	// a metadata table that is not the guide's. It runs in a write transaction, and tells
	// whether there was no log yet.
	createTables(ctx context.Context, t *tx, metadata string) (first bool, err error)

	// table is the quoted name of one of the driver's own tables: uids, log, clients, state.
	table(name string) string
	// placeholder is the n-th bound value, from 1.
	placeholder(n int) string
	// list is a source x with the column u: the uids, bound as the n-th value.
	list(n int, uids []string) (from string, arg any)
	// among is the condition that column is one of the uids, bound as the n-th value.
	among(column string, n int, uids []string) (condition string, arg any)
	// batch is a source x of the entries, bound as the first values.
	batch(columns []*column, entries []entry) (source, []any)
	// cascades asks for the foreign keys among tables, as tableOf names them, that act when a row is deleted:
	// key, child, parent and action.
	cascades(tables []string) (statement string, arg any)
	tableOf(m *model) string
	// exists asks whether there is a table of that quoted name.
	exists(table string) (statement string, arg any)
	// newest is the latest time in a column of the metadata m, of those since 1970 and up to an instant in microseconds.
	newest(cl *clause, column string, until int64) string
	// readMeta is a metadata column of table m in a select list.
	readMeta(name string) string

	// isNull, compare and oneOf are conditions on a column of table t; the operator is
	// one of = < <= > >=, the values are not null. They must mean what Predicate.Match does.
	isNull(c *column) string
	compare(cl *clause, c *column, operator string, v tidemark.Value) string
	oneOf(cl *clause, c *column, values []tidemark.Value) string
	// limits are the ends of a range that has a bound on one side only, nil for
	// none: what lies beyond them has no JSON form and counts as null.
	limits(c *column) (low, high *tidemark.Bound)

	// begin opens a transaction that is going to write, look one that sees the database as of
	// one moment. Each is one statement or several.
	begin() []string
	look() []string
	// byIndex has what follows in the transaction go by indexes; "" where it does anyhow.
	byIndex() string
	// sideBySide has the next statement join tables by going along their indexes together; "" where there is
	// no such way.
	sideBySide() string
	// options and seize are the same as begin for a transaction that database/sql opens: a
	// statement that makes it a writer at once, "" where none is needed.
	options() *sql.TxOptions
	seize() string
	// checkNow makes deferred constraints speak up; "" where they cannot be made to.
	checkNow() string
	// forUpdate ends a SELECT of rows of table m that nobody else may write until the transaction
	// ends; "" where a transaction has the database to itself.
	forUpdate() string

	// positions are how the log's entries are ordered.
	positions() positions
	// clock is the time for a column at, in which instant is t; both bound as the n-th value where
	// the database has no clock.
	clock(n int, now time.Time) (expression string, args []any)
	instant(n int, t time.Time) (expression string, arg any)
	// translate makes the database's error one of ours.
	translate(err error, m *model) error
}

// source tells statements how to read a batch.
type source struct {
	from    string // what stands after FROM
	uid     string
	columns []string // one expression a column
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

// appendTexts appends texts as a JSON array.
func appendTexts(b []byte, texts []string) []byte {
	b = append(b, '[')
	for i, t := range texts {
		if i > 0 {
			b = append(b, ',')
		}
		b = tidemark.AppendString(b, t)
	}
	return append(b, ']')
}
