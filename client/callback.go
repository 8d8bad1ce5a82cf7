package client

import (
	"context"
	"encoding/json"
	"sync"
)

// maxCallbacks is how many callbacks may wait. A program that falls further
// behind loses its connection, as any slow reader does, rather than an event.
const maxCallbacks = 10_000

// queue runs callbacks one after another on one goroutine, so that an
// application's slow handler never holds up the connection loop.
type queue struct {
	mu    sync.Mutex // protects fns
	fns   []func()
	ready chan struct{}
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// add queues fn, and reports whether there was room.
func (q *queue) add(fn func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.fns) >= maxCallbacks {
		return false
	}
	q.fns = append(q.fns, fn)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

func (q *queue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	fns := q.fns
	q.fns = nil
	return fns
}

func (q *queue) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.ready:
		}
		for _, fn := range q.take() {
			if ctx.Err() != nil {
				return
			}
			fn()
		}
	}
}

// handlers are the application's subscriptions. Client.mu protects them.
type handlers struct {
	events     list[eventName, func(json.RawMessage)]
	notices    list[string, func(json.RawMessage)]
	connect    list[struct{}, func()]
	disconnect list[struct{}, func(error)]
}

type eventName struct{ service, action string }

// list holds functions by key, in the order in which they were added.
type list[K comparable, F any] map[K][]*F

func (l *list[K, F]) add(mu *sync.Mutex, k K, fn F) (cancel func()) {
	mu.Lock()
	defer mu.Unlock()
	if *l == nil {
		*l = list[K, F]{}
	}
	own := &fn
	(*l)[k] = append((*l)[k], own)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		kept := make([]*F, 0, len((*l)[k]))
		for _, f := range (*l)[k] {
			if f != own {
				kept = append(kept, f)
			}
		}
		if (*l)[k] = kept; len(kept) == 0 {
			delete(*l, k)
		}
	}
}

// OnEvent calls fn with the result of each service event of that name that
// arrives: events of custom services, and of models where the server speaks the guide's
// protocol; in the second one changes of models come by the scopes, without events. See
// Options.OnRejection for how callbacks run. cancel ends that, but for events that have arrived already;
// it waits for no fn that runs, and may be called in one, and more than once.
func (c *Client) OnEvent(service, action string, fn func(result json.RawMessage)) (cancel func()) {
	return c.handlers.events.add(&c.mu, eventName{service, action}, fn)
}

// OnNotice calls fn with the value of each application event of that type.
// Events without a function are ignored. It runs fn, and ends, as OnEvent does.
func (c *Client) OnNotice(kind string, fn func(value json.RawMessage)) (cancel func()) {
	return c.handlers.notices.add(&c.mu, kind, fn)
}

// OnConnect calls fn after each connection is made. It runs fn, and ends, as OnEvent does.
func (c *Client) OnConnect(fn func()) (cancel func()) {
	return c.handlers.connect.add(&c.mu, struct{}{}, fn)
}

// OnDisconnect calls fn after each connection has ended, with the reason; nil
// when the client ended it. It runs fn, and ends, as OnEvent does.
func (c *Client) OnDisconnect(fn func(error)) (cancel func()) {
	return c.handlers.disconnect.add(&c.mu, struct{}{}, fn)
}

// emit queues a call of each function of the list l under k, and reports
// whether all found room.
func emit[K comparable, F any](c *Client, l *list[K, F], k K, call func(F)) bool {
	c.mu.Lock()
	fns := (*l)[k]
	c.mu.Unlock()
	for _, fn := range fns {
		if !c.callbacks.add(func() { call(*fn) }) {
			return false
		}
	}
	return true
}
