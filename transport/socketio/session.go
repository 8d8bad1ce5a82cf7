package socketio

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/olahol/melody"

	"github.com/tidemark-sync/tidemark"
)

// stage is how far a session has come.
type stage uint8

const (
	stageOpened  stage = iota // the client has not asked for the namespace
	stageOffered              // the acceptor has not answered
	stageOpen
	stageClosing // reason is set; what arrives is ignored
)

// session is one connection at the server: the offer, and when accepted the
// connection. Melody has a goroutine that reads (it calls received, broken and
// ended) and one that writes (it calls sent).
type session struct {
	host      *Handler
	melody    *melody.Session
	line      *line
	request   *http.Request
	ctx       context.Context
	cancel    context.CancelFunc
	decoder   decoder     // of the reading goroutine, and of the one that it waits for
	receiving atomic.Bool // the handler has a message: nothing is read meanwhile

	mu        sync.Mutex // protects what follows
	stage     stage
	reason    tidemark.CloseReason
	hello     tidemark.Hello
	handler   tidemark.Handler // nil until accepted
	queue     queue
	writing   bool        // melody has a frame
	farewell  bool        // melody has the close frame
	deadline  *time.Timer // for CONNECT, and later for the close frame
	heartbeat *time.Timer
	pinged    bool // a pong is due
	pingOut   bool // the ping has been written
	over      bool // melody has let go of the session
}

func newSession(h *Handler, r *http.Request, l *line) *session {
	s := &session{host: h, line: l, decoder: decoder{strict: true, maxBytes: h.opts.MaxMessageBytes}}
	s.queue.limit = h.opts.QueueBytes
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(r.Context()))
	s.request = r.WithContext(s.ctx) // the HTTP server ends its own with the upgrade
	return s
}

// start is called when the websocket stands, before anything is read or written.
func (s *session) start(ms *melody.Session) {
	s.melody = ms
	o := s.host.opts
	id := o.NewID()
	allowed := s.host.register(s)
	s.mu.Lock()
	s.push(frame{data: opening{
		SID:          id,
		PingInterval: o.PingInterval.Milliseconds(),
		PingTimeout:  o.PingTimeout.Milliseconds(),
		MaxPayload:   int64(o.MaxMessageBytes),
	}.encode()})
	s.deadline = time.AfterFunc(o.ConnectTimeout, s.lateConnect)
	s.heartbeat = time.AfterFunc(o.PingInterval, s.beat)
	s.mu.Unlock()
	if !allowed {
		s.shut(tidemark.ClosedShutdown)
	}
}

// raiseLimit lets bigger messages in once the client is accepted. It runs on the
// reading goroutine, when nothing else looks at the limit, before the bytes that it is for are looked at.
func (s *session) raiseLimit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == stageOpen {
		s.line.arrived = nil
		s.melody.WebsocketConnection().SetReadLimit(int64(s.host.opts.MaxMessageBytes))
	}
}

// received takes one websocket message. The reading goroutine has another one look at it and waits: to
// decode takes more of a stack than to wait, and a stack that has grown stays large, of each connection that is idle.
func (s *session) received(b []byte, binary bool) {
	if len(b) == 1 { // a pong
		s.take(b, binary)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.take(b, binary)
	}()
	<-done
}

func (s *session) take(b []byte, binary bool) {
	defer s.recovered("receive")
	var m *tidemark.Message
	var err error
	switch {
	case s.current() == stageClosing:
		return
	case binary:
		m, err = s.decoder.attachment(b)
	case len(b) == 0:
		err = errMalformed
	default:
		m, err = s.enginePacket(b)
	}
	if err == nil && m != nil {
		err = s.deliver(m)
	}
	if err != nil {
		s.refusePacket(err)
	}
}

func (s *session) enginePacket(b []byte) (*tidemark.Message, error) {
	switch b[0] {
	case enginePong:
		s.pong()
		return nil, nil
	case engineNoop, engineUpgrade:
		return nil, nil
	case engineClose:
		s.Close(tidemark.ClosedTransport)
		return nil, nil
	case engineMessage:
		p, err := parsePacket(b[1:])
		if err != nil {
			return nil, err
		}
		return s.socketPacket(p)
	}
	return nil, errMalformed
}

