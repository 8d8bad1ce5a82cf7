// Package socketio is the transport over the network: Socket.IO protocol 5 on
// Engine.IO protocol 4, websocket only, so that every Socket.IO client can talk
// to a server (with transports: ['websocket']). [Handler] is the server's half,
// mounted in an HTTP server; [Dialer] is the client's half in Go.
package socketio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"github.com/olahol/melody"

	"github.com/tidemark-sync/tidemark"
)

var _ http.Handler = (*Handler)(nil)

// Options are the settings of a [Handler]. The zero value of each means its default.
type Options struct {
	// PingInterval is how long after the last pong a client is pinged. Defaults to 25 seconds.
	PingInterval time.Duration
	// PingTimeout is after how long without a sign of life a pinged client is
	// given up. Defaults to 20 seconds.
	PingTimeout time.Duration
	// ConnectTimeout is how long a client has to ask for the main namespace.
	// Defaults to 5 seconds.
	ConnectTimeout time.Duration
	// WriteTimeout is how long a client may take none of what it is sent.
	// Defaults to 10 seconds.
	WriteTimeout time.Duration
	// CloseTimeout is how long a connection's last frame may take. Defaults to 2 seconds.
	CloseTimeout time.Duration

	// MaxHelloBytes bounds a message, in bytes, until the acceptor has
	// accepted. Defaults to 1 MiB.
	MaxHelloBytes int
	// MaxMessageBytes bounds a message with its attachments, in bytes, afterwards.
	// Clients are told of it. Defaults to 32 MiB.
	MaxMessageBytes int
	// QueueBytes bounds what may wait for a client behind the message being
	// written, in bytes; one message may exceed it when no other waits. Defaults to 1 MiB.
	QueueBytes int

	// CheckOrigin reports whether a browser's page may connect, by the request's
	// Origin header. nil means that any page may.
	CheckOrigin func(*http.Request) bool
	// NewID names Engine.IO sessions. nil means random UUIDs.
	NewID func() string
	// Logger gets one line per connection at Info, one per refused packet at Debug,
	// panics at Error. nil means no logging.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	orDefault(&c.PingInterval, 25*time.Second)
	orDefault(&c.PingTimeout, 20*time.Second)
	orDefault(&c.ConnectTimeout, 5*time.Second)
	orDefault(&c.WriteTimeout, 10*time.Second)
	orDefault(&c.CloseTimeout, 2*time.Second)
	orDefault(&c.MaxHelloBytes, 1<<20)
	orDefault(&c.MaxMessageBytes, 32<<20)
	orDefault(&c.QueueBytes, 1<<20)
	if c.CheckOrigin == nil {
		c.CheckOrigin = func(*http.Request) bool { return true }
	}
	if c.NewID == nil {
		c.NewID = uuid.NewString
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orDefault[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Handler serves Socket.IO connections and offers them to an acceptor. It looks
// at no path: mount it at /socket.io/. A panic of the acceptor or of a
// connection's handler ends that connection only. A Handler is safe for concurrent use.
type Handler struct {
	acceptor tidemark.Acceptor
	opts     Options
	melody   *melody.Melody
	running  sync.WaitGroup // sessions, upgrades and offers under way

	mu       sync.Mutex // protects what follows
	sessions map[*session]struct{}
	draining bool
}

// NewHandler returns a handler that offers its connections to acceptor. opts may be nil.
func NewHandler(acceptor tidemark.Acceptor, opts *Options) *Handler {
	h := &Handler{acceptor: acceptor, opts: opts.withDefaults(), sessions: map[*session]struct{}{}}
	h.melody = h.newMelody()
	return h
}

// parked is the period of what melody does by itself and the session does better.
const parked = 100 * 365 * 24 * time.Hour

func (h *Handler) newMelody() *melody.Melody {
	m := melody.New()
	m.Upgrader = &websocket.Upgrader{
		ReadBufferSize:  512,
		WriteBufferSize: 4096,
		WriteBufferPool: new(sync.Pool),
		CheckOrigin:     h.opts.CheckOrigin,
	}
	m.Config = &melody.Config{
		WriteWait:         parked, // the line measures progress
		PongWait:          parked, // the session has a heartbeat
		PingPeriod:        parked,
		MaxMessageSize:    int64(h.opts.MaxHelloBytes),
		MessageBufferSize: 2, // the frame being written, and the close frame; the rest waits in the session's queue
	}
	m.HandleConnect(func(ms *melody.Session) { sessionOf(ms).start(ms) })
	m.HandleMessage(func(ms *melody.Session, b []byte) { sessionOf(ms).received(b, false) })
	m.HandleMessageBinary(func(ms *melody.Session, b []byte) { sessionOf(ms).received(b, true) })
	m.HandleSentMessage(func(ms *melody.Session, b []byte) { sessionOf(ms).sent(b) })
	m.HandleSentMessageBinary(func(ms *melody.Session, _ []byte) { sessionOf(ms).sent(nil) })
	m.HandleError(func(ms *melody.Session, err error) { sessionOf(ms).broken(err) })
	m.HandleDisconnect(func(ms *melody.Session) { sessionOf(ms).ended() })
	return m
}

const sessionKey = "session"

func sessionOf(ms *melody.Session) *session { return ms.Keys[sessionKey].(*session) }

// ServeHTTP makes a websocket request for Engine.IO 4 a connection, which outlives
// the call. Everything else gets the error that the reference gives.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.enter() {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	if e := checkRequest(r); e != nil {
		h.running.Done()
		e.write(w, r)
		return
	}
	if r.URL.Query().Get("EIO") != "4" {
		defer h.running.Done()
		h.breakOff(w, r)
		return
	}
	up := &upgrade{writer: w, header: w.Header(), line: &line{writeTimeout: h.opts.WriteTimeout}, over: make(chan struct{})}
	go h.serve(up, r) // ends with the connection; counted in running
	<-up.over
	if up.panicked != nil {
		panic(up.panicked)
	}
}

// serve is a connection's life. It has a goroutine of its own, so that the HTTP server can let go of its: that
// one holds the request's buffers, 8 KiB, and a stack that has grown.
func (h *Handler) serve(up *upgrade, r *http.Request) {
	defer h.running.Done()
	s := newSession(h, r, up.line)
	defer up.end(s)
	if err := h.melody.HandleRequestWithKeys(up, s.request, map[string]any{sessionKey: s}); err != nil {
		h.opts.Logger.Debug("upgrade failed", "error", err.Error())
	}
}

// breakOff accepts the websocket of an older protocol and closes it, as the reference does.
func (h *Handler) breakOff(w http.ResponseWriter, r *http.Request) {
	if c, err := h.melody.Upgrader.Upgrade(w, r, nil); err == nil {
		_ = c.WriteControl(websocket.CloseMessage, nil, time.Now().Add(h.opts.CloseTimeout))
		_ = c.Close()
	}
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return false
	}
	h.running.Add(1)
	return true
}

