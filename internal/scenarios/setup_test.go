package scenarios

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The tables. A sheet lies in a folder, by a foreign key.
type (
	itemRow struct {
		bun.BaseModel `bun:"table:item"`
		UID           string     `bun:"uid,pk,type:text"`
		Label         string     `bun:"label,type:text,notnull"`
		Score         *int64     `bun:"score,type:bigint"`
		Active        *bool      `bun:"active,type:boolean"`
		Start         *time.Time `bun:"start,type:timestamp"`
		UserUID       *string    `bun:"user_uid,type:text"`
	}
	folderRow struct {
		bun.BaseModel `bun:"table:folder"`
		UID           string `bun:"uid,pk,type:text"`
		Name          string `bun:"name,type:text,notnull"`
	}
	sheetRow struct {
		bun.BaseModel `bun:"table:sheet"`
		UID           string `bun:"uid,pk,type:text"`
		Folder        string `bun:"folder,type:text,notnull"`
	}
	metaRow struct {
		bun.BaseModel `bun:"table:metadata"`
		UID           string     `bun:"uid,pk"`
		CreatedAt     *time.Time `bun:"created_at,type:timestamp"`
		UpdatedAt     *time.Time `bun:"updated_at,type:timestamp"`
		DeletedAt     *time.Time `bun:"deleted_at,type:timestamp"`
	}
)

var models = []any{(*itemRow)(nil), (*folderRow)(nil), (*sheetRow)(nil)}

// The days of the scenarios, T0 < T1 < T2 < now < future, one apart.
var (
	today  = time.Now().UTC().Truncate(time.Millisecond)
	T0     = tidemark.StampOf(today.AddDate(0, 0, -3))
	T1     = tidemark.StampOf(today.AddDate(0, 0, -2))
	T2     = tidemark.StampOf(today.AddDate(0, 0, -1))
	future = tidemark.StampOf(today.AddDate(0, 0, 1))
)

// dayOf names a stamp for messages of failures: T0 to T2, future, now, or - for none.
func dayOf(s tidemark.Stamp) string {
	switch s {
	case 0:
		return "-"
	case T0:
		return "T0"
	case T1:
		return "T1"
	case T2:
		return "T2"
	case future:
		return "future"
	}
	if d := time.Since(s.Time()); d > -time.Hour && d < time.Hour {
		return "now"
	}
	return s.String()
}

func days(m tidemark.Meta) string {
	return dayOf(m.CreatedAt) + " " + dayOf(m.UpdatedAt) + " " + dayOf(m.DeletedAt)
}

// world is a server in this process, over a real database, at a real address.
type world struct {
	t      testing.TB
	db     *bun.DB
	uids   string // the driver's table of uids
	driver *bundriver.Driver
	server *server.Server

	handler *socketio.Handler
	web     *http.Server
	addr    string
	opts    *socketio.Options
	// guideOnly has the server hide that its driver keeps a log, so that all clients speak the guide's protocol.
	guideOnly bool
	prepare   func(*server.Server) // adds the test's hooks and services
}

// engines runs a test on each kind of database.
func engines(t *testing.T, run func(t *testing.T, w *world)) {
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		run(t, &world{t: t, db: pgtest.Open(t), uids: "tidemark.uids", addr: "127.0.0.1:0"})
	})
	onSQLite(t, run)
}

func onSQLite(t *testing.T, run func(t *testing.T, w *world)) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		run(t, &world{t: t, db: openSQLite(t), uids: "tidemark_uids", addr: "127.0.0.1:0"})
	})
}

