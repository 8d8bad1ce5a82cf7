package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	for name, connections := range map[string]int{"many connections": 0, "one connection": 1, "three connections": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Harness { return onFile(t, connections) })
		})
	}
}

func TestStoreInMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		db, err := sql.Open("sqlite3", sqlite.DSN(":memory:"))
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		t.Cleanup(func() { _ = db.Close() })
		return storetest.Harness{Reopen: true, Serial: true, Open: func() (tidemark.Store, error) { return sqlite.Open(t.Context(), db, nil) }}
	})
}

// onFile is a harness whose stores have a handle each, as processes have.
func onFile(t *testing.T, connections int) storetest.Harness {
	path := filepath.Join(t.TempDir(), "a file.db")
	return storetest.Harness{Reopen: true, Another: true, Serial: connections == 1, Open: func() (tidemark.Store, error) {
		db, err := sql.Open("sqlite3", sqlite.DSN(path))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(connections)
		t.Cleanup(func() { _ = db.Close() })
		return sqlite.Open(t.Context(), db, nil)
	}}
}
