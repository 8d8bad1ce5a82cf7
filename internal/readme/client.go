package readme

import (
	"context"
	"database/sql"
	"fmt"

	_ "github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

type Note struct {
	UID   string `json:"uid"`
	Title string `json:"title" tidemark:"index"`
}

func device(ctx context.Context) error {
	db, err := sql.Open("sqlite3", sqlite.DSN("device.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := sqlite.Open(ctx, db, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	c, err := client.Open(ctx, store, socketio.NewDialer("http://localhost:8000", nil), nil)
	if err != nil {
		return err
	}
	defer c.Close()
	posts, err := client.NewModel[Note](ctx, c, "post", nil)
	if err != nil {
		return err
	}
	if _, err := posts.Create(ctx, Note{Title: "Hello"}); err != nil { // also without a connection
		return err
	}
	for list, err := range posts.Watch(ctx, tidemark.Where{"title": "Hello"}, nil) {
		if err != nil {
			return err
		}
		fmt.Println(list) // now, and whenever it changes, here or elsewhere
	}
	return ctx.Err()
}

var _ = device
