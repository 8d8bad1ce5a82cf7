package sqlite

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// Declare prepares the file for a model. When other fields are to be indexed than
// before, the model's table is written anew, which takes a second for some
// 100,000 rows. A table or view of the application's that has the model's name
// (in SQLite upper and lower case are the same) is an error.
func (s *Store) Declare(ctx context.Context, schema *tidemark.Schema) error {
	return s.write(ctx, func(c *session) error {
		err := c.transaction(ctx, func() error { return s.declare(ctx, c, schema) })
		if err != nil {
			return err
		}
		_, err = s.refresh(ctx, c)
		return err
	})
}

func (s *Store) declare(ctx context.Context, c *session, schema *tidemark.Schema) error {
	known, err := s.refresh(ctx, c)
	if err != nil {
		return err
	}
	old := known.models[schema.Name()]
	if err := checkName(ctx, c, schema.Name(), old != nil); err != nil {
		return err
	}
	fields := fieldsOf(schema)
	if old != nil && slices.Equal(old.fields, fields) {
		if old.late.made.Load() {
			return nil
		}
		_, err := old.makeIndexes(ctx, c)
		return err
	}
	id, err := nextModel(ctx, c)
	if err != nil {
		return err
	}
	m := newModel(id, schema.Name(), fields)
	switch {
	case old == nil:
		err = m.create(ctx, c)
	case slices.Equal(old.columns, m.columns):
		m = newModel(old.id, schema.Name(), fields)
	default:
		s.log.InfoContext(ctx, "a model has other indexes: its table is written anew", "model", schema.Name())
		err = m.remake(ctx, c, old)
	}
	if err != nil {
		return err
	}
	return m.remember(ctx, c)
}

// nextModel returns a number for a table. The highest only grows: see remake.
func nextModel(ctx context.Context, c *session) (int64, error) {
	return c.number(ctx, "SELECT coalesce(max(id), 0) + 1 FROM tidemark_models")
}

// checkName refuses a name that the application uses in this file.
func checkName(ctx context.Context, c *session, name string, known bool) error {
	kind, err := c.text(ctx, "SELECT type FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')", name)
	switch {
	case err != nil:
		return err
	case kind == "" && !hasFold(name, "sqlite_") && !hasFold(name, "tidemark_"), kind == "view" && known:
		return nil
	}
	return tidemark.NewError(tidemark.CodeUnknownModel, "model %s cannot have its view: the file has a table or view of that name, or it is reserved", name)
}

func hasFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func execAll(ctx context.Context, c *session, texts ...string) error {
	for _, q := range texts {
		if _, err := c.conn.ExecContext(context.WithoutCancel(ctx), q); err != nil {
			return translate(ctx, err)
		}
	}
	return nil
}

func (m *model) create(ctx context.Context, c *session) error {
	table := "CREATE TABLE " + m.table + ` (uid TEXT NOT NULL PRIMARY KEY, row TEXT, base TEXT,
	created_at INTEGER, updated_at INTEGER, deleted_at INTEGER, pending INTEGER NOT NULL, seen INTEGER NOT NULL, waiting TEXT`
	for _, col := range m.columns {
		table += ", " + col.name // without a type: values stay as they are bound
	}
	texts := []string{
		table + ") WITHOUT ROWID",
		"CREATE INDEX " + m.table + "_own ON " + m.table + " (uid) WHERE base > '' AND waiting IS NULL",
		"CREATE INDEX " + m.table + "_gone ON " + m.table + " (deleted_at) WHERE deleted_at <> 0",
	}
	return execAll(ctx, c, texts...)
}

// remake writes all records of old into m's table. The new table has a new name,
// so that a statement of another process fails rather than reads a column that
// means something else now.
func (m *model) remake(ctx context.Context, c *session, old *model) error {
	if err := m.create(ctx, c); err != nil {
		return err
	}
	if err := m.copyFrom(ctx, c, old.table, recordColumns, readBase); err != nil {
		return err
	}
	return execAll(ctx, c, "UPDATE "+m.table+" SET waiting = (SELECT waiting FROM "+old.table+" AS o WHERE o.uid = "+m.table+
		".uid) WHERE uid IN (SELECT uid FROM "+old.table+" WHERE waiting IS NOT NULL)", "DROP TABLE "+old.table)
}

// copyFrom stores the records of another table, whose columns are those of
// recordColumns but for their names, and whose base baseOf reads.
func (m *model) copyFrom(ctx context.Context, c *session, table, columns string, base func(row tidemark.Row, kept []byte) (tidemark.Row, error)) error {
	page := "SELECT 0, " + columns + " FROM " + table + " WHERE uid > ? ORDER BY uid LIMIT 1000"
	for after := ""; ; {
		var recs []tidemark.Record
		err := c.query(ctx, func(r *result) error {
			_, rec, err := scanRecord(r, base)
			recs = append(recs, rec)
			return err
		}, page, after)
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			_, err := m.makeIndexes(ctx, c)
			return err
		}
		if err := m.store(ctx, c, recs, nil); err != nil {
			return err
		}
		after = recs[len(recs)-1].UID
	}
}

// remember writes the model into the catalog and makes its view.
func (m *model) remember(ctx context.Context, c *session) error {
	raw, err := json.Marshal(m.fields)
	if err != nil {
		return err
	}
	_, err = c.exec(ctx, `INSERT INTO tidemark_models (id, name, fields) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET id = excluded.id, fields = excluded.fields`, m.id, m.name, string(raw))
	if err != nil {
		return err
	}
	return execAll(ctx, c, "DROP VIEW IF EXISTS "+quoteName(m.name), m.view())
}

func (m *model) view() string {
	names, values := []string{"uid"}, []string{"uid"}
	for _, f := range m.fields {
		value := "json_extract(row, " + path(f.Name) + ")"
		if f.Kind == tidemark.JSON.String() {
			value = "row -> " + path(f.Name)
		}
		names, values = append(names, quoteName(f.Name)), append(values, value)
	}
	return "CREATE VIEW " + quoteName(m.name) + " (" + strings.Join(names, ", ") + ") AS SELECT " +
		strings.Join(values, ", ") + " FROM " + m.table + " WHERE row IS NOT NULL"
}

// quoteName quotes an identifier. A schema's names have no quotes in them.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// path returns the JSON path of a member as an SQL literal. SQLite compares the
// quoted label with the key's own text, escapes included.
func path(field string) string {
	label := string(tidemark.AppendString(nil, field))
	return "'$." + strings.ReplaceAll(label, "'", "''") + "'"
}
