package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/server/hooks"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestScopesHearOfRowsThatEnterChangeAndLeave(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c, writer := b.dial(), b.dial()
	a := c.open(wanted("post", `{"owner":"me"}`), wanted("post", `{"likes":{"gte":10}}`))
	if a.Protocol != 1 || a.Epoch == "" || a.Now != tidemark.StampOf(noon) || len(a.Models) != 2 || a.Limits.Scopes != 128 {
		t.Errorf("answer %+v", a)
	}
	names := map[int64]string{a.Scopes[0].Scope: "mine", a.Scopes[1].Scope: "liked"}
	write := func(action, uid string, args ...any) {
		t.Helper()
		writer.result("post", action, append([]any{uid}, args...)...)
	}
	write("createWithMeta", "x", map[string]any{"title": "1", "owner": "you"}, at(1))
	write("updateWithMeta", "x", map[string]any{"title": "2", "owner": "me"}, at(2))
	write("updateWithMeta", "x", map[string]any{"title": "3", "likes": 10}, at(3))
	write("updateWithMeta", "x", map[string]any{"title": "4", "owner": "you"}, at(4))
	write("updateWithMeta", "x", map[string]any{"title": "old"}, at(1)) // loses: nothing to tell
	write("updateWithMeta", "x", map[string]any{"title": "5", "likes": 9}, at(5))
	write("updateWithMeta", "x", map[string]any{"title": "6"}, at(6))
	write("createWithMeta", "y", map[string]any{"title": "1", "owner": "me", "likes": 11}, at(1))
	write("deleteWithMeta", "y", at(2))
	write("deleteWithMeta", "x", at(9))
	c.mark()
	equalList(t, c.told(names), []string{
		`row x "2" in mine`,
		`row x "3" in liked+mine`,
		`row x "4" in liked out mine`,
		`left x out liked`,
		`row y "1" in liked+mine`,
		`deleted y out liked+mine`,
	})
	if got := c.changes()[3][0].Gone.At; got != stamp(5) {
		t.Errorf("the row left at %v, want the stamp of the version that left", got)
	}
	if got := c.changes()[5][0].Gone.At; got != stamp(2) {
		t.Errorf("the row was deleted at %v", got)
	}
	if rm := c.changes()[0][0]; rm.Meta.CreatedAt != stamp(1) || rm.Meta.UpdatedAt != stamp(2) {
		t.Errorf("metadata %+v", rm.Meta)
	}
	equalList(t, writer.events(), nil)
}

// Clients of both protocols, side by side: a session with scopes hears of models by these alone,
// and of everything else by channels as before.
func TestChannelsAndScopesSideBySide(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	say, err := b.server.Handle("board", server.Methods{"say": func(context.Context, *server.Call) (any, error) { return "said", nil }})
	if err != nil {
		t.Fatal(err)
	}
	say.Publish(server.To("all"))
	guide, scoped := b.dial(), b.dial()
	names := map[int64]string{scoped.open(wanted("post", `{}`)).Scopes[0].Scope: "all"}
	guide.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
	scoped.result("post", "updateWithMeta", "x", map[string]any{"title": "2"}, at(2))
	equalList(t, scoped.push(batch(1, update("post", "x", `{"title":"3"}`, 3))), []string{
		`1 applied {"uid":"x","title":"3","owner":null,"likes":null,"due":null} ` + metaText(tidemark.Meta{UID: "x", CreatedAt: stamp(1), UpdatedAt: stamp(3)})})
	guide.result("board", "say")
	b.notify("all", 7)
	guide.mark()
	scoped.mark()
	if got := strings.Join(guide.events(), "\n"); strings.Count(got, "WithMeta") != 3 || !strings.Contains(got, `"title":"3"`) {
		t.Errorf("by channels: %s", got)
	}
	equalList(t, scoped.events(), []string{`say "said"`})
	equalList(t, scoped.heard(), []string{"connected", "n7"})
	// What it pushed itself it hears by the verdict.
	equalList(t, scoped.told(names), []string{`row x "1" in all`, `row x "2" in all`})
}

