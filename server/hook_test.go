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
	"github.com/tidemark-sync/tidemark/server/hooks"
)

// Rows are told in the order of their commits, also where a hook of the first write takes its
// time: live delivery does not wait for it.
func TestLiveDoesNotWaitForHooksOfWrites(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	gate, inside := make(chan struct{}), make(chan struct{})
	b.server.Service("post").After(func(context.Context, *server.Call) error {
		close(inside)
		<-gate
		return nil
	}, "createWithMeta")
	reader, writer := b.dial(), b.dial()
	names := map[int64]string{reader.open(wanted("post", `{}`)).Scopes[0].Scope: "all"}
	id := writer.send("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
	<-inside
	second := b.dial()
	id2 := second.send("post", "updateWithMeta", "x", map[string]any{"title": "2"}, at(2))
	reader.until("both changes", func() bool { return len(reader.got) >= 4 })
	equalList(t, reader.told(names), []string{`row x "1" in all`, `row x "2" in all`})
	close(gate)
	writer.answer(id)
	second.answer(id2)
}

// A field that hooks protect leaves neither by a page nor by a change, and no where may name it.
func TestProtectedFieldsStay(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").After(hooks.Protect("owner"))
	b.db.Put("post", tidemark.Row(`{"uid":"old","title":"o","owner":"canary","likes":1,"due":null}`), tidemark.Meta{UID: "old", CreatedAt: 1})
	reader, writer := b.dial(), b.dial()
	a := reader.open(wanted("post", `{}`), wanted("tag", `{}`))
	names := map[int64]string{a.Scopes[0].Scope: "posts", a.Scopes[1].Scope: "tags"}
	writer.push(batch(1, unit(1, creation("post", "x", `{"title":"1","owner":"canary"}`, -5), creation("tag", "t", `{"name":"n"}`, -5))...))
	writer.push(batch(3, update("post", "old", `{"owner":"canary2"}`, -4), deletion("post", "x", -1)))
	s := wanted("post", `{}`)
	s.Cursor, s.Tag = a.Scopes[0].Page.Cursor, a.Scopes[0].Tag
	if list := reader.subscribe(s); len(list[0].Page.Rows) != 1 || len(list[0].Page.Gone) != 1 {
		t.Errorf("catch-up %+v", list[0].Page)
	}
	refused := reader.subscribe(wanted("post", `{"owner":"canary"}`))[0]
	if refused.Scope != 0 || refused.Err == nil || refused.Err.Code != tidemark.CodeUnknownField {
		t.Errorf("got %+v", refused)
	}
	b.quiet()
	reader.mark()
	equalList(t, reader.told(names), []string{
		`row x "1" in posts; row t  in tags`,
		`row old "o" in posts`,
		`deleted x out posts`,
	})
	reader.mu.Lock()
	defer reader.mu.Unlock()
	for _, m := range reader.got {
		if text := fmt.Sprintf("%s", m.Args); strings.Contains(text, `canary"`) && !strings.Contains(text, "no field") || strings.Contains(text, "canary2") {
			t.Errorf("told: %s", text)
		}
	}
	if n := b.server.LiveScopes(); n != 2 {
		t.Errorf("%d scopes are live, want 2", n)
	}
}

// A where that hooks refuse never becomes live, also where no page of it is read: to hear which of the scopes select
// a row would tell what nobody may ask.
func TestARefusedWhereIsNeverLive(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{PageBytes: 10})
	b.server.Service("post").After(hooks.Protect("owner"))
	b.db.Put("post", tidemark.Row(`{"uid":"x","title":"o","owner":"canary","likes":1,"due":null}`), tidemark.Meta{UID: "x", CreatedAt: 1})
	stale := wanted("post", `{"owner":"canary"}`)
	stale.Cursor, stale.Tag = "nonsense", "nonsense"
	reader := b.dial()
	reader.open(wanted("post", `{}`))
	// The first takes all room that there is for pages.
	for i, a := range reader.subscribe(wanted("post", `{"title":"o"}`), wanted("post", `{"owner":"canary"}`), stale) {
		if i > 0 && (a.Scope != 0 || a.Err == nil || a.Err.Code != tidemark.CodeUnknownField) {
			t.Errorf("scope %d: %+v", i, a)
		}
	}
	if n := b.server.LiveScopes(); n != 2 {
		t.Errorf("%d scopes are live, want 2", n)
	}
	b.dial().push(batch(1, update("post", "x", `{"likes":2}`, -4)))
	b.quiet()
	reader.mark()
	for _, cs := range reader.changes() {
		if len(cs[0].In) != 2 {
			t.Errorf("the row is told to be in %v", cs[0].In)
		}
	}
}

