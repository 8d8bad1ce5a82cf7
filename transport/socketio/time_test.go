package socketio_test

import (
	"context"
	"errors"

	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// The tests of this file run the real HTTP server, handler and dialer on
// net.Pipe, in bubbles with virtual time.

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.close.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// narrow is a connection that takes rate bytes a second, each way.
type narrow struct {
	net.Conn
	rate int
}

func (n *narrow) Read(b []byte) (int, error) {
	k, err := n.Conn.Read(b[:min(len(b), n.rate/10)])
	<-time.After(time.Second * time.Duration(k) / time.Duration(n.rate))
	return k, err
}

func (n *narrow) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var k int
		k, err = n.Conn.Write(b[done:min(done+n.rate/10, len(b))])
		done += k
		<-time.After(time.Second * time.Duration(k) / time.Duration(n.rate))
	}
	return done, err
}

// bubble serves h on pipes, in a bubble of virtual time.
func bubble(t *testing.T, h http.Handler, run func(t *testing.T, p *pipes)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		srv := &http.Server{Handler: h}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = srv.Serve(p)
		}()
		run(t, p)
		if s, ok := h.(*socketio.Handler); ok {
			_ = s.Close()
		}
		_ = srv.Close()
		<-served
	})
}

// lobby is an acceptor that admits everybody and remembers the ends of connections.
type lobby struct {
	mu     sync.Mutex // protects what follows
	conn   tidemark.Conn
	events []string
	closed []tidemark.CloseReason
}

func (l *lobby) Offer(_ context.Context, o tidemark.Offer) {
	c, err := o.Accept(tidemark.Welcome{ID: "id"}, l)
	if err == nil {
		l.mu.Lock()
		l.conn = c
		l.mu.Unlock()
	}
}

func (l *lobby) Receive(m *tidemark.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, m.Event)
}

func (l *lobby) Closed(r tidemark.CloseReason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = append(l.closed, r)
}

func (l *lobby) state() (conn tidemark.Conn, events []string, closed []tidemark.CloseReason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn, l.events, l.closed
}

func (l *lobby) wantClosed(t *testing.T, want ...tidemark.CloseReason) {
	t.Helper()
	_, _, closed := l.state()
	if len(closed) != len(want) || len(want) == 1 && closed[0] != want[0] {
		t.Errorf("closed for %q, want %q", closed, want)
	}
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func bigEvent(t *testing.T, size int) *tidemark.Message {
	t.Helper()
	m, err := tidemark.NewEvent("big", strings.Repeat("x", size))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestIdleConnectionsLive(t *testing.T) {
	var server, client lobby
	h := socketio.NewHandler(&server, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		c, _, err := socketio.NewDialer("http://host", &socketio.DialOptions{NetDial: p.dial}).Dial(t.Context(), tidemark.Hello{}, &client)
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		server.wantClosed(t)
		client.wantClosed(t)
		c.Close(tidemark.ClosedByClient)
		synctest.Wait()
		server.wantClosed(t, tidemark.ClosedByClient)
		client.wantClosed(t, tidemark.ClosedByClient)
	})
}

// rawDial opens a websocket that answers nothing by itself.
func rawDial(t *testing.T, p *pipes) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{NetDialContext: p.dial}
	c, _, err := d.DialContext(t.Context(), "ws://host/?EIO=4&transport=websocket", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func readText(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_, b, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSilentClientIsGivenUp(t *testing.T) {
	var server lobby
	h := socketio.NewHandler(&server, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		c := rawDial(t, p)
		readText(t, c)
		start := time.Now()
		if err := c.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
			t.Fatal(err)
		}
		readText(t, c)
		if got := readText(t, c); got != "2" || time.Since(start) != 25*time.Second {
			t.Errorf("got %s after %v, want a ping after 25 s", got, time.Since(start))
		}
		_, _, err := c.ReadMessage()
		if err == nil || time.Since(start) != 45*time.Second {
			t.Errorf("got %v after %v, want the end after 45 s", err, time.Since(start))
		}
		synctest.Wait()
		server.wantClosed(t, tidemark.ClosedPing)
	})
}

func TestClientThatDoesNotConnectIsClosed(t *testing.T) {
	var server lobby
	h := socketio.NewHandler(&server, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		c := rawDial(t, p)
		readText(t, c)
		start := time.Now()
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				break
			}
		}
		if time.Since(start) != 5*time.Second {
			t.Errorf("closed after %v, want 5 s", time.Since(start))
		}
		synctest.Wait()
		if conn, _, _ := server.state(); conn != nil {
			t.Error("it was offered")
		}
	})
}

