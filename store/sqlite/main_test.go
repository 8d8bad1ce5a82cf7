package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/mattn/go-sqlite3"
	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark/store/sqlite"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" { // a child process, see TestAcknowledgedUpdatesSurviveKill
		if err := writeUntilKilled(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// open opens a store of the file path as an application does.
func open(t testing.TB, path string, o *sqlite.Options) (*sqlite.Store, *sql.DB) {
	t.Helper()
	return openWith(t, path, 0, o)
}

// openWith is open with at most so many connections, 0 for any number.
func openWith(t testing.TB, path string, connections int, o *sqlite.Options) (*sqlite.Store, *sql.DB) {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSN(path))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(connections)
	s, err := sqlite.Open(t.Context(), db, o)
	if err != nil {
		_ = db.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = db.Close()
	})
	return s, db
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "test.db") }
