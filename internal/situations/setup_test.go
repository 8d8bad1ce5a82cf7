// Package situations_test has a test for each situation in which other systems for
// synchronising data have lost some of it, each with what a user would see. The parts are
// real: a server over an SQLite file (or PostgreSQL), the websocket, clients with files of
// their own. Where a situation makes sense in the guide's protocol it is tested there as well.
//
// Not here: TRUNCATE and bulk loads by other programs. The server learns of rows only by
// writes that go through it; what others write in its tables needs triggers that capture it.
package situations_test

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/pipe"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// itemRow is the model on the server, and Item on a device.
type itemRow struct {
	bun.BaseModel `bun:"table:item"`
	UID           string  `bun:"uid,pk,type:text"`
	Label         string  `bun:"label,type:text,notnull"`
	Score         *int64  `bun:"score,type:bigint"`
	Owner         *string `bun:"owner,type:text"`
}

type Item struct {
	UID   string `json:"uid"`
	Label string `json:"label"`
	Score int64  `json:"score"`
	Owner string `json:"owner"`
}

const createItem = `CREATE TABLE item (uid text PRIMARY KEY, label text NOT NULL, score bigint CHECK (score >= 0), owner text)`

// world is a server in this process, over a real database. Its devices find it wherever it is.
type world struct {
	t       *testing.T
	guide   bool   // its devices speak the guide's protocol only
	bubble  bool   // its database is in memory, and its line as well
	path    string // of the database's file
	db      *bun.DB
	models  []any
	driver  *bundriver.Driver
	opts    server.Options
	prepare func(*server.Server) // adds the test's hooks
	reads   gates

	mu      sync.Mutex // protects what follows, against the devices' dials
	addr    string
	server  *server.Server
	handler *socketio.Handler
	web     *http.Server
	pipe    *pipe.Pipe
}

// protocols runs a test in the second protocol and in the guide's.
func protocols(t *testing.T, run func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("second", func(t *testing.T) { second(t, run) })
	t.Run("guide", func(t *testing.T) {
		t.Parallel()
		run(t, &world{t: t, guide: true})
	})
}

func second(t *testing.T, run func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	run(t, &world{t: t})
}

// open makes the tables and starts the server.
func (w *world) open() *world {
	w.t.Helper()
	if w.db == nil {
		w.path = filepath.Join(w.t.TempDir(), "server.db")
		w.connect()
	}
	w.exec(createItem)
	w.models = []any{(*itemRow)(nil)}
	w.opts.CursorInterval = cmp.Or(w.opts.CursorInterval, 10*time.Millisecond)
	w.start()
	w.t.Cleanup(func() { w.stop(); _ = w.db.Close() })
	return w
}

func (w *world) connect() {
	w.t.Helper()
	dsn := "file:" + w.path + "?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF"
	if w.bubble {
		dsn = "file::memory:?_foreign_keys=on"
	}
	raw, err := sql.Open("sqlite3", dsn)
	w.must(err)
	if w.bubble {
		raw.SetMaxOpenConns(1)
	}
	w.db = bun.NewDB(raw, sqlitedialect.New())
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) exec(statement string, args ...any) {
	w.t.Helper()
	_, err := w.db.ExecContext(context.Background(), statement, args...)
	w.must(err)
}

