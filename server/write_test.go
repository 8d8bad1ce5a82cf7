package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

func TestCreateThenSync(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	c := b.dial()
	want := `[{"uid":"a","title":"x","owner":null,"likes":null,"due":null},{"uid":"a","created_at":"` + at(-9) + `","updated_at":null,"deleted_at":null}]`
	equal(t, c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(-9)), want)
	equalList(t, c.events(), []string{"createWithMeta " + want})
	equal(t, c.result("sync", "go", "post", map[string]any{}, map[string]any{}),
		`{"addClient":[`+want+`],"updateClient":[],"deleteClient":[],"addDatabase":[],"updateDatabase":[]}`)
}

// metaText is metadata in short: its three stamps in seconds, - for none.
func metaText(m tidemark.Meta) string {
	short := func(s tidemark.Stamp) string {
		if s == 0 {
			return "-"
		}
		return fmt.Sprint(s.Time().Sub(noon).Seconds())
	}
	return short(m.CreatedAt) + " " + short(m.UpdatedAt) + " " + short(m.DeletedAt)
}

func titleOf(row tidemark.Row) string {
	if row == nil {
		return "-"
	}
	return string(row.Get("title"))
}

// The three tables of the guide's writes, as a client sees them.
func TestWriteTables(t *testing.T) {
	t.Parallel()
	none := tidemark.Meta{}
	live := tidemark.Meta{UID: "a", CreatedAt: stamp(-50), UpdatedAt: stamp(-40)}
	dead := tidemark.Meta{UID: "a", CreatedAt: stamp(-50), UpdatedAt: stamp(-40), DeletedAt: stamp(-30)}
	const nul = 1000 // no stamp
	for _, c := range []struct {
		method string
		meta   tidemark.Meta
		row    bool
		ts     int
		want   string // row, meta of the answer
		stored string // row, meta in the database
		event  string // action and row of the event
	}{
		{"createWithMeta", none, false, -20, `"new" -20 - -`, `"new" -20 - -`, `createWithMeta "new"`},
		{"createWithMeta", none, true, -20, `"new" -20 - -`, `"new" -20 - -`, `createWithMeta "new"`},
		{"createWithMeta", live, true, -20, `"new" -20 - -`, `"new" -20 - -`, `createWithMeta "new"`},
		{"createWithMeta", live, true, -40, `"old" -50 -40 -`, `"old" -50 -40 -`, `createWithMeta "old"`},
		{"createWithMeta", live, true, -45, `"old" -50 -40 -`, `"old" -50 -40 -`, `createWithMeta "old"`},
		{"createWithMeta", live, false, -45, `- -50 -40 -40`, `- -50 -40 -40`, `createWithMeta -`},
		{"createWithMeta", dead, false, -20, `"new" -20 - -`, `"new" -20 - -`, `createWithMeta "new"`},
		{"createWithMeta", dead, false, -30, `- -50 -40 -30`, `- -50 -40 -30`, `createWithMeta -`},
		{"createWithMeta", dead, true, -35, `- -50 -40 -30`, `- -50 -40 -30`, `createWithMeta -`},

		{"updateWithMeta", none, false, -20, `"new" - -20 -`, `"new" - -20 -`, `updateWithMeta "new"`},
		{"updateWithMeta", none, true, -20, `"new" - -20 -`, `"new" - -20 -`, `updateWithMeta "new"`},
		{"updateWithMeta", live, true, -20, `"new" -50 -20 -`, `"new" -50 -20 -`, `updateWithMeta "new"`},
		{"updateWithMeta", live, true, -40, `"old" -50 -40 -`, `"old" -50 -40 -`, `updateWithMeta "old"`},
		{"updateWithMeta", live, true, nul, `"old" -50 -40 -`, `"old" -50 -40 -`, `updateWithMeta "old"`},
		{"updateWithMeta", live, false, nul, `- -50 -40 -40`, `- -50 -40 -40`, `updateWithMeta -`},
		{"updateWithMeta", dead, false, -20, `"new" -50 -20 -`, `"new" -50 -20 -`, `updateWithMeta "new"`},
		{"updateWithMeta", dead, true, -30, `- -50 -40 -30`, `- -50 -40 -30`, `updateWithMeta -`},

		{"deleteWithMeta", none, true, -20, `"old" - - -20`, `- - - -20`, `deleteWithMeta "old"`},
		{"deleteWithMeta", none, false, -20, `- - - -20`, `- - - -20`, `deleteWithMeta `},
		{"deleteWithMeta", live, true, -40, `"old" -50 -40 -40`, `- -50 -40 -40`, `deleteWithMeta "old"`},
		{"deleteWithMeta", live, true, -45, `"old" -50 -40 -`, `"old" -50 -40 -`, `updateWithMeta "old"`},
		{"deleteWithMeta", live, false, -45, `- -50 -40 -40`, `- -50 -40 -40`, `deleteWithMeta `},
		{"deleteWithMeta", dead, false, -20, `- -50 -40 -20`, `- -50 -40 -20`, `deleteWithMeta `},
		{"deleteWithMeta", dead, true, -30, `"old" -50 -40 -30`, `- -50 -40 -30`, `deleteWithMeta "old"`},
		{"deleteWithMeta", dead, true, -35, `- -50 -40 -30`, `- -50 -40 -30`, `deleteWithMeta `},
	} {
		t.Run(fmt.Sprintf("%s %s row %v at %d", c.method, metaText(c.meta), c.row, c.ts), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil).shared()
			if c.row {
				b.db.Put("post", tidemark.Row(`{"uid":"a","title":"old","owner":null,"likes":1,"due":null}`), c.meta)
			} else if !c.meta.IsZero() {
				b.db.Put("post", nil, c.meta)
			}
			args := []any{"a", map[string]any{"title": "new"}, at(c.ts)}
			if c.ts == nul {
				args[2] = nil
			}
			if c.method == "deleteWithMeta" {
				args = []any{"a", args[2]}
			}
			cl := b.dial()
			var got tidemark.RowMeta
			if err := got.UnmarshalJSON([]byte(cl.result("post", c.method, args...))); err != nil {
				t.Fatal(err)
			}
			equal(t, titleOf(got.Row)+" "+metaText(got.Meta), c.want)
			stored := b.db.Get("post", "a")
			equal(t, titleOf(stored.Row)+" "+metaText(stored.Meta), c.stored)
			events := cl.events()
			if len(events) != 1 {
				t.Fatalf("events %q", events)
			}
			action, tuple, _ := strings.Cut(events[0], " ")
			var told tidemark.RowMeta
			if err := told.UnmarshalJSON([]byte(tuple)); err != nil {
				t.Fatal(err)
			}
			equal(t, action+" "+titleOf(told.Row), c.event)
			equal(t, metaText(told.Meta), metaText(got.Meta))
			if action == "deleteWithMeta" && told.Row.UID() != "a" {
				t.Errorf("a deletion is told without the row's uid: %s", tuple)
			}
		})
	}
}

