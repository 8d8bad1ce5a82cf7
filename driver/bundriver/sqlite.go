package bundriver

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// sqlite is SQLite 3.41 or newer. A write transaction has the database to itself.
type sqlite struct{}

func (sqlite) check(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	var hexed, mode, encoding string
	if err := db.QueryRowContext(ctx, `SELECT hex(unhex('00ff'))`).Scan(&hexed); err != nil {
		return fmt.Errorf("SQLite is older than 3.41: %w", err)
	}
	if err := db.QueryRowContext(ctx, `PRAGMA encoding`).Scan(&encoding); err != nil {
		return err
	}
	if encoding != "UTF-8" {
		return fmt.Errorf("the database's encoding is %s, in which texts have another order: UTF-8 is needed", encoding)
	}
	if err := db.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" && mode != "memory" {
		log.Warn("the database does not use write-ahead logging: readers and writers wait for each other", "journal_mode", mode)
	}
	return nil
}

func (sqlite) table(name string) string { return `"tidemark_` + name + `"` }

func (sqlite) placeholder(n int) string { return "?" + strconv.Itoa(n) }

func (s sqlite) list(n int, uids []string) (string, any) {
	return "(SELECT value AS u FROM json_each(" + s.placeholder(n) + ")) AS x", string(appendTexts(nil, uids))
}

func (s sqlite) among(column string, n int, uids []string) (string, any) {
	return column + " IN (SELECT value FROM json_each(" + s.placeholder(n) + "))", string(appendTexts(nil, uids))
}

func (s sqlite) batch(columns []*column, entries []entry) (source, []any) {
	src := source{from: "json_each(" + s.placeholder(1) + ") AS x", uid: "(x.value ->> 0)"}
	for i, c := range columns {
		expr := "(x.value ->> " + strconv.Itoa(i+1) + ")"
		if c.kind == tidemark.Bytes {
			expr = "unhex" + expr
		}
		src.columns = append(src.columns, expr)
	}
	b := []byte{'['}
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = tidemark.AppendString(append(b, '['), e.uid)
		for k, c := range columns {
			b = s.appendValue(append(b, ','), c, e.values[k])
		}
		b = append(b, ']')
	}
	return src, []any{string(append(b, ']'))}
}

// bunTime is how bun writes times to SQLite.
const bunTime = "2006-01-02 15:04:05.999999-07:00"

