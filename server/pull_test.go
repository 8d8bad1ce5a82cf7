package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// pageText is a page in short: its rows by uid and title, then what is gone.
func pageText(p *tidemark.ScopePage) string {
	if p == nil {
		return "none"
	}
	var out []string
	for _, rm := range p.Rows {
		out = append(out, rm.Row.UID()+" "+titleOf(rm.Row))
	}
	for _, d := range p.Gone {
		text := "left " + d.UID
		if d.Deleted {
			text = "deleted " + d.UID
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func (b *bench) put(uid, title, owner string) {
	b.db.Put("post", tidemark.Row(fmt.Sprintf(`{"uid":%q,"title":%q,"owner":%q,"likes":null,"due":null}`, uid, title, owner)), tidemark.Meta{UID: uid, CreatedAt: stamp(-100)})
}

// call calls a model's method from the server's own code.
func (b *bench) call(method, uid string, args ...any) {
	b.t.Helper()
	if _, err := b.server.Service("post").Call(b.t.Context(), method, append([]any{uid}, args...)...); err != nil {
		b.t.Fatal(err)
	}
}

// A pass in pages brings each row once, whatever the length of a page; its total is told first.
func TestPassInPages(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{PageBytes: 1000})
	for i := range 100 {
		b.put(fmt.Sprintf("u%02d", i), strings.Repeat("x", i), []string{"me", "you"}[i%2])
	}
	c := b.dial()
	answer := c.open(wanted("post", `{"owner":"me"}`)).Scopes[0]
	var got []string
	pages := 0
	p := answer.Page
	if p.Total != 50 {
		t.Errorf("a total of %d", p.Total)
	}
	for ; ; p = c.pull(tidemark.PullRequest{Scope: answer.Scope, After: p.After}) {
		for _, rm := range p.Rows {
			got = append(got, rm.Row.UID())
		}
		if pages++; p.After == "" {
			break
		}
		if pages > 1 && p.Total != 0 {
			t.Error("a later page has a total")
		}
	}
	if !slices.IsSorted(got) || len(slices.Compact(got)) != 50 || pages < 5 {
		t.Errorf("%d rows in %d pages: %v", len(got), pages, got)
	}
}

// A catch-up tells each row that changed once, as it is, and those that left; a row that is still in
// another scope of the session is told as a row.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for _, uid := range []string{"changed", "deleted", "kept", "moved", "twice", "untouched"} {
		b.put(uid, "0", "me")
	}
	b.put("foreign", "0", "you")
	c := b.dial()
	mine := c.open(wanted("post", `{"owner":"me"}`)).Scopes[0]
	b.call("updateWithMeta", "changed", map[string]any{"title": "1"}, stamp(1))
	b.call("deleteWithMeta", "deleted", stamp(1))
	b.call("updateWithMeta", "moved", map[string]any{"owner": "you"}, stamp(1))
	b.call("updateWithMeta", "kept", map[string]any{"owner": "you", "likes": 5}, stamp(1))
	for i := range 3 {
		b.call("updateWithMeta", "twice", map[string]any{"title": fmt.Sprint(i)}, stamp(i))
	}
	b.call("updateWithMeta", "foreign", map[string]any{"title": "1"}, stamp(1))
	b.call("createWithMeta", "new", map[string]any{"title": "1", "owner": "me"}, stamp(1))
	b.call("createWithMeta", "short-lived", map[string]any{"title": "1", "owner": "me"}, stamp(1))
	b.call("deleteWithMeta", "short-lived", stamp(2))

	s := wanted("post", `{"owner":"me"}`)
	s.Cursor, s.Tag = mine.Page.Cursor, mine.Tag
	c2 := b.dial()
	a := c2.open(s, wanted("post", `{"likes":5}`))
	equal(t, pageText(a.Scopes[0].Page), `changed "1"; new "1"; twice "2"; kept "0"; deleted deleted; left moved; deleted short-lived`)
	equal(t, pageText(a.Scopes[1].Page), `kept "0"`)
	for _, d := range a.Scopes[0].Page.Gone {
		if d.UID == "moved" && d.At != stamp(1) {
			t.Errorf("%+v", d)
		}
	}
	again := c2.pull(tidemark.PullRequest{Scope: a.Scopes[0].Scope, Cursor: a.Scopes[0].Page.Cursor})
	equal(t, pageText(again), "")
	if again.Cursor == "" || again.Total != 0 || again.After != "" {
		t.Errorf("page %+v", again)
	}
}

