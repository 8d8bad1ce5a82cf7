package scopeindex

import "github.com/tidemark-sync/tidemark"

// tree holds ranges of one field's values, sorted by their low ends. Each node knows how
// far up the ranges under it reach, so that those that hold a value are found without
// looking at the others (Cormen et al., "Introduction to Algorithms", interval trees). It is a treap, balanced by
// priorities made of the entries' numbers (Aragon and Seidel, "Randomized Search Trees").
//
// Whether an end is within its range is left to Term.Match: to look at a range that begins
// or ends at the very value is no loss.
type tree struct{ root *node }

type node struct {
	low, reach  tidemark.Value // of the range, and of all under the node; null is no bound
	left, right *node
	priority    uint64
	term        *tidemark.Term
	entry       entry
}

func (t *tree) insert(term *tidemark.Term, e entry) {
	n := &node{low: lowOf(term), term: term, entry: e, priority: scramble(uint64(e.id))}
	t.root = t.root.insert(n)
}

func (t *tree) remove(term *tidemark.Term, id int64) bool {
	found := false
	t.root = t.root.remove(lowOf(term), id, &found)
	return found
}

// find appends the numbers of the entries whose range holds v, which is not null, and whose other terms hold.
func (t *tree) find(v tidemark.Value, values []tidemark.Value, into []int64) []int64 {
	return t.root.find(v, values, into)
}

func lowOf(t *tidemark.Term) tidemark.Value {
	if t.Low == nil {
		return tidemark.Value{}
	}
	return t.Low.Value
}

// scramble makes of successive numbers what looks random (Steele et al., "Fast Splittable Pseudorandom Number Generators").
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// compare orders nodes by their low ends, no end first, and equal ones by their numbers.
func (n *node) compare(low tidemark.Value, id int64) int {
	c := 0
	switch {
	case n.low.IsNull() && low.IsNull():
	case n.low.IsNull():
		return -1
	case low.IsNull():
		return 1
	default:
		c = n.low.Compare(low)
	}
	if c == 0 && n.entry.id != id {
		if c = 1; n.entry.id < id {
			c = -1
		}
	}
	return c
}

func (n *node) insert(add *node) *node {
	switch {
	case n == nil:
		add.extend()
		return add
	case add.priority > n.priority:
		add.left, add.right = n.split(add.low, add.entry.id)
		add.extend()
		return add
	case n.compare(add.low, add.entry.id) < 0:
		n.right = n.right.insert(add)
	default:
		n.left = n.left.insert(add)
	}
	n.extend()
	return n
}

// split parts what is before a place from what is after it.
func (n *node) split(low tidemark.Value, id int64) (before, after *node) {
	if n == nil {
		return nil, nil
	}
	if n.compare(low, id) < 0 {
		n.right, after = n.right.split(low, id)
		n.extend()
		return n, after
	}
	before, n.left = n.left.split(low, id)
	n.extend()
	return before, n
}

func (n *node) remove(low tidemark.Value, id int64, found *bool) *node {
	if n == nil {
		return nil
	}
	switch c := n.compare(low, id); {
	case c == 0:
		*found = true
		return join(n.left, n.right)
	case c < 0:
		n.right = n.right.remove(low, id, found)
	default:
		n.left = n.left.remove(low, id, found)
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
	n.reach = tidemark.Value{}
	if n.term.High == nil {
		return
	}
	reach := n.term.High.Value
	for _, child := range [...]*node{n.left, n.right} {
		if child == nil {
			continue
		}
		if child.reach.IsNull() {
			return
		}
		if child.reach.Compare(reach) > 0 {
			reach = child.reach
		}
	}
	n.reach = reach
}

func (n *node) find(v tidemark.Value, values []tidemark.Value, into []int64) []int64 {
	for n != nil && (n.reach.IsNull() || n.reach.Compare(v) >= 0) {
		into = n.left.find(v, values, into)
		if !n.low.IsNull() && n.low.Compare(v) > 0 {
			break // and so are all to the right
		}
		if n.term.Match(v) && n.entry.holds(values) {
			into = append(into, n.entry.id)
		}
		n = n.right
	}
	return into
}
