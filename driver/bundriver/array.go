package bundriver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-sync/tidemark"
)

// array is an array of texts, bound for text[]. Over pgx it travels in PostgreSQL's binary form, which
// takes the server a fraction of the time that a literal does; elsewhere as a literal.
type array struct {
	b     []byte // the binary form: room for a header, then length and bytes of each element
	n     int
	nulls bool
}

const (
	arrayHeader = 20
	nullElement = 0xffffffff // in place of a length
)

// newArray makes room for n elements, which take so many bytes.
func newArray(n, size int) *array {
	return &array{b: make([]byte, arrayHeader, arrayHeader+4*n+size)}
}

// bindAll makes an array of texts.
func bindAll(texts []string) *array {
	a := newArray(len(texts), 40*len(texts))
	for _, t := range texts {
		a.add(t)
	}
	return a
}

func (a *array) add(text string) {
	a.n++
	a.b = append(binary.BigEndian.AppendUint32(a.b, uint32(len(text))), text...)
}

// addValue adds the text of a column's value.
func (a *array) addValue(c *column, raw json.RawMessage) {
	if n := len(raw); n > 1 && c.kind == tidemark.Text && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		a.n++
		a.b = append(binary.BigEndian.AppendUint32(a.b, uint32(n-2)), raw[1:n-1]...)
		return
	}
	if text, ok := textOf(c, raw); ok {
		a.add(text)
		return
	}
	a.n, a.nulls = a.n+1, true
	a.b = binary.BigEndian.AppendUint32(a.b, nullElement)
}

// binary is the array as PostgreSQL receives it.
func (a *array) binary() []byte {
	dimensions, flags := uint32(1), uint32(0)
	if a.n == 0 {
		dimensions = 0
	}
	if a.nulls {
		flags = 1
	}
	for i, v := range [...]uint32{dimensions, flags, pgtype.TextOID, uint32(a.n), 1} {
		binary.BigEndian.PutUint32(a.b[4*i:], v)
	}
	if a.n == 0 {
		return a.b[:12] // without a dimension
	}
	return a.b
}

// literal is the array in SQL.
func (a *array) literal() string {
	b := make([]byte, 0, len(a.b))
	for rest := a.b[arrayHeader:]; len(rest) > 0; {
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		if n == nullElement {
			b = append(separated(b), "NULL"...)
			continue
		}
		b = appendElement(b, string(rest[:n]))
		rest = rest[n:]
	}
	return closed(b)
}

// arrayOf is the literal of an array of texts.
func arrayOf(texts []string) string {
	b := make([]byte, 0, 40*len(texts)+2)
	for _, t := range texts {
		b = appendElement(b, t)
	}
	return closed(b)
}

func closed(b []byte) string {
	if len(b) == 0 {
		return "{}"
	}
	return string(append(b, '}'))
}

// appendElement appends an element to the literal of an array, which b is but for its end.
func appendElement(b []byte, text string) []byte {
	b = append(separated(b), '"')
	for start := 0; ; {
		i := strings.IndexAny(text[start:], `"\\`)
		if i < 0 {
			return append(append(b, text[start:]...), '"')
		}
		b = append(b, text[start:start+i]...)
		b = append(b, '\\', text[start+i])
		start += i + 1
	}
}

func separated(b []byte) []byte {
	if len(b) == 0 {
		return append(b, '{')
	}
	return append(b, ',')
}
