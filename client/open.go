package client

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// maxJoining is how many scopes one request subscribes to.
const maxJoining = 128

// subscription is a scope on one connection of the second protocol.
type subscription struct {
	id     scopeID
	scope  *scope // of the client's; another one after the clause was released and registered again
	number int64  // the server's
	tag    string // the server's, for the cursors

	pass    *pass   // to go on with, as it is stored; nil when it is to be read from the store
	flight  *flight // the pull whose answer is awaited
	round   int64   // of Sync, when the first page of the pass was asked for
	restart bool    // the server refused the progress: the next pass is from the beginning
	renew   bool    // what is marked is so much that there should be a new cursor
	visited map[string]bool
	blank   *blank // the model had no records when the pass began; nil when it had

	whole    bool  // a first page has come on this connection: everything later comes live
	complete bool  // a pass that began on this connection is over: the copy is the server's
	have     int64 // the round of that pass
}

// blank says that there was no record of the model when its puts were these: as long as
// they are, a pass need not look for what is held.
type blank struct{ puts int64 }

func newSubscription(sc *scope) *subscription { return &subscription{id: sc.id, scope: sc} }

// open asks the server for the second protocol, and in the same round trip for what is
// new in the scopes.
func (s *session) open(ctx context.Context) error {
	if s.asked {
		return nil
	}
	s.asked = true
	name, err := s.c.name(ctx)
	if err != nil {
		return err
	}
	joining, _ := s.due()
	if s.alone {
		joining = nil
	}
	joining, reqs, err := s.joinRequests(ctx, joining)
	if err != nil {
		return err
	}
	raw, err := encodePlain(tidemark.OpenRequest{Protocol: tidemark.ProtocolVersion, Client: name, Scopes: reqs})
	if err != nil {
		return err
	}
	_, err = s.send(ctx, syncCall(tidemark.MethodOpen, raw), func(ctx context.Context, a tidemark.Answer, err error) error {
		return s.answeredOpen(ctx, joining, a, err)
	})
	return err
}

func syncCall(method string, arg json.RawMessage) request {
	return request{service: tidemark.ServiceSync, method: method, args: []json.RawMessage{arg}}
}

func (s *session) answeredOpen(ctx context.Context, joining []*subscription, a tidemark.Answer, err error) error {
	if err == nil && a.Err != nil {
		err = a.Err
	}
	switch tidemark.CodeOf(err) {
	case tidemark.CodeLimit: // fewer than it was asked for; it says how many when it is asked for none
		if !s.alone && len(joining) > 0 {
			s.asked, s.alone = false, true
			return nil
		}
	case tidemark.CodeMissingService, tidemark.CodeMissingMethod:
		s.ready = true
		s.heard, s.cursor, s.early, s.weight = nil, "", 0, 0
		return nil
	}
	if err != nil {
		return err
	}
	var o tidemark.OpenAnswer
	if err := json.Unmarshal(a.Result, &o); err != nil {
		return malformed(err)
	}
	if o.Protocol != tidemark.ProtocolVersion || len(o.Scopes) != len(joining) {
		return malformed(nil)
	}
	s.ready, s.opened, s.events = true, &o, nil
	if err := s.met(ctx, &o); err != nil {
		return err
	}
	answers := o.Scopes
	o.Scopes = nil // their pages need not be kept
	return s.subscribed(ctx, joining, answers)
}

// malformed ends a connection whose server does not keep to the protocol: what it says
// cannot be stored, and without it the copy would have a gap.
func malformed(cause error) error {
	return tidemark.Wrap(cause, tidemark.CodeUnavailable, "the server's message is malformed")
}

// joinRequests returns what asks for new scopes, as many of them as go with one message.
func (s *session) joinRequests(ctx context.Context, joining []*subscription) ([]*subscription, []tidemark.ScopeRequest, error) {
	budget := s.c.opts.mostBytes(s.link) - 1024
	n, most := 0, maxJoining
	if s.opened != nil && s.opened.Limits.Scopes > 0 {
		most = min(most, s.opened.Limits.Scopes)
	}
	for n < len(joining) && n < most {
		if budget -= len(joining[n].id.key) + 1024; budget < 0 && n > 0 {
			break
		}
		n++
	}
	joining = joining[:n]
	if err := s.prepare(ctx, joining); err != nil {
		return nil, nil, err
	}
	reqs := make([]tidemark.ScopeRequest, n)
	for i, sub := range joining {
		reqs[i] = tidemark.ScopeRequest{Model: sub.id.model, Where: json.RawMessage(sub.id.key), Cursor: sub.pass.From, Tag: sub.tag, After: sub.pass.After}
	}
	return joining, reqs, nil
}

