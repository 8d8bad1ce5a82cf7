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
// A write in a transaction of the server's own code holds nothing, since who waits for
// a held row may have the database wait for that transaction. There, and so everywhere where
// there are such transactions, the slot is reserved while the database keeps others from the row.
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
	order   *order
	key     rowKey
	filled  bool
	settled bool   // the write is committed, or will not be
	send    func() // nil when there is nothing to send
	sent    chan struct{}
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

// queue returns the row's queue, with mu held.
func (o *order) queue(key rowKey) *rowQueue {
	q := o.rows[key]
	if q == nil {
		if o.rows == nil {
			o.rows = make(map[rowKey]*rowQueue)
		}
		q = &rowQueue{}
		o.rows[key] = q
	}
	return q
}

func (o *order) holdOne(ctx context.Context, key rowKey) error {
	o.mu.Lock()
	q := o.queue(key)
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

// reserve returns the next slot of a row that nobody else can write now. It must
// be filled and settled.
func (o *order) reserve(key rowKey) *slot {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &slot{order: o, key: key, sent: make(chan struct{})}
	q := o.queue(key)
	q.slots = append(q.slots, s)
	return s
}

// behind is reserve for who does not keep others from the row, and reads it when the slots before his have been sent: who writes
// it after that has a later slot.
func (o *order) behind(key rowKey) (s *slot, before []*slot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue(key)
	before = slices.Clone(q.slots)
	s = &slot{order: o, key: key, sent: make(chan struct{})}
	q.slots = append(q.slots, s)
	return s, before
}

// fill says what the slot sends; nil is nothing. Filling again has no effect.
func (s *slot) fill(send func()) {
	s.order.mu.Lock()
	defer s.order.mu.Unlock()
	if !s.filled {
		s.filled, s.send = true, send
		s.order.advance(s.key)
	}
}

// settle says whether the write is committed; if not, the slot sends nothing.
func (s *slot) settle(committed bool) {
	s.order.mu.Lock()
	defer s.order.mu.Unlock()
	if !committed && !s.isSent() {
		s.filled, s.send = true, nil
	}
	if !s.settled || !committed {
		s.settled = true
		s.order.advance(s.key)
	}
}

func (s *slot) isSent() bool {
	select {
	case <-s.sent:
		return true
	default:
		return false
	}
}

// advance sends the first slots of a row, as far as they are ready: whoever makes the
// first one ready sends it. It is called with mu held, and lets go of it while it sends.
func (o *order) advance(key rowKey) {
	q := o.rows[key]
	if q == nil || q.sending {
		return
	}
	q.sending = true
	for len(q.slots) > 0 && q.slots[0].filled && q.slots[0].settled {
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
	o.forget(key, q)
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
