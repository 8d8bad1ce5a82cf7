package transporttest

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// fault is a way to break a transport, and the rules that must find it.
type fault struct {
	name    string
	pipe    *pipe.Options
	wrap    wrapper
	harness func(h *Harness, p *pipe.Pipe)
	broken  []string
}

func faults() []fault {
	return []fault{
		{name: "none"},
		{name: "messages are lost", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if m.Event == "e400" {
				return nil
			}
			return c.Send(m)
		}}, broken: []string{"order"}},
		{name: "messages are repeated", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if m.Event == "e400" {
				_ = c.Send(m)
			}
			return c.Send(m)
		}}, broken: []string{"order"}},
		{name: "numbers are lost", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			return c.Send(changed(m, func(m *tidemark.Message) { m.ID &= 0xffffffff }))
		}}, broken: []string{"calls and answers"}},
		{name: "arguments are reformatted", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			return c.Send(changed(m, func(m *tidemark.Message) {
				for i, a := range m.Args {
					var v any
					if json.Unmarshal(a, &v) == nil {
						m.Args[i], _ = json.Marshal(v)
					}
				}
			}))
		}}, broken: []string{"arguments"}},
		{name: "attachments are lost", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			return c.Send(changed(m, func(m *tidemark.Message) { m.Attachments = nil }))
		}}, broken: []string{"attachments"}},
		{name: "big messages are refused", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if len(m.Args) > 0 && len(m.Args[0]) > pipe.DefaultQueueBytes {
				return tidemark.NewError(tidemark.CodeTooLarge, "too big")
			}
			return c.Send(m)
		}}, broken: []string{"big messages"}},
		{name: "a message is spoilt by sending", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			err := c.Send(m)
			m.Event = "spoilt"
			return err
		}}, broken: []string{"one message to many", "attachments", "arguments"}},
		{name: "Receive is called concurrently", wrap: wrapper{handler: func(h tidemark.Handler) tidemark.Handler {
			var wg sync.WaitGroup
			return &wrappedHandler{Handler: h, receive: func(m *tidemark.Message) {
				wg.Go(func() { h.Receive(m) })
			}, closed: func(r tidemark.CloseReason) {
				wg.Wait()
				h.Closed(r)
			}}
		}}, broken: []string{"one at a time", "order"}},
		{name: "Closed comes twice", wrap: wrapper{handler: func(h tidemark.Handler) tidemark.Handler {
			return &wrappedHandler{Handler: h, closed: func(r tidemark.CloseReason) {
				h.Closed(r)
				h.Closed(r)
			}}
		}}, broken: []string{"close is idempotent"}},
		{name: "Closed does not wait for Receive", wrap: wrapper{handler: func(h tidemark.Handler) tidemark.Handler {
			queue := make(chan *tidemark.Message, 10_000)
			var waiting atomic.Int32
			start := sync.OnceFunc(func() {
				go func() {
					for m := range queue {
						h.Receive(m)
						waiting.Add(-1)
					}
				}()
			})
			return &wrappedHandler{Handler: h, receive: func(m *tidemark.Message) {
				start()
				waiting.Add(1)
				queue <- m
			}, closed: func(r tidemark.CloseReason) {
				for waiting.Load() > 0 && !h.(*observer).receiving() { // the goroutine may not have begun
					runtime.Gosched()
				}
				h.Closed(r)
				close(queue)
			}}
		}}, broken: []string{"closed is last", "close while blocked"}},
		{name: "Closed never comes", wrap: wrapper{handler: func(h tidemark.Handler) tidemark.Handler {
			return &wrappedHandler{Handler: h, closed: func(tidemark.CloseReason) {}}
		}}, broken: []string{"close is idempotent", "client's goodbye", "server's goodbye", "cut", "shutdown"}},
		{name: "refusals lose their code", wrap: wrapper{dial: func(ctx context.Context, dial func(context.Context) error) error {
			if err := dial(ctx); err != nil {
				if _, refused := errors.AsType[*tidemark.Error](err); refused {
					return errors.New("refused")
				}
				return err
			}
			return nil
		}}, broken: []string{"refuse"}},
		{name: "Dial ignores its ctx", wrap: wrapper{dial: func(ctx context.Context, dial func(context.Context) error) error {
			return dial(context.WithoutCancel(ctx))
		}}, broken: []string{"dial that ends", "dial that has ended"}},
		{name: "a line breaks with an unknown error", wrap: wrapper{dial: func(ctx context.Context, dial func(context.Context) error) error {
			if err := dial(ctx); errors.Is(err, tidemark.ErrOffline) {
				return errors.New("something")
			} else {
				return err
			}
		}}, broken: []string{"cut before the answer"}},
		{name: "the offer's ctx goes on", wrap: wrapper{offerCtx: context.WithoutCancel},
			broken: []string{"offer's ctx", "dial that ends", "cut before the answer"}},
		{name: "the session is not asked for", wrap: wrapper{hello: func(h tidemark.Hello) tidemark.Hello {
			h.Session = ""
			return h
		}}, broken: []string{"hello"}},
		{name: "the private id is not given", wrap: wrapper{welcome: func(w tidemark.Welcome) tidemark.Welcome {
			w.Session = ""
			return w
		}}, broken: []string{"welcome"}},
		{name: "Replay is forgotten", wrap: wrapper{welcome: func(w tidemark.Welcome) tidemark.Welcome {
			w.Replay = nil
			return w
		}}, broken: []string{"replay"}},
		{name: "Replay is sent like the rest", wrap: wrapper{accept: func(o *wrappedOffer, w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
			replay := w.Replay
			w.Replay = nil
			c, err := o.Offer.Accept(w, h)
			for _, m := range replay {
				if err == nil {
					_ = c.Send(m)
				}
			}
			return c, err
		}}, broken: []string{"big replay"}},
		{name: "Accept can be repeated", wrap: wrapper{accept: func(o *wrappedOffer, w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
			c, err := o.Offer.Accept(w, h)
			if err != nil {
				return nopConn{}, nil
			}
			return c, nil
		}}, broken: []string{"one answer", "dial that ends"}},
		{name: "a lone offer is answered at a time", wrap: wrapper{offer: oneAtATime()}, broken: []string{"many at once", "late accept"}},
		{name: "Dial waits for what is replayed", wrap: dialWithReplay(), broken: []string{"receive after dial"}},
		{name: "the connection lives in Dial's ctx", wrap: wrapper{dialed: func(ctx context.Context, c tidemark.Conn) {
			context.AfterFunc(ctx, func() { c.Close(tidemark.ClosedTransport) })
		}}, broken: []string{"ctx outlives dial"}},
		{name: "Close waits", wrap: wrapper{close: func(c tidemark.Conn, r tidemark.CloseReason) {
			c.Close(r)
			<-time.After(time.Hour)
		}}, broken: []string{"close from within", "close while blocked"}},
		{name: "one of many senders loses a message", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if m.Event == "c50" {
				return nil
			}
			return c.Send(m)
		}}, broken: []string{"concurrent senders"}},
		{name: "answers from within Receive are lost", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if m.Kind == tidemark.AnswerMessage && m.ID == 50 {
				return nil
			}
			return c.Send(m)
		}}, broken: []string{"answer from within"}},
		{name: "an impossible message ends the connection", wrap: wrapper{send: func(c tidemark.Conn, m *tidemark.Message) error {
			if len(m.Attachments) > 10 {
				c.Close(tidemark.ClosedError)
			}
			return c.Send(m)
		}}, broken: []string{"impossible message"}},
		{name: "a client's goodbye is not told", wrap: wrapper{close: func(c tidemark.Conn, r tidemark.CloseReason) {
			if r == tidemark.ClosedByClient {
				r = tidemark.ClosedTransport
			}
			c.Close(r)
		}}, broken: []string{"client's goodbye"}},
		{name: "a server's goodbye is not told", wrap: wrapper{close: func(c tidemark.Conn, r tidemark.CloseReason) {
			if r == tidemark.ClosedByServer {
				r = tidemark.ClosedTransport
			}
			c.Close(r)
		}}, broken: []string{"server's goodbye"}},
		{name: "a shutdown loses what waits", wrap: wrapper{close: func(c tidemark.Conn, r tidemark.CloseReason) {
			if r == tidemark.ClosedShutdown {
				r = tidemark.ClosedTransport
			}
			c.Close(r)
		}}, broken: []string{"last words"}},
		{name: "every end is a goodbye", wrap: wrapper{handler: func(h tidemark.Handler) tidemark.Handler {
			return &wrappedHandler{Handler: h, closed: func(tidemark.CloseReason) { h.Closed(tidemark.ClosedByServer) }}
		}}, broken: []string{"other reasons", "client's goodbye", "cut", "shutdown", "close is idempotent"}},
		{name: "the queue has no bound", pipe: &pipe.Options{QueueBytes: 1 << 40}, broken: []string{"slow reader"}},
		{name: "cutting does nothing", harness: func(h *Harness, _ *pipe.Pipe) { h.Cut = func() {} },
			broken: []string{"cut", "cut before the answer"}},
		{name: "a shutdown is just a cut", harness: func(h *Harness, p *pipe.Pipe) { h.Shutdown = p.Cut }, broken: []string{"shutdown"}},
	}
}