// prepare reads where the copies of the scopes stand, and gives passes from the beginning
// a number. None of them has a pass then, while there are strays.
func (s *session) prepare(ctx context.Context, subs []*subscription) error {
	if len(subs) == 0 {
		return nil
	}
	var number int64
	var wait bool
	err := s.c.commit(ctx, func(w *work) (err error) {
		number = 0
		if wait, err = s.strays(w.tx); err != nil || wait {
			return err
		}
		marked, err := w.marked()
		if err != nil {
			return err
		}
		first := map[string]bool{}
		for _, sub := range subs {
			if err := s.pruneIn(w, sub.id.model); err != nil {
				return err
			}
			saved, err := loadScope(w.tx, sub.id)
			if err != nil {
				return err
			}
			p, ok := saved.next()
			if ok && !sub.restart && (!p.fresh() || p.begun()) {
				if !p.begun() {
					p.Marks = marked
				}
				sub.pass, sub.tag = p, saved.Tag
				continue
			}
			if number == 0 {
				if number, err = w.nextPass(); err != nil {
					return err
				}
			}
			sub.blank = nil
			if !first[sub.id.model] { // one pass only: another may tell the same rows
				first[sub.id.model] = true
				if err := w.distrust(sub.id.model); err != nil {
					return err
				}
				if sub.blank, err = s.blankIn(w, sub, saved); err != nil {
					return err
				}
			}
			if err := s.fromBeginning(w, sub, saved, number); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || wait {
		return err
	}
	if number != 0 {
		s.c.pass.Store(number)
	}
	for _, sub := range subs {
		sub.restart = false
		s.notePruned(sub.id.model)
		s.c.progressed(sub.scope, sub.pass)
	}
	return nil
}

// fromBeginning begins a pass that tells all rows.
func (s *session) fromBeginning(w *work, sub *subscription, saved *savedScope, number int64) error {
	sub.pass, sub.visited = &pass{Number: number}, nil
	if sub.number == 0 {
		sub.tag = ""
	}
	stored := *sub.pass
	saved.progress = progress{Tag: sub.tag, Pass: &stored}
	if saved.At == 0 {
		saved.At = tidemark.StampOf(s.c.opts.Now())
	}
	saved.Released = !s.c.registered(sub.id.model)[sub.id]
	return saved.save(w.tx, sub.id.entry())
}

// blankIn finds out whether the model has no records. It looks only where that may be: on
// the first pass of a model's scopes on a connection, when none has any progress.
func (s *session) blankIn(w *work, sub *subscription, saved *savedScope) (*blank, error) {
	if s.pruned[sub.id.model] || saved.progress != (progress{}) {
		return nil, nil
	}
	schema := sub.scope.pred.Schema()
	entries, err := w.tx.Entries(keyScopes + schema.Name() + "/")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var other savedScope
		if json.Unmarshal(e.Value, &other) == nil && (other.Cursor != "" || other.Pass != nil && other.Pass.begun()) {
			return nil, nil
		}
	}
	all, err := tidemark.Where{}.Compile(schema)
	if err != nil {
		return nil, err
	}
	queued, err := w.tx.Outbox(0, 1)
	if err != nil || len(queued) > 0 {
		return nil, err
	}
	held, err := w.tx.Held(all)
	if err != nil || len(held) > 0 {
		return nil, err
	}
	return &blank{w.c.putsOf(schema.Name())}, nil
}

// still reports whether there is no record of the model but those of the pass itself.
func (b *blank) still(w *work, model string) (bool, error) {
	if b == nil || b.puts != w.c.putsOf(model) {
		return false, nil
	}
	queued, err := w.tx.Outbox(0, 1) // another process may use the store
	return err == nil && len(queued) == 0, err
}

func (c *Client) putsOf(model string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.puts[model]
}

// subscribe asks for scopes that are new on this connection.
func (s *session) subscribe(ctx context.Context, joining []*subscription) error {
	joining, reqs, err := s.joinRequests(ctx, joining)
	if err != nil {
		return err
	}
	raw, err := encodePlain(reqs)
	if err != nil {
		return err
	}
	s.subscribing = true
	s.joining, err = s.send(ctx, syncCall(tidemark.MethodSubscribe, raw), func(ctx context.Context, a tidemark.Answer, err error) error {
		s.joining, s.subscribing = nil, false
		if err == nil && a.Err != nil {
			err = a.Err
		}
		if stranger(err) {
			return err
		}
		if err != nil {
			for _, sub := range joining {
				s.c.syncFailed(sub.scope, sub.round, err, s.now())
			}
			return nil
		}
		var answers []tidemark.ScopeAnswer
		err = tidemark.EachElement(a.Result, func(_ int, v []byte) error {
			var answer tidemark.ScopeAnswer
			err := answer.UnmarshalJSON(v)
			answers = append(answers, answer)
			return err
		})
		if err != nil || len(answers) != len(joining) {
			return malformed(err)
		}
		return s.subscribed(ctx, joining, answers)
	})
	return err
}

// subscribed takes the answers for scopes that are live from now on, or refused.
func (s *session) subscribed(ctx context.Context, joining []*subscription, answers []tidemark.ScopeAnswer) error {
	var pages []arrival
	for i, sub := range joining {
		a := &answers[i]
		if a.Scope <= 0 {
			if a.Err == nil {
				return malformed(nil)
			}
			if stranger(a.Err) {
				return a.Err
			}
			s.c.scopeFailed(sub.scope, sub.round, a.Err, a.Err.Code == tidemark.CodeLimit, s.now())
			continue
		}
		former := sub.tag
		sub.number, sub.tag = a.Scope, a.Tag
		s.subs[sub.id] = sub
		if a.Err == nil && sub.pass.positioned() && former != a.Tag {
			a.Err = tidemark.NewError(tidemark.CodeScopeChanged, "the scope has another tag")
		}
		switch {
		case a.Err != nil:
			if err := s.pullFailed(sub, a.Err); err != nil {
				return err
			}
		case a.Page != nil:
			pages = append(pages, arrival{sub: sub, page: a.Page})
		}
	}
	return s.arrive(ctx, pages)
}

// leave ends the subscriptions that are no longer needed: of scopes that were released, or
// that another one covers which is complete.
func (s *session) leave(ctx context.Context) error {
	if s.joining != nil {
		return nil
	}
	var numbers []int64
	for _, sub := range s.unneeded() {
		if sub.flight != nil {
			s.cancel(sub)
		}
		delete(s.subs, sub.id)
		numbers = append(numbers, sub.number)
	}
	numbers = slices.DeleteFunc(numbers, func(n int64) bool { // clauses may come to the same on the server
		for _, sub := range s.subs {
			if sub.number == n {
				return true
			}
		}
		return false
	})
	if len(numbers) == 0 {
		return nil
	}
	slices.Sort(numbers)
	raw, err := encodePlain(slices.Compact(numbers))
	if err != nil {
		return err
	}
	// Until the answer nothing is subscribed: the server may do the two in any order.
	s.joining, err = s.send(ctx, syncCall(tidemark.MethodUnsubscribe, raw), func(_ context.Context, a tidemark.Answer, err error) error {
		s.joining = nil
		if err == nil && a.Err != nil {
			err = a.Err
		}
		if stranger(err) {
			return err
		}
		if err != nil {
			s.c.log.Warn("scopes were not left", "error", err)
			return nil
		}
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		s.c.makeRoom()
		return nil
	})
	return err
}

func (s *session) unneeded() []*subscription {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	var out []*subscription
	for id, sub := range s.subs {
		sc := s.c.scopes[id]
		if sc != nil && sc.cover != nil {
			if cover := s.subs[sc.cover.id]; cover != nil && cover.complete {
				sc = nil
			}
		}
		if sc == nil {
			out = append(out, sub)
		}
	}
	return out
}
