package client

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// positioned says that the server was told a position, which it may refuse.
func (p *pass) positioned() bool { return p.From != "" || p.After != "" }

// follow keeps the scopes in step: it subscribes to new ones, leaves others, and pulls.
func (s *session) follow(ctx context.Context) error {
	if err := s.leave(ctx); err != nil {
		return err
	}
	joining, pulling := s.due()
	// A write and a subscription are never on their way together. A row that is pushed before its scope
	// is live, and deleted by another client before it is, would seem to be told of in the scope's pass.
	s.entering = s.subscribing || len(joining) > 0
	if len(joining) > 0 && s.joining == nil && len(s.pushing.batched.flights) == 0 {
		if err := s.subscribe(ctx, joining); err != nil {
			return err
		}
	}
	var unread []*subscription
	for _, sub := range pulling {
		if sub.pass == nil {
			unread = append(unread, sub)
		}
	}
	if err := s.prepare(ctx, unread); err != nil {
		return err
	}
	for _, sub := range pulling {
		if sub.pass == nil {
			continue
		}
		if err := s.pull(ctx, sub); err != nil {
			return err
		}
	}
	return nil
}

// strays reports whether writes are on their way that were discarded. Nobody else will tell what the
// server makes of them: a pass, or a sync, has to begin behind them.
func (s *session) strays(tx tidemark.StoreTx) (bool, error) {
	if s.pushing.flight != nil {
		ms, err := tx.Outbox(s.pushing.n-1, 1)
		return err != nil || len(ms) == 0 || ms[0].N != s.pushing.n, err
	}
	for _, f := range s.pushing.batched.flights {
		ms, err := tx.Outbox(f.ms[0].N-1, len(f.ms))
		if err != nil || len(ms) < len(f.ms) || ms[len(ms)-1].N != f.ms[len(ms)-1].N {
			return true, err
		}
	}
	return false, nil
}

// due returns the scopes that have no subscription, and the subscriptions that have a page
// to ask for, as many as the window leaves room for; both in the order of their names. Scopes that another
// one covers need none.
func (s *session) due() (joining, pulling []*subscription) {
	now := s.now()
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	window := syncWindow
	for _, sc := range s.c.scopes {
		if sc.cover != nil {
			continue
		}
		sub := s.subs[sc.id]
		if sub != nil && sub.scope != sc { // released and registered again: meanwhile its rows may have been evicted
			sub.scope, sub.have = sc, 0
		}
		if sub == nil || !sub.complete {
			s.c.synced(sc, 0)
		}
		switch {
		case sub == nil:
			if !now.Before(sc.retryAt) {
				sub = newSubscription(sc)
				sub.round = s.c.round
				joining = append(joining, sub)
			}
			continue
		case sub.flight != nil:
			window--
		case sub.complete && sub.have >= sc.want && sub.pass == nil && !sub.renew:
			s.c.synced(sc, sub.have)
		case !now.Before(sc.retryAt):
			if sub.pass == nil || !sub.pass.begun() {
				sub.round = s.c.round
			}
			pulling = append(pulling, sub)
		}
	}
	byName := func(a, b *subscription) int { return a.id.compare(b.id) }
	slices.SortFunc(joining, byName)
	slices.SortFunc(pulling, byName)
	return joining, pulling[:min(len(pulling), max(window, 0))]
}

// synced notes, with mu held, the round in which a scope, and with it what it covers,
// was last found to be the server's; 0 for not at all.
func (c *Client) synced(sc *scope, round int64) {
	if sc.have == round {
		return
	}
	sc.have = round
	for _, s := range c.scopes {
		if s.cover == sc {
			s.have = round
		}
	}
	c.changed()
}