func (s *session) socketPacket(p packet) (*tidemark.Message, error) {
	if s.decoder.pending != nil {
		return nil, errMalformed
	}
	switch {
	case p.kind == packetConnect && p.namespace == "/":
		return nil, s.connect(p.payload)
	case p.kind == packetConnect:
		return nil, s.noNamespace(p.namespace)
	case p.namespace != "/", s.current() != stageOpen:
		return nil, errMalformed
	case p.kind == packetDisconnect:
		s.Close(tidemark.ClosedByClient)
		return nil, nil
	case p.kind == packetConnectError:
		return nil, errMalformed
	}
	return s.decoder.message(p)
}

// connect offers the client to the acceptor. That may take its time, so it has a
// goroutine of its own: reading goes on and sees when the client leaves.
func (s *session) connect(payload []byte) error {
	hello, err := parseHello(payload)
	if err != nil {
		return errMalformed
	}
	hello.Request = s.request
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage != stageOpened {
		return errMalformed
	}
	s.deadline.Stop()
	s.stage, s.hello = stageOffered, hello
	s.line.arrived = s.raiseLimit
	s.host.running.Go(func() {
		defer s.recovered("offer")
		s.host.acceptor.Offer(s.ctx, s)
	})
	return nil
}

func (s *session) noNamespace(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := encodeNoNamespace(name)
	if !s.queue.admits(len(answer)) {
		return errMalformed
	}
	s.push(frame{data: answer})
	return nil
}

// Hello implements tidemark.Offer.
func (s *session) Hello() tidemark.Hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hello
}

// Accept implements tidemark.Offer. When the client has left it returns
// ErrClosed, and h is not used.
func (s *session) Accept(w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage != stageOffered {
		return nil, tidemark.ErrClosed
	}
	s.stage, s.handler, s.hello = stageOpen, h, tidemark.Hello{}
	for _, m := range w.Replay {
		if checkMessage(m) == nil { // else it was not sent when it was new
			s.queue.pushReplay(m)
		}
	}
	s.push(frame{data: encodeConnected(w)})
	return s, nil
}

// Refuse implements tidemark.Offer.
func (s *session) Refuse(e *tidemark.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == stageOffered {
		s.finish(tidemark.ClosedByServer, encodeRefused(tidemark.WireError(e)))
	}
}

// Send implements tidemark.Conn.
func (s *session) Send(m *tidemark.Message) error {
	if err := checkMessage(m); err != nil {
		return err
	}
	size := sizeOf(m) // encodes, outside the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == stageClosing {
		return tidemark.ErrClosed
	}
	if !s.queue.admits(size) {
		s.abandon(tidemark.ClosedSlowReader)
		return tidemark.ErrSlowReader
	}
	s.queue.pushMessage(m)
	s.pump()
	return nil
}

// Close implements tidemark.Conn. Only ClosedByServer is told to the client: it
// then stays away. After any other reason it comes back. What waits still goes
// out, for CloseTimeout at most, before ClosedByServer and ClosedShutdown.
func (s *session) Close(reason tidemark.CloseReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == stageClosing {
		return
	}
	switch reason {
	case tidemark.ClosedByServer:
		s.finish(reason, []byte{engineMessage, packetDisconnect})
	case tidemark.ClosedShutdown: // nothing is wrong with the client, and answers may wait for it
		s.finish(reason, nil)
	case tidemark.ClosedPing, tidemark.ClosedSlowReader: // it reads nothing, so it is told nothing
		s.abandon(reason)
	default:
		s.queue.clear()
		s.finish(reason, nil)
	}
}

// shut ends the session without a farewell.
func (s *session) shut(reason tidemark.CloseReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandon(reason)
}

// refusePacket answers what could not be read. A payload beyond the limits is
// the request's fault; anything else ends the connection.
func (s *session) refusePacket(err error) {
	if limit, ok := errors.AsType[*limitError](err); ok {
		s.host.opts.Logger.Debug("request refused", "error", limit.Error())
		if limit.call != nil {
			answer, _ := tidemark.Answer{Err: limit.cause}.MarshalJSON()
			_ = s.Send(limit.call.NewAnswer(answer))
		}
		return
	}
	s.host.opts.Logger.Debug("packet refused", "error", err.Error())
	if _, ok := errors.AsType[tooLargeError](err); ok {
		s.tooLarge()
		return
	}
	s.Close(tidemark.ClosedMalformed)
}

