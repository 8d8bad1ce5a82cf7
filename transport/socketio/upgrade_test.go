package socketio_test

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

type requestKey struct{}

// The HTTP server is done with a request when it has become a connection: its buffers and its goroutine's stack
// would be most of what an idle connection costs. The acceptor's request goes on, with its values, until the
// connection ends.
func TestTheRequestIsLetGoAndGoesOn(t *testing.T) {
	t.Parallel()
	requests, served := make(chan *http.Request, 1), make(chan struct{})
	app := &lobby{}
	h := socketio.NewHandler(offerFunc(func(ctx context.Context, o tidemark.Offer) {
		requests <- o.Hello().Request
		app.Offer(ctx, o)
	}), nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestKey{}, "user 7")))
		close(served)
	}))
	defer s.Close()
	defer h.Close()
	c, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &lobby{})
	if err != nil {
		t.Fatal(err)
	}
	<-served // while the connection lives
	r := <-requests
	if r.Context().Err() != nil || r.Context().Value(requestKey{}) != "user 7" {
		t.Errorf("the request's context: %v, %v", r.Context().Err(), r.Context().Value(requestKey{}))
	}
	if err := c.Send(bigEvent(t, 10)); err != nil {
		t.Error(err)
	}
	waitFor(t, "its message", func() bool { _, events, _ := app.state(); return len(events) == 1 })
	c.Close(tidemark.ClosedByClient)
	<-r.Context().Done()
}

// writer collects what a logger writes, of which another goroutine may be in the middle.
type writer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *writer) has(s string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.buf.String(), s)
}

// A panic of the application's before the upgrade is the HTTP server's, as in any handler; afterwards the connection's.
func TestPanicsAroundTheUpgrade(t *testing.T) {
	t.Parallel()
	var ours, theirs writer
	bad := func(r *http.Request) bool { return r.URL.Query().Has("bad") }
	names := 0
	h := socketio.NewHandler(&lobby{}, &socketio.Options{
		Logger: slog.New(slog.NewTextHandler(&ours, nil)),
		CheckOrigin: func(r *http.Request) bool {
			if bad(r) {
				panic("in CheckOrigin")
			}
			return true
		},
		NewID: func() string {
			if names++; names == 1 {
				panic("in NewID")
			}
			return "id"
		},
	})
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(&theirs, "", 0)
	s.Start()
	defer s.Close()
	at := &site{Server: s, handler: h}
	if c, _, err := websocket.DefaultDialer.Dial(websocketURL(at, "EIO=4&transport=websocket&bad=1"), nil); err == nil {
		c.Close()
		t.Error("the upgrade succeeded")
	}
	waitFor(t, "the HTTP server's log", func() bool { return theirs.has("in CheckOrigin") })
	c, _, err := websocket.DefaultDialer.Dial(websocketURL(at, "EIO=4&transport=websocket"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, b, err := c.ReadMessage(); err == nil {
		t.Errorf("got %s", b)
	}
	c.Close()
	waitFor(t, "the connection's log", func() bool { return ours.has("in NewID") })
	next, _, err := socketio.NewDialer(s.URL, nil).Dial(t.Context(), tidemark.Hello{}, &lobby{})
	if err != nil {
		t.Fatal(err)
	}
	next.Close(tidemark.ClosedByClient)
	if err := h.Close(); err != nil { // which waits for all of them
		t.Error(err)
	}
}
