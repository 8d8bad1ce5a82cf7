package memory

import (
	"cmp"
	"iter"
	"math/rand/v2"
)

// tree is an immutable sorted map: a treap whose changes copy the path to what
// they change and share the rest. A transaction is a tree, a commit is one
// assignment, and a reader's state costs nothing to keep. nil is the empty tree.
type tree[K cmp.Ordered, V any] struct {
	left, right *tree[K, V]
	key         K
	value       V
	priority    uint64
}

func (t *tree[K, V]) get(key K) (V, bool) {
	for t != nil {
		switch c := cmp.Compare(key, t.key); {
		case c < 0:
			t = t.left
		case c > 0:
			t = t.right
		default:
			return t.value, true
		}
	}
	var none V
	return none, false
}

// upTo returns the last key that is not greater than key.
func (t *tree[K, V]) upTo(key K) (at K, value V, found bool) {
	for t != nil {
		if t.key > key {
			t = t.left
			continue
		}
		at, value, found = t.key, t.value, true
		t = t.right
	}
	return at, value, found
}

func (t *tree[K, V]) set(key K, value V) *tree[K, V] {
	less, _, more := t.split(key)
	return less.join(&tree[K, V]{key: key, value: value, priority: rand.Uint64()}).join(more)
}

func (t *tree[K, V]) remove(key K) *tree[K, V] {
	less, found, more := t.split(key)
	if found == nil {
		return t
	}
	return less.join(more)
}

// split returns what is less than key, the node of key, and what is greater.
func (t *tree[K, V]) split(key K) (less, found, more *tree[K, V]) {
	if t == nil {
		return nil, nil, nil
	}
	n := *t
	switch c := cmp.Compare(key, t.key); {
	case c < 0:
		less, found, n.left = t.left.split(key)
		return less, found, &n
	case c > 0:
		n.right, found, more = t.right.split(key)
		return &n, found, more
	}
	return t.left, t, t.right
}

// join returns t followed by u, all keys of which are greater.
func (t *tree[K, V]) join(u *tree[K, V]) *tree[K, V] {
	switch {
	case t == nil:
		return u
	case u == nil:
		return t
	case t.priority > u.priority:
		n := *t
		n.right = t.right.join(u)
		return &n
	}
	n := *u
	n.left = t.join(u.left)
	return &n
}

// from yields what is at key or after, in order.
func (t *tree[K, V]) from(key K) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { t.walk(&key, yield) }
}

// all yields everything, in order.
func (t *tree[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { t.walk(nil, yield) }
}

func (t *tree[K, V]) walk(from *K, yield func(K, V) bool) bool {
	if t == nil {
		return true
	}
	if from != nil && t.key < *from {
		return t.right.walk(from, yield)
	}
	return t.left.walk(from, yield) && yield(t.key, t.value) && t.right.walk(nil, yield)
}