// start starts the server on the database as it is.
func (w *world) start() {
	w.t.Helper()
	ctx := context.Background()
	var err error
	w.driver, err = bundriver.New(ctx, w.db, w.models, nil)
	w.must(err)
	w.must(w.driver.Migrate(ctx))
	srv, err := server.New(gated{w.driver, &w.reads}, &w.opts)
	w.must(err)
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	for _, m := range w.driver.Models() {
		srv.Service(m.Name()).Publish(server.To("all"))
	}
	if w.prepare != nil {
		w.prepare(srv)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server = srv
	if w.bubble {
		w.pipe = pipe.New(srv, nil)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a port that was left may be another's
	w.must(err)
	w.addr, w.handler = listener.Addr().String(), socketio.NewHandler(srv, nil)
	w.web = &http.Server{Handler: w.handler, ReadHeaderTimeout: 10 * time.Second}
	web := w.web
	go func() { _ = web.Serve(listener) }()
}

// stop ends the server at once.
func (w *world) stop() {
	if w.bubble {
		_ = w.pipe.Close()
	} else {
		_ = w.web.Close()
		_ = w.handler.Close()
	}
	_ = w.server.Close()
	_ = w.driver.Close()
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	w.mu.Lock()
	dialer := tidemark.Dialer(w.pipe)
	if !w.bubble {
		dialer = socketio.NewDialer("http://"+w.addr, nil)
	}
	w.mu.Unlock()
	return dialer.Dial(ctx, hello, h)
}

// write makes writes of a long time ago, or of now, that the server is not told of.
func (w *world) write(ms ...tidemark.Mutation) {
	w.t.Helper()
	outs, err := w.driver.Write(w.t.Context(), ms)
	w.must(err)
	for i := range outs {
		if outs[i].Err != nil || !outs[i].Applied {
			w.t.Fatalf("%+v was not applied: %v", ms[i], outs[i].Err)
		}
	}
}

// created is a row's first write.
func created(uid, label string, at tidemark.Stamp) tidemark.Mutation {
	data := fmt.Sprintf(`{"label":%q,"score":1,"owner":"ann"}`, label)
	return tidemark.Mutation{Model: "item", UID: uid, Op: tidemark.Create, Data: tidemark.Row(data), Stamp: at}
}

func daysAgo(n int) tidemark.Stamp { return tidemark.StampOf(time.Now().AddDate(0, 0, -n)) }

// rows are the labels of the server's rows, by uid.
func (w *world) rows() map[string]string {
	w.t.Helper()
	var rows []itemRow
	w.must(w.db.NewSelect().Model(&rows).Column("uid", "label").Scan(context.Background()))
	out := map[string]string{}
	for _, r := range rows {
		out[r.UID] = r.Label
	}
	return out
}

func (w *world) number(query string, args ...any) (n int) {
	w.t.Helper()
	w.must(w.db.QueryRowContext(context.Background(), query, args...).Scan(&n))
	return n
}

// has checks the server's rows.
func (w *world) has(want map[string]string) {
	w.t.Helper()
	if got := w.rows(); !maps.Equal(got, want) {
		w.t.Errorf("the server has %v, want %v", got, want)
	}
}

// comesToHave waits for the server's rows.
func (w *world) comesToHave(want map[string]string) {
	w.t.Helper()
	eventually(w.t, func() error {
		if got := w.rows(); !maps.Equal(got, want) {
			return fmt.Errorf("the server has %v, want %v", got, want)
		}
		return nil
	})
}

// agree waits until each device shows what the server has, with nothing pending.
func (w *world) agree(devices ...*device) {
	w.t.Helper()
	for _, d := range devices {
		d.sync()
		eventually(w.t, func() error {
			if s := d.client.Status(); s.State != client.Synced || s.Pending > 0 {
				return fmt.Errorf("a device is %+v", s)
			}
			if got, want := d.rows(), w.rows(); !maps.Equal(got, want) {
				return fmt.Errorf("a device has %v, the server %v", got, want)
			}
			return nil
		})
	}
}

// gates hold reads of scopes on the server, between the database and the client.
type gates struct {
	mu     sync.Mutex // protects next
	before *gate
	after  *gate
}

// gate holds one read.
type gate struct {
	uid     string // of a row that must have been read; "" for any read
	reached chan struct{}
	opened  chan struct{}
}

func newGate(uid string) *gate {
	return &gate{uid: uid, reached: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) wait(t testing.TB) {
	t.Helper()
	select {
	case <-g.reached:
	case <-time.After(*patience):
		t.Fatal("nothing was read")
	}
}

func (g *gate) open() { close(g.opened) }

// holdBefore holds the next read before it begins, and holdAfter the next one that brings uid after it.
func (g *gates) holdBefore() *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = newGate("")
	return g.before
}

func (g *gates) holdAfter(uid string) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.after = newGate(uid)
	return g.after
}

func (g *gates) pass(ctx context.Context, place **gate, rows ...[]tidemark.RowMeta) {
	g.mu.Lock()
	held := *place
	if held != nil && held.uid != "" && !slices.ContainsFunc(slices.Concat(rows...), func(r tidemark.RowMeta) bool { return r.Meta.UID == held.uid }) {
		held = nil
	}
	if held != nil {
		*place = nil
	}
	g.mu.Unlock()
	if held == nil {
		return
	}
	close(held.reached)
	select {
	case <-held.opened:
	case <-ctx.Done():
	}
}

// gated is the driver with gates.
type gated struct {
	*bundriver.Driver
	gates *gates
}

func (g gated) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	g.gates.pass(ctx, &g.gates.before)
	page, err := g.Driver.Pull(ctx, q)
	if err == nil {
		g.gates.pass(ctx, &g.gates.after, page.Rows, page.Gone)
	}
	return page, err
}

