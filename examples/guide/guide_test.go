package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

var guideBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "guide")
	if err != nil {
		panic(err)
	}
	guideBinary = filepath.Join(dir, "guide")
	if out, err := exec.Command("go", "build", "-o", guideBinary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building guide: %v\n%s", err, out)
		os.Exit(1)
	}
	pgtest.Main(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// databases runs a test on each kind of database.
func databases(t *testing.T, run func(t *testing.T, dsn string)) {
	t.Run("SQLite", func(t *testing.T) { t.Parallel(); run(t, filepath.Join(t.TempDir(), "server.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { t.Parallel(); run(t, pgtest.DSN(t)) })
}

// guide is the server as a process of its own.
type guide struct {
	t    *testing.T
	dsn  string
	addr string
	cmd  *exec.Cmd
}

func startGuide(t *testing.T, dsn string) *guide {
	t.Helper()
	g := &guide{t: t, dsn: dsn, addr: "127.0.0.1:0"}
	g.start()
	t.Cleanup(func() { g.stop(syscall.SIGKILL) })
	return g
}

// start starts the process, on the address that it had before.
func (g *guide) start() {
	g.t.Helper()
	g.cmd = exec.Command(guideBinary, "-addr", g.addr, "-db", g.dsn)
	g.cmd.Stderr = os.Stderr
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		g.t.Fatalf("guide said %q, %v", line, err)
	}
	g.addr = addr
}

// stop ends the process by a signal and waits for it.
func (g *guide) stop(s syscall.Signal) error {
	_ = g.cmd.Process.Signal(s)
	return g.cmd.Wait()
}

func (g *guide) url() string { return "http://" + g.addr }

type post struct {
	UID     string  `json:"uid"`
	Title   string  `json:"title" tidemark:"index"`
	Content *string `json:"content"`
}

// device is a Go client with a file of its own.
type device struct {
	t      *testing.T
	file   string
	url    string
	db     *sql.DB
	client *client.Client
	posts  *client.Model[post]
}

func newDevice(t *testing.T, url string) *device {
	t.Helper()
	d := &device{t: t, file: filepath.Join(t.TempDir(), "device.db"), url: url}
	d.open(nil)
	t.Cleanup(d.close)
	return d
}

func (d *device) open(opts *client.Options) {
	d.t.Helper()
	ctx := d.t.Context()
	db, err := sql.Open("sqlite3", sqlite.DSN(d.file))
	if err != nil {
		d.t.Fatal(err)
	}
	store, err := sqlite.Open(ctx, db, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if opts == nil {
		opts = &client.Options{}
	}
	opts.MinBackoff, opts.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
	d.db = db
	if d.client, err = client.Open(ctx, store, socketio.NewDialer(d.url, nil), opts); err != nil {
		d.t.Fatal(err)
	}
	if d.posts, err = client.NewModel[post](ctx, d.client, "post", nil); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.posts.Register(ctx, tidemark.Where{}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) close() {
	if d.client == nil {
		return
	}
	d.client.Close()
	d.db.Close()
	d.client = nil
}

func (d *device) create(title string) post {
	d.t.Helper()
	p, err := d.posts.Create(d.t.Context(), post{Title: title})
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *device) update(uid, title string) {
	d.t.Helper()
	if _, err := d.posts.Update(d.t.Context(), uid, client.Patch{"title": title}); err != nil {
		d.t.Fatal(err)
	}
}

// titles returns what the device shows, by uid.
func (d *device) titles() map[string]string {
	d.t.Helper()
	ps, err := d.posts.FindWhere(d.t.Context(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range ps {
		out[p.UID] = p.Title
	}
	return out
}

func (js *javascript) titles() map[string]string {
	js.t.Helper()
	var ps []post
	if err := json.Unmarshal(js.Do("find", "post", map[string]any{}), &ps); err != nil {
		js.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range ps {
		out[p.UID] = p.Title
	}
	return out
}

// converge waits until all show the same rows and nothing is pending.
func converge(t *testing.T, want map[string]string, shown ...func() map[string]string) {
	t.Helper()
	eventually(t, func() error {
		for i, show := range shown {
			if diff := difference(show(), want); diff != "" {
				return fmt.Errorf("client %d:%s", i, diff)
			}
		}
		return nil
	})
}

// difference says in which rows got and want differ.
func difference(got, want map[string]string) string {
	var b strings.Builder
	for uid, title := range want {
		if got[uid] != title {
			fmt.Fprintf(&b, "\n\t%s is %q, want %q", uid, got[uid], title)
		}
	}
	for uid, title := range got {
		if _, ok := want[uid]; !ok {
			fmt.Fprintf(&b, "\n\t%s is %q, want none", uid, title)
		}
	}
	return b.String()
}

// eventually polls until check succeeds, for at most 30 seconds.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func TestServicesAnswerAJavaScriptClient(t *testing.T) {
	t.Parallel()
	g := startGuide(t, filepath.Join(t.TempDir(), "server.db"))
	js := startJavaScript(t, g.url())
	js.Do("connect")
	for _, c := range []struct {
		service, method string
		args            []any
		want            string
	}{
		{"greet", "hello", []any{"World"}, `"Hello, World!"`},
		{"broken", "explode", nil, "unknown-error"},
		{"broken", "coded", nil, "my-code"},
		{"nope", "x", nil, "missing-service"},
		{"__proto__", "x", nil, "missing-service"},
		{"post", "nope", nil, "missing-method"},
		{"post", "constructor", nil, "missing-method"},
		{"util", "echo", []any{1, "a", nil, []any{true}, map[string]any{"b": 1.5}}, `[1,"a",null,[true],{"b":1.5}]`},
		{"util", "echo", nil, `[]`},
		{"util", "hooked", []any{21}, `{"after":true,"value":42}`},
		{"post", "findUnique", []any{map[string]any{"uid": "zz"}}, `null`},
		{"post", "findMany", []any{map[string]any{}}, `[]`},
		{"post", "findMany", []any{nil}, "invalid-where"},
		{"post", "findMany", []any{map[string]any{"colour": 1}}, "unknown-field"},
		{"post", "findMany", []any{map[string]any{"title": 1}}, "invalid-where"},
		{"item", "findMany", []any{map[string]any{"score": map[string]any{"like": 1}}}, "invalid-where"},
		{"post", "createWithMeta", []any{"u1", map[string]any{"content": "x"}, "2026-01-01T00:00:00.000Z"}, "constraint"},
		{"post", "createWithMeta", []any{"u1", map[string]any{"title": 7}, "2026-01-01T00:00:00.000Z"}, "invalid-data"},
		{"post", "createWithMeta", []any{"u1", map[string]any{"title": "x"}, "soon"}, "invalid-stamp"},
		{"post", "createWithMeta", []any{"", map[string]any{"title": "x"}, "2026-01-01T00:00:00.000Z"}, "invalid-data"},
		{"post", "createWithMeta", []any{"u1", map[string]any{"title": "x"}, "2026-01-01T00:00:00.000Z"},
			`[{"uid":"u1","title":"x","content":null},{"uid":"u1","created_at":"2026-01-01T00:00:00.000Z","updated_at":null,"deleted_at":null}]`},
		{"item", "createWithMeta", []any{"u1", map[string]any{"label": "x"}, "2026-01-02T00:00:00.000Z"}, "uid-taken"},
		{"item", "createWithMeta", []any{"i1", map[string]any{"label": "é😀", "score": 7, "ratio": 0.5, "active": true, "start": "2026-01-01T01:00:00+01:00"}, "2026-01-02T00:00:00.000Z"},
			`[{"uid":"i1","label":"é😀","score":7,"ratio":0.5,"active":true,"start":"2026-01-01T00:00:00.000Z","note":null},{"uid":"i1","created_at":"2026-01-02T00:00:00.000Z","updated_at":null,"deleted_at":null}]`},
		{"sync", "go", []any{"nope", map[string]any{}, map[string]any{}}, "unknown-model"},
		{"sync", "go", []any{"post", nil, map[string]any{}}, "invalid-request"},
		{"sync", "go", []any{"post", map[string]any{}, nil}, "invalid-request"},
		{"sync", "go", []any{"post", map[string]any{}, map[string]any{"u9": map[string]any{"uid": "u8", "created_at": "2026-01-01"}}}, "invalid-request"},
	} {
		if got := js.Call(c.service, c.method, c.args...); got != c.want {
			t.Errorf("%s.%s(%v): got %s, want %s", c.service, c.method, c.args, got, c.want)
		}
	}
	if r, err := js.Try("call", "util", "nothing"); err != nil || len(r) != 0 {
		t.Errorf("util.nothing: got %s, %v; want no result", r, err)
	}
	for _, envelope := range []any{nil, 7, "x", []any{}, map[string]any{"name": "greet"}} {
		js.Do("emit", "client-request", envelope)
	}
	if got := js.Call("greet", "hello", "again"); got != `"Hello, again!"` {
		t.Errorf("after malformed envelopes: got %s", got)
	}
}

func TestChannelsReachTheirMembersOnly(t *testing.T) {
	t.Parallel()
	g := startGuide(t, filepath.Join(t.TempDir(), "server.db"))
	a, b := startJavaScript(t, g.url()), startJavaScript(t, g.url())
	a.Do("connect")
	b.Do("connect")
	a.Call("util", "join", "room")
	if got := b.Call("board", "say", "room", "hi"); got != `{"channel":"room","message":"hi"}` {
		t.Errorf("board.say: got %s", got)
	}
	b.Call("util", "notify", "room", "ping", map[string]any{"n": 1})
	b.Call("util", "notify", "all", "pong", nil)
	want := `[["service-event",{"name":"board","action":"say","result":{"channel":"room","message":"hi"}}],["app-event",{"type":"ping","value":{"n":1}}],["app-event",{"type":"pong","value":null}]]`
	a.Call("util", "leave", "room")
	if got := string(a.Do("events")); got != want {
		t.Errorf("a member: got %s, want %s", got, want)
	}
	if got := string(b.Do("events")); got != `[["app-event",{"type":"pong","value":null}]]` {
		t.Errorf("not a member: got %s", got)
	}
}

func TestTwoGoClientsAndAJavaScriptClientConverge(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) {
		g := startGuide(t, dsn)
		a, b := newDevice(t, g.url()), newDevice(t, g.url())
		js := startJavaScript(t, g.url())
		js.Do("model", "post")
		js.Do("connect")
		js.Do("scope", "post", map[string]any{})

		first := a.create("from a")
		converge(t, map[string]string{first.UID: "from a"}, a.titles, b.titles, js.titles)
		js.Do("update", "post", first.UID, map[string]any{"title": "from js"})
		converge(t, map[string]string{first.UID: "from js"}, a.titles, b.titles, js.titles)

		// All three go offline and write: the same row, and rows of their own.
		a.client.GoOffline()
		b.client.GoOffline()
		js.Do("disconnect")
		a.update(first.UID, "a, offline")
		mine := a.create("a's own")
		gone := b.create("b's own")
		if err := b.posts.Remove(t.Context(), gone.UID); err != nil {
			t.Fatal(err)
		}
		theirs := b.create("b's second")
		js.Do("create", "post", map[string]any{"title": "js's own"})
		js.Do("update", "post", first.UID, map[string]any{"title": "js, offline, last"})

		b.client.GoOnline()
		js.Do("connect")
		a.client.GoOnline()
		want := js.titles()
		var own string
		for uid, title := range want {
			if title == "js's own" {
				own = uid
			}
		}
		want = map[string]string{first.UID: "js, offline, last", mine.UID: "a's own", theirs.UID: "b's second", own: "js's own"}
		converge(t, want, a.titles, b.titles, js.titles)
		eventually(t, func() error {
			if n := string(js.Do("pending", "post")); n != "0" {
				return fmt.Errorf("%s writes of the JavaScript client are pending", n)
			}
			return nil
		})

		// A row deleted by one goes everywhere.
		js.Do("remove", "post", mine.UID)
		delete(want, mine.UID)
		converge(t, want, a.titles, b.titles, js.titles)
	})
}

func TestNothingIsLostWhenServerAndClientsRestartInMidEdit(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) {
		g := startGuide(t, dsn)
		a, b := newDevice(t, g.url()), newDevice(t, g.url())
		want := map[string]string{}
		for i := range 60 {
			p := a.create(fmt.Sprint("a ", i))
			want[p.UID] = p.Title
			q := b.create(fmt.Sprint("b ", i))
			b.update(q.UID, fmt.Sprint("b edited ", i))
			want[q.UID] = fmt.Sprint("b edited ", i)
			switch i {
			case 15:
				g.stop(syscall.SIGKILL)
			case 25:
				a.close()
				a.open(nil)
			case 30:
				g.start()
			case 40:
				g.stop(syscall.SIGTERM)
				g.start()
			case 50:
				b.close()
				b.open(nil)
			}
		}
		for _, d := range []*device{a, b} {
			if err := d.client.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if rs, err := d.client.Rejections(t.Context()); err != nil || len(rs) != 0 {
				t.Fatalf("rejected or superseded: %+v, %v", rs, err)
			}
		}
		converge(t, want, a.titles, b.titles)
		fresh := newDevice(t, g.url())
		converge(t, want, fresh.titles)
	})
}

func TestStopsCleanlyOnSIGTERM(t *testing.T) {
	t.Parallel()
	g := startGuide(t, filepath.Join(t.TempDir(), "server.db"))
	d := newDevice(t, g.url())
	d.create("x")
	if err := d.client.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Errorf("got %v", err)
	}
}
