package server_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// Members of channels hear of a commit whose answer was lost, as if it had come, after-hooks
// included; and nothing of a write that was rolled back.
func TestChannelsHearOfACommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	u := &uncertain{Driver: db}
	b := setupOver(t, db, u, nil).shared()
	var hooked atomic.Int32
	b.server.Service("post").After(func(context.Context, *server.Call) error {
		hooked.Add(1)
		return nil
	}, "updateWithMeta")
	writer, member := b.dial(), b.dial()
	set := func(committed bool, reads error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.committed, u.reads = committed, reads
	}
	write := func(title string, s int) {
		writer.refused(tidemark.CodeUnavailable, "post", "updateWithMeta", "x", map[string]any{"title": title, "owner": "me"}, at(s))
	}
	set(false, nil)
	write("rolled back", 1)
	set(true, nil)
	write("committed", 2)
	member.untilHeard(1)
	set(true, errors.New("the database takes a while"))
	write("found later", 3)
	set(true, nil)
	member.untilHeard(2)
	equalList(t, member.events(), []string{
		`updateWithMeta [{"uid":"x","title":"committed","owner":"me","likes":null,"due":null},{"uid":"x","created_at":null,"updated_at":"2026-01-01T12:00:02.000Z","deleted_at":null}]`,
		`updateWithMeta [{"uid":"x","title":"found later","owner":"me","likes":null,"due":null},{"uid":"x","created_at":null,"updated_at":"2026-01-01T12:00:03.000Z","deleted_at":null}]`,
	})
	if n := hooked.Load(); n != 2 {
		t.Errorf("%d after-hooks ran", n)
	}
}

// What a device pushed, and was committed without an answer, reaches members of channels too: the
// repetition that follows is no call any more.
func TestChannelsHearOfAPushWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	u := &forgetful{Driver: db}
	b := setupOver(t, db, u, nil).shared()
	device, member := b.dial(), b.dial()
	device.open(wanted("post", `{}`))
	u.forget.Store(true)
	device.refused(tidemark.CodeUnavailable, "sync", "push", batch(1, update("post", "x", `{"title":"1"}`, 1)))
	member.untilHeard(1)
	u.forget.Store(false)
	device.push(batch(1, update("post", "x", `{"title":"1"}`, 1)))
	device.push(batch(2, update("post", "x", `{"title":"2"}`, 2)))
	member.untilHeard(2)
	if got := member.events(); len(got) != 2 {
		t.Errorf("heard %q", got)
	}
}

// untilHeard waits until so many service events have come.
func (c *client) untilHeard(n int) {
	c.t.Helper()
	poll(c.t, "service events", func() bool { return len(c.events()) >= n })
}

// forgetful is a driver that loses the answers to pushes.
type forgetful struct {
	*memory.Driver
	forget atomic.Bool
}

func (f *forgetful) Push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	if !f.forget.Load() {
		return f.Driver.Push(ctx, b, w)
	}
	_, err := f.Driver.Push(ctx, b, deaf{w})
	return nil, errors.Join(err, tidemark.NewError(tidemark.CodeUnavailable, "the connection broke"))
}
