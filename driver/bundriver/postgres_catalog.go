package bundriver

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// columnsQuery gives the columns of a table: the type without a domain around
// it, and what is known of its values.
const columnsQuery = `SELECT a.attname, b.typtype::text, b.typcategory = 'A', format_type(b.oid, NULL), coalesce(format_type(nullif(b.typelem, 0), NULL), ''),
	a.attnotnull OR d.typnotnull, a.attgenerated <> '' OR a.attidentity = 'a', coalesce(c.collisdeterministic, true),
	EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum AND i.indpred IS NULL),
	EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indkey[0] = a.attnum AND i.indnkeyatts = 1 AND i.indisunique AND i.indpred IS NULL)
FROM pg_attribute a JOIN pg_type d ON d.oid = a.atttypid
JOIN pg_type b ON b.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = to_regclass(CAST($1 AS text)) AND a.attnum > 0 AND NOT a.attisdropped`

// constraintsQuery gives the constraints and unique indexes of a table that concern one column.
const constraintsQuery = `SELECT c.conname, a.attname FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
WHERE c.conrelid = to_regclass(CAST($1 AS text)) AND array_length(c.conkey, 1) = 1
UNION SELECT r.relname, a.attname FROM pg_index i JOIN pg_class r ON r.oid = i.indexrelid JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = to_regclass(CAST($1 AS text)) AND i.indnkeyatts = 1 AND i.indisunique`

// catalogued is what columnsQuery tells of a column.
type catalogued struct {
	name, typtype, base, element       string
	array, notNull, generated, byBytes bool
	indexed, unique                    bool
}

func (p postgres) inspect(ctx context.Context, db *sql.DB, m *model) error {
	known := make(map[string]catalogued)
	rows, err := db.QueryContext(ctx, columnsQuery, m.from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k catalogued
		if err := rows.Scan(&k.name, &k.typtype, &k.array, &k.base, &k.element, &k.notNull, &k.generated, &k.byBytes, &k.indexed, &k.unique); err != nil {
			return err
		}
		known[k.name] = k
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(known) == 0 {
		return errNoTable
	}
	for _, c := range m.columns {
		k, ok := known[c.name]
		if !ok {
			return fmt.Errorf("there is no column %s", c.name)
		}
		if err := p.describe(c, k); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
	}
	if uid := m.columns[0]; uid.kind != tidemark.Text || uid.base == "character" || !known["uid"].unique {
		return errUID
	}
	if err := db.QueryRowContext(ctx, sortedQuery, m.from, p.metadata).Scan(&m.sorted); err != nil {
		return err
	}
	return p.constraints(ctx, db, m)
}

// sortedQuery tells whether the uids of a table, and of the metadata where that exists, have the database's
// own collation, as those of the driver's tables have.
const sortedQuery = `SELECT NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid IN (to_regclass(CAST($1 AS text)), to_regclass(CAST($2 AS text)))
	AND a.attname = 'uid' AND a.attcollation <> 'pg_catalog."default"'::regcollation)`

func (postgres) describe(c *column, k catalogued) error {
	typ := k.base
	switch {
	case k.typtype == "e":
		c.kind = tidemark.Enum
	case k.array:
		switch kinds[baseType(k.element)] {
		case tidemark.Text, tidemark.Integer, tidemark.Double, tidemark.Bool, tidemark.UUID:
			c.kind = tidemark.JSON
		default:
			return fmt.Errorf("arrays of %s cannot be synchronised", k.element)
		}
	case kinds[baseType(typ)] != 0 && k.typtype == "b":
		c.kind = kinds[baseType(typ)]
	default:
		return fmt.Errorf("values of type %s cannot be synchronised", typ)
	}
	if !k.byBytes {
		return fmt.Errorf("its collation is nondeterministic, so that different texts are equal; clients compare by bytes")
	}
	c.base = strings.TrimSuffix(typ, " without time zone")
	c.required, c.readOnly, c.indexed = k.notNull, k.generated, k.indexed
	c.read = "t." + c.sql
	switch c.kind {
	case tidemark.Double:
		if c.base == "real" {
			c.read = exact(c.read)
		} else {
			c.read += "::double precision"
		}
	case tidemark.JSON:
		if k.array {
			c.read = "to_json(" + c.read + ")"
		}
		c.read += "::text"
	case tidemark.Text, tidemark.Enum, tidemark.Numeric, tidemark.UUID, tidemark.TimeOfDay:
		c.read += "::text"
	}
	c.returned = c.read
	return nil
}

func (postgres) constraints(ctx context.Context, db *sql.DB, m *model) error {
	rows, err := db.QueryContext(ctx, constraintsQuery, m.from)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name, column string
		if err := rows.Scan(&name, &column); err != nil {
			return err
		}
		m.constraints[name] = column
	}
	return rows.Err()
}