// pull asks for the next page of a pass.
func (s *session) pull(ctx context.Context, sub *subscription) error {
	raw, err := encodePlain(tidemark.PullRequest{Scope: sub.number, Cursor: sub.pass.From, After: sub.pass.After, Deflate: s.c.opts.Deflate})
	if err != nil {
		return err
	}
	var f *flight
	f, err = s.send(ctx, syncCall(tidemark.MethodPull, raw), func(ctx context.Context, a tidemark.Answer, err error) error {
		if sub.flight != f {
			return nil
		}
		sub.flight = nil
		if err == nil && a.Err != nil {
			err = a.Err
		}
		if err != nil {
			return s.pullFailed(sub, err)
		}
		page, err := tidemark.ParsePage(a.Result, a.Attachments)
		if err != nil {
			return s.pullFailed(sub, malformed(err))
		}
		return s.arrive(ctx, []arrival{{sub: sub, page: page}})
	})
	sub.flight = f
	return err
}

// cancel gives up the page that was asked for ahead.
func (s *session) cancel(sub *subscription) {
	if f := sub.flight; f != nil {
		s.link.forget(f.id)
		s.land(f.id)
		sub.flight = nil
	}
}

// pullFailed deals with the server's refusal of a page, or with a page that is none. A
// position that the server does not know costs a pass from the beginning; nothing that is pending.
func (s *session) pullFailed(sub *subscription, err error) error {
	if stranger(err) {
		return err
	}
	p := sub.pass
	sub.pass = nil
	s.cancel(sub)
	switch tidemark.CodeOf(err) {
	case tidemark.CodeUnknownScope:
		delete(s.subs, sub.id)
		err = tidemark.Wrap(err, tidemark.CodeUnavailable, "the server no longer knows the scope")
	case tidemark.CodeInvalidRequest, tidemark.CodeCursorTooOld, tidemark.CodeScopeChanged:
		if !p.positioned() {
			break
		}
		s.c.log.Info("scope is told from the beginning", "model", sub.id.model, "code", tidemark.CodeOf(err))
		sub.restart, sub.complete = true, false
		if !p.fresh() {
			return nil
		}
		err = tidemark.Wrap(err, tidemark.CodeUnavailable, "the server does not go on with what it began")
	}
	s.c.syncFailed(sub.scope, sub.round, err, s.now())
	return nil
}

// arrival is a page of a subscription, the pass before it, and after it.
type arrival struct {
	sub   *subscription
	page  *tidemark.ScopePage
	asked *pass
	next  *pass
	last  bool
	stale bool  // the copy was forgotten meanwhile: nothing of the page is stored
	cut   bool  // the server has lost what it had told: the copy is forgotten, and nothing of the page is stored
	marks int64 // the number of the last entry of marks when it was stored
}

// arrive stores pages, each with the progress that it makes, in one transaction. What
// follows them is asked for before that, so that the server reads while the client writes.
func (s *session) arrive(ctx context.Context, pages []arrival) error {
	kept := pages[:0]
	for _, a := range pages {
		if err := cleanPage(a.sub.scope.pred.Schema(), a.page); err != nil {
			if err := s.pullFailed(a.sub, s.unreadable(a.sub.scope.pred.Schema(), err)); err != nil {
				return err
			}
			continue
		}
		if err := a.advance(); err != nil {
			return err
		}
		kept = append(kept, a)
	}
	if len(kept) == 0 {
		return nil
	}
	var ahead error
	for i := range kept {
		if a := &kept[i]; !a.last && ahead == nil && s.pulling() < syncWindow {
			a.sub.pass = a.next
			ahead = s.pull(ctx, a.sub)
		}
	}
	if err := s.storePages(ctx, kept); err != nil {
		return err
	}
	for i := range kept {
		if err := s.stored(ctx, &kept[i]); err != nil {
			return err
		}
	}
	return ahead
}

// pulling counts the pages that are asked for.
func (s *session) pulling() int {
	n := 0
	for _, sub := range s.subs {
		if sub.flight != nil {
			n++
		}
	}
	return n
}

