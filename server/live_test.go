package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
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

// keeper is a connection that keeps the changes that it is told of, as they were given to it.
type keeper struct {
	sink
	mu      sync.Mutex
	sent    int
	changes []*tidemark.Message
}

func (k *keeper) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	k.handler = h
	return k, nil
}

func (k *keeper) Send(m *tidemark.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent++
	if m.Event == tidemark.EventChanges {
		k.changes = append(k.changes, m)
	}
	return nil
}

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent
}

// However many sessions hear of a change by the same scopes, it is encoded once: they are given
// one and the same message, which a transport then encodes once as well.
func TestAChangeIsEncodedOnceForAllOfAScope(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{CursorInterval: -1})
	const all, liked = `{"model":"post","where":{}}`, `{"model":"post","where":{"likes":{"gte":10}}}`
	groups := [][]*keeper{make([]*keeper, 20), make([]*keeper, 20), make([]*keeper, 20)}
	for i, scopes := range []string{all, liked, all + "," + liked} {
		for j := range groups[i] {
			k := &keeper{}
			groups[i][j] = k
			b.server.Offer(t.Context(), k)
			k.handler.Receive(request("sync", "open", `[{"protocol":1,"scopes":[`+scopes+`]}]`))
			poll(t, "the answer", func() bool { return k.count() == 2 })
		}
	}
	b.call("createWithMeta", "x", map[string]any{"title": "1", "likes": 10}, stamp(1)) // of both scopes
	b.call("updateWithMeta", "x", map[string]any{"likes": 9}, stamp(2))                // leaves one
	b.call("updateWithMeta", "x", map[string]any{"title": "2"}, stamp(3))              // of one only
	b.call("deleteWithMeta", "x", stamp(4))
	distinct := map[*tidemark.Message]bool{}
	for i, want := range []int{4, 2, 4} {
		first := groups[i][0].changes
		if len(first) != want {
			t.Fatalf("group %d was sent %d changes, want %d", i, len(first), want)
		}
		for j, k := range groups[i] {
			if !slices.Equal(k.changes, first) {
				t.Errorf("session %d of group %d was sent messages of its own", j, i)
			}
		}
		for _, m := range first {
			distinct[m] = true
		}
	}
	if len(distinct) != 3+3+1+1 { // of what concerns both scopes one a group, of the rest one
		t.Errorf("%d messages were made", len(distinct))
	}
}
