package tidemark

import "slices"

// TermOp says what a [Term] asks of its field.
type TermOp uint8

const (
	// IsNull: the field is null, or the row has no such member.
	IsNull TermOp = iota + 1
	// Equal: the field equals Value, which is not null.
	Equal
	// Between: the field is not null, and within Low and High where they are given.
	Between
	// Never: no row satisfies the term (a bound was null, or a list empty).
	Never
	// OneOf: the field equals one of Values; where null is among them, also as for IsNull.
	OneOf
)

// Term is the part of a [Predicate] about one field.
type Term struct {
	Field     Field   // the field that it is about
	Op        TermOp  // what it asks
	Value     Value   // for Equal
	Values    []Value // for OneOf: two or more, in their order, null first
	Low, High *Bound  // for Between; at least one is given

	slot int // of the field in the predicate's fields
}

// Bound is one end of a range. Its value is not null.
type Bound struct {
	Value     Value // of the field's kind
	Inclusive bool  // whether the value itself is within
}

// Predicate is a where clause checked against a model. A row is selected when all of
// Terms hold and, where Any has alternatives, all terms of at least one of them. Terms are typed and
// sorted by field, at most one a field in each list. Drivers and stores
// turn them into SQL; what it must mean is what Match does. A Predicate is
// immutable and safe for concurrent use.
type Predicate struct {
	schema *Schema
	terms  []Term
	any    [][]Term
	fields []Field // that the terms name: those of terms, then the others
	key    string

	possible [][]Term // the conjunctions but for those that can be told to select nothing
}

// Schema returns the model's schema.
func (p *Predicate) Schema() *Schema { return p.schema }

// Terms returns the terms, which the caller must not change.
func (p *Predicate) Terms() []Term { return p.terms }

// Any returns the alternatives, each with at least one term, nil when there are none.
// The caller must not change them.
func (p *Predicate) Any() [][]Term { return p.any }

// Conjunctions returns what p says as a list: it selects the rows for which all terms of
// at least one element hold. A field may stand twice in an element. The terms must not be changed.
func (p *Predicate) Conjunctions() [][]Term {
	if len(p.any) == 0 {
		return [][]Term{p.terms}
	}
	all := make([][]Term, len(p.any))
	for i, alternative := range p.any {
		all[i] = slices.Concat(p.terms, alternative)
	}
	return all
}

// number gives each field that is named a slot, so that Match reads each once.
func (p *Predicate) number() {
	for _, terms := range append([][]Term{p.terms}, p.any...) {
		for i := range terms {
			name := terms[i].Field.Name
			terms[i].slot = slices.IndexFunc(p.fields, func(f Field) bool { return f.Name == name })
			if terms[i].slot < 0 {
				terms[i].slot = len(p.fields)
				p.fields = append(p.fields, terms[i].Field)
			}
		}
	}
}

// Key returns the canonical JSON text of the clause, with sorted members, values and
// alternatives. Clauses with one key select the same rows; it is what a
// client sends.
func (p *Predicate) Key() string { return p.key }

// MarshalJSON gives Key.
func (p *Predicate) MarshalJSON() ([]byte, error) { return []byte(p.key), nil }

// String gives the model's name and Key.
func (p *Predicate) String() string { return p.schema.name + p.key }

func (p *Predicate) appendKey() string {
	b := appendTerms(nil, p.terms)
	if len(p.any) == 0 {
		return string(b)
	}
	if b = b[:len(b)-1]; len(p.terms) > 0 {
		b = append(b, ',')
	}
	b = append(AppendString(b, or), ":["...)
	for i, alternative := range p.any {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTerms(b, alternative)
	}
	return string(append(b, "]}"...))
}

func appendTerms(b []byte, terms []Term) []byte {
	b = append(b, '{')
	for i := range terms {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(AppendString(b, terms[i].Field.Name), ':')
		b = terms[i].appendJSON(b)
	}
	return append(b, '}')
}

