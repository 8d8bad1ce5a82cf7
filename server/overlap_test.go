package server_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// gated is a driver whose snapshots tell that they began, and wait.
type gated struct {
	tidemark.Driver
	began chan string
	gates map[string]chan struct{}
}

func (g *gated) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	g.began <- p.String()
	select {
	case <-g.gates[p.Key()]:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return g.Driver.Snapshot(ctx, p, uids)
}

func (g *gated) starts(t *testing.T, want string) {
	t.Helper()
	if got := <-g.began; got != want {
		t.Errorf("%s began, want %s", got, want)
	}
}

func (g *gated) quiet(t *testing.T) {
	t.Helper()
	select {
	case got := <-g.began:
		t.Errorf("%s began, and should wait", got)
	default:
	}
}

// Only syncs whose wheres overlap wait for each other, first come first served; a
// client that has gone holds nothing.
func TestSyncsOfOverlappingWheresWait(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	g := &gated{Driver: db, began: make(chan string, 16), gates: map[string]chan struct{}{}}
	for _, k := range []string{`{"title":"a"}`, `{"title":"b"}`, `{}`} {
		g.gates[k] = make(chan struct{}, 8)
	}
	b := setupOver(t, db, g, nil)
	c, goner := b.dial(), b.dial()
	sync := func(c *client, where string) uint64 {
		return c.send("sync", "go", "post", tidemark.Row(where), map[string]any{})
	}
	first := sync(c, `{"title":"a"}`)
	g.starts(t, `post{"title":"a"}`)
	other := sync(c, `{"title":"b"}`)
	g.starts(t, `post{"title":"b"}`)
	tags := c.send("sync", "go", "tag", map[string]any{}, map[string]any{})
	g.starts(t, `tag{}`)

	sync(goner, `{}`)
	waitLine(t, b, 3)
	broad := sync(c, `{}`)
	waitLine(t, b, 4)
	late := sync(c, `{"title":"a"}`) // does not overtake the broad one
	waitLine(t, b, 5)
	g.quiet(t)

	goner.conn.Close(tidemark.ClosedByClient)
	waitLine(t, b, 4)
	g.gates[`{"title":"b"}`] <- struct{}{}
	c.answer(other)
	g.quiet(t)
	g.gates[`{"title":"a"}`] <- struct{}{}
	c.answer(first)
	g.starts(t, `post{}`)
	g.quiet(t)
	g.gates[`{}`] <- struct{}{}
	g.gates[`{}`] <- struct{}{}
	c.answer(broad)
	c.answer(tags)
	g.starts(t, `post{"title":"a"}`)
	g.gates[`{"title":"a"}`] <- struct{}{}
	c.answer(late)
	waitLine(t, b, 0)
}

func waitLine(t *testing.T, b *bench, n int) {
	t.Helper()
	poll(t, fmt.Sprint(n, " syncs of posts"), func() bool { return b.server.SyncsOf("post") == n })
}
