package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

// Item is a row of all workloads, at the server.
type Item struct {
	bun.BaseModel `bun:"table:item"`
	UID           string    `bun:"uid,pk,type:text"`
	Title         string    `bun:"title,type:text,notnull"`   // 20 characters
	Content       string    `bun:"content,type:text,notnull"` // 200
	ListID        string    `bun:"list_id,type:text,notnull"` // 100 rows each
	CreatedAt     time.Time `bun:"created_at,notnull"`
	UpdatedAt     time.Time `bun:"updated_at,notnull"`
}

// item is the same row on a device.
type item struct {
	UID       string    `json:"uid"`
	Title     string    `json:"title"`
	Content   string    `json:"content"`
	ListID    string    `json:"list_id" tidemark:"index"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

const letters = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

func text(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return string(b)
}

func listID(i int) string { return fmt.Sprintf("list-%06d", i) }

// makeItems returns n rows, always the same but for their uids and times.
func makeItems(n int) []item {
	r := rand.New(rand.NewPCG(1, 2))
	lists := max(n/100, 1)
	start := time.Now().UTC().Truncate(time.Millisecond)
	items := make([]item, n)
	for i := range items {
		at := start.Add(time.Duration(i) * time.Millisecond)
		items[i] = item{uuid.Must(uuid.NewV7()).String(), text(r, 20), text(r, 200), listID(i % lists), at, at}
	}
	return items
}

// openDatabase opens a server's database.
func openDatabase(dsn string) (*bun.DB, error) {
	if strings.HasPrefix(dsn, "postgres") {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
		db := bun.NewDB(stdlib.OpenDB(*config), pgdialect.New())
		db.SetMaxIdleConns(8)
		return db, nil
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: dsn, RawQuery: "_journal_mode=WAL&_synchronous=FULL&_busy_timeout=5000&_foreign_keys=on"}
	db, err := sql.Open("sqlite3", file.String())
	if err != nil {
		return nil, err
	}
	return bun.NewDB(db, sqlitedialect.New()), nil
}

// fill makes the application's table, with n rows, where it is absent.
func fill(ctx context.Context, db *bun.DB, n int) error {
	if _, err := db.NewSelect().Model((*Item)(nil)).Limit(1).Count(ctx); err == nil {
		return nil
	}
	if _, err := db.NewCreateTable().Model((*Item)(nil)).Exec(ctx); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "CREATE INDEX item_list ON item (list_id)"); err != nil {
		return err
	}
	for page := range slices.Chunk(makeItems(n), 1000) {
		rows := make([]Item, len(page))
		for i, x := range page {
			rows[i] = Item{UID: x.UID, Title: x.Title, Content: x.Content, ListID: x.ListID, CreatedAt: x.CreatedAt, UpdatedAt: x.UpdatedAt}
		}
		if _, err := db.NewInsert().Model(&rows).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}