// A cursor of no use leaves the scope live, and says why.
func TestCursorsOfNoUse(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.put("x", "0", "me")
	other := setup(t, nil)
	foreign := other.dial().open(wanted("post", `{"owner":"me"}`)).Scopes[0].Page.Cursor
	c := b.dial()
	a := c.open(wanted("post", `{"owner":"me"}`)).Scopes[0]
	request := func(cursor, tag, after string) tidemark.ScopeRequest {
		s := wanted("post", `{"owner":"me"}`)
		s.Cursor, s.Tag, s.After = cursor, tag, after
		return s
	}
	good := a.Page.Cursor
	for name, x := range map[string]struct {
		request tidemark.ScopeRequest
		code    tidemark.Code
	}{
		"of another scope":          {request(good, strings.Repeat("0", 32), ""), tidemark.CodeScopeChanged},
		"without a tag":             {request(good, "", ""), tidemark.CodeScopeChanged},
		"a pass under another tag":  {request("", "", "a"), tidemark.CodeScopeChanged},
		"of another database":       {request(foreign, a.Tag, ""), tidemark.CodeCursorTooOld},
		"malformed":                 {request("no cursor", a.Tag, ""), tidemark.CodeInvalidRequest},
		"malformed, long":           {request(strings.Repeat("x", 1<<20), a.Tag, ""), tidemark.CodeInvalidRequest},
		"after a uid of a megabyte": {request(good, a.Tag, strings.Repeat("x", 1<<20)), tidemark.CodeInvalidRequest},
	} {
		got := c.subscribe(x.request)[0]
		if got.Scope != a.Scope || got.Tag != a.Tag || got.Page != nil || got.Err == nil || got.Err.Code != x.code {
			t.Errorf("%s: got %+v, want %s", name, got, x.code)
		}
	}
	c.refused(tidemark.CodeCursorTooOld, "sync", "pull", tidemark.PullRequest{Scope: a.Scope, Cursor: foreign})
	c.refused(tidemark.CodeInvalidRequest, "sync", "pull", tidemark.PullRequest{Scope: a.Scope, Cursor: "x"})
	c.refused(tidemark.CodeInvalidRequest, "sync", "pull", tidemark.PullRequest{Scope: a.Scope, After: strings.Repeat("x", 1<<20)})
	// A pass that was begun goes on where it stood, on a new session too.
	if p := b.dial().open(request("", a.Tag, "a")).Scopes[0].Page; pageText(p) != `x "0"` || p.Total != 0 {
		t.Errorf("page %+v", p)
	}
}

// Only as much of the first pages comes with the answer as fits about one page; the rest is pulled.
func TestFirstPagesFindRoom(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{PageBytes: 4000})
	for i := range 20 {
		b.put(fmt.Sprintf("u%02d", i), strings.Repeat("x", 300), "me")
	}
	var scopes []tidemark.ScopeRequest
	for i := range 5 {
		scopes = append(scopes, wanted("post", fmt.Sprintf(`{"title":{"gt":"%d"}}`, i)), wanted("tag", fmt.Sprintf(`{"name":"%d"}`, i)))
	}
	c := b.dial()
	a := c.open(scopes...)
	without := 0
	for i, s := range a.Scopes {
		if s.Scope == 0 || s.Tag == "" {
			t.Errorf("scope %d is not live: %+v", i, s)
		}
		if s.Page == nil {
			without++
			if i%2 == 0 && len(c.pull(tidemark.PullRequest{Scope: s.Scope}).Rows) == 0 {
				t.Errorf("scope %d has no rows", i)
			}
		}
	}
	if without == 0 || a.Scopes[0].Page == nil {
		t.Errorf("%d of %d scopes came without a page", without, len(a.Scopes))
	}
	// With nothing to catch up all come in one answer, however many they are.
	b.db.Drop("post", "u00")
	for i := range scopes {
		scopes[i].Cursor, scopes[i].Tag = c.pull(tidemark.PullRequest{Scope: a.Scopes[i].Scope, After: "zzz"}).Cursor, a.Scopes[i].Tag
	}
	for i, s := range b.dial().open(scopes...).Scopes {
		if s.Page == nil || s.Page.Cursor == "" {
			t.Errorf("scope %d came without a page: %+v", i, s)
		}
	}
}