func (t *Term) appendJSON(b []byte) []byte {
	switch t.Op {
	case IsNull:
		return append(b, "null"...)
	case Equal:
		return t.Value.AppendJSON(b)
	case Between:
		b = append(b, '{')
		if t.Low != nil {
			b = t.Low.appendJSON(b, `"gt"`, `"gte"`)
		}
		if t.High != nil {
			if t.Low != nil {
				b = append(b, ',')
			}
			b = t.High.appendJSON(b, `"lt"`, `"lte"`)
		}
		return append(b, '}')
	case Never:
		if t.Field.Kind.Ordered() {
			return append(b, `{"gt":null}`...)
		}
	}
	b = append(b, `{"in":[`...)
	for i, v := range t.Values {
		if i > 0 {
			b = append(b, ',')
		}
		b = v.AppendJSON(b)
	}
	return append(b, "]}"...)
}

func (d *Bound) appendJSON(b []byte, exclusive, inclusive string) []byte {
	if d.Inclusive {
		b = append(b, inclusive...)
	} else {
		b = append(b, exclusive...)
	}
	b = append(b, ':')
	return d.Value.AppendJSON(b)
}

// Match reports whether the row is selected: equality and bounds by the order of
// the field's kind (text by bytes, timestamps by instant), null and a missing
// member the same. nil is selected by nothing. A value in the row that is not of
// its field's kind counts as null.
func (p *Predicate) Match(r Row) bool {
	return len(r) > 0 && (len(p.fields) == 0 || p.match(r))
}

func (p *Predicate) match(r Row) bool {
	var values [MaxTerms]Value
	ok := true
	err := EachField(r, func(key, raw []byte) error {
		for i := range p.fields {
			if p.fields[i].Name != string(key) {
				continue
			}
			values[i], _ = p.fields[i].Kind.Peek(raw)
			if i < len(p.terms) && !p.terms[i].Match(values[i]) {
				ok = false
				return ErrNotFound // stops the walk
			}
		}
		return nil
	})
	if !ok || err != nil {
		return false
	}
	for i := range p.terms {
		if values[i].IsNull() && !p.terms[i].Match(Value{}) { // or it was seen to match
			return false
		}
	}
	for _, alternative := range p.any {
		if holds(alternative, &values) {
			return true
		}
	}
	return len(p.any) == 0
}

func holds(terms []Term, values *[MaxTerms]Value) bool {
	for i := range terms {
		if !terms[i].Match(values[terms[i].slot]) {
			return false
		}
	}
	return true
}

// Match reports whether v, of the field's kind or null, satisfies the term.
func (t *Term) Match(v Value) bool {
	switch t.Op {
	case IsNull:
		return v.IsNull()
	case Equal:
		return !v.IsNull() && v.Compare(t.Value) == 0
	case Between:
		return !v.IsNull() && t.Low.below(v) && t.High.above(v)
	case OneOf:
		_, found := slices.BinarySearchFunc(t.Values, v, nullFirst)
		return found
	}
	return false
}

// nullFirst orders values of one kind and nulls.
func nullFirst(a, b Value) int {
	switch {
	case a.IsNull() && b.IsNull():
		return 0
	case a.IsNull():
		return -1
	case b.IsNull():
		return 1
	}
	return a.Compare(b)
}

// below reports whether the low bound b admits v; a nil bound admits all.
func (b *Bound) below(v Value) bool {
	if b == nil {
		return true
	}
	c := b.Value.Compare(v)
	return c < 0 || c == 0 && b.Inclusive
}

// above reports whether the high bound b admits v; a nil bound admits all.
func (b *Bound) above(v Value) bool {
	if b == nil {
		return true
	}
	c := b.Value.Compare(v)
	return c > 0 || c == 0 && b.Inclusive
}

func tighterLow(a, b *Bound) bool {
	c := a.Value.Compare(b.Value)
	return c > 0 || c == 0 && !a.Inclusive
}

func tighterHigh(a, b *Bound) bool {
	c := a.Value.Compare(b.Value)
	return c < 0 || c == 0 && !a.Inclusive
}

// empty reports whether no value can satisfy the term, as far as its bounds tell.
func (t *Term) empty() bool {
	if t.Op == Never {
		return true
	}
	if t.Op != Between || t.Low == nil || t.High == nil {
		return false
	}
	c := t.Low.Value.Compare(t.High.Value)
	return c > 0 || c == 0 && !(t.Low.Inclusive && t.High.Inclusive)
}

