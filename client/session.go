package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// session is the work on one connection. It belongs to the goroutine of the
// connection loop: all that arrives is dealt with there, in its order.
type session struct {
	c       *Client
	link    *link
	asked   bool                 // the server was asked for the second protocol
	alone   bool                 // it is to be asked for no scopes with it, since they were too many
	ready   bool                 // it has answered
	opened  *tidemark.OpenAnswer // what it offers; nil while unknown, and where it speaks the guide's protocol only
	pushing pushing
	flights []*flight
	took    time.Duration // how long the answer that is dealt with was on its way
	steady  bool          // was synchronised at least once
	pruned  map[string]bool

	// In the guide's protocol.
	syncs  map[*scope]*flight // the scopes being synchronised
	events []incoming         // service events of models, not yet applied

	// In the second.
	subs        map[scopeID]*subscription
	joining     *flight // a subscribe or unsubscribe whose answer is awaited, nil for none
	subscribing bool    // it is a subscribe
	entering    bool    // scopes are being subscribed to, or will be: nothing is pushed meanwhile
	heard       []heard // changes that are not yet stored,
	weight      int     // about how many bytes they have,
	cursor      string  // and the cursor to store with them, "" for none,
	early       int     // which came behind so many of them
	marked      int     // rows that were marked since there was a new cursor
}

func newSession(c *Client, l *link) *session {
	return &session{c: c, link: l, syncs: map[*scope]*flight{}, subs: map[scopeID]*subscription{}, pruned: map[string]bool{}}
}

// flight is a request of the session's whose answer is awaited.
type flight struct {
	id       uint64
	req      request
	deadline time.Time
	done     func(context.Context, tidemark.Answer, error) error
	answer   tidemark.Answer
	err      error
}

// incoming is one event about a row.
type incoming struct {
	model string
	state tidemark.RowMeta
}

func (s *session) now() time.Time { return time.Now() }

