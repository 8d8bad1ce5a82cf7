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

// trace is a hook that notes its name.
type trace struct {
	mu    sync.Mutex
	steps []string
}

func (tr *trace) hook(name string) server.Hook {
	return func(context.Context, *server.Call) error { tr.add(name); return nil }
}

func (tr *trace) add(name string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.steps = append(tr.steps, name)
}

func (tr *trace) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	out := tr.steps
	tr.steps = nil
	return out
}

func TestHooksRunInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var tr trace
	svc, err := b.server.Handle("util", server.Methods{
		"m":     func(context.Context, *server.Call) (any, error) { tr.add("m"); return 1, nil },
		"other": func(context.Context, *server.Call) (any, error) { tr.add("other"); return 1, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server.Service{svc, b.server.Service("post")} {
		m := "m"
		if s != svc {
			m = "createWithMeta"
		}
		s.After(tr.hook("after all"))
		s.After(tr.hook("after m"), m)
		s.Before(tr.hook("before m"), m)
		s.Before(tr.hook("before all 1"))
		s.Before(tr.hook("before all 2"))
		s.Publish(func(context.Context, *server.Call) ([]string, error) { tr.add("publish"); return nil, nil })
	}
	c := b.dial()
	c.result("util", "m")
	equalList(t, tr.take(), []string{"before all 1", "before all 2", "before m", "m", "after m", "after all", "publish"})
	c.result("util", "other")
	equalList(t, tr.take(), []string{"before all 1", "before all 2", "other", "after all", "publish"})
	c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0))
	equalList(t, tr.take(), []string{"before all 1", "before all 2", "before m", "after m", "after all", "publish"})
	if _, err := svc.Call(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	equalList(t, tr.take(), []string{"before all 1", "before all 2", "before m", "m", "after m", "after all", "publish"})
}

func TestHooksChangeArgumentsAndAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	post.Before(func(_ context.Context, c *server.Call) error {
		if c.Caller != server.CallerClient || c.Session == nil || c.Server != b.server || c.Service != "post" {
			t.Errorf("got %+v", c)
		}
		c.Args[1] = json.RawMessage(`{"title":"by hook","owner":"secret"}`)
		return nil
	}, "createWithMeta")
	post.After(func(_ context.Context, c *server.Call) error { // inside: answer and event
		rm := c.Result.(*tidemark.RowMeta)
		rm.Row = rm.Row.Without("due")
		return nil
	}, "createWithMeta")
	post.After(func(_ context.Context, c *server.Call) error { // replaced: the answer only
		rm := *c.Result.(*tidemark.RowMeta)
		rm.Row = rm.Row.Without("owner")
		c.Result = &rm
		return nil
	}, "createWithMeta")
	c := b.dial()
	meta := `{"uid":"a","created_at":"` + at(0) + `","updated_at":null,"deleted_at":null}`
	equal(t, c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0)), `[{"uid":"a","title":"by hook","likes":null},`+meta+`]`)
	equalList(t, c.events(), []string{`createWithMeta [{"uid":"a","title":"by hook","owner":"secret","likes":null},` + meta + `]`})
}

// What is published is what the method returned, whatever a hook makes the answer.
func TestPublishedResultOfAService(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	svc, err := b.server.Handle("util", server.Methods{"m": func(context.Context, *server.Call) (any, error) { return "raw", nil }})
	if err != nil {
		t.Fatal(err)
	}
	svc.After(func(_ context.Context, c *server.Call) error { c.Result = "polished"; return nil })
	svc.Publish(server.To("all"))
	c := b.dial()
	equal(t, c.result("util", "m"), `"polished"`)
	equalList(t, c.events(), []string{`m "raw"`})
}

