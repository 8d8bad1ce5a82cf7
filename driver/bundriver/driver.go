// Package bundriver is a [tidemark.Driver] over an application's own bun models,
// on PostgreSQL 14 or newer and on SQLite.
//
// The application's tables stay as they are. Beside them there is the guide's
// metadata(uid, created_at, updated_at, deleted_at), which is used unchanged where there is
// one, and four tables of the driver's own, in a schema of their own on PostgreSQL
// (tidemark.uids), with a prefix on SQLite (tidemark_uids): uids remembers which model a uid belongs
// to, log has the changes, clients what was decided about the mutations of each client, and
// state names the log's history. [Driver.Migrate] makes them all.
//
// The log grows with every change that is made through the driver, by the row before; call
// [Driver.Purge] from time to time.
//
// Statements bind their values through database/sql and name columns only as the
// registered models do, so nothing that a client sends becomes SQL text. They
// pass neither bun's query hooks nor, where they travel together, pgx's tracers.
//
// Rows that the database deletes or changes by itself, with ON DELETE CASCADE or SET NULL,
// leave no tombstone and are not in the log: give such children a delete of their own, in a hook
// or in the unit that deletes the parent. New warns of each such key.
//
// # PostgreSQL
//
// With pgx, open the database with QueryExecModeExec: bun's own statements differ
// by their values and are not worth caching. Timestamps without time zone hold
// UTC. Infinities, NaN and years outside 0000 to 9999 read as null.
//
// Over pgx, the statements of a write travel in three round trips, whatever it writes.
//
// The log's horizon (see [Driver.Horizon]) is the oldest transaction that writes anywhere in
// the cluster: one that stays open holds it back, and what was changed since is told again with each
// Pull. Cursors are good for one history: one cluster, as pg_control_system names it where the role
// may call that, one timeline, one database. A dump that is restored elsewhere begins another at the next
// Migrate. The driver needs a primary; a standby is not enough.
//
// # SQLite
//
// Use write-ahead logging, a busy timeout, and foreign keys, all in the data source
// name so that each connection has them; a database in memory needs
// db.SetMaxOpenConns(1). Writes of one driver queue up in the process and begin
// with BEGIN IMMEDIATE. Times are read in any form that
// [tidemark.ParseInstant] knows and written in bun's; a where compares them right
// in bun's own form, with any number of decimals, and in CURRENT_TIMESTAMP's. A
// column of affinity NUMERIC (declared NUMERIC, or JSON) keeps 15 digits of a
// decimal number, as always in SQLite, and JSON that is a number as a number, which bun
// cannot read into a json.RawMessage; TEXT keeps all.
package bundriver

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"
	bundialect "github.com/uptrace/bun/dialect"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.LogDriver = (*Driver)(nil)

// Options are the parts of a [Driver] that have a default. The zero value, and nil, are usable.
type Options struct {
	// MetadataTable is the name of the guide's metadata table, with its schema
	// before a dot where it has one. Defaults to "metadata".
	MetadataTable string
	// Schema is the schema of Tidemark's own tables on PostgreSQL; on SQLite it has no
	// meaning. It must not be on the search_path. Defaults to "tidemark".
	Schema string
	// Prepare keeps the driver's statements, whose texts are few, prepared on each
	// connection, whatever the handle's mode: a single write then takes a third of the
	// time. It works with pgx's database/sql driver and does nothing with others. Leave it
	// off where a pooler hands connections from one transaction to the next.
	Prepare bool
	// MaxConns is how many of the handle's connections the driver uses at once, half of them to write, and at
	// least one for each; what needs one more waits. Transactions of RunInTx do not count. 0 means 16 where the
	// handle has no bound of its own (see [sql.DB.SetMaxOpenConns]), so that thousands of devices that come back at once do
	// not take all connections of a PostgreSQL, and otherwise no bound besides the handle's. On SQLite one
	// connection writes, and any number may read.
	MaxConns int
	// Now is the clock, which dates the metadata that Migrate makes. Defaults to time.Now.
	Now func() time.Time
	// Logger gets warnings about the database's settings. nil discards them.
	Logger *slog.Logger
}

// Driver is a server's database. It is safe for concurrent use.
type Driver struct {
	db       *sql.DB
	bun      *bun.DB
	dialect  dialect
	models   map[string]*model
	schemas  []*tidemark.Schema
	metadata string // the quoted name of the metadata table
	now      func() time.Time
	log      *slog.Logger
	closed   atomic.Bool
	newest   atomic.Int64 // see Newest
	node     string       // begins the origin of the changes that this driver made with a witness

	// mode stands before the values of each statement, for pgx; empty for others.
	mode []any
	// texts are the statements that may stay prepared on pgx's connections; see pipeline.go.
	texts texts

	// writing and reading have room for as many connections as may write and read at once; nil for any
	// number. Who waits for a row's lock has a place among the writers, so readers have places of their own: what
	// holds the lock may be about to read.
	writing, reading chan struct{}
	// turn is writing where writers exclude each other, nil elsewhere: the application's transactions wait for it too.
	turn chan struct{}
}

