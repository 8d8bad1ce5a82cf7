// Package server is the server half of Tidemark: services with hooks, channels,
// sessions, and the synchronisation of models that a [tidemark.Driver] stores.
//
//	srv, err := server.New(driver, nil)
//	srv.OnConnect(func(ctx context.Context, s *server.Session) error { s.Join("all"); return nil })
//	srv.Service("post").Publish(server.To("all"))
//
// A transport's handler offers connections to the Server; see package transport/socketio.
package server

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Acceptor = (*Server)(nil)

// Server has one service for each model of its driver, the service sync, and
// those that the application adds. It is safe for concurrent use.
type Server struct {
	driver tidemark.Driver
	txs    tidemark.TxDriver  // driver, when it is one
	logs   tidemark.LogDriver // likewise
	opts   Options
	log    *slog.Logger
	clock  *tidemark.Clock

	ctx    context.Context // ends at Close, or when a Shutdown gives up waiting
	cancel context.CancelFunc

	work     work
	channels channels
	remains  *remains
	order    order
	syncs    overlaps
	live     *live // nil without a log
	fields   unknownFields

	mu        sync.RWMutex // protects services and listeners
	services  map[string]*Service
	listeners listeners
}

// New returns a server of the driver's models. It takes no connection before it
// is handed to a transport. The driver must not be nil, and its Migrate must have run
// before the first call. It stays the caller's to close, after the server.
//
// Errors, all CodeInvalidRequest: a model named sync, or twice; a negative value in opts
// where that has no meaning.
func New(driver tidemark.Driver, opts *Options) (*Server, error) {
	o, err := opts.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{driver: driver, opts: o, log: o.Logger, clock: tidemark.NewClock(o.Now), services: make(map[string]*Service)}
	if r, ok := driver.(tidemark.Remembering); ok {
		s.clock.Observe(r.Newest(), tidemark.MaxRemembered)
	}
	s.txs, _ = driver.(tidemark.TxDriver)
	s.logs, _ = driver.(tidemark.LogDriver)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.remains = newRemains(s)
	s.channels.remains = s.remains
	if s.logs != nil {
		s.live = newLive(s)
	}
	for _, schema := range driver.Models() {
		if reserved(schema.Name()) || s.services[schema.Name()] != nil {
			s.cancel()
			return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "server: a model cannot be named %s, or stands twice", schema.Name())
		}
		s.services[schema.Name()] = s.newModel(schema)
	}
	s.services[tidemark.ServiceSync] = s.newSync()
	return s, nil
}

func reserved(name string) bool { return name == "" || name == tidemark.ServiceSync }

// Handle adds a service of the application. It refuses a name that is taken (by a
// model too), reserved or empty, and a method without a name or a function, with
// CodeInvalidRequest.
func (s *Server) Handle(name string, methods Methods) (*Service, error) {
	svc := newService(s, name)
	for m, fn := range methods {
		if m == "" || fn == nil {
			return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "service %s: a method needs a name and a function", name)
		}
		svc.methods[m] = &method{name: m, call: fn}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if reserved(name) || s.services[name] != nil {
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "the service name %q is taken or reserved", name)
	}
	s.services[name] = svc
	return svc, nil
}

// Service returns the service of that name. It panics when there is none, which
// is a programmer's error; Lookup does not.
func (s *Server) Service(name string) *Service {
	svc, ok := s.Lookup(name)
	if !ok {
		panic("server: there is no service named " + name)
	}
	return svc
}

// Lookup returns the service of that name, if there is one.
func (s *Server) Lookup(name string) (*Service, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	svc, ok := s.services[name]
	return svc, ok
}

// Now returns a stamp for a write by the server's own code: later than every stamp
// that this server has accepted or given, and than those that its driver remembers from before (see
// [tidemark.Remembering]).
func (s *Server) Now() tidemark.Stamp { return s.clock.Now() }

// Emit sends an event to the sessions in a channel. The arguments are marshalled
// once. It waits for nobody. The error says that an argument cannot be JSON.
func (s *Server) Emit(channel, event string, args ...any) error {
	m, err := tidemark.NewEvent(event, args...)
	if err != nil {
		return err
	}
	s.channels.send([]string{channel}, m, other)
	return nil
}

// Notify sends an event of the application, "app-event", to the sessions in a
// channel: clients receive it by its type. A nil value is null.
func (s *Server) Notify(channel, typ string, value any) error {
	raw, err := encode(value)
	if err != nil {
		return err
	}
	if raw == nil {
		raw = []byte("null")
	}
	return s.Emit(channel, tidemark.EventApplication, tidemark.ApplicationEvent{Type: typ, Value: raw})
}

// Session returns the session of that id, if it is connected.
func (s *Server) Session(id string) (*Session, bool) {
	for _, member := range s.channels.members([]string{id}) {
		if member.id == id {
			return member, true
		}
	}
	return nil, false
}

// Shutdown ends the server in order: new sessions and new calls are refused,
// calls that have begun are finished and answered, then the sessions are closed
// with ClosedShutdown and their disconnect listeners run. When ctx ends first, the
// contexts of the calls that still run end, the sessions are closed, and
// Shutdown returns ctx's error without waiting further; Close waits.
func (s *Server) Shutdown(ctx context.Context) error {
	s.work.drain()
	err := s.work.wait(ctx, calls)
	s.disconnect()
	if err == nil {
		err = s.work.wait(ctx, calls, routines)
	}
	return err
}

// Close ends the server at once: the contexts of running calls end and the
// sessions are closed with ClosedShutdown. It waits until everything that the
// server started has returned, and is idempotent. It must not be called by a method,
// hook or listener.
func (s *Server) Close() error {
	s.work.drain()
	s.disconnect()
	return s.work.wait(context.Background(), calls, routines)
}

// disconnect ends the contexts of what still runs and closes all sessions.
func (s *Server) disconnect() {
	s.cancel()
	s.remains.stop()
	if s.live != nil {
		s.live.cursor.stop()
	}
	for _, session := range s.work.sessions() {
		session.close(tidemark.ClosedShutdown)
	}
}

// listeners are the application's functions that hear of sessions.
type listeners struct {
	connect                   []func(context.Context, *Session) error
	disconnecting, disconnect []func(*Session, tidemark.CloseReason)
}

// OnConnect adds a listener that runs for each new session, and anew for one that goes on
// where it broke (see Session.Recovered), after those added before it and before the session hears that it is connected; the session's calls wait for
// it. An error, or a panic, closes that session: it is logged, and the client is told to stay away,
// but not why (a Go client comes back none the less, after longer and longer waits); after a panic, or a
// CodeInternal, its line breaks as by itself, and it may come back. ctx ends with the session.
func (s *Server) OnConnect(fn func(ctx context.Context, session *Session) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners.connect = append(slices.Clip(s.listeners.connect), fn)
}

// OnDisconnecting adds a listener that runs when a session has ended, while it is
// still in its channels. Listeners of a session run one after another.
func (s *Server) OnDisconnecting(fn func(session *Session, reason tidemark.CloseReason)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners.disconnecting = append(slices.Clip(s.listeners.disconnecting), fn)
}

// OnDisconnect adds a listener that runs when a session has ended and left its channels.
func (s *Server) OnDisconnect(fn func(session *Session, reason tidemark.CloseReason)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners.disconnect = append(slices.Clip(s.listeners.disconnect), fn)
}

func (s *Server) listening() listeners {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.listeners
}
