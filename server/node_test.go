package server_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/internal/testneeds"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// TestPublishedClient has the published JavaScript client break off and come back.
func TestPublishedClient(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		testneeds.Missing(t, "Node.js", err.Error())
	}
	if os.Getenv("TIDEMARK_NODE_MODULES") == "" {
		testneeds.Missing(t, "socket.io-client", "TIDEMARK_NODE_MODULES names no folder that has it")
	}
	h := newHost(t, &server.Options{Transfer: server.Transfer{On: true}})
	plain := newHost(t, &server.Options{Recovery: server.Recovery{Off: true}})
	control := httptest.NewServer(controls(h, plain))
	t.Cleanup(control.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/client.mjs")
	cmd.Env = append(os.Environ(), "URL="+h.URL, "PLAIN="+plain.URL, "CONTROL="+control.URL)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("the client failed: %v", err)
	}
	if n := strings.Count(string(out), "ok "); n != 8 {
		t.Errorf("%d scenarios passed, want 8", n)
	}
}

// host is a server on the network whose connections can be cut.
type host struct {
	*httptest.Server
	net.Listener
	server *server.Server

	mu    sync.Mutex // protects conns
	conns []net.Conn
}

func newHost(t *testing.T, opts *server.Options) *host {
	t.Helper()
	srv, err := server.New(memory.New(schemas(t)...), opts)
	if err != nil {
		t.Fatal(err)
	}
	util, err := srv.Handle("util", server.Methods{
		"join": func(_ context.Context, c *server.Call) (any, error) {
			var name string
			if err := c.Arg(0, &name); err != nil {
				return nil, err
			}
			c.Session.Set("user", "alice")
			c.Session.Join(name)
			return nil, nil
		},
		"channels": func(_ context.Context, c *server.Call) (any, error) { return c.Session.Channels(), nil },
		"user":     func(_ context.Context, c *server.Call) (any, error) { return c.Session.Get("user"), nil },
		"echo": func(_ context.Context, c *server.Call) (any, error) {
			c.ResultAttachments = c.Attachments
			return c.Args, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	util.Publish(server.To("echoes"), "echo")
	handler := socketio.NewHandler(srv, nil)
	h := &host{Server: httptest.NewUnstartedServer(handler), server: srv}
	h.Listener, h.Server.Listener = h.Server.Listener, h
	h.Start()
	t.Cleanup(func() {
		srv.Close()
		handler.Close()
		h.Server.Close()
	})
	return h
}

func (h *host) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err == nil {
		h.mu.Lock()
		h.conns = append(h.conns, c)
		h.mu.Unlock()
	}
	return c, err
}

func (h *host) Close() error { return h.Listener.Close() }

func (h *host) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
}

// notify sends the numbers from n up to m to a channel.
func (h *host) notify(channel string, n, m int) {
	for ; n < m; n++ {
		_ = h.server.Notify(channel, "n", n)
	}
}

// controls is how the client's program has things happen at the servers.
func controls(h, plain *host) http.Handler {
	number := func(r *http.Request, name string) int {
		n, _ := strconv.Atoi(r.FormValue(name))
		return n
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/cut", func(http.ResponseWriter, *http.Request) { h.cut() })
	mux.HandleFunc("/cut-plain", func(http.ResponseWriter, *http.Request) { plain.cut() })
	mux.HandleFunc("/notify", func(_ http.ResponseWriter, r *http.Request) {
		h.notify(r.FormValue("channel"), number(r, "n"), number(r, "n")+1)
	})
	mux.HandleFunc("/away", func(_ http.ResponseWriter, r *http.Request) { // cut, and sent to meanwhile
		s, _ := h.server.Session(r.FormValue("id"))
		h.cut()
		for gone := false; s != nil && !gone; runtime.Gosched() {
			now, ok := h.server.Session(s.ID())
			gone = !ok || now != s
		}
		h.notify(r.FormValue("channel"), number(r, "n"), number(r, "m"))
	})
	mux.HandleFunc("/stream", func(_ http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := range number(r, "n") {
			if n%4 == 0 {
				<-tick.C
			}
			h.notify(r.FormValue("channel"), n, n+1)
		}
	})
	return mux
}
