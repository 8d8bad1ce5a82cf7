// Package readme compiles the README's snippets; its test compares the texts.
package readme

import (
	"context"
	"net/http"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

type Post struct {
	bun.BaseModel `bun:"table:post"`
	UID           string `bun:"uid,pk,type:text"`
	Title         string `bun:"title,type:text,notnull"`
}

// mount adds synchronisation to a server that has a database and routes already.
func mount(ctx context.Context, db *bun.DB, mux *http.ServeMux) (*server.Server, error) {
	driver, err := bundriver.New(ctx, db, []any{(*Post)(nil)}, nil)
	if err != nil {
		return nil, err
	}
	if err := driver.Migrate(ctx); err != nil {
		return nil, err
	}
	srv, err := server.New(driver, nil)
	if err != nil {
		return nil, err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	srv.Service("post").Publish(server.To("all"))
	mux.Handle("/socket.io/", socketio.NewHandler(srv, nil))
	return srv, nil
}

var _ = mount