func TestFailingHooks(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	fail := func(when, how string) server.Hook {
		return func(_ context.Context, c *server.Call) error {
			var data struct{ Title string }
			if err := c.Arg(1, &data); err != nil {
				return err
			}
			switch data.Title {
			case when + " denied":
				return tidemark.NewError(tidemark.CodeDenied, "not yours")
			case when + " panic":
				panic("secret")
			}
			return nil
		}
	}
	post.Before(fail("before", ""), "createWithMeta")
	post.After(fail("after", ""), "createWithMeta")
	post.Publish(func(ctx context.Context, c *server.Call) ([]string, error) {
		return []string{"all"}, fail("publish", "")(ctx, c)
	})
	c := b.dial()
	for i, e := range []struct {
		title   string
		code    tidemark.Code
		written bool
	}{
		{"before denied", tidemark.CodeDenied, false}, {"before panic", tidemark.CodeInternal, false},
		{"after denied", tidemark.CodeDenied, true}, {"after panic", tidemark.CodeInternal, true},
		{"publish denied", tidemark.CodeDenied, true}, {"publish panic", tidemark.CodeInternal, true},
	} {
		uid := fmt.Sprint("u", i)
		c.refused(e.code, "post", "createWithMeta", uid, map[string]any{"title": e.title}, at(0))
		if got := b.db.Get("post", uid).Row != nil; got != e.written {
			t.Errorf("%s: written is %v", e.title, got)
		}
		// A slot that was never filled would hold up the row's later events.
		c.result("post", "updateWithMeta", uid, map[string]any{"title": "x"}, at(1))
	}
	if n := len(c.events()); n != 6 {
		t.Errorf("%d events, want those of the updates", n)
	}
}

// Fault 4 of the original: what one client reads is not sent to the others.
func TestReadsArePublishedOnlyWhenAskedForByMethod(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	b.db.Put("post", tidemark.Row(`{"uid":"a","title":"x","owner":null,"likes":null,"due":null}`), tidemark.Meta{UID: "a", CreatedAt: 1})
	c := b.dial()
	c.result("post", "findMany", map[string]any{})
	c.result("post", "findUnique", map[string]any{})
	c.sync("post", map[string]any{}, map[string]any{})
	equalList(t, c.events(), nil)
	b.server.Service("post").Publish(server.To("all"), "findUnique")
	c.result("post", "findMany", map[string]any{})
	c.result("post", "createWithMeta", "b", map[string]any{"title": "x"}, at(0))
	c.result("post", "findUnique", map[string]any{"uid": "a"})
	equalList(t, c.events(), []string{`findUnique {"uid":"a","title":"x","owner":null,"likes":null,"due":null}`})
}

func TestServerCodeCalls(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	var caller server.Caller
	post.Before(func(_ context.Context, c *server.Call) error {
		if c.Session != nil {
			t.Error("server code has a session")
		}
		caller = c.Caller
		return nil
	})
	c := b.dial()
	raw, err := post.Call(t.Context(), "createWithMeta", "a", tidemark.Row(`{"title":"x"}`), stamp(0))
	if err != nil || caller != server.CallerServer {
		t.Fatal(err, caller)
	}
	c.event(1)
	equalList(t, c.events(), []string{"createWithMeta " + string(raw)})
	if raw, err = post.Call(t.Context(), "findUnique", tidemark.Where{"title": "none"}); err != nil || string(raw) != "null" {
		t.Errorf("got %s %v", raw, err)
	}
	if _, err = post.Call(t.Context(), "nope"); tidemark.CodeOf(err) != tidemark.CodeMissingMethod {
		t.Errorf("got %v", err)
	}
	if _, err = post.Call(t.Context(), "createWithMeta", "b", nil, stamp(0)); tidemark.CodeOf(err) != tidemark.CodeInvalidData {
		t.Errorf("got %v", err)
	}
	if _, err = post.Call(t.Context(), "findMany", func() {}); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
		t.Errorf("got %v", err)
	}
}