// createTables does without IF NOT EXISTS where it can: that asks for the right to
// create even if there is nothing to do.
func (p *postgres) createTables(ctx context.Context, t *tx, metadata string) (first bool, err error) {
	// One migration at a time in this database; the number is ours and means nothing.
	if err := t.exec(ctx, `SELECT pg_advisory_xact_lock(7017280452245743)`); err != nil {
		return false, err
	}
	if err := p.outOfTheWay(ctx, t); err != nil {
		return false, err
	}
	log := p.table("log")
	for _, own := range []struct{ name, statement string }{
		{p.table("uids"), `CREATE SCHEMA IF NOT EXISTS ` + p.schema},
		{p.table("uids"), `CREATE TABLE ` + p.table("uids") + ` (uid text PRIMARY KEY, model text NOT NULL)`},
		// Half of each page is free for the next version of its rows: then an update of a row need not touch the index.
		{metadata, `CREATE TABLE ` + metadata + ` (uid text PRIMARY KEY, created_at timestamp, updated_at timestamp, deleted_at timestamp) WITH (fillfactor = 50)`},
		// The row before is JSON as the driver reads it, and is only ever read by it: text.
		{log, `CREATE TABLE ` + log + ` (seq bigint GENERATED ALWAYS AS IDENTITY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), model text NOT NULL, uid text NOT NULL,
			before text, stamp bigint NOT NULL, origin text NOT NULL, nonce bigint NOT NULL DEFAULT 1 + (random() * 9000000000000000)::bigint,
			at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (xid, seq))`},
		{p.table("clients"), `CREATE TABLE ` + p.table("clients") + ` (client text PRIMARY KEY, ledger text NOT NULL, at timestamptz)`},
		{p.table("state"), `ALTER TABLE ` + p.table("clients") + ` ALTER ledger SET STORAGE EXTERNAL`}, // it changes too often to be compressed
		{p.table("state"), `CREATE TABLE ` + p.table("state") + ` (one boolean PRIMARY KEY CHECK (one), id text NOT NULL, system text, forgotten xid8 NOT NULL, nonce bigint NOT NULL)`},
	} {
		var exists bool
		if err := t.scan(ctx, &exists, `SELECT to_regclass(CAST($1 AS text)) IS NOT NULL`, own.name); err != nil {
			return false, err
		}
		if exists {
			continue
		}
		first = first || own.name == log
		if err := t.exec(ctx, own.statement); err != nil {
			return false, err
		}
	}
	if err := p.beginHistory(ctx, t); err != nil {
		return false, err
	}
	var right int
	err = t.scan(ctx, &right, `SELECT count(*) FROM pg_attribute a WHERE a.attrelid = to_regclass(CAST($1 AS text)) AND NOT a.attisdropped AND CASE
		WHEN a.attname = 'uid' THEN a.atttypid IN ('text'::regtype, 'varchar'::regtype) AND EXISTS (SELECT FROM pg_index i
			WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
		WHEN a.attname IN ('created_at', 'updated_at', 'deleted_at') THEN a.atttypid = 'timestamp'::regtype END`, metadata)
	if err == nil && right != 4 {
		err = fmt.Errorf("bundriver: table %s is not metadata(uid text primary key, created_at timestamp, updated_at timestamp, deleted_at timestamp)", metadata)
	}
	return first, err
}

// beginHistory names the log's history. A dump that was restored into another cluster begins a new
// one: there, transactions are numbered anew, below or among those of the log.
func (p *postgres) beginHistory(ctx context.Context, t *tx) error {
	var anew bool
	state, log := p.table("state"), p.table("log")
	err := t.scan(ctx, &anew, `SELECT NOT EXISTS (SELECT FROM `+state+` s WHERE NOT coalesce(s.system <> `+p.system+`, false))
		OR EXISTS (SELECT FROM `+log+` WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))`)
	if err != nil || !anew {
		return err
	}
	return t.do(ctx, request{statement: "DELETE FROM " + log}, request{statement: "DELETE FROM " + state}, request{statement: `INSERT INTO ` + state + ` (one, id, system, forgotten, nonce)
		VALUES (true, gen_random_uuid()::text, ` + p.system + `, '0', 0)`})
}

// outOfTheWay makes sure that our schema is not where PostgreSQL looks for the
// application's tables. A role of the schema's name has it first on its path by
// default: once it existed, the application's next CREATE TABLE IF NOT EXISTS would make
// an empty table there, which hides the real one.
func (p postgres) outOfTheWay(ctx context.Context, t *tx) error {
	var shadows bool
	err := t.scan(ctx, &shadows, `SELECT EXISTS (SELECT FROM unnest(string_to_array(current_setting('search_path'), ',')) AS s
		WHERE $1 = '"' || CASE btrim(s, ' "') WHEN '$user' THEN current_user ELSE btrim(s, ' "') END || '"')`, p.schema)
	if err == nil && shadows {
		err = fmt.Errorf("bundriver: the schema %s is on the search_path (by default a role's own name is), and would hide the application's tables: name another in Options.Schema", p.schema)
	}
	return err
}
