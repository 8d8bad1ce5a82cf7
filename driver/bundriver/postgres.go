package bundriver

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// postgres is PostgreSQL 14 or newer. Every value is bound as text and cast in the
// statement, which every database/sql driver can do, whatever its way of
// sending parameters.
type postgres struct {
	schema   string // quoted
	metadata string // the metadata table, quoted
	// expressions of what names the cluster and its history, NULL where that may not be read
	system, timeline string
}

func (p *postgres) check(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	var version, digits int
	var encoding, conforming, commit string
	var system, timeline bool
	err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('extra_float_digits')::int,
		current_setting('server_encoding'), current_setting('standard_conforming_strings'), current_setting('synchronous_commit'),
		has_function_privilege('pg_control_system()', 'execute'), has_function_privilege('pg_walfile_name(pg_lsn)', 'execute')`).
		Scan(&version, &digits, &encoding, &conforming, &commit, &system, &timeline)
	switch {
	case err != nil:
		return err
	case version < 140000:
		return fmt.Errorf("PostgreSQL %d is older than 14", version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("the database's encoding is %s, which cannot hold every text: UTF8 is needed", encoding)
	case conforming != "on":
		return fmt.Errorf("standard_conforming_strings is off: bun writes values into its statements and would let them become SQL")
	case digits < 1:
		return fmt.Errorf("extra_float_digits is %d, which changes numbers: 1 or more is needed", digits)
	}
	if commit == "off" {
		log.Warn("synchronous_commit is off: a crash of the database loses writes that clients saw confirmed")
	}
	if system {
		p.system = "(SELECT system_identifier::text FROM pg_control_system())"
	}
	if timeline {
		// Not pg_control_checkpoint's: that changes only at the first checkpoint after a failover.
		p.timeline = "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END"
	}
	return nil
}

func (p postgres) table(name string) string { return p.schema + "." + quote(name) }

func (postgres) placeholder(n int) string { return "CAST($" + strconv.Itoa(n) + " AS text)" }

// array is a bound array of texts.
func (postgres) array(n int) string { return "CAST($" + strconv.Itoa(n) + " AS text[])" }

// list, among and batch bind a single row by itself: the planner then knows that it is one. It
// takes any source for a hundred rows, and reads tables of some thousands whole for it.
func (p postgres) list(n int, uids []string) (string, any) {
	if len(uids) == 1 {
		return "(SELECT " + p.placeholder(n) + " AS u) AS x", uids[0]
	}
	return "unnest(" + p.array(n) + ") AS x(u)", bindAll(uids)
}

func (p postgres) among(column string, n int, uids []string) (string, any) {
	if len(uids) == 1 {
		return column + " = " + p.placeholder(n), uids[0]
	}
	return column + " = ANY(" + p.array(n) + ")", bindAll(uids)
}

// batch reads texts and casts them: twice as fast as PostgreSQL's JSON functions, which are
// needed for the values of arrays only.
func (p postgres) batch(columns []*column, entries []entry) (source, []any) {
	s := source{uid: "x.u"}
	for i, c := range columns {
		if strings.HasSuffix(c.base, "[]") {
			return p.jsonBatch(columns, entries)
		}
		s.columns = append(s.columns, p.typed(c, "x."+member(i)))
	}
	args := make([]any, 0, len(columns)+1)
	if len(entries) == 1 {
		parts := []string{p.placeholder(1) + " AS u"}
		args = append(args, entries[0].uid)
		for i, c := range columns {
			parts = append(parts, p.placeholder(i+2)+" AS "+member(i))
			if text, ok := textOf(c, entries[0].values[i]); ok {
				args = append(args, text)
			} else {
				args = append(args, nil)
			}
		}
		s.from = "(SELECT " + strings.Join(parts, ", ") + ") AS x"
		return s, args
	}
	arrays, names := []string{p.array(1)}, []string{"u"}
	uids := newArray(len(entries), 40*len(entries))
	for i := range entries {
		uids.add(entries[i].uid)
	}
	args = append(args, uids)
	for i, c := range columns {
		size := 0
		for k := range entries {
			size += len(entries[k].values[i]) + 4
		}
		values := newArray(len(entries), size)
		for k := range entries {
			values.addValue(c, entries[k].values[i])
		}
		args = append(args, values)
		arrays, names = append(arrays, p.array(i+2)), append(names, member(i))
	}
	s.from = "unnest(" + strings.Join(arrays, ", ") + ") AS x(" + strings.Join(names, ", ") + ")"
	return s, args
}

// typed casts an expression that has the text of a column's value. What is assigned to a varchar(n) stays
// text: a cast would cut it, an assignment refuses it.
func (postgres) typed(c *column, expr string) string {
	switch c.kind {
	case tidemark.Text:
		return expr
	case tidemark.Bytes:
		return "decode(" + expr + ", 'base64')"
	case tidemark.Integer:
		return expr + "::bigint"
	case tidemark.Double:
		return expr + "::double precision"
	case tidemark.Numeric:
		return expr + "::numeric"
	case tidemark.Timestamp:
		if c.base == "timestamp" {
			return expr + "::timestamp" // which leaves the Z unread: the column holds UTC
		}
		return expr + "::timestamptz"
	}
	return expr + "::" + c.base
}

// textOf returns a value's text in SQL, false for null.
func textOf(c *column, raw json.RawMessage) (string, bool) {
	if string(raw) == "null" {
		return "", false
	}
	if (c.kind == tidemark.Timestamp || c.kind == tidemark.Date) && bytes.HasPrefix(raw, yearZero) {
		return "0001-" + string(raw[len(yearZero):len(raw)-1]) + " BC", true
	}
	if c.kind != tidemark.JSON && len(raw) > 0 && raw[0] == '"' {
		if text, err := tidemark.DecodeString(raw); err == nil {
			return text, true
		}
	}
	return string(raw), true
}

// jsonBatch is batch with all values in one JSON text.
func (p postgres) jsonBatch(columns []*column, entries []entry) (source, []any) {
	s := source{uid: "x.u"}
	types := []string{"u text"}
	for i, c := range columns {
		typ := "text"
		expr := p.typed(c, "x."+member(i))
		if c.kind == tidemark.JSON {
			typ, expr = c.base, "x."+member(i)
		}
		types = append(types, member(i)+" "+typ)
		s.columns = append(s.columns, expr)
	}
	s.from = "json_to_recordset(" + p.placeholder(1) + "::json) AS x(" + strings.Join(types, ", ") + ")"
	if len(entries) == 1 {
		s.from = "(SELECT * FROM " + s.from + " LIMIT 1) AS x"
	}
	b := []byte{'['}
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = tidemark.AppendString(append(b, `{"u":`...), e.uid)
		for k, c := range columns {
			b = append(tidemark.AppendString(append(b, ','), member(k)), ':')
			text, ok := textOf(c, e.values[k])
			if ok && c.kind != tidemark.JSON {
				b = tidemark.AppendString(b, text)
			} else {
				b = append(b, e.values[k]...)
			}
		}
		b = append(b, '}')
	}
	return s, []any{string(append(b, ']'))}
}

// member is the name of a batch's i-th column.
func member(i int) string { return "c" + strconv.Itoa(i) }

var yearZero = []byte(`"0000-`)

// era gives a date of the year 0 as PostgreSQL knows it.
func era(s string) string {
	if strings.HasPrefix(s, "0000-") {
		return "0001-" + s[5:] + " BC"
	}
	return s
}

func (postgres) readMeta(name string) string { return "m." + name }

func (postgres) exists(table string) (string, any) {
	return "SELECT to_regclass(CAST($1 AS text)) IS NOT NULL", table
}

func (postgres) newest(cl *clause, column string, until int64) string {
	return "max(" + column + ") FILTER (WHERE " + column + " BETWEEN '1970-01-01' AND " + cl.bind(string(tidemark.AppendInstant(nil, until))) + "::timestamp)"
}

func (postgres) isNull(c *column) string {
	col := "t." + c.sql
	switch c.kind {
	case tidemark.Double, tidemark.Numeric:
		return "(" + col + " IS NULL OR NOT abs(" + col + ") < 'Infinity')"
	case tidemark.Timestamp:
		return "(" + col + " IS NULL OR " + col + " < '0001-01-01 00:00:00+00 BC' OR " + col + " >= '10000-01-01 00:00:00+00')"
	case tidemark.Date:
		return "(" + col + " IS NULL OR " + col + " < '0001-01-01 BC' OR " + col + " >= '10000-01-01')"
	case tidemark.TimeOfDay:
		return "(" + col + " IS NULL OR " + col + " = '24:00:00')"
	case tidemark.JSON:
		if !strings.HasSuffix(c.base, "[]") {
			return "(" + col + " IS NULL OR " + col + "::text = 'null')"
		}
	}
	return col + " IS NULL"
}

func (p postgres) compare(cl *clause, c *column, operator string, v tidemark.Value) string {
	col, typ := operand(c)
	if c.base == "real" {
		wide := operator // for the rounded bound, which an index serves
		if wide != "=" {
			wide = wide[:1] + "="
		}
		return "(" + col + wide + cl.bind(single(v)) + "::real AND " + exact(col) + operator + cl.bind(literal(c, v)) + "::" + typ + ")"
	}
	if c.kind == tidemark.Text && operator != "=" {
		col += ` COLLATE "C"`
	}
	return col + operator + cl.bind(literal(c, v)) + "::" + typ
}

func (p postgres) oneOf(cl *clause, c *column, values []tidemark.Value) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = literal(c, v)
	}
	col, typ := operand(c)
	if c.base == "real" {
		singles := make([]string, len(values))
		for i, v := range values {
			singles[i] = single(v)
		}
		return "(" + col + " = ANY(" + cl.bind(arrayOf(singles)) + "::real[]) AND " + exact(col) + " = ANY(" + cl.bind(arrayOf(texts)) + "::" + typ + "[]))"
	}
	return col + " = ANY(" + cl.bind(arrayOf(texts)) + "::" + typ + "[])"
}

