package bundriver

import (
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// reader makes rows of what a query returns: values that stand before the row's
// columns, then the columns. The text is made here and not by the database, so
// that one piece of code decides on the canonical forms; it is also twice as
// fast as PostgreSQL's JSON functions. Values without a form, as infinities, are null.
type reader struct {
	m      *model
	values []any // in front, then one a column
	into   []any // pointers to values
	front  int
	buf    []byte
}

func newReader(m *model, front int) *reader {
	n := front
	if m != nil {
		n += len(m.columns)
	}
	r := &reader{m: m, front: front, values: make([]any, n), into: make([]any, n)}
	for i := range r.values {
		r.into[i] = &r.values[i]
	}
	return r
}

func (r *reader) scan(rows *sql.Rows) error { return rows.Scan(r.into...) }

// text returns the i-th value in front as text, "" for null.
func (r *reader) text(i int) string { return text(r.values[i]) }

// meta returns the metadata whose four columns begin with the i-th value in front.
func (r *reader) meta(i int) tidemark.Meta {
	return tidemark.Meta{
		UID: r.text(i), CreatedAt: stampOf(r.values[i+1]),
		UpdatedAt: stampOf(r.values[i+2]), DeletedAt: stampOf(r.values[i+3]),
	}
}

// uid returns the row's uid, "" when there is no row.
func (r *reader) uid() string { return text(r.values[r.front]) }

// row returns the row, nil when there is none.
func (r *reader) row() tidemark.Row {
	if r.values[r.front] == nil {
		return nil
	}
	b := append(r.buf[:0], '{')
	for i, c := range r.m.columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(tidemark.AppendString(b, c.name), ':')
		b = appendColumn(b, c.kind, r.values[r.front+i])
	}
	r.buf = append(b, '}')
	return append(tidemark.Row(nil), r.buf...)
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func isText(v any) bool {
	switch v.(type) {
	case string, []byte:
		return true
	}
	return false
}

// instantOf returns a time in microseconds since 1970.
func instantOf(v any) (us int64, ok bool) {
	if t, is := v.(time.Time); is {
		y := t.UTC().Year()
		return t.UnixMicro(), y >= 0 && y <= 9999
	}
	if !isText(v) {
		return 0, false
	}
	us, err := tidemark.ParseInstant(text(v))
	return us, err == nil
}

func stampOf(v any) tidemark.Stamp {
	us, ok := instantOf(v)
	if !ok {
		return 0
	}
	return tidemark.StampOf(time.UnixMicro(us))
}

// appendColumn appends the canonical JSON form of a value as the database's driver gives it.
func appendColumn(b []byte, k tidemark.Kind, v any) []byte {
	if v == nil {
		return append(b, "null"...)
	}
	if out, ok := appendNative(b, k, v); ok {
		return out
	}
	return append(b, "null"...)
}

func appendNative(b []byte, k tidemark.Kind, v any) ([]byte, bool) {
	switch k {
	case tidemark.Text, tidemark.Enum:
		if isText(v) {
			return tidemark.AppendString(b, text(v)), true
		}
	case tidemark.Integer:
		if n, ok := v.(int64); ok {
			return strconv.AppendInt(b, n, 10), true
		}
	case tidemark.Double:
		return appendFloat(b, v)
	case tidemark.Bool:
		switch v := v.(type) {
		case bool:
			return strconv.AppendBool(b, v), true
		case int64:
			return strconv.AppendBool(b, v != 0), true
		}
	case tidemark.Timestamp:
		if us, ok := instantOf(v); ok {
			b = tidemark.AppendInstant(append(b, '"'), us)
			return append(b, '"'), true
		}
	case tidemark.Bytes:
		switch v := v.(type) {
		case []byte:
			return appendBase64(b, v), true
		case string:
			return appendBase64(b, []byte(v)), true
		}
	case tidemark.JSON:
		return appendJSON(b, v)
	default: // Numeric, UUID, Date, TimeOfDay
		return appendCanonical(b, k, v)
	}
	return b, false
}

func appendBase64(b, v []byte) []byte {
	b = base64.StdEncoding.AppendEncode(append(b, '"'), v)
	return append(b, '"')
}

func appendFloat(b []byte, v any) ([]byte, bool) {
	f, ok := v.(float64)
	if n, isInt := v.(int64); isInt { // SQLite stores 1.0 in a NUMERIC column as 1
		f, ok = float64(n), true
	}
	if !ok || math.IsNaN(f) || math.IsInf(f, 0) {
		return b, false
	}
	return tidemark.AppendDouble(b, f+0), true // -0 + 0 is 0
}

// appendJSON also takes numbers: SQLite makes one of the text 1 in a column declared JSON.
func appendJSON(b []byte, v any) ([]byte, bool) {
	switch v := v.(type) {
	case int64:
		return strconv.AppendInt(b, v, 10), true
	case float64:
		return appendFloat(b, v)
	case string, []byte:
		t := text(v)
		return append(b, t...), json.Valid([]byte(t))
	}
	return b, false
}

func appendCanonical(b []byte, k tidemark.Kind, v any) ([]byte, bool) {
	var s string
	switch v := v.(type) {
	case time.Time: // a date
		s = v.Format(time.DateOnly)
	case int64: // a decimal in a NUMERIC column of SQLite
		s = strconv.FormatInt(v, 10)
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		s = text(v)
	}
	if k == tidemark.Date && len(s) > len(time.DateOnly) {
		s = s[:len(time.DateOnly)] // bun writes a time.Time in full to SQLite
	}
	raw, err := k.Canonical(tidemark.AppendString(nil, s))
	return append(b, raw...), err == nil
}