// run works until ctx ends, the connection ends or the store fails; the error
// says which.
func (s *session) run(ctx context.Context) error {
	for {
		if err := s.step(ctx); err != nil {
			return err
		}
		select {
		case m := <-s.link.inbox: // before anything new is begun: so equal histories go equal ways
			if err := s.receive(ctx, m); err != nil {
				return err
			}
			continue
		default:
		}
		timer := time.NewTimer(s.idle())
		select {
		case m := <-s.link.inbox:
			if err := s.receive(ctx, m); err != nil {
				timer.Stop()
				return err
			}
		case <-s.link.ended:
			timer.Stop()
			return s.drain(ctx)
		case <-s.c.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// step starts whatever can be started now.
func (s *session) step(ctx context.Context) error {
	if err := s.expire(ctx); err != nil {
		return err
	}
	if !s.ready {
		return s.open(ctx)
	}
	if s.opened != nil {
		if err := s.follow(ctx); err != nil {
			return err
		}
	}
	if !s.entering {
		if err := s.pushNext(ctx); err != nil {
			return err
		}
	}
	if s.opened == nil && s.pushing.paused {
		if err := s.syncNext(ctx); err != nil {
			return err
		}
	}
	s.c.settleSyncs()
	s.steady = s.c.wellNow() || s.steady
	return nil
}

// idle returns how long nothing need be done unless something arrives.
func (s *session) idle() time.Duration {
	next := s.now().Add(time.Hour)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	for _, f := range s.flights {
		earlier(f.deadline)
	}
	if s.pushing.flight == nil && s.pushing.retryAt.After(s.now()) {
		earlier(s.pushing.retryAt)
	}
	earlier(s.c.nextSyncRetry(s.now()))
	return max(next.Sub(s.now()), 0)
}

// send makes a request; done runs in its turn among what arrives. Nothing is sent
// of what was written after the user went offline.
func (s *session) send(ctx context.Context, r request, done func(context.Context, tidemark.Answer, error) error) (*flight, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f := &flight{req: r, deadline: s.now().Add(s.c.opts.CallTimeout), done: done}
	id, err := s.link.call(r, func(a tidemark.Answer, err error) { f.answer, f.err = a, err })
	if err != nil {
		return nil, err
	}
	f.id = id
	s.flights = append(s.flights, f)
	return f, nil
}

// land takes a flight out, and reports whether it was there.
func (s *session) land(id uint64) *flight {
	for i, f := range s.flights {
		if f.id == id {
			s.flights = append(s.flights[:i], s.flights[i+1:]...)
			return f
		}
	}
	return nil
}

// expire fails the requests whose time ran out. Their answers may still come,
// and are then ignored: the request will be made again.
func (s *session) expire(ctx context.Context) error {
	now := s.now()
	for i := 0; i < len(s.flights); {
		f := s.flights[i]
		if now.Before(f.deadline) {
			i++
			continue
		}
		s.link.forget(f.id)
		s.land(f.id)
		if err := f.done(ctx, tidemark.Answer{}, timedOut(f.req)); err != nil {
			return err
		}
	}
	return nil
}

// receive deals with m and all that has arrived behind it. Events about rows are
// collected, and stored in one transaction before the next answer is looked at.
func (s *session) receive(ctx context.Context, m *tidemark.Message) error {
	for n := 0; ; n++ {
		if err := s.message(ctx, m); err != nil {
			return err
		}
		if n == inboxSize {
			return s.applyEvents(ctx)
		}
		select {
		case m = <-s.link.inbox:
		default:
			return s.applyEvents(ctx)
		}
	}
}

// drain deals with what arrived before the connection ended.
func (s *session) drain(ctx context.Context) error {
	select {
	case m := <-s.link.inbox:
		if err := s.receive(ctx, m); err != nil {
			return err
		}
	default:
	}
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	return broken(s.link.reason)
}

func (s *session) message(ctx context.Context, m *tidemark.Message) error {
	switch {
	case m.Kind == tidemark.AnswerMessage:
		if err := s.applyEvents(ctx); err != nil {
			return err
		}
		return s.answered(ctx, m)
	case m.Kind == tidemark.CallMessage:
		raw, err := tidemark.Answer{Err: tidemark.NewError(tidemark.CodeMissingMethod, "a client answers no calls")}.MarshalJSON()
		if err == nil {
			err = s.link.conn.Send(m.NewAnswer(raw))
		}
		return err
	case len(m.Args) == 0:
	case m.Event == tidemark.EventService:
		return s.serviceEvent(m.Args[0])
	case m.Event == tidemark.EventApplication:
		return s.applicationEvent(m.Args[0])
	case m.Event == tidemark.EventChanges:
		return s.changesEvent(ctx, m.Args[0])
	case m.Event == tidemark.EventCursor:
		return s.cursorEvent(m.Args[0])
	}
	return nil
}

func (s *session) answered(ctx context.Context, m *tidemark.Message) error {
	done := s.link.answered(m.ID)
	if done == nil {
		return nil // too late, or never asked for
	}
	var a tidemark.Answer
	var err error
	if len(m.Args) == 0 {
		err = tidemark.NewError(tidemark.CodeUnavailable, "an answer without content")
	} else if e := a.UnmarshalJSON(m.Args[0]); e != nil {
		err = tidemark.Wrap(e, tidemark.CodeUnavailable, "the answer is malformed")
	}
	a.Attachments = m.Attachments
	done(a, err)
	if f := s.land(m.ID); f != nil {
		s.took = s.c.opts.CallTimeout - f.deadline.Sub(s.now())
		return f.done(ctx, f.answer, f.err)
	}
	return nil
}

// stranger reports whether err says that the server no longer knows who this is:
// only a new connection, with a new payload of Options.Auth, can change that.
func stranger(err error) bool {
	code := tidemark.CodeOf(err)
	return code == tidemark.CodeUnauthenticated || code == tidemark.CodeExpired
}

// errBehind ends a connection whose callbacks do not keep up.
var errBehind = tidemark.NewError(tidemark.CodeLimit, "callbacks are too far behind")

func (s *session) serviceEvent(raw []byte) error {
	var e tidemark.ServiceEvent
	if err := json.Unmarshal(raw, &e); err != nil {
		s.c.log.Warn("malformed service event", "error", err)
		return nil
	}
	if !emit(s.c, &s.c.handlers.events, eventName{e.Name, e.Action}, func(fn func(json.RawMessage)) { fn(e.Result) }) {
		return errBehind
	}
	schema := s.c.schema(e.Name)
	if schema == nil || s.opened != nil { // live scopes tell of models
		return nil
	}
	t, ok, err := s.c.speak.event(schema, e.Action, e.Result)
	if err != nil {
		s.c.log.Warn("malformed event of a model", "model", e.Name, "action", e.Action, "error", err)
		return nil
	}
	if ok {
		s.events = append(s.events, incoming{e.Name, t})
	}
	return nil
}

func (s *session) applicationEvent(raw []byte) error {
	var e tidemark.ApplicationEvent
	if err := json.Unmarshal(raw, &e); err != nil {
		s.c.log.Warn("malformed application event", "error", err)
		return nil
	}
	if !emit(s.c, &s.c.handlers.notices, e.Type, func(fn func(json.RawMessage)) { fn(e.Value) }) {
		return errBehind
	}
	return nil
}

// applyEvents stores the collected events, in their order, once it is known what to
// make of them.
func (s *session) applyEvents(ctx context.Context) error {
	if !s.ready {
		return nil
	}
	if s.opened != nil {
		return s.applyHeard(ctx)
	}
	if len(s.events) == 0 {
		return nil
	}
	byModel := map[string][]tidemark.RowMeta{}
	var models []string
	for _, e := range s.events {
		if byModel[e.model] == nil {
			models = append(models, e.model)
		}
		byModel[e.model] = append(byModel[e.model], e.state)
	}
	s.events = s.events[:0]
	return s.c.commit(ctx, func(w *work) error {
		for _, model := range models {
			if err := w.applyStates(model, byModel[model], s.c.wanted(model), s.syncing(model)); err != nil {
				return err
			}
		}
		return nil
	})
}

// syncing reports whether the answer to a sync of the model is awaited.
func (s *session) syncing(model string) bool {
	for sc := range s.syncs {
		if sc.id.model == model {
			return true
		}
	}
	return false
}

// applyStates applies states of rows of one model; wanted says of a row that
// nothing is held of whether it belongs on this device. guard says that an answer may be on
// its way that is older: of a row that does not belong here a tombstone then keeps that from bringing it.
func (w *work) applyStates(model string, states []tidemark.RowMeta, wanted func(tidemark.Row) bool, guard bool) error {
	uids := make([]string, 0, len(states))
	seen := make(map[string]bool, len(states))
	for _, t := range states {
		if !seen[t.Meta.UID] {
			seen[t.Meta.UID] = true
			uids = append(uids, t.Meta.UID)
		}
	}
	byUID, recs, err := w.records(model, uids)
	if err != nil {
		return err
	}
	touched := make(map[string]bool, len(recs))
	for _, t := range states {
		w.c.observe(t.Meta.T())
		r := byUID[t.Meta.UID]
		changed := take(r, t, wanted(t.Row))
		if !changed && guard && r.IsZero() {
			r.Meta, changed = tidemark.Departure{UID: r.UID, At: t.Meta.T()}.Meta(), true
		}
		if changed {
			touched[r.UID] = true
		}
	}
	return w.resettle(model, only(recs, touched))
}

func only(recs []tidemark.Record, uids map[string]bool) []tidemark.Record {
	kept := make([]tidemark.Record, 0, len(uids))
	for _, r := range recs {
		if uids[r.UID] {
			kept = append(kept, r)
		}
	}
	return kept
}
