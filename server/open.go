package server

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// scopeMethods adds the methods of the second protocol to the service sync.
func (s *Server) scopeMethods(svc *Service) {
	for name, call := range map[string]Method{
		tidemark.MethodOpen:        s.openSync,
		tidemark.MethodSubscribe:   s.subscribe,
		tidemark.MethodUnsubscribe: s.unsubscribe,
		tidemark.MethodPull:        s.pull,
	} {
		svc.methods[name] = &method{name: name, call: call, read: true}
	}
}

var (
	errNoSession = tidemark.NewError(tidemark.CodeInvalidRequest, "this is a session's to call, outside of a transaction")
	errNotOpened = tidemark.NewError(tidemark.CodeInvalidRequest, "sync.open comes first")
	errReopened  = tidemark.NewError(tidemark.CodeInvalidRequest, "sync.open was called already")
)

// maxReading is how many calls of one session read pages at a time; others wait. A page is
// large, and a client may ask for many at once.
const maxReading = 4

// sessionOf returns the session that calls, in its turn to read.
func sessionOf(ctx context.Context, c *Call) (s *Session, done func(), err error) {
	if c.Session == nil || tidemark.TxOf(ctx) != nil {
		return nil, nil, errNoSession
	}
	select {
	case c.Session.reading <- struct{}{}:
		return c.Session, func() { <-c.Session.reading }, nil
	case <-ctx.Done():
		return nil, nil, outward(ctx.Err())
	}
}

