package socketio_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/testneeds"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// TestPublishedClient runs the published JavaScript client against the handler.
func TestPublishedClient(t *testing.T) {
	t.Parallel()
	modules := os.Getenv("TIDEMARK_NODE_MODULES")
	if modules == "" {
		testneeds.Missing(t, "socket.io-client", "TIDEMARK_NODE_MODULES names no folder that has it")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		testneeds.Missing(t, "Node.js", err.Error())
	}
	host := newPhoenix(t)
	short := serve(t, &application{}, &socketio.Options{
		PingInterval: 50 * time.Millisecond, PingTimeout: 5 * time.Second, MaxMessageBytes: 1 << 20,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/client.mjs")
	cmd.Env = append(os.Environ(), "URL="+host.url, "SHORT="+short.URL, "CONTROL="+host.control.URL)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the client failed: %v", err)
	}
	if n := strings.Count(string(out), "ok "); n != 18 {
		t.Errorf("%d scenarios passed, want 18", n)
	}
}

// phoenix is a site at one address that can be replaced by a successor, and a
// second server by which the client's program controls it.
type phoenix struct {
	app     *application
	url     string
	control *httptest.Server

	mu      sync.Mutex // protects what follows
	handler *socketio.Handler
	server  *http.Server
	cutter  *cutter
}

func newPhoenix(t *testing.T) *phoenix {
	t.Helper()
	p := &phoenix{app: &application{}}
	p.rise(t, "127.0.0.1:0")
	p.url = "http://" + p.cutter.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/cut", func(http.ResponseWriter, *http.Request) { p.cutter.cut() })
	mux.HandleFunc("/restart", func(http.ResponseWriter, *http.Request) {
		p.fall(t)
		p.rise(t, strings.TrimPrefix(p.url, "http://"))
	})
	mux.HandleFunc("/reason", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, p.app.reason(r.Context(), r.FormValue("id")))
	})
	p.control = httptest.NewServer(mux)
	t.Cleanup(func() {
		p.control.Close()
		p.fall(t)
	})
	return p
}

func (p *phoenix) rise(t *testing.T, address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutter = &cutter{Listener: l}
	p.handler = socketio.NewHandler(p.app, nil)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", p.handler)
	p.server = &http.Server{Handler: mux}
	go func() { _ = p.server.Serve(p.cutter) }()
}

func (p *phoenix) fall(t *testing.T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.handler.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
	_ = p.handler.Close()
	_ = p.server.Close()
}

// application is an acceptor that does what client.mjs asks for.
type application struct {
	mu        sync.Mutex // protects what follows
	count     int
	resumable map[string]string // public id by private id
	ended     map[string]chan tidemark.CloseReason
}

func (a *application) Offer(_ context.Context, o tidemark.Offer) {
	hello := o.Hello()
	if strings.Contains(string(hello.Auth), `"bad"`) {
		o.Refuse(tidemark.NewError(tidemark.CodeDenied, "bad token"))
		return
	}
	w := a.welcome(hello)
	s := &applicationSession{app: a, id: w.ID, auth: hello.Auth, ready: make(chan struct{}), resumable: w.Session != ""}
	defer close(s.ready)
	c, err := o.Accept(w, s)
	if err != nil {
		return
	}
	s.conn = c
	s.emit("connected", w.ID)
}

// welcome names a new session, or finds the one that broke. After "make
// resumable" every new session can be resumed, as if it had missed two events.
func (a *application) welcome(hello tidemark.Hello) tidemark.Welcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id := a.resumable[hello.Session]; id != "" {
		w := tidemark.Welcome{ID: id, Session: hello.Session}
		for i := range 2 {
			m, _ := tidemark.NewEvent("missed", i+1, fmt.Sprintf("offset %d", i))
			w.Replay = append(w.Replay, m)
		}
		return w
	}
	a.count++
	w := tidemark.Welcome{ID: fmt.Sprintf("id-%d", a.count)}
	if a.resumable != nil {
		w.Session = fmt.Sprintf("private-%d", a.count)
		a.resumable[w.Session] = w.ID
	}
	if a.ended == nil {
		a.ended = map[string]chan tidemark.CloseReason{}
	}
	a.ended[w.ID] = make(chan tidemark.CloseReason, 10)
	return w
}

func (a *application) setResumable(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resumable = nil
	if on {
		a.resumable = map[string]string{}
	}
}

func (a *application) end(id string) chan tidemark.CloseReason {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended[id]
}

func (a *application) reason(ctx context.Context, id string) tidemark.CloseReason {
	select {
	case r := <-a.end(id):
		return r
	case <-ctx.Done():
		return ""
	}
}

type applicationSession struct {
	app       *application
	id        string
	auth      json.RawMessage
	resumable bool
	ready     chan struct{} // closed when conn is set
	conn      tidemark.Conn
	asked     *tidemark.Message // waits for the client's answer
}

func (s *applicationSession) emit(event string, args ...any) {
	if s.resumable {
		args = append(args, "offset")
	}
	if m, err := tidemark.NewEvent(event, args...); err == nil {
		_ = s.conn.Send(m)
	}
}

func (s *applicationSession) Receive(m *tidemark.Message) {
	<-s.ready
	answer := func(args ...json.RawMessage) {
		a := m.NewAnswer(args...)
		a.Attachments = m.Attachments
		_ = s.conn.Send(a)
	}
	quoted := func(args ...any) json.RawMessage {
		raw, _ := json.Marshal(args)
		return raw
	}
	switch {
	case m.Kind == tidemark.AnswerMessage:
		raw, _ := json.Marshal(map[string]any{"answer": m.Args})
		_ = s.conn.Send(s.asked.NewAnswer(raw))
	case m.Event == "ask me":
		s.asked = m
		q := &tidemark.Message{Event: "question", Args: m.Args}
		_ = s.conn.Send(q.NewCall(77))
	case m.Event == "echo":
		list := []byte{'['}
		for i, a := range m.Args {
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, a...)
		}
		answer(append(list, ']'))
	case m.Event == "auth":
		answer(quoted(s.auth))
	case m.Event == "make resumable":
		s.app.setResumable(true)
		answer(quoted("ok"))
	case m.Event == "send binary":
		b := &tidemark.Message{Event: "binary event", Args: []json.RawMessage{json.RawMessage(`{"_placeholder":true,"num":0}`)}}
		b.Attachments = [][]byte{make([]byte, 200_000)}
		_ = s.conn.Send(b)
	case m.Event == "dismiss me":
		s.conn.Close(tidemark.ClosedByServer)
	}
}

func (s *applicationSession) Closed(reason tidemark.CloseReason) {
	s.app.end(s.id) <- reason
}