// Empty reports whether p can be told to select nothing, whatever the rows.
func (p *Predicate) Empty() bool { return len(p.possible) == 0 }

// Overlaps reports whether a row may exist that both select. It is false only if
// some field's terms exclude each other, so it may be true in vain, never false
// in vain. Predicates of different models do not overlap.
func (p *Predicate) Overlaps(q *Predicate) bool {
	if p.schema.name != q.schema.name || p.Empty() || q.Empty() {
		return false
	}
	return tooMany(p.possible, q.possible) || slices.ContainsFunc(p.possible, func(a []Term) bool {
		return slices.ContainsFunc(q.possible, func(b []Term) bool { return !contradict(a, b) })
	})
}

// maxCompared bounds how many values are looked up to compare two predicates: some
// milliseconds' worth. Of the longest clauses there could be a million.
const maxCompared = 20_000

// tooMany reports whether two predicates are too long to be compared.
func tooMany(a, b [][]Term) bool {
	n := 0
	for _, terms := range a {
		for i := range terms {
			n += 1 + len(terms[i].Values)
		}
	}
	return n*len(b) > maxCompared
}

// contradict reports whether a term of the one list and a term of the other exclude each other; with a
// list itself, whether it can be told that no row satisfies it.
func contradict(a, b []Term) bool {
	for i := range a {
		for j := range b {
			switch {
			case &a[i] == &b[j]:
				if a[i].empty() {
					return true
				}
			case a[i].Field.Name == b[j].Field.Name && disjoint(&a[i], &b[j]):
				return true
			}
		}
	}
	return false
}

// Covers reports whether p selects every row that q selects. It may be false in
// vain, never true in vain.
func (p *Predicate) Covers(q *Predicate) bool {
	if p.schema.name != q.schema.name {
		return false
	}
	if p.key == q.key {
		return true
	}
	mine := p.Conjunctions()
	return !tooMany(q.possible, mine) && !slices.ContainsFunc(q.possible, func(given []Term) bool {
		return !slices.ContainsFunc(mine, func(terms []Term) bool { return follow(terms, given) })
	})
}

// follow reports whether each of the terms is implied by one of those given.
func follow(terms, given []Term) bool {
	for i := range terms {
		t := &terms[i]
		if !slices.ContainsFunc(given, func(g Term) bool { return g.Field.Name == t.Field.Name && implies(&g, t) }) {
			return false
		}
	}
	return true
}

// listed returns the values that satisfy t, where they can be listed: for all but a range.
func (t *Term) listed() (values []Value, ok bool) {
	switch t.Op {
	case Between:
		if t.Low != nil && t.High != nil && t.Low.Inclusive && sameBound(t.Low, t.High) {
			return []Value{t.Low.Value}, true
		}
		return nil, false
	case IsNull:
		return []Value{{}}, true
	case Equal:
		return []Value{t.Value}, true
	}
	return t.Values, true
}

// disjoint reports whether no value satisfies both terms.
func disjoint(a, b *Term) bool {
	if values, ok := a.listed(); ok {
		return !slices.ContainsFunc(values, b.Match)
	}
	if values, ok := b.listed(); ok {
		return !slices.ContainsFunc(values, a.Match)
	}
	both := Term{Op: Between, Low: a.Low, High: a.High}
	if b.Low != nil && (both.Low == nil || tighterLow(b.Low, both.Low)) {
		both.Low = b.Low
	}
	if b.High != nil && (both.High == nil || tighterHigh(b.High, both.High)) {
		both.High = b.High
	}
	return both.empty()
}

// implies reports whether every value that satisfies a satisfies b.
func implies(a, b *Term) bool {
	if values, ok := a.listed(); ok {
		return !slices.ContainsFunc(values, func(v Value) bool { return !b.Match(v) })
	}
	switch {
	case b.Op != Between:
		return false
	case b.Low != nil && (a.Low == nil || tighterLow(b.Low, a.Low) && !sameBound(a.Low, b.Low)):
		return false
	}
	return b.High == nil || a.High != nil && (!tighterHigh(b.High, a.High) || sameBound(a.High, b.High))
}

func sameBound(a, b *Bound) bool {
	return a.Inclusive == b.Inclusive && a.Value.Compare(b.Value) == 0
}
