package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

var syncMethods = []string{"open", "subscribe", "unsubscribe", "pull"}

func TestSecondProtocolNeedsALog(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	c := setupOver(t, db, struct{ tidemark.TxDriver }{db}, nil).dial()
	for _, m := range syncMethods {
		c.refused(tidemark.CodeMissingMethod, "sync", m)
	}
}

func TestOpenAnswersWhatTheServerHas(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{MaxScopes: 3, MaxPush: 4, PageBytes: 5})
	c := b.dial()
	c.push(batch(1, creation("tag", "t", `{}`, -1)))
	var a tidemark.OpenAnswer
	if err := json.Unmarshal([]byte(c.result("sync", "open", tidemark.OpenRequest{Protocol: 99, Client: device})), &a); err != nil {
		t.Fatal(err)
	}
	if a.Protocol != 1 || a.Highest != 1 || a.Limits != (tidemark.ServerLimits{Scopes: 3, Mutations: 4, Bytes: 5, MaxDrift: 60_000_000}) {
		t.Errorf("got %+v", a)
	}
	if got := a.Models["tag"]; got.Hash != schemas(t)[1].Hash() || fmt.Sprint(got.Fields) != "map[name:text uid:text]" {
		t.Errorf("model %+v", got)
	}
	c.refused(tidemark.CodeInvalidRequest, "sync", "open", tidemark.OpenRequest{Protocol: 1})
}

// Whatever a client says, it gets an error with a code, and neither the server nor its session is harmed.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{MaxScopes: 8})
	many := func(n int, s string) string { return "[" + strings.TrimSuffix(strings.Repeat(s+",", n), ",") + "]" }
	fresh := b.dial()
	for _, m := range []string{"subscribe", "pull"} {
		for _, args := range []string{`[]`, `[[]]`, `[{}]`, `[{"scope":1}]`} {
			if a := fresh.answer(fresh.raw(m, args)); a.Err == nil || a.Err.Code != tidemark.CodeInvalidRequest && a.Err.Code != tidemark.CodeUnknownScope {
				t.Errorf("%s %s before open: %s %v", m, args, a.Result, a.Err)
			}
		}
	}
	for _, args := range []string{`[]`, `[null]`, `[1]`, `[[]]`, `["x"]`, `[{}]`, `[{"protocol":0}]`, `[{"protocol":-1}]`, `[{"protocol":"1"}]`, `[{"protocol":1.5}]`,
		`[{"PROTOCOL":1}]`, `[{"protocol":1,"client":7}]`, `[{"protocol":1,"client":"\u0001"}]`, `[{"protocol":1,"client":"` + strings.Repeat("x", 129) + `"}]`,
		`[{"protocol":1,"scopes":{}}]`, `[{"protocol":1,"scopes":[1]}]`, `[{"protocol":1,"scopes":[{"model":"post"}]}]`,
		`[{"protocol":1,"scopes":` + many(9, `{"model":"post","where":{}}`) + `}]`, `[{"protocol":99999999999999999999}]`} {
		a := fresh.answer(fresh.raw("open", args))
		if a.Err == nil || a.Err.Code != tidemark.CodeInvalidRequest && a.Err.Code != tidemark.CodeLimit {
			t.Errorf("open %.60s: %s %v", args, a.Result, a.Err)
		}
	}
	c := b.dial()
	c.open(wanted("post", `{}`))
	for args, code := range map[string]tidemark.Code{
		`[]`:                                       tidemark.CodeInvalidRequest,
		`[{}]`:                                     tidemark.CodeUnknownScope,
		`[{"scope":"1"}]`:                          tidemark.CodeInvalidRequest,
		`[{"scope":1e3}]`:                          tidemark.CodeInvalidRequest,
		`[{"scope":0}]`:                            tidemark.CodeUnknownScope,
		`[{"scope":-9223372036854775808}]`:         tidemark.CodeUnknownScope,
		`[{"scope":99}]`:                           tidemark.CodeUnknownScope,
		`[{"scope":1,"cursor":1}]`:                 tidemark.CodeInvalidRequest,
		`[{"scope":1,"cursor":"AAAA"}]`:            tidemark.CodeInvalidRequest,
		`[{"scope":1,"after":[]}]`:                 tidemark.CodeInvalidRequest,
		`[{"SCOPE":1}]`:                            tidemark.CodeUnknownScope,
		`[{"scope":99999999999999999999}]`:         tidemark.CodeInvalidRequest,
		`[{"scope":1,"after":"\u0000"}]`:           tidemark.CodeInvalidRequest,
		`[{"scope":2,"cursor":"","after":"abcd"}]`: tidemark.CodeUnknownScope,
	} {
		if a := c.answer(c.raw("pull", args)); a.Err == nil || a.Err.Code != code {
			t.Errorf("pull %s: %s %v, want %s", args, a.Result, a.Err, code)
		}
	}
	for _, args := range []string{`[]`, `[{}]`, `[1]`, `[["1"]]`, `[[1.5]]`, `[[null]]`, `[` + many(9, "1") + `]`} {
		if a := c.answer(c.raw("unsubscribe", args)); a.Err == nil {
			t.Errorf("unsubscribe %.40s: %s", args, a.Result)
		}
	}
	for where, code := range map[string]tidemark.Code{
		`null`: tidemark.CodeInvalidWhere, `[]`: tidemark.CodeInvalidWhere, `{"nope":1}`: tidemark.CodeUnknownField, `{"likes":"1"}`: tidemark.CodeInvalidWhere,
		`{"title":"` + strings.Repeat("x", 70_000) + `"}`: tidemark.CodeInvalidWhere,
	} {
		got := c.subscribe(wanted("post", where))[0]
		if got.Scope != 0 || got.Err == nil || got.Err.Code != code {
			t.Errorf("where %.40s: got %+v", where, got)
		}
	}
	for _, model := range []string{"", "nope", "sync", strings.Repeat("x", 1<<20)} {
		got := c.subscribe(wanted(model, `{}`))[0]
		if got.Err == nil || got.Err.Code != tidemark.CodeUnknownModel || len(got.Err.Message) > 200 {
			t.Errorf("model %.20s: got %+v", model, got)
		}
	}
	for i, s := range c.subscribe(distinct(8)...) { // one is there
		if refused := i == 7; refused != (s.Err != nil && s.Err.Code == tidemark.CodeLimit && s.Scope == 0) {
			t.Errorf("scope %d: %+v", i, s)
		}
	}
	if n := b.server.LiveScopes(); n != 8 {
		t.Errorf("%d scopes are live", n)
	}
	if _, err := b.server.Service("sync").Call(t.Context(), "open", tidemark.OpenRequest{Protocol: 1}); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
		t.Errorf("the server's own code: %v", err)
	}
	if _, err := b.server.Service("sync").Call(t.Context(), "unsubscribe", []int{}); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
		t.Errorf("the server's own code: %v", err)
	}
	c.pull(tidemark.PullRequest{Scope: 1}) // it goes on
}

