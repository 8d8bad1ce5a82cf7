package socketio_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func TestRequestsThatAreNotServed(t *testing.T) {
	t.Parallel()
	s := serve(t, &lobby{}, nil)
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	for _, c := range []struct {
		query  string
		header http.Header
		want   string
	}{
		{"EIO=4&transport=polling", nil, `{"code":0,"message":"Transport unknown"}`},
		{"EIO=3&transport=polling", nil, `{"code":5,"message":"Unsupported protocol version"}`},
		{"transport=polling", nil, `{"code":5,"message":"Unsupported protocol version"}`},
		{"EIO=4&transport=carrier-pigeon", nil, `{"code":0,"message":"Transport unknown"}`},
		{"", nil, `{"code":0,"message":"Transport unknown"}`},
		{"EIO=4&transport=websocket", nil, `{"code":3,"message":"Bad request"}`},
		{"EIO=4&transport=websocket&sid=x", nil, `{"code":1,"message":"Session ID unknown"}`},
		{"EIO=4&transport=carrier-pigeon", upgrade, "Transport unknown"},
		{"EIO=4&transport=websocket&sid=x", upgrade, "Session ID unknown"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/socket.io/?"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range c.header {
			r.Header[k] = v
		}
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || string(body) != c.want {
			t.Errorf("%s: got %d %s, want 400 %s", c.query, resp.StatusCode, body, c.want)
		}
	}
}

func websocketURL(s *site, query string) string {
	return strings.Replace(s.URL, "http", "ws", 1) + "/socket.io/?" + query
}

func TestOlderProtocolIsBrokenOff(t *testing.T) {
	t.Parallel()
	s := serve(t, &lobby{}, nil)
	for _, query := range []string{"EIO=3&transport=websocket", "transport=websocket"} {
		c, _, err := websocket.DefaultDialer.Dial(websocketURL(s, query), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, b, err := c.ReadMessage(); err == nil {
			t.Errorf("%s: got %s", query, b)
		}
		_ = c.Close()
	}
}

func TestCheckOriginDecides(t *testing.T) {
	t.Parallel()
	s := serve(t, &lobby{}, &socketio.Options{CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "https://good.example" }})
	open := serve(t, &lobby{}, nil)
	for _, c := range []struct {
		site   *site
		origin string
		want   int
	}{
		{s, "https://good.example", http.StatusSwitchingProtocols},
		{s, "https://evil.example", http.StatusForbidden},
		{s, "", http.StatusForbidden},
		{open, "https://evil.example", http.StatusSwitchingProtocols},
	} {
		conn, resp, err := websocket.DefaultDialer.Dial(websocketURL(c.site, "EIO=4&transport=websocket"), http.Header{"Origin": {c.origin}})
		if resp == nil || resp.StatusCode != c.want {
			t.Errorf("origin %q: %v, %v; want status %d", c.origin, resp, err, c.want)
		}
		if conn != nil {
			_ = conn.Close()
		}
	}
}

