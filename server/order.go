package server

import (
	"context"
	"slices"
	"sync"
)

// order keeps the events about each row in the order of the row's commits. A
// write holds its row while the driver commits it, and reserves a slot before it lets go;
// its hooks run afterwards, and its event leaves when it is filled in and all
// slots before it have left.
//
// Only the commit is done while a row is held, and nobody waits for a slot in a
// hook; so hooks may write the very row that they were called for.
type order struct {
	mu   sync.Mutex // protects rows and everything in them; not held while waiting or sending
	rows map[rowKey]*rowQueue
}

type rowKey struct{ model, uid string }

type rowQueue struct {
	held    bool
	waiting []chan struct{} // writers, first come first served
	slots   []*slot         // reserved and not yet sent
	sending bool            // a goroutine is sending the first slots
}

// slot is the place of one event among those about its row.
type slot struct {
	order *order
	key   rowKey
	ready bool
	send  func() // nil when there is nothing to send
	sent  chan struct{}
}

// hold waits until the caller alone may write the rows of keys, which must be
// sorted and without duplicates, so that writers of several rows cannot wait for each other.
func (o *order) hold(ctx context.Context, keys []rowKey) error {
	for i, key := range keys {
		if err := o.holdOne(ctx, key); err != nil {
			o.release(keys[:i])
			return err
		}
	}
	return nil
}

func (o *order) holdOne(ctx context.Context, key rowKey) error {
	o.mu.Lock()
	if o.rows == nil {
		o.rows = make(map[rowKey]*rowQueue)
	}
	q := o.rows[key]
	if q == nil {
		q = &rowQueue{}
		o.rows[key] = q
	}
	if !q.held {
		q.held = true
		o.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	o.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(q.waiting, turn); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else { // the turn had come already
		o.next(key, q)
	}
	return ctx.Err()
}

func (o *order) release(keys []rowKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		o.next(key, o.rows[key])
	}
}

func (o *order) next(key rowKey, q *rowQueue) {
	if len(q.waiting) > 0 {
		close(q.waiting[0])
		q.waiting = q.waiting[1:]
		return
	}
	q.held = false
	o.forget(key, q)
}

func (o *order) forget(key rowKey, q *rowQueue) {
	if !q.held && len(q.slots) == 0 && !q.sending {
		delete(o.rows, key)
	}
}

// reserve returns the next slot of a row that the caller holds. It must be filled.
func (o *order) reserve(key rowKey) *slot {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &slot{order: o, key: key, sent: make(chan struct{})}
	q := o.rows[key]
	q.slots = append(q.slots, s)
	return s
}

// fill says what the slot sends; nil is nothing. Whoever fills the first slot of a
// row sends it, and those after it that are ready. Filling again has no effect.
func (s *slot) fill(send func()) {
	o := s.order
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.ready {
		return
	}
	s.ready, s.send = true, send
	q := o.rows[s.key]
	if q.sending {
		return
	}
	q.sending = true
	for len(q.slots) > 0 && q.slots[0].ready {
		first := q.slots[0]
		q.slots = q.slots[1:]
		if first.send != nil {
			o.mu.Unlock()
			first.send()
			o.mu.Lock()
		}
		close(first.sent)
	}
	q.sending = false
	o.forget(s.key, q)
}

// origin is the call from outside that others were made for, inside its hooks and methods.
type origin struct {
	session *Session // nil for server code

	mu    sync.Mutex // protects slots
	slots []*slot    // of all events that the call and those inside it caused
}

func (o *origin) add(s *slot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slots = append(o.slots, s)
}

// wait returns when the events of the call have left, or ctx is done.
func (o *origin) wait(ctx context.Context) {
	o.mu.Lock()
	slots := o.slots
	o.mu.Unlock()
	for _, s := range slots {
		select {
		case <-s.sent:
		case <-ctx.Done():
			return
		}
	}
}