// Faults 10 and 11 of the original: columns that are not given stay, dates can be written.
func TestUpdateWritesTheGivenColumns(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c := b.dial()
	c.result("post", "createWithMeta", "a", map[string]any{"title": "x", "likes": 7}, at(-9))
	var got tidemark.RowMeta
	for i, step := range []struct{ data, want string }{
		{`{"owner":"o","due":"2026-02-03T04:05:06+01:00"}`, `{"uid":"a","title":"x","owner":"o","likes":7,"due":"2026-02-03T03:05:06.000Z"}`},
		{`{"owner":null}`, `{"uid":"a","title":"x","owner":null,"likes":7,"due":"2026-02-03T03:05:06.000Z"}`},
		{`{}`, `{"uid":"a","title":"x","owner":null,"likes":7,"due":"2026-02-03T03:05:06.000Z"}`},
		{`{"uid":"a","__deleted__":null,"local":5}`, `{"uid":"a","title":"x","owner":null,"likes":7,"due":"2026-02-03T03:05:06.000Z"}`},
	} {
		if err := got.UnmarshalJSON([]byte(c.result("post", "updateWithMeta", "a", tidemark.Row(step.data), at(i-8)))); err != nil {
			t.Fatal(err)
		}
		equal(t, string(got.Row), step.want)
		if got.Meta.UpdatedAt != stamp(i-8) {
			t.Errorf("after %s the row is of %s", step.data, got.Meta.UpdatedAt)
		}
	}
	if n := strings.Count(b.log.String(), "field ignored"); n != 1 {
		t.Errorf("the unknown field was logged %d times", n)
	}
}

