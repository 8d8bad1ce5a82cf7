package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// inboxSize is how many messages may wait for the session. When they are more,
// reading stops, and the server's side of the connection fills up.
const inboxSize = 256

// link is one open connection: it hands arriving messages to the session and
// pairs answers with calls.
type link struct {
	conn      tidemark.Conn
	announced int // the size of message that the server takes at most, 0 when unknown
	inbox     chan *tidemark.Message
	ended     chan struct{} // closed when the connection has ended
	left      chan struct{} // closed when the session no longer reads

	mu     sync.Mutex // protects what follows
	reason tidemark.CloseReason
	last   uint64
	calls  map[uint64]func(tidemark.Answer, error) // nil after the end
}

func newLink() *link {
	return &link{
		inbox: make(chan *tidemark.Message, inboxSize),
		ended: make(chan struct{}),
		left:  make(chan struct{}),
		calls: map[uint64]func(tidemark.Answer, error){},
	}
}

// Receive passes m to the session, and waits while the session is behind.
func (l *link) Receive(m *tidemark.Message) {
	select {
	case l.inbox <- m:
	case <-l.left:
	}
}

// Closed notes why the connection ended.
func (l *link) Closed(reason tidemark.CloseReason) {
	l.mu.Lock()
	l.reason = reason
	l.mu.Unlock()
	close(l.ended)
}

// call sends a request; done gets the answer, or the error when the connection
// ends before it. done must not wait.
func (l *link) call(r request, done func(tidemark.Answer, error)) (uint64, error) {
	l.mu.Lock()
	if l.calls == nil {
		l.mu.Unlock()
		return 0, broken(l.reason)
	}
	l.last++
	id := l.last
	l.calls[id] = done
	l.mu.Unlock()
	if err := l.conn.Send(r.message(id)); err != nil {
		l.forget(id)
		return 0, fmt.Errorf("%w: %w", tidemark.ErrOffline, err)
	}
	return id, nil
}

// forget drops a call; its answer will be ignored.
func (l *link) forget(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, id)
}

// answered takes the function that waits for the answer to call id, nil when
// none does.
func (l *link) answered(id uint64) func(tidemark.Answer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := l.calls[id]
	delete(l.calls, id)
	return done
}

// leave ends the connection and fails the calls that have no answer.
func (l *link) leave(reason tidemark.CloseReason) {
	close(l.left)
	l.conn.Close(reason)
	l.mu.Lock()
	calls := l.calls
	l.calls = nil
	if l.reason == "" {
		l.reason = reason
	}
	err := broken(l.reason)
	l.mu.Unlock()
	for _, done := range calls {
		done(tidemark.Answer{}, err)
	}
}

// connect is the connection loop: it dials while the user wants to be online,
// serves the connection until it ends, and waits ever longer after failures.
func (c *Client) connect() {
	var wait backoff
	for {
		online, ok := c.awaitOnline()
		if !ok {
			return
		}
		steady, err := c.attempt(online)
		if steady {
			wait.reset()
		}
		if online.Err() != nil {
			continue
		}
		d := wait.next(&c.opts)
		c.log.Debug("connecting again", "after", d, "error", err)
		c.pause(online, d)
	}
}

// awaitOnline waits until the client is online, and returns a context that ends
// when it no longer is; false after Close.
func (c *Client) awaitOnline() (context.Context, bool) {
	for {
		c.mu.Lock()
		online, turned := c.online, c.turned
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return nil, false
		}
		if online != nil {
			return online, true
		}
		select {
		case <-turned:
		case <-c.ctx.Done():
			return nil, false
		}
	}
}

// pause waits for d, the user's wish to try now, or the end of ctx.
func (c *Client) pause(ctx context.Context, d time.Duration) {
	select { // a wish from before the failed attempt does not count
	case <-c.kick:
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.kick:
	case <-ctx.Done():
	}
}

// attempt makes one connection and serves it to its end. steady says that it got
// as far as being synchronised, so that the next attempt need not wait long.
func (c *Client) attempt(online context.Context) (steady bool, err error) {
	l, err := c.dial(online)
	if err != nil {
		if online.Err() == nil {
			c.unreachable(err)
		}
		return false, err
	}
	c.begun(l)
	s := newSession(c, l)
	err = s.run(online)
	if online.Err() != nil {
		err = nil
	}
	l.leave(tidemark.ClosedByClient)
	<-l.ended
	c.ended(err)
	return s.steady, err
}

func (c *Client) dial(online context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(online, c.opts.CallTimeout)
	defer cancel()
	var hello tidemark.Hello
	if c.opts.Auth != nil {
		auth, err := c.opts.Auth(ctx)
		if err != nil {
			return nil, fmt.Errorf("authentication payload: %w", err)
		}
		hello.Auth = auth
	}
	l := newLink()
	conn, w, err := c.dialer.Dial(ctx, hello, l)
	l.conn, l.announced = conn, w.MaxMessage
	return l, err
}

// mostBytes returns the size that a message on l should not exceed; nil is no connection.
func (o *Options) mostBytes(l *link) int {
	switch {
	case o.MaxMessage > 0:
		return o.MaxMessage
	case l != nil && l.announced > 0:
		return l.announced - l.announced/10 // the rest is for what goes around the request
	}
	return 900_000
}

// unreachable makes it known that an attempt to connect failed.
func (c *Client) unreachable(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.failed, c.line.err = true, err
	c.changed()
}

// begun makes the connection known.
func (c *Client) begun(l *link) {
	c.log.Info("connected")
	c.mu.Lock()
	c.link = l
	c.line.connected, c.line.failed = true, false
	for _, sc := range c.scopes {
		sc.disconnect()
	}
	c.changed()
	c.mu.Unlock()
	emit(c, &c.handlers.connect, struct{}{}, func(fn func()) { fn() })
}

// ended makes the end of the connection known, and stores its date.
func (c *Client) ended(reason error) {
	now := c.opts.Now()
	c.log.Info("disconnected", "reason", reason)
	c.mu.Lock()
	c.link = nil
	c.line.connected, c.line.disconnected = false, now
	if reason != nil {
		c.line.err = reason
	}
	for _, sc := range c.scopes {
		sc.disconnect()
	}
	c.changed()
	c.mu.Unlock()
	emit(c, &c.handlers.disconnect, struct{}{}, func(fn func(error)) { fn(reason) })
	err := c.store.Update(context.WithoutCancel(c.ctx), func(tx tidemark.StoreTx) error {
		return tx.Save(keyDisconnected, tidemark.StampOf(now).AppendJSON(nil))
	})
	if err != nil {
		c.log.Warn("date of disconnection was not stored", "error", err)
	}
}

// backoff counts failures in a row.
type backoff struct{ failures int }

func (b *backoff) reset() { b.failures = 0 }

// next returns how long to wait after one more failure.
func (b *backoff) next(o *Options) time.Duration {
	d := o.MaxBackoff
	if b.failures < 30 {
		d = min(o.MinBackoff<<b.failures, o.MaxBackoff)
	}
	if d <= 0 { // the shift ran over
		d = o.MaxBackoff
	}
	b.failures++
	return d - time.Duration(float64(d)/2*o.Rand())
}
