package sqlite

import (
	"context"
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
	late    []*model // those whose indexes are not made
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
	former := s.models.Load()
	k, err := readCatalog(ctx, c, version)
	if err != nil {
		return nil, err
	}
	for name, m := range k.models {
		if former != nil && former.models[name] != nil && former.models[name].table == m.table {
			m.late = former.models[name].late.after(m.late)
		}
	}
	s.models.Store(k)
	return k, nil
}

func readCatalog(ctx context.Context, c *session, version int64) (*catalog, error) {
	k := &catalog{version: version, models: make(map[string]*model)}
	err := c.query(ctx, func(r *result) error {
		id, name, indexes := r.number(0), r.text(1), int(r.number(3))
		var fields []field
		if err := json.Unmarshal(r.bytes(2), &fields); err != nil {
			return fmt.Errorf("%s: %w", damagedTexts[0], err)
		}
		m := newModel(id, name, fields)
		k.models[name] = m
		if m.late.made.Store(indexes >= len(m.columns)); indexes < len(m.columns) {
			k.late = append(k.late, m)
		}
		return nil
	}, `SELECT id, name, fields, (SELECT count(*) FROM sqlite_schema
		WHERE type = 'index' AND tbl_name = 'tidemark_rows_' || id AND name LIKE '%!_x%' ESCAPE '!') FROM tidemark_models`)
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
// row (nearly always), empty when the server has no such row, else see baseOf. A field that is
// indexed has its value beside the text once more, as SQLite's own type, put
// there by ValueOf: so a clause on it is exact without restating in SQL what a
// value is, and other clauses are decided by Predicate.Match.
type model struct {
	id      int64
	name    string
	fields  []field
	columns []column
	late    *late

	table                  string
	get, one, many, exists string
	put, putMany, putMoved string // moved: waiting is written too
	change, changeMoved    string // put, of a record whose indexed values stay; "" where nothing is indexed
	remove, prune          string
	waiting, wait          string
	pending                string // which mutations, for selectMutations
	newest                 string
	heldSame, heldOwn      string
	heldExact              string // heldSame where the rows need not be looked at
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
	m := &model{id: id, name: name, fields: fields, late: &late{}, table: "tidemark_rows_" + strconv.FormatInt(id, 10)}
	for i, f := range fields {
		if f.Indexed {
			m.columns = append(m.columns, column{name: "x" + strconv.Itoa(i), field: f.Name, kind: kindOf(f.Kind)})
		}
	}
	m.get = "SELECT row FROM " + m.table + " WHERE uid = ? AND row IS NOT NULL"
	m.one = "SELECT 0, " + recordColumns + " FROM " + m.table + " WHERE uid = ?"
	m.many = "SELECT key, " + recordColumns + " FROM json_each(?) JOIN " + m.table + " ON uid = value"
	m.exists = "SELECT count(*) FROM " + m.table + " WHERE uid = ?"
	m.put, m.putMany, m.putMoved = m.putText(1, false), m.putText(putChunk, false), m.putText(1, true)
	m.change, m.changeMoved = m.changeText(false), m.changeText(true)
	m.remove = "DELETE FROM " + m.table + " WHERE uid = ?"
	m.prune = "DELETE FROM " + m.table + " WHERE deleted_at < ? AND deleted_at <> 0 AND pending = 0 AND waiting IS NULL AND " + noBase
	m.waiting = "SELECT uid, waiting FROM json_each(?) JOIN " + m.table + " ON uid = value WHERE waiting IS NOT NULL"
	m.wait = "UPDATE " + m.table + " SET waiting = " + waitingAfter("?1", "?2") + " WHERE uid = ?3"
	m.pending = "n IN (SELECT w.value FROM json_each(?1) AS u JOIN " + m.table + " AS r ON r.uid = u.value" +
		" JOIN json_each('[' || r.waiting || ']') AS w UNION ALL " + selectLoose + ")"
	m.newest = "SELECT stamp FROM tidemark_mutations WHERE n = max(coalesce((SELECT max(w.value) FROM " + m.table +
		" AS r JOIN json_each('[' || r.waiting || ']') AS w WHERE r.uid = ?1), 0), coalesce((" + newestLoose + "), 0))"
	const held = "SELECT uid, created_at, updated_at, deleted_at, seen, row, base FROM "
	m.heldSame = held + m.table + " WHERE base IS NULL AND row IS NOT NULL"
	m.heldExact = strings.Replace(m.heldSame, ", row, base FROM", ", NULL, NULL FROM", 1)
	m.heldOwn = held + m.table + " WHERE base > '' AND waiting IS NULL UNION ALL " + held + m.table +
		" WHERE base > '' AND waiting IS NOT NULL AND uid IN (SELECT uid FROM tidemark_mutations WHERE model = ?)"
	return m
}

// recordColumns are the columns that a record is made of.
const recordColumns = "uid, row, base, created_at, updated_at, deleted_at, pending, seen"

// waitingAfter returns an expression for what waiting becomes: the text behind what it was, or in its place.
func waitingAfter(behind, text string) string {
	return "nullif(coalesce(CASE WHEN " + behind + " THEN waiting END || ',', '') || " + text + ", '')"
}

// changeText returns a statement with the arguments of put, by their numbers,
// that stores a record which is there with the same indexed values. SQLite writes
// an index anew when its column is set, to whatever value: a page of the file more for each.
func (m *model) changeText(moved bool) string {
	if len(m.columns) == 0 {
		return ""
	}
	var sets []string
	for i, name := range strings.Split(recordColumns, ", ")[1:] {
		sets = append(sets, name+" = ?"+strconv.Itoa(2+i))
	}
	if moved {
		sets = append(sets, "waiting = "+waitingAfter(m.movedArgs()))
	}
	text := "UPDATE " + m.table + " SET " + strings.Join(sets, ", ") + " WHERE uid = ?1"
	for i, c := range m.columns {
		text += " AND " + c.name + " IS ?" + strconv.Itoa(9+i)
	}
	return text
}

// movedArgs returns the arguments of waitingAfter in put and change: those behind all others.
func (m *model) movedArgs() (behind, text string) {
	n := 9 + len(m.columns)
	return "?" + strconv.Itoa(n+1), "?" + strconv.Itoa(n)
}

// noBase selects the records that have no Base.
const noBase = "(base = '' OR base IS NULL AND row IS NULL)"

// putText returns the statement that stores n records; moved, one with its waiting.
func (m *model) putText(n int, moved bool) string {
	names := strings.Split(recordColumns, ", ")
	for _, c := range m.columns {
		names = append(names, c.name)
	}
	values := strings.Repeat("?, ", len(names)-1) + "?"
	sets := make([]string, len(names)-1)
	for i, name := range names[1:] {
		sets[i] = name + " = excluded." + name
	}
	if moved {
		behind, text := m.movedArgs()
		names = append(names, "waiting")
		values += ", nullif(" + text + ", '')"
		sets = append(sets, "waiting = "+waitingAfter(behind, text))
	}
	return "INSERT INTO " + m.table + " (" + strings.Join(names, ", ") + ") VALUES " +
		strings.Repeat("("+values+"), ", n-1) + "(" + values + ") ON CONFLICT (uid) DO UPDATE SET " + strings.Join(sets, ", ")
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
