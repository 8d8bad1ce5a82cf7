package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// network is what the nodes of a world dial and listen on. Nothing that is written
// arrives before the scheduler delivers it.
type network struct {
	mu      sync.Mutex // protects what follows
	streams []*stream  // in the order in which they were made
	accept  func(net.Conn) bool
	// highWater is how many bytes may be on their way in one direction before a writer waits, as with
	// a socket's buffers.
	highWater int
	biggest   atomic.Int64   // bytes of the largest chunk that was written
	refusing  bool           // connections cannot be made
	made      map[string]int // connections, by who made them
}

// stream is one direction of a connection.
type stream struct {
	name string
	net  *network

	mu       sync.Mutex // protects what follows
	changed  *sync.Cond
	held     [][]byte // written and not delivered; an empty chunk is the end
	bytes    int      // of held
	arrived  []byte
	ended    bool  // the reader has come to the end
	broken   error // what both sides get from now on
	deaf     bool  // what is written is lost: the connection is half open
	readDue  time.Time
	writeDue time.Time
}

func newStream(n *network, name string) *stream {
	s := &stream{name: name, net: n}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// dial connects owner to whoever listens.
func (n *network) dial(ctx context.Context, owner string) (net.Conn, error) {
	n.mu.Lock()
	accept := n.accept
	if n.refusing || accept == nil {
		n.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
	}
	if n.made == nil {
		n.made = map[string]int{}
	}
	n.made[owner]++
	up := newStream(n, fmt.Sprintf("%s#%d>", owner, n.made[owner]))
	down := newStream(n, fmt.Sprintf("%s#%d<", owner, n.made[owner]))
	n.streams = append(n.streams, up, down)
	n.mu.Unlock()
	if !accept(&conn{in: up, out: down, name: "server"}) {
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: syscall.ECONNREFUSED}
	}
	return &conn{in: down, out: up, name: owner}, nil
}

// wrote notes the size of a chunk.
func (n *network) wrote(size int) {
	for was := n.biggest.Load(); int64(size) > was && !n.biggest.CompareAndSwap(was, int64(size)); was = n.biggest.Load() {
	}
}

// largest returns how many bytes the largest chunk had so far.
func (n *network) largest() int { return int(n.biggest.Load()) }

// refuses reports whether connections cannot be made.
func (n *network) refuses() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refusing
}

// waiting returns the streams on which something can be delivered.
func (n *network) waiting(frozen func(*stream) bool) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list, alive []*stream
	for _, s := range n.streams {
		s.mu.Lock()
		if len(s.held) > 0 && !frozen(s) {
			list = append(list, s)
		}
		if s.broken == nil && !s.ended || len(s.held) > 0 {
			alive = append(alive, s)
		}
		s.mu.Unlock()
	}
	n.streams = alive
	slices.SortFunc(list, func(a, b *stream) int { return strings.Compare(a.name, b.name) })
	return list
}

// open returns the pairs of streams of the connections that stand, by their first.
func (n *network) open() [][2]*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pairs [][2]*stream
	for i := 0; i+1 < len(n.streams); i++ {
		a, b := n.streams[i], n.streams[i+1]
		if a.name[:len(a.name)-1] == b.name[:len(b.name)-1] {
			pairs = append(pairs, [2]*stream{a, b})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]*stream) int { return strings.Compare(a[0].name, b[0].name) })
	return pairs
}

// deliver hands over the first chunk that is held, or its first bytes when cut is above 0.
func (s *stream) deliver(cut int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) == 0 {
		return 0
	}
	chunk := s.held[0]
	if len(chunk) == 0 {
		s.held, s.ended = nil, true
		s.changed.Broadcast()
		return 0
	}
	if cut > 0 && cut < len(chunk) {
		s.held[0] = chunk[cut:]
		chunk = chunk[:cut]
	} else {
		s.held = s.held[1:]
	}
	s.bytes -= len(chunk)
	s.arrived = append(s.arrived, chunk...)
	s.changed.Broadcast()
	return len(chunk)
}

// first returns the first held chunk.
func (s *stream) first() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) == 0 {
		return nil
	}
	return s.held[0]
}

// size returns how many bytes the first held chunk has.
func (s *stream) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) == 0 {
		return 0
	}
	return len(s.held[0])
}

func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken, s.held, s.bytes = err, nil, 0
	s.changed.Broadcast()
}

// deafen loses what is held and whatever is written from now on, and tells nobody.
func (s *stream) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf, s.held, s.bytes = true, nil, 0
	s.changed.Broadcast()
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.broken != nil:
			return 0, s.broken
		case len(s.arrived) > 0:
			n := copy(p, s.arrived)
			s.arrived = s.arrived[n:]
			return n, nil
		case s.ended:
			return 0, io.EOF
		case passed(s.readDue):
			return 0, os.ErrDeadlineExceeded
		}
		s.changed.Wait()
	}
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes >= s.net.highWater && s.broken == nil && !s.deaf && !passed(s.writeDue) {
		s.changed.Wait()
	}
	switch {
	case s.broken != nil:
		return 0, s.broken
	case s.deaf:
		return len(p), nil
	case s.bytes >= s.net.highWater:
		return 0, os.ErrDeadlineExceeded
	}
	if len(p) > 0 {
		s.held = append(s.held, append([]byte(nil), p...))
		s.bytes += len(p)
		s.net.wrote(len(p))
	}
	return len(p), nil
}

func passed(due time.Time) bool { return !due.IsZero() && !time.Now().Before(due) }

// finish is the writer's end of the stream: what was written may still arrive.
func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil && !s.deaf && !s.ended {
		s.held = append(s.held, nil)
	}
	s.changed.Broadcast()
}

func (s *stream) due(set *time.Time, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*set = t
	s.changed.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})
	}
}

// conn is one end of a connection.
type conn struct {
	in, out *stream
	name    string
	once    sync.Once
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *conn) Close() error {
	c.once.Do(func() {
		c.out.finish()
		c.in.fail(net.ErrClosed)
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address(c.name) }
func (c *conn) RemoteAddr() net.Addr { return address(c.in.name) }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.due(&c.in.readDue, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.due(&c.out.writeDue, t)
	return nil
}

type address string

func (a address) Network() string { return "sim" }
func (a address) String() string  { return string(a) }

// listener is a server's end of the network.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newListener() *listener { return &listener{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *listener) offer(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.done:
		return false
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return address("server") }
