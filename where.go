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
//	Where{"state": In{"open", nil}}              one of several values
//	Where{"$or": []Where{{"a": 1}, {"b": 2}}}    at least one of several clauses, and all other members besides
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

// In is a value of a [Where] that lists what a field may equal: at most [MaxValues] values, of
// which nil stands for null and a missing member. No row satisfies an empty list.
type In []any

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
	case In:
		b, err := appendLiterals(append(b, `{"in":`...), v)
		return append(b, '}'), err
	case []Where:
		return appendLiterals(b, v)
	case []any:
		return appendLiterals(b, v)
	case Where:
		raw, err := v.MarshalJSON()
		return append(b, raw...), err
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

func appendLiterals[T any](b []byte, list []T) ([]byte, error) {
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendLiteral(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
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

// MaxTerms is how many members a where may have, those of its alternatives
// included, and how many alternatives; MaxValues how many values a list may have.
const (
	MaxTerms  = 32
	MaxValues = 1000
)

// or is the member of a where that has its alternatives. No field can have that name.
const or = "$or"

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
	r := whereReader{schema: s}
	var alternatives []byte
	terms, err := r.terms(raw, func(value []byte) error {
		if alternatives != nil {
			return NewError(CodeInvalidWhere, "%s stands twice", or).OnField(or)
		}
		alternatives = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	p := &Predicate{schema: s, terms: terms}
	if alternatives != nil {
		if p.any, err = r.any(alternatives); err != nil {
			return nil, err
		}
	}
	p.number()
	p.key = p.appendKey()
	p.possible = slices.DeleteFunc(p.Conjunctions(), func(terms []Term) bool { return contradict(terms, terms) })
	return p, nil
}

// whereReader reads one clause and counts its terms.
type whereReader struct {
	schema *Schema
	n      int
}

// terms reads the members of an object, sorted by field, but for alternatives, which it gives to or.
func (r *whereReader) terms(raw []byte, alternatives func(value []byte) error) ([]Term, error) {
	var terms []Term
	err := EachMember(raw, func(key string, value []byte) error {
		if key == or {
			return alternatives(value)
		}
		f, ok := r.schema.Field(key)
		if !ok {
			return NewError(CodeUnknownField, "model %s has no field %s", r.schema.name, quoteShort([]byte(key))).OnField(key)
		}
		if r.n++; r.n > MaxTerms {
			return NewError(CodeInvalidWhere, "more than %d members", MaxTerms)
		}
		t, err := parseTerm(f, value)
		if err != nil {
			return NewError(CodeInvalidWhere, "%s: %s", key, messageOf(err)).OnField(key)
		}
		terms = append(terms, t)
		return nil
	})
	if err != nil {
		if c := CodeOf(err); c != CodeInvalidWhere && c != CodeUnknownField {
			err = NewError(CodeInvalidWhere, "a where is an object: %s", messageOf(err))
		}
		return nil, err
	}
	slices.SortFunc(terms, func(a, b Term) int { return strings.Compare(a.Field.Name, b.Field.Name) })
	for i := 1; i < len(terms); i++ {
		if name := terms[i].Field.Name; terms[i-1].Field.Name == name {
			return nil, NewError(CodeInvalidWhere, "%s stands twice", name).OnField(name)
		}
	}
	return terms, nil
}

// any reads the alternatives, sorted, each once. One that every row satisfies makes them say nothing: nil.
func (r *whereReader) any(raw []byte) ([][]Term, error) {
	var found [][]Term
	n, all := 0, false
	err := EachElement(raw, func(_ int, value []byte) error {
		if n++; n > MaxTerms {
			return NewError(CodeInvalidWhere, "more than %d alternatives", MaxTerms).OnField(or)
		}
		terms, err := r.terms(value, func([]byte) error {
			return NewError(CodeInvalidWhere, "an alternative has alternatives").OnField(or)
		})
		found, all = append(found, terms), all || len(terms) == 0
		return err
	})
	switch {
	case err != nil && CodeOf(err) != CodeInvalidWhere && CodeOf(err) != CodeUnknownField:
		return nil, NewError(CodeInvalidWhere, "alternatives are a list: %s", messageOf(err)).OnField(or)
	case err != nil:
		return nil, err
	case n == 0:
		return nil, NewError(CodeInvalidWhere, "there is no alternative").OnField(or)
	case all:
		return nil, nil
	}
	text := func(terms []Term) string { return string(appendTerms(nil, terms)) }
	slices.SortFunc(found, func(a, b []Term) int { return strings.Compare(text(a), text(b)) })
	return slices.CompactFunc(found, func(a, b []Term) bool { return text(a) == text(b) }), nil
}

func parseTerm(f Field, raw []byte) (Term, error) {
	t := Term{Field: f}
	if len(raw) > 0 && raw[0] == '{' {
		return t, t.parseObject(raw)
	}
	v, err := literal(f, raw)
	if err != nil {
		return t, err
	}
	t.equal([]Value{v})
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

// equal makes the term ask for one of the values.
func (t *Term) equal(values []Value) {
	slices.SortFunc(values, nullFirst)
	values = slices.CompactFunc(values, func(a, b Value) bool { return nullFirst(a, b) == 0 })
	switch {
	case len(values) == 0:
		t.Op = Never
	case len(values) > 1:
		t.Op, t.Values = OneOf, values
	case values[0].IsNull():
		t.Op = IsNull
	default:
		t.Op, t.Value = Equal, values[0]
	}
}

// parseObject reads {"in": [1, 2]} or bounds.
func (t *Term) parseObject(raw []byte) error {
	var list []byte
	n := 0
	if err := EachMember(raw, func(op string, value []byte) error {
		if n++; op == "in" {
			list = value
		}
		return nil
	}); err != nil {
		return err
	}
	switch {
	case n == 0:
		return NewError(CodeInvalidWhere, "an empty object is not a value")
	case list == nil:
		return t.parseBounds(raw)
	case n > 1:
		return NewError(CodeInvalidWhere, "in stands alone")
	}
	return t.parseList(list)
}

func (t *Term) parseList(raw []byte) error {
	var values []Value
	err := EachElement(raw, func(_ int, value []byte) error {
		v, err := literal(t.Field, value)
		if len(values) == MaxValues {
			err = NewError(CodeInvalidWhere, "more than %d values", MaxValues)
		}
		values = append(values, v)
		return err
	})
	if err != nil {
		return err
	}
	t.equal(values)
	return nil
}

// parseBounds reads {"gte": 1, "lt": 2}. Two bounds on one side leave the tighter one.
func (t *Term) parseBounds(raw []byte) error {
	t.Op = Between
	null := false
	err := EachMember(raw, func(op string, value []byte) error {
		if !slices.Contains([]string{"gt", "gte", "lt", "lte"}, op) {
			return NewError(CodeInvalidWhere, "unknown operator %s", quoteShort([]byte(op)))
		}
		if !t.Field.Kind.Ordered() {
			return NewError(CodeInvalidWhere, "a %s field has no order", t.Field.Kind)
		}
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
	if null {
		*t = Term{Field: t.Field, Op: Never}
	}
	return nil
}