// Each code that the server answers, with nothing written.
func TestErrorCodes(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	b := setupOver(t, db, &faulty{Driver: db}, &server.Options{RefuseUnknownFields: true})
	post, err := b.server.Handle("util", server.Methods{
		"plain":   func(context.Context, *server.Call) (any, error) { return nil, errors.New("as it is") },
		"coded":   func(context.Context, *server.Call) (any, error) { return nil, tidemark.NewError("my-code", "mine") },
		"empty":   func(context.Context, *server.Call) (any, error) { return nil, tidemark.NewError("", "no code") },
		"panics":  func(context.Context, *server.Call) (any, error) { panic("secret 42") },
		"badjson": func(context.Context, *server.Call) (any, error) { return func() {}, nil },
		"broken":  func(context.Context, *server.Call) (any, error) { return []byte(nil), sqlError{} },
		"number": func(_ context.Context, c *server.Call) (any, error) {
			var n int
			err := c.Arg(0, &n)
			return n, err
		},
	})
	if err != nil || post.Name() != "util" {
		t.Fatal(err)
	}
	db.Put("tag", nil, tidemark.Meta{UID: "taken", CreatedAt: 1})
	c := b.dial()
	data := map[string]any{"title": "x"}
	for _, e := range []struct {
		code         tidemark.Code
		name, action string
		args         []any
	}{
		{tidemark.CodeMissingService, "nope", "x", nil},
		{tidemark.CodeMissingService, "__proto__", "x", nil},
		{tidemark.CodeMissingMethod, "post", "nope", nil},
		{tidemark.CodeMissingMethod, "post", "constructor", nil},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", nil, map[string]any{}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, nil}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, []any{}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{7, map[string]any{}, map[string]any{}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, map[string]any{"a": map[string]any{"uid": "b", "created_at": at(0)}}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, map[string]any{"a": map[string]any{"uid": "a", "created_at": "x"}}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, map[string]any{"a": map[string]any{"uid": "a"}}}},
		{tidemark.CodeInvalidRequest, "sync", "go", []any{"post", map[string]any{}, map[string]any{"a": 1}}},
		{tidemark.CodeInvalidRequest, "util", "number", []any{"x"}},
		{tidemark.CodeUnknownModel, "sync", "go", []any{"nope", map[string]any{}, map[string]any{}}},
		{tidemark.CodeUnknownModel, "sync", "go", []any{"util", map[string]any{}, map[string]any{}}},
		{tidemark.CodeUnknownField, "post", "findMany", []any{map[string]any{"nope": 1}}},
		{tidemark.CodeUnknownField, "sync", "go", []any{"post", map[string]any{"nope": 1}, map[string]any{}}},
		{tidemark.CodeUnknownField, "post", "createWithMeta", []any{"a", map[string]any{"title": "x", "nope": 1}, at(0)}},
		{tidemark.CodeInvalidWhere, "post", "findMany", []any{nil}},
		{tidemark.CodeInvalidWhere, "post", "findUnique", []any{}},
		{tidemark.CodeInvalidWhere, "post", "findMany", []any{map[string]any{"likes": "1"}}},
		{tidemark.CodeInvalidWhere, "sync", "go", []any{"post", "x", map[string]any{}}},
		{tidemark.CodeInvalidWhere, "sync", "go", []any{"post", map[string]any{"title": map[string]any{"$ne": 1}}, map[string]any{}}},
		{tidemark.CodeInvalidData, "post", "createWithMeta", []any{7, data, at(0)}},
		{tidemark.CodeInvalidData, "post", "createWithMeta", []any{"", data, at(0)}},
		{tidemark.CodeInvalidData, "post", "createWithMeta", []any{"a", nil, at(0)}},
		{tidemark.CodeInvalidData, "post", "createWithMeta", []any{"a", map[string]any{"title": 1}, at(0)}},
		{tidemark.CodeInvalidData, "post", "createWithMeta", []any{"a", map[string]any{"title": "x", "uid": "b"}, at(0)}},
		{tidemark.CodeInvalidData, "post", "updateWithMeta", []any{"a", map[string]any{"__deleted__": true}, at(0)}},
		{tidemark.CodeInvalidStamp, "post", "createWithMeta", []any{"a", data, "soon"}},
		{tidemark.CodeInvalidStamp, "post", "createWithMeta", []any{"a", data}},
		{tidemark.CodeInvalidStamp, "post", "updateWithMeta", []any{"a", data, nil}},
		{tidemark.CodeInvalidStamp, "post", "deleteWithMeta", []any{"a"}},
		{tidemark.CodeUIDTaken, "post", "createWithMeta", []any{"taken", data, at(0)}},
		{tidemark.CodeUIDTaken, "post", "deleteWithMeta", []any{"taken", at(0)}},
		{tidemark.CodeConstraint, "post", "createWithMeta", []any{"a", map[string]any{}, at(0)}},
		{tidemark.CodeConstraint, "post", "createWithMeta", []any{"a", map[string]any{"title": nil}, at(0)}},
		{tidemark.CodeInternal, "post", "createWithMeta", []any{"sql", data, at(0)}},
		{tidemark.CodeInternal, "post", "createWithMeta", []any{"panic", data, at(0)}},
		{tidemark.CodeInternal, "post", "createWithMeta", []any{"short", data, at(0)}},
		{tidemark.CodeUnavailable, "post", "createWithMeta", []any{"down", data, at(0)}},
		{tidemark.CodeUnavailable, "post", "createWithMeta", []any{"closed", data, at(0)}},
		{tidemark.CodeInternal, "util", "panics", nil},
		{tidemark.CodeInternal, "util", "broken", nil},
		{tidemark.CodeInternal, "util", "badjson", nil},
		{tidemark.CodeUnknown, "util", "empty", nil},
		{tidemark.CodeUnknown, "util", "plain", nil},
		{"my-code", "util", "coded", nil},
	} {
		got := c.refused(e.code, e.name, e.action, e.args...)
		for _, secret := range []string{"SELECT", "secret", "goroutine", ".go:"} {
			if strings.Contains(got.Message, secret) {
				t.Errorf("%s.%s tells %q", e.name, e.action, got.Message)
			}
		}
		if rm := db.Get("post", "a"); rm.Row != nil || !rm.Meta.IsZero() {
			t.Fatalf("%s.%s %v wrote %+v", e.name, e.action, e.args, rm)
		}
	}
	equal(t, c.refused(tidemark.CodeMissingService, "nope", "x").Message, "there is no service named 'nope'")
	equal(t, c.refused(tidemark.CodeMissingMethod, "post", "nope").Message, "there is no method named 'nope' for service 'post'")
	if e := c.refused(tidemark.CodeConstraint, "post", "createWithMeta", "a", map[string]any{}, at(0)); e.Field != "title" || e.Kind != tidemark.ConstraintRequired {
		t.Errorf("got %+v", e)
	}
	if !strings.Contains(b.log.String(), "secret 42") {
		t.Error("the panic is not in the log")
	}
	c.result("post", "createWithMeta", "a", data, at(0))
}

