package socketio

import (
	"errors"
	"math"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
)

// conn is the client's end of a connection. One goroutine reads and calls the
// handler, one writes; the first waits for the second before it calls Closed.
type conn struct {
	ws           *websocket.Conn
	line         *line
	closeTimeout time.Duration
	decoder      decoder             // of the reading goroutine
	early        []*tidemark.Message // came before the server's answer
	wake         chan struct{}       // holds a token when the writer has something to look at
	over         chan struct{}       // closed when nothing is read any more

	mu      sync.Mutex // protects what follows
	queue   queue
	closing bool // nothing more is received or queued; what waits is written
	reason  tidemark.CloseReason

	running sync.WaitGroup // the writer, and what cuts the line
}

func newConn(ws *websocket.Conn, l *line, o DialOptions) *conn {
	ws.SetReadLimit(int64(o.MaxMessageBytes))
	return &conn{
		ws: ws, line: l, closeTimeout: o.CloseTimeout,
		decoder: decoder{maxBytes: o.MaxMessageBytes},
		queue:   queue{limit: o.QueueBytes},
		wake:    make(chan struct{}, 1),
		over:    make(chan struct{}),
	}
}

// shakeHands asks for the main namespace and reads up to the answer. Messages
// that come before it are those that a resumed session missed.
func (c *conn) shakeHands(request []byte) (tidemark.Welcome, error) {
	_, first, err := c.ws.ReadMessage()
	if err != nil {
		return tidemark.Welcome{}, err
	}
	o, err := parseOpening(first)
	if err != nil {
		return tidemark.Welcome{}, err
	}
	c.line.silence = o.silence()
	if err := c.ws.WriteMessage(websocket.TextMessage, request); err != nil {
		return tidemark.Welcome{}, err
	}
	for total := 0; ; {
		kind, b, err := c.ws.ReadMessage()
		if err != nil {
			return tidemark.Welcome{}, err
		}
		if total += len(b); total > c.decoder.maxBytes {
			return tidemark.Welcome{}, tooLargeError{}
		}
		w, done, err := c.beforeAnswer(kind, b)
		if done || err != nil {
			w.MaxMessage = int(min(max(o.MaxPayload, 0), math.MaxInt32))
			return w, err
		}
	}
}

// beforeAnswer takes a websocket message while the answer is due, and tells whether this was it.
func (c *conn) beforeAnswer(kind int, b []byte) (w tidemark.Welcome, done bool, err error) {
	if len(b) > 1 && kind == websocket.TextMessage && b[0] == engineMessage {
		p, err := parsePacket(b[1:])
		switch {
		case err != nil:
			return w, false, err
		case p.namespace == "/" && p.kind == packetConnect:
			w, err = parseConnected(p.payload)
			return w, true, err
		case p.namespace == "/" && p.kind == packetConnectError:
			return w, true, parseRefused(p.payload)
		}
	}
	m, err := c.read(kind, b)
	if m != nil {
		c.early = append(c.early, m)
	}
	if f, ok := c.queue.pop(); ok { // a pong; nobody else uses the queue yet
		err = errors.Join(err, c.ws.WriteMessage(websocket.TextMessage, f.data))
	}
	return w, false, err
}

// run starts the goroutines. It is the last thing that Dial does.
func (c *conn) run(h tidemark.Handler) {
	c.running.Go(c.writeAll)
	go func() {
		c.receiveAll(h)
		close(c.over)
		c.line.cut()
		c.running.Wait()
		h.Closed(c.reason)
	}()
}

// Send implements tidemark.Conn.
func (c *conn) Send(m *tidemark.Message) error {
	if err := checkMessage(m); err != nil {
		return err
	}
	size := sizeOf(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return tidemark.ErrClosed
	}
	if !c.queue.admits(size) {
		c.abandon(tidemark.ClosedSlowReader)
		return tidemark.ErrSlowReader
	}
	c.queue.pushMessage(m)
	c.notify()
	return nil
}