// tooLarge says so by the close code, which goes past the queue. Nothing is read meanwhile.
func (s *session) tooLarge() {
	s.failed(tidemark.ClosedTooLarge)
	_ = s.melody.WebsocketConnection().WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseMessageTooBig, ""), time.Now().Add(s.host.opts.CloseTimeout))
	s.line.linger(s.host.opts.CloseTimeout)
	s.shut(tidemark.ClosedTooLarge)
}

func (s *session) deliver(m *tidemark.Message) error {
	s.mu.Lock()
	h, open := s.handler, s.stage == stageOpen
	s.mu.Unlock()
	if !open {
		return nil
	}
	s.receiving.Store(true)
	defer s.receiving.Store(false)
	h.Receive(m)
	return nil
}

func (s *session) current() stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stage
}

// push, pump, finish and abandon are called under mu.

func (s *session) push(f frame) {
	s.queue.push(f)
	s.pump()
}

// pump hands melody one frame at a time, so that melody's own queue, which drops
// what it has no room for, is never full.
func (s *session) pump() {
	if s.writing || s.farewell {
		return
	}
	f, ok := s.queue.pop()
	switch {
	case ok && f.binary:
		s.writing = true
		_ = s.melody.WriteBinary(f.data)
	case ok:
		s.writing = true
		_ = s.melody.Write(f.data)
	case s.stage == stageClosing:
		s.farewell = true
		_ = s.melody.Close()
	}
}

// sent is called by melody's writing goroutine after each frame.
func (s *session) sent(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) == 1 && b[0] == enginePing {
		s.pingWritten()
	}
	s.writing = false
	s.pump()
}

// finish ends the session after what waits, a last frame if given, and a close frame.
func (s *session) finish(reason tidemark.CloseReason, last []byte) {
	if s.stage == stageClosing {
		return
	}
	s.stage, s.reason = stageClosing, reason
	if last != nil {
		s.queue.push(frame{data: last})
	}
	s.deadline.Stop()
	s.heartbeat.Stop()
	s.deadline = time.AfterFunc(s.host.opts.CloseTimeout, s.line.cut)
	s.pump()
}

// abandon cuts the connection; melody's goroutines notice.
func (s *session) abandon(reason tidemark.CloseReason) {
	if s.over {
		return
	}
	if s.stage != stageClosing {
		s.stage, s.reason = stageClosing, reason
	}
	s.queue.clear()
	s.farewell = true // nothing more is written
	s.host.running.Go(s.line.cut)
}

// broken is called by melody when reading or writing has failed, on the
// goroutine that did. It is also called, under mu, from a write after the end: that says nothing new.
func (s *session) broken(err error) {
	if errors.Is(err, melody.ErrWriteClosed) || errors.Is(err, melody.ErrMessageBufferFull) {
		return
	}
	s.failed(reasonOf(err))
	if errors.Is(err, websocket.ErrReadLimit) { // the websocket layer has sent the close frame
		s.line.linger(s.host.opts.CloseTimeout)
	}
}

// failed ends the session without closing the connection.
func (s *session) failed(reason tidemark.CloseReason) {
	s.mu.Lock()
	if s.stage != stageClosing {
		s.stage, s.reason = stageClosing, reason
	}
	s.queue.clear()
	s.farewell = true // nothing more is written
	s.mu.Unlock()
}

// ended is melody's last word, on the reading goroutine.
func (s *session) ended() {
	s.mu.Lock()
	if s.stage != stageClosing {
		s.stage, s.reason = stageClosing, tidemark.ClosedTransport
	}
	s.deadline.Stop()
	s.heartbeat.Stop()
	s.queue.clear()
	s.over = true
	h, reason := s.handler, s.reason
	s.mu.Unlock()
	s.cancel()
	s.host.forget(s)
	s.host.opts.Logger.Info("connection ended", "reason", string(reason))
	defer s.recovered("closed")
	if h != nil {
		h.Closed(reason)
	}
}

// recovered keeps a panic of the application's from the other connections.
func (s *session) recovered(where string) {
	if p := recover(); p != nil {
		s.logPanic(where, p)
		s.Refuse(tidemark.NewError(tidemark.CodeInternal, ""))
		s.Close(tidemark.ClosedError)
	}
}

func (s *session) logPanic(where string, p any) {
	s.host.opts.Logger.Error("panic in a connection", "where", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
