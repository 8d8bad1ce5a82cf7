package socketio_test

import (
	"net"
	"net/http/httptest"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
	"github.com/tidemark-sync/tidemark/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cutter is a listener that can break all connections that it has taken.
type cutter struct {
	net.Listener
	mu    sync.Mutex // protects conns
	conns []net.Conn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// site is an HTTP server with a handler for connections.
type site struct {
	*httptest.Server
	handler *socketio.Handler
	cutter  *cutter
}

func serve(t *testing.T, a tidemark.Acceptor, opts *socketio.Options) *site {
	t.Helper()
	s := &site{handler: socketio.NewHandler(a, opts)}
	s.Server = httptest.NewUnstartedServer(s.handler)
	s.cutter = &cutter{Listener: s.Listener}
	s.Listener = s.cutter
	s.Start()
	t.Cleanup(func() {
		_ = s.handler.Close()
		s.Close()
	})
	return s
}

func TestConformance(t *testing.T) {
	const queueBytes = 1 << 20
	transporttest.Run(t, func(t *testing.T) transporttest.Harness {
		var s *site
		return transporttest.Harness{
			Serve: func(a tidemark.Acceptor) tidemark.Dialer {
				s = serve(t, a, &socketio.Options{QueueBytes: queueBytes})
				return socketio.NewDialer(s.URL, nil)
			},
			QueueBytes: queueBytes,
			Cut:        func() { s.cutter.cut() },
			Shutdown: func() {
				if err := s.handler.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			},
		}
	})
}