// oneAtATime holds an offer's place until it is answered.
func oneAtATime() func(func()) {
	place := make(chan struct{}, 1)
	return func(answered func()) {
		place <- struct{}{}
		answered()
		<-place
	}
}

// dialWithReplay makes Dial wait until the first replayed message was received.
func dialWithReplay() wrapper {
	var mu sync.Mutex
	var first chan struct{}
	return wrapper{
		welcome: func(w tidemark.Welcome) tidemark.Welcome {
			mu.Lock()
			defer mu.Unlock()
			first = nil
			if len(w.Replay) > 0 {
				first = make(chan struct{})
			}
			return w
		},
		handler: func(h tidemark.Handler) tidemark.Handler {
			return &wrappedHandler{Handler: h, receive: func(m *tidemark.Message) {
				h.Receive(m)
				mu.Lock()
				defer mu.Unlock()
				if first != nil {
					close(first)
					first = nil
				}
			}}
		},
		dialed: func(context.Context, tidemark.Conn) {
			mu.Lock()
			wait := first
			mu.Unlock()
			if wait != nil {
				<-wait
			}
		},
	}
}

type nopConn struct{}

func (nopConn) Send(*tidemark.Message) error { return nil }
func (nopConn) Close(tidemark.CloseReason)   {}

func (o *observer) receiving() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.inside > 0
}