// New registers models: values of, or pointers to, structs with bun tags. Each must
// name its table in a bun.BaseModel, and have exactly one primary key, a string column uid.
// A model is named as its table, without the schema.
//
// New reads the database's catalogue, so the tables must exist. It refuses, by
// name, what cannot be synchronised: missing columns, columns of unknown types,
// collations for which different texts are equal, soft deletion; and a database
// that does not speak UTF-8. The handle stays the caller's.
//
// Before anything else is asked of the driver, [Driver.Migrate] must have run, now or at an
// earlier start with the same models.
func New(ctx context.Context, db *bun.DB, models []any, opts *Options) (*Driver, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	d := &Driver{db: db.DB, bun: db, models: make(map[string]*model), now: o.Now, log: o.Logger, node: rand.Text() + "/"}
	if o.MaxConns < 0 {
		return nil, errors.New("bundriver: MaxConns must not be negative")
	}
	if o.MetadataTable == "" {
		o.MetadataTable = "metadata"
	}
	d.metadata = quoteName(o.MetadataTable)
	if o.Prepare && fmt.Sprintf("%T", db.Driver()) == "*stdlib.Driver" { // not imported: it would register itself
		d.mode = []any{pgx.QueryExecModeCacheStatement}
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	switch name := db.Dialect().Name(); name {
	case bundialect.PG:
		d.dialect = &postgres{schema: quote(cmp.Or(o.Schema, "tidemark")), metadata: d.metadata, system: "NULL", timeline: "NULL"}
		if o.MaxConns == 0 && db.Stats().MaxOpenConnections == 0 {
			o.MaxConns = 16
		}
		if o.MaxConns > 0 {
			d.writing, d.reading = make(chan struct{}, max(o.MaxConns/2, 1)), make(chan struct{}, max(o.MaxConns-o.MaxConns/2, 1))
		}
	case bundialect.SQLite:
		d.dialect = sqlite{}
		d.writing = make(chan struct{}, 1)
		d.turn = d.writing
	default:
		return nil, fmt.Errorf("bundriver: %s is neither PostgreSQL nor SQLite", name)
	}
	if err := d.dialect.check(ctx, d.db, d.log); err != nil {
		return nil, fmt.Errorf("bundriver: %w", err)
	}
	for _, v := range models {
		if err := d.register(ctx, db, v); err != nil {
			return nil, fmt.Errorf("bundriver: %w", err)
		}
	}
	if o.Logger != nil {
		if err := d.warnOfCascades(ctx); err != nil {
			return nil, fmt.Errorf("bundriver: %w", err)
		}
	}
	d.rememberIfAny(ctx)
	return d, nil
}

func (d *Driver) register(ctx context.Context, db *bun.DB, v any) error {
	m, err := newModel(db, v)
	if err != nil {
		return err
	}
	if d.models[m.name] != nil {
		return fmt.Errorf("model %s stands twice", m.name)
	}
	if err := d.dialect.inspect(ctx, d.db, m); err != nil {
		return fmt.Errorf("table %s: %w", m.name, err)
	}
	if err := m.finish(); err != nil {
		return err
	}
	d.models[m.name] = m
	d.schemas = append(d.schemas, m.schema)
	return nil
}

// Models returns the schemas in the order of New's models.
func (d *Driver) Models() []*tidemark.Schema { return slices.Clone(d.schemas) }

// Close ends the use of the driver; the handle given to New stays open.
func (d *Driver) Close() error {
	d.closed.Store(true)
	return nil
}

// args are the arguments of a statement that binds values, for database/sql.
func (d *Driver) args(values []any) []any {
	if len(values) == 0 {
		return values
	}
	args := append(slices.Clone(d.mode), values...)
	for i, v := range args {
		if a, ok := v.(*array); ok {
			args[i] = a.literal()
		}
	}
	return args
}

func (d *Driver) usable(ctx context.Context) error {
	if d.closed.Load() {
		return tidemark.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	return nil
}

// model returns the model of p, and refuses predicates made for another schema.
func (d *Driver) model(ctx context.Context, p *tidemark.Predicate) (*model, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	m := d.models[p.Schema().Name()]
	if m == nil {
		return nil, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model %s", p.Schema().Name())
	}
	return m, nil
}

// quote makes an SQL identifier of a name.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteName is quote for a name that may have its schema before a dot.
func quoteName(name string) string {
	if schema, table, ok := strings.Cut(name, "."); ok {
		return quote(schema) + "." + quote(table)
	}
	return quote(name)
}
