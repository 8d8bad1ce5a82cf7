package sqlite

import (
	"database/sql/driver"
	"errors"
	"unsafe"

	"github.com/tidemark-sync/tidemark"
)

// result is the row of a result that a scan looks at, as the driver gave it. It is
// valid during that scan, and what its methods return for longer.
type result struct {
	values []driver.Value
	err    error // a value is not of the type that the store wrote
}

// errValue says that a value is not what a store writes.
var errValue = errors.New(damagedTexts[0])

// number returns a whole number that is not NULL.
func (r *result) number(i int) int64 {
	n, there := r.maybe(i)
	if !there {
		r.err = errValue
	}
	return n
}

// maybe returns a whole number, false for NULL.
func (r *result) maybe(i int) (n int64, there bool) {
	switch v := r.values[i].(type) {
	case nil:
	case int64:
		return v, true
	default:
		r.err = errValue
	}
	return 0, false
}

// op returns what a mutation does.
func (r *result) op(i int) tidemark.Op {
	n := r.number(i)
	if n != int64(tidemark.Op(n)) {
		r.err = errValue
	}
	return tidemark.Op(n)
}

// text returns a text that is not NULL.
func (r *result) text(i int) string {
	switch v := r.values[i].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	r.err = errValue
	return ""
}

// bytes returns a text or bytes, nil for NULL.
func (r *result) bytes(i int) []byte {
	switch v := r.values[i].(type) {
	case nil:
	case string: // a driver makes one for each value, so nobody else has this one
		if v == "" {
			return []byte{}
		}
		return unsafe.Slice(unsafe.StringData(v), len(v))
	case []byte: // which the driver may use again
		return append([]byte{}, v...)
	default:
		r.err = errValue
	}
	return nil
}

// row returns a row, nil for NULL.
func (r *result) row(i int) tidemark.Row { return r.bytes(i) }

// peek is bytes for as long as the scan only.
func (r *result) peek(i int) []byte {
	if b, ok := r.values[i].([]byte); ok {
		return b
	}
	return r.bytes(i)
}

// meta returns the metadata of the uid whose first column is i; where there is none,
// nothing but the uid when named.
func (r *result) meta(i int, uid string, named bool) tidemark.Meta {
	created, there := r.maybe(i)
	if !there && !named {
		return tidemark.Meta{}
	}
	updated, _ := r.maybe(i + 1)
	deleted, _ := r.maybe(i + 2)
	return tidemark.Meta{UID: uid, CreatedAt: tidemark.Stamp(created), UpdatedAt: tidemark.Stamp(updated), DeletedAt: tidemark.Stamp(deleted)}
}
