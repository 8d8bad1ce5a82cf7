package pipe_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a handler, of any number of connections, that remembers.
type recorder struct {
	mu       sync.Mutex // protects what follows
	received []*tidemark.Message
	closed   []tidemark.CloseReason
}

func (r *recorder) Receive(m *tidemark.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received = append(r.received, m)
}

func (r *recorder) Closed(reason tidemark.CloseReason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, reason)
}

// acceptAll is an acceptor that admits everybody.
type acceptAll struct{ recorder }

func (a *acceptAll) Offer(_ context.Context, o tidemark.Offer) {
	_, _ = o.Accept(tidemark.Welcome{ID: "one"}, &a.recorder)
}

func event(t *testing.T, name string, args ...any) *tidemark.Message {
	t.Helper()
	m, err := tidemark.NewEvent(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCutBreaksBothEndsAndNotTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := &acceptAll{}
		p := pipe.New(srv, nil)
		defer p.Close()
		var client recorder
		conn, w, err := p.Dial(t.Context(), tidemark.Hello{}, &client)
		if err != nil || w.ID != "one" {
			t.Fatalf("Dial: %+v, %v", w, err)
		}
		if err := conn.Send(event(t, "a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		p.Cut()
		synctest.Wait()
		if len(srv.received) != 1 || len(srv.closed) != 1 || srv.closed[0] != tidemark.ClosedTransport {
			t.Errorf("server received %v, closed %v", srv.received, srv.closed)
		}
		if len(client.closed) != 1 || client.closed[0] != tidemark.ClosedTransport {
			t.Errorf("client closed %v", client.closed)
		}
		if err := conn.Send(event(t, "b")); !errors.Is(err, tidemark.ErrClosed) {
			t.Errorf("Send after the cut: %v", err)
		}
		var again recorder
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &again); err != nil {
			t.Errorf("Dial after the cut: %v", err)
		}
	})
}

func TestBlockFailsDialsUntilUnblocked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := &acceptAll{}
		p := pipe.New(srv, nil)
		defer p.Close()
		var h recorder
		conn, _, err := p.Dial(t.Context(), tidemark.Hello{}, &h)
		if err != nil {
			t.Fatal(err)
		}
		p.Block()
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &recorder{}); !errors.Is(err, tidemark.ErrOffline) {
			t.Errorf("Dial while blocked: %v", err)
		}
		if err := conn.Send(event(t, "still")); err != nil {
			t.Errorf("a present connection must go on: %v", err)
		}
		p.Unblock()
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &recorder{}); err != nil {
			t.Errorf("Dial after Unblock: %v", err)
		}
	})
}

// silent is an acceptor that never answers.
type silent struct{ ended bool }

func (s *silent) Offer(ctx context.Context, _ tidemark.Offer) {
	<-ctx.Done()
	s.ended = true
}

func TestCutEndsADialUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := &silent{}
		p := pipe.New(srv, nil)
		defer p.Close()
		time.AfterFunc(time.Minute, p.Cut)
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &recorder{}); !errors.Is(err, tidemark.ErrOffline) {
			t.Errorf("Dial that was cut: %v", err)
		}
		synctest.Wait()
		if !srv.ended {
			t.Error("the offer's ctx goes on after the cut")
		}
	})
}

func TestCloseTellsTheServerAndRefusesDials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := &acceptAll{}
		p := pipe.New(srv, nil)
		var client recorder
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &client); err != nil {
			t.Fatal(err)
		}
		p.Close()
		p.Close()
		if len(srv.closed) != 1 || srv.closed[0] != tidemark.ClosedShutdown || len(client.closed) != 1 || client.closed[0] != tidemark.ClosedTransport {
			t.Errorf("closed: server %v, client %v", srv.closed, client.closed)
		}
		if _, _, err := p.Dial(t.Context(), tidemark.Hello{}, &recorder{}); !errors.Is(err, tidemark.ErrClosed) {
			t.Errorf("Dial after Close: %v", err)
		}
	})
}
