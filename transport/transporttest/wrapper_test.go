package transporttest

import (
	"context"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// wrapper stands between a rule and a sound transport. What is nil is left as it is.
type wrapper struct {
	send     func(c tidemark.Conn, m *tidemark.Message) error
	close    func(c tidemark.Conn, reason tidemark.CloseReason)
	handler  func(h tidemark.Handler) tidemark.Handler // at both ends
	hello    func(tidemark.Hello) tidemark.Hello
	welcome  func(tidemark.Welcome) tidemark.Welcome
	offerCtx func(context.Context) context.Context
	dial     func(ctx context.Context, dial func(context.Context) error) error
	dialed   func(ctx context.Context, c tidemark.Conn)
	accept   func(o *wrappedOffer, w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error)
	offer    func(offer func())
}

type wrappedDialer struct {
	*wrapper
	tidemark.Dialer
}

func (d wrappedDialer) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (c tidemark.Conn, w tidemark.Welcome, err error) {
	dial := func(ctx context.Context) error {
		c, w, err = d.Dialer.Dial(ctx, hello, d.wrapHandler(h))
		return err
	}
	if d.wrapper.dial != nil {
		err = d.wrapper.dial(ctx, dial)
	} else {
		err = dial(ctx)
	}
	if c != nil {
		if d.dialed != nil {
			d.dialed(ctx, c)
		}
		c = wrappedConn{d.wrapper, c}
	}
	return c, w, err
}

func (w *wrapper) wrapHandler(h tidemark.Handler) tidemark.Handler {
	if w.handler == nil {
		return h
	}
	return w.handler(h)
}

type wrappedAcceptor struct {
	*wrapper
	tidemark.Acceptor
}

func (a wrappedAcceptor) Offer(ctx context.Context, o tidemark.Offer) {
	if a.offerCtx != nil {
		ctx = a.offerCtx(ctx)
	}
	wrapped := &wrappedOffer{Offer: o, wrapper: a.wrapper, answered: make(chan struct{})}
	if a.wrapper.offer == nil {
		a.Acceptor.Offer(ctx, wrapped)
		return
	}
	a.wrapper.offer(func() {
		a.Acceptor.Offer(ctx, wrapped)
		select {
		case <-wrapped.answered:
		case <-ctx.Done():
		}
	})
}

type wrappedOffer struct {
	tidemark.Offer
	*wrapper
	once     sync.Once
	answered chan struct{}
}

func (o *wrappedOffer) Hello() tidemark.Hello {
	if o.hello != nil {
		return o.hello(o.Offer.Hello())
	}
	return o.Offer.Hello()
}

func (o *wrappedOffer) Accept(w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	o.once.Do(func() { close(o.answered) })
	if o.welcome != nil {
		w = o.welcome(w)
	}
	if o.accept != nil {
		return o.accept(o, w, o.wrapHandler(h))
	}
	c, err := o.Offer.Accept(w, o.wrapHandler(h))
	if err != nil {
		return nil, err
	}
	return wrappedConn{o.wrapper, c}, nil
}

func (o *wrappedOffer) Refuse(e *tidemark.Error) {
	o.once.Do(func() { close(o.answered) })
	o.Offer.Refuse(e)
}

type wrappedConn struct {
	*wrapper
	tidemark.Conn
}

func (c wrappedConn) Send(m *tidemark.Message) error {
	if c.send != nil {
		return c.send(c.Conn, m)
	}
	return c.Conn.Send(m)
}

func (c wrappedConn) Close(reason tidemark.CloseReason) {
	if c.wrapper.close != nil {
		c.wrapper.close(c.Conn, reason)
		return
	}
	c.Conn.Close(reason)
}

// wrappedHandler changes how a handler is called.
type wrappedHandler struct {
	tidemark.Handler
	receive func(m *tidemark.Message)
	closed  func(reason tidemark.CloseReason)
}

func (h *wrappedHandler) Receive(m *tidemark.Message) {
	if h.receive != nil {
		h.receive(m)
		return
	}
	h.Handler.Receive(m)
}

func (h *wrappedHandler) Closed(reason tidemark.CloseReason) {
	if h.closed != nil {
		h.closed(reason)
		return
	}
	h.Handler.Closed(reason)
}

func changed(m *tidemark.Message, change func(m *tidemark.Message)) *tidemark.Message {
	c := &tidemark.Message{Kind: m.Kind, ID: m.ID, Event: m.Event, Args: slices.Clone(m.Args), Attachments: m.Attachments}
	change(c)
	return c
}