// Hooks that hide rows from sessions decide about each session's: a row that it never saw is not
// mentioned, and one that it can no longer see leaves.
func TestHooksDecideForEachSession(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Set("who", string(s.Hello().Auth))
		return nil
	})
	b.server.Service("post").After(func(_ context.Context, c *server.Call) error {
		rows, ok := c.Result.([]tidemark.Row)
		if !ok || c.Session == nil {
			return nil
		}
		var mine []tidemark.Row
		for _, row := range rows {
			if owner := string(row.Get("owner")); owner == "null" || owner == c.Session.Get("who") {
				mine = append(mine, row.With("title", tidemark.AppendString(nil, "for "+c.Session.Get("who").(string))))
			}
		}
		c.Result = mine
		return nil
	}, "findMany")
	dial := func(who string) *client {
		c := b.dialWith(tidemark.Hello{Auth: json.RawMessage(who)})
		c.event(0)
		return c
	}
	ann, bob := dial(`"ann"`), dial(`"bob"`)
	a := ann.open(wanted("post", `{}`), wanted("post", `{"likes":1}`))
	names := map[int64]string{a.Scopes[0].Scope: "all", a.Scopes[1].Scope: "one"}
	bob.open(wanted("post", `{}`))
	post := b.server.Service("post")
	for i, data := range []map[string]any{{"title": "1", "owner": "ann"}, {"owner": nil, "likes": 1}, {"owner": "bob"}, {"title": "2"}} {
		if _, err := post.Call(t.Context(), "updateWithMeta", "x", data, stamp(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := post.Call(t.Context(), "deleteWithMeta", "x", stamp(10)); err != nil {
		t.Fatal(err)
	}
	b.quiet()
	ann.mark()
	bob.mark()
	equalList(t, ann.told(names), []string{
		`row x "for \"ann\"" in all`,
		`row x "for \"ann\"" in all+one`,
		`left x out all+one`,
	})
	equalList(t, bob.told(names), []string{
		`row x "for \"bob\"" in all`,
		`row x "for \"bob\"" in all`,
		`row x "for \"bob\"" in all`,
		`deleted x out all`,
	})
}

// A session for which a hook fails is ended: it comes back and catches up, and misses nothing.
func TestAFailingHookEndsTheSession(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var mu sync.Mutex
	var failure func() error
	b.server.Service("post").After(func(context.Context, *server.Call) error {
		mu.Lock()
		defer mu.Unlock()
		if failure != nil {
			return failure()
		}
		return nil
	}, "findMany")
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("no") },
		"panic": func() error { panic("no") },
	} {
		c := b.dial()
		a := c.open(wanted("post", `{}`))
		mu.Lock()
		failure = fail
		mu.Unlock()
		if _, err := b.server.Service("post").Call(t.Context(), "createWithMeta", name, map[string]any{"title": "1"}, stamp(1)); err != nil {
			t.Fatal(err)
		}
		if reason := c.waitClosed(); !reason.Resumable() {
			t.Errorf("closed for %s", reason)
		}
		mu.Lock()
		failure = nil
		mu.Unlock()
		s := wanted("post", `{}`)
		s.Cursor, s.Tag = a.Scopes[0].Page.Cursor, a.Scopes[0].Tag
		if p := b.dial().open(s).Scopes[0].Page; len(p.Rows) != 1 || p.Rows[0].Row.UID() != name {
			t.Errorf("%s: page %+v", name, p)
		}
	}
	b.quiet()
}