func TestNoCompressionIsNegotiated(t *testing.T) {
	t.Parallel()
	s := serve(t, &lobby{}, nil)
	d := websocket.Dialer{EnableCompression: true}
	c, resp, err := d.Dial(websocketURL(s, "EIO=4&transport=websocket"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := resp.Header.Get("Sec-Websocket-Extensions"); got != "" {
		t.Errorf("the server agreed to %s", got)
	}
}

// panics is an acceptor, and a handler, that panics where it is told to.
type panics struct {
	lobby
	where string
}

func (p *panics) Offer(ctx context.Context, o tidemark.Offer) {
	switch {
	case string(o.Hello().Auth) != `{"bad":true}`:
		p.lobby.Offer(ctx, o)
		return
	case p.where == "offer":
		panic("in Offer")
	}
	_, _ = o.Accept(tidemark.Welcome{ID: "bad"}, p)
	if p.where == "accepted" {
		panic("after Accept")
	}
}

func (p *panics) Receive(*tidemark.Message) {
	if p.where == "receive" {
		panic("in Receive")
	}
}

func (p *panics) Closed(r tidemark.CloseReason) {
	p.lobby.Closed(r)
	if p.where == "closed" {
		panic("in Closed")
	}
}

func TestPanicsEndOneConnectionOnly(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"offer", "accepted", "receive", "closed"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			app := &panics{where: where}
			s := serve(t, app, &socketio.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			var other lobby
			c, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &other)
			if err != nil {
				t.Fatal(err)
			}
			bad := dialRaw(t, s.URL)
			steps := []string{"S 0*", `C 40{"bad":true}`, `S 40{"sid":"bad"}`}
			if where == "offer" {
				steps[2] = `S 44{"message":"internal error","data":{"code":"internal"}}`
			}
			for _, step := range steps {
				if err := bad.step(step[0], step[2:]); err != nil {
					t.Fatal(err)
				}
			}
			if where == "closed" {
				_ = bad.Conn.Close()
			} else {
				_ = bad.WriteMessage(websocket.TextMessage, []byte(`42["x"]`))
				for err == nil {
					_, _, err = bad.ReadMessage()
				}
			}
			if err := c.Send(bigEvent(t, 10)); err != nil {
				t.Error(err)
			}
			waitFor(t, "the other connection's message", func() bool {
				_, events, closed := app.state()
				return len(events) == 1 && len(closed) == map[bool]int{true: 0, false: 1}[where == "offer"]
			})
			if err := s.handler.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), "panic in a connection") {
				t.Errorf("the log is silent: %s", log.String())
			}
		})
	}
}

// waitFor watches a condition. The deadline only ends what hangs.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestUpgradeDuringShutdownIsClosed(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	var app lobby
	s := serve(t, &app, &socketio.Options{CheckOrigin: func(*http.Request) bool {
		close(entered)
		<-gate
		return true
	}})
	dialed := make(chan error, 1)
	go func() {
		_, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &lobby{})
		dialed <- err
	}()
	<-entered
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.handler.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown did not wait for the upgrade: %v", err)
	}
	close(gate)
	if err := <-dialed; !errors.Is(err, tidemark.ErrOffline) {
		t.Errorf("Dial: %v", err)
	}
	if err := s.handler.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	resp, err := s.Client().Get(s.URL + "/socket.io/?EIO=4&transport=websocket")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after Shutdown: %s", resp.Status)
	}
}

// stuck is a handler whose Receive waits.
type stuck struct {
	lobby
	entered, gate chan struct{}
}

func (s *stuck) Offer(_ context.Context, o tidemark.Offer) {
	_, _ = o.Accept(tidemark.Welcome{ID: "id"}, s)
}

func (s *stuck) Receive(*tidemark.Message) {
	s.entered <- struct{}{}
	<-s.gate
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	app := &stuck{entered: make(chan struct{}), gate: make(chan struct{})}
	s := serve(t, app, nil)
	var client lobby
	c, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &client)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(bigEvent(t, 10)); err != nil {
		t.Fatal(err)
	}
	<-app.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.handler.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	waitFor(t, "the client's end", func() bool {
		_, _, closed := client.state()
		return len(closed) == 1 && closed[0].Resumable()
	})
	close(app.gate)
	if err := s.handler.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	app.wantClosed(t, tidemark.ClosedShutdown)
}

func TestDialReachesTheRequest(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 1)
	mux := http.NewServeMux()
	h := socketio.NewHandler(offerFunc(func(_ context.Context, o tidemark.Offer) {
		requests <- o.Hello().Request
		o.Refuse(tidemark.NewError(tidemark.CodeDenied, "no"))
	}), nil)
	mux.Handle("/deep/socket.io/", h)
	s := httptest.NewServer(mux)
	defer s.Close()
	defer h.Close()
	_, _, err := socketio.NewDialer(s.URL+"/deep/socket.io/?tenant=7", &socketio.DialOptions{Header: http.Header{"X-Token": {"t"}}}).Dial(t.Context(), tidemark.Hello{}, &lobby{})
	if tidemark.CodeOf(err) != tidemark.CodeDenied {
		t.Fatal(err)
	}
	if r := <-requests; r == nil || r.Header.Get("X-Token") != "t" || r.URL.Query().Get("tenant") != "7" {
		t.Errorf("the acceptor saw %+v", r)
	}
}