// openSync is sync.open(OpenRequest): from now on the session hears of models by its scopes
// and no longer by channels.
func (s *Server) openSync(ctx context.Context, c *Call) (any, error) {
	session, done, err := sessionOf(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	req, err := parseOpen(c.arg(0), s.opts.MaxScopes)
	if err != nil {
		return nil, err
	}
	if !session.introduced.CompareAndSwap(false, true) {
		return nil, errReopened
	}
	a, err := s.introduce(ctx, req)
	if err != nil {
		session.introduced.Store(false)
		return nil, err
	}
	session.scoped.Store(true)
	a.Scopes = s.enter(ctx, c, session, req.Scopes)
	return a, nil
}

// introduce says what the server has, but for the scopes.
func (s *Server) introduce(ctx context.Context, req *tidemark.OpenRequest) (*tidemark.OpenAnswer, error) {
	at, err := s.logs.Horizon(ctx)
	if err != nil {
		return nil, driverError(err)
	}
	s.live.cursor.begin(at)
	a := &tidemark.OpenAnswer{
		Protocol: min(req.Protocol, tidemark.ProtocolVersion), Now: tidemark.StampOf(s.opts.Now()), Epoch: at.Epoch,
		Limits: tidemark.ServerLimits{Scopes: s.opts.MaxScopes, Mutations: s.opts.MaxPush, Bytes: s.opts.PageBytes, MaxDrift: s.opts.MaxDrift.Microseconds()},
		Models: make(map[string]tidemark.ServerModel),
	}
	if req.Client != "" {
		if a.Highest, err = s.logs.Known(ctx, req.Client); err != nil {
			return nil, driverError(err)
		}
	}
	for _, schema := range s.driver.Models() {
		a.Models[schema.Name()] = tidemark.ServerModelOf(schema)
	}
	return a, nil
}

// subscribe is sync.subscribe([ScopeRequest, ...]).
func (s *Server) subscribe(ctx context.Context, c *Call) (any, error) {
	session, done, err := sessionOf(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if !session.introduced.Load() {
		return nil, errNotOpened
	}
	reqs, err := parseScopes(c.arg(0), s.opts.MaxScopes)
	if err != nil {
		return nil, err
	}
	return s.enter(ctx, c, session, reqs), nil
}

// unsubscribe is sync.unsubscribe([scope, ...]). Scopes that the session does not have are no error: it
// may have lost them.
func (s *Server) unsubscribe(ctx context.Context, c *Call) (any, error) {
	if c.Session == nil || tidemark.TxOf(ctx) != nil {
		return nil, errNoSession
	}
	var numbers []int64
	err := tidemark.EachElement(c.arg(0), func(i int, v []byte) error {
		n, err := parseNumber(v)
		if i >= s.opts.MaxScopes {
			err = errTooManyScopes
		}
		numbers = append(numbers, n)
		return err
	})
	if err != nil {
		return nil, malformed(err, "unsubscribe takes an array of scopes")
	}
	for _, n := range numbers {
		s.live.scopes.remove(c.Session, n)
	}
	return nil, nil
}

// subscription is one scope that a session asks for.
type subscription struct {
	request *tidemark.ScopeRequest
	answer  *tidemark.ScopeAnswer
	reading reading
	where   *tidemark.Predicate
	scope   *scope
	added   bool // the session did not have it before
}

// enter makes scopes live for the session and reads their first pages, as many as find room. All
// are live before the first is read: what changes from then on is told, and what changed before is on the page.
func (s *Server) enter(ctx context.Context, c *Call, session *Session, reqs []tidemark.ScopeRequest) []tidemark.ScopeAnswer {
	answers := make([]tidemark.ScopeAnswer, len(reqs))
	subs := make([]subscription, len(reqs))
	for i := range reqs {
		subs[i] = subscription{request: &reqs[i], answer: &answers[i]}
		if err := s.narrow(ctx, c, &subs[i]); err != nil {
			answers[i].Err = s.wireError(ctx, err, c)
		}
	}
	for i := range subs {
		if sub := &subs[i]; sub.where != nil {
			var err error
			if sub.scope, sub.added, err = s.live.scopes.add(session, sub.where, s.opts.MaxScopes); err != nil {
				answers[i].Err = s.wireError(ctx, err, c)
				continue
			}
			answers[i].Scope, answers[i].Tag = sub.scope.number, sub.where.Tag()
		}
	}
	room := s.opts.PageBytes
	for i := range subs {
		if subs[i].scope != nil && room > 0 {
			room -= s.firstPage(ctx, c, session, &subs[i], room)
		}
	}
	return answers
}

// narrow finds out what the scope selects for this session. What the hooks after findMany refuse must not become
// live, not for a moment: of which scopes a row is told would answer what was not to be asked.
func (s *Server) narrow(ctx context.Context, c *Call, sub *subscription) error {
	svc, ok := s.Lookup(sub.request.Model)
	if !ok || svc.model == nil {
		return tidemark.NewError(tidemark.CodeUnknownModel, "there is no model named '%s'", short(sub.request.Model))
	}
	sub.reading = svc.newReading(ctx, c, sub.request.Where)
	_, where, err := sub.reading.narrow()
	if err == nil && len(where.Key()) > maxWhere {
		err = errLongWhere
	}
	if err != nil {
		return err
	}
	sub.reading.find.Args = []json.RawMessage{json.RawMessage(where.Key())} // as of every page of the scope
	if _, err := sub.reading.after(nil); err != nil {
		return err
	}
	sub.where = where
	return nil
}

// firstPage reads the first page of a scope, and returns about how long it is. Where the client's copy
// is of no use the scope stays live. Where hooks refuse it, it is gone. Where the page cannot be read now, or
// the pass is not to be begun here, the client pulls.
func (s *Server) firstPage(ctx context.Context, c *Call, session *Session, sub *subscription, room int) int {
	from, err := sub.position()
	var page *tidemark.ScopePage
	if err == nil {
		page, err = s.page(&sub.reading, session, sub.scope, pass{from: from, after: sub.request.After, bytes: room})
	}
	if err == nil {
		sub.answer.Page = page
		return lengthOf(page)
	}
	refusal, refused := err.(*refusal)
	switch {
	case refused && !tidemark.Temporary(refusal.err):
		if sub.added {
			s.live.scopes.remove(session, sub.scope.number)
		}
		*sub.answer = tidemark.ScopeAnswer{Err: s.wireError(ctx, refusal.err, c)}
	case startsOver(err):
		sub.answer.Err = s.wireError(ctx, err, c)
	default:
		_ = s.wireError(ctx, err, c) // it logs
	}
	return 0
}

func startsOver(err error) bool {
	switch tidemark.CodeOf(err) {
	case tidemark.CodeCursorTooOld, tidemark.CodeScopeChanged, tidemark.CodeInvalidRequest:
		return true
	}
	return false
}

// position returns where the client's copy stands, if it is one of this scope: of another where,
// or of the same model with other fields, neither the cursor nor the place in a pass are of use.
func (sub *subscription) position() (tidemark.Cursor, error) {
	r := sub.request
	if err := checkAfter(r.After); err != nil {
		return tidemark.Cursor{}, err
	}
	if (r.Cursor != "" || r.After != "") && r.Tag != sub.answer.Tag {
		return tidemark.Cursor{}, tidemark.NewError(tidemark.CodeScopeChanged, "the copy is of another scope")
	}
	return tidemark.ParseCursor(r.Cursor)
}

const (
	maxWhere = 64 << 10 // bytes of a scope's where, which stays in memory
	maxAfter = 1 << 10  // bytes of a uid, those of other programs included
)

var errLongWhere = tidemark.NewError(tidemark.CodeInvalidWhere, "the where of a scope is longer than %d bytes", maxWhere)

// The requests are read by hand: encoding/json takes members of a name in other letters for it.

func parseOpen(raw []byte, maxScopes int) (*tidemark.OpenRequest, error) {
	r := &tidemark.OpenRequest{}
	err := tidemark.EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "protocol":
			var n int64
			n, err = parseNumber(value)
			r.Protocol = int(min(max(n, 0), tidemark.ProtocolVersion))
		case "client":
			r.Client, err = textOf(value)
		case "scopes":
			r.Scopes, err = parseScopes(value, maxScopes)
		}
		return err
	})
	if err == nil && r.Protocol < 1 {
		err = tidemark.NewError(tidemark.CodeInvalidRequest, "the request lacks a version of the protocol")
	}
	if err == nil && r.Client != "" && tidemark.CheckUID(r.Client) != nil {
		err = tidemark.NewError(tidemark.CodeInvalidRequest, "this cannot be a client's name")
	}
	if err != nil {
		return nil, malformed(err, "open takes an object")
	}
	return r, nil
}

