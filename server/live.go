package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// live tells the sessions what changes in their scopes.
type live struct {
	server *Server
	scopes scopes
	cursor cursorTimer

	mu         sync.Mutex           // protects what follows; not held while sending or reading the database
	rows       map[rowKey]place     // rows with publications that have not left
	txs        map[any]*publication // of the server code's transactions under way
	generation uint64               // of the flights that begin now
	young, old int                  // flights under way, of this generation and of those before
	landed     chan struct{}        // closed when the old ones have landed; nil while nobody waits
}

func newLive(s *Server) *live {
	l := &live{server: s, rows: make(map[rowKey]place), txs: make(map[any]*publication)}
	l.cursor.live = l
	return l
}

// deliver tells a publication that is ready. Where that takes time it returns what is left to do,
// and the publication keeps its place meanwhile.
func (l *live) deliver(g *publication) (later func()) {
	if g.doubtful {
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
	if len(t.filtered) > 0 {
		return t.send
	}
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
	sent := false
	for _, g := range groups {
		var shared []*tidemark.Message
		if len(t.filtered) == 0 {
			shared = t.messages(g.scopes, nil, len(groups) > 1)
		}
		for _, s := range g.sessions {
			if s == t.except {
				continue
			}
			messages := shared
			if len(t.filtered) > 0 {
				messages = t.seenBy(s, g.scopes)
			}
			for _, m := range messages {
				sent = s.send(m) == nil || sent // one that cannot take it is closed by its transport
			}
		}
	}
	if sent {
		t.live.cursor.arm()
	}
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

// seenBy returns what s hears where hooks decide about rows. A session for which they fail
// is ended: it comes back and catches up.
func (t *telling) seenBy(s *Session, scopes []int64) []*tidemark.Message {
	if s.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := t.live.server.bound(s.ctx)
	defer cancel()
	sights := make([]sight, len(t.items))
	for model, svc := range t.filtered {
		if err := t.look(ctx, s, svc, model, scopes, sights); err != nil {
			if s.ctx.Err() == nil {
				t.live.server.log.Warn("session ended, as a hook failed", slog.String("session", s.id), slog.String("model", model), slog.Any("error", err))
			}
			s.close(tidemark.ClosedError)
			return nil
		}
	}
	return t.messages(scopes, sights, true)
}

// look has the hooks of a model look at the rows as they are, and at those as they were that would be
// told to have left: of a row that was never the session's to see it is told nothing.
func (t *telling) look(ctx context.Context, s *Session, svc *Service, model string, scopes []int64, sights []sight) error {
	where := t.whereOf(model, scopes)
	if where == nil {
		return nil
	}
	find := func(rows []tidemark.RowMeta) (map[string]tidemark.Row, error) {
		r := svc.newReading(ctx, &Call{Caller: CallerClient, Session: s}, json.RawMessage(where.Key()))
		left, err := r.after(rows)
		if left == nil && err == nil { // the hooks have gone meanwhile
			left, err = rowsOf(rowsIn(rows))
		}
		return left, err
	}
	mine := func(key rowKey, numbers []int64) bool {
		return key.model == model && slices.ContainsFunc(numbers, func(n int64) bool { return slices.Contains(scopes, n) })
	}
	var now, before []tidemark.RowMeta
	for i := range t.items {
		if it := &t.items[i]; mine(it.key, it.is) {
			now = append(now, tidemark.RowMeta{Row: it.after, Meta: it.meta})
		}
	}
	left, err := find(now)
	if err != nil {
		return err
	}
	for i := range t.items {
		it := &t.items[i]
		if mine(it.key, it.is) {
			sights[i] = sight{row: left[it.key.uid], own: true}
		}
		if sights[i].row == nil && mine(it.key, it.was) {
			before = append(before, tidemark.RowMeta{Row: it.before})
		}
	}
	if len(before) > 0 {
		if left, err = find(before); err != nil {
			return err
		}
	}
	for i := range t.items {
		it := &t.items[i]
		if it.key.model != model || sights[i].row != nil {
			continue
		}
		_, seen := left[it.key.uid]
		sights[i].own, sights[i].hidden = true, !mine(it.key, it.was) || !seen
	}
	return nil
}

func rowsIn(list []tidemark.RowMeta) []tidemark.Row {
	rows := make([]tidemark.Row, len(list))
	for i := range list {
		rows[i] = list[i].Row
	}
	return rows
}

// whereOf returns the where of the first of the scopes that is the model's, nil when none is.
func (t *telling) whereOf(model string, scopes []int64) *tidemark.Predicate {
	for _, h := range t.touched {
		if h.scope.where.Schema().Name() == model && slices.Contains(scopes, h.scope.number) {
			return h.scope.where
		}
	}
	return nil
}

// settle tells what became of a publication whose transaction may have been committed or not: as the
// rows now are. Where that cannot be read, those whom it concerns are ended: they come back
// and catch up.
func (l *live) settle(g *publication) {
	ctx, cancel := l.server.bound(l.server.ctx)
	defer cancel()
	items := g.items()
	changed, err := l.reread(ctx, items)
	if err == nil {
		items = changed
	}
	t := l.address(items)
	if t == nil {
		return
	}
	if t.whole = true; err == nil {
		t.send()
		return
	}
	l.server.log.Warn("sessions ended, as it is unknown what was committed", slog.Any("error", err))
	for _, g := range t.groups() {
		for _, s := range g.sessions {
			s.close(tidemark.ClosedError)
		}
	}
}

// reread returns those of the items whose rows are not as they were before, as they now are.
func (l *live) reread(ctx context.Context, items []item) (changed []item, err error) {
	byModel := make(map[string][]string)
	for i := range items {
		byModel[items[i].key.model] = append(byModel[items[i].key.model], items[i].key.uid)
	}
	now := make(map[rowKey]tidemark.RowMeta)
	for model, uids := range byModel {
		svc, ok := l.server.Lookup(model)
		if !ok || svc.model == nil {
			continue
		}
		none, err := tidemark.ParseWhere(svc.model, []byte(`{"uid":{"gt":null}}`))
		if err != nil {
			return nil, err
		}
		snap, err := l.server.driver.Snapshot(ctx, none, uids)
		if err != nil {
			return nil, err
		}
		for _, rm := range snap.Others {
			uid := rm.Meta.UID
			if uid == "" {
				uid = rm.Row.UID()
			}
			now[rowKey{model, uid}] = rm
		}
	}
	for _, it := range items {
		rm := now[it.key]
		if bytes.Equal(rm.Row, it.before) || rm.Meta.T() == 0 {
			continue
		}
		it.after, it.meta = rm.Row, rm.Meta
		changed = append(changed, it)
	}
	return changed, nil
}
