package tidemark

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Where is the guide's clause: which rows of a model are meant. Every member must
// hold.
//
//	Where{}                                      all rows
//	Where{"title": "Hello"}                      equality
//	Where{"title": nil}                          null, or no such member in the row
//	Where{"score": Range{GTE: 1, LT: 10}}        bounds, any combination
//	Where{"score": map[string]any{"gte": 1}}     the same, as decoded from JSON
//
// Values are strings, bools, Go's numbers, time.Time, Stamp, []byte, pointers to these (nil
// is null), or json.RawMessage. A literal must have the type of its field: a
// string on an integer field is [CodeInvalidWhere], not "no match".
type Where map[string]any

// Range is a bounded value of a [Where]. Bounds that are nil are absent; at least
// one must be given, and all given must hold. No null satisfies a Range.
type Range struct {
	GT, GTE, LT, LTE any // greater than, greater than or equal, less than, less than or equal
}

// MarshalJSON gives the clause as clients send it, members sorted by name.
func (w Where) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, k := range slices.Sorted(maps.Keys(w)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, k)
		b = append(b, ':')
		var err error
		if b, err = appendLiteral(b, w[k]); err != nil {
			return nil, NewError(CodeInvalidWhere, "%s: %s", k, messageOf(err)).OnField(k)
		}
	}
	return append(b, '}'), nil
}

func appendLiteral(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case Range:
		return v.appendJSON(b)
	case *Range:
		return v.appendJSON(b)
	case time.Time:
		us, err := InstantOf(v)
		if err != nil {
			return nil, NewError(CodeInvalidWhere, "%s", messageOf(err))
		}
		b = append(b, '"')
		b = AppendInstant(b, us)
		return append(b, '"'), nil
	case string:
		if !validText(v) {
			return nil, NewError(CodeInvalidWhere, "text contains the character NUL or is not valid UTF-8")
		}
		return AppendString(b, v), nil
	case map[string]any:
		raw, err := Where(v).MarshalJSON()
		return append(b, raw...), err
	}
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Pointer:
		if rv.IsNil() {
			return append(b, "null"...), nil
		}
		return appendLiteral(b, rv.Elem().Interface())
	case reflect.Float32, reflect.Float64:
		if f := rv.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, NewError(CodeInvalidWhere, "%v is not a value", f)
		}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, NewError(CodeInvalidWhere, "%T is not a value", v)
	}
	return append(b, raw...), nil
}

func (r Range) appendJSON(b []byte) ([]byte, error) {
	b = append(b, '{')
	n := 0
	for _, bound := range []struct {
		name string
		v    any
	}{{"gt", r.GT}, {"gte", r.GTE}, {"lt", r.LT}, {"lte", r.LTE}} {
		if bound.v == nil {
			continue
		}
		if n > 0 {
			b = append(b, ',')
		}
		n++
		b = append(b, '"')
		b = append(b, bound.name...)
		b = append(b, '"', ':')
		var err error
		if b, err = appendLiteral(b, bound.v); err != nil {
			return nil, err
		}
	}
	if n == 0 {
		return nil, NewError(CodeInvalidWhere, "a range without bounds")
	}
	return append(b, '}'), nil
}

// MaxTerms is how many members a where may have.
const MaxTerms = 32

// Compile checks w against the model's schema. Errors: [CodeUnknownField],
// [CodeInvalidWhere], both with the field.
func (w Where) Compile(s *Schema) (*Predicate, error) {
	raw, err := w.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return ParseWhere(s, raw)
}

// ParseWhere reads a where clause from JSON text, as [Where.Compile] does from Go values.
func ParseWhere(s *Schema, raw []byte) (*Predicate, error) {
	p := &Predicate{schema: s}
	err := EachMember(raw, func(key string, value []byte) error {
		f, ok := s.Field(key)
		if !ok {
			return NewError(CodeUnknownField, "model %s has no field %s", s.name, quoteShort([]byte(key))).OnField(key)
		}
		if len(p.terms) == MaxTerms {
			return NewError(CodeInvalidWhere, "more than %d members", MaxTerms)
		}
		t, err := parseTerm(f, value)
		if err != nil {
			return NewError(CodeInvalidWhere, "%s: %s", key, messageOf(err)).OnField(key)
		}
		p.terms = append(p.terms, t)
		return nil
	})
	if err != nil {
		if c := CodeOf(err); c != CodeInvalidWhere && c != CodeUnknownField {
			err = NewError(CodeInvalidWhere, "a where is an object: %s", messageOf(err))
		}
		return nil, err
	}
	slices.SortFunc(p.terms, func(a, b Term) int { return strings.Compare(a.Field.Name, b.Field.Name) })
	for i := 1; i < len(p.terms); i++ {
		if name := p.terms[i].Field.Name; p.terms[i-1].Field.Name == name {
			return nil, NewError(CodeInvalidWhere, "%s stands twice", name).OnField(name)
		}
	}
	p.key = p.appendKey()
	return p, nil
}

func parseTerm(f Field, raw []byte) (Term, error) {
	t := Term{Field: f}
	if len(raw) > 0 && raw[0] == '{' {
		return t, t.parseBounds(raw)
	}
	v, err := literal(f, raw)
	switch {
	case err != nil:
		return t, err
	case v.IsNull():
		t.Op = IsNull
	default:
		t.Op, t.Value = Equal, v
	}
	return t, nil
}

func literal(f Field, raw []byte) (Value, error) {
	if string(raw) == "null" {
		return Value{}, nil
	}
	if !f.Kind.Comparable() {
		return Value{}, NewError(CodeInvalidWhere, "a %s field can only be compared with null", f.Kind)
	}
	v, err := ValueOf(f.Kind, raw)
	if err != nil {
		return Value{}, fmt.Errorf("%s", messageOf(err))
	}
	return v, nil
}

// parseBounds reads {"gte": 1, "lt": 2}. Two bounds on one side leave the tighter one.
func (t *Term) parseBounds(raw []byte) error {
	t.Op = Between
	n, null := 0, false
	err := EachMember(raw, func(op string, value []byte) error {
		if !slices.Contains([]string{"gt", "gte", "lt", "lte"}, op) {
			return NewError(CodeInvalidWhere, "unknown operator %s", quoteShort([]byte(op)))
		}
		if !t.Field.Kind.Ordered() {
			return NewError(CodeInvalidWhere, "a %s field has no order", t.Field.Kind)
		}
		n++
		v, err := literal(t.Field, value)
		if err != nil {
			return err
		}
		if v.IsNull() {
			null = true
			return nil
		}
		b := &Bound{Value: v, Inclusive: len(op) == 3}
		if op[0] == 'g' {
			if t.Low == nil || tighterLow(b, t.Low) {
				t.Low = b
			}
		} else if t.High == nil || tighterHigh(b, t.High) {
			t.High = b
		}
		return nil
	})
	if err != nil {
		return err
	}
	if n == 0 {
		return NewError(CodeInvalidWhere, "an empty object is not a value")
	}
	if null {
		*t = Term{Field: t.Field, Op: Never}
	}
	return nil
}
