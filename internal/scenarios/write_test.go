package scenarios

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/server"
)

// What a client is answered that writes over what another program has put into
// the tables. In data the label is "mine".
func TestWritesOverWhatIsThere(t *testing.T) {
	t.Parallel()
	const create, update, remove = tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete
	engines(t, func(t *testing.T, w *world) {
		p := w.open().peer(t)
		for _, s := range []struct {
			name   string
			server local
			method string
			stamp  tidemark.Stamp
			label  string // in the answer
			meta   string // in the answer, and in the database
			stored string // the label in the database
		}{
			{"an older update over a stale row under a tombstone removes that" /*21*/, local{label: "stale", created: T0, deleted: T2}, update, T1, "", "T0 - T2", ""},
			{"an older update is answered by the row" /*22*/, local{label: "theirs", created: T0, updated: T2}, update, T1, "theirs", "T0 T2 -", "theirs"},
			{"an update of the same time is refused" /*23*/, local{label: "theirs", created: T0, updated: T1}, update, T1, "theirs", "T0 T1 -", "theirs"},
			{"an older update over metadata whose row is gone" /*24*/, local{created: T2}, update, T1, "", "T2 - T2", ""},
			{"an older deletion is answered by the row" /*25*/, local{label: "theirs", created: T0, updated: T2}, remove, T1, "theirs", "T0 T2 -", "theirs"},
			{"an older deletion over a tombstone" /*26*/, local{created: T0, deleted: T2}, remove, T1, "", "T0 - T2", ""},
			{"an older deletion over a stale row under a tombstone removes that" /*27*/, local{label: "stale", created: T0, deleted: T2}, remove, T1, "", "T0 - T2", ""},
			{"an older deletion over metadata of the future whose row is gone" /*28*/, local{created: future}, remove, T1, "", "future - future", ""},
			{"an older creation is answered by the row" /*31*/, local{label: "theirs", created: T0, updated: T2}, create, T1, "theirs", "T0 T2 -", "theirs"},
			{"an older creation over metadata whose row is gone" /*32*/, local{created: T2}, create, T1, "", "T2 - T2", ""},
			{"an older creation over a tombstone" /*33*/, local{created: T0, deleted: T2}, create, T1, "", "T0 - T2", ""},
			{"an older creation over a stale row under a tombstone removes that" /*34*/, local{label: "stale", created: T0, deleted: T2}, create, T1, "", "T0 - T2", ""},
			{"a creation of the time of the tombstone is refused" /*35*/, local{created: T0, deleted: T1}, create, T1, "", "T0 - T1", ""},
			{"a creation of the time of the row is no error" /*93*/, local{label: "theirs", created: T1}, create, T1, "theirs", "T1 - -", "theirs"},
			{"a newer creation starts afresh", local{label: "theirs", created: T0, updated: T1}, create, T2, "mine", "T2 - -", "mine"},
			{"a newer update keeps the creation", local{label: "theirs", created: T0}, update, T2, "mine", "T0 T2 -", "mine"},
			{"a deletion of the same time wins", local{label: "theirs", created: T0, updated: T1}, remove, T1, "theirs", "T0 T1 T1", ""},
		} {
			t.Run(s.name, func(t *testing.T) {
				w.empty()
				var row *itemRow
				if s.server.label != "" {
					row = &itemRow{UID: "u", Label: s.server.label}
				}
				w.put(row, s.server.meta("u"))
				args := []any{"u", map[string]any{"label": "mine"}, s.stamp}
				if s.method == remove {
					args = []any{"u", s.stamp}
				}
				got := p.tuple(s.method, args...)
				expect.Equal(t, "the answer's row", labelOf(got.Row), s.label)
				expect.Equal(t, "the answer's metadata", days(got.Meta), s.meta)
				stored, meta := w.get("u")
				expect.Equal(t, "the database's row", stored, s.stored)
				expect.Equal(t, "the database's metadata", days(meta), s.meta)
			})
		}
	})
}

// Services are called, their errors come back with their message, and a call that
// nobody waits for harms nothing. 1, 2, 3, and names that are special elsewhere.
func TestServicesOverTheWire(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		ran := make(chan struct{}, 1)
		w.prepare = func(srv *server.Server) {
			methods := server.Methods{
				"hello": func(_ context.Context, c *server.Call) (any, error) {
					var name string
					err := c.Arg(0, &name)
					return "Hello, " + name + "!", err
				},
				"explode": func(context.Context, *server.Call) (any, error) {
					select {
					case ran <- struct{}{}:
					default:
					}
					return nil, fmt.Errorf("something went wrong")
				},
			}
			methods["constructor"], methods["__proto__"] = methods["hello"], methods["hello"]
			for _, name := range []string{"greet", "__proto__", "constructor"} {
				if _, err := srv.Handle(name, methods); err != nil {
					t.Error(err)
				}
			}
			if _, err := srv.Handle("greet", methods); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
				t.Errorf("a second service of one name: %v", err)
			}
		}
		p := w.open().peer(t)
		js := w.jsDevice(t).js
		js.Do("connect")
		for _, service := range []string{"greet", "__proto__", "constructor"} {
			for _, method := range []string{"hello", "constructor", "__proto__"} {
				expect.Equal(t, service+"."+method, string(p.ask(service, method, "World").Result), `"Hello, World!"`)
				expect.Equal(t, service+"."+method+" from JavaScript", js.Call(service, method, "World"), `"Hello, World!"`)
			}
		}
		if e := p.ask("greet", "explode").Err; e == nil || e.Message != "something went wrong" || e.Code != tidemark.CodeUnknown {
			t.Errorf("got %v", e)
		}
		<-ran
		m, err := tidemark.NewEvent(tidemark.EventRequest, map[string]any{"name": "greet", "action": "explode", "args": []any{}})
		if err == nil {
			err = p.conn.Send(m)
		}
		if err != nil {
			t.Fatal(err)
		}
		<-ran
		expect.Equal(t, "a call afterwards", string(p.ask("greet", "hello", "again").Result), `"Hello, again!"`)
	})
}

// A uid belongs to one model, even when two models are written at once; and any
// text is a uid.
func TestAUIDBelongsToOneModel(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		a, b := w.peer(t), w.peer(t)
		for i := range 50 {
			uid := fmt.Sprint("u", i)
			first := a.send("item", tidemark.MethodCreate, uid, map[string]any{"label": "x"}, T1)
			second := b.send("folder", tidemark.MethodCreate, uid, map[string]any{"name": "x"}, T2)
			x, y := a.wait(first).Err, b.wait(second).Err
			if x == nil == (y == nil) {
				t.Fatalf("round %d: both or neither made the row: %v, %v", i, x, y)
			}
			if x == nil {
				x = y
			}
			expect.Equal(t, "the loser's error", x.Code, tidemark.CodeUIDTaken)
		}
		for _, uid := range []string{"__proto__", "constructor", "é 😀", "toString"} {
			got := a.tuple(tidemark.MethodCreate, uid, map[string]any{"label": "x"}, T1)
			expect.Equal(t, "the uid", got.Row.UID(), uid)
			r := a.sync(map[string]any{"uid": uid}, map[string]any{})
			if len(r.AddClient) != 1 || r.AddClient[0].Row.UID() != uid {
				t.Errorf("a sync of %q answers %+v", uid, r)
			}
		}
	})
}