// Rows that another program inserted are given metadata by who reads them first, and everybody
// whose scope selects them hears of it.
func TestRowsWithoutMetadataAreAdopted(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"pull", "sync.go"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			early := b.dial()
			names := map[int64]string{early.open(wanted("post", `{"title":{"gt":"1"}}`)).Scopes[0].Scope: "all"}
			for i := range 3 {
				b.db.Put("post", tidemark.Row(fmt.Sprintf(`{"uid":"u%d","title":"%d","owner":null,"likes":null,"due":null}`, i, i)), tidemark.Meta{})
			}
			c := b.dial()
			if how == "pull" {
				p := c.open(wanted("post", `{}`)).Scopes[0].Page
				equal(t, pageText(p), `u0 "0"; u1 "1"; u2 "2"`)
				for _, rm := range p.Rows {
					if rm.Meta.CreatedAt != tidemark.StampOf(noon) {
						t.Errorf("metadata %+v", rm.Meta)
					}
				}
			} else if r := c.sync("post", tidemark.Where{}, map[string]any{}); len(r.AddClient) != 3 {
				t.Errorf("got %+v", r)
			}
			early.mark()
			equalList(t, early.told(names), []string{`row u2 "2" in all`})
			if changes(t, b.db) != 3 || b.db.Get("post", "u0").Meta.CreatedAt == 0 {
				t.Error("they have no metadata")
			}
		})
	}
}

// Hooks narrow what a scope selects: one scope for those who may see the same, another for others.
func TestHooksNarrowScopes(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").Before(func(_ context.Context, c *server.Call) error {
		who := string(c.Session.Hello().Auth)
		switch who {
		case `"nobody"`:
			return tidemark.NewError(tidemark.CodeDenied, "no")
		case `"fault"`:
			panic("no")
		}
		c.Args[0] = json.RawMessage(tidemark.Row(c.Args[0]).With("owner", json.RawMessage(who)))
		return nil
	}, "findMany")
	b.put("a", "1", "ann")
	b.put("b", "1", "bob")
	dial := func(who string) *client {
		c := b.dialWith(tidemark.Hello{Auth: json.RawMessage(who)})
		c.event(0)
		return c
	}
	ann, ann2, bob := dial(`"ann"`), dial(`"ann"`), dial(`"bob"`)
	a, a2, o := ann.open(wanted("post", `{}`)).Scopes[0], ann2.open(wanted("post", `{"owner":"bob"}`)).Scopes[0], bob.open(wanted("post", `{}`)).Scopes[0]
	if a.Scope != a2.Scope || a.Tag != a2.Tag || a.Scope == o.Scope || a.Tag == o.Tag {
		t.Errorf("scopes %d %d %d, tags %s %s %s", a.Scope, a2.Scope, o.Scope, a.Tag, a2.Tag, o.Tag)
	}
	equal(t, pageText(a.Page), `a "1"`)
	equal(t, pageText(o.Page), `b "1"`)
	// Of a foreign scope nothing is told, whatever is said about it.
	bob.refused(tidemark.CodeUnknownScope, "sync", "pull", tidemark.PullRequest{Scope: a.Scope})
	s := wanted("post", `{}`)
	s.Cursor, s.Tag = a.Page.Cursor, a.Tag
	if got := bob.subscribe(s)[0]; got.Err == nil || got.Err.Code != tidemark.CodeScopeChanged || got.Scope != o.Scope {
		t.Errorf("got %+v", got)
	}
	bob.result("sync", "unsubscribe", []int64{a.Scope})
	b.call("updateWithMeta", "a", map[string]any{"title": "2"}, stamp(1))
	ann.mark()
	bob.mark()
	if len(ann.changes()) != 1 || len(bob.changes()) != 0 {
		t.Errorf("%d and %d changes", len(ann.changes()), len(bob.changes()))
	}
	for who, code := range map[string]tidemark.Code{`"nobody"`: tidemark.CodeDenied, `"fault"`: tidemark.CodeInternal} {
		c := dial(who)
		c.open()
		if got := c.subscribe(wanted("post", `{}`))[0]; got.Scope != 0 || got.Err == nil || got.Err.Code != code {
			t.Errorf("%s: got %+v", who, got)
		}
	}
}