// unreadable is why a row cannot be kept: the struct has a column of another kind than the server, which
// only another version of the program changes, or else the message is malformed.
func (s *session) unreadable(schema *tidemark.Schema, err error) error {
	e, ok := errors.AsType[*tidemark.Error](err)
	if !ok || e.Field == "" || s.opened == nil {
		return malformed(err)
	}
	f, _ := schema.Field(e.Field)
	theirs := s.opened.Models[schema.Name()].Fields[e.Field]
	if theirs == "" || theirs == f.Kind.String() {
		return malformed(err)
	}
	return tidemark.Wrap(err, tidemark.CodeInvalidData, "model %s: the column %s is %s at the server and %s here", schema.Name(), e.Field, theirs, f.Kind).OnField(e.Field)
}

func cleanPage(schema *tidemark.Schema, page *tidemark.ScopePage) error {
	var c cleaner
	for i := range page.Rows {
		if err := c.clean(schema, &page.Rows[i]); err != nil {
			return err
		}
	}
	for i := range page.Gone {
		if err := tidemark.CheckUID(page.Gone[i].UID); err != nil {
			return err
		}
	}
	return nil
}

// errEndless ends a connection whose server goes in circles.
var errEndless = tidemark.NewError(tidemark.CodeUnavailable, "the server's pages do not end")

// advance finds out where the pass stands after the page.
func (a *arrival) advance() error {
	sub, page := a.sub, a.page
	if page.Cursor == "" {
		return malformed(nil)
	}
	next := *sub.pass
	if !next.begun() {
		next.Upto, next.Total, sub.visited, sub.whole = page.Cursor, page.Total, nil, true
	}
	if page.After != "" {
		if sub.visited == nil {
			sub.visited = map[string]bool{next.After: true}
		}
		if sub.visited[page.After] {
			return errEndless
		}
		sub.visited[page.After] = true
	}
	next.After, next.Told = page.After, next.Told+len(page.Rows)
	a.asked, a.next, a.last = sub.pass, &next, page.After == ""
	return nil
}