// A hook of findMany may write the row that it is asked about.
func TestAHookMayWriteTheRowThatIsTold(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").After(func(ctx context.Context, c *server.Call) error {
		for _, row := range c.Result.([]tidemark.Row) {
			if string(row.Get("likes")) == "null" {
				if _, err := c.Server.Service("post").Call(ctx, "updateWithMeta", row.UID(), map[string]any{"likes": 1}, stamp(2)); err != nil {
					return err
				}
			}
		}
		return nil
	}, "findMany")
	c := b.dial()
	c.open(wanted("post", `{}`))
	if _, err := b.server.Service("post").Call(t.Context(), "createWithMeta", "x", map[string]any{"title": "1"}, stamp(1)); err != nil {
		t.Fatal(err)
	}
	c.until("both versions", func() bool { return len(c.got) >= 4 })
	if got := c.changes(); len(got) != 2 || got[1][0].Meta.UpdatedAt != stamp(2) {
		t.Errorf("got %+v", got)
	}
}

// A hook that narrows what a client reads by setting a member of the where is not got round: neither by alternatives
// nor by any spelling, by whatever way the client reads.
func TestANarrowingHookIsNotGotRound(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").Before(func(_ context.Context, c *server.Call) error {
		var where tidemark.Row
		if err := c.Arg(0, &where); err != nil || c.Caller != server.CallerClient {
			return err
		}
		c.Args = []json.RawMessage{json.RawMessage(where.With("owner", json.RawMessage(`"ann"`)))}
		return nil
	}, tidemark.MethodFindMany, tidemark.MethodFindUnique)
	b.put("a", "hers", "ann")
	b.put("canary", "his", "bob")
	wheres := []string{
		`{}`, `{"owner":"bob"}`, `{"owner":{"in":["bob","ann"]}}`, `{"owner":{"gte":"a"}}`, `{"owner":null}`, `{"\u006fwner":"bob"}`, `{"owner":"ann","owner":"bob"}`, `{"owner":"ann","\u006fwner":"bob"}`,
		`{"$or":[{"owner":"bob"}]}`, `{"$or":[{"owner":"bob"},{"owner":"ann"}]}`, `{"$or":[{}]}`, `{"$or":[{"owner":"bob"},{}]}`, `{"$or":[{"owner":null},{"title":{"gte":""}}]}`, `{"\u0024or":[{"owner":"bob"}]}`,
		`{"owner":"ann","$or":[{"owner":"bob"},{"uid":"canary"}]}`, `{"$or":[{"owner":"ann"}],"$or":[{"owner":"bob"}]}`, `{"$or":[{"$or":[{"owner":"bob"}]}]}`, `{"$or":{"owner":"bob"}}`, `{"uid":"canary"}`,
		`null`, `[]`, `[{"owner":"bob"}]`, `"bob"`, `{"owner":"bob"} `,
	}
	var cs []*client
	seen := 0
	for _, where := range wheres {
		c, guide := b.dial(), b.dial()
		cs = append(cs, c, guide)
		for _, method := range []string{tidemark.MethodFindMany, tidemark.MethodFindUnique} {
			if a := guide.ask("post", method, json.RawMessage(where)); strings.Contains(string(a.Result), `"a"`) {
				seen++
			}
		}
		guide.ask("post", tidemark.MethodFindMany)
		guide.ask("sync", "go", "post", json.RawMessage(where), map[string]any{})
		guide.ask("sync", "go", "post", json.RawMessage(where), map[string]any{"canary2": map[string]any{"created_at": at(-100)}})
		c.open()
		a := c.ask("sync", "subscribe", []tidemark.ScopeRequest{wanted("post", where)})
		var list []tidemark.ScopeAnswer
		if a.Err == nil && json.Unmarshal(a.Result, &list) == nil && len(list) == 1 && list[0].Scope != 0 {
			c.pull(tidemark.PullRequest{Scope: list[0].Scope})
		}
	}
	if seen < 10 {
		t.Errorf("her own row was found %d times", seen)
	}
	b.call("updateWithMeta", "canary", map[string]any{"title": "changed"}, stamp(1))
	b.call("createWithMeta", "canary new", map[string]any{"title": "t", "owner": "bob"}, stamp(1))
	b.call("updateWithMeta", "a", map[string]any{"title": "changed"}, stamp(1))
	b.quiet()
	for i, c := range cs {
		if i%2 == 0 {
			c.mark()
		}
		c.mu.Lock()
		for _, m := range c.got {
			if text := fmt.Sprintf("%s", m.Args); strings.Contains(text, "canary") && !strings.Contains(text, "canary2") || strings.Contains(text, "bob") {
				t.Errorf("%s: told %s", wheres[i/2], text)
			}
		}
		c.mu.Unlock()
	}
}