func (g gated) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	g.gates.pass(ctx, &g.gates.before)
	snapshot, err := g.Driver.Snapshot(ctx, p, uids)
	if err == nil {
		g.gates.pass(ctx, &g.gates.after, snapshot.Selected)
	}
	return snapshot, err
}

// line is how a device reaches its server.
type line struct {
	tidemark.Dialer
	guide bool

	mu    sync.Mutex // protects what follows
	down  bool       // no connection can be made
	frail bool       // each breaks at once
	lose  string     // the method of whose next answer the line breaks
	lost  chan struct{}
	conn  tidemark.Conn
	sent  map[string]int // by method, how often it was called
	dials []time.Time
}

var errDown = errors.New("the line is down")

func (l *line) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	l.mu.Lock()
	down := l.down
	l.dials = append(l.dials, time.Now())
	l.mu.Unlock()
	if down {
		return nil, tidemark.Welcome{}, errDown
	}
	end := &lineEnd{Handler: h, line: l, calls: map[uint64]string{}}
	conn, w, err := l.Dialer.Dial(ctx, hello, end)
	if err != nil {
		return nil, w, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end.Conn, l.conn = conn, conn
	if l.frail {
		conn.Close(tidemark.ClosedTransport)
	}
	return end, w, nil
}

// loseAnswer breaks the line instead of the next answer to a method; the channel is closed then.
func (l *line) loseAnswer(method string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose, l.lost = method, make(chan struct{})
	return l.lost
}

func (l *line) calls(method string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[method]
}

// set switches the line on or off; switching it off breaks the connection.
func (l *line) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down = down; down && l.conn != nil {
		l.conn.Close(tidemark.ClosedTransport)
	}
}

// lineEnd is one connection of a line.
type lineEnd struct {
	tidemark.Conn
	tidemark.Handler
	line  *line
	calls map[uint64]string // the methods that were called
	dead  bool
}

func (e *lineEnd) Send(m *tidemark.Message) error {
	var r tidemark.Request
	if m.Kind == tidemark.CallMessage && len(m.Args) > 0 && json.Unmarshal(m.Args[0], &r) == nil {
		e.line.mu.Lock()
		e.calls[m.ID] = r.Action
		e.line.sent[r.Action]++
		e.line.mu.Unlock()
	}
	if e.line.guide && r.Action == tidemark.MethodOpen { // a server of the guide's protocol says so
		raw, err := tidemark.Answer{Err: tidemark.NewError(tidemark.CodeMissingMethod, "there is no such method")}.MarshalJSON()
		if err == nil {
			e.Handler.Receive(m.NewAnswer(raw))
		}
		return err
	}
	return e.Conn.Send(m)
}

func (e *lineEnd) Receive(m *tidemark.Message) {
	l := e.line
	l.mu.Lock()
	if !e.dead && m.Kind == tidemark.AnswerMessage && l.lose != "" && e.calls[m.ID] == l.lose {
		e.dead, l.lose, l.down = true, "", true
		close(l.lost)
		l.conn.Close(tidemark.ClosedTransport)
	}
	dead := e.dead
	l.mu.Unlock()
	if !dead {
		e.Handler.Receive(m)
	}
}

// device is a machine with a client. Its file outlives the client's runs.
type device struct {
	t      testing.TB
	w      *world
	path   string
	dsn    string
	line   *line
	opts   client.Options
	db     *sql.DB
	store  *sqlite.Store
	client *client.Client
	items  *client.Model[Item]
}

// device makes one, with all rows as its scope, and connects it unless opts say otherwise.
func (w *world) device(opts *client.Options) *device {
	w.t.Helper()
	path := ":memory:"
	if !w.bubble {
		path = filepath.Join(w.t.TempDir(), "device.db")
	}
	d := w.deviceOn(path, opts)
	d.register(nil)
	if !d.opts.Offline {
		d.sync()
	}
	return d
}

// deviceOn opens a client on a file.
func (w *world) deviceOn(path string, opts *client.Options) *device {
	w.t.Helper()
	d := &device{t: w.t, w: w, path: path, dsn: sqlite.DSNNormal(path)}
	d.line = &line{Dialer: w, guide: w.guide, sent: map[string]int{}}
	if opts != nil {
		d.opts = *opts
	}
	d.opts.MinBackoff = cmp.Or(d.opts.MinBackoff, 10*time.Millisecond)
	d.opts.MaxBackoff = cmp.Or(d.opts.MaxBackoff, 100*time.Millisecond)
	d.open()
	w.t.Cleanup(d.close)
	return d
}

