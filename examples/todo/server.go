package main

import (
	"context"
	"database/sql"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// everybody is the channel that all sessions join: here, everyone sees all lists.
const everybody = "everybody"

// backend is the server half: a database, the services over it, and the socket.
type backend struct {
	db     *bun.DB
	driver *bundriver.Driver
	server *server.Server
	socket *socketio.Handler
}

func openBackend(ctx context.Context, dsn string, log *slog.Logger) (b *backend, err error) {
	b = &backend{}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.db, err = openDatabase(dsn); err != nil {
		return b, err
	}
	if err = createTables(ctx, b.db); err != nil {
		return b, err
	}
	if b.driver, err = bundriver.New(ctx, b.db, []any{(*List)(nil), (*Item)(nil)}, &bundriver.Options{Logger: log}); err != nil {
		return b, err
	}
	if err = b.driver.Migrate(ctx); err != nil {
		return b, err
	}
	if b.server, err = server.New(b.driver, &server.Options{Logger: log}); err != nil {
		return b, err
	}
	b.server.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join(everybody)
		return nil
	})
	for _, model := range []string{"list", "item"} {
		service := b.server.Service(model)
		service.Before(checkText, tidemark.MethodCreate, tidemark.MethodUpdate)
		service.Publish(server.To(everybody))
	}
	b.socket = socketio.NewHandler(b.server, &socketio.Options{Logger: log, CheckOrigin: noBrowser})
	return b, nil
}

// Shutdown lets running calls finish, for a moment, and closes everything.
func (b *backend) Shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = b.server.Shutdown(ctx)
	_ = b.socket.Shutdown(ctx)
	b.Close()
}

func (b *backend) Close() {
	if b.socket != nil {
		b.socket.Close()
	}
	if b.server != nil {
		b.server.Close()
	}
	if b.driver != nil {
		b.driver.Close()
	}
	if b.db != nil {
		b.db.Close()
	}
}

// openDatabase opens PostgreSQL for a postgres:// address, else a SQLite file.
func openDatabase(dsn string) (*bun.DB, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
		return bun.NewDB(stdlib.OpenDB(*config), pgdialect.New()), nil
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: dsn, RawQuery: "_journal_mode=WAL&_busy_timeout=5000&_foreign_keys=on"}
	db, err := sql.Open("sqlite3", file.String())
	if err != nil {
		return nil, err
	}
	return bun.NewDB(db, sqlitedialect.New()), nil
}

// createTables makes the application's own tables. Tidemark adds its metadata
// beside them (see Migrate) and changes nothing of theirs.
func createTables(ctx context.Context, db *bun.DB) error {
	if _, err := db.NewCreateTable().Model((*List)(nil)).IfNotExists().Exec(ctx); err != nil {
		return err
	}
	_, err := db.NewCreateTable().Model((*Item)(nil)).IfNotExists().
		ForeignKey(`("list_uid") REFERENCES "list" ("uid")`).Exec(ctx)
	return err
}

// maxText is how many characters a name or a title may have.
const maxText = 80

// checkText is the rule of the house. A device learns of it when its write
// arrives, perhaps hours later: it then takes the write back and shows why.
func checkText(_ context.Context, c *server.Call) error {
	var data struct{ Name, Title *string }
	if err := c.Arg(1, &data); err != nil {
		return err
	}
	for field, text := range map[string]*string{"name": data.Name, "title": data.Title} {
		switch {
		case text == nil:
		case strings.TrimSpace(*text) == "":
			return tidemark.NewError("text-empty", "the %s must not be empty", field).OnField(field)
		case utf8.RuneCountInString(*text) > maxText:
			return tidemark.NewError("text-too-long", "the %s has more than %d characters", field, maxText).OnField(field)
		}
	}
	return nil
}

// noBrowser admits devices and no web page: a browser always says its origin.
func noBrowser(r *http.Request) bool { return r.Header.Get("Origin") == "" }

// handler serves the socket, and a page that shows both devices side by side.
func (b *backend) handler(home string, devices []frame) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.FileServerFS(files))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		frames := make([]frame, len(devices))
		for i, d := range devices {
			frames[i] = frame{Name: d.Name, URL: urlOf(r, d.Port)}
		}
		render(w, "overview.html", frames)
	})
	outer := http.NewServeMux()
	outer.Handle("/socket.io/", b.socket)
	outer.Handle("/", localOnly(mux, home))
	return outer
}

// frame is a device on the overview page.
type frame struct{ Name, Port, URL string }