func (s *session) storePages(ctx context.Context, pages []arrival) error {
	return s.c.commit(ctx, func(w *work) error {
		for i := range pages {
			if err := w.storePage(&pages[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *work) storePage(a *arrival) error {
	saved, err := loadScope(w.tx, a.sub.id)
	if err != nil {
		return err
	}
	if a.stale = !saved.continues(a.asked); a.stale {
		return nil
	}
	whole, err := w.retold(a, saved)
	if err != nil {
		return err
	}
	if a.cut = !whole; a.cut {
		if err := w.lose(); err != nil {
			return err
		}
		return w.restart(a.sub.id.entry(), saved)
	}
	filled, err := w.hearPage(a)
	if err != nil {
		return err
	}
	if a.marks, err = w.marked(); err != nil {
		return err
	}
	before := saved.progress
	saved.Tag, saved.Pass = a.sub.tag, a.next
	if a.last {
		if a.asked.fresh() && !filled {
			if err := w.dropUnseen(a.sub.scope.pred, a.asked.Number); err != nil {
				return err
			}
		}
		saved.Cursor, saved.Pass, saved.Marks = a.next.Upto, nil, max(saved.Marks, a.asked.Marks)
	}
	if saved.progress == before {
		return nil
	}
	w.c.inUse(a.sub.scope, saved)
	return saved.save(w.tx, a.sub.id.entry())
}

// hearPage stores the rows of a page, and drops those that left. filled says that there was
// no record of the model but those of the pass.
func (w *work) hearPage(a *arrival) (filled bool, err error) {
	model := a.sub.id.model
	still, err := a.sub.blank.still(w, model)
	if err != nil {
		return false, err
	}
	if still && a.asked.fresh() && len(a.page.Gone) == 0 {
		return true, w.fill(model, a.page.Rows, a.asked.Number)
	}
	words := make([]word, 0, len(a.page.Rows)+len(a.page.Gone))
	for _, t := range a.page.Rows {
		words = append(words, word{uid: t.Meta.UID, state: t, wanted: true, pass: a.asked.Number})
	}
	for _, d := range a.page.Gone {
		words = append(words, word{uid: d.UID, gone: d})
	}
	return false, w.hear(model, words, true)
}

// fill stores rows of which no record can exist.
func (w *work) fill(model string, rows []tidemark.RowMeta, number int64) error {
	recs := make([]tidemark.Record, len(rows))
	for i, t := range rows {
		w.c.observe(t.Meta.T())
		recs[i] = tidemark.Record{UID: t.Meta.UID, Row: t.Row, Base: t.Row, Meta: t.Meta, Seen: number}
		w.changes = append(w.changes, change{model, nil, t.Row})
	}
	return w.tx.Put(model, recs)
}

// dropUnseen drops the rows that p selects and that the server did not tell of in the pass
// of that number: it no longer has them. What is pending of them stays.
func (w *work) dropUnseen(p *tidemark.Predicate, number int64) error {
	uids, err := w.tx.Unseen(p, number)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(uids, 1000) {
		recs, err := w.tx.Records(p.Schema().Name(), part)
		if err != nil {
			return err
		}
		for i := range recs {
			forget(&recs[i])
		}
		if err := w.resettle(p.Schema().Name(), recs); err != nil {
			return err
		}
	}
	return nil
}

// forget drops the server's state of a row, as where it left. Where writes are pending a tombstone remembers
// how new it was: those that were older than it, and so not shown, must not come to light now.
func forget(r *tidemark.Record) {
	switch {
	case r.Pending == 0:
		r.Base, r.Meta = nil, tidemark.Meta{}
	case !r.Meta.Deleted():
		r.Meta = tidemark.Meta{UID: r.UID, CreatedAt: untold, DeletedAt: max(r.Meta.T(), 1)}
	}
}

// distrust has the tombstones of rows with pending writes give way to any word that the server has the row: a pass from
// the beginning does not repeat what is gone, and the server may have lost that it is.
func (w *work) distrust(model string) error {
	const most = 1000
	for after, n := int64(0), most; n == most && w.c.pending.Load() > 0; {
		ms, err := w.tx.Outbox(after, most)
		if err != nil {
			return err
		}
		var uids []string
		for i := range ms {
			if after = ms[i].N; ms[i].Model == model {
				uids = append(uids, ms[i].UID)
			}
		}
		n = len(ms)
		slices.Sort(uids)
		recs, err := w.tx.Records(model, slices.Compact(uids))
		if err != nil {
			return err
		}
		gone := recs[:0]
		for _, r := range recs {
			if r.Meta.Deleted() {
				r.Meta = tidemark.Meta{UID: r.UID, CreatedAt: untold, DeletedAt: r.Meta.DeletedAt}
				gone = append(gone, r)
			}
		}
		if len(gone) > 0 {
			if err := w.store(model, gone); err != nil {
				return err
			}
		}
	}
	return nil
}

// untold is when a row was created that the server did not say is gone: it only no longer tells of it, and may have lost
// it. Such a tombstone is no word of the server's, and gives way to any that it has the row, however old.
const untold = -1

// stored goes on after a page is durable.
func (s *session) stored(ctx context.Context, a *arrival) error {
	sub := a.sub
	switch {
	case a.stale, a.cut:
		if a.cut {
			s.c.log.Warn("the server has lost changes that it had told: the scope is told from the beginning", "model", sub.id.model)
		}
		s.cancel(sub)
		sub.pass, sub.complete, sub.blank = nil, false, nil
		return nil
	case !a.last:
		sub.pass = a.next
		s.c.progressed(sub.scope, sub.pass)
		return nil
	}
	sub.pass, sub.blank, sub.renew = nil, nil, false
	s.c.progressed(sub.scope, nil)
	if !sub.whole { // what changed between the connections
		sub.pass, sub.round = &pass{From: a.next.Upto, Marks: a.marks}, s.c.currentRound()
		return nil
	}
	sub.complete, sub.have = true, sub.round
	s.c.syncDone(sub.scope, sub.round)
	return nil
}

func (c *Client) currentRound() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.round
}

// progressed shows how far the pass of a scope has come; nil for none.
func (c *Client) progressed(sc *scope, p *pass) {
	told, total := 0, 0
	if p != nil && p.Total > 0 {
		told, total = min(p.Told, p.Total), p.Total
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sc.told == told && sc.total == total {
		return
	}
	sc.told, sc.total = told, total
	c.changed()
}

// word is what the server says of one row: its state, or that it left.
type word struct {
	uid    string
	state  tidemark.RowMeta
	gone   tidemark.Departure // where state has no row
	wanted bool               // a scope of this connection selects it
	pass   int64              // the number of the pass from the beginning of which it is a part; 0 for none
	news   bool               // the record was not so before
}

// hear applies words about rows of a model, in their order. passing says that a page may be
// on its way that is older than they are.
func (w *work) hear(model string, words []word, passing bool) error {
	at := make(map[string]int, len(words))
	uids := make([]string, 0, len(words))
	for i := range words {
		uid := words[i].uid
		if _, twice := at[uid]; !twice {
			at[uid] = len(uids)
			uids = append(uids, uid)
		}
	}
	recs, err := w.tx.Records(model, uids)
	if err != nil {
		return err
	}
	touched := make([]bool, len(recs))
	for i := range words {
		x := &words[i]
		k := at[x.uid]
		if w.word(&recs[k], x, passing) {
			touched[k] = true
		}
	}
	kept := recs[:0]
	for i := range recs {
		if touched[i] {
			kept = append(kept, recs[i])
		}
	}
	return w.resettle(model, kept)
}

// word applies x to the row's record, and reports whether that has changed.
func (w *work) word(r *tidemark.Record, x *word, passing bool) bool {
	if len(x.state.Row) == 0 {
		w.c.observe(x.gone.At)
		held := r.Base != nil
		if x.news = left(r, x.gone, passing); !x.news {
			return false
		}
		x.news = held
		w.seen(r)
		return true
	}
	x.news = false
	w.c.observe(x.state.Meta.T())
	if r.Seen < max(x.pass, w.c.loss.Load()) && r.Meta.T() > x.state.Meta.T() {
		// What is newer was told before the pass began, or before a loss was noticed: the server has lost it since.
		r.Meta = tidemark.Meta{}
	}
	if r.Base != nil && r.Meta == x.state.Meta && bytes.Equal(r.Base, x.state.Row) {
		return w.seen(r)
	}
	x.news = w.told(r, x.state, x.wanted)
	return x.news
}

// left applies a departure: the base goes, unless the record knows a newer version, or
// has the very version that left: then it was this client's own write that moved the row
// out of reach. While an older page may be on its way, or a verdict, a tombstone keeps it from bringing the row back.
// Where writes are pending, a row that is not deleted stays as it was under the tombstone: they are shown on
// top of it, and never as a row of nothing but what they wrote.
func left(r *tidemark.Record, d tidemark.Departure, passing bool) bool {
	guard := passing || r.Pending > 0
	switch {
	case r.Base == nil && r.Meta.UID == "" && !guard:
		return false
	case r.Meta.UID != "" && r.Meta.T() > d.At:
		return false
	case r.Base != nil && r.Meta.T() == d.At && !d.Deleted:
		return false
	}
	if r.Meta = (tidemark.Meta{}); guard {
		r.Meta = d.Meta()
	}
	switch {
	case d.Deleted || r.Pending == 0:
		r.Base = nil
	case r.Base == nil: // this client made it, and has not heard so
		r.Base = r.Row
	}
	return true
}