// open starts the client's program.
func (d *device) open() {
	d.t.Helper()
	d.boot()
	var err error
	d.items, err = client.NewModel[Item](d.t.Context(), d.client, "item", nil)
	d.must(err)
}

// boot opens the client, and declares nothing.
func (d *device) boot() {
	d.t.Helper()
	var err error
	d.db, err = sql.Open("sqlite3", d.dsn)
	d.must(err)
	if d.path == ":memory:" {
		d.db.SetMaxOpenConns(1)
	}
	d.store, err = sqlite.Open(d.t.Context(), d.db, &sqlite.Options{AllowNormal: true})
	d.must(err)
	d.client, err = client.Open(d.t.Context(), d.store, d.line, &d.opts)
	d.must(err)
}

// close ends the program.
func (d *device) close() {
	_ = d.client.Close()
	_ = d.store.Close()
	_ = d.db.Close()
}

// reopen ends the program and starts it again.
func (d *device) reopen() {
	d.t.Helper()
	d.close()
	d.open()
}

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) register(where tidemark.Where) {
	d.t.Helper()
	_, err := d.items.Register(d.t.Context(), where)
	d.must(err)
}

func (d *device) online() { d.client.GoOnline() }

func (d *device) offline() {
	d.t.Helper()
	d.client.GoOffline()
	becomes(d.t, "the state", client.Offline, func() client.State { return d.client.Status().State })
}

func (d *device) sync() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), *patience)
	defer cancel()
	if err := d.client.Sync(ctx); err != nil {
		d.t.Fatalf("sync: %v (%+v)", err, d.client.Status())
	}
}

func (d *device) create(uid, label string) {
	d.t.Helper()
	_, err := d.items.Create(d.t.Context(), Item{UID: uid, Label: label, Score: 1, Owner: "ann"})
	d.must(err)
}

func (d *device) update(uid string, patch client.Patch) {
	d.t.Helper()
	_, err := d.items.Update(d.t.Context(), uid, patch)
	d.must(err)
}

func (d *device) label(uid, label string) {
	d.t.Helper()
	d.update(uid, client.Patch{"label": label})
}

func (d *device) remove(uid string) {
	d.t.Helper()
	d.must(d.items.Remove(d.t.Context(), uid))
}

// row is what the application sees, the zero Item for none.
func (d *device) row(uid string) Item {
	d.t.Helper()
	i, err := d.items.FindByUID(d.t.Context(), uid)
	if !errors.Is(err, tidemark.ErrNotFound) {
		d.must(err)
	}
	return i
}

// rows are the labels that the application sees, by uid.
func (d *device) rows() map[string]string {
	d.t.Helper()
	list, err := d.items.FindWhere(d.t.Context(), nil)
	d.must(err)
	out := map[string]string{}
	for _, i := range list {
		out[i.UID] = i.Label
	}
	return out
}

func (d *device) shows(want map[string]string) {
	d.t.Helper()
	if got := d.rows(); !maps.Equal(got, want) {
		d.t.Errorf("the device shows %v, want %v", got, want)
	}
}

func (d *device) pending() int { return d.client.Status().Pending }

// listed are the writes that the user is told of: kind, uid and code.
func (d *device) listed() []string {
	d.t.Helper()
	list, err := d.client.Rejections(d.t.Context())
	d.must(err)
	var out []string
	for _, r := range list {
		out = append(out, fmt.Sprintf("%s %s %s", r.Kind, r.Mutation.UID, r.Code))
	}
	return out
}

func (d *device) lists(want ...string) {
	d.t.Helper()
	if got := d.listed(); !slices.Equal(got, want) {
		d.t.Errorf("the device lists %q, want %q", got, want)
	}
}

// patience is how long a test waits for what must happen.
var patience = flag.Duration("patience", 2*time.Minute, "how long tests wait for what must happen")

// eventually polls until check succeeds, for at most patience.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.After(*patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// becomes waits until got gives want.
func becomes[T comparable](t testing.TB, what string, want T, got func() T) {
	t.Helper()
	eventually(t, func() error {
		if g := got(); g != want {
			return fmt.Errorf("%s is %v, want %v", what, g, want)
		}
		return nil
	})
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
