package main

import (
	"context"
	"net/http"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// addTidemark lets devices work on the tickets offline. The routes write as before,
// in one transaction with the history, and what they write reaches the devices live.
func (a *app) addTidemark(ctx context.Context, mux *http.ServeMux) error {
	driver, err := bundriver.New(ctx, a.db, []any{(*Ticket)(nil)}, nil)
	if err != nil {
		return err
	}
	if err := driver.Migrate(ctx); err != nil {
		return err
	}
	srv, err := server.New(driver, nil)
	if err != nil {
		return err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("staff"); return nil })
	tickets := srv.Service("ticket")
	tickets.Publish(server.To("staff"))
	mux.Handle("/socket.io/", socketio.NewHandler(srv, nil))
	a.inTx = driver.RunInTx
	a.set = func(ctx context.Context, _ bun.Tx, uid string, columns map[string]any) error {
		_, err := tickets.Call(ctx, tidemark.MethodUpdate, uid, columns, srv.Now())
		return err
	}
	a.stop = append(a.stop, srv.Shutdown)
	return nil
}
