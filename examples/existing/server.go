// Command existing is an ordinary program on net/http and bun, a ticket tracker
// with a REST interface and tables of its own, to which Tidemark was added: this
// file is the program as it was, tidemark.go is what was added.
//
//	go run ./examples/existing                                  # on the file tickets.db
//	go run ./examples/existing -db postgres://localhost/tickets
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark/examples/internal/database"
)

// Ticket is what the program is about.
type Ticket struct {
	bun.BaseModel `bun:"table:ticket" json:"-"`

	UID      string  `bun:"uid,pk,type:text" json:"uid"`
	Title    string  `bun:"title,type:text,notnull" json:"title"`
	Status   string  `bun:"status,type:text,notnull,default:'open'" json:"status"`
	Assignee *string `bun:"assignee,type:text" json:"assignee"`
}

// Entry is a line of the history: who did what to a ticket, when.
type Entry struct {
	bun.BaseModel `bun:"table:history" json:"-"`

	ID     int64     `bun:"id,pk,autoincrement" json:"id"`
	Ticket string    `bun:"ticket,type:text,notnull" json:"ticket"`
	Who    string    `bun:"who,type:text,notnull" json:"who"`
	Did    string    `bun:"did,type:text,notnull" json:"did"`
	At     time.Time `bun:"at,notnull" json:"at"`
}

// app is the program over its database.
type app struct {
	db *bun.DB
	// inTx and set are how the routes write: tickets in one transaction with the history.
	inTx func(ctx context.Context, fn func(ctx context.Context, tx bun.Tx) error) error
	set  func(ctx context.Context, tx bun.Tx, uid string, columns map[string]any) error
	stop []func(context.Context) error
}

func newApp(db *bun.DB) *app {
	a := &app{db: db, set: setColumns}
	a.inTx = func(ctx context.Context, fn func(context.Context, bun.Tx) error) error {
		return db.RunInTx(ctx, nil, fn)
	}
	return a
}

// setColumns sets columns of a ticket, and creates it when it is new.
func setColumns(ctx context.Context, tx bun.Tx, uid string, columns map[string]any) error {
	res, err := tx.NewUpdate().Model(&columns).Table("ticket").Where("uid = ?", uid).Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	columns["uid"] = uid
	_, err = tx.NewInsert().Model(&columns).Table("ticket").Exec(ctx)
	return err
}

func (a *app) createTables(ctx context.Context) error {
	_, err1 := a.db.NewCreateTable().Model((*Ticket)(nil)).IfNotExists().Exec(ctx)
	_, err2 := a.db.NewCreateTable().Model((*Entry)(nil)).ColumnExpr("CHECK (who <> '')").IfNotExists().Exec(ctx)
	return errors.Join(err1, err2)
}

func (a *app) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tickets", list[Ticket](a, "uid"))
	mux.HandleFunc("GET /history", list[Entry](a, "id"))
	mux.HandleFunc("POST /tickets", func(w http.ResponseWriter, r *http.Request) {
		a.change(w, r, uuid.Must(uuid.NewV7()).String(), "created")
	})
	mux.HandleFunc("PATCH /tickets/{uid}", func(w http.ResponseWriter, r *http.Request) {
		a.change(w, r, r.PathValue("uid"), "changed")
	})
	return mux
}

// change sets the columns that the request's body has, and writes down who did it.
func (a *app) change(w http.ResponseWriter, r *http.Request, uid, did string) {
	var columns map[string]any
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&columns); err != nil || columns == nil {
		http.Error(w, "the body is not an object", http.StatusBadRequest)
		return
	}
	for name := range columns {
		if name != "title" && name != "status" && name != "assignee" {
			http.Error(w, "a ticket has title, status and assignee", http.StatusBadRequest)
			return
		}
	}
	var before, after Ticket
	err := a.inTx(r.Context(), func(ctx context.Context, tx bun.Tx) error {
		if did == "changed" {
			if err := tx.NewSelect().Model(&before).Where("uid = ?", uid).Scan(ctx); err != nil {
				return err
			}
		} else if columns["status"] == nil {
			columns["status"] = "open"
		}
		if err := a.set(ctx, tx, uid, columns); err != nil {
			return err
		}
		entry := &Entry{Ticket: uid, Who: r.Header.Get("From"), Did: did, At: time.Now()}
		if _, err := tx.NewInsert().Model(entry).Exec(ctx); err != nil {
			return err
		}
		return tx.NewSelect().Model(&after).Where("uid = ?", uid).Scan(ctx)
	})
	answer(w, after, err)
}

func list[T any](a *app, order string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rows := []T{}
		err := a.db.NewSelect().Model(&rows).OrderBy(order, bun.OrderAsc).Scan(r.Context())
		answer(w, rows, err)
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, sql.ErrNoRows):
		http.Error(w, "there is no such ticket", http.StatusNotFound)
	case err != nil:
		log.Print(err)
		http.Error(w, "the database refuses that", http.StatusUnprocessableEntity)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8000", "address to listen on")
	dsn := flag.String("db", "tickets.db", "a postgres:// DSN, or the path of a SQLite file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *dsn); err != nil {
		fmt.Fprintln(os.Stderr, "existing:", err)
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
	a := newApp(db)
	if err := a.createTables(ctx); err != nil {
		return err
	}
	mux := a.routes()
	if err := a.addTidemark(ctx, mux); err != nil {
		return err
	}
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
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, stop := range append(a.stop, web.Shutdown) {
		err = errors.Join(err, stop(grace))
	}
	return err
}
