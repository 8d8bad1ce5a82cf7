package sqlite

import (
	"context"
	"errors"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// The session used last is the next one taken, so that one warm cache serves a
// program that reads in one goroutine.
func TestTheSessionUsedLastIsTakenFirst(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPool(2)
	a, b := &session{}, &session{}
	for range 2 {
		if c, err := p.take(ctx, nil); c != nil || err != nil {
			t.Fatalf("got %p, %v from a pool without connections", c, err)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.take(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("all in use, context ended: got %v", err)
	}
	closed := make(chan struct{})
	close(closed)
	if _, err := p.take(ctx, closed); !errors.Is(err, tidemark.ErrClosed) {
		t.Errorf("all in use, closed: got %v", err)
	}
	p.put(a)
	p.put(b)
	for range 3 {
		c, err := p.take(ctx, nil)
		if c != b || err != nil {
			t.Fatalf("got %p, %v, want the one used last, %p", c, err, b)
		}
		p.put(c)
	}
}