// operand is what is compared of a column, and the type of what it is compared with.
func operand(c *column) (col, typ string) {
	col = "t." + c.sql
	switch c.kind {
	case tidemark.Integer:
		return col, "bigint"
	case tidemark.Double:
		return col, "double precision"
	case tidemark.Bool:
		return col, "boolean"
	case tidemark.Timestamp:
		if c.base == "timestamp" {
			return col, "timestamp" // which leaves the Z unread: the column holds UTC
		}
		return col, "timestamptz"
	case tidemark.Bytes:
		return col, "bytea"
	case tidemark.Numeric:
		return col, "numeric"
	case tidemark.UUID:
		return col, "uuid"
	case tidemark.Date:
		return col, "date"
	case tidemark.TimeOfDay:
		return col, "time"
	}
	if c.kind == tidemark.Enum || c.base == "character" {
		col += "::text"
	}
	return col, "text"
}

// exact is the value of a real column: the shortest decimal number that is it, and not the double that is
// equal to it, which has digits that nobody wrote.
func exact(col string) string { return col + "::text::double precision" }

// single is the text of the real next to a double. Rounding keeps the order, as exact does.
func single(v tidemark.Value) string {
	f := min(max(v.Float(), -math.MaxFloat32), math.MaxFloat32)
	return strconv.FormatFloat(f, 'g', -1, 32)
}

