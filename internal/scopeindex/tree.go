package scopeindex

import (
	"cmp"

	"github.com/tidemark-sync/tidemark"
)

// tree holds ranges of one field's values, sorted by their low ends. Each node knows how
// far up the ranges under it reach, so that those that hold a value are found without
// looking at the others (Cormen et al., "Introduction to Algorithms", interval trees). It is a treap, balanced by
// priorities made of the entries' numbers (Aragon and Seidel, "Randomized Search Trees").
//
// Whether an end is within its range is left to Term.Match: to look at a range that begins
// or ends at the very value is no loss.
type tree struct{ root *node }

type node struct {
	from, to, reach int64           // the keys of the range's ends, and of the highest end here and below
	highest         *tidemark.Bound // that end; nil is no bound
	left, right     *node
	term            *tidemark.Term
	priority        uint64
	entry           entry
}

func (t *tree) insert(term *tidemark.Term, e entry) {
	t.root = t.root.insert(&node{
		from: keyOfLow(term.Low), to: keyOfHigh(term.High), term: term, entry: e, priority: scramble(uint64(e.id)<<8 + uint64(e.alternative)),
	})
}

func (t *tree) remove(term *tidemark.Term, id int64, alternative int32) bool {
	found := false
	t.root = t.root.remove(&node{from: keyOfLow(term.Low), term: term, entry: entry{id: id, alternative: alternative}}, &found)
	return found
}

// scramble makes of successive numbers what looks random (Steele et al., "Fast Splittable Pseudorandom Number Generators").
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// compare orders nodes by their low ends, no end first, and equal ones by their numbers.
func (n *node) compare(m *node) int {
	c := cmp.Compare(n.from, m.from)
	if low, other := n.term.Low, m.term.Low; c == 0 && low != other { // the same one where it is one predicate's
		switch {
		case low == nil:
			c = -1
		case other == nil:
			c = 1
		default:
			c = low.Value.Compare(other.Value)
		}
	}
	if c == 0 {
		c = cmp.Compare(n.entry.id, m.entry.id)
	}
	if c == 0 {
		c = cmp.Compare(n.entry.alternative, m.entry.alternative)
	}
	return c
}

func (n *node) insert(add *node) *node {
	switch {
	case n == nil:
		add.extend()
		return add
	case add.priority > n.priority:
		add.left, add.right = n.split(add)
		add.extend()
		return add
	case n.compare(add) < 0:
		n.right = n.right.insert(add)
	default:
		n.left = n.left.insert(add)
	}
	n.extend()
	return n
}

// split parts what is before a place from what is after it.
func (n *node) split(at *node) (before, after *node) {
	if n == nil {
		return nil, nil
	}
	if n.compare(at) < 0 {
		n.right, after = n.right.split(at)
		n.extend()
		return n, after
	}
	before, n.left = n.left.split(at)
	n.extend()
	return before, n
}

func (n *node) remove(m *node, found *bool) *node {
	if n == nil {
		return nil
	}
	switch c := n.compare(m); {
	case c == 0:
		*found = true
		return join(n.left, n.right)
	case c < 0:
		n.right = n.right.remove(m, found)
	default:
		n.left = n.left.remove(m, found)
	}
	n.extend()
	return n
}

// join makes one tree of two, all of whose first is before all of the second.
func join(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = join(a.right, b)
		a.extend()
		return a
	}
	b.left = join(a, b.left)
	b.extend()
	return b
}

// extend sets the node's reach from its own range and those under it.
func (n *node) extend() {
	n.reach, n.highest = n.to, n.term.High
	for _, child := range [...]*node{n.left, n.right} {
		if child != nil && n.highest != nil && (child.highest == nil || child.reach > n.reach ||
			child.reach == n.reach && child.highest.Value.Compare(n.highest.Value) > 0) {
			n.reach, n.highest = child.reach, child.highest
		}
	}
}

// find appends the numbers of the entries whose range holds v, which is not null, and whose other terms hold.
func (n *node) find(v *value, values []value, into []int64) []int64 {
	for n != nil && !n.endsBefore(v) {
		into = n.left.find(v, values, into)
		if n.beginsAfter(v) {
			break // and so do all to the right
		}
		if n.to >= v.key && n.term.Match(v.Value) && n.entry.holds(values) {
			into = append(into, n.entry.id)
		}
		n = n.right
	}
	return into
}

// endsBefore reports whether no range here or below reaches v.
func (n *node) endsBefore(v *value) bool {
	return n.reach < v.key || n.reach == v.key && n.highest != nil && n.highest.Value.Compare(v.Value) < 0
}

func (n *node) beginsAfter(v *value) bool {
	return n.from > v.key || n.from == v.key && n.term.Low != nil && n.term.Low.Value.Compare(v.Value) > 0
}
