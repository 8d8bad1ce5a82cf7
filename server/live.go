package server

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

// live tells the sessions what changes in their scopes.
type live struct {
	server *Server
	scopes scopes
	cursor cursorTimer

	looking chan struct{} // has a token for each session for which hooks run
	queued  atomic.Int64  // what sessions will hear when hooks have run

	mu         sync.Mutex           // protects what follows; not held while sending or reading the database
	rows       map[rowKey]place     // rows with publications that have not left
	txs        map[any]*publication // of the server code's transactions under way
	generation uint64               // of the flights that begin now
	young, old int                  // flights under way, of this generation and of those before
	landed     chan struct{}        // closed when the old ones have landed; nil while nobody waits
}

func newLive(s *Server) *live {
	l := &live{server: s, looking: make(chan struct{}, maxLooking), rows: make(map[rowKey]place), txs: make(map[any]*publication)}
	l.cursor.live = l
	return l
}

// deliver tells a publication that is ready. Where the database must be asked first it returns
// what is left to do, and the publication keeps its place meanwhile.
func (l *live) deliver(g *publication) (later func()) {
	if g.doubtful() {
		if l.scopes.empty() {
			return nil
		}
		return func() { l.settle(g) }
	}
	t := l.address(g.items())
	if t == nil {
		return nil
	}
	t.whole, t.except = g.whole(), g.except
	t.send()
	return nil
}

// telling is a publication with those who hear of it.
type telling struct {
	live     *live
	items    []item
	touched  []hearers // in the order of the scopes' numbers
	filtered map[string]*Service
	whole    bool
	except   *Session
}

// hearers are the sessions of one scope that a publication touches.
type hearers struct {
	scope    *scope
	sessions []*Session
}

// address looks up which scopes a publication touches; it returns nil when there are none.
func (l *live) address(items []item) *telling {
	x := &l.scopes
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.byNumber) == 0 {
		return nil
	}
	var all []int64
	for i := range items {
		it := &items[i]
		m := x.models[it.key.model]
		if m == nil {
			continue
		}
		from := len(all)
		all = m.index.Lookup(it.before, all)
		mid := len(all)
		all = m.index.Lookup(it.after, all)
		it.was, it.is = all[from:mid:mid], all[mid:len(all):len(all)]
		slices.Sort(it.was)
		slices.Sort(it.is)
	}
	if len(all) == 0 {
		return nil
	}
	t := &telling{live: l, items: items}
	numbers := slices.Clone(all) // the items' lists stay
	slices.Sort(numbers)
	for _, n := range slices.Compact(numbers) {
		sc := x.byNumber[n]
		t.touched = append(t.touched, hearers{sc, sc.sessions.lend()})
		t.filter(sc.where.Schema().Name())
	}
	return t
}

// filter notes that hooks decide which rows of the model a session hears of.
func (t *telling) filter(model string) {
	svc, ok := t.live.server.Lookup(model)
	if !ok || !svc.setup.Load().filters() {
		return
	}
	if t.filtered == nil {
		t.filtered = make(map[string]*Service)
	}
	t.filtered[model] = svc
}

// send sends to each session what it is to hear: those with the same scopes get the same message,
// which is encoded once.
func (t *telling) send() {
	groups := t.groups()
	for _, g := range groups {
		var shared []*tidemark.Message
		if len(t.filtered) == 0 {
			shared = t.messages(g.scopes, nil, len(groups) > 1)
		}
		for _, s := range g.sessions {
			switch {
			case s == t.except:
			case len(t.filtered) > 0:
				s.hearing.add(func() []*tidemark.Message { return t.seenBy(s, g.scopes) })
			default:
				s.hearing.send(shared)
			}
		}
	}
	t.live.cursor.arm()
}

// group are sessions that hold the same scopes of those that a publication touches.
type group struct {
	scopes   []int64
	sessions []*Session
}

