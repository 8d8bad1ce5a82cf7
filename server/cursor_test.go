package server_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// The cursor follows what was sent, once everything below it has left.
func TestCursorFollowsChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		reader, idle, writer := b.dial(), b.dial(), b.dial()
		first := reader.open(wanted("post", `{}`))
		idle.open(wanted("tag", `{}`))
		cursors := func(c *client) (list []string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.got {
				if m.Event == tidemark.EventCursor {
					s, _ := tidemark.DecodeString(tidemark.Row(m.Args[0]).Get("cursor"))
					list = append(list, s)
				}
			}
			return list
		}
		expect := func(n int) {
			t.Helper()
			synctest.Wait()
			if a, b, c := len(cursors(reader)), len(cursors(idle)), len(cursors(writer)); a != n || b != n || c != 0 {
				t.Fatalf("%d, %d and %d cursors, want %d, %[4]d and none", a, b, c, n)
			}
		}
		<-time.After(time.Hour)
		expect(0)
		writer.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
		writer.result("tag", "createWithMeta", "t", map[string]any{"name": "1"}, at(1))
		expect(0)
		<-time.After(5 * time.Second)
		expect(1)
		<-time.After(time.Hour)
		expect(1)
		if h, err := b.db.Horizon(t.Context()); err != nil || cursors(reader)[0] != h.String() {
			t.Errorf("the cursor is not the log's: %v", err)
		}
		s := wanted("post", `{}`)
		s.Tag = first.Scopes[0].Tag
		for cursor, rows := range map[string]int{first.Scopes[0].Page.Cursor: 1, cursors(reader)[0]: 0} {
			s.Cursor = cursor
			if p := reader.subscribe(s)[0].Page; len(p.Rows) != rows {
				t.Errorf("%d rows after the cursor, want %d", len(p.Rows), rows)
			}
		}
		// A session for which hooks have not run yet hears of it behind what they leave.
		gate := make(chan struct{})
		b.server.Service("post").After(func(_ context.Context, c *server.Call) error {
			if c.Session != nil && c.Session.ID() == reader.id {
				<-gate
			}
			return nil
		}, "findMany")
		if _, err := b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", map[string]any{"title": "2"}, stamp(2)); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Second)
		if a, b := len(cursors(reader)), len(cursors(idle)); a != 1 || b != 2 {
			t.Errorf("%d and %d cursors, want 1 and 2", a, b)
		}
		close(gate)
		expect(2)
	})
}

// late is a driver that tells of commits only when the gate opens.
type late struct {
	*memory.Driver
	gate chan struct{}
}

type lateWitness struct {
	tidemark.Witness
	gate chan struct{}
}

func (l *late) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	return l.Driver.WriteTx(ctx, ms, lateWitness{w, l.gate})
}

func (w lateWitness) Decided(from int, outs []tidemark.Outcome) {
	<-w.gate
	w.Witness.Decided(from, outs)
}

// A cursor never overtakes what is below it: here a change that is committed and in the log, and
// not even reserved.
func TestCursorDoesNotOvertakeAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(schemas(t)...)
		l := &late{Driver: db, gate: make(chan struct{}, 1)}
		b := setupOver(t, db, l, nil)
		reader, writer := b.dial(), b.dial()
		reader.open(wanted("post", `{}`))
		l.gate <- struct{}{}
		writer.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
		id := writer.send("post", "updateWithMeta", "x", map[string]any{"title": "2"}, at(2))
		<-time.After(20 * time.Second)
		synctest.Wait()
		l.gate <- struct{}{}
		writer.answer(id)
		synctest.Wait()
		var heard []string
		reader.mu.Lock()
		defer reader.mu.Unlock()
		for _, m := range reader.got {
			heard = append(heard, m.Event)
		}
		equalList(t, heard, []string{"connected", "", "sync-changes", "sync-changes", "sync-cursor"})
	})
}

// No cursor goes past a change that was made past the server: its sessions did not hear of it, and
// get it when they come back. Sessions that open their scopes later do get cursors.
func TestCursorStopsAtWhatOthersWrote(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		reader, writer := b.dial(), b.dial()
		reader.open(wanted("post", `{}`))
		cursors := func(c *client) (n int) {
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.got {
				if m.Event == tidemark.EventCursor {
					n++
				}
			}
			return n
		}
		writer.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
		<-time.After(time.Minute)
		if n := cursors(reader); n != 1 {
			t.Fatalf("%d cursors, want 1", n)
		}
		if _, err := b.db.Write(t.Context(), []tidemark.Mutation{{Model: "post", UID: "y", Op: tidemark.Create, Data: tidemark.Row(`{"title":"2"}`), Stamp: stamp(2)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			writer.result("post", "updateWithMeta", "x", map[string]any{"title": "3"}, at(3+i))
			<-time.After(time.Minute)
		}
		if n := cursors(reader); n != 1 {
			t.Errorf("%d cursors after somebody else wrote, want 1", n)
		}
		later := b.dial()
		later.open(wanted("post", `{}`))
		writer.result("post", "updateWithMeta", "x", map[string]any{"title": "4"}, at(9))
		<-time.After(time.Minute)
		if a, b := cursors(reader), cursors(later); a != 1 || b != 1 {
			t.Errorf("%d and %d cursors, want 1 and 1", a, b)
		}
	})
}