// A session that broke and goes on still hears nothing of models by channels, and opens anew.
func TestAResumedSessionOpensAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil).shared()
		scoped := b.dial()
		first := scoped.open(wanted("post", `{}`))
		hello := scoped.hello()
		b.breakOff()
		if n := b.server.LiveScopes(); n != 0 {
			t.Errorf("%d scopes are live after the end of their session", n)
		}
		writer := b.dial()
		writer.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
		b.notify("all", 7)
		again := b.dialWith(hello)
		again.until("connected", func() bool { return len(again.got) >= 2 })
		equalList(t, again.events(), nil)
		equalList(t, again.heard(), []string{"n7", "connected"})
		again.refused(tidemark.CodeInvalidRequest, "sync", "subscribe", []any{})
		writer.result("post", "updateWithMeta", "x", map[string]any{"title": "2"}, at(2))
		s := wanted("post", `{}`)
		s.Cursor, s.Tag = first.Scopes[0].Page.Cursor, first.Scopes[0].Tag
		a := again.open(s)
		if p := a.Scopes[0].Page; p == nil || len(p.Rows) != 1 || titleOf(p.Rows[0].Row) != `"2"` {
			t.Errorf("page %+v", p)
		}
		again.mark()
		equalList(t, again.events(), nil)
	})
}

// A unit, and an application's transaction, is one message, however large; a batch is cut between its units.
func TestWhatBelongsTogetherIsToldTogether(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	reader, writer := b.dial(), b.dial()
	a := reader.open(wanted("post", `{}`), wanted("tag", `{}`))
	names := map[int64]string{a.Scopes[0].Scope: "posts", a.Scopes[1].Scope: "tags"}
	writer.push(batch(1, unit(1, creation("post", "p", `{"title":"1"}`, -9), creation("tag", "t", `{"name":"1"}`, -9))...))
	err := b.db.RunInTx(t.Context(), func(ctx context.Context) error {
		for i, uid := range []string{"q", "p", "q"} {
			if _, err := b.server.Service("post").Call(ctx, "updateWithMeta", uid, map[string]any{"title": fmt.Sprint(i)}, stamp(i)); err != nil {
				return err
			}
		}
		// What is undone by itself is not told.
		_ = b.db.RunInTx(ctx, func(ctx context.Context) error {
			_, err := b.server.Service("post").Call(ctx, "updateWithMeta", "p", map[string]any{"title": "undone"}, stamp(5))
			return errors.Join(err, errors.New("no"))
		})
		_, err := b.server.Service("tag").Call(ctx, "deleteWithMeta", "t", stamp(1))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	reader.mark()
	equalList(t, reader.told(names), []string{
		`row p "1" in posts; row t  in tags`,
		`row q "2" in posts; row p "1" in posts; deleted t out tags`,
	})

	long := func(n int64) string { return fmt.Sprintf(`{"title":"%d","owner":%q}`, n, strings.Repeat("x", 90<<10)) }
	var ms []tidemark.Mutation
	for n := int64(3); n < 13; n++ { // 3 to 12: 0.9 MB, each by itself
		ms = append(ms, creation("post", fmt.Sprint("single", n), long(n), -9))
	}
	var together []tidemark.Mutation
	for n := int64(13); n < 23; n++ { // 13 to 22: a unit of 0.9 MB
		together = append(together, creation("post", fmt.Sprint("unit", n), long(n), -9))
	}
	big := pipe.New(b.server, &pipe.Options{QueueBytes: 16 << 20})
	t.Cleanup(func() { big.Close() })
	b.pipe, big = big, b.pipe
	writer, reader = b.dial(), b.dial()
	reader.open(wanted("post", `{"title":{"gt":"1"}}`))
	writer.push(batch(3, append(ms, unit(13, together...)...)...))
	reader.mark()
	var sizes []int
	for _, cs := range reader.changes() {
		sizes = append(sizes, len(cs))
		units := 0
		for _, x := range cs {
			if strings.HasPrefix(x.Row.UID(), "unit") {
				units++
			}
		}
		if units != 0 && units != 10 {
			t.Errorf("%d of the unit's 10 rows in one message", units)
		}
	}
	equal(t, fmt.Sprint(sizes), "[6 14]")
}

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

// uncertain is a driver whose commit is not confirmed.
type uncertain struct {
	*memory.Driver
	mu        sync.Mutex
	committed bool  // what becomes of the next write
	reads     error // of the rows afterwards
}

// deaf hears that the transaction ended, and not how.
type deaf struct{ tidemark.Witness }

func (d deaf) Ended(bool) { d.Witness.Ended(false) }

func (u *uncertain) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	u.mu.Lock()
	committed := u.committed
	u.mu.Unlock()
	lost := tidemark.NewError(tidemark.CodeUnavailable, "the connection broke")
	err := u.Driver.RunInTx(ctx, func(ctx context.Context) error {
		if _, err := u.Driver.WriteTx(ctx, ms, deaf{w}); err != nil || !committed {
			return errors.Join(err, lost)
		}
		return nil
	})
	return nil, errors.Join(err, lost)
}

func (u *uncertain) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reads != nil {
		return nil, u.reads
	}
	return u.Driver.Snapshot(ctx, p, uids)
}