// A row that an after-hook keeps back is left out of a pass from the beginning, and leaves in a catch-up.
func TestHooksKeepRowsOfPagesBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").After(func(_ context.Context, c *server.Call) error {
		if rows, ok := c.Result.([]tidemark.Row); ok {
			c.Result = slices.DeleteFunc(rows, func(r tidemark.Row) bool { return titleOf(r) == `"secret"` })
		}
		return nil
	})
	b.put("a", "0", "me")
	b.put("b", "secret", "me")
	b.put("c", "0", "me")
	c := b.dial()
	a := c.open(wanted("post", `{}`)).Scopes[0]
	equal(t, pageText(a.Page), `a "0"; c "0"`)
	b.call("updateWithMeta", "c", map[string]any{"title": "secret"}, stamp(1))
	b.call("updateWithMeta", "b", map[string]any{"title": "open"}, stamp(1))
	equal(t, pageText(c.pull(tidemark.PullRequest{Scope: a.Scope, Cursor: a.Page.Cursor})), `b "open"; left c`)
}

// Of a row that hooks have hidden from a session all the time a catch-up tells nothing, whatever became of it:
// not its uid, and not that something changed.
func TestCatchUpDoesNotMentionHiddenRows(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.Service("post").After(func(_ context.Context, c *server.Call) error {
		if rows, ok := c.Result.([]tidemark.Row); ok {
			c.Result = slices.DeleteFunc(rows, func(r tidemark.Row) bool { return titleOf(r) == `"secret"` })
		}
		return nil
	}, "findMany")
	for _, uid := range []string{"canary changed", "canary deleted", "canary moved", "canary moved to the other", "canary opened and closed elsewhere"} {
		b.put(uid, "secret", "me")
	}
	for _, uid := range []string{"hidden", "hidden and deleted", "deleted", "moved", "hidden in the other"} {
		b.put(uid, "0", "me")
	}
	c := b.dial()
	mine, old := c.open(wanted("post", `{"owner":"me"}`), wanted("post", `{"likes":5}`)).Scopes, c
	change := func(uid string, data map[string]any, seconds int) {
		b.call("updateWithMeta", uid, data, stamp(seconds))
	}
	change("canary changed", map[string]any{"likes": 1}, 1)
	b.call("deleteWithMeta", "canary deleted", stamp(1))
	change("canary moved", map[string]any{"owner": "you"}, 1)
	change("canary moved to the other", map[string]any{"owner": "you", "likes": 5}, 1)
	change("canary opened and closed elsewhere", map[string]any{"owner": "you"}, 1)
	change("canary opened and closed elsewhere", map[string]any{"title": "0"}, 2)
	change("canary opened and closed elsewhere", map[string]any{"owner": "me", "title": "secret"}, 3)
	b.call("createWithMeta", "canary created", map[string]any{"title": "secret", "owner": "me"}, stamp(1))
	change("hidden", map[string]any{"title": "secret"}, 1)
	change("hidden and deleted", map[string]any{"title": "secret"}, 1)
	b.call("deleteWithMeta", "hidden and deleted", stamp(2))
	b.call("deleteWithMeta", "deleted", stamp(1))
	change("moved", map[string]any{"owner": "you"}, 1)
	change("hidden in the other", map[string]any{"owner": "you", "likes": 5, "title": "secret"}, 1)
	b.call("createWithMeta", "was open", map[string]any{"title": "0", "owner": "me"}, stamp(1))
	change("was open", map[string]any{"title": "secret"}, 2)

	var requests []tidemark.ScopeRequest
	for i, where := range []string{`{"owner":"me"}`, `{"likes":5}`} {
		s := wanted("post", where)
		s.Cursor, s.Tag = mine[i].Page.Cursor, mine[i].Tag
		requests = append(requests, s)
	}
	c = b.dial()
	pages := c.open(requests...).Scopes
	told := strings.Split(pageText(pages[0].Page), "; ")
	slices.Sort(told)
	equalList(t, told, []string{"deleted deleted", "deleted hidden and deleted", "left hidden", "left hidden in the other", "left moved", "left was open"})
	equal(t, pageText(pages[1].Page), "")
	for _, c := range []*client{old, c} { // live, and by the catch-up
		c.mark()
		c.mu.Lock()
		for _, m := range c.got {
			if text := fmt.Sprintf("%s", m.Args); strings.Contains(text, "canary") {
				t.Errorf("told: %s", text)
			}
		}
		c.mu.Unlock()
	}
}

// counted is a driver that counts what it is asked.
type counted struct {
	*memory.Driver
	mu    sync.Mutex
	calls map[string]int
	fail  map[string]error
}