// faulty fails by the uid that it is to write.
type faulty struct{ tidemark.Driver }

type sqlError struct{}

func (sqlError) Error() string    { return "SELECT secret" }
func (sqlError) SQLState() string { return "42P01" }

func (f *faulty) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	for _, m := range ms {
		switch m.UID {
		case "sql":
			return nil, fmt.Errorf("exec: %w", sqlError{})
		case "plain":
			return nil, errors.New("SELECT secret")
		case "panic":
			panic("SELECT secret")
		case "short":
			return nil, nil
		case "down":
			return nil, tidemark.Wrap(errors.New("SELECT secret"), tidemark.CodeUnavailable, "the database is not available")
		case "closed":
			return nil, tidemark.ErrClosed
		}
	}
	return f.Driver.Write(ctx, ms)
}

// One write that breaks the database's transaction does not take those along that wait with it.
func TestBatchWithOnePoisonedWrite(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	b := setupOver(t, db, &faulty{Driver: db}, nil)
	gate := make(chan struct{})
	b.server.OnConnect(func(context.Context, *server.Session) error { <-gate; return nil })
	c := b.dialWith(tidemark.Hello{})
	var ids []uint64
	for _, uid := range []string{"a", "plain", "b"} {
		ids = append(ids, c.send("post", "createWithMeta", uid, map[string]any{"title": uid}, at(0)))
	}
	close(gate)
	for i, want := range []tidemark.Code{"", tidemark.CodeInternal, ""} {
		var got tidemark.Code
		if a := c.answer(ids[i]); a.Err != nil {
			got = a.Err.Code
		}
		if got != want {
			t.Errorf("write %d: got %q, want %q", i, got, want)
		}
	}
}

// Departure 6: a device whose clock is ten minutes ahead works as any other, and wins no later conflict.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c := b.dial()
	write := func(method string, args ...any) tidemark.RowMeta {
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(c.result("post", method, args...))); err != nil {
			t.Fatal(err)
		}
		return rm
	}
	created := write("createWithMeta", "a", map[string]any{"title": "1"}, at(600)).Meta
	updated := write("updateWithMeta", "a", map[string]any{"title": "2"}, at(601))
	if !(created.CreatedAt < updated.Meta.UpdatedAt) || updated.Meta.UpdatedAt > stamp(60) {
		t.Errorf("created %s, updated %s: not clamped in order", created.CreatedAt, updated.Meta.UpdatedAt)
	}
	equal(t, titleOf(updated.Row), `"2"`)
	honest := write("updateWithMeta", "a", map[string]any{"title": "3"}, at(1))
	equal(t, titleOf(honest.Row), `"3"`)
	if gone := write("deleteWithMeta", "a", at(602)); !gone.Meta.Deleted() || gone.Meta.DeletedAt > stamp(60) {
		t.Errorf("got %+v", gone.Meta)
	}
	// Just within the bound, then just beyond: the order of one client is kept.
	write("createWithMeta", "b", map[string]any{"title": "1"}, at(59))
	equal(t, titleOf(write("updateWithMeta", "b", map[string]any{"title": "2"}, at(61)).Row), `"2"`)
}

