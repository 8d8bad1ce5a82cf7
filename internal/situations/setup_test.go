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
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
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
	expect.Soon(w.t, func() error {
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
		expect.Soon(w.t, func() error {
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
