package server

import (
	"reflect"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// publication is what one transaction has to tell live scopes. It is reserved while the
// database keeps others from its rows, and leaves as a whole when the transaction is committed
// and what was reserved before it for any of its rows has left: so of each row everybody
// hears in the order of its commits. It does not wait for hooks of the writes.
type publication struct {
	parts  []*part
	open   int // parts whose end is not known
	undone int // parts that were not reported as committed
	waits  int // so many parts of others leave before it
	except *Session
	tx     any // the server code's own transaction, nil for one of the driver's
}

// part is what one call of the driver made in a transaction.
type part struct {
	of        *publication
	items     []item
	undone    bool    // with its transaction, as it seems, or with a savepoint
	followers []*part // that wait for it
	flight    *flight
	mixed     bool // an item stands for several writes
}

// item is a row that changed.
type item struct {
	key           rowKey
	before, after tidemark.Row // nil where there is none
	meta          tidemark.Meta
	unit          int64 // of the batch, 0 for none

	was, is []int64 // the scopes that selected the row before, and that select it now, sorted
	body    []byte  // what is told to all who have the row in a scope, once it is known
	gone    []byte  // and to those for whom it left
}

// place is where a row is published last.
type place struct {
	part *part
	item int
}

// flight is a call of the driver, from before its first effect until all that it
// reserved has left. A cursor is told when those have landed that began before it was read.
type flight struct {
	generation uint64
	open       int // the call itself, and its parts
}

// takeOff begins a flight.
func (l *live) takeOff() *flight {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.young++
	return &flight{generation: l.generation, open: 1}
}

// land ends one of what f consists of. mu is held.
func (l *live) land(f *flight) {
	if f.open--; f.open > 0 {
		return
	}
	if f.generation == l.generation {
		l.young--
		return
	}
	if l.old--; l.old == 0 && l.landed != nil {
		close(l.landed)
		l.landed = nil
	}
}

// touchDown ends the call itself.
func (l *live) touchDown(f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.land(f)
}

// landing returns a channel that is closed when all flights that are under way have landed. It is for one
// goroutine at a time.
func (l *live) landing() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	l.old, l.young = l.old+l.young, 0
	landed := make(chan struct{})
	if l.old == 0 {
		close(landed)
		return landed
	}
	l.landed = landed
	return landed
}

// reserve notes what a driver has decided about d.ms[from:], before it is committed, and
// returns the part of the publication that this is; nil when there is nothing to tell.
func (l *live) reserve(d *deciding, from int, outcomes []tidemark.Outcome) *part {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p *part
	for i := range outcomes {
		o := &outcomes[i]
		it := item{key: d.keys[from+i], before: o.Before, after: o.Row, meta: o.Meta, unit: d.ms[from+i].Unit}
		if o.Meta.Deleted() { // the row in the outcome is the deleted one
			it.after = nil
		}
		if !o.Changed || o.Err != nil || len(it.before)+len(it.after) == 0 {
			continue
		}
		if p == nil {
			p = l.newPart(d, len(outcomes)-i)
		}
		l.put(p, it)
	}
	return p
}

func (l *live) newPart(d *deciding, size int) *part {
	d.flight.open++
	p := &part{flight: d.flight, items: make([]item, 0, size)}
	g := l.txs[d.tx]
	if d.tx == nil || g == nil {
		g = &publication{except: d.except, tx: d.tx}
		if d.tx != nil {
			l.txs[d.tx] = g
		}
	}
	p.of, g.parts, g.open = g, append(g.parts, p), g.open+1
	return p
}

// put adds a row to the part, behind what is to be told of it before.
func (l *live) put(p *part, it item) {
	last := l.rows[it.key]
	switch {
	case last.part == p: // one batch wrote the row twice: what counts is how it stands at the end
		first := &p.items[last.item]
		first.after, first.meta, p.mixed = it.after, it.meta, true
		return
	case last.part == nil || last.part.of == p.of:
	case p.of.undone > 0 && p.of.holdsUp(last.part.of):
		// A savepoint was undone, and the row was another's meanwhile.
	default:
		last.part.followers = append(last.part.followers, p)
		p.of.waits++
	}
	l.rows[it.key] = place{p, len(p.items)}
	p.items = append(p.items, it)
}

// holdsUp reports whether h waits for g, be it for others who do.
func (g *publication) holdsUp(h *publication) bool {
	seen := map[*publication]bool{g: true}
	for next := []*publication{g}; len(next) > 0; next = next[1:] {
		for _, p := range next[0].parts {
			for _, f := range p.followers {
				if !seen[f.of] {
					seen[f.of] = true
					next = append(next, f.of)
				}
			}
		}
	}
	return seen[h] && h != g
}

// end says what became of the transaction of a part, and tells what may now leave.
func (l *live) end(p *part, committed bool) {
	l.mu.Lock()
	g := p.of
	g.open--
	if !committed {
		p.undone = true
		g.undone++
	}
	if g.open == 0 && g.tx != nil {
		delete(l.txs, g.tx)
	}
	ready := g.ready()
	l.mu.Unlock()
	if ready {
		l.leave([]*publication{g})
	}
}

func (g *publication) ready() bool { return g.open == 0 && g.waits == 0 }

// doubtful reports whether it is unknown what became of the transaction: a driver says that it
// was committed, or nothing. Where parts were committed, those that were not were undone before.
func (g *publication) doubtful() bool { return g.undone == len(g.parts) }

// leave sends publications that are ready, and those that are then.
func (l *live) leave(ready []*publication) {
	for len(ready) > 0 {
		g := ready[0]
		ready = ready[1:]
		if later := l.deliver(g); later != nil {
			l.server.spawn(func() {
				later()
				l.leave(l.left(g))
			})
			continue
		}
		ready = append(ready, l.left(g)...)
	}
}

// left ends a publication, and returns those that waited for nothing else.
func (l *live) left(g *publication) (ready []*publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range g.parts {
		for i := range p.items {
			if key := p.items[i].key; l.rows[key].part == p {
				delete(l.rows, key)
			}
		}
		for _, f := range p.followers {
			if f.of.waits--; f.of.ready() {
				ready = append(ready, f.of)
			}
		}
		l.land(p.flight)
	}
	return ready
}

// items returns the rows of the publication, each once.
func (g *publication) items() []item {
	if len(g.parts) == 1 {
		return g.parts[0].items
	}
	var items []item
	at := make(map[rowKey]int)
	for _, p := range g.parts {
		if p.undone && !g.doubtful() {
			continue
		}
		for _, it := range p.items {
			if i, twice := at[it.key]; twice {
				items[i].after, items[i].meta = it.after, it.meta
				continue
			}
			at[it.key] = len(items)
			items = append(items, it)
		}
	}
	return items
}

// whole reports whether the publication must not be told in several messages: the
// application's transaction, or where a row stands for writes in and outside a unit.
func (g *publication) whole() bool {
	return g.tx != nil || slices.ContainsFunc(g.parts, func(p *part) bool { return p.mixed })
}

// txKey returns by what the transaction that a context carries is known, nil for none.
func txKey(tx any) any {
	if tx == nil || !reflect.TypeOf(tx).Comparable() {
		return nil
	}
	return tx
}