// Where the answer to a commit is lost, the sessions hear of it if it was one.
func TestACommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	u := &uncertain{Driver: db}
	b := setupOver(t, db, u, nil)
	reader, bystander := b.dial(), b.dial()
	names := map[int64]string{reader.open(wanted("post", `{"owner":"me"}`)).Scopes[0].Scope: "mine"}
	bystander.open(wanted("tag", `{}`))
	set := func(committed bool, reads error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.committed, u.reads = committed, reads
	}
	write := func(title string, s int) {
		if _, err := b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", map[string]any{"title": title, "owner": "me"}, stamp(s)); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		b.quiet()
	}
	set(false, nil)
	write("rolled back", 1)
	set(true, nil)
	write("committed", 2)
	reader.mark()
	equalList(t, reader.told(names), []string{`row x "committed" in mine`})
	set(true, errors.New("still broken"))
	write("unknown", 3)
	if reason := reader.waitClosed(); !reason.Resumable() {
		t.Errorf("closed for %s", reason)
	}
	bystander.mark() // it goes on
}

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
		time.Sleep(time.Hour)
		expect(0)
		writer.result("post", "createWithMeta", "x", map[string]any{"title": "1"}, at(1))
		writer.result("tag", "createWithMeta", "t", map[string]any{"name": "1"}, at(1))
		expect(0)
		time.Sleep(5 * time.Second)
		expect(1)
		time.Sleep(time.Hour)
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
		time.Sleep(20 * time.Second)
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
		time.Sleep(20 * time.Second)
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

// A reader that does not keep up is ended, and catches up when it comes back.
func TestASlowReaderIsEndedAndCatchesUp(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	small := pipe.New(b.server, &pipe.Options{QueueBytes: 16 << 10})
	t.Cleanup(func() { small.Close() })
	b.pipe, small = small, b.pipe
	c := b.dial()
	a := c.open(wanted("post", `{}`))
	c.mu.Lock() // it takes nothing
	for i := range 200 {
		if _, err := b.server.Service("post").Call(t.Context(), "createWithMeta", fmt.Sprint("u", i), map[string]any{"title": strings.Repeat("x", 500)}, stamp(i)); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the session to end", func() bool { return b.server.LiveScopes() == 0 })
	c.mu.Unlock()
	c.waitClosed()
	have := map[string]bool{}
	for _, cs := range c.changes() {
		for _, x := range cs {
			have[x.Row.UID()] = true
		}
	}
	if len(have) == 200 {
		t.Error("nothing was lost: the test tests nothing")
	}
	s := wanted("post", `{}`)
	s.Cursor, s.Tag = a.Scopes[0].Page.Cursor, a.Scopes[0].Tag
	back := b.dial()
	answer := back.open(s).Scopes[0]
	for p := answer.Page; ; p = back.pull(tidemark.PullRequest{Scope: answer.Scope, Cursor: s.Cursor, After: p.After}) {
		for _, rm := range p.Rows {
			have[rm.Row.UID()] = true
		}
		if p.After == "" {
			break
		}
	}
	if len(have) != 200 {
		t.Errorf("%d rows of 200", len(have))
	}
}

// The end of a transaction may be known later than that of one after it: still each row is told in the
// order of its commits.
func TestLiveKeepsTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	d := &tardy{Driver: db, ends: make(chan func(), 1)}
	b := setupOver(t, db, d, nil)
	c := b.dial()
	names := map[int64]string{c.open(wanted("post", `{}`)).Scopes[0].Scope: "all"}
	b.call("updateWithMeta", "x", map[string]any{"title": "tardy"}, stamp(1))
	b.call("updateWithMeta", "x", map[string]any{"title": "2"}, stamp(2))
	b.call("updateWithMeta", "y", map[string]any{"title": "other"}, stamp(2))
	c.mark()
	equalList(t, c.told(names), []string{`row y "other" in all`})
	(<-d.ends)()
	c.mark()
	equalList(t, c.told(names), []string{`row y "other" in all`, `row x "tardy" in all`, `row x "2" in all`})
	if n := b.server.Publications(); n != 0 {
		t.Errorf("%d publications have not left", n)
	}
}

