package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

// Method is a method of a service. Its result is marshalled as JSON; nil is a
// method that returns nothing. ctx ends with the session that called, and when
// Options.CallTimeout is over. A panic is answered as CodeInternal.
type Method func(ctx context.Context, c *Call) (any, error)

// Methods are the methods of a service by name.
type Methods map[string]Method

// Hook runs before or after a method. An error becomes the caller's, and nothing
// further of the call runs; what a method did before an after-hook failed stays done.
type Hook func(ctx context.Context, c *Call) error

// Publisher names the channels that hear of a call; none, or nil, for nobody. It runs
// after the hooks. An error becomes the caller's, and no channel hears of what the method
// did, which stays done.
type Publisher func(ctx context.Context, c *Call) ([]string, error)

// To returns a Publisher that names the same channels for every call.
func To(channels ...string) Publisher {
	return func(context.Context, *Call) ([]string, error) { return channels, nil }
}

// Service is a named group of methods with hooks. A call runs, in this order, the
// before-hooks of all methods, those of its method, the method, the after-hooks
// of its method, those of all methods, and the publication. Hooks may be added
// while calls run; a call uses those that there were when it began.
type Service struct {
	server  *Server
	name    string
	model   *tidemark.Schema   // nil for a service that is no model's
	methods map[string]*method // does not change

	mu    sync.Mutex // serialises changes of setup
	setup atomic.Pointer[setup]
}

type method struct {
	name string
	call Method      // nil for a write
	op   tidemark.Op // of a write of a model
	read bool        // published only when asked for by name
	turn bool        // called in its turn among the session's writes
}

// setup is what the application has attached to a service. It is not changed, but replaced.
type setup struct {
	before, after       map[string][]Hook
	beforeAll, afterAll []Hook

	publisher Publisher
	published []string // methods; nil for all that are no reads
}

func newService(s *Server, name string) *Service {
	svc := &Service{server: s, name: name, methods: make(map[string]*method)}
	svc.setup.Store(&setup{})
	return svc
}

// Name returns the service's name.
func (svc *Service) Name() string { return svc.name }

// Before adds a hook that runs before the given methods, or before all when none
// is given. It may change Call.Args. It panics for a method that the service lacks.
//
// A before-hook of findMany and findUnique that narrows what a client may read sets a member of the where, argument
// 0, with Row.With: a row must satisfy all members beside `$or`, whatever alternatives stand there. It binds sync.go and
// scopes too; sync.go also asks what it makes of a where without members, where the client's has one that the hook leaves as it is. One that refuses what a where asks for must look into the alternatives as well, and take a field's value for what
// it may be: `{"in":[...]}`, bounds, null, or no member at all, which is every value. A where with two members of a name
// is refused later, so the one that Row.Get finds is the only one. Do not set `$or` itself, which takes
// the client's away: there is one in a where.
func (svc *Service) Before(h Hook, methods ...string) {
	svc.change(methods, func(s *setup) {
		if len(methods) == 0 {
			s.beforeAll = append(slices.Clip(s.beforeAll), h)
			return
		}
		s.before = attach(s.before, h, methods)
	})
}

// After adds a hook that runs after the given methods, or after all when none is
// given. It may replace Call.Result, which changes the answer, and Call.Event, which changes
// what is published; what it changes inside the result changes both. It panics for a
// method that the service lacks.
//
// After-hooks of findMany bind scopes too: they are asked, without rows, before a scope becomes live, and may refuse its where.
// Rows that they remove are not told, nor that something became of them. They should decide by the row and by what does not change during a session: when they
// would decide otherwise about a row that has not changed, nobody asks them, and they are asked now about the
// versions that the session was shown before. Two things do tell of what they hide: a
// scope's total counts it, and the uid after which the next page begins may be a hidden row's. A before-hook that narrows
// the where (see [Service.Before]) tells nothing at all, and reads less.
func (svc *Service) After(h Hook, methods ...string) {
	svc.change(methods, func(s *setup) {
		if len(methods) == 0 {
			s.afterAll = append(slices.Clip(s.afterAll), h)
			return
		}
		s.after = attach(s.after, h, methods)
	})
}

// Publish sets who hears of the service's calls, in place of what was set before:
// the sessions in the channels that p names get a "service-event" with the
// method's own result. Without methods p is asked for every call but the
// reads of a model; with methods, for calls of these only. nil publishes
// nothing. It panics for a method that the service lacks.
func (svc *Service) Publish(p Publisher, methods ...string) {
	svc.change(methods, func(s *setup) { s.publisher, s.published = p, slices.Clone(methods) })
}

// Call calls a method from the server's own code, with the same hooks and the
// same publication. The arguments are marshalled as JSON. The result is nil when
// the method returns nothing. Inside a hook or method, pass on the ctx that it was given:
// the call then counts as part of the one that it is made for. The error is
// the method's own, or a *tidemark.Error; ErrClosed when the server is closed.
//
// With a ctx that carries a transaction of the server's driver, as bundriver's RunInTx gives it,
// the call is made in that transaction, and published when it is committed.
func (svc *Service) Call(ctx context.Context, name string, args ...any) (json.RawMessage, error) {
	m, err := svc.method(name)
	if err != nil {
		return nil, err
	}
	c := &Call{Service: svc.name, Method: name, Caller: CallerServer, Server: svc.server}
	for i, a := range args {
		raw, err := encode(a)
		if err != nil {
			return nil, tidemark.Wrap(err, tidemark.CodeInvalidRequest, "argument %d cannot be JSON", i)
		}
		if raw == nil {
			raw = json.RawMessage("null")
		}
		c.Args = append(c.Args, raw)
	}
	o := originOf(ctx)
	if o == nil {
		if !svc.server.work.begin(calls) {
			return nil, tidemark.ErrClosed
		}
		defer svc.server.work.end(calls)
		o = &origin{}
	}
	r := svc.newRun(ctx, o, m, c)
	r.do()
	return r.answer, r.err
}

func (svc *Service) method(name string) (*method, error) {
	m, ok := svc.methods[name]
	if !ok {
		return nil, tidemark.NewError(tidemark.CodeMissingMethod, "there is no method named '%s' for service '%s'", short(name), svc.name)
	}
	return m, nil
}

func (svc *Service) change(methods []string, edit func(*setup)) {
	for _, m := range methods {
		if svc.methods[m] == nil {
			panic(fmt.Sprintf("server: service %s has no method %s", svc.name, m))
		}
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	next := *svc.setup.Load()
	edit(&next)
	svc.setup.Store(&next)
}

func attach(hooks map[string][]Hook, h Hook, methods []string) map[string][]Hook {
	next := maps.Clone(hooks)
	if next == nil {
		next = make(map[string][]Hook)
	}
	for _, m := range methods {
		next[m] = append(slices.Clip(next[m]), h)
	}
	return next
}

// hooked reports whether any hook runs for a call of m.
func (s *setup) hooked(m string) bool {
	return len(s.beforeAll)+len(s.afterAll)+len(s.before[m])+len(s.after[m]) > 0
}

func (s *setup) publishes(m *method) bool {
	switch {
	case s.publisher == nil:
		return false
	case len(s.published) == 0:
		return !m.read
	}
	return slices.Contains(s.published, m.name)
}

// short cuts a name that a client sent, for messages and logs.
func short(name string) string {
	const longest = 80
	if len(name) <= longest {
		return name
	}
	cut := longest
	for cut > 0 && name[cut]&0xc0 == 0x80 {
		cut--
	}
	return name[:cut] + "..."
}
