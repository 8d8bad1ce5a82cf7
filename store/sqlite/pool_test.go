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

// What is done beside the reads leaves the session that they are used to, and there are never more sessions than may be.
func TestSpareSessionIsTheOneMissedLeast(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	p, hot, cold := newPool(2), &session{}, &session{}
	if c, free := p.trySpare(); c != nil || !free {
		t.Fatal("of none that is connected it is a new one")
	}
	p.putSpare(nil)
	if c, err := p.take(t.Context(), closed); c != nil || err != nil {
		t.Fatal(c, err)
	}
	p.put(hot)
	if c, free := p.trySpare(); c != nil || !free {
		t.Fatal("the only one that is connected stays")
	}
	if c, free := p.trySpare(); c != hot || !free {
		t.Fatal("there cannot be a third")
	}
	if _, free := p.trySpare(); free {
		t.Fatal("all are in use")
	}
	p.put(hot)
	p.putSpare(cold)
	if c, free := p.trySpare(); c != cold || !free {
		t.Fatal("the one used last is the one to leave")
	}
	if _, free := newPool(1).trySpare(); free {
		t.Fatal("the only session is for those who read")
	}
}
