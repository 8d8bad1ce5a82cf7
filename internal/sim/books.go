package sim

import (
	"fmt"
	"strings"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// books are what the world knows better than any of its nodes: every write that a device
// acknowledged to its user, and every decision that the server's database committed.
type books struct {
	mu      sync.Mutex // protects what follows
	writes  map[string]*written
	order   []string
	applied map[string]int            // by token, how often it was applied
	version map[string]int            // by token, the how manieth write of its row it was
	count   map[string]int            // by uid, how many writes were applied
	seen    map[string]int            // by token, how often it was decided
	told    map[string]int            // by token, how often its device was told that it lost
	refused map[string]int            // by token, how often because it was refused
	newest  map[string]tidemark.Stamp // by uid, that of the last write that was applied
	deleted map[string]bool           // by uid: it was deleted at some time
	units   [][2]string               // tokens of writes that are applied or rejected together
	undone  map[string]bool           // tokens of decisions that were lost when the server's database was put back
	gone    map[string]bool           // by uid: the last write that was applied deleted it
	retried map[string]bool           // tokens of writes that their user made again
	partial map[string]bool           // by uid: a write of it was made again
	broken  error                     // the first promise that was seen broken

	names    map[string]string    // devices by the names under which they push
	verdicts map[string]*verdict  // of writes with a number
	last     map[string]int64     // by device and uid, the number of the last write
	removals map[string][]removal // by uid, those of devices that speak the guide's protocol

	// repeats are the devices of which a write may be applied twice: their clock was so far ahead
	// that the server gives a write another stamp each time, and they speak the guide's protocol, in
	// which a write has no name but its stamp, or the server forgot their verdicts.
	repeats map[string]bool
}

// written is a write that a device acknowledged. Its token is a value that no other write has.
type written struct {
	token, device, uid string
	op                 tidemark.Op
}

func newBooks() *books {
	return &books{writes: map[string]*written{}, applied: map[string]int{}, version: map[string]int{}, count: map[string]int{}, seen: map[string]int{}, told: map[string]int{}, refused: map[string]int{}, newest: map[string]tidemark.Stamp{}, repeats: map[string]bool{}, deleted: map[string]bool{}, undone: map[string]bool{}, gone: map[string]bool{}, retried: map[string]bool{}, partial: map[string]bool{}, names: map[string]string{}, verdicts: map[string]*verdict{}, last: map[string]int64{}, removals: map[string][]removal{}}
}

// versionOf returns the how manieth applied write of its row the token stands for, 0 for none, and
// where that may change: when a device may repeat it or its user has, or the server has lost it.
func (b *books) versionOf(token string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.repeats[deviceOf(token)] || b.undone[token] || b.retried[token] {
		return 0
	}
	return b.version[token]
}

// deviceOf returns the device that made the write of a token.
func deviceOf(token string) string {
	device, _, _ := strings.Cut(token, "-")
	return device
}

// maybePartial reports whether a device may show of a row only what it wrote itself: the row was deleted at some time,
// and it may have heard of that, and not yet of what made the row again; or its user made an update again.
func (b *books) maybePartial(uid string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deleted[uid] || b.partial[uid]
}

// mayRepeat notes that a device's writes may be applied twice.
func (b *books) mayRepeat(device string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.repeats[device] = true
}

// acknowledge notes that a local write has returned.
func (b *books) acknowledge(w written) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes[w.token] = &w
	b.order = append(b.order, w.token)
}

// unit notes that two writes belong together.
func (b *books) unit(tokens [2]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.units = append(b.units, tokens)
}

// rejected notes that a device was told of a rejection.
func (b *books) rejected(token string, refused bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[token]++
	if refused {
		b.refused[token]++
	}
}

// listed notes that a device found a write in the list of rejections.
func (b *books) listed(token string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[token]++
}

// breach notes that a promise was broken; the first counts.
func (b *books) breach(promise, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken == nil {
		b.broken = fmt.Errorf("%s: %s", promise, fmt.Sprintf(format, args...))
	}
}

func (b *books) breached() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// inOrder checks that what was applied to a row is newer than what was applied before: of equals
// only a delete wins.
func (b *books) inOrder(m *tidemark.Mutation, o *tidemark.Outcome) {
	b.mu.Lock()
	if m.Op == tidemark.Delete {
		b.deleted[m.UID] = true
	}
	if m.Model == "item" {
		b.gone[m.UID] = m.Op == tidemark.Delete
	}
	before, at := b.newest[m.UID], o.Meta.T()
	b.newest[m.UID] = max(before, at)
	b.mu.Unlock()
	if at < before || at == before && m.Op != tidemark.Delete {
		b.breach("last writer wins", "the %s of %s at %s was applied after one at %s", m.Op, m.UID, at, before)
	}
}

// decided notes an outcome that was committed.
func (b *books) decided(m *tidemark.Mutation, o *tidemark.Outcome) {
	if o.Applied {
		b.inOrder(m, o)
	}
	token := tokenOf(m)
	b.mu.Lock()
	if m.Op == tidemark.Delete && m.N == 0 {
		b.removed(m)
	}
	if token == "" {
		b.mu.Unlock()
		return
	}
	b.seen[token]++
	n := 0
	if o.Applied {
		b.applied[token]++
		b.count[m.UID]++
		b.version[token] = b.count[m.UID]
		n = b.applied[token]
	}
	mayRepeat := b.repeats[deviceOf(token)] || b.retried[token]
	b.mu.Unlock()
	if n > 1 && !mayRepeat {
		b.breach("exactly once", "%s of %s was applied %d times", token, m.UID, n)
	}
}

// tokenOf returns the token of a write, "" for one that has none.
func tokenOf(m *tidemark.Mutation) string {
	s, err := tidemark.DecodeString(m.Data.Get("note"))
	if err != nil {
		return ""
	}
	return s
}
