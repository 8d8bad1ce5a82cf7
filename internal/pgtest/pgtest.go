// Package pgtest gives tests a PostgreSQL that is thrown away afterwards.
//
// One server runs for each test process, started from the machine's binaries when
// a test first asks for it (see pgserver); each test has a database of its own.
// Where TIDEMARK_PG_DSN names a running server, databases are created there instead.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark/internal/pgserver"
	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

// process is the server of this test process. A global, as tests share no other
// owner than TestMain.
var process struct {
	once   sync.Once
	server *pgserver.Server
	err    error
	number atomic.Int64
}

// Main runs the tests of a package that uses PostgreSQL: it stops the server
// afterwards and fails when a goroutine is left over. Call it from TestMain; it
// does not return.
func Main(m *testing.M, opts ...goleak.Option) {
	goleak.VerifyTestMain(run{m}, opts...)
}

type run struct{ m *testing.M }

func (r run) Run() int {
	code := r.m.Run()
	process.once.Do(func() {}) // a server that nobody asked for is not started now
	if process.server != nil {
		process.server.Stop()
	}
	return code
}

// DSN returns the address of a fresh, empty database, dropped when the test ends.
// The test is skipped (see testneeds) when the machine has no PostgreSQL.
func DSN(t testing.TB) string {
	t.Helper()
	base := baseDSN(t)
	name := fmt.Sprintf("tidemark_%d_%d_%d", os.Getpid(), time.Now().UnixNano()%1e9, process.number.Add(1))
	// template0 admits no connections, so copying it cannot fail for being in use.
	if err := admin(base, `CREATE DATABASE `+name+` TEMPLATE template0 ENCODING 'UTF8'`); err != nil {
		t.Fatalf("pgtest: create database: %v", err)
	}
	t.Cleanup(func() {
		if err := admin(base, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`); err != nil {
			t.Errorf("pgtest: drop database: %v", err)
		}
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatalf("pgtest: the address of the server must be a URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// Open returns a handle on a fresh, empty database, closed when the test ends.
// See [DSN].
func Open(t testing.TB) *bun.DB {
	t.Helper()
	return Connect(t, DSN(t))
}

// Connect returns one more handle on the database dsn, closed when the test ends.
func Connect(t testing.TB, dsn string) *bun.DB {
	t.Helper()
	db := bun.NewDB(stdlib.OpenDB(*Config(t, dsn)), pgdialect.New())
	db.SetMaxIdleConns(16)
	t.Cleanup(func() {
		if err := db.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
			t.Errorf("pgtest: close: %v", err)
		}
	})
	return db
}

// Config is how a program with bun connects to the database dsn: bun's statements
// differ by their values, and caching them would cost twice the time.
func Config(t testing.TB, dsn string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return cfg
}

func baseDSN(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv("TIDEMARK_PG_DSN"); dsn != "" {
		return dsn
	}
	process.once.Do(func() { process.server, process.err = pgserver.Start(pgserver.Careless...) })
	if errors.Is(process.err, pgserver.ErrNoBinaries) {
		testneeds.Missing(t, "PostgreSQL", process.err.Error())
	}
	if process.err != nil {
		t.Fatalf("pgtest: %v", process.err)
	}
	return process.server.DSN()
}

// admin runs one statement in the server's maintenance database. Somebody else's
// connection that is just ending can make it fail for a moment.
func admin(dsn, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		_, err = conn.Exec(ctx, statement)
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "55006" { // object_in_use
			return err
		}
		if !pause(ctx, 20*time.Millisecond) {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
