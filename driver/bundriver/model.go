package bundriver

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/tidemark-sync/tidemark"
)

// model is a registered table.
type model struct {
	name    string
	quoted  []byte // the name as a JSON text
	table   *schema.Table
	from    string // the table's quoted name, with its schema
	columns []*column
	byName  map[string]*column
	schema  *tidemark.Schema
	sorted  bool // the metadata and the driver's own tables have the order of the model's uids

	// unique, foreign and check constraints and unique indexes over one column: that column, by their name
	constraints map[string]string
	// the columns as a select list of the table t, and in a RETURNING clause
	selected, returned string
}

// column is a column of a model. The dialect's inspect fills in what the catalogue knows.
type column struct {
	field *schema.Field
	name  string
	sql   string // the quoted name

	kind     tidemark.Kind
	required bool
	readOnly bool
	indexed  bool

	// base is the type in SQL without a domain around it, PostgreSQL only.
	base string
	// read is the expression that gives the value for a row, of table t.
	read string
	// returned is the same in a RETURNING clause, where SQLite knows no alias.
	returned string
}

// newModel takes from the struct's tags what they say: table and columns.
func newModel(db *bun.DB, v any) (*model, error) {
	typ := reflect.TypeOf(v)
	for typ != nil && typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ == nil || typ.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%T is not a bun model: a struct or a pointer to one is needed", v)
	}
	if !namesTable(typ) {
		return nil, fmt.Errorf("%s: bun would make up a plural table name; name the table: bun.BaseModel `bun:\"table:...\"`", typ)
	}
	t := db.Table(typ)
	m := &model{table: t, from: string(t.SQLName), byName: make(map[string]*column), constraints: make(map[string]string)}
	m.name = t.Name[strings.LastIndexByte(t.Name, '.')+1:]
	m.quoted = tidemark.AppendString(nil, m.name)
	if t.SoftDeleteField != nil {
		return nil, fmt.Errorf("model %s: soft_delete changes what DELETE and SELECT mean; remove the option from column %s", m.name, t.SoftDeleteField.Name)
	}
	if len(t.PKs) != 1 || t.PKs[0].Name != "uid" || t.PKs[0].IndirectType.Kind() != reflect.String {
		return nil, fmt.Errorf("model %s: exactly one primary key is needed, a string column uid", m.name)
	}
	m.add(t.PKs[0])
	for _, f := range t.DataFields {
		m.add(f)
	}
	return m, nil
}

func (m *model) add(f *schema.Field) {
	c := &column{field: f, name: f.Name, sql: string(f.SQLName)}
	m.columns = append(m.columns, c)
	m.byName[c.name] = c
}

// namesTable reports whether the struct, or one embedded in it, says which table it is.
func namesTable(typ reflect.Type) bool {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.Anonymous {
			continue
		}
		if f.Type == reflect.TypeFor[bun.BaseModel]() {
			for i, part := range strings.Split(f.Tag.Get("bun"), ",") {
				if strings.HasPrefix(part, "table:") || i == 0 && part != "" && !strings.Contains(part, ":") {
					return true
				}
			}
			continue
		}
		if t := f.Type; t.Kind() == reflect.Struct && namesTable(t) {
			return true
		}
	}
	return false
}

// finish makes the schema, when the catalogue has been read.
func (m *model) finish() error {
	fields := make([]tidemark.Field, len(m.columns))
	reads, returned := make([]string, len(m.columns)), make([]string, len(m.columns))
	for i, c := range m.columns {
		fields[i] = tidemark.Field{Name: c.name, Kind: c.kind, Required: c.required, ReadOnly: c.readOnly, Indexed: c.indexed}
		reads[i], returned[i] = c.read, c.returned
	}
	m.selected, m.returned = strings.Join(reads, ", "), strings.Join(returned, ", ")
	var err error
	if m.schema, err = tidemark.NewSchema(m.name, fields); err != nil {
		return fmt.Errorf("model %s: %w", m.name, err)
	}
	return nil
}

var (
	errNoTable = errors.New("there is no such table: create it before the driver")
	errUID     = errors.New("the primary key uid must be of a text type, alone in a unique index, and compared by bytes")
)

// baseType cuts lengths off a type's name: VARCHAR(20) is VARCHAR.
func baseType(name string) string {
	name = strings.ToUpper(strings.TrimSpace(name))
	if i := strings.IndexByte(name, '('); i >= 0 {
		rest := ""
		if j := strings.IndexByte(name, ')'); j > i {
			rest = name[j+1:]
		}
		name = strings.TrimSpace(name[:i]) + rest
	}
	return name
}

// kinds are the kinds of the types that a column may have, by the names that
// PostgreSQL and bun give them.
var kinds = map[string]tidemark.Kind{
	"TEXT": tidemark.Text, "VARCHAR": tidemark.Text, "CHARACTER VARYING": tidemark.Text,
	"CHAR": tidemark.Text, "CHARACTER": tidemark.Text, "BPCHAR": tidemark.Text,
	"SMALLINT": tidemark.Integer, "INTEGER": tidemark.Integer, "BIGINT": tidemark.Integer,
	"INT": tidemark.Integer, "INT2": tidemark.Integer, "INT4": tidemark.Integer, "INT8": tidemark.Integer,
	"SMALLSERIAL": tidemark.Integer, "SERIAL": tidemark.Integer, "BIGSERIAL": tidemark.Integer,
	"REAL": tidemark.Double, "FLOAT": tidemark.Double, "FLOAT4": tidemark.Double, "FLOAT8": tidemark.Double,
	"DOUBLE": tidemark.Double, "DOUBLE PRECISION": tidemark.Double,
	"BOOLEAN": tidemark.Bool, "BOOL": tidemark.Bool,
	"TIMESTAMP": tidemark.Timestamp, "TIMESTAMPTZ": tidemark.Timestamp, "DATETIME": tidemark.Timestamp,
	"TIMESTAMP WITH TIME ZONE": tidemark.Timestamp, "TIMESTAMP WITHOUT TIME ZONE": tidemark.Timestamp,
	"BYTEA": tidemark.Bytes, "BLOB": tidemark.Bytes,
	"JSON": tidemark.JSON, "JSONB": tidemark.JSON,
	"NUMERIC": tidemark.Numeric, "DECIMAL": tidemark.Numeric,
	"UUID": tidemark.UUID, "DATE": tidemark.Date,
	"TIME": tidemark.TimeOfDay, "TIME WITHOUT TIME ZONE": tidemark.TimeOfDay,
}