// Close implements tidemark.Conn. ClosedByClient is told to the server, which
// then forgets the session; after any other reason it can be resumed.
func (c *conn) Close(reason tidemark.CloseReason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
	case reason == tidemark.ClosedByClient:
		c.closing, c.reason = true, reason
		c.queue.push(frame{data: []byte{engineMessage, packetDisconnect}})
		c.running.Go(c.closeInTime)
		c.notify()
	default:
		c.abandon(reason)
	}
}

// abandon ends the connection and what waits. It is called under mu.
func (c *conn) abandon(reason tidemark.CloseReason) {
	c.closing, c.reason = true, reason
	c.queue.clear()
	c.notify()
	c.running.Go(c.line.cut) // which makes both goroutines end
}

// end gives the reason, unless there is one already.
func (c *conn) end(reason tidemark.CloseReason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.abandon(reason)
	}
}

func (c *conn) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// closeInTime cuts the line when the server does not close it.
func (c *conn) closeInTime() {
	t := time.NewTimer(c.closeTimeout)
	defer t.Stop()
	select {
	case <-t.C:
		c.line.cut()
	case <-c.over:
	}
}

// writeAll writes what is queued until the connection ends. After a goodbye the
// server closes it: it has read everything then.
func (c *conn) writeAll() {
	for {
		f, ok, closing := c.next()
		switch {
		case ok:
			if err := c.write(f); err != nil {
				c.end(reasonOf(err))
				return
			}
		case closing:
			_ = c.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(c.closeTimeout))
			return
		default:
			<-c.wake
		}
	}
}

func (c *conn) write(f frame) error {
	kind := websocket.TextMessage
	if f.binary {
		kind = websocket.BinaryMessage
	}
	return c.ws.WriteMessage(kind, f.data)
}

func (c *conn) next() (f frame, ok, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok = c.queue.pop()
	return f, ok, c.closing
}

// receiveAll calls h for each message until the connection ends.
func (c *conn) receiveAll(h tidemark.Handler) {
	for _, m := range c.early {
		if !c.ended() {
			h.Receive(m)
		}
	}
	c.early = nil
	for {
		kind, b, err := c.ws.ReadMessage()
		if err != nil {
			c.end(c.readFailure(err))
			return
		}
		m, err := c.read(kind, b)
		if err != nil {
			c.end(reasonOfPacket(err))
			return
		}
		if m != nil && !c.ended() {
			h.Receive(m)
		}
	}
}

func (c *conn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// read takes a websocket message: a part of a message, or something to react to.
func (c *conn) read(kind int, b []byte) (*tidemark.Message, error) {
	switch {
	case kind == websocket.BinaryMessage:
		return c.decoder.attachment(b)
	case len(b) == 0:
		return nil, errMalformed
	}
	switch b[0] {
	case enginePing:
		c.pong()
		return nil, nil
	case engineNoop:
		return nil, nil
	case engineClose:
		return nil, errClosedByPeer
	case engineMessage:
		return c.readPacket(b[1:])
	}
	return nil, errMalformed
}

func (c *conn) readPacket(b []byte) (*tidemark.Message, error) {
	p, err := parsePacket(b)
	switch {
	case err != nil:
		return nil, err
	case p.namespace != "/":
		return nil, nil // of a namespace that we did not ask for
	case p.kind == packetDisconnect:
		return nil, errDismissed
	case p.kind == packetConnect, p.kind == packetConnectError:
		return nil, errMalformed
	}
	return c.decoder.message(p)
}

func (c *conn) pong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.queue.push(frame{data: []byte{enginePong}})
		c.notify()
	}
}

var (
	errClosedByPeer = errors.New("socketio: the server closed the session")
	errDismissed    = errors.New("socketio: the server said goodbye")
)

func reasonOfPacket(err error) tidemark.CloseReason {
	switch {
	case errors.Is(err, errDismissed):
		return tidemark.ClosedByServer
	case errors.Is(err, errClosedByPeer):
		return tidemark.ClosedTransport
	case errors.Is(err, tooLargeError{}):
		return tidemark.ClosedTooLarge
	}
	return tidemark.ClosedMalformed
}

// readFailure is reasonOf a failed read: only silence has a deadline there.
func (c *conn) readFailure(err error) tidemark.CloseReason {
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return tidemark.ClosedPing
	}
	return reasonOf(err)
}