func openSQLite(t testing.TB) *bun.DB {
	t.Helper()
	raw, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "server.db")+"?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF")
	if err != nil {
		t.Fatal(err)
	}
	db := bun.NewDB(raw, sqlitedialect.New())
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// open makes the tables and starts the server.
func (w *world) open() *world {
	w.t.Helper()
	ctx := context.Background()
	for _, m := range models {
		q := w.db.NewCreateTable().Model(m)
		if _, ok := m.(*sheetRow); ok {
			q = q.ForeignKey(`("folder") REFERENCES "folder" ("uid")`)
		}
		if _, err := q.Exec(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	if w.driver, err = bundriver.New(ctx, w.db, models, nil); err != nil {
		w.t.Fatal(err)
	}
	if err := w.driver.Migrate(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.start()
	w.t.Cleanup(func() { w.stop(); _ = w.driver.Close() })
	return w
}

// start starts the server on the address that it had before.
func (w *world) start() {
	w.t.Helper()
	var driver tidemark.Driver = w.driver
	if w.guideOnly {
		driver = struct{ tidemark.Driver }{driver}
	}
	srv, err := server.New(driver, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	for _, m := range w.driver.Models() {
		srv.Service(m.Name()).Publish(server.To("all"))
	}
	if w.prepare != nil {
		w.prepare(srv)
	}
	listener, err := net.Listen("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr, w.server, w.handler = listener.Addr().String(), srv, socketio.NewHandler(srv, w.opts)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", w.handler)
	w.web = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = w.web.Serve(listener) }()
}

// stop ends the server at once, as a power failure does to its clients.
func (w *world) stop() {
	_ = w.web.Close()
	_ = w.handler.Close()
	_ = w.server.Close()
}

func (w *world) url() string { return "http://" + w.addr }

func (w *world) dialer() tidemark.Dialer { return socketio.NewDialer(w.url(), nil) }

// empty removes all rows and metadata.
func (w *world) empty() {
	w.t.Helper()
	for _, table := range []string{"sheet", "folder", "item", "metadata", w.uids} {
		if _, err := w.db.ExecContext(context.Background(), "DELETE FROM "+table); err != nil {
			w.t.Fatal(err)
		}
	}
}

func instant(s tidemark.Stamp) *time.Time {
	if s == 0 {
		return nil
	}
	t := s.Time()
	return &t
}

// put writes a row, and metadata, as another program does that knows nothing of us.
func (w *world) put(row *itemRow, meta tidemark.Meta) {
	w.t.Helper()
	ctx := context.Background()
	if row != nil {
		if _, err := w.db.NewInsert().Model(row).Exec(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
	if meta.UID != "" {
		m := &metaRow{UID: meta.UID, CreatedAt: instant(meta.CreatedAt), UpdatedAt: instant(meta.UpdatedAt), DeletedAt: instant(meta.DeletedAt)}
		if _, err := w.db.NewInsert().Model(m).Exec(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

// get returns the row's label, "" when there is no row, and its metadata.
func (w *world) get(uid string) (label string, meta tidemark.Meta) {
	w.t.Helper()
	ctx := context.Background()
	var row itemRow
	if err := w.db.NewSelect().Model(&row).Where("uid = ?", uid).Scan(ctx); err != nil && !errors.Is(err, sql.ErrNoRows) {
		w.t.Fatal(err)
	}
	var m metaRow
	if err := w.db.NewSelect().Model(&m).Where("uid = ?", uid).Scan(ctx); err != nil && !errors.Is(err, sql.ErrNoRows) {
		w.t.Fatal(err)
	}
	stamp := func(t *time.Time) tidemark.Stamp {
		if t == nil {
			return 0
		}
		return tidemark.StampOf(*t)
	}
	return row.Label, tidemark.Meta{UID: m.UID, CreatedAt: stamp(m.CreatedAt), UpdatedAt: stamp(m.UpdatedAt), DeletedAt: stamp(m.DeletedAt)}
}

// labels returns what the table has, by uid.
func (w *world) labels() map[string]string {
	w.t.Helper()
	var rows []itemRow
	if err := w.db.NewSelect().Model(&rows).Scan(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range rows {
		out[r.UID] = r.Label
	}
	return out
}

func decode[T any](t testing.TB, raw []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}
