package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// A store keeps a client's rows in a file; SQL reads them through the same handle.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	path := filepath.Join(dir, "app.db")
	if err := sqlite.Create(path); err != nil { // mode 0600
		log.Fatal(err)
	}
	db, err := sql.Open("sqlite3", sqlite.DSN(path)) // with mattn/go-sqlite3
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	store, err := sqlite.Open(ctx, db, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = store.Close() }()

	// A client does what follows; an application declares its models there.
	task, err := tidemark.NewSchema("task", []tidemark.Field{{Name: "list", Kind: tidemark.Text, Indexed: true}, {Name: "done", Kind: tidemark.Bool}})
	if err != nil {
		log.Fatal(err)
	}
	if err := store.Declare(ctx, task); err != nil {
		log.Fatal(err)
	}
	err = store.Update(ctx, func(tx tidemark.StoreTx) error {
		return tx.Put("task", []tidemark.Record{
			{UID: "1", Row: tidemark.Row(`{"uid":"1","list":"home","done":true}`), Pending: 1},
			{UID: "2", Row: tidemark.Row(`{"uid":"2","list":"home","done":false}`), Pending: 1},
		})
	})
	if err != nil {
		log.Fatal(err)
	}

	var list string
	var all, done int
	err = db.QueryRow("SELECT list, count(*), sum(done) FROM task GROUP BY list").Scan(&list, &all, &done)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %d of %d done\n", list, done, all)
	// Output: home: 1 of 2 done
}