// literal is a value's text in SQL.
func literal(c *column, v tidemark.Value) string {
	switch c.kind {
	case tidemark.Integer:
		return strconv.FormatInt(v.Int(), 10)
	case tidemark.Double:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case tidemark.Bool:
		return strconv.FormatBool(v.Int() == 1)
	case tidemark.Timestamp:
		return era(string(tidemark.AppendInstant(nil, v.Int())))
	case tidemark.Date:
		return era(v.Text())
	case tidemark.Bytes:
		data, _ := base64.StdEncoding.DecodeString(v.Text()) // a Value's is well formed
		return `\x` + hex.EncodeToString(data)
	}
	return v.Text()
}

func (postgres) limits(c *column) (low, high *tidemark.Bound) {
	switch c.kind {
	case tidemark.Double:
		return lowestDouble, highestDouble
	case tidemark.Timestamp:
		return lowestInstant, highestInstant
	case tidemark.Date:
		return lowestDate, highestDate
	case tidemark.TimeOfDay:
		return nil, limit(tidemark.TimeOfDay, `"23:59:59.999999"`)
	}
	return nil, nil
}

// begin asks for READ COMMITTED, whatever the application's default: each
// statement must see what was committed before it, once the metadata is locked.
func (postgres) begin() []string {
	return []string{"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", byIndex}
}

func (postgres) look() []string { return []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"} }

func (postgres) byIndex() string { return byIndex }

func (postgres) sideBySide() string {
	return "SELECT set_config('enable_mergejoin', 'on', true), set_config('enable_nestloop', 'off', true)"
}

// byIndex has the planner find rows by an index, one by one: it takes batches and pages for larger, and tables for
// smaller than they are, and would read, join and sort whole tables for them. What it cannot find by an index
// it then takes for so expensive that it would compile it.
const byIndex = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true)`

func (postgres) options() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

func (postgres) seize() string     { return "" }
func (postgres) checkNow() string  { return "SET CONSTRAINTS ALL IMMEDIATE" }
func (postgres) forUpdate() string { return " FOR UPDATE OF m" }

func (p postgres) positions() positions {
	return positions{
		column: "l.xid", order: "l.xid, l.seq", backward: "l.xid DESC, l.seq DESC", kind: "xid8",
		next: "pg_snapshot_xmin(pg_current_snapshot())", epoch: "concat_ws('.', " + p.system + ", " + p.timeline + ", s.id)",
	}
}

func (postgres) clock(int, time.Time) (string, []any) { return "clock_timestamp()", nil }

func (p postgres) instant(n int, t time.Time) (string, any) {
	return p.placeholder(n) + "::timestamptz", era(string(tidemark.AppendInstant(nil, t.UnixMicro())))
}
