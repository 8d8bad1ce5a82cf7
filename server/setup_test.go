package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The time of the tests' server, and stamps about it.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// at is noon and so many seconds, as a client sends it.
func at(seconds int) string {
	return tidemark.StampOf(noon.Add(time.Duration(seconds) * time.Second)).String()
}

func stamp(seconds int) tidemark.Stamp {
	return tidemark.StampOf(noon.Add(time.Duration(seconds) * time.Second))
}

// bench is a server over two models, with everything that a test needs about it.
type bench struct {
	t      *testing.T
	db     *memory.Driver
	server *server.Server
	pipe   *pipe.Pipe
	log    *logText
}

// logText keeps what the server logs.
type logText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func schemas(t testing.TB) []*tidemark.Schema {
	t.Helper()
	post, err := tidemark.NewSchema("post", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text, Required: true},
		{Name: "owner", Kind: tidemark.Text},
		{Name: "likes", Kind: tidemark.Integer},
		{Name: "due", Kind: tidemark.Timestamp},
	})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := tidemark.NewSchema("tag", []tidemark.Field{{Name: "name", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	return []*tidemark.Schema{post, tag}
}

func setup(t *testing.T, opts *server.Options) *bench {
	t.Helper()
	db := memory.New(schemas(t)...)
	return setupOver(t, db, db, opts)
}

// setupOver makes the bench over a driver that wraps db.
func setupOver(t *testing.T, db *memory.Driver, driver tidemark.Driver, opts *server.Options) *bench {
	t.Helper()
	b := &bench{t: t, db: db, log: &logText{}}
	var o server.Options
	if opts != nil {
		o = *opts
	}
	if o.Now == nil {
		o.Now = func() time.Time { return noon }
	}
	o.Logger = textLogger(b.log)
	var err error
	if b.server, err = server.New(driver, &o); err != nil {
		t.Fatal(err)
	}
	b.pipe = pipe.New(b.server, nil)
	t.Cleanup(func() {
		b.server.Close()
		b.pipe.Close()
	})
	return b
}

// shared makes every session join "all", and the models publish there.
func (b *bench) shared() *bench {
	b.server.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	b.server.Service("post").Publish(server.To("all"))
	b.server.Service("tag").Publish(server.To("all"))
	return b
}

// client is a raw client of the guide's protocol: it sees messages, in their order.
type client struct {
	t    *testing.T
	conn tidemark.Conn
	id   string
	pid  string // the private id

	mu      sync.Mutex
	got     []*tidemark.Message
	changed chan struct{}
	closed  tidemark.CloseReason
	next    uint64
}

func (b *bench) dial() *client {
	b.t.Helper()
	c := b.dialWith(tidemark.Hello{})
	if e := c.event(0); e.Event != tidemark.EventConnected {
		b.t.Fatalf("the first event is %s", e.Event)
	}
	return c
}

func (b *bench) dialWith(hello tidemark.Hello) *client {
	b.t.Helper()
	c := &client{t: b.t, changed: make(chan struct{})}
	conn, w, err := b.pipe.Dial(b.t.Context(), hello, c)
	if err != nil {
		b.t.Fatal(err)
	}
	c.conn, c.id, c.pid = conn, w.ID, w.Session
	return c
}

func (c *client) Receive(m *tidemark.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, m)
	c.wake()
}

func (c *client) Closed(reason tidemark.CloseReason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = reason
	c.wake()
}

func (c *client) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// until waits until cond, called under the lock, holds.
func (c *client) until(what string, cond func() bool) {
	c.t.Helper()
	deadline := time.After(time.Minute)
	for {
		c.mu.Lock()
		ok, changed := cond(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// event waits for the event of that index.
func (c *client) event(i int) *tidemark.Message {
	c.t.Helper()
	var m *tidemark.Message
	c.until(fmt.Sprintf("event %d", i), func() bool {
		n := 0
		for _, g := range c.got {
			if g.Kind == tidemark.AnswerMessage {
				continue
			}
			if n == i {
				m = g
				return true
			}
			n++
		}
		return false
	})
	return m
}

// answer waits for the answer of that id.
func (c *client) answer(id uint64) tidemark.Answer {
	c.t.Helper()
	var a tidemark.Answer
	c.until(fmt.Sprintf("answer %d", id), func() bool {
		for _, g := range c.got {
			if g.Kind == tidemark.AnswerMessage && g.ID == id {
				if err := a.UnmarshalJSON(g.Args[0]); err != nil {
					c.t.Errorf("answer %s: %v", g.Args[0], err)
				}
				return true
			}
		}
		return false
	})
	return a
}

func (c *client) waitClosed() tidemark.CloseReason {
	c.t.Helper()
	c.until("the end", func() bool { return c.closed != "" })
	return c.closed
}

// send sends a request and returns its id.
func (c *client) send(name, action string, args ...any) uint64 {
	c.t.Helper()
	if args == nil {
		args = []any{}
	}
	return c.sendRaw(map[string]any{"name": name, "action": action, "args": args})
}

func (c *client) sendRaw(args ...any) uint64 {
	c.t.Helper()
	m, err := tidemark.NewEvent(tidemark.EventRequest, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.next
	c.next++
	if err := c.conn.Send(m.NewCall(id)); err != nil {
		c.t.Fatal(err)
	}
	return id
}

// ask sends a request and waits for its answer.
func (c *client) ask(name, action string, args ...any) tidemark.Answer {
	c.t.Helper()
	return c.answer(c.send(name, action, args...))
}

// result is ask for a call that must succeed.
func (c *client) result(name, action string, args ...any) string {
	c.t.Helper()
	a := c.ask(name, action, args...)
	if a.Err != nil {
		c.t.Fatalf("%s.%s: %v", name, action, a.Err)
	}
	return string(a.Result)
}

// refused is ask for a call that must fail.
func (c *client) refused(code tidemark.Code, name, action string, args ...any) *tidemark.Error {
	c.t.Helper()
	a := c.ask(name, action, args...)
	if a.Err == nil || a.Err.Code != code {
		c.t.Fatalf("%s.%s %v: got %s %v, want %s", name, action, args, a.Result, a.Err, code)
	}
	return a.Err
}

// events returns the service events so far, as "action result".
func (c *client) events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.got {
		if m.Event != tidemark.EventService {
			continue
		}
		var e tidemark.ServiceEvent
		if err := json.Unmarshal(m.Args[0], &e); err != nil {
			c.t.Errorf("event %s: %v", m.Args[0], err)
		}
		out = append(out, e.Action+" "+string(e.Result))
	}
	return out
}

// sync calls sync.go and returns its result.
func (c *client) sync(model string, where, dict any) tidemark.SyncResult {
	c.t.Helper()
	var r tidemark.SyncResult
	if err := r.UnmarshalJSON([]byte(c.result("sync", "go", model, where, dict))); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func equal(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func equalList(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func textLogger(l *logText) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// poll waits until cond holds.
func poll(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
