// Package scopeindex finds, among many predicates, those that select a row, at a cost that
// follows how many these are and not how many there are in all.
package scopeindex

import (
	"math"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// Index holds predicates of one model under numbers of the caller's. Each, or each of its
// alternatives by itself, is filed under the term that fewest share: under the values that it must
// equal, or else in the tree of a field's ranges. What the other terms ask is looked at once a row is found there.
//
// Lookup may be called concurrently with itself, not with Add and Remove.
type Index struct {
	slots []slot
	named map[string]int // the slot of each field
	all   []int64        // without terms: they select every row

	values sync.Pool // of *[]value, one a slot, for the row that is looked up
}

// value is a field's in the row that is looked up.
type value struct {
	tidemark.Value
	key int64 // see keyOf
}

// slot is what is kept of one field of the model.
type slot struct {
	field  tidemark.Field
	uses   int // how many terms name it
	equals map[tidemark.Value][]entry
	ranges tree
}

// entry is a conjunction of terms that is filed under one of them.
type entry struct {
	id   int64
	rest *rest // nil when nothing is left to ask

	// The keys of a value that one of the other terms may admit: most entries are passed over
	// where they stand, without a look at memory elsewhere.
	from, to int64
	slot     int32

	alternative int32 // which of the predicate's conjunctions it is
}

// rest is what is left to ask of a row that was found under an entry's term.
type rest struct {
	checks  conjunction   // the other terms
	earlier []conjunction // the alternatives before: one of them has found the row, or none does
}

type conjunction []check

type check struct {
	slot int
	term *tidemark.Term
}

// New returns an empty index of predicates that were compiled with s.
func New(s *tidemark.Schema) *Index {
	fields := s.Fields()
	ix := &Index{slots: make([]slot, len(fields)), named: make(map[string]int, len(fields))}
	for i, f := range fields {
		ix.slots[i] = slot{field: f, equals: map[tidemark.Value][]entry{}}
		ix.named[f.Name] = i
	}
	ix.values.New = func() any {
		values := make([]value, len(fields))
		return &values
	}
	return ix
}

// Add files p under id, which must not be in use. A predicate of another schema, with
// fields that the index does not have, selects nothing.
func (ix *Index) Add(p *tidemark.Predicate, id int64) {
	conjunctions := ix.conjunctions(p)
	for i, c := range conjunctions {
		ix.use(c, 1)
		if len(c) == 0 {
			ix.all = append(ix.all, id)
			return // which is the only one
		}
		at, least := 0, math.MaxInt
		for j := range c {
			if n := ix.crowd(&c[j]); n < least {
				at, least = j, n
			}
		}
		ix.file(c[at], entryOf(id, conjunctions[:i+1], at))
	}
}

func (ix *Index) file(c check, e entry) {
	s := &ix.slots[c.slot]
	if c.term.Op == tidemark.Between {
		s.ranges.insert(c.term, e)
		return
	}
	for _, v := range valuesOf(c.term) {
		s.equals[v] = append(s.equals[v], e)
	}
}

// valuesOf returns the values that satisfy a term other than a range.
func valuesOf(t *tidemark.Term) []tidemark.Value {
	if t.Op == tidemark.OneOf {
		return t.Values
	}
	return []tidemark.Value{t.Value} // null for IsNull
}

// Remove takes p, as it was added under id, out of the index.
func (ix *Index) Remove(p *tidemark.Predicate, id int64) {
	for i, c := range ix.conjunctions(p) {
		ix.use(c, -1)
		if at := slices.Index(ix.all, id); len(c) == 0 && at >= 0 {
			ix.all = without(ix.all, at)
		}
		for j := range c { // which one it is filed under depended on what else there was
			if ix.removeAt(c[j], id, int32(i)) {
				break
			}
		}
	}
}

func (ix *Index) removeAt(c check, id int64, alternative int32) bool {
	s, found := &ix.slots[c.slot], false
	if c.term.Op == tidemark.Between {
		return s.ranges.remove(c.term, id, alternative)
	}
	for _, v := range valuesOf(c.term) {
		filed := s.equals[v]
		at := slices.IndexFunc(filed, func(e entry) bool { return e.id == id && e.alternative == alternative })
		if at < 0 {
			return found
		}
		found = true
		if filed = without(filed, at); len(filed) == 0 {
			delete(s.equals, v)
		} else {
			s.equals[v] = filed
		}
	}
	return found
}

// without returns list without its i-th element; the last one takes its place.
func without[T any](list []T, i int) []T {
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}

// conjunctions returns what p says, without the alternatives that no row of the index's model satisfies.
func (ix *Index) conjunctions(p *tidemark.Predicate) []conjunction {
	var all []conjunction
	for _, terms := range p.Conjunctions() {
		c := make(conjunction, len(terms))
		for i := range terms {
			n, ok := ix.named[terms[i].Field.Name]
			if !ok || ix.slots[n].field.Kind != terms[i].Field.Kind || terms[i].Op == tidemark.Never {
				c = nil
				break
			}
			c[i] = check{slot: n, term: &terms[i]}
		}
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

func (ix *Index) use(c conjunction, n int) {
	for i := range c {
		ix.slots[c[i].slot].uses += n
	}
}

// A lookup asks each entry that is filed under its value; of ranges, those that hold
// the value. So a range is the better term only where many share a value.
const (
	crowdOfRange = 64
	crowdOfHalf  = 4096 // with one end only: half of all rows satisfy it
)

// crowd estimates how many entries a lookup comes upon that finds those of c. A long list is dear to file.
func (ix *Index) crowd(c *check) int {
	switch t := c.term; {
	case t.Op != tidemark.Between:
		most := 0
		for _, v := range valuesOf(t) {
			most = max(most, len(ix.slots[c.slot].equals[v]))
		}
		return most + len(t.Values)/16
	case t.Low != nil && t.High != nil:
		return crowdOfRange
	}
	return crowdOfHalf
}

// entryOf makes the entry of the last of a predicate's conjunctions, which is filed under one of its terms.
func entryOf(id int64, conjunctions []conjunction, filed int) entry {
	last := len(conjunctions) - 1
	e := entry{id: id, from: math.MinInt64, to: math.MaxInt64, alternative: int32(last)}
	if c := conjunctions[last]; len(c)+last > 1 {
		e.rest = &rest{checks: slices.Delete(slices.Clone(c), filed, filed+1), earlier: conjunctions[:last]}
	} else {
		return e
	}
	for _, c := range e.rest.checks {
		switch t := c.term; {
		case t.Op == tidemark.Equal:
			e.slot, e.from, e.to = int32(c.slot), keyOf(t.Value), keyOf(t.Value)
		case t.Op == tidemark.Between:
			e.slot, e.from, e.to = int32(c.slot), keyOfLow(t.Low), keyOfHigh(t.High)
		}
	}
	return e
}

// Lookup appends to into the numbers of the predicates that select row, each once, in no
// order. No row, nil, is selected by none. It takes no memory beyond that of into, but
// for texts with escapes.
func (ix *Index) Lookup(row tidemark.Row, into []int64) []int64 {
	if len(row) == 0 {
		return into
	}
	into = append(into, ix.all...)
	pooled := ix.values.Get().(*[]value)
	values := *pooled
	if ix.decode(row, values) {
		for i := range ix.slots {
			if s := &ix.slots[i]; s.uses > 0 {
				into = s.find(values, &values[i], into)
			}
		}
	}
	clear(values) // they are parts of row
	ix.values.Put(pooled)
	return into
}

// decode sets the values of the fields that any predicate names. A value that is not of
// its field's kind is null, as for Match; a row that is no object has none.
// Rows mostly have their members in the order of the fields, so the next slot is tried first.
func (ix *Index) decode(row tidemark.Row, values []value) bool {
	next := 0
	return tidemark.EachField(row, func(key, raw []byte) error {
		i := next
		if i >= len(ix.slots) || ix.slots[i].field.Name != string(key) {
			var ok bool
			if i, ok = ix.named[string(key)]; !ok {
				return nil
			}
		}
		if ix.slots[i].uses > 0 {
			v, _ := ix.slots[i].field.Kind.Peek(raw)
			values[i] = value{v, keyOf(v)}
		}
		next = i + 1
		return nil
	}) == nil
}

// find appends the numbers of the entries filed under v whose other terms hold.
func (s *slot) find(values []value, v *value, into []int64) []int64 {
	filed := s.equals[v.Value]
	for i := range filed {
		if filed[i].holds(values) {
			into = append(into, filed[i].id)
		}
	}
	if v.IsNull() {
		return into
	}
	return s.ranges.root.find(v, values, into)
}

func (e *entry) holds(values []value) bool {
	if k := values[e.slot].key; k < e.from || k > e.to {
		return false
	}
	if e.rest == nil {
		return true
	}
	if !e.rest.checks.hold(values) {
		return false
	}
	for _, c := range e.rest.earlier {
		if c.hold(values) {
			return false
		}
	}
	return true
}

func (c conjunction) hold(values []value) bool {
	for i := range c {
		if !c[i].term.Match(values[c[i].slot].Value) {
			return false
		}
	}
	return true
}
