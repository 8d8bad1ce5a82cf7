package pgfaults

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// moment says where a connection is cut.
type moment int

const (
	before  moment = iota // the client's message does not leave
	after                 // it leaves, the server does all that it says, and nothing more is heard
	torn                  // it leaves, and the server sees the connection torn down, when ever it looks
	heard                 // the server's message is read, the next one is not
	moments int    = iota
)

func (m moment) String() string { return [...]string{"before", "after", "torn", "heard"}[m] }

// wire is the network between a handle and PostgreSQL. It counts the messages of the
// protocol, those of the client and those of the server, and cuts the connection once at one of them.
type wire struct {
	mu         sync.Mutex // protects all below, and what the links count
	armed      bool
	when       moment
	at         int // which message, from 1
	sent, read int
	met        bool

	finishing sync.WaitGroup // connections whose server still works
}

// arm has the connection cut at message number at, counted from now on.
func (w *wire) arm(when moment, at int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed, w.when, w.at, w.sent, w.read, w.met = true, when, at, 0, 0, false
}

// disarm reports whether the connection was cut.
func (w *wire) disarm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	return w.met
}

// messages returns how many messages there were in the direction that when is about.
func (w *wire) messages(when moment) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if when == heard {
		return w.read
	}
	return w.sent
}

// dial is for pgx's Config.DialFunc.
func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &link{TCPConn: c.(*net.TCPConn), w: w, out: frames{bare: true}}, nil
}

// link is one connection.
type link struct {
	*net.TCPConn
	w       *wire
	out, in frames
	broken  error // what everything says after the cut
	drained bool  // the server finishes its work; the connection is closed then
}

var errCancels = errors.New("pgfaults: after a cut requests to cancel do not get through")

func (l *link) Write(b []byte) (int, error) {
	n, cut, err := l.outgoing(b)
	if n > 0 {
		if k, err := l.TCPConn.Write(b[:n]); err != nil {
			return k, err
		}
	}
	if cut {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		l.cut()
	}
	return n, err
}

// outgoing returns how many bytes of b leave, whether the connection is cut then, and the
// error when some do not leave.
func (l *link) outgoing(b []byte) (n int, cut bool, err error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	w := l.w
	if l.broken != nil {
		return 0, false, l.broken
	}
	if w.met && l.out.bare && len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) == 80877102 {
		return 0, false, errCancels // or it would undo what the server is to finish
	}
	for n < len(b) && !cut {
		if w.armed && !w.met && w.when == before && w.sent == w.at-1 && l.out.between() {
			cut = true
			break
		}
		k, ends := l.out.next(b[n:])
		if n += k; !ends || !w.armed {
			continue
		}
		w.sent++
		cut = w.armed && !w.met && (w.when == after || w.when == torn) && w.sent == w.at
	}
	if cut {
		w.met = true
	}
	if n < len(b) {
		err = &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return n, cut, err
}

func (l *link) Read(b []byte) (int, error) {
	l.w.mu.Lock()
	err := l.broken
	l.w.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := l.TCPConn.Read(b)
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.broken != nil {
		return 0, l.broken
	}
	for k := 0; k < n; {
		m, ends := l.in.next(b[k:n])
		k += m
		if !ends {
			continue
		}
		if w := l.w; w.armed && !w.met {
			if w.read++; w.when == heard && w.read == w.at {
				w.met = true
				l.cut()
				return k, nil
			}
		}
	}
	return n, err
}

// cut ends the connection, as the wire says.
func (l *link) cut() {
	l.broken = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	switch l.w.when {
	case after:
		l.drained = true
		_ = l.TCPConn.SetDeadline(time.Time{})
		_ = l.TCPConn.CloseWrite()
		l.w.finishing.Go(func() {
			_, _ = io.Copy(io.Discard, l.TCPConn)
			_ = l.TCPConn.Close()
		})
		return
	case torn:
		_ = l.TCPConn.SetLinger(0)
	}
	_ = l.TCPConn.Close()
}

// gone reports whether the connection was cut and is the server's to end.
func (l *link) gone() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.drained
}

func (l *link) Close() error {
	if l.gone() {
		return nil
	}
	return l.TCPConn.Close()
}

func (l *link) SetDeadline(t time.Time) error {
	if l.gone() {
		return nil
	}
	return l.TCPConn.SetDeadline(t)
}

func (l *link) SetReadDeadline(t time.Time) error {
	if l.gone() {
		return nil
	}
	return l.TCPConn.SetReadDeadline(t)
}

// frames finds where messages end in a stream: each is a type, a length, which counts itself, and
// so many bytes; a client's first one has no type.
type frames struct {
	bare bool // the message under way has no type
	head []byte
	rest int
}

// next returns how many bytes of b belong to the message under way, and whether it ends with them.
func (f *frames) next(b []byte) (n int, ends bool) {
	size := 5
	if f.bare {
		size = 4
	}
	for len(f.head) < size {
		if n == len(b) {
			return n, false
		}
		f.head = append(f.head, b[n])
		if n++; len(f.head) == size {
			f.rest = int(binary.BigEndian.Uint32(f.head[size-4:])) - 4
		}
	}
	k := min(f.rest, len(b)-n)
	n, f.rest = n+k, f.rest-k
	if f.rest > 0 {
		return n, false
	}
	f.head, f.bare = f.head[:0], false
	return n, true
}

// between reports that no message is under way.
func (f *frames) between() bool { return len(f.head) == 0 }

func TestMessagesAreCountedHoweverTheyAreCut(t *testing.T) {
	t.Parallel()
	stream := []byte("\x00\x00\x00\x08\x00\x03\x00\x00" + "Q\x00\x00\x00\x05x" + "S\x00\x00\x00\x04" + "D\x00\x00\x00\x07abc")
	for size := 1; size <= len(stream); size++ {
		f, n := frames{bare: true}, 0
		for rest := stream; len(rest) > 0; {
			part := rest[:min(size, len(rest))]
			rest = rest[len(part):]
			for len(part) > 0 {
				k, ends := f.next(part)
				if part = part[k:]; ends {
					n++
				}
			}
		}
		if n != 4 || !f.between() {
			t.Errorf("pieces of %d bytes: %d messages, want 4", size, n)
		}
	}
}