type offerFunc func(context.Context, tidemark.Offer)

func (f offerFunc) Offer(ctx context.Context, o tidemark.Offer) { f(ctx, o) }

func TestDialToNothing(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for url, want := range map[string]error{
		s.URL:                         tidemark.ErrOffline,
		"http://" + l.Addr().String(): tidemark.ErrOffline,
		"ftp://host":                  &tidemark.Error{Code: tidemark.CodeInvalidData},
		"host:80":                     &tidemark.Error{Code: tidemark.CodeInvalidData},
		"http://":                     &tidemark.Error{Code: tidemark.CodeInvalidData},
		"%":                           &tidemark.Error{Code: tidemark.CodeInvalidData},
	} {
		_, _, err := socketio.NewDialer(url, nil).Dial(t.Context(), tidemark.Hello{}, &lobby{})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", url, err, want)
		}
	}
	_, _, err = socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &lobby{})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the error does not say what the server answered: %v", err)
	}
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	t.Parallel()
	var app, client lobby
	s := serve(t, &app, nil)
	c, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &client)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the server's end", func() bool { conn, _, _ := app.state(); return conn != nil })
	server, _, _ := app.state()
	for _, conn := range []tidemark.Conn{c, server} {
		if err := conn.Send(&tidemark.Message{Event: "disconnect"}); tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("a reserved event: %v", err)
		}
		if err := conn.Send(&tidemark.Message{Event: "x", Attachments: make([][]byte, 11)}); tidemark.CodeOf(err) != tidemark.CodeTooLarge {
			t.Errorf("eleven attachments: %v", err)
		}
	}
	app.wantClosed(t)
	client.wantClosed(t)
	if _, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{Auth: []byte(`[1]`)}, &client); tidemark.CodeOf(err) != tidemark.CodeInvalidData {
		t.Errorf("an auth payload that is no object: %v", err)
	}
}

// BenchmarkIdleConnection reports what a connection costs the server while
// nothing happens. Clients are bare sockets, whose cost in this process is small.
func BenchmarkIdleConnection(b *testing.B) {
	h := socketio.NewHandler(&lobby{}, nil)
	s := httptest.NewServer(h)
	defer s.Close()
	defer h.Close()
	usage := func() (heap, stack uint64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse, m.StackInuse
	}
	const n = 2000
	for b.Loop() {
		heap, stack := usage()
		var conns []net.Conn
		for range n {
			conns = append(conns, idle(b, s.Listener.Addr().String()))
		}
		heapAfter, stackAfter := usage()
		b.ReportMetric((float64(heapAfter)-float64(heap))/n, "heap-B/conn")
		b.ReportMetric((float64(stackAfter)-float64(stack))/n, "stack-B/conn")
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func idle(b *testing.B, address string) net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	await := func(text string) {
		seen := make([]byte, 0, 1024)
		for !bytes.Contains(seen, []byte(text)) {
			n, err := c.Read(seen[len(seen):cap(seen)])
			if err != nil {
				b.Fatal(err)
			}
			seen = seen[:len(seen)+n]
		}
	}
	await("maxPayload")
	_, _ = c.Write([]byte{0x81, 0x82, 0, 0, 0, 0, '4', '0'}) // 40, masked with zeros
	await(`40{"sid"`)
	return c
}

func TestOverTLS(t *testing.T) {
	t.Parallel()
	var app, client lobby
	h := socketio.NewHandler(&app, nil)
	s := httptest.NewTLSServer(h)
	defer s.Close()
	defer h.Close()
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig
	c, _, err := socketio.NewDialer(s.URL, &socketio.DialOptions{TLS: roots}).Dial(t.Context(), tidemark.Hello{}, &client)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(bigEvent(t, 3<<20)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the message", func() bool { _, events, _ := app.state(); return len(events) == 1 })
	c.Close(tidemark.ClosedByClient)
	waitFor(t, "the goodbye", func() bool { _, _, closed := app.state(); return len(closed) == 1 })
	app.wantClosed(t, tidemark.ClosedByClient)
	if _, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &client); !errors.Is(err, tidemark.ErrOffline) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
}