func TestResultsOfMethods(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	if _, err := b.server.Handle("util", server.Methods{
		"nothing": func(context.Context, *server.Call) (any, error) { return nil, nil },
		"null":    func(context.Context, *server.Call) (any, error) { return json.RawMessage("null"), nil },
		"struct":  func(context.Context, *server.Call) (any, error) { return struct{ A int }{1}, nil },
		"broken":  func(context.Context, *server.Call) (any, error) { return json.RawMessage("{"), nil },
		"args": func(_ context.Context, c *server.Call) (any, error) {
			var a, b *string
			var d tidemark.Stamp
			if err := errors.Join(c.Arg(0, &a), c.Arg(1, &b)); err != nil {
				return nil, err
			}
			if err := c.Arg(2, &d); err != nil {
				return nil, err
			}
			return []any{a, b, d}, nil
		},
	}); err != nil {
		t.Fatal(err)
	}
	c := b.dial()
	for _, e := range [][2]string{{"nothing", ""}, {"null", "null"}, {"struct", `{"A":1}`}} {
		equal(t, c.result("util", e[0]), e[1])
	}
	c.refused(tidemark.CodeInternal, "util", "broken")
	equal(t, c.result("util", "args", "x"), `["x",null,null]`)
	c.refused(tidemark.CodeInvalidStamp, "util", "args", nil, nil, "soon")
}

func TestHandleRefusesNames(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	m := server.Methods{"m": func(context.Context, *server.Call) (any, error) { return nil, nil }}
	if _, err := b.server.Handle("util", m); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "sync", "post", "util"} {
		if _, err := b.server.Handle(name, m); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for _, m := range []server.Methods{{"": m["m"]}, {"m": nil}} {
		if _, err := b.server.Handle("x", m); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("got %v", err)
		}
	}
	if _, ok := b.server.Lookup("x"); ok {
		t.Error("a refused service exists")
	}
	for name, wrong := range map[string]func(){
		"service": func() { b.server.Service("nope") },
		"hook":    func() { b.server.Service("post").Before(nil, "nope") },
		"publish": func() { b.server.Service("post").Publish(nil, "nope") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			wrong()
		}()
	}
}

// A hook may write the very row that it was called for, and others; the events
// leave in the order of the commits, all before the answer.
func TestNestedWrites(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	post := b.server.Service("post")
	post.After(func(ctx context.Context, c *server.Call) error {
		if c.Caller == server.CallerServer {
			return nil
		}
		for i, uid := range []string{"a", "b", "a"} {
			if _, err := post.Call(ctx, "updateWithMeta", uid, map[string]any{"title": fmt.Sprint("nested ", i)}, stamp(i+1)); err != nil {
				return err
			}
		}
		// Not with ctx: a call of its own, on the same row.
		_, err := post.Call(context.WithoutCancel(context.Background()), "updateWithMeta", "a", map[string]any{"title": "own"}, stamp(9))
		return err
	})
	c := b.dial()
	c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0))
	var got []string
	for _, e := range c.events() {
		_, tuple, _ := strings.Cut(e, " ")
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(tuple)); err != nil {
			t.Fatal(err)
		}
		got = append(got, rm.Row.UID()+titleOf(rm.Row))
	}
	equalList(t, got, []string{`b"nested 1"`, `a"x"`, `a"nested 0"`, `a"nested 2"`, `a"own"`})
}

// A result that cannot be JSON is the program's mistake: the client hears no word of it, the log does.
func TestAResultThatCannotBeJSON(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	if _, err := b.server.Handle("util", server.Methods{
		"channel": func(context.Context, *server.Call) (any, error) { return make(chan int), nil },
	}); err != nil {
		t.Fatal(err)
	}
	for _, publishes := range []bool{false, true} {
		if publishes {
			b.server.Service("util").Publish(server.To("all"))
		}
		e := b.dial().refused(tidemark.CodeInternal, "util", "channel")
		if strings.Contains(e.Message, "json") {
			t.Errorf("the client hears %q", e.Message)
		}
	}
	if !strings.Contains(b.log.String(), "unsupported type: chan int") {
		t.Errorf("the log has no cause: %s", b.log)
	}
}
