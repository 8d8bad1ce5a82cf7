package bundriver

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"reflect"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// inspect takes the types from the model, as a type in SQLite's catalogue says
// little about the values, and the rest from the catalogue.
func (s sqlite) inspect(ctx context.Context, db *sql.DB, m *model) error {
	known, err := s.columns(ctx, db, m.name)
	if err != nil {
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
		if err := s.describe(c, k.declared); err != nil {
			return fmt.Errorf("column %s: %w", c.name, err)
		}
		c.required, c.readOnly = k.notNull, k.generated
	}
	if m.columns[0].kind != tidemark.Text {
		return errUID
	}
	return s.indexes(ctx, db, m)
}

type declared struct {
	declared           string
	notNull, generated bool
}

func (sqlite) columns(ctx context.Context, db *sql.DB, table string) (map[string]declared, error) {
	rows, err := db.QueryContext(ctx, `SELECT name, type, "notnull" OR pk > 0, hidden IN (2, 3) FROM pragma_table_xinfo(?1)`, table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := make(map[string]declared)
	for rows.Next() {
		var name string
		var k declared
		if err := rows.Scan(&name, &k.declared, &k.notNull, &k.generated); err != nil {
			return nil, err
		}
		known[name] = k
	}
	return known, rows.Err()
}

func (s sqlite) describe(c *column, declared string) error {
	typ := c.field.UserSQLType
	if typ == "" {
		typ = c.field.DiscoveredSQLType
	}
	c.kind = kinds[baseType(typ)]
	if c.kind == tidemark.Text && marshalled(c.field.IndirectType) || strings.HasSuffix(typ, "[]") || c.field.Tag.HasOption("array") {
		c.kind = tidemark.JSON // bun calls it VARCHAR
	}
	if c.kind == 0 {
		return fmt.Errorf("values of type %q cannot be synchronised; name another with a type: tag", typ)
	}
	if c.kind == tidemark.Text && !textual(declared) {
		return fmt.Errorf("it is declared %s, and SQLite would make numbers of some texts: declare it TEXT", declared)
	}
	if c.kind == tidemark.TimeOfDay && c.isTime() {
		return fmt.Errorf("bun stores a whole date in it; make the field a string")
	}
	c.read, c.returned = "+t."+c.sql, "+"+c.sql // see readMeta
	return nil
}

// marshalled reports whether bun stores values of a Go type as JSON text.
func marshalled(typ reflect.Type) bool {
	if typ.Implements(reflect.TypeFor[driver.Valuer]()) {
		return false
	}
	switch typ.Kind() {
	case reflect.Map, reflect.Slice, reflect.Interface:
		return true
	case reflect.Struct:
		return !strings.HasPrefix(typ.String(), "sql.Null")
	}
	return false
}

// textual reports whether a declared type has the affinity TEXT, or none.
func textual(declared string) bool {
	t := strings.ToUpper(declared)
	if strings.Contains(t, "INT") {
		return false
	}
	for _, part := range []string{"CHAR", "CLOB", "TEXT", "BLOB"} {
		if strings.Contains(t, part) {
			return true
		}
	}
	return t == ""
}

// indexes finds the columns that lead an index, and checks the one of uid.
func (sqlite) indexes(ctx context.Context, db *sql.DB, m *model) error {
	rows, err := db.QueryContext(ctx, `SELECT x.name, x.coll, l."unique" AND NOT l.partial AND (SELECT count(*) FROM pragma_index_xinfo(l.name) WHERE "key") = 1
		FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x WHERE x.seqno = 0 AND x.name IS NOT NULL`, m.name)
	if err != nil {
		return err
	}
	defer rows.Close()
	sound := false
	for rows.Next() {
		var name, collation string
		var unique bool
		if err := rows.Scan(&name, &collation, &unique); err != nil {
			return err
		}
		if c := m.byName[name]; c != nil {
			c.indexed = true
		}
		sound = sound || name == "uid" && unique && collation == "BINARY"
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if !sound {
		return errUID
	}
	return nil
}

func (s sqlite) createTables(ctx context.Context, t *tx, metadata string) (first bool, err error) {
	var logs int
	if err := t.scan(ctx, &logs, `SELECT count(*) FROM sqlite_master WHERE name = ?1`, unquote(s.table("log"))); err != nil {
		return false, err
	}
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS ` + s.table("uids") + ` (uid TEXT NOT NULL PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID`,
		`CREATE TABLE IF NOT EXISTS ` + metadata + ` (uid TEXT NOT NULL PRIMARY KEY, created_at TIMESTAMP, updated_at TIMESTAMP, deleted_at TIMESTAMP)`,
		// The row before is JSON; at is in microseconds since 1970.
		`CREATE TABLE IF NOT EXISTS ` + s.table("log") + ` (seq INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, uid TEXT NOT NULL, before TEXT, stamp INTEGER NOT NULL,
			origin TEXT NOT NULL, nonce INTEGER NOT NULL DEFAULT (random()), at INTEGER NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS ` + s.table("clients") + ` (client TEXT NOT NULL PRIMARY KEY, ledger TEXT NOT NULL, at INTEGER) WITHOUT ROWID`,
		`CREATE TABLE IF NOT EXISTS ` + s.table("state") + ` (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, forgotten INTEGER NOT NULL, nonce INTEGER NOT NULL)`,
		`INSERT INTO ` + s.table("state") + ` VALUES (1, lower(hex(randomblob(16))), 0, 0) ON CONFLICT (one) DO NOTHING`,
	} {
		if err := t.exec(ctx, statement); err != nil {
			return false, err
		}
	}
	var right int
	err = t.scan(ctx, &right, `SELECT count(*) FROM pragma_table_info(?1) WHERE name = 'uid' AND pk = 1 OR name IN ('created_at', 'updated_at', 'deleted_at')`, unquote(metadata))
	if err == nil && right != 4 {
		err = fmt.Errorf("bundriver: table %s is not metadata(uid text primary key, created_at timestamp, updated_at timestamp, deleted_at timestamp)", metadata)
	}
	return logs == 0, err
}

// unquote returns the table's name of a quoted name.
func unquote(name string) string {
	if i := strings.LastIndex(name, `"."`); i >= 0 {
		name = name[i+2:]
	}
	return strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
}
