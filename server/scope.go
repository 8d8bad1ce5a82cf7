package server

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/scopeindex"
)

// scope is a where of a model, as hooks have narrowed it, that sessions hear of live. Sessions
// with the same effective where share it, so that what is told of it is the same text for all.
type scope struct {
	number   int64
	where    *tidemark.Predicate
	sessions audience
	fits     atomic.Int64 // how many rows are asked for a page; 0 while that is not known
}

// scopes are all live scopes, and who holds them.
type scopes struct {
	mu       sync.RWMutex // protects what follows, and Session.scopes of all sessions
	last     int64        // the number given last
	models   map[string]*modelScopes
	byNumber map[int64]*scope
	holders  audience // of at least one scope
}

// modelScopes are the scopes of one model.
type modelScopes struct {
	index *scopeindex.Index
	byKey map[string]*scope
}

var (
	errTooManyScopes = tidemark.NewError(tidemark.CodeLimit, "the session holds as many scopes as it may")
	errUnknownScope  = tidemark.NewError(tidemark.CodeUnknownScope, "the session has no scope of that number")
)

// add gives s the scope of p; added is false when s holds it already. Changes that are told from
// now on are told to s.
func (x *scopes) add(s *Session, p *tidemark.Predicate, limit int) (sc *scope, added bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s.scopes == nil { // the session has ended
		return nil, false, tidemark.ErrClosed
	}
	sc = x.scope(p)
	if s.scopes[sc.number] != nil {
		return sc, false, nil
	}
	if len(s.scopes) >= limit {
		x.drop(sc)
		return nil, false, errTooManyScopes
	}
	s.scopes[sc.number] = sc
	sc.sessions.add(s)
	x.holders.add(s)
	return sc, true, nil
}

// scope returns the scope of p, a new one when nobody holds it.
func (x *scopes) scope(p *tidemark.Predicate) *scope {
	name := p.Schema().Name()
	m := x.models[name]
	if m == nil {
		m = &modelScopes{index: scopeindex.New(p.Schema()), byKey: make(map[string]*scope)}
		if x.models == nil {
			x.models, x.byNumber = make(map[string]*modelScopes), make(map[int64]*scope)
		}
		x.models[name] = m
	}
	sc := m.byKey[p.Key()]
	if sc == nil {
		x.last++
		sc = &scope{number: x.last, where: p}
		m.byKey[p.Key()], x.byNumber[sc.number] = sc, sc
		m.index.Add(p, sc.number)
	}
	return sc
}

// drop forgets a scope that nobody holds.
func (x *scopes) drop(sc *scope) {
	if sc.sessions.len() > 0 {
		return
	}
	m := x.models[sc.where.Schema().Name()]
	m.index.Remove(sc.where, sc.number)
	delete(m.byKey, sc.where.Key())
	delete(x.byNumber, sc.number)
}

// remove takes a scope from s, if s holds it.
func (x *scopes) remove(s *Session, number int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.part(s, number)
	if len(s.scopes) == 0 {
		x.holders.remove(s)
	}
}

func (x *scopes) part(s *Session, number int64) {
	sc := s.scopes[number]
	if sc == nil {
		return
	}
	delete(s.scopes, number)
	sc.sessions.remove(s)
	x.drop(sc)
}

// release takes all scopes from a session that has ended. Others are told of changes between one scope and the
// next: to take one with a thousand values out of the index can take long.
func (x *scopes) release(s *Session) {
	x.mu.Lock()
	scopes := s.scopes
	s.scopes = nil
	x.holders.remove(s)
	x.mu.Unlock()
	for _, sc := range scopes {
		x.mu.Lock()
		sc.sessions.remove(s)
		x.drop(sc)
		x.mu.Unlock()
	}
}

// held returns the scope of that number, if s holds it.
func (x *scopes) held(s *Session, number int64) (*scope, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	sc := s.scopes[number]
	if sc == nil {
		return nil, errUnknownScope
	}
	return sc, nil
}

// others returns the wheres of the scopes of sc's model that s holds besides sc.
func (x *scopes) others(s *Session, sc *scope) []*tidemark.Predicate {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var list []*tidemark.Predicate
	for _, other := range s.scopes {
		if other != sc && other.where.Schema() == sc.where.Schema() {
			list = append(list, other.where)
		}
	}
	return list
}

// everyone returns the sessions that hold scopes. The list is not the caller's to change.
func (x *scopes) everyone() []*Session {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.holders.lend()
}

func (x *scopes) empty() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byNumber) == 0
}

// audience is a set of sessions whose list can be lent without a copy: thousands of sessions are
// told of one change while others come and go.
type audience struct {
	set
	lent atomic.Bool // the list is in use elsewhere
}

func (a *audience) len() int { return len(a.list) }

// lend returns the list as it now is. A session that comes is put behind it; before one that leaves is
// taken out of its place the list is copied.
func (a *audience) lend() []*Session {
	a.lent.Store(true)
	return slices.Clip(a.list)
}

func (a *audience) remove(s *Session) {
	if _, in := a.index[s]; in && a.lent.Load() {
		a.list = slices.Clone(a.list)
		a.lent.Store(false)
	}
	a.set.remove(s)
}
