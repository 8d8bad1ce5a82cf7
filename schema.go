package tidemark

import (
	"slices"
	"strings"
)

// Kind is the type of a field, one of a closed set. Values of each kind have one
// canonical JSON form (see [Kind.Canonical]), so that a value is the same in Go,
// on the wire, in PostgreSQL and in SQLite.
type Kind uint8

const (
	Text      Kind = iota + 1 // valid UTF-8 without NUL; ordered by bytes
	Integer                   // 64 bits, signed
	Double                    // IEEE 754, 64 bits, finite; -0 is 0
	Bool                      // false before true
	Timestamp                 // microseconds, UTC, years 0000 to 9999; see AppendInstant
	Bytes                     // base64 (RFC 4648 section 4) in a string, without line breaks; no order
	JSON                      // any JSON value, equal by value; arrays too; not comparable in a where
	Numeric                   // decimal digits in a string, without superfluous zeros; no order
	UUID                      // 36 characters in lower case; no order
	Date                      // 2006-01-02
	TimeOfDay                 // 15:04:05, with decimals where there are any
	Enum                      // text; the database knows which; no order
)

var kindNames = [...]string{"", "text", "integer", "double", "bool", "timestamp", "bytes", "json", "numeric", "uuid", "date", "time", "enum"}

// String returns the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Ordered reports whether a where may ask for a range of values of this kind.
func (k Kind) Ordered() bool {
	switch k {
	case Text, Integer, Double, Bool, Timestamp, Date, TimeOfDay:
		return true
	}
	return false
}

// Comparable reports whether a where may ask for a value of this kind. Any kind
// may be asked for null.
func (k Kind) Comparable() bool { return k != JSON }

// Field is one column of a model.
type Field struct {
	// Name is the column's name, in the database and on the wire.
	Name string
	// Kind is the type of its values.
	Kind Kind
	// Required says that null is not allowed.
	Required bool
	// ReadOnly says that only the database writes the column (a generated one).
	ReadOnly bool
	// Indexed asks a client's store for an index, for clauses that name the field.
	Indexed bool
}

// Schema describes one model: its name and its fields, the first of which is
// always uid. It is immutable and safe for concurrent use.
type Schema struct {
	name   string
	fields []Field
	index  map[string]int
}

// NewSchema returns the schema of a model. The name and the fields' names must
// not be empty, contain a quote or a control character, or begin with __, nor a field be named $or; a
// field uid of kind Text is put first, or added when fields lack it.
func NewSchema(name string, fields []Field) (*Schema, error) {
	if !validName(name) {
		return nil, NewError(CodeUnknownModel, "%q cannot be the name of a model", name)
	}
	s := &Schema{name: name, index: make(map[string]int, len(fields)+1)}
	s.fields = append(s.fields, Field{Name: "uid", Kind: Text, Required: true})
	for _, f := range fields {
		if f.Name == "uid" {
			if f.Kind != Text {
				return nil, NewError(CodeInvalidData, "model %s: uid must be text", name)
			}
			continue
		}
		if !validName(f.Name) || f.Name == or {
			return nil, NewError(CodeUnknownField, "model %s: %q cannot be the name of a field", name, f.Name)
		}
		if f.Kind == 0 || int(f.Kind) >= len(kindNames) {
			return nil, NewError(CodeInvalidData, "model %s: field %s has no kind", name, f.Name)
		}
		s.fields = append(s.fields, f)
	}
	for i, f := range s.fields {
		if _, twice := s.index[f.Name]; twice {
			return nil, NewError(CodeUnknownField, "model %s: field %s stands twice", name, f.Name)
		}
		s.index[f.Name] = i
	}
	return s, nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 63 && !strings.HasPrefix(s, "__") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == '"' || r == '\'' || r == '`' || r == 0x7f || r == 0xfffd })
}

// Name returns the model's name.
func (s *Schema) Name() string { return s.name }

// Fields returns the fields, uid first. The slice is the caller's.
func (s *Schema) Fields() []Field { return slices.Clone(s.fields) }

// Field returns the field of that exact name.
func (s *Schema) Field(name string) (Field, bool) {
	i, ok := s.index[name]
	if !ok {
		return Field{}, false
	}
	return s.fields[i], true
}

// Patch checks what a client sent as a row or as changed columns, and returns it
// with canonical values in the order of the schema. The member uid must equal
// uid, and is left out; __deleted__ is refused unless it is false or null. Members that the
// schema lacks, and read-only ones, are left out and named in unknown.
//
// Errors: [CodeInvalidData], with the field, and [CodeTooLarge] for JSON beyond [MaxJSONDepth] or [MaxJSONValues].
func (s *Schema) Patch(uid string, data []byte) (patch Row, unknown []string, err error) {
	values := make([][]byte, len(s.fields))
	err = EachField(data, func(name, value []byte) error {
		switch key := alias(name); key {
		case "uid":
			if got, err := DecodeString(value); err != nil || got != uid {
				return NewError(CodeInvalidData, "uid in the data differs from the row's").OnField("uid")
			}
			return nil
		case "__deleted__":
			if v := string(value); v != "null" && v != "false" {
				return NewError(CodeInvalidData, "__deleted__ cannot be set").OnField("__deleted__")
			}
			return nil
		}
		i, ok := s.index[string(name)]
		if !ok || s.fields[i].ReadOnly {
			unknown = append(unknown, string(name))
			return nil
		}
		field := &s.fields[i]
		if values[i] != nil {
			return NewError(CodeInvalidData, "%s stands twice", field.Name).OnField(field.Name)
		}
		values[i], err = field.Kind.Canonical(value)
		if err != nil {
			return NewError(CodeInvalidData, "%s: %s", field.Name, messageOf(err)).OnField(field.Name)
		}
		return nil
	})
	if err != nil {
		if CodeOf(err) != CodeInvalidData {
			err = NewError(CodeInvalidData, "the data is not an object: %s", messageOf(err))
		}
		return nil, nil, err
	}
	patch = append(make(Row, 0, len(data)+2), '{')
	for i, v := range values {
		if v != nil {
			patch = patch.appendMember(s.fields[i].Name, v)
		}
	}
	patch = append(patch, '}')
	if err := s.checkPushable(patch, values); err != nil {
		return nil, nil, err
	}
	return patch, unknown, nil
}

// CheckUID reports whether uid can name a row: 1 to 128 bytes of valid UTF-8
// without control characters. UUIDs of version 7 are what clients make, but the
// guide's column is text and existing rows may have others.
func CheckUID(uid string) error {
	if uid == "" || len(uid) > 128 || !validText(uid) || strings.ContainsFunc(uid, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return NewError(CodeInvalidData, "%s cannot be a uid", quoteShort([]byte(uid))).OnField("uid")
	}
	return nil
}
