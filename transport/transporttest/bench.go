package transporttest

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// bench is a server whose offers the rules answer, and the connections that they made.
type bench struct {
	Harness
	dialer tidemark.Dialer
	offers chan offered
	settle func() // waits until nothing happens any more; nil where that cannot be known

	mu    sync.Mutex // protects conns
	conns []tidemark.Conn
}

// offered is an offer that waits for its answer.
type offered struct {
	tidemark.Offer
	ctx context.Context
}

func newBench(h Harness) *bench {
	b := &bench{Harness: h, offers: make(chan offered, 16)}
	b.dialer = h.Serve(b)
	return b
}

// Offer implements tidemark.Acceptor: the rule answers, later.
func (b *bench) Offer(ctx context.Context, o tidemark.Offer) {
	b.offers <- offered{o, ctx}
}

// close ends what the rule has left open.
func (b *bench) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.Close(tidemark.ClosedTransport)
	}
}

func (b *bench) keep(c tidemark.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns = append(b.conns, c)
}

// end is one end of a connection with the handler that remembers what came.
type end struct {
	tidemark.Conn
	*observer
}

// dialing is a Dial under way.
type dialing struct {
	result chan dialResult
}

type dialResult struct {
	end
	welcome tidemark.Welcome
	err     error
}

// dial begins to dial with the observer o as handler.
func (b *bench) dial(ctx context.Context, hello tidemark.Hello, o *observer) dialing {
	d := dialing{make(chan dialResult, 1)}
	go func() {
		c, w, err := b.dialer.Dial(ctx, hello, o)
		if err == nil {
			b.keep(c)
		}
		d.result <- dialResult{end{c, o}, w, err}
	}()
	return d
}

func (d dialing) wait(ctx context.Context) (dialResult, error) {
	select {
	case r := <-d.result:
		return r, nil
	case <-ctx.Done():
		return dialResult{}, fmt.Errorf("Dial did not return")
	}
}

func (b *bench) offer(ctx context.Context) (offered, error) {
	select {
	case o := <-b.offers:
		return o, nil
	case <-ctx.Done():
		return offered{}, fmt.Errorf("the acceptor got no offer")
	}
}

func (b *bench) accept(o offered, w tidemark.Welcome, h *observer) (end, error) {
	c, err := o.Accept(w, h)
	if err != nil {
		return end{}, fmt.Errorf("Accept: %w", err)
	}
	b.keep(c)
	return end{c, h}, nil
}

// connect makes a connection with observers at both ends.
func (b *bench) connect(ctx context.Context) (client, server end, err error) {
	return b.connectWith(ctx, tidemark.Welcome{ID: "id"}, newObserver(), newObserver())
}

func (b *bench) connectWith(ctx context.Context, w tidemark.Welcome, atClient, atServer *observer) (client, server end, err error) {
	d := b.dial(ctx, tidemark.Hello{}, atClient)
	o, err := b.offer(ctx)
	if err != nil {
		return client, server, err
	}
	if server, err = b.accept(o, w, atServer); err != nil {
		return client, server, err
	}
	r, err := d.wait(ctx)
	if err == nil && r.err != nil {
		err = fmt.Errorf("Dial: %w", r.err)
	}
	return r.end, server, err
}

// held returns an observer whose Receive waits, and what lets it go on.
func held() (*observer, func()) {
	o := newObserver()
	o.gate, o.entered = make(chan struct{}), make(chan struct{}, 1)
	return o, sync.OnceFunc(func() { close(o.gate) })
}

// observer is a handler that remembers what came and complains of what may not.
type observer struct {
	// gate, when set, holds up every Receive until it is closed.
	gate chan struct{}
	// entered, when set, gets a token at the begin of a Receive if it has room.
	entered chan struct{}
	// onReceive, when set, is called within Receive.
	onReceive func(m *tidemark.Message)

	mu       sync.Mutex // protects what follows
	changed  chan struct{}
	messages []*tidemark.Message
	reasons  []tidemark.CloseReason
	inside   int
	wrong    error
}

func newObserver() *observer { return &observer{changed: make(chan struct{})} }

// Receive implements tidemark.Handler.
func (o *observer) Receive(m *tidemark.Message) {
	o.update(func() {
		if o.inside++; o.inside > 1 {
			o.wrong = fmt.Errorf("Receive was called while it ran")
		}
		if len(o.reasons) > 0 {
			o.wrong = fmt.Errorf("Receive was called after Closed")
		}
	})
	select {
	case o.entered <- struct{}{}:
	default:
	}
	if o.gate != nil {
		<-o.gate
	}
	if o.onReceive != nil {
		o.onReceive(m)
	}
	o.update(func() {
		o.inside--
		o.messages = append(o.messages, m)
	})
}

// Closed implements tidemark.Handler.
func (o *observer) Closed(reason tidemark.CloseReason) {
	o.update(func() {
		if o.inside > 0 {
			o.wrong = fmt.Errorf("Closed was called while Receive ran")
		}
		if o.reasons = append(o.reasons, reason); len(o.reasons) > 1 {
			o.wrong = fmt.Errorf("Closed was called %d times: %v", len(o.reasons), o.reasons)
		}
	})
}

func (o *observer) update(fn func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fn()
	close(o.changed)
	o.changed = make(chan struct{})
}

// await waits until ok holds of o, or something is wrong.
func (o *observer) await(ctx context.Context, what string, ok func() bool) error {
	for {
		o.mu.Lock()
		held, wrong, changed := ok(), o.wrong, o.changed
		state := fmt.Sprintf("%d received, closed %v", len(o.messages), o.reasons)
		o.mu.Unlock()
		switch {
		case wrong != nil:
			return wrong
		case held:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s; %s", what, state)
		}
	}
}

// received waits for n messages and returns them.
func (o *observer) received(ctx context.Context, n int) ([]*tidemark.Message, error) {
	err := o.await(ctx, fmt.Sprintf("message %d", n), func() bool { return len(o.messages) >= n })
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil && len(o.messages) > n {
		err = fmt.Errorf("%d messages arrived, want %d", len(o.messages), n)
	}
	return o.messages, err
}

// closed waits for the end and returns its reason.
func (o *observer) closed(ctx context.Context) (tidemark.CloseReason, error) {
	if err := o.await(ctx, "Closed", func() bool { return len(o.reasons) > 0 }); err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reasons[0], nil
}

// closedFor waits for the end and wants it to be for reason.
func (o *observer) closedFor(ctx context.Context, reason tidemark.CloseReason) error {
	got, err := o.closed(ctx)
	if err == nil && got != reason {
		err = fmt.Errorf("closed for %q, want %q", got, reason)
	}
	return err
}

// closedResumable waits for the end and wants it to be one after which a session can be resumed.
func (o *observer) closedResumable(ctx context.Context) error {
	got, err := o.closed(ctx)
	if err == nil && !got.Resumable() {
		err = fmt.Errorf("closed for %q, which cannot be resumed", got)
	}
	return err
}

// untouched reports whether the handler was ever called.
func (o *observer) untouched() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.messages)+len(o.reasons)+o.inside > 0 {
		return fmt.Errorf("the handler was called: %d messages, closed %v", len(o.messages), o.reasons)
	}
	return nil
}
