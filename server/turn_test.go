package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// A session's writes and pushes are made in the order in which they came.
func TestPushInItsTurn(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooked %v", hooked), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil).shared()
			if hooked {
				b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
			}
			c := b.dial()
			var last uint64
			var want []string
			n := int64(1)
			for i := range 30 {
				name := func(j int) string { return fmt.Sprintf(`{"name":"%d.%d"}`, i, j) }
				c.send("tag", "updateWithMeta", "a", json.RawMessage(name(0)), at(-1000+i*3))
				last = c.send("sync", "push", textOf(batch(n, update("tag", "a", name(1), -1000+i*3+1), update("tag", "a", name(2), -1000+i*3+2))))
				n += 2
				for j := range 3 {
					want = append(want, fmt.Sprintf(`"%d.%d"`, i, j))
				}
			}
			c.answer(last)
			var got []string
			for _, e := range c.events() {
				_, raw, _ := strings.Cut(e, " ")
				var rm tidemark.RowMeta
				if err := rm.UnmarshalJSON([]byte(raw)); err != nil {
					t.Fatal(err)
				}
				got = append(got, string(rm.Row.Get("name")))
			}
			equalList(t, got, want)
		})
	}
}

// Events about a row leave in the order of its commits, whoever makes them.
func TestPushKeepsTheOrderOfEvents(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	b.server.Service("tag").After(func(context.Context, *server.Call) error { return nil }, tidemark.MethodUpdate) // slots are filled late
	watcher := b.dial()
	var clients []*client
	for range 8 {
		clients = append(clients, b.dial())
	}
	var wg sync.WaitGroup
	for w, c := range clients {
		wg.Go(func() {
			for i := range 20 {
				if w%2 == 0 {
					c.result("tag", "updateWithMeta", "a", map[string]any{"name": fmt.Sprint(w)}, at(-1000+i*8+w))
					continue
				}
				ms := batch(int64(2*i+1), update("tag", "a", `{"name":"p"}`, -1000+i*8+w), update("post", "p", `{"title":"p"}`, -1000+i*8+w))
				ms.Client = fmt.Sprint(device, w)
				c.push(ms)
			}
		})
	}
	wg.Wait()
	watcher.result("tag", "findMany", map[string]any{})
	last := map[string]tidemark.Stamp{}
	for _, e := range watcher.events() {
		_, raw, _ := strings.Cut(e, " ")
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if rm.Meta.T() < last[rm.Meta.UID] {
			t.Fatalf("row %s: %s after %s", rm.Meta.UID, rm.Meta.T(), last[rm.Meta.UID])
		}
		last[rm.Meta.UID] = rm.Meta.T()
	}
	if want := b.db.Get("tag", "a").Meta.T(); last["a"] != want {
		t.Errorf("the last event is of %s, want %s", last["a"], want)
	}
}

// Clients of the guide's protocol hear of what is pushed as of single writes.
func TestPushIsPublished(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	var args []string
	b.server.Service("tag").Publish(func(_ context.Context, c *server.Call) ([]string, error) {
		if c.Session == nil || c.Caller != server.CallerClient || c.Service != "tag" {
			t.Errorf("the call is %+v", c)
		}
		for _, a := range c.Args {
			args = append(args, string(a)) // the lane orders them
		}
		switch string(c.Args[0]) {
		case `"secret"`:
			return nil, nil
		case `"error"`:
			return nil, errors.New("nobody knows whom to tell")
		case `"panic"`:
			panic("nobody knows whom to tell")
		}
		return []string{"all"}, nil
	})
	watcher, c := b.dial(), b.dial()
	got := c.push(batch(1, creation("tag", "a", `{"name":"A"}`, -9), creation("post", "p", `{"title":"t"}`, -9), update("tag", "a", `{"name":"B"}`, -8),
		deletion("tag", "a", -20), creation("tag", "secret", `{}`, -9), creation("tag", "error", `{}`, -9), creation("tag", "panic", `{}`, -9), deletion("tag", "a", -7), deletion("tag", "none", -7)))
	for i, want := range []string{"1 applied", "2 applied", "3 applied", "4 superseded", "5 applied", "6 applied", "7 applied", "8 applied", "9 applied"} {
		if kindOf(got[i]) != want {
			t.Errorf("got %s, want %s", got[i], want)
		}
	}
	watcher.result("tag", "findMany", map[string]any{})
	meta := func(c, u, d string) string {
		return fmt.Sprintf(`{"uid":"a","created_at":"%s","updated_at":%s,"deleted_at":%s}`, c, u, d)
	}
	want := []string{
		`createWithMeta [{"uid":"a","name":"A"},` + meta(at(-9), "null", "null") + `]`,
		`updateWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, "null") + `]`,
		`updateWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, "null") + `]`, // a refused delete
		`deleteWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, `"`+at(-7)+`"`) + `]`,
		`deleteWithMeta [{"uid":"none"},{"uid":"none","created_at":null,"updated_at":null,"deleted_at":"` + at(-7) + `"}]`,
	}
	equalList(t, watcher.events(), want)
	equalList(t, c.events(), want)
	equalList(t, args[:5], []string{`"a"`, `{"name":"A"}`, `"` + at(-9) + `"`, `"a"`, `{"name":"B"}`})
}

// Sessions with live scopes hear of a unit in one message. The one that pushed hears by its
// answer, and like the others where hooks may keep the row from that.
func TestPushInLiveScopes(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		b := setup(t, nil).shared()
		if hooked {
			b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil }, tidemark.MethodCreate)
		}
		open := func() *client {
			c := b.dial()
			c.result("sync", "open", tidemark.OpenRequest{Protocol: 1, Client: device, Scopes: []tidemark.ScopeRequest{{Model: "tag", Where: []byte(`{}`)}}})
			return c
		}
		watcher, c := open(), open()
		c.push(batch(1, unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -9))...))
		told := func(c *client) (messages, rows int) {
			c.result("tag", "findMany", map[string]any{}) // what was sent before is here now
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.got {
				if m.Event != tidemark.EventChanges {
					continue
				}
				var changes tidemark.Changes
				if err := changes.UnmarshalJSON(m.Args[0]); err != nil {
					t.Errorf("%s: %v", m.Args[0], err)
				}
				messages, rows = messages+1, rows+len(changes)
			}
			return messages, rows
		}
		if messages, rows := told(watcher); messages != 1 || rows != 2 {
			t.Errorf("hooked %v: the other session got %d messages with %d rows, want 1, 2", hooked, messages, rows)
		}
		if messages, _ := told(c); (messages > 0) != hooked {
			t.Errorf("hooked %v: the session itself got %d messages", hooked, messages)
		}
		if len(c.events())+len(watcher.events()) > 0 {
			t.Errorf("hooked %v: events of models: %q", hooked, watcher.events())
		}
	}
}
