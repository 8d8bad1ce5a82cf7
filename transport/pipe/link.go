package pipe

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// link is one connection, from the moment it is dialled. It is the offer that
// the acceptor answers.
type link struct {
	pipe           *Pipe
	ctx            context.Context
	cancel         context.CancelFunc
	hello          tidemark.Hello
	client, server *end
	answered       chan struct{} // closed by the first of accept, refuse and cut

	mu      sync.Mutex // protects what follows, and both ends
	settled bool       // answered is closed
	welcome tidemark.Welcome
	refusal error
}

// end is one end of a link: the connection that one side holds, and what the
// other has sent to it.
type end struct {
	link    *link
	peer    *end
	goodbye tidemark.CloseReason // the reason by which this side takes leave
	handler tidemark.Handler
	wake    chan struct{} // holds a token when inbox or reason have changed

	// Protected by link.mu.
	inbox  []*tidemark.Message
	free   int                  // so many, the first of inbox, do not count
	bytes  int                  // of the others
	reason tidemark.CloseReason // "" while open
}

func newLink(p *Pipe, hello tidemark.Hello, h tidemark.Handler) *link {
	hello.Request = nil
	l := &link{pipe: p, hello: hello, answered: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.client = &end{link: l, goodbye: tidemark.ClosedByClient, handler: h, wake: make(chan struct{}, 1)}
	l.server = &end{link: l, goodbye: tidemark.ClosedByServer, wake: make(chan struct{}, 1)}
	l.client.peer, l.server.peer = l.server, l.client
	return l
}

// Hello implements tidemark.Offer.
func (l *link) Hello() tidemark.Hello { return l.hello }

// Accept implements tidemark.Offer. When the client has left it returns
// ErrClosed, and h is not used.
func (l *link) Accept(w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		return nil, tidemark.ErrClosed
	}
	for _, m := range w.Replay {
		l.client.put(m)
	}
	l.client.free, l.client.bytes = len(w.Replay), 0 // it was bounded where it was kept
	w.Replay = nil
	l.welcome = w
	l.server.handler = h
	l.settle()
	l.pipe.running.Go(l.server.run)
	return l.server, nil
}

// Refuse implements tidemark.Offer.
func (l *link) Refuse(e *tidemark.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		return
	}
	l.refusal = tidemark.WireError(e)
	l.settle()
	l.leave()
}

// dialed starts the client's end after the answer.
func (l *link) dialed() (tidemark.Conn, tidemark.Welcome, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != nil {
		return nil, tidemark.Welcome{}, l.refusal
	}
	l.pipe.running.Go(l.client.run)
	return l.client, l.welcome, nil
}

// cut ends the link without a farewell: what is under way is lost.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail()
}

// shutdown ends the link as a server does that goes away.
func (l *link) shutdown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled {
		l.server.close(tidemark.ClosedShutdown)
	} else {
		l.fail()
	}
}

// fail is cut, under mu.
func (l *link) fail() {
	if !l.settled {
		l.refusal = tidemark.ErrOffline
		l.settle()
	}
	l.client.drop(tidemark.ClosedTransport)
	l.server.drop(tidemark.ClosedTransport)
	l.leave()
}

func (l *link) settle() {
	l.settled = true
	close(l.answered)
}

// leave makes the pipe forget the link. mu is held; the pipe never takes it under its own.
func (l *link) leave() {
	l.cancel()
	l.pipe.forget(l)
}

// Send implements tidemark.Conn.
func (e *end) Send(m *tidemark.Message) error {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	if e.reason != "" {
		return tidemark.ErrClosed
	}
	if e.peer.bytes > 0 && e.peer.bytes+size(m) > e.link.pipe.queueBytes {
		e.drop(tidemark.ClosedSlowReader)
		e.peer.drop(tidemark.ClosedTransport)
		e.link.leave()
		return tidemark.ErrSlowReader
	}
	e.peer.put(m)
	return nil
}

// Close implements tidemark.Conn. The other end is told of a goodbye, after what
// was sent before; any other reason is a broken line to it, also after what was
// sent before for ClosedShutdown, and at once otherwise.
func (e *end) Close(reason tidemark.CloseReason) {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	e.close(reason)
}

// close, put, finish and drop are called under link.mu.

func (e *end) close(reason tidemark.CloseReason) {
	if e.reason != "" {
		return
	}
	e.drop(reason)
	switch reason {
	case e.goodbye:
		e.peer.finish(reason)
	case tidemark.ClosedShutdown:
		e.peer.finish(tidemark.ClosedTransport)
	default:
		e.peer.drop(tidemark.ClosedTransport)
	}
	e.link.leave()
}

func (e *end) put(m *tidemark.Message) {
	e.inbox = append(e.inbox, copyOf(m))
	e.bytes += size(m)
	e.notify()
}

// finish ends e after what waits has been received.
func (e *end) finish(reason tidemark.CloseReason) {
	if e.reason == "" {
		e.reason = reason
	}
	e.notify()
}

// drop ends e and what waits.
func (e *end) drop(reason tidemark.CloseReason) {
	e.inbox, e.free, e.bytes = nil, 0, 0
	e.finish(reason)
}

func (e *end) notify() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run is the one goroutine that calls the end's handler.
func (e *end) run() {
	for {
		m, reason := e.next()
		if m == nil {
			e.handler.Closed(reason)
			return
		}
		e.handler.Receive(m)
	}
}

// next waits for a message, or for the reason why there is none.
func (e *end) next() (*tidemark.Message, tidemark.CloseReason) {
	for {
		m, reason := e.take()
		if m != nil || reason != "" {
			return m, reason
		}
		<-e.wake
	}
}

func (e *end) take() (*tidemark.Message, tidemark.CloseReason) {
	e.link.mu.Lock()
	defer e.link.mu.Unlock()
	if len(e.inbox) == 0 {
		return nil, e.reason
	}
	m := e.inbox[0]
	e.inbox[0] = nil
	e.inbox = e.inbox[1:]
	if e.free > 0 {
		e.free--
	} else {
		e.bytes -= size(m)
	}
	return m, ""
}

// size is about what m would take on a wire.
func size(m *tidemark.Message) int {
	n := 16 + len(m.Event)
	for _, a := range m.Args {
		n += len(a) + 1
	}
	for _, a := range m.Attachments {
		n += len(a)
	}
	return n
}

// copyOf gives the receiver a message of its own, as decoding one would. The texts are shared.
func copyOf(m *tidemark.Message) *tidemark.Message {
	c := &tidemark.Message{Kind: m.Kind, Event: m.Event, Args: slices.Clone(m.Args), Attachments: slices.Clone(m.Attachments)}
	if m.Kind != tidemark.EventMessage {
		c.ID = m.ID
	}
	for i, a := range c.Args {
		if a == nil {
			c.Args[i] = json.RawMessage("null")
		}
	}
	return c
}