// groups divides the sessions, scope by scope: who is in a scope parts from who was with him so far.
func (t *telling) groups() []group {
	if len(t.touched) == 1 {
		h := &t.touched[0]
		return []group{{[]int64{h.scope.number}, h.sessions}}
	}
	groups := []group{{}}
	var order []*Session
	in := make(map[*Session]int)
	for _, h := range t.touched {
		with := make(map[int]int) // the group of those of a group that are in this scope too
		for _, s := range h.sessions {
			was, known := in[s]
			if !known {
				order = append(order, s)
			}
			now, ok := with[was]
			if !ok {
				now = len(groups)
				with[was] = now
				groups = append(groups, group{scopes: append(slices.Clip(groups[was].scopes), h.scope.number)})
			}
			in[s] = now
		}
	}
	for _, s := range order {
		g := &groups[in[s]]
		g.sessions = append(g.sessions, s)
	}
	return slices.DeleteFunc(groups, func(g group) bool { return len(g.sessions) == 0 })
}

// sight is what hooks leave of an item for one session.
type sight struct {
	row    tidemark.Row // as they leave it; nil when it is hidden
	hidden bool         // the row as it was is hidden too
	own    bool         // hooks were asked
}

// maxChanges is the length in bytes beyond which a message of changes is cut, between units.
const maxChanges = 512 << 10

// messages returns what a session with these scopes hears of the publication. sights is nil, or
// has what hooks leave of each item. keep says that others hear of the same items.
func (t *telling) messages(scopes []int64, sights []sight, keep bool) (list []*tidemark.Message) {
	var b []byte
	var in, out []int64
	last := -1 // the item that b ends with
	for i := range t.items {
		it := &t.items[i]
		in = common(in[:0], it.is, scopes)
		out = common(out[:0], it.was, scopes)
		if len(in)+len(out) == 0 {
			continue
		}
		row := it.after
		if sights != nil && sights[i].own {
			if row = sights[i].row; row == nil {
				if sights[i].hidden {
					continue // nobody was told that it exists
				}
				in = in[:0]
			}
		}
		if len(in) == 0 {
			row = nil
		}
		out = slices.DeleteFunc(out, func(n int64) bool { return slices.Contains(in, n) })
		if last >= 0 && len(b) > maxChanges && t.separable(last, i) {
			list = append(list, changesMessage(b))
			b = nil
		}
		if b == nil {
			b = append(make([]byte, 0, t.size(i, row, keep)), `{"changes":[`...)
		} else {
			b = append(b, ',')
		}
		b = it.appendBody(b, row, keep && (sights == nil || !sights[i].own))
		b = tidemark.AppendScopes(b, in, out)
		last = i
	}
	if b != nil {
		list = append(list, changesMessage(b))
	}
	return list
}

// size is about how long the message will be that begins with item i.
func (t *telling) size(i int, row tidemark.Row, keep bool) int {
	n := len(row) + 256
	for _, it := range t.items[i+1:] {
		if n > maxChanges || keep {
			break
		}
		n += len(it.after) + 128
	}
	return n
}

// separable reports whether a message may end with item i and the next begin with item j.
func (t *telling) separable(i, j int) bool {
	return !t.whole && (t.items[j].unit == 0 || t.items[i].unit != t.items[j].unit)
}

func changesMessage(b []byte) *tidemark.Message {
	return &tidemark.Message{Event: tidemark.EventChanges, Args: []json.RawMessage{append(b, `]}`...)}}
}

// common appends the numbers that are in both lists, which are sorted.
func common(into, a, b []int64) []int64 {
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0], b[0]); {
		case c < 0:
			a = a[1:]
		case c > 0:
			b = b[1:]
		default:
			into = append(into, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return into
}

// appendBody appends the change without its scopes: with the row as a session sees it, nil where it
// left. What is the same for others is kept.
func (it *item) appendBody(b []byte, row tidemark.Row, keep bool) []byte {
	c := tidemark.Change{Model: it.key.model, Row: row, Meta: it.meta}
	kept := &it.body
	if row == nil {
		kept = &it.gone
		c.Gone = tidemark.Departure{UID: it.key.uid, At: it.meta.T(), Deleted: it.after == nil}
	}
	if !keep {
		return c.AppendBody(b)
	}
	if *kept == nil {
		*kept = c.AppendBody(nil)
	}
	return append(b, *kept...)
}
