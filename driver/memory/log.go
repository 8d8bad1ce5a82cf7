package memory

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// change is an entry of the log: that a row or its metadata changed, and how the row
// stood before.
type change struct {
	model, uid string
	before     tidemark.Row
	at         time.Time
	nonce      uint64
	unheard    bool // nobody heard of it as it was made
}

// changeLog has the changes in the order of the commits, numbered without gaps from 1: there is one
// writer at a time, and nothing can appear behind a reader.
type changeLog struct {
	epoch   string
	first   int64  // the number of the first change that is kept, or of the next one
	below   uint64 // the nonce of the change before that, 0 when there was none
	changes []change
	nonces  *mathrand.ChaCha8
}

func newLog(random io.Reader) *changeLog {
	var seed [32]byte
	var epoch [16]byte
	for _, b := range [][]byte{seed[:], epoch[:]} {
		if _, err := io.ReadFull(random, b); err != nil {
			panic(fmt.Sprintf("memory: no randomness: %v", err))
		}
	}
	return &changeLog{epoch: hex.EncodeToString(epoch[:]), first: 1, nonces: mathrand.NewChaCha8(seed)}
}

// commit puts what the transaction has made into the log.
func (d *Driver) commit() {
	if len(d.made) == 0 {
		return
	}
	now := d.now()
	for _, c := range d.made {
		c.at, c.nonce = now, max(d.log.nonces.Uint64(), 1)
		d.log.changes = append(d.log.changes, c)
	}
	d.made = nil
}

func (l *changeLog) next() int64 { return l.first + int64(len(l.changes)) }

func (l *changeLog) horizon() tidemark.Cursor {
	return tidemark.Cursor{Epoch: l.epoch, At: l.next(), Nonce: l.nonceBelow(l.next())}
}

// nonceBelow returns the nonce of the last change below at, which is kept or the first one.
func (l *changeLog) nonceBelow(at int64) uint64 {
	if at == l.first {
		return l.below
	}
	return l.changes[at-l.first-1].nonce
}

// since returns the changes that from has not seen.
func (l *changeLog) since(from tidemark.Cursor) ([]change, error) {
	if from.Epoch != l.epoch || from.At < l.first || from.At > l.next() || from.Nonce != l.nonceBelow(from.At) {
		return nil, tidemark.NewError(tidemark.CodeCursorTooOld, "the log does not have what followed the cursor")
	}
	return l.changes[from.At-l.first:], nil
}

// Horizon returns the cursor after the last commit.
func (d *Driver) Horizon(ctx context.Context) (tidemark.Cursor, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(ctx); err != nil {
		return tidemark.Cursor{}, err
	}
	return d.log.horizon(), nil
}

// Own looks for changes that no witness heard of: nobody else has this database.
func (d *Driver) Own(ctx context.Context, from, to tidemark.Cursor) (bool, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.usable(ctx); err != nil {
		return false, err
	}
	changes, err := d.log.since(from)
	if err != nil {
		return false, nil // nobody knows whose they were
	}
	n := min(max(to.At-from.At, 0), int64(len(changes)))
	return !slices.ContainsFunc(changes[:n], func(c change) bool { return c.unheard }), nil
}

// unheard marks what the transaction has made from the n-th change on, where nobody hears of it.
func (d *Driver) unheard(n int, w tidemark.Witness) {
	if _, silent := w.(nobody); !silent {
		return
	}
	for i := range d.made[n:] {
		d.made[n+i].unheard = true
	}
}

// Pull reads under one lock, which is its moment. It sees what is committed, also with
// a context that carries a transaction.
func (d *Driver) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	d.mu.Lock() // not RLock: it may sort the uids
	defer d.mu.Unlock()
	t, err := d.table(ctx, q.Scope)
	if err != nil {
		return nil, err
	}
	p := &pager{d: d, t: t, q: q, page: &tidemark.Page{Horizon: d.log.horizon()}}
	if q.From.IsZero() {
		p.all()
	} else {
		changes, err := d.log.since(q.From)
		if err != nil {
			return nil, err
		}
		p.changed(changes)
	}
	if q.Count {
		p.count()
	}
	return p.page, nil
}

// pager fills a page.
type pager struct {
	d     *Driver
	t     *table
	q     tidemark.Pull
	page  *tidemark.Page
	bytes int
}

// all puts the rows that the scope selects on the page.
func (p *pager) all() {
	for _, uid := range after(p.t.sorted(), p.q.After) {
		if p.q.Scope.Match(p.row(uid)) && !p.add(&p.page.Rows, uid) {
			return
		}
	}
}

// changed puts those of the changed rows on the page that the scope selects, or did.
func (p *pager) changed(changes []change) {
	befores := make(map[string][]tidemark.Row)
	for i := range changes {
		if c := &changes[i]; c.model == p.t.schema.Name() && c.uid > p.q.After {
			befores[c.uid] = append(befores[c.uid], c.before)
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(befores)) {
		list := &p.page.Gone
		if p.q.Scope.Match(p.row(uid)) {
			list = &p.page.Rows
		} else if !slices.ContainsFunc(befores[uid], p.q.Scope.Match) {
			continue
		}
		if !p.add(list, uid) {
			return
		}
		p.befores(uid, befores[uid])
	}
}

// befores puts the first versions of a row that the scope selected on the page.
func (p *pager) befores(uid string, versions []tidemark.Row) {
	if !p.q.Befores {
		return
	}
	if p.page.Befores == nil {
		p.page.Befores = make(map[string][]tidemark.Row)
	}
	for _, row := range versions {
		if len(p.page.Befores[uid]) < tidemark.MaxBefores && p.q.Scope.Match(row) {
			p.page.Befores[uid] = append(p.page.Befores[uid], slices.Clone(row))
		}
	}
}

// add puts a row on the page, and reports whether there was room for it.
func (p *pager) add(list *[]tidemark.RowMeta, uid string) bool {
	size := len(p.t.rows[uid])
	if n := len(p.page.Rows) + len(p.page.Gone); n > 0 && (n >= p.q.Limit || p.bytes+size > p.q.Bytes) {
		p.page.More = true
		return false
	}
	rm := p.d.rowMeta(p.t, uid)
	if rm.Meta.Deleted() {
		rm.Row = nil
	}
	*list = append(*list, rm)
	p.page.Last = uid
	p.bytes += size
	return true
}

func (p *pager) count() {
	for uid := range p.t.rows {
		if p.q.Scope.Match(p.row(uid)) {
			p.page.Total++
		}
	}
}

// row returns the row of uid; one under a tombstone is none.
func (p *pager) row(uid string) tidemark.Row {
	if e := p.d.metas[uid]; e.meta.Deleted() && (e.model == "" || e.model == p.t.schema.Name()) {
		return nil
	}
	return p.t.rows[uid]
}

// after returns the uids behind uid.
func after(sorted []string, uid string) []string {
	i, found := slices.BinarySearch(sorted, uid)
	if found {
		i++
	}
	return sorted[i:]
}

// Purge forgets from the front of the log.
func (d *Driver) Purge(ctx context.Context, before time.Time) (int64, error) {
	if err := d.alone(ctx); err != nil {
		return 0, err
	}
	defer d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return 0, err
	}
	l := d.log
	n := 0
	for n < len(l.changes) && l.changes[n].at.Before(before) {
		n++
	}
	at := l.first + int64(n)
	l.below, l.first = l.nonceBelow(at), at
	l.changes = slices.Clone(l.changes[n:])
	for _, c := range d.clients {
		if c.pushed.Before(before) {
			c.ledger.Forget()
		}
	}
	return int64(n), nil
}
