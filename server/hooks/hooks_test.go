package hooks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/server/hooks"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func stamp(seconds int) tidemark.Stamp {
	return tidemark.StampOf(noon.Add(time.Duration(seconds) * time.Second))
}

// bench is a server with a model of users, and one client of it that keeps all that it is sent.
type bench struct {
	t      *testing.T
	db     *memory.Driver
	server *server.Server
	user   *server.Service
	conn   tidemark.Conn

	mu      sync.Mutex // protects what follows
	sent    []string   // all that came to the client
	answers map[uint64]tidemark.Answer
	changed chan struct{}
	last    uint64
}

func setup(t *testing.T) *bench {
	t.Helper()
	schema, err := tidemark.NewSchema("user", []tidemark.Field{
		{Name: "name", Kind: tidemark.Text, Required: true}, {Name: "password", Kind: tidemark.Text}, {Name: "team", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, db: memory.New(schema), answers: map[uint64]tidemark.Answer{}, changed: make(chan struct{})}
	if b.server, err = server.New(b.db, &server.Options{Now: func() time.Time { return noon }}); err != nil {
		t.Fatal(err)
	}
	b.user = b.server.Service("user")
	b.user.Publish(server.To("all"))
	b.server.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	p := pipe.New(b.server, nil)
	if b.conn, _, err = p.Dial(t.Context(), tidemark.Hello{}, b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.server.Close()
		p.Close()
	})
	return b
}

func (b *bench) Receive(m *tidemark.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range m.Args {
		b.sent = append(b.sent, m.Event+string(a))
	}
	if m.Kind == tidemark.AnswerMessage {
		var a tidemark.Answer
		_ = a.UnmarshalJSON(m.Args[0])
		b.answers[m.ID] = a
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *bench) Closed(tidemark.CloseReason) {}

// ask calls a method as a client.
func (b *bench) ask(service, method string, args ...any) (string, error) {
	b.t.Helper()
	if args == nil {
		args = []any{}
	}
	m, err := tidemark.NewEvent(tidemark.EventRequest, map[string]any{"name": service, "action": method, "args": args})
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.last++
	id := b.last
	b.mu.Unlock()
	if err := b.conn.Send(m.NewCall(id)); err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.After(time.Minute); ; {
		b.mu.Lock()
		a, ok := b.answers[id]
		changed := b.changed
		b.mu.Unlock()
		if ok {
			if a.Err != nil {
				return "", a.Err
			}
			return string(a.Result), nil
		}
		select {
		case <-changed:
		case <-deadline:
			b.t.Fatal("no answer")
		}
	}
}

// must is ask for a call that must succeed.
func (b *bench) must(service, method string, args ...any) string {
	b.t.Helper()
	got, err := b.ask(service, method, args...)
	if err != nil {
		b.t.Fatalf("%s.%s: %v", service, method, err)
	}
	return got
}

// leaked returns what the client was sent that has the text.
func (b *bench) leaked(text string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, s := range b.sent {
		if strings.Contains(s, text) {
			out = append(out, s)
		}
	}
	return out
}

const secret = "canary-7d1f"

// A protected field does not leave the server by any way that a client can think of.
func TestProtectedFieldsNeverLeave(t *testing.T) {
	t.Parallel()
	for name, attach := range map[string]func(svc *server.Service, h server.Hook){
		"after":            func(svc *server.Service, h server.Hook) { svc.After(h) },
		"before and after": func(svc *server.Service, h server.Hook) { svc.Before(h); svc.After(h) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			attach(b.user, hooks.Protect("password"))
			b.user.Publish(server.To("all"), "findUnique", "findMany", "createWithMeta", "updateWithMeta", "deleteWithMeta") // reads too
			data := func(more ...string) map[string]any {
				d := map[string]any{"name": "x", "team": "red", "password": secret}
				for _, m := range more {
					d["name"] = m
				}
				return d
			}
			// Writes that win, lose, and are refused because the row lives.
			b.must("user", "createWithMeta", "a", data(), stamp(0))
			b.must("user", "createWithMeta", "a", data("late"), stamp(-5))
			b.must("user", "updateWithMeta", "a", map[string]any{"team": "blue"}, stamp(1))
			b.must("user", "updateWithMeta", "a", map[string]any{"team": "blue"}, stamp(-5))
			b.must("user", "deleteWithMeta", "a", stamp(-5))
			b.must("user", "createWithMeta", "gone", data(), stamp(0))
			b.must("user", "deleteWithMeta", "gone", stamp(1))
			if _, err := b.server.Service("user").Call(t.Context(), "createWithMeta", "b", data(), stamp(0)); err != nil {
				t.Fatal(err)
			}
			err := b.db.RunInTx(t.Context(), func(ctx context.Context) error {
				_, err := b.user.Call(ctx, "createWithMeta", "c", data(), stamp(0))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			// Reads, and each list of a sync: rows that it adds, updates, and tells of outside the where.
			b.must("user", "findMany", map[string]any{})
			b.must("user", "findUnique", map[string]any{"uid": "a"})
			b.db.Put("user", tidemark.Row(`{"uid":"bare","name":"x","password":"`+secret+`","team":"red"}`), tidemark.Meta{})
			entry := func(uid string, s int) map[string]any {
				return map[string]any{"uid": uid, "created_at": stamp(s)}
			}
			old := map[string]any{"a": entry("a", -9), "b": entry("b", -9)}
			b.must("sync", "go", "user", map[string]any{}, map[string]any{})
			b.must("sync", "go", "user", map[string]any{}, old)
			b.must("sync", "go", "user", map[string]any{"team": "green"}, old)
			b.must("sync", "go", "user", map[string]any{}, map[string]any{"a": map[string]any{"uid": "a", "created_at": stamp(-9), "deleted_at": stamp(-8)}})
			b.must("sync", "go", "user", map[string]any{}, map[string]any{"b": map[string]any{"uid": "b", "created_at": stamp(-9), "deleted_at": stamp(8)}})
			if leaked := b.leaked(secret); len(leaked) > 0 {
				t.Errorf("left the server:\n%s", strings.Join(leaked, "\n"))
			}
			if got := len(b.leaked("service-event")); got < 12 {
				t.Errorf("%d events: the test has not seen what is published", got)
			}
			if got := b.db.Get("user", "a").Row.Get("password"); string(got) != `"`+secret+`"` {
				t.Errorf("in the database it is %s", got)
			}
		})
	}
}

// Whether a where selects a row tells what it asks about: with a right guess, a wrong
// one, or a range, the answer is the same.
func TestProtectedFieldsCannotBeGuessed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.user.After(hooks.Protect("password"))
	b.must("user", "createWithMeta", "a", map[string]any{"name": "x", "password": secret}, stamp(0))
	for _, where := range []map[string]any{
		{"password": secret}, {"password": "wrong"}, {"password": nil}, {"password": map[string]any{"gte": "c"}}, {"password": map[string]any{"gte": "d"}, "name": "x"},
		{"password": map[string]any{"in": []string{secret, "wrong"}}}, {"$or": []tidemark.Where{{"name": "y"}, {"name": "x", "password": secret}}},
	} {
		_, err1 := b.ask("user", "findMany", where)
		_, err2 := b.ask("user", "findUnique", where)
		_, err3 := b.ask("sync", "go", "user", where, map[string]any{})
		for i, err := range []error{err1, err2, err3} {
			if tidemark.CodeOf(err) != tidemark.CodeUnknownField {
				t.Errorf("%d %v: got %v", i, where, err)
			}
		}
	}
	if got, err := b.user.Call(t.Context(), "findMany", tidemark.Where{"password": secret}); err != nil || string(got) != `[{"uid":"a","name":"x","team":null}]` {
		t.Errorf("server code: got %s, %v", got, err)
	}
}

// Results of services that are no model's: whatever is an object, or a list of them, in JSON.
func TestProtectAndAddTimestampOnPlainResults(t *testing.T) {
	t.Parallel()
	type account struct {
		Name     string `json:"name"`
		Password string `json:"password,omitempty"`
	}
	now := stamp(0).String()
	for name, c := range map[string]struct {
		result             any
		protected, stamped string
	}{
		"nothing": {nil, "", ""},
		"null":    {json.RawMessage("null"), "null", "null"},
		"text":    {secret[:3], `"can"`, `"can"`},
		"number":  {7, "7", "7"},
		"struct":  {account{"x", secret}, `{"name":"x"}`, `{"name":"x","at":"` + now + `"}`},
		"pointer": {&account{"x", secret}, `{"name":"x"}`, `{"name":"x","at":"` + now + `"}`},
		"map":     {map[string]any{"a": 1, "password": secret}, `{"a":1}`, `{"a":1,"at":"` + now + `"}`},
		"list":    {[]any{account{"x", secret}, nil, 7, map[string]any{"password": 1}}, `[{"name":"x"},null,7,{}]`, `[{"name":"x","at":"` + now + `"},null,7,{"at":"` + now + `"}]`},
		"raw":     {json.RawMessage(` [ {"pass\u0077ord" : "` + secret + `", "at" : 1} ] `), `[{"at":1}]`, `[{"at":"` + now + `"}]`},
		"row":     {tidemark.Row(`{"uid":"a","password":"` + secret + `"}`), `{"uid":"a"}`, `{"uid":"a","at":"` + now + `"}`},
		"no row":  {tidemark.Row(nil), "null", "null"},
		"rows":    {[]tidemark.Row{[]byte(`{"password":1}`), nil}, `[{},null]`, `[{"at":"` + now + `"},null]`},
		"tuple":   {&tidemark.RowMeta{Row: tidemark.Row(`{"uid":"a","password":1}`), Meta: tidemark.Meta{UID: "a"}}, `[{"uid":"a"},{"uid":"a","created_at":null,"updated_at":null,"deleted_at":null}]`, `[{"uid":"a","at":"` + now + `"},{"uid":"a","created_at":null,"updated_at":null,"deleted_at":null}]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			svc, err := b.server.Handle("util", server.Methods{"m": func(context.Context, *server.Call) (any, error) { return c.result, nil }})
			if err != nil {
				t.Fatal(err)
			}
			svc.Publish(server.To("all"))
			svc.After(hooks.Protect("password", "pin"))
			got := b.must("util", "m")
			if got != c.protected {
				t.Errorf("protected: got %s, want %s", got, c.protected)
			}
			if leaked := b.leaked("password"); len(leaked) > 0 {
				t.Errorf("left the server: %s", leaked)
			}
			svc.After(hooks.AddTimestamp("at"))
			if got = b.must("util", "m"); got != c.stamped {
				t.Errorf("stamped: got %s, want %s", got, c.stamped)
			}
			want := fmt.Sprintf(`service-event{"name":"util","action":"m","result":%s}`, c.stamped)
			if got := b.leaked(want); c.stamped != "" && len(got) == 0 {
				t.Errorf("published: %s, want %s", b.leaked("service-event"), want)
			}
		})
	}
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.user.Before(hooks.HashPassword("password", &hooks.PasswordOptions{Cost: bcrypt.MinCost}), "createWithMeta", "updateWithMeta")
	stored := func() string {
		var s string
		_ = json.Unmarshal(b.db.Get("user", "a").Row.Get("password"), &s)
		return s
	}
	b.must("user", "createWithMeta", "a", map[string]any{"name": "x", "password": "päss\"word"}, stamp(0))
	if err := bcrypt.CompareHashAndPassword([]byte(stored()), []byte("päss\"word")); err != nil {
		t.Errorf("%q: %v", stored(), err)
	}
	was := stored()
	b.must("user", "updateWithMeta", "a", map[string]any{"team": "red"}, stamp(1))
	if stored() != was {
		t.Error("an update of another column changed the password")
	}
	b.must("user", "updateWithMeta", "a", map[string]any{"password": "other"}, stamp(2))
	if err := bcrypt.CompareHashAndPassword([]byte(stored()), []byte("other")); err != nil {
		t.Errorf("%q: %v", stored(), err)
	}
	b.must("user", "updateWithMeta", "a", map[string]any{"password": nil}, stamp(3))
	if stored() != "" {
		t.Errorf("null became %q", stored())
	}
	for _, bad := range []any{7, true, map[string]any{}, strings.Repeat("x", 73), strings.Repeat("é", 37)} {
		_, err := b.ask("user", "updateWithMeta", "a", map[string]any{"password": bad}, stamp(4))
		e, ok := err.(*tidemark.Error)
		if !ok || e.Code != tidemark.CodeInvalidData || e.Field != "password" {
			t.Errorf("%v: got %v", bad, err)
		}
	}
	if leaked := b.leaked("other"); len(leaked) > 0 {
		t.Errorf("the password came back: %s", leaked)
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic for a cost that bcrypt has not")
		}
	}()
	hooks.HashPassword("password", &hooks.PasswordOptions{Cost: 99})
}

// The timestamp is told and published with a write, and not stored.
func TestAddTimestampToWrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.user.After(hooks.AddTimestamp("seen_at"), "createWithMeta")
	got := b.must("user", "createWithMeta", "a", map[string]any{"name": "x"}, stamp(-5))
	if !strings.HasPrefix(got, `[{"uid":"a","name":"x","password":null,"team":null,"seen_at":"2026-01-01T12:00:00`) {
		t.Errorf("got %s", got)
	}
	if events := b.leaked(`service-event{"name":"user","action":"createWithMeta","result":` + got + "}"); len(events) != 1 {
		t.Errorf("published: %s", b.leaked("service-event"))
	}
	if b.db.Get("user", "a").Row.Get("seen_at") != nil {
		t.Error("it is in the database")
	}
}