func TestIntegersAsText(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{IntegersAsText: true}).shared()
	c := b.dial()
	big, exact := `"9007199254740993"`, "9007199254740992"
	for _, e := range []struct{ in, out string }{{big, big}, {"9007199254740993", big}, {exact, exact}, {`"-9007199254740993"`, `"-9007199254740993"`}, {"5", "5"}} {
		got := c.result("post", "updateWithMeta", "a", tidemark.Row(`{"title":"x","likes":`+e.in+`}`), b.server.Now())
		if !strings.Contains(got, `"likes":`+e.out+`,`) {
			t.Errorf("%s came back in %s", e.in, got)
		}
		if row := c.result("post", "findUnique", tidemark.Row(`{"likes":`+e.out+`}`)); !strings.Contains(row, `"likes":`+e.out+`,`) {
			t.Errorf("findUnique by %s: %s", e.out, row)
		}
		if row := c.result("post", "findMany", tidemark.Row(`{"likes":{"gte":`+e.out+`}}`)); !strings.Contains(row, `"likes":`+e.out+`,`) {
			t.Errorf("findMany from %s: %s", e.out, row)
		}
		if r := c.sync("post", map[string]any{}, map[string]any{}); string(r.AddClient[0].Row.Get("likes")) != e.out {
			t.Errorf("sync.go: %s", r.AddClient[0].Row)
		}
		if row := b.db.Get("post", "a").Row; string(row.Get("likes")) != strings.Trim(e.out, `"`) {
			t.Errorf("stored %s", row)
		}
		if raw, err := b.server.Service("post").Call(t.Context(), "findUnique", tidemark.Where{}); err != nil || strings.Contains(string(raw), `:"9`) {
			t.Errorf("server code got %s %v", raw, err)
		}
	}
	for _, e := range c.events() {
		if strings.Contains(e, `:9007199254740993`) {
			t.Errorf("event %s", e)
		}
	}
	c.refused(tidemark.CodeInvalidData, "post", "updateWithMeta", "a", tidemark.Row(`{"likes":"5"}`), at(9))
}

func TestCallTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, &server.Options{CallTimeout: time.Second})
		if _, err := b.server.Handle("util", server.Methods{"hang": func(ctx context.Context, _ *server.Call) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}); err != nil {
			t.Fatal(err)
		}
		c := b.dial()
		c.refused(tidemark.CodeTimeout, "util", "hang")
	})
}

func TestLimitOfOutstandingCalls(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{MaxOutstanding: 3})
	gate := make(chan struct{})
	if _, err := b.server.Handle("util", server.Methods{"wait": func(context.Context, *server.Call) (any, error) { <-gate; return 1, nil }}); err != nil {
		t.Fatal(err)
	}
	c, other := b.dial(), b.dial()
	var ids []uint64
	for range 3 {
		ids = append(ids, c.send("util", "wait"))
	}
	c.refused(tidemark.CodeLimit, "post", "findMany", map[string]any{})
	other.result("post", "findMany", map[string]any{})
	close(gate)
	for _, id := range ids {
		equal(t, string(c.answer(id).Result), "1")
	}
	equal(t, c.result("post", "findMany", map[string]any{}), "[]")
}

// What a session has sent and what waits is bounded in bytes too; a large call is taken when no other waits.
func TestLimitOfOutstandingBytes(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{MaxOutstandingBytes: 1000})
	gate := make(chan struct{})
	if _, err := b.server.Handle("util", server.Methods{"wait": func(ctx context.Context, _ *server.Call) (any, error) {
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return 1, nil
	}}); err != nil {
		t.Fatal(err)
	}
	c, other := b.dial(), b.dial()
	large := strings.Repeat("x", 600)
	ids := []uint64{c.send("util", "wait", large), c.send("util", "wait")}
	c.refused(tidemark.CodeLimit, "post", "findMany", map[string]any{"title": large})
	c.result("post", "findMany", map[string]any{})
	other.result("post", "findMany", map[string]any{"title": large + large})
	close(gate)
	for _, id := range ids {
		equal(t, string(c.answer(id).Result), "1")
	}
	equal(t, c.result("post", "findMany", map[string]any{"title": large + large}), "[]")
}