// TestNarrowLineIsNotSilence moves a message that takes several minutes, longer
// than every time-out, one way or the other.
func TestNarrowLineIsNotSilence(t *testing.T) {
	for _, down := range []bool{true, false} {
		t.Run(map[bool]string{true: "down", false: "up"}[down], func(t *testing.T) {
			var server, client lobby
			h := socketio.NewHandler(&server, nil)
			bubble(t, h, func(t *testing.T, p *pipes) {
				const rate, size = 16 << 10, 4 << 20
				dial := func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := p.dial(ctx, network, address)
					return &narrow{c, rate}, err
				}
				c, _, err := socketio.NewDialer("http://host", &socketio.DialOptions{NetDial: dial}).Dial(t.Context(), tidemark.Hello{}, &client)
				if err != nil {
					t.Fatal(err)
				}
				from, to := c, &server
				if down {
					from, _, _ = server.state()
					to = &client
				}
				if err := from.Send(bigEvent(t, size)); err != nil {
					t.Fatal(err)
				}
				pass(2*size/rate*time.Second + time.Minute)
				server.wantClosed(t)
				client.wantClosed(t)
				if _, events, _ := to.state(); len(events) != 1 {
					t.Errorf("received %v", events)
				}
				c.Close(tidemark.ClosedTransport)
				pass(time.Minute)
			})
		})
	}
}

// TestReceiverThatWaitsIsNotSilence: while a handler has a message nothing is
// read, pongs included, and that is not the client's fault.
func TestReceiverThatWaitsIsNotSilence(t *testing.T) {
	var client lobby
	app := &stuck{}
	h := socketio.NewHandler(app, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		app.entered, app.gate = make(chan struct{}, 1), make(chan struct{})
		opts := &socketio.DialOptions{NetDial: p.dial, WriteTimeout: time.Hour} // a pipe has no room for a pong
		c, _, err := socketio.NewDialer("http://host", opts).Dial(t.Context(), tidemark.Hello{}, &client)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(bigEvent(t, 10)); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		app.wantClosed(t)
		client.wantClosed(t)
		closed := make(chan struct{})
		go func() {
			_ = h.Close()
			close(closed)
		}()
		pass(time.Minute)
		select {
		case <-closed:
			t.Error("Close did not wait for the handler")
		default:
		}
		close(app.gate)
		<-closed
		app.wantClosed(t, tidemark.ClosedShutdown)
		synctest.Wait()
	})
}

func TestClientThatTakesNothingIsCut(t *testing.T) {
	var server lobby
	h := socketio.NewHandler(&server, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		c := rawDial(t, p)
		readText(t, c)
		if err := c.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
			t.Fatal(err)
		}
		readText(t, c)
		s, _, _ := server.state()
		if err := s.Send(bigEvent(t, 100_000)); err != nil {
			t.Fatal(err)
		}
		pass(9 * time.Second)
		server.wantClosed(t)
		pass(2 * time.Second)
		server.wantClosed(t, tidemark.ClosedSlowReader)
	})
}

// TestGoodbyeToAFrozenClientEnds: a last frame that nobody reads has its time.
func TestGoodbyeToAFrozenClientEnds(t *testing.T) {
	var server lobby
	h := socketio.NewHandler(&server, nil)
	bubble(t, h, func(t *testing.T, p *pipes) {
		c := rawDial(t, p)
		readText(t, c)
		if err := c.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
			t.Fatal(err)
		}
		readText(t, c)
		s, _, _ := server.state()
		start := time.Now()
		s.Close(tidemark.ClosedByServer)
		if err := h.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("the connection ended after %v, want 2 s", d)
		}
		server.wantClosed(t, tidemark.ClosedByServer)
	})
}

// scripted is a server that upgrades and then does as run says.
func scripted(run func(c *websocket.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		run(c)
	})
}

const openFrame = `0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000}`

func TestSilentServerIsGivenUp(t *testing.T) {
	var client lobby
	h := scripted(func(c *websocket.Conn) {
		_ = c.WriteMessage(websocket.TextMessage, []byte(openFrame))
		_, _, _ = c.ReadMessage()
		_ = c.WriteMessage(websocket.TextMessage, []byte(`40{"sid":"y"}`))
		_, _, _ = c.ReadMessage() // the end
	})
	bubble(t, h, func(t *testing.T, p *pipes) {
		_, _, err := socketio.NewDialer("http://host", &socketio.DialOptions{NetDial: p.dial}).Dial(t.Context(), tidemark.Hello{}, &client)
		if err != nil {
			t.Fatal(err)
		}
		pass(44 * time.Second)
		client.wantClosed(t)
		pass(2 * time.Second)
		client.wantClosed(t, tidemark.ClosedPing)
	})
}