func distinct(n int) (list []tidemark.ScopeRequest) {
	for i := range n {
		list = append(list, wanted("post", fmt.Sprintf(`{"likes":%d}`, i)))
	}
	return list
}

// raw calls a method of sync with arguments as they stand.
func (c *client) raw(method, args string) uint64 {
	c.t.Helper()
	return c.sendRaw(json.RawMessage(fmt.Sprintf(`{"name":"sync","action":%q,"args":%s}`, method, args)))
}

// Scopes are given back, one by one and with their session, and a scope that nobody holds is gone.
func TestScopesAreReleased(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c, d := b.dial(), b.dial()
	a := c.open(distinct(3)...).Scopes
	d.open(distinct(2)...)
	c.subscribe(distinct(3)...) // which it holds already
	expect := func(n int) {
		t.Helper()
		poll(t, fmt.Sprint(n, " live scopes"), func() bool { return b.server.LiveScopes() == n })
	}
	expect(3)
	c.result("sync", "unsubscribe", []int64{a[0].Scope, a[0].Scope, a[2].Scope, 99})
	expect(2)
	c.refused(tidemark.CodeUnknownScope, "sync", "pull", tidemark.PullRequest{Scope: a[0].Scope})
	d.conn.Close(tidemark.ClosedTransport)
	expect(1)
	b.call("createWithMeta", "x", map[string]any{"title": "1", "likes": 0}, stamp(1))
	b.call("updateWithMeta", "x", map[string]any{"likes": 1}, stamp(2))
	c.mark()
	if got := c.told(map[int64]string{a[1].Scope: "one"}); len(got) != 1 || got[0] != `row x "1" in one` {
		t.Errorf("told %v", got)
	}
	c.conn.Close(tidemark.ClosedByClient)
	expect(0)
}
