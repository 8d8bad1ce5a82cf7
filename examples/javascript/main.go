// Command javascript is a web page that works on a Tidemark server with nothing
// but the published socket.io-client: no package, no build step. Open it in two
// tabs, take one offline, edit in both, take it back online.
//
//	go run ./examples/javascript                                  # on the file javascript.db
//	go run ./examples/javascript -db postgres://localhost/guide   # on the guide's own table
//
// static/model.js is the client of the guide's protocol, static/page.js the page.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
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

// Post is the guide's model, as in examples/guide.
type Post struct {
	bun.BaseModel `bun:"table:post"`

	UID     string  `bun:"uid,pk,type:text"`
	Title   string  `bun:"title,type:text,notnull"`
	Content *string `bun:"content,type:text"`
}

//go:embed static
var files embed.FS

func main() {
	addr := flag.String("addr", "127.0.0.1:8000", "`address` to listen on")
	dsn := flag.String("db", "javascript.db", "a postgres:// DSN, or the path of a SQLite `file`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", *addr)
	if err == nil {
		fmt.Printf("open http://%s/ in two tabs\n", listener.Addr())
		err = run(ctx, listener, *dsn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "javascript:", err)
		os.Exit(1)
	}
}

// run serves the page and the socket until ctx ends.
func run(ctx context.Context, listener net.Listener, dsn string) error {
	defer listener.Close()
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

	socket := socketio.NewHandler(srv, &socketio.Options{CheckOrigin: ownPages})
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", socket)
	mux.Handle("/", pages())
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(srv.Shutdown(grace), socket.Shutdown(grace), web.Shutdown(grace))
}

// newServer registers the model; everybody hears of all writes.
func newServer(ctx context.Context, db *bun.DB) (*server.Server, error) {
	if _, err := db.NewCreateTable().Model((*Post)(nil)).IfNotExists().Exec(ctx); err != nil {
		return nil, fmt.Errorf("creating the table: %w", err)
	}
	driver, err := bundriver.New(ctx, db, []any{(*Post)(nil)}, nil)
	if err != nil {
		return nil, err
	}
	if err := driver.Migrate(ctx); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	srv, err := server.New(driver, &server.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	srv.Service("post").Publish(server.To("all"))
	return srv, nil
}

// ownPages admits our page and programs, and no page of another site.
func ownPages(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	u, err := url.Parse(origin)
	return origin == "" || err == nil && u.Host == r.Host
}

// pages serves the folder static, and lets its page load nothing from elsewhere.
func pages() http.Handler {
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // the folder is in the program
	}
	serve := http.FileServerFS(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		serve.ServeHTTP(w, r)
	})
}
