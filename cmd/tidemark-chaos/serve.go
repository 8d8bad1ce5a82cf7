package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// Item is the model. Its note is the token of the write that made it so.
type Item struct {
	bun.BaseModel `bun:"table:item"`

	UID   string `bun:"uid,pk,type:text"`
	Owner string `bun:"owner,type:text,notnull"`
	Note  string `bun:"note,type:text,notnull"`
	Score int64  `bun:"score,notnull"`
}

func openDatabase(dsn string) (*bun.DB, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.ConnectTimeout = 2 * time.Second
	handle := sql.OpenDB(stdlib.GetConnector(*cfg))
	handle.SetMaxOpenConns(20)
	return bun.NewDB(handle, pgdialect.New()), nil
}

// serve is the server's process: serve <dsn> <address>. It says when it listens, and ends with its input.
func serve(ctx context.Context, args []string) error {
	db, err := openDatabase(args[0])
	if err != nil {
		return err
	}
	driver, err := bundriver.New(ctx, db, []any{(*Item)(nil)}, &bundriver.Options{Prepare: true})
	if err != nil {
		return err
	}
	if err := driver.Migrate(ctx); err != nil {
		return err
	}
	srv, err := server.New(driver, &server.Options{
		CallTimeout: 5 * time.Second,
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	srv.Service("item").Publish(server.To("all"))
	handler := socketio.NewHandler(srv, &socketio.Options{PingInterval: 2 * time.Second, PingTimeout: 2 * time.Second})
	l, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(l, handler) }()
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}
