package bundriver_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The models of drivertest, as an application would have them.
type (
	Note struct {
		bun.BaseModel `bun:"table:note,alias:nt"`
		UID           string          `bun:"uid,pk"`
		Text          *string         `bun:"text"`
		N             *int64          `bun:"n"`
		X             *float64        `bun:"x"`
		B             *bool           `bun:"b"`
		At            *time.Time      `bun:"at"`
		Raw           []byte          `bun:"raw"`
		Doc           json.RawMessage `bun:"doc,type:jsonb"`
		Dec           *string         `bun:"dec,type:numeric"`
		ID            *string         `bun:"id,type:uuid"`
		Day           *time.Time      `bun:"day,type:date"`
		Tod           *string         `bun:"tod,type:time"`
	}
	List struct {
		bun.BaseModel `bun:"table:list"`
		UID           string `bun:"uid,pk"`
		Title         string `bun:"title,notnull"`
	}
	Entry struct {
		bun.BaseModel `bun:"table:entry"`
		UID           string  `bun:"uid,pk"`
		ListID        *string `bun:"list_id"`
		Slug          *string `bun:"slug"`
		Rank          *int64  `bun:"rank"`
	}
)

var models = []any{(*Note)(nil), (*List)(nil), Entry{}}

const (
	postgresTables = `CREATE TABLE note (uid text PRIMARY KEY, text varchar COLLATE "en-x-icu", n bigint, x double precision, b boolean, at timestamptz,
			raw bytea, doc jsonb, dec numeric, id uuid, day date, tod time);
		CREATE TABLE list (uid text PRIMARY KEY, title text NOT NULL);
		CREATE TABLE entry (uid text PRIMARY KEY, list_id text REFERENCES list, slug text UNIQUE, rank bigint DEFAULT 7 CHECK (rank >= 0))`
	sqliteTables = `CREATE TABLE note (uid TEXT NOT NULL PRIMARY KEY, text VARCHAR, n INTEGER, x DOUBLE PRECISION, b BOOLEAN, at TIMESTAMP,
			raw BLOB, doc JSONB, dec NUMERIC, id UUID, day DATE, tod TIME);
		CREATE TABLE list (uid TEXT NOT NULL PRIMARY KEY, title VARCHAR NOT NULL);
		CREATE TABLE entry (uid TEXT NOT NULL PRIMARY KEY, list_id TEXT REFERENCES list, slug VARCHAR UNIQUE, rank INTEGER DEFAULT 7 CHECK (rank >= 0))`
)

// engine is a database to test on.
type engine struct {
	name   string
	open   func(t testing.TB) *bun.DB
	tables string
	opts   *bundriver.Options
	uids   string
}

var engines = []engine{
	{"postgres", pgtest.Open, postgresTables, nil, "tidemark.uids"},
	{"sqlite", openSQLite, sqliteTables, nil, "tidemark_uids"},
}

func openSQLite(t testing.TB) *bun.DB {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "test.db") + "?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF"
	raw, err := sql.Open("sqlite3", dsn)
	if err != nil {
		t.Fatal(err)
	}
	db := bun.NewDB(raw, sqlitedialect.New())
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func each(t *testing.T, run func(t *testing.T, e engine)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			run(t, e)
		})
	}
}

func mustExec(t testing.TB, db *bun.DB, statements string, args ...any) {
	t.Helper()
	for _, s := range strings.Split(statements, ";\n") {
		if _, err := db.DB.ExecContext(context.Background(), s, args...); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// ready is a migrated driver over the suite's tables.
func (e engine) ready(t testing.TB) (*bundriver.Driver, *bun.DB) {
	t.Helper()
	db := e.open(t)
	mustExec(t, db, e.tables)
	return e.driver(t, db, models), db
}

func (e engine) driver(t testing.TB, db *bun.DB, models []any) *bundriver.Driver {
	t.Helper()
	d, err := bundriver.New(context.Background(), db, models, e.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.Migrate(context.Background()); err != nil {
		t.Fatal(err)
	}
	return d
}

// prepared is PostgreSQL with statements that stay prepared.
var prepared = engine{"prepared", pgtest.Open, postgresTables, &bundriver.Options{Prepare: true}, "tidemark.uids"}

func TestDriver(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) { conform(t, e) })
	t.Run(prepared.name, func(t *testing.T) {
		t.Parallel()
		conform(t, prepared)
	})
}

func conform(t *testing.T, e engine) {
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		d, db := e.ready(t)
		return drivertest.Harness{Driver: d, Put: e.put(db), Constraints: true,
			RunInTx: func(ctx context.Context, fn func(context.Context) error) error {
				return d.RunInTx(ctx, func(ctx context.Context, _ bun.Tx) error { return fn(ctx) })
			}}
	})
}

// put writes as another program does, which uses bun.
func (e engine) put(db *bun.DB) func(testing.TB, string, tidemark.Row, tidemark.Meta) {
	return func(t testing.TB, model string, row tidemark.Row, meta tidemark.Meta) {
		t.Helper()
		ctx := context.Background()
		if row != nil {
			var v any
			switch model {
			case "note":
				n := &Note{UID: row.UID()}
				_ = json.Unmarshal(row.Get("text"), &n.Text)
				_ = json.Unmarshal(row.Get("n"), &n.N)
				_ = json.Unmarshal(row.Get("x"), &n.X)
				v = n
			case "list":
				l := &List{UID: row.UID()}
				_ = json.Unmarshal(row.Get("title"), &l.Title)
				v = l
			}
			if _, err := db.NewInsert().Model(v).Exec(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if meta.UID == "" {
			return
		}
		if _, err := db.NewInsert().Model(&Metadata{UID: meta.UID, CreatedAt: at(meta.CreatedAt), UpdatedAt: at(meta.UpdatedAt), DeletedAt: at(meta.DeletedAt)}).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		if model != "" {
			if _, err := db.ExecContext(ctx, "INSERT INTO "+e.uids+" VALUES (?, ?)", meta.UID, model); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Metadata is the guide's table, as an application's bun sees it.
type Metadata struct {
	bun.BaseModel `bun:"table:metadata"`
	UID           string     `bun:"uid,pk"`
	CreatedAt     *time.Time `bun:"created_at,type:timestamp"`
	UpdatedAt     *time.Time `bun:"updated_at,type:timestamp"`
	DeletedAt     *time.Time `bun:"deleted_at,type:timestamp"`
}

func at(s tidemark.Stamp) *time.Time {
	if s == 0 {
		return nil
	}
	t := s.Time()
	return &t
}
