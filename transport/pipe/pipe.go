// Package pipe is a transport inside one process: a client and a server meet
// without a network. It keeps the promises of a real one, bounded queues
// included, breaks on command, and works inside a testing/synctest bubble.
package pipe

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Dialer = (*Pipe)(nil)

// DefaultQueueBytes is how much may wait in one direction of a connection, in bytes,
// unless Options.QueueBytes says otherwise.
const DefaultQueueBytes = 1 << 20

// Options are the settings of a [Pipe].
type Options struct {
	// QueueBytes bounds what one end has sent and the other has not received yet,
	// in bytes; one message may exceed it when nothing else waits. Defaults to
	// [DefaultQueueBytes].
	QueueBytes int
}

// Pipe is a [tidemark.Dialer] whose connections lead to an acceptor in the same
// process. A handler that panics ends the process: it is not recovered. A Pipe is safe
// for concurrent use.
type Pipe struct {
	acceptor   tidemark.Acceptor
	queueBytes int
	running    sync.WaitGroup

	mu      sync.Mutex // protects what follows
	links   map[*link]struct{}
	blocked bool
	closed  bool
}

// New returns a pipe that offers its connections to acceptor. opts may be nil.
func New(acceptor tidemark.Acceptor, opts *Options) *Pipe {
	p := &Pipe{acceptor: acceptor, queueBytes: DefaultQueueBytes, links: map[*link]struct{}{}}
	if opts != nil && opts.QueueBytes > 0 {
		p.queueBytes = opts.QueueBytes
	}
	return p
}

// Dial offers a connection to the acceptor and waits for its answer. The error
// is the acceptor's when it refused; [tidemark.ErrOffline] when the pipe is
// blocked or was cut meanwhile; [tidemark.ErrClosed] after Close; or ctx's.
func (p *Pipe) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, tidemark.Welcome{}, err
	}
	l, err := p.open(hello, h)
	if err != nil {
		return nil, tidemark.Welcome{}, err
	}
	defer p.running.Done()
	select {
	case <-l.answered:
	case <-ctx.Done():
		l.cut()
		return nil, tidemark.Welcome{}, ctx.Err()
	}
	return l.dialed()
}

// Cut breaks all present connections as a network would: what is under way is
// lost, and both ends see ClosedTransport. New connections can be made.
func (p *Pipe) Cut() {
	for _, l := range p.present() {
		l.cut()
	}
}

// Block makes every Dial fail with [tidemark.ErrOffline]. Present connections go on.
func (p *Pipe) Block() { p.setBlocked(true) }

// Unblock ends what Block began.
func (p *Pipe) Unblock() { p.setBlocked(false) }

func (p *Pipe) setBlocked(b bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = b
}

// Close ends all connections, the server's end with ClosedShutdown, and waits
// until every handler has returned: it must not be called by one. What the server
// has sent is received before. It is idempotent.
func (p *Pipe) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, l := range p.present() {
		l.shutdown()
	}
	p.running.Wait()
	return nil
}

func (p *Pipe) present() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.links))
}

func (p *Pipe) open(hello tidemark.Hello, h tidemark.Handler) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, tidemark.ErrClosed
	case p.blocked:
		return nil, tidemark.ErrOffline
	}
	l := newLink(p, hello, h)
	p.links[l] = struct{}{}
	p.running.Add(1) // for Dial itself, which may yet start the client's end
	p.running.Go(func() { p.acceptor.Offer(l.ctx, l) })
	return l, nil
}

func (p *Pipe) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}