func (d *counted) count(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls == nil {
		d.calls = make(map[string]int)
	}
	d.calls[name]++
	return d.fail[name]
}

func (d *counted) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer clear(d.calls)
	return fmt.Sprint(d.calls)
}

func (d *counted) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	if err := d.count("find"); err != nil {
		return nil, err
	}
	return d.Driver.Find(ctx, p, limit)
}

func (d *counted) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	if err := d.count("snapshot"); err != nil {
		return nil, err
	}
	return d.Driver.Snapshot(ctx, p, uids)
}

func (d *counted) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if err := d.count("write"); err != nil {
		return nil, err
	}
	return d.Driver.WriteTx(ctx, ms, w)
}

func (d *counted) Horizon(ctx context.Context) (tidemark.Cursor, error) {
	if err := d.count("horizon"); err != nil {
		return tidemark.Cursor{}, err
	}
	return d.Driver.Horizon(ctx)
}

func (d *counted) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	if err := d.count("pull"); err != nil {
		return nil, err
	}
	return d.Driver.Pull(ctx, q)
}

func (d *counted) Known(ctx context.Context, client string) (int64, error) {
	if err := d.count("known"); err != nil {
		return 0, err
	}
	return d.Driver.Known(ctx, client)
}

// What the database is asked does not depend on how many rows there are, and live delivery asks it nothing.
func TestTheDatabaseIsNotAskedForEachRow(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	d := &counted{Driver: db}
	b := setupOver(t, db, d, nil)
	for i := range 500 {
		b.db.Put("post", tidemark.Row(fmt.Sprintf(`{"uid":"u%d","title":"%d","owner":null,"likes":null,"due":null}`, i, i)), tidemark.Meta{})
	}
	readers := []*client{b.dial(), b.dial(), b.dial()}
	for i, c := range readers {
		a := c.open(wanted("post", `{}`), wanted("tag", `{}`)).Scopes
		if len(a[0].Page.Rows) != 500 {
			t.Errorf("%d rows", len(a[0].Page.Rows))
		}
		want := "map[horizon:1 known:1 pull:2]"
		if i == 0 { // which adopts all rows at once, and reads again
			want = "map[horizon:1 known:1 pull:3 write:1]"
		}
		equal(t, d.take(), want)
	}
	var ms []tidemark.Mutation
	for i := range 200 {
		ms = append(ms, update("post", fmt.Sprint("u", i), `{"likes":1}`, 1))
	}
	readers[0].push(batch(1, ms...))
	readers[1].mark()
	equal(t, d.take(), "map[]")
	if got := readers[1].changes(); len(got) != 1 || len(got[0]) != 200 {
		t.Errorf("%d messages", len(got))
	}
}

// Where the database fails nothing is half done: a scope is live and waits to be pulled, and what
// could not be opened can be opened again.
func TestDatabaseFailsWhileScopesAreOpened(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	d := &counted{Driver: db, fail: map[string]error{}}
	b := setupOver(t, db, d, nil)
	b.put("x", "0", "me")
	set := func(name string, err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.fail[name] = err
	}
	c := b.dial()
	gone := tidemark.NewError(tidemark.CodeUnavailable, "the database is not there")
	for _, name := range []string{"horizon", "known"} {
		set(name, gone)
		c.refused(tidemark.CodeUnavailable, "sync", "open", tidemark.OpenRequest{Protocol: 1, Client: "c"})
		set(name, nil)
	}
	for _, err := range []error{gone, errors.New("SELECT secret")} {
		set("pull", err)
		a := c.subscribeOrOpen(wanted("post", `{}`))
		if a.Scope == 0 || a.Page != nil || a.Err != nil {
			t.Errorf("got %+v", a)
		}
		e := c.ask("sync", "pull", tidemark.PullRequest{Scope: a.Scope}).Err
		if e == nil || strings.Contains(e.Message, "secret") {
			t.Errorf("got %v", e)
		}
		set("pull", nil)
		equal(t, pageText(c.pull(tidemark.PullRequest{Scope: a.Scope})), `x "0"`)
	}
}

// subscribeOrOpen opens the second protocol with the scope, or subscribes to it when it is open.
func (c *client) subscribeOrOpen(s tidemark.ScopeRequest) tidemark.ScopeAnswer {
	c.t.Helper()
	if a := c.ask("sync", "subscribe", []tidemark.ScopeRequest{}); a.Err == nil {
		return c.subscribe(s)[0]
	}
	return c.open(s).Scopes[0]
}
