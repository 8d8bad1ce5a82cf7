package socketio

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// line is the network connection below a websocket. It measures progress instead
// of whole messages: a peer that takes or sends something big on a narrow line is
// alive as long as bytes move.
type line struct {
	net.Conn
	writeTimeout time.Duration // for each piece of a write; 0 means none yet

	// silence is after how long without a byte a read fails; 0 means never.
	// It belongs to the goroutine that reads.
	silence time.Duration
	// arrived, when set, is called on the reading goroutine when bytes have
	// arrived, before the websocket layer sees them.
	arrived func()

	lastRead atomic.Int64 // Unix nanoseconds
}

// piece is how much of a write must succeed within the write time-out.
const piece = 64 << 10

func (l *line) Read(b []byte) (int, error) {
	if l.silence > 0 {
		if err := l.Conn.SetReadDeadline(time.Now().Add(l.silence)); err != nil {
			return 0, err
		}
	}
	n, err := l.Conn.Read(b)
	l.lastRead.Store(time.Now().UnixNano())
	if l.arrived != nil {
		l.arrived()
	}
	return n, err
}

func (l *line) Write(b []byte) (int, error) {
	if l.writeTimeout == 0 {
		return l.Conn.Write(b)
	}
	done := 0
	for {
		if err := l.Conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)); err != nil {
			return done, err
		}
		n, err := l.Conn.Write(b[done:min(done+piece, len(b))])
		done += n
		if err != nil || done == len(b) {
			return done, err
		}
	}
}

// SetWriteDeadline leaves the deadlines to Write once it has a time-out of its own.
func (l *line) SetWriteDeadline(t time.Time) error {
	if l.writeTimeout > 0 {
		return nil
	}
	return l.Conn.SetWriteDeadline(t)
}

// cut breaks the connection. TLS may want to say goodbye, and so wait, before it goes.
func (l *line) cut() { _ = l.Conn.Close() }

// quiet returns for how long nothing has arrived.
func (l *line) quiet() time.Duration {
	return time.Since(time.Unix(0, l.lastRead.Load()))
}

// linger reads on for a while without looking, so that a close frame reaches a
// peer that is still sending: closing with bytes unread would reset the
// connection and take the frame with it.
func (l *line) linger(d time.Duration) {
	if l.Conn.SetReadDeadline(time.Now().Add(d)) == nil {
		_, _ = io.Copy(io.Discard, l.Conn)
	}
}
