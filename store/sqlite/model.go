package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// errUndeclared is the code of what a transaction says about an unknown model.
var errUndeclared = &tidemark.Error{Code: tidemark.CodeUnknownModel}

// catalog is what the file says about its models. It is not changed once made.
type catalog struct {
	version int64 // SQLite's schema_version, which every process's Declare moves
	models  map[string]*model
}

func (k *catalog) model(name string) (*model, error) {
	if m := k.models[name]; m != nil {
		return m, nil
	}
	return nil, tidemark.NewError(tidemark.CodeUnknownModel, "model %s is not declared", name)
}

// refresh returns the catalog as of the state that c sees.
func (s *Store) refresh(ctx context.Context, c *session) (*catalog, error) {
	version, err := c.number(context.WithoutCancel(ctx), "PRAGMA schema_version")
	if err != nil {
		return nil, err
	}
	if k := s.models.Load(); k != nil && k.version == version {
		return k, nil
	}
	k, err := readCatalog(ctx, c, version)
	if err == nil {
		s.models.Store(k)
	}
	return k, err
}

func readCatalog(ctx context.Context, c *session, version int64) (*catalog, error) {
	k := &catalog{version: version, models: make(map[string]*model)}
	err := c.query(ctx, func(r *sql.Rows) error {
		var id int64
		var name string
		var raw []byte
		if err := r.Scan(&id, &name, &raw); err != nil {
			return err
		}
		var fields []field
		if err := json.Unmarshal(raw, &fields); err != nil {
			return fmt.Errorf("%s: %w", damagedTexts[0], err)
		}
		k.models[name] = newModel(id, name, fields)
		return nil
	}, "SELECT id, name, fields FROM tidemark_models")
	return k, err
}

// field is a field of a model as the file remembers it.
type field struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Indexed bool   `json:"indexed,omitempty"`
}

func fieldsOf(s *tidemark.Schema) []field {
	var fields []field
	for _, f := range s.Fields()[1:] { // without uid
		fields = append(fields, field{Name: f.Name, Kind: f.Kind.String(), Indexed: f.Indexed && f.Kind.Comparable()})
	}
	return fields
}

// model is a declared model: its table and the statements that work on it.
//
// The table keeps each row as its JSON text. base is NULL when it is the same as
// row (nearly always), empty when the server has no such row. A field that is
// indexed has its value beside the text once more, as SQLite's own type, put
// there by ValueOf: so a clause on it is exact without restating in SQL what a
// value is, and other clauses are decided by Predicate.Match.
type model struct {
	id      int64
	name    string
	fields  []field
	columns []column

	table                string
	get, one, many       string
	put, putMany, remove string
	change               string // put, of a record whose indexed values stay; "" where nothing is indexed
	prune                string
	heldSame, heldOwn    string
	heldExact            string // heldSame where the rows need not be looked at
}

// column is an indexed field.
type column struct {
	name  string // of the column
	field string
	kind  tidemark.Kind
}

// putChunk is how many records one statement stores.
const putChunk = 32

func newModel(id int64, name string, fields []field) *model {
	m := &model{id: id, name: name, fields: fields, table: "tidemark_rows_" + strconv.FormatInt(id, 10)}
	for i, f := range fields {
		if f.Indexed {
			m.columns = append(m.columns, column{name: "x" + strconv.Itoa(i), field: f.Name, kind: kindOf(f.Kind)})
		}
	}
	const record = "uid, row, base, created_at, updated_at, deleted_at, pending, seen"
	m.get = "SELECT row FROM " + m.table + " WHERE uid = ? AND row IS NOT NULL"
	m.one = "SELECT 0, " + record + " FROM " + m.table + " WHERE uid = ?"
	m.many = "SELECT key, " + record + " FROM json_each(?) JOIN " + m.table + " ON uid = value"
	m.remove = "DELETE FROM " + m.table + " WHERE uid = ?"
	m.prune = "DELETE FROM " + m.table + " WHERE deleted_at < ? AND deleted_at <> 0 AND pending = 0 AND " + noBase
	m.heldSame = "SELECT uid, created_at, updated_at, deleted_at, seen, row FROM " + m.table + " WHERE base IS NULL AND row IS NOT NULL"
	m.heldExact = strings.Replace(m.heldSame, ", row FROM", ", NULL FROM", 1)
	m.heldOwn = "SELECT uid, created_at, updated_at, deleted_at, seen, base FROM " + m.table + " WHERE base > ''"
	m.put, m.putMany = m.putText(record, 1), m.putText(record, putChunk)
	m.change = m.changeText()
	return m
}

// changeText returns a statement with the arguments of put, by their numbers,
// that stores a record which is there with the same indexed values. SQLite writes
// an index anew when its column is set, to whatever value: a page of the file more for each.
func (m *model) changeText() string {
	if len(m.columns) == 0 {
		return ""
	}
	text := "UPDATE " + m.table + " SET row = ?2, base = ?3, created_at = ?4, updated_at = ?5, deleted_at = ?6, pending = ?7, seen = ?8 WHERE uid = ?1"
	for i, c := range m.columns {
		text += " AND " + c.name + " IS ?" + strconv.Itoa(9+i)
	}
	return text
}

// noBase selects the records that have no Base.
const noBase = "(base = '' OR base IS NULL AND row IS NULL)"

// putText returns the statement that stores n records.
func (m *model) putText(record string, n int) string {
	names := strings.Split(record, ", ")
	for _, c := range m.columns {
		names = append(names, c.name)
	}
	values := "(?" + strings.Repeat(",?", len(names)-1) + ")"
	text := "INSERT INTO " + m.table + " (" + strings.Join(names, ", ") + ") VALUES " +
		strings.Repeat(values+",", n-1) + values + " ON CONFLICT (uid) DO UPDATE SET "
	for i, name := range names[1:] {
		if i > 0 {
			text += ", "
		}
		text += name + " = excluded." + name
	}
	return text
}

func (m *model) column(field string) (column, bool) {
	i := slices.IndexFunc(m.columns, func(c column) bool { return c.field == field })
	if i < 0 {
		return column{}, false
	}
	return m.columns[i], true
}

// values appends the values of the indexed columns of row to args.
func (m *model) values(args []any, row tidemark.Row) []any {
	first := len(args)
	for range m.columns {
		args = append(args, nil)
	}
	if len(m.columns) == 0 || len(row) == 0 {
		return args
	}
	_ = tidemark.EachField(row, func(key, raw []byte) error { // Put has checked that it is an object
		for i, c := range m.columns {
			if c.field == string(key) {
				if v, err := tidemark.ValueOf(c.kind, raw); err == nil {
					args[first+i] = native(v)
				}
			}
		}
		return nil
	})
	return args
}

// native returns v as SQLite compares it.
func native(v tidemark.Value) any {
	switch v.Kind() {
	case 0:
		return nil
	case tidemark.Integer, tidemark.Timestamp, tidemark.Bool:
		return v.Int()
	case tidemark.Double:
		return v.Float()
	}
	return v.Text()
}

// kindOf returns the kind of that name, 0 for none.
func kindOf(name string) tidemark.Kind {
	for k := tidemark.Text; k.String() != "unknown"; k++ {
		if k.String() == name {
			return k
		}
	}
	return 0
}