// tardy is a driver of which one commit is reported late.
type tardy struct {
	*memory.Driver
	ends chan func()
}

type tardyWitness struct {
	tidemark.Witness
	ends chan func()
}

func (d *tardy) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if titleOf(ms[0].Data) == `"tardy"` {
		w = tardyWitness{w, d.ends}
	}
	return d.Driver.WriteTx(ctx, ms, w)
}

func (w tardyWitness) Ended(committed bool) { w.ends <- func() { w.Witness.Ended(committed) } }

// leaver is a connection that ends when it is told of a change.
type leaver struct{ tally }

func (l *leaver) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	l.handler = h
	return l, nil
}

func (l *leaver) Send(m *tidemark.Message) error {
	l.sent.Add(1)
	if m.Event == tidemark.EventChanges {
		l.handler.Closed(tidemark.ClosedTransport)
	}
	return nil
}

// Sessions that leave while a change goes round take it from nobody else.
func TestSessionsLeaveWhileAChangeGoesRound(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	conns := make([]*leaver, 8)
	for i := range conns {
		conns[i] = &leaver{tally{sent: &atomic.Int64{}}}
		b.server.Offer(t.Context(), conns[i])
		conns[i].handler.Receive(request("sync", "open", `[{"protocol":1,"scopes":[{"model":"post","where":{}}]}]`))
		poll(t, "the answer", func() bool { return conns[i].sent.Load() == 2 })
	}
	b.call("createWithMeta", "x", map[string]any{"title": "1"}, stamp(1))
	for i, c := range conns {
		if n := c.sent.Load(); n != 3 {
			t.Errorf("connection %d was sent %d messages, want 3", i, n)
		}
	}
	if n := b.server.LiveScopes(); n != 0 {
		t.Errorf("%d scopes are live", n)
	}
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
		time.Sleep(time.Minute)
		if n := cursors(reader); n != 1 {
			t.Fatalf("%d cursors, want 1", n)
		}
		if _, err := b.db.Write(t.Context(), []tidemark.Mutation{{Model: "post", UID: "y", Op: tidemark.Create, Data: tidemark.Row(`{"title":"2"}`), Stamp: stamp(2)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			writer.result("post", "updateWithMeta", "x", map[string]any{"title": "3"}, at(3+i))
			time.Sleep(time.Minute)
		}
		if n := cursors(reader); n != 1 {
			t.Errorf("%d cursors after somebody else wrote, want 1", n)
		}
		later := b.dial()
		later.open(wanted("post", `{}`))
		writer.result("post", "updateWithMeta", "x", map[string]any{"title": "4"}, at(9))
		time.Sleep(time.Minute)
		if a, b := cursors(reader), cursors(later); a != 1 || b != 1 {
			t.Errorf("%d and %d cursors, want 1 and 1", a, b)
		}
	})
}
