// Package scopeindex finds, among many predicates, those that select a row, at a cost that
// follows how many these are and not how many there are in all.
package scopeindex

import (
	"math"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// Index holds predicates of one model under numbers of the caller's. Each is filed
// under the term that fewest share: under the values that it must equal, or else in the tree of
// a field's ranges. What the other terms ask is looked at once a row is found there.
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

	// What one of the other terms asks, as far as whole numbers tell: most entries are passed
	// over where they stand, without a look at memory elsewhere.
	slot     int
	from, to int64
}

// rest is what the other terms of an entry's conjunction ask.
type rest struct{ checks []check }

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
	terms := p.Terms()
	if !ix.serves(terms) {
		return
	}
	ix.use(terms, 1)
	if len(terms) == 0 {
		ix.all = append(ix.all, id)
		return
	}
	at, least := 0, math.MaxInt
	for i := range terms {
		if n := ix.crowd(&terms[i]); n < least {
			at, least = i, n
		}
	}
	t := &terms[at]
	s := &ix.slots[ix.named[t.Field.Name]]
	e := ix.entryOf(id, terms, at)
	if t.Op == tidemark.Between {
		s.ranges.insert(t, e)
		return
	}
	s.equals[t.Value] = append(s.equals[t.Value], e)
}

// Remove takes p, as it was added under id, out of the index.
func (ix *Index) Remove(p *tidemark.Predicate, id int64) {
	terms := p.Terms()
	if !ix.serves(terms) {
		return
	}
	ix.use(terms, -1)
	if len(terms) == 0 {
		for i, other := range ix.all {
			if other == id {
				ix.all = without(ix.all, i)
				return
			}
		}
	}
	for i := range terms { // which one it is filed under depended on what else there was
		if ix.removeAt(&terms[i], id) {
			return
		}
	}
}

func (ix *Index) removeAt(t *tidemark.Term, id int64) bool {
	s := &ix.slots[ix.named[t.Field.Name]]
	if t.Op == tidemark.Between {
		return s.ranges.remove(t, id)
	}
	filed := s.equals[t.Value]
	for i := range filed {
		if filed[i].id != id {
			continue
		}
		if filed = without(filed, i); len(filed) == 0 {
			delete(s.equals, t.Value)
		} else {
			s.equals[t.Value] = filed
		}
		return true
	}
	return false
}

// without returns list without its i-th element; the last one takes its place.
func without[T any](list []T, i int) []T {
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}

// serves reports whether rows of the index's model may satisfy the terms.
func (ix *Index) serves(terms []tidemark.Term) bool {
	for i := range terms {
		n, ok := ix.named[terms[i].Field.Name]
		if !ok || ix.slots[n].field.Kind != terms[i].Field.Kind || terms[i].Op == tidemark.Never {
			return false
		}
	}
	return true
}

func (ix *Index) use(terms []tidemark.Term, n int) {
	for i := range terms {
		ix.slots[ix.named[terms[i].Field.Name]].uses += n
	}
}

// A lookup asks each entry that is filed under its value; of ranges, those that hold
// the value. So a range is the better term only where many share a value.
const (
	crowdOfRange = 64
	crowdOfHalf  = 4096 // with one end only: half of all rows satisfy it
)

// crowd estimates how many entries a lookup comes upon that finds those of t.
func (ix *Index) crowd(t *tidemark.Term) int {
	switch {
	case t.Op != tidemark.Between:
		return len(ix.slots[ix.named[t.Field.Name]].equals[t.Value])
	case t.Low != nil && t.High != nil:
		return crowdOfRange
	}
	return crowdOfHalf
}

// entryOf makes the entry of terms that is filed under one of them.
func (ix *Index) entryOf(id int64, terms []tidemark.Term, filed int) entry {
	e := entry{id: id, from: math.MinInt64, to: math.MaxInt64}
	if len(terms) == 1 {
		return e
	}
	e.rest = &rest{checks: make([]check, 0, len(terms)-1)}
	for i := range terms {
		if i == filed {
			continue
		}
		c := check{slot: ix.named[terms[i].Field.Name], term: &terms[i]}
		e.rest.checks = append(e.rest.checks, c)
		switch c.term.Op {
		case tidemark.Equal:
			e.slot, e.from, e.to = c.slot, keyOf(c.term.Value), keyOf(c.term.Value)
		case tidemark.Between:
			e.slot, e.from, e.to = c.slot, keyOfLow(c.term.Low), keyOfHigh(c.term.High)
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
	for _, c := range e.rest.checks {
		if !c.term.Match(values[c.slot].Value) {
			return false
		}
	}
	return true
}
