package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

// Session is one client's connection, from its acceptance to its end. Its methods
// may be called concurrently, also after it has ended.
type Session struct {
	server    *Server
	id        string
	private   string // by which the client can resume it; empty without recovery
	recovered bool
	hello     tidemark.Hello

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	lane   lane

	attached chan struct{} // closed when conn is set
	conn     tidemark.Conn // does not change afterwards
	opened   chan struct{} // closed when the connect listeners have run
	greeted  bool          // the connect listeners began to run; read after opened
	gone     chan struct{} // closed when the disconnect listeners have run

	closed      sync.Once    // guards what the end of the connection sets off
	outstanding atomic.Int64 // calls that were taken and are not yet answered
	waiting     atomic.Int64 // their bytes

	mu      sync.Mutex           // protects what follows; nothing that waits is done under it
	closing tidemark.CloseReason // of a close that came before conn was known
	state   state
	denied  bool                // by a connect listener
	held    []*tidemark.Message // sent before conn was known
	early   []*request          // calls that came while opening
	token   string              // by which a successor can take over; see Transfer
	data    map[string]any
	asked   map[uint64]chan []json.RawMessage // calls of the client that wait for its answer
	lastAsk uint64

	// What the session hears by the second protocol; see scopes.
	introduced atomic.Bool   // sync.open was called
	scoped     atomic.Bool   // it hears of models by its scopes and not by channels
	missing    atomic.Bool   // changes were made that it was not told of: no cursor goes past them
	reading    chan struct{} // has a token for each call that reads pages
	hearing    hearing
	scopes     map[int64]*scope // by their numbers; nil once it has ended. Protected by scopes.mu

	// The session's channels, each with the position at which it joined; nil once it
	// has ended. Protected by Server.channels.mu.
	channels map[string]uint64
}

type state uint8

const (
	opening state = iota // accepted; the connect listeners run
	open
	refused // by a connect listener, or ended before they ran
)

// Offer accepts a connection unless the server is shutting down. The connect
// listeners then run in a goroutine of the server. A client that comes back while its former
// connection still seems to stand ends that, and is accepted when its listeners have run.
func (s *Server) Offer(ctx context.Context, offer tidemark.Offer) {
	old := s.remains.unnoticed(offer.Hello().Session)
	if old == nil {
		s.admit(offer)
		return
	}
	old.close(tidemark.ClosedTransport)
	s.spawn(func() {
		old.waitGone(ctx)
		s.admit(offer)
	})
}

func (s *Server) admit(offer tidemark.Offer) {
	session := &Session{server: s, id: s.opts.NewID(), hello: offer.Hello(), channels: make(map[string]uint64),
		attached: make(chan struct{}), opened: make(chan struct{}), gone: make(chan struct{}),
		reading: make(chan struct{}, maxReading), scopes: make(map[int64]*scope)}
	session.lane.session, session.hearing.session = session, session
	if !s.work.enter(session) {
		offer.Refuse(errShutdown)
		return
	}
	session.ctx, session.cancel = context.WithCancel(s.ctx)
	welcome, undo := s.remains.begin(session, session.hello)
	conn, err := offer.Accept(welcome, (*receiver)(session))
	if err != nil {
		session.cancel()
		undo()
		s.channels.leaveAll(session)
		s.remains.forget(session)
		close(session.gone)
		s.work.leave(session)
		return
	}
	session.attach(conn)
	s.spawn(session.open)
}

// attach makes conn known, sends what was to be sent meanwhile, and closes it if that was asked for.
func (s *Session) attach(conn tidemark.Conn) {
	s.mu.Lock()
	s.conn = conn
	for _, m := range s.held {
		_ = conn.Send(m)
	}
	s.held = nil
	close(s.attached)
	reason := s.closing
	s.mu.Unlock()
	if reason != "" {
		conn.Close(reason)
	}
}

// open runs the connect listeners, says "connected", and lets the calls begin
// that came meanwhile.
func (s *Session) open() {
	defer close(s.opened)
	to := open
	if err := s.greet(); err != nil {
		to = refused
		s.server.log.Warn("session refused", slog.String("session", s.id), slog.Any("error", err))
		if tidemark.CodeOf(err) == tidemark.CodeInternal { // its own fault it was not: it may come again
			s.close(tidemark.ClosedError)
		} else {
			s.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = to
	for _, r := range s.early {
		if to == open {
			r.begin()
		} else {
			r.drop()
		}
	}
	s.early = nil
}

func (s *Session) greet() error {
	if s.ctx.Err() != nil {
		return tidemark.ErrClosed
	}
	s.greeted = true
	for _, listen := range s.server.listening().connect {
		if err := safely(func() error { return listen(s.ctx, s) }); err != nil {
			s.deny()
			return err
		}
	}
	s.server.log.Info("session opened", slog.String("session", s.id))
	return s.Emit(tidemark.EventConnected, s.id)
}

func (s *Session) deny() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = true
}

// safely runs fn; a panic is its error.
func safely(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	return fn()
}

// ended runs the disconnect listeners and takes the session out of its channels.
func (s *Session) ended(reason tidemark.CloseReason) {
	<-s.opened
	var l listeners
	if s.greeted {
		l = s.server.listening()
	}
	s.tell(l.disconnecting, reason)
	s.server.remains.keep(s, reason)
	s.tell(l.disconnect, reason)
	s.server.log.Info("session ended", slog.String("session", s.id), slog.String("reason", string(reason)))
	s.server.remains.forget(s)
	close(s.gone)
	s.server.work.leave(s)
}

// established reports whether the session is worth to be taken up again. One
// that was taken up is, though it broke before the connect listeners ran anew.
func (s *Session) established() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == open || s.recovered && !s.denied
}