// appendValue gives a value the form in which bun would store it.
func (sqlite) appendValue(b []byte, c *column, raw json.RawMessage) []byte {
	if string(raw) == "null" {
		return append(b, raw...)
	}
	switch c.kind {
	case tidemark.Bool:
		if string(raw) == "true" {
			return append(b, '1')
		}
		return append(b, '0')
	case tidemark.JSON:
		return tidemark.AppendString(b, string(raw))
	case tidemark.Double:
		// An integer beyond 64 bits would be read as one and overflow; -1e300 never is.
		f, _ := strconv.ParseFloat(string(raw), 64)
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	v, err := tidemark.ValueOf(c.kind, raw)
	if err != nil {
		return append(b, "null"...)
	}
	switch c.kind {
	case tidemark.Timestamp:
		b = append(b, '"')
		b = time.UnixMicro(v.Int()).UTC().AppendFormat(b, bunTime)
		return append(b, '"')
	case tidemark.Bytes:
		data, _ := base64.StdEncoding.DecodeString(v.Text())
		b = append(b, '"')
		b = hex.AppendEncode(b, data)
		return append(b, '"')
	case tidemark.Date:
		if c.isTime() {
			return tidemark.AppendString(b, v.Text()+" 00:00:00+00:00")
		}
	}
	return append(b, raw...)
}

// isTime reports whether the application's field is a time.Time or one of the null types around it.
func (c *column) isTime() bool {
	if c.field == nil {
		return false
	}
	typ := c.field.IndirectType
	if typ.Kind() == reflect.Struct && typ.NumField() > 0 && typ != reflect.TypeFor[time.Time]() {
		typ = typ.Field(0).Type
	}
	return typ == reflect.TypeFor[time.Time]()
}

// readMeta hides the column's declared type from the database's Go driver, which would make a
// time of it by rules of its own.
func (sqlite) readMeta(name string) string { return "+m." + name }

func (sqlite) exists(table string) (string, any) {
	return "SELECT count(*) > 0 FROM pragma_table_info(?1)", unquote(table)
}

// newest compares texts, as compareInstant does, in either of the two forms that a time with its date has.
func (sqlite) newest(cl *clause, column string, until int64) string {
	column = "replace(" + column + ", 'T', ' ')"
	return "max(" + column + ") FILTER (WHERE " + column + " BETWEEN '1970' AND " + cl.bind(instantText(until)) + ")"
}

func (sqlite) isNull(c *column) string {
	col := "t." + c.sql
	switch c.kind {
	case tidemark.JSON:
		return "(" + col + " IS NULL OR " + col + " = 'null')"
	case tidemark.Double:
		return "(" + col + " IS NULL OR NOT abs(" + col + ") <= 1.7976931348623157e308)"
	}
	return col + " IS NULL"
}

func (s sqlite) compare(cl *clause, c *column, operator string, v tidemark.Value) string {
	col := "t." + c.sql
	switch c.kind {
	case tidemark.Integer, tidemark.Bool:
		return col + operator + cl.bind(v.Int())
	case tidemark.Double:
		return col + operator + cl.bind(v.Float())
	case tidemark.Timestamp:
		return s.compareInstant(cl, col, operator, v.Int())
	case tidemark.Bytes:
		data, _ := base64.StdEncoding.DecodeString(v.Text())
		if len(data) == 0 {
			return col + operator + "x''" // an empty slice would be bound as null
		}
		return col + operator + cl.bind(data)
	case tidemark.Date:
		return "substr(" + col + ", 1, 10)" + operator + cl.bind(v.Text())
	case tidemark.Numeric:
		return col + operator + cl.bind(v.Text())
	}
	return col + " COLLATE BINARY" + operator + cl.bind(v.Text())
}

func (s sqlite) oneOf(cl *clause, c *column, values []tidemark.Value) string {
	col, from := "t."+c.sql, "value"
	switch c.kind {
	case tidemark.Double: // SQLite reads numbers in JSON with a small error
		places := make([]string, len(values))
		for i, v := range values {
			places[i] = cl.bind(v.Float())
		}
		return col + " IN (" + strings.Join(places, ", ") + ")"
	case tidemark.Timestamp:
		return s.oneOfInstants(cl, col, values)
	case tidemark.Bytes:
		from = "unhex(value)"
	case tidemark.Date:
		col = "substr(" + col + ", 1, 10)"
	case tidemark.Integer, tidemark.Bool, tidemark.Numeric:
	default:
		col += " COLLATE BINARY"
	}
	list := []byte{'['}
	for i, v := range values {
		if i > 0 {
			list = append(list, ',')
		}
		switch c.kind {
		case tidemark.Integer, tidemark.Bool:
			list = strconv.AppendInt(list, v.Int(), 10)
		case tidemark.Bytes:
			data, _ := base64.StdEncoding.DecodeString(v.Text())
			list = tidemark.AppendString(list, hex.EncodeToString(data))
		default:
			list = tidemark.AppendString(list, v.Text())
		}
	}
	return col + " IN (SELECT " + from + " FROM json_each(" + cl.bind(string(append(list, ']'))) + "))"
}

// oneOfInstants lists, as compareInstant compares, ranges of texts; all together they are within one.
func (s sqlite) oneOfInstants(cl *clause, col string, values []tidemark.Value) string {
	list := []byte{'['}
	for i, v := range values {
		if i > 0 {
			list = append(list, ',')
		}
		list = tidemark.AppendString(append(list, '['), instantText(v.Int()))
		list = tidemark.AppendString(append(list, ','), instantText(v.Int()+1))
		list = append(list, ']')
	}
	return "(" + s.compareInstant(cl, col, ">=", values[0].Int()) + " AND " + s.compareInstant(cl, col, "<=", values[len(values)-1].Int()) +
		" AND EXISTS (SELECT 1 FROM json_each(" + cl.bind(string(append(list, ']'))) + ") AS v WHERE " + col + ">=(v.value ->> 0) AND " + col + "<(v.value ->> 1)))"
}

// compareInstant compares the texts of times. Decimals beyond microseconds count
// as cut, so an instant stands for all texts from its own to the next one's. The
// offset is left out of the bounds: it sorts below the decimals, and
// CURRENT_TIMESTAMP has none.
func (sqlite) compareInstant(cl *clause, col, operator string, us int64) string {
	from, next := instantText(us), instantText(us+1)
	switch operator {
	case "=":
		return "(" + col + ">=" + cl.bind(from) + " AND " + col + "<" + cl.bind(next) + ")"
	case ">":
		return col + ">=" + cl.bind(next)
	case ">=":
		return col + ">=" + cl.bind(from)
	case "<":
		return col + "<" + cl.bind(from)
	}
	return col + "<" + cl.bind(next)
}

func instantText(us int64) string {
	if us > highestInstant.Value.Int() {
		return ":" // above all years
	}
	return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05.999999")
}

func (sqlite) limits(c *column) (low, high *tidemark.Bound) {
	if c.kind == tidemark.Double {
		return lowestDouble, highestDouble
	}
	return nil, nil
}

func (sqlite) begin() []string         { return []string{"BEGIN IMMEDIATE"} }
func (sqlite) look() []string          { return []string{"BEGIN"} }
func (sqlite) byIndex() string         { return "" }
func (sqlite) sideBySide() string      { return "" }
func (sqlite) options() *sql.TxOptions { return nil }
func (s sqlite) seize() string         { return "DELETE FROM " + s.table("uids") + " WHERE false" }
func (sqlite) checkNow() string        { return "" }
func (sqlite) forUpdate() string       { return "" }

func (sqlite) positions() positions {
	return positions{
		column: "l.seq", order: "l.seq", backward: "l.seq DESC", kind: "INTEGER",
		next: "(SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'tidemark_log')", epoch: "s.id",
	}
}

func (s sqlite) clock(n int, now time.Time) (string, []any) {
	return s.placeholder(n), []any{now.UnixMicro()}
}

func (s sqlite) instant(n int, t time.Time) (string, any) { return s.placeholder(n), t.UnixMicro() }
