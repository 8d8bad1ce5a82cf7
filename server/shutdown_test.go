package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// hanging is a service whose method waits for gate, or for its context.
func hanging(t *testing.T, b *bench) (inside, gate chan struct{}) {
	inside, gate = make(chan struct{}, 8), make(chan struct{})
	if _, err := b.server.Handle("util", server.Methods{"hang": func(ctx context.Context, c *server.Call) (any, error) {
		inside <- struct{}{}
		select {
		case <-gate:
			// A call inside one that runs is part of it.
			return c.Server.Service("post").Call(ctx, "createWithMeta", "a", tidemark.Row(`{"title":"x"}`), stamp(0))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}); err != nil {
		t.Fatal(err)
	}
	return inside, gate
}

// line is both an offer and the server's end of its connection: it notes what the
// server does with it.
type line struct {
	handler tidemark.Handler
	mu      sync.Mutex
	did     []string
}

func (l *line) Hello() tidemark.Hello    { return tidemark.Hello{} }
func (l *line) Refuse(e *tidemark.Error) { l.note("refuse " + string(e.Code)) }

func (l *line) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	l.handler = h
	return l, nil
}

func (l *line) Send(m *tidemark.Message) error {
	l.note("send " + m.Event + string(m.Args[0]))
	return nil
}

func (l *line) Close(reason tidemark.CloseReason) {
	l.note("close " + string(reason))
	go l.handler.Closed(reason)
}

func (l *line) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.did = append(l.did, what)
}

func (l *line) noted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.did)
}

func (l *line) call(t *testing.T, id uint64, envelope string) {
	t.Helper()
	l.handler.Receive(&tidemark.Message{Kind: tidemark.CallMessage, ID: id, Event: tidemark.EventRequest, Args: []json.RawMessage{json.RawMessage(envelope)}})
}

func TestShutdownFinishesWhatRuns(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{NewID: func() string { return "me" }})
	inside, gate := hanging(t, b)
	left := make(chan tidemark.CloseReason, 1)
	b.server.OnDisconnect(func(_ *server.Session, r tidemark.CloseReason) { left <- r })
	var l, late line
	b.server.Offer(t.Context(), &l)
	l.call(t, 1, `{"name":"util","action":"hang","args":[]}`)
	<-inside
	done := make(chan error, 1)
	go func() { done <- b.server.Shutdown(t.Context()) }()
	poll(t, "the refusal of server code", func() bool {
		_, err := b.server.Service("post").Call(t.Context(), "findMany", tidemark.Where{})
		return errors.Is(err, tidemark.ErrClosed)
	})
	l.call(t, 2, `{"name":"post","action":"findMany","args":[{}]}`)
	b.server.Offer(t.Context(), &late)
	equalList(t, late.noted(), []string{"refuse unavailable"})
	select {
	case <-done:
		t.Fatal("Shutdown returned while a call ran")
	default:
	}
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
	equal(t, string(<-left), string(tidemark.ClosedShutdown))
	meta := `{"uid":"a","created_at":"` + at(0) + `","updated_at":null,"deleted_at":null}`
	equalList(t, l.noted(), []string{
		`send connected"me"`,
		`send {"error":{"code":"unavailable","message":"the server is shutting down"}}`,
		`send {"result":[{"uid":"a","title":"x","owner":null,"likes":null,"due":null},` + meta + `]}`,
		`close server shutting down`,
	})
	if err := b.server.Shutdown(t.Context()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
	if n := b.server.Channels(); n != 0 {
		t.Errorf("%d channels are left", n)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	inside, _ := hanging(t, b)
	c := b.dial()
	c.send("util", "hang")
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	c.waitClosed()
	for range 2 {
		if err := b.server.Close(); err != nil {
			t.Errorf("got %v", err)
		}
	}
}

func TestCloseWhileSessionsOpen(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	inside := make(chan struct{}, 100)
	b.server.OnConnect(func(ctx context.Context, _ *server.Session) error { inside <- struct{}{}; <-ctx.Done(); return nil })
	clients := make([]*client, 5)
	for i := range clients {
		clients[i] = b.dialWith(tidemark.Hello{})
		clients[i].send("post", "findMany", map[string]any{})
		<-inside
	}
	if err := b.server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		c.waitClosed()
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	named := func(name string) *memory.Driver {
		s, err := tidemark.NewSchema(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		return memory.New(s)
	}
	if _, err := server.New(named("sync"), nil); err == nil {
		t.Error("a model named sync")
	}
	if _, err := server.New(named("x"), &server.Options{MaxDrift: -time.Second}); err == nil {
		t.Error("a negative MaxDrift")
	}
}

// A session that a connect listener refuses has none of its calls executed,
// whether they came before or after the refusal.
func TestCallsOfARefusedSession(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	gate := make(chan struct{})
	b.server.OnConnect(func(context.Context, *server.Session) error { <-gate; return errors.New("who are you?") })
	if _, err := b.server.Handle("util", server.Methods{"m": func(context.Context, *server.Call) (any, error) {
		t.Error("a call of a refused session was executed")
		return nil, nil
	}}); err != nil {
		t.Fatal(err)
	}
	var l line
	b.server.Offer(t.Context(), &l)
	l.call(t, 1, `{"name":"util","action":"m","args":[]}`)
	close(gate)
	poll(t, "the close", func() bool { return len(l.noted()) > 0 })
	for range 100 {
		l.call(t, 2, `{"name":"util","action":"m","args":[]}`)
		runtime.Gosched()
	}
	b.server.Close()
	equalList(t, l.noted()[:1], []string{"close server namespace disconnect"})
}

func TestAConnectionThatIsToldClosedTwiceEndsOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	ended := make(chan struct{}, 2)
	b.server.OnDisconnect(func(*server.Session, tidemark.CloseReason) { ended <- struct{}{} })
	var l line
	b.server.Offer(t.Context(), &l)
	l.handler.Closed(tidemark.ClosedTransport)
	l.handler.Closed(tidemark.ClosedTransport)
	b.server.Close()
	if n := len(ended); n > 1 {
		t.Errorf("the disconnect listeners ran %d times", n)
	}
}