// register reports whether s may live. It is counted in running by its request.
func (h *Handler) register(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[s] = struct{}{}
	return !h.draining
}

func (h *Handler) forget(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
}

func (h *Handler) drain() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	return slices.Collect(maps.Keys(h.sessions))
}

// Shutdown accepts no more connections, closes the present ones with
// ClosedShutdown, and waits until all their handlers have returned. Clients are
// not told to stay away: they reconnect, to this server's successor. When ctx ends first,
// the connections are cut and its error is returned at once.
func (h *Handler) Shutdown(ctx context.Context) error {
	for _, s := range h.drain() {
		s.Close(tidemark.ClosedShutdown)
	}
	done := make(chan struct{})
	go func() { // ends with the sessions
		h.running.Wait()
		_ = h.melody.Close()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, s := range h.drain() {
			s.line.cut()
		}
		return ctx.Err()
	}
}

// Close is Shutdown without farewells: it cuts all connections and waits until
// their handlers have returned. It must not be called by one. It is idempotent.
func (h *Handler) Close() error {
	for _, s := range h.drain() {
		s.shut(tidemark.ClosedShutdown)
	}
	h.running.Wait()
	_ = h.melody.Close()
	return nil
}

// upgrade is the answer to a request that is to become a websocket. It hands the websocket layer a line instead
// of the bare connection, and with that lets the request go: the line is all that is needed of it from then on.
type upgrade struct {
	writer   http.ResponseWriter // nil once the connection is taken over
	header   http.Header
	line     *line
	over     chan struct{} // closed when nobody needs the request any more
	panicked any           // what the application's functions panicked with before that
}

func (u *upgrade) Header() http.Header         { return u.header }
func (u *upgrade) WriteHeader(code int)        { u.writer.WriteHeader(code) }
func (u *upgrade) Write(b []byte) (int, error) { return u.writer.Write(b) }

func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(u.writer).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.line.Conn, u.writer = c, nil
	close(u.over)
	return u.line, rw, nil
}

// end lets the request go where it was refused. A panic is the HTTP server's as long as it has the request.
func (u *upgrade) end(s *session) {
	p := recover()
	if u.writer != nil {
		u.panicked = p
		close(u.over)
		return
	}
	if p != nil { // before the session began
		s.logPanic("start", p)
		s.cancel()
		s.line.cut()
	}
}

// requestError is what Engine.IO answers to a request that it does not serve.
type requestError struct {
	code    int
	message string
}

func checkRequest(r *http.Request) *requestError {
	q := r.URL.Query()
	switch transport := q.Get("transport"); {
	case transport == "polling" && q.Get("EIO") != "4":
		return &requestError{5, "Unsupported protocol version"}
	case transport != "websocket":
		return &requestError{0, "Transport unknown"}
	case q.Has("sid"):
		return &requestError{1, "Session ID unknown"}
	case !websocket.IsWebSocketUpgrade(r):
		return &requestError{3, "Bad request"}
	}
	return nil
}

func (e *requestError) write(w http.ResponseWriter, r *http.Request) {
	if websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, e.message)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = fmt.Fprintf(w, `{"code":%d,"message":%q}`, e.code, e.message)
}

// reasonOf tells why reading or writing a connection failed.
func reasonOf(err error) tidemark.CloseReason {
	var network net.Error
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return tidemark.ClosedTooLarge
	case errors.As(err, &network) && network.Timeout(): // only writes have a deadline here
		return tidemark.ClosedSlowReader
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, io.ErrClosedPipe), websocketClosed(err):
		return tidemark.ClosedTransport
	}
	return tidemark.ClosedError // the websocket protocol was violated
}

func websocketClosed(err error) bool {
	_, ok := errors.AsType[*websocket.CloseError](err)
	return ok || errors.Is(err, websocket.ErrCloseSent)
}