func parseScopes(raw []byte, limit int) ([]tidemark.ScopeRequest, error) {
	if isNull(raw) {
		return nil, nil
	}
	var list []tidemark.ScopeRequest
	err := tidemark.EachElement(raw, func(i int, v []byte) error {
		if i >= limit {
			return errTooManyScopes
		}
		r, err := parseScope(v)
		list = append(list, r)
		return err
	})
	if err != nil {
		return nil, malformed(err, "scopes are an array of objects")
	}
	return list, nil
}

func parseScope(raw []byte) (r tidemark.ScopeRequest, err error) {
	err = tidemark.EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "model":
			r.Model, err = textOf(value)
		case "where":
			r.Where = value
		case "cursor":
			r.Cursor, err = textOf(value)
		case "tag":
			r.Tag, err = textOf(value)
		case "after":
			r.After, err = textOf(value)
		}
		return err
	})
	if err == nil && r.Where == nil {
		err = tidemark.NewError(tidemark.CodeInvalidRequest, "a scope needs a where")
	}
	return r, err
}

func parsePull(raw []byte) (r tidemark.PullRequest, err error) {
	err = tidemark.EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "scope":
			r.Scope, err = parseNumber(value)
		case "cursor":
			r.Cursor, err = textOf(value)
		case "after":
			r.After, err = textOf(value)
		case "deflate":
			r.Deflate, err = boolOf(value)
		}
		return err
	})
	if err != nil {
		err = malformed(err, "pull takes an object")
	}
	return r, err
}

// boolOf reads true or false; null counts as false.
func boolOf(raw []byte) (b bool, err error) {
	return b, json.Unmarshal(raw, &b)
}

// textOf reads a text; null counts as "".
func textOf(raw []byte) (string, error) {
	if isNull(raw) {
		return "", nil
	}
	return tidemark.DecodeString(raw)
}

func parseNumber(raw []byte) (int64, error) { return strconv.ParseInt(string(raw), 10, 64) }

// malformed returns err, or what was expected when it says nothing to a client.
func malformed(err error, what string) error {
	switch tidemark.CodeOf(err) {
	case tidemark.CodeInvalidRequest, tidemark.CodeLimit:
		return err
	}
	return tidemark.Wrap(err, tidemark.CodeInvalidRequest, "%s", what)
}

func checkAfter(uid string) error {
	if len(uid) > maxAfter {
		return tidemark.NewError(tidemark.CodeInvalidRequest, "after is no uid")
	}
	return nil
}

// appendOpenAnswer appends a as it travels. Pages are not read again by encoding/json.
func encodeOpen(a *tidemark.OpenAnswer) (json.RawMessage, error) {
	head := *a
	head.Scopes = nil
	b, err := json.Marshal(head)
	if err != nil || len(a.Scopes) == 0 {
		return b, err
	}
	scopes, err := encodeScopes(a.Scopes)
	b = append(append(b[:len(b)-1], `,"scopes":`...), scopes...)
	return append(b, '}'), err
}

func encodeScopes(list []tidemark.ScopeAnswer) (json.RawMessage, error) {
	b := json.RawMessage{'['}
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		raw, err := list[i].MarshalJSON()
		if err != nil {
			return nil, err
		}
		b = append(b, raw...)
	}
	return append(b, ']'), nil
}
