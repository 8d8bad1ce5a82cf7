package tidemark

// TermOp says what a [Term] asks of its field.
type TermOp uint8

const (
	// IsNull: the field is null, or the row has no such member.
	IsNull TermOp = iota + 1
	// Equal: the field equals Value, which is not null.
	Equal
	// Between: the field is not null, and within Low and High where they are given.
	Between
	// Never: no row satisfies the term (a bound was null).
	Never
)

// Term is the part of a [Predicate] about one field.
type Term struct {
	Field     Field  // the field that it is about
	Op        TermOp // what it asks
	Value     Value  // for Equal
	Low, High *Bound // for Between; at least one is given
}

// Bound is one end of a range. Its value is not null.
type Bound struct {
	Value     Value // of the field's kind
	Inclusive bool  // whether the value itself is within
}

// Predicate is a where clause checked against a model: its terms are typed,
// sorted by field, at most one a field, and all must hold. Drivers and stores
// turn Terms into SQL; what it must mean is what Match does. A Predicate is
// immutable and safe for concurrent use.
type Predicate struct {
	schema *Schema
	terms  []Term
	key    string
}

// Schema returns the model's schema.
func (p *Predicate) Schema() *Schema { return p.schema }

// Terms returns the terms, which the caller must not change.
func (p *Predicate) Terms() []Term { return p.terms }

// Key returns the canonical JSON text of the clause, with sorted members and
// canonical values. Clauses with one key select the same rows; it is what a
// client sends.
func (p *Predicate) Key() string { return p.key }

// MarshalJSON gives Key.
func (p *Predicate) MarshalJSON() ([]byte, error) { return []byte(p.key), nil }

// String gives the model's name and Key.
func (p *Predicate) String() string { return p.schema.name + p.key }

func (p *Predicate) appendKey() string {
	b := []byte{'{'}
	for i, t := range p.terms {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendString(b, t.Field.Name)
		b = append(b, ':')
		switch t.Op {
		case IsNull:
			b = append(b, "null"...)
		case Equal:
			b = t.Value.AppendJSON(b)
		case Never:
			b = append(b, `{"gt":null}`...)
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
			b = append(b, '}')
		}
	}
	return string(append(b, '}'))
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
	if len(r) == 0 {
		return false
	}
	if len(p.terms) == 0 {
		return true
	}
	var seen [MaxTerms]bool
	ok := true
	err := EachField(r, func(key, raw []byte) error {
		for i := range p.terms {
			if p.terms[i].Field.Name != string(key) {
				continue
			}
			seen[i] = true
			v, err := p.terms[i].Field.Kind.Peek(raw)
			if err != nil {
				v = Value{}
			}
			if !p.terms[i].Match(v) {
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
		if !seen[i] && !p.terms[i].Match(Value{}) {
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
	}
	return false
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
func (p *Predicate) Empty() bool {
	for i := range p.terms {
		if p.terms[i].empty() {
			return true
		}
	}
	return false
}

// Overlaps reports whether a row may exist that both select. It is false only if
// some field's terms exclude each other, so it may be true in vain, never false
// in vain. Predicates of different models do not overlap.
func (p *Predicate) Overlaps(q *Predicate) bool {
	if p.schema.name != q.schema.name || p.Empty() || q.Empty() {
		return false
	}
	for i := range p.terms {
		if t := q.term(p.terms[i].Field.Name); t != nil && disjoint(&p.terms[i], t) {
			return false
		}
	}
	return true
}

// Covers reports whether p selects every row that q selects. It may be false in
// vain, never true in vain.
func (p *Predicate) Covers(q *Predicate) bool {
	if p.schema.name != q.schema.name {
		return false
	}
	if q.Empty() {
		return true
	}
	for i := range p.terms {
		t := q.term(p.terms[i].Field.Name)
		if t == nil || !implies(t, &p.terms[i]) {
			return false
		}
	}
	return true
}

func (p *Predicate) term(field string) *Term {
	for i := range p.terms {
		if p.terms[i].Field.Name == field {
			return &p.terms[i]
		}
	}
	return nil
}

// disjoint reports whether no value satisfies both terms.
func disjoint(a, b *Term) bool {
	switch {
	case a.Op == IsNull || b.Op == IsNull:
		return a.Op != b.Op
	case a.Op == Equal:
		return !b.Match(a.Value)
	case b.Op == Equal:
		return !a.Match(b.Value)
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
	switch {
	case a.Op == Never:
		return true
	case a.Op == IsNull:
		return b.Op == IsNull
	case a.Op == Equal:
		return b.Match(a.Value)
	case b.Op != Between:
		return b.Op == Equal && a.Low != nil && a.High != nil && a.Low.Inclusive && a.High.Inclusive &&
			a.Low.Value.Compare(b.Value) == 0 && a.High.Value.Compare(b.Value) == 0
	}
	if b.Low != nil && (a.Low == nil || tighterLow(b.Low, a.Low) && !sameBound(a.Low, b.Low)) {
		return false
	}
	if b.High != nil && (a.High == nil || tighterHigh(b.High, a.High) && !sameBound(a.High, b.High)) {
		return false
	}
	return true
}

func sameBound(a, b *Bound) bool {
	return a.Inclusive == b.Inclusive && a.Value.Compare(b.Value) == 0
}
