// Command guide is the server of the offline-first guide: two models, one
// channel, and a few services to try clients against. Nothing else.
//
//	go run ./examples/guide                                  # on the file guide.db
//	go run ./examples/guide -db postgres://localhost/guide
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/examples/internal/database"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8000", "address to listen on")
	dsn := flag.String("db", "guide.db", "a postgres:// DSN, or the path of a SQLite file")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *dsn); err != nil {
		fmt.Fprintln(os.Stderr, "guide:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr, dsn string) error {
	db, err := database.Open(dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	srv, err := newServer(ctx, db)
	if err != nil {
		return err
	}
	defer srv.Close()

	handler := socketio.NewHandler(srv, nil)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", handler)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	fmt.Println("listening on", listener.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Sessions first: http.Server does not know of connections that became websockets.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace), handler.Shutdown(grace), web.Shutdown(grace))
}

// newServer registers the models, creating what is absent, and the services.
func newServer(ctx context.Context, db *bun.DB) (*server.Server, error) {
	for _, model := range models {
		if _, err := db.NewCreateTable().Model(model).IfNotExists().Exec(ctx); err != nil {
			return nil, fmt.Errorf("creating a table: %w", err)
		}
	}
	driver, err := bundriver.New(ctx, db, models, nil)
	if err != nil {
		return nil, err
	}
	if err := driver.Migrate(ctx); err != nil {
		return nil, err
	}
	srv, err := server.New(driver, &server.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return nil, err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	for _, schema := range driver.Models() {
		srv.Service(schema.Name()).Publish(server.To("all"))
	}
	return srv, addServices(srv)
}
