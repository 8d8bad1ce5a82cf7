package sqlite

import (
	"context"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// pool has the sessions that nobody uses at the moment, as many as there may be.
// The one used last is taken first: its cache has the pages that are read again
// and again, which would else be kept once in each session.
type pool struct {
	free chan struct{} // a token for each session that is not in use

	mu   sync.Mutex // protects idle
	idle []*session // those that are connected, the one used last at the end
}

func newPool(sessions int) *pool {
	p := &pool{free: make(chan struct{}, sessions)}
	for range sessions {
		p.free <- struct{}{}
	}
	return p
}

// take waits for a session to be free; nil is one that is not connected yet.
func (p *pool) take(ctx context.Context, closed <-chan struct{}) (*session, error) {
	select {
	case <-p.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-closed:
		return nil, tidemark.ErrClosed
	}
	return p.pop(), nil
}

// tryTake takes a session that is free and connected, nil when there is none at the moment.
func (p *pool) tryTake() *session {
	select {
	case <-p.free:
	default:
		return nil
	}
	c := p.pop()
	if c == nil {
		p.put(nil)
	}
	return c
}

func (p *pool) pop() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

// put gives back what take has given; nil when it is not connected.
func (p *pool) put(c *session) {
	if c != nil {
		p.mu.Lock()
		p.idle = append(p.idle, c)
		p.mu.Unlock()
	}
	p.free <- struct{}{}
}

// trySpare takes a session, if one is free, that those who read will miss least: the
// one used longest ago, and rather one that is not connected yet (nil) than the only one that is.
func (p *pool) trySpare() (c *session, free bool) {
	if cap(p.free) < 2 {
		return nil, false
	}
	select {
	case <-p.free:
	default:
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n == 0 || n == 1 && len(p.free) >= 1 {
		return nil, true
	}
	c = p.idle[0]
	p.idle = slices.Delete(p.idle, 0, 1)
	return c, true
}

// putSpare gives back what trySpare has given, as the one to be taken last.
func (p *pool) putSpare(c *session) {
	if c != nil {
		p.mu.Lock()
		p.idle = slices.Insert(p.idle, 0, c)
		p.mu.Unlock()
	}
	p.free <- struct{}{}
}

// drain closes the sessions, none of which is in use any more.
func (p *pool) drain() {
	if p == nil {
		return
	}
	for c := p.pop(); c != nil; c = p.pop() {
		c.close()
	}
}