func TestDialIsBounded(t *testing.T) {
	stages := map[string]http.Handler{
		"no HTTP answer": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"no opening":     scripted(func(c *websocket.Conn) { _, _, _ = c.ReadMessage() }),
		"no answer": scripted(func(c *websocket.Conn) {
			_ = c.WriteMessage(websocket.TextMessage, []byte(openFrame))
			_, _, _ = c.ReadMessage()
			_, _, _ = c.ReadMessage()
		}),
	}
	for name, h := range stages {
		t.Run(name, func(t *testing.T) {
			bubble(t, h, func(t *testing.T, p *pipes) {
				d := socketio.NewDialer("http://host", &socketio.DialOptions{NetDial: p.dial})
				start := time.Now()
				_, _, err := d.Dial(t.Context(), tidemark.Hello{}, &lobby{})
				if !errors.Is(err, tidemark.ErrOffline) || time.Since(start) != 20*time.Second {
					t.Errorf("Dial returned %v after %v, want ErrOffline after 20 s", err, time.Since(start))
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				start = time.Now()
				if _, _, err = d.Dial(ctx, tidemark.Hello{}, &lobby{}); !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
					t.Errorf("Dial returned %v after %v, want its ctx's error after 1 s", err, time.Since(start))
				}
			})
		})
	}
}

// TestHostileServers: what a server sends before or after its answer gives an
// error or an end, and never a panic.
func TestHostileServers(t *testing.T) {
	const answer = `40{"sid":"y"}`
	for _, c := range []struct {
		name   string
		frames []string // the first is the opening; the answer is among them or not
		reason tidemark.CloseReason
	}{
		{"no opening", []string{`40`}, ""},
		{"an opening without periods", []string{`0{"sid":"x"}`}, ""},
		{"an opening of years", []string{`0{"sid":"x","pingInterval":1e15,"pingTimeout":1}`}, ""},
		{"an answer without a name", []string{openFrame, `40{}`}, ""},
		{"an answer of another kind", []string{openFrame, `40[]`}, ""},
		{"garbage instead of an answer", []string{openFrame, `4xyz`}, ""},
		{"an early flood", []string{openFrame, `42["x","` + strings.Repeat("y", 800) + `"]`, `42["x","` + strings.Repeat("y", 800) + `"]`}, ""},
		{"the end instead of an answer", []string{openFrame}, ""},
		{"goodbye", []string{openFrame, answer, `41`}, tidemark.ClosedByServer},
		{"engine close", []string{openFrame, answer, `1`}, tidemark.ClosedTransport},
		{"the end", []string{openFrame, answer}, tidemark.ClosedTransport},
		{"garbage", []string{openFrame, answer, `4xyz`}, tidemark.ClosedMalformed},
		{"an unknown engine packet", []string{openFrame, answer, `9`}, tidemark.ClosedMalformed},
		{"nothing", []string{openFrame, answer, ``}, tidemark.ClosedMalformed},
		{"a second answer", []string{openFrame, answer, answer}, tidemark.ClosedMalformed},
		{"a late refusal", []string{openFrame, answer, `44{}`}, tidemark.ClosedMalformed},
		{"invalid UTF-8", []string{openFrame, answer, "42[\"\xff\"]"}, tidemark.ClosedMalformed},
		{"too much", []string{openFrame, answer, `42["x","` + strings.Repeat("y", 1000) + `"]`}, tidemark.ClosedTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := scripted(func(ws *websocket.Conn) {
				for i, f := range c.frames {
					_ = ws.WriteMessage(websocket.TextMessage, []byte(f))
					if i == 0 {
						_, _, _ = ws.ReadMessage()
					}
				}
			})
			bubble(t, h, func(t *testing.T, p *pipes) {
				var client lobby
				d := socketio.NewDialer("ws://host/", &socketio.DialOptions{NetDial: p.dial, MaxMessageBytes: 1000})
				_, _, err := d.Dial(t.Context(), tidemark.Hello{}, &client)
				synctest.Wait()
				switch {
				case c.reason == "" && !errors.Is(err, tidemark.ErrOffline):
					t.Errorf("Dial returned %v", err)
				case c.reason == "":
					client.wantClosed(t)
				case err != nil:
					t.Error(err)
				default:
					client.wantClosed(t, c.reason)
				}
			})
		})
	}
}

// TestPongsDuringTheHandshake: a server whose acceptor takes its time pings meanwhile.
func TestPongsDuringTheHandshake(t *testing.T) {
	var pongs []string
	h := scripted(func(c *websocket.Conn) {
		_ = c.WriteMessage(websocket.TextMessage, []byte(openFrame))
		_, _, _ = c.ReadMessage()
		for range 3 {
			_ = c.WriteMessage(websocket.TextMessage, []byte("2"))
			_, b, _ := c.ReadMessage()
			pongs = append(pongs, string(b))
		}
		_ = c.WriteMessage(websocket.TextMessage, []byte(`40{"sid":"y"}`))
		_, _, _ = c.ReadMessage()
	})
	bubble(t, h, func(t *testing.T, p *pipes) {
		c, _, err := socketio.NewDialer("http://host", &socketio.DialOptions{NetDial: p.dial}).Dial(t.Context(), tidemark.Hello{}, &lobby{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if strings.Join(pongs, "") != "333" {
			t.Errorf("pongs %q", pongs)
		}
		c.Close(tidemark.ClosedTransport)
	})
}
