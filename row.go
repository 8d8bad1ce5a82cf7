package tidemark

import (
	"bytes"
	"encoding/json"
)

// Row is one row as JSON text: an object with the member uid and one member a
// column, as the database produced it. nil means that there is no row. A Row is
// not modified once made; the methods that change one return a new one.
type Row []byte

// MarshalJSON gives the text itself, null for nil.
func (r Row) MarshalJSON() ([]byte, error) {
	if len(r) == 0 {
		return []byte("null"), nil
	}
	return r, nil
}

// UnmarshalJSON keeps a copy of b, nil for null. Anything but an object is an error.
func (r *Row) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if string(b) == "null" {
		*r = nil
		return nil
	}
	if len(b) == 0 || b[0] != '{' {
		return NewError(CodeInvalidData, "a row is an object")
	}
	*r = append(Row(nil), b...)
	return nil
}

// Get returns the text of the member field, nil when there is none.
func (r Row) Get(field string) json.RawMessage {
	var found json.RawMessage
	_ = EachField(r, func(key, value []byte) error {
		if string(key) == field {
			found = value
			return ErrNotFound // stops the walk
		}
		return nil
	})
	return found
}

// UID returns the member uid, "" when there is none or it is no string.
func (r Row) UID() string {
	s, err := DecodeString(r.Get("uid"))
	if err != nil {
		return ""
	}
	return s
}

// With returns r with the member field set to value, in its place or at the end.
func (r Row) With(field string, value json.RawMessage) Row {
	patch := AppendString([]byte{'{'}, field)
	patch = append(patch, ':')
	patch = append(patch, value...)
	return r.Merge(append(patch, '}'))
}

// Without returns r without the member field.
func (r Row) Without(field string) Row {
	out := Row{'{'}
	_ = EachMember(r, func(key string, value []byte) error {
		if key != field {
			out = out.appendMember(key, value)
		}
		return nil
	})
	return append(out, '}')
}

// Merge returns r with the members of patch: those that r has keep their place
// and take the patch's value, the others follow in the patch's order. A nil r
// counts as {}. A malformed patch leaves r as it is.
func (r Row) Merge(patch Row) Row {
	type member struct {
		key, value []byte
		used       bool
	}
	var few [16]member
	changes := few[:0]
	if err := EachField(patch, func(key, value []byte) error {
		changes = append(changes, member{key: key, value: value})
		return nil
	}); err != nil {
		return r
	}
	out := make(Row, 0, len(r)+len(patch)+1)
	out = append(out, '{')
	if len(r) > 0 {
		_ = EachField(r, func(key, value []byte) error {
			for i := range changes {
				if bytes.Equal(changes[i].key, key) {
					value, changes[i].used = changes[i].value, true
				}
			}
			out = out.appendMember(alias(key), value)
			return nil
		})
	}
	for _, c := range changes {
		if !c.used {
			out = out.appendMember(alias(c.key), c.value)
		}
	}
	return append(out, '}')
}

func (r Row) appendMember(key string, value []byte) Row {
	if len(r) > 1 {
		r = append(r, ',')
	}
	r = AppendString(r, key)
	r = append(r, ':')
	return append(r, value...)
}