func (s *Session) tell(listeners []func(*Session, tidemark.CloseReason), reason tidemark.CloseReason) {
	for _, listen := range listeners {
		if err := safely(func() error { listen(s, reason); return nil }); err != nil {
			s.server.log.Error("disconnect listener failed", slog.String("session", s.id), slog.Any("error", err))
		}
	}
}

// ID returns the session's public name. It is also the name of a channel that the session is in.
func (s *Session) ID() string { return s.id }

// Recovered reports whether the session goes on where one broke that had this name: its
// channels and values are there already, and the client has what it missed. See [Recovery].
func (s *Session) Recovered() bool { return s.recovered }

// Hello returns what the client said when it connected.
func (s *Session) Hello() tidemark.Hello { return s.hello }

// Join puts the session into a channel, which exists as long as somebody is in it.
func (s *Session) Join(channel string) { s.server.channels.join(channel, s) }

// Leave takes the session out of a channel.
func (s *Session) Leave(channel string) { s.server.channels.leave(channel, s) }

// Channels returns the names of the session's channels, sorted.
func (s *Session) Channels() []string { return s.server.channels.of(s) }

// Set keeps a value of the application under key, as long as the session lives; nil removes it.
func (s *Session) Set(key string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if value == nil {
		delete(s.data, key)
		return
	}
	if s.data == nil {
		s.data = make(map[string]any)
	}
	s.data[key] = value
}

// Get returns what Set kept under key, nil when there is nothing.
func (s *Session) Get(key string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data[key]
}

// Emit sends an event to this session. It does not wait for the client. Errors:
// as of tidemark.Conn.Send, or an argument that cannot be JSON.
func (s *Session) Emit(event string, args ...any) error {
	m, err := tidemark.NewEvent(event, args...)
	if err != nil {
		return err
	}
	return s.server.remains.emit(s, m)
}

// Call sends an event that the client acknowledges, and returns the arguments of
// the acknowledgement. It returns ErrClosed when the session ends before, and
// ctx's error when ctx does.
func (s *Session) Call(ctx context.Context, event string, args ...any) ([]json.RawMessage, error) {
	m, err := tidemark.NewEvent(event, args...)
	if err != nil {
		return nil, err
	}
	answer := make(chan []json.RawMessage, 1)
	s.mu.Lock()
	s.lastAsk++
	id := s.lastAsk
	if s.asked == nil {
		s.asked = make(map[uint64]chan []json.RawMessage)
	}
	s.asked[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.asked, id)
		s.mu.Unlock()
	}()
	if err := s.send(m.NewCall(id)); err != nil {
		return nil, err
	}
	select {
	case got := <-answer:
		return got, nil
	case <-s.ctx.Done():
		return nil, tidemark.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the session; its client is told to stay away. It does not wait, and is idempotent.
func (s *Session) Close() { s.close(tidemark.ClosedByServer) }

func (s *Session) close(reason tidemark.CloseReason) {
	s.mu.Lock()
	conn := s.conn
	if conn == nil && s.closing == "" {
		s.closing = reason
	}
	s.mu.Unlock()
	if conn != nil {
		conn.Close(reason)
	}
}

// send hands m to the connection, or keeps it for the connection that is to come.
func (s *Session) send(m *tidemark.Message) error {
	select {
	case <-s.attached:
		return s.conn.Send(m)
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return s.conn.Send(m)
	}
	s.held = append(s.held, m)
	return nil
}

// receiver is a Session as its connection's handler.
type receiver Session

// Receive takes a message from the connection's reading goroutine, and does not
// wait, but for Accept to return: an answer needs the connection.
func (rc *receiver) Receive(m *tidemark.Message) {
	s := (*Session)(rc)
	<-s.attached
	switch {
	case m.Kind == tidemark.AnswerMessage:
		s.answered(m)
	case m.Event == tidemark.EventRequest:
		s.request(m)
	case m.Event == tidemark.EventTransferToken:
		s.setToken(m)
	case m.Event == tidemark.EventTransfer:
		s.transfer(m)
	default:
		s.server.log.Debug("event ignored", slog.String("session", s.id), slog.String("event", short(m.Event)))
	}
}

// Closed hands over to a goroutine, since the application's listeners may wait. A
// transport that says it twice, against the contract, must not end the process.
func (rc *receiver) Closed(reason tidemark.CloseReason) {
	s := (*Session)(rc)
	s.closed.Do(func() {
		s.cancel()
		if s.server.live != nil {
			s.server.live.scopes.release(s)
		}
		s.server.spawn(func() { s.ended(reason) })
	})
}

func (s *Session) answered(m *tidemark.Message) {
	s.mu.Lock()
	answer := s.asked[m.ID]
	delete(s.asked, m.ID)
	s.mu.Unlock()
	if answer != nil {
		answer <- m.Args
	}
}
