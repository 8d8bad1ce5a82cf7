// Package database opens what the examples' -db flag names.
package database

import (
	"database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

// Open opens a server's database: a postgres:// DSN, or the path of a SQLite
// file, which is created when it is absent. The caller closes it.
func Open(dsn string) (*bun.DB, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		cfg, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // what bun sends is never the same text twice
		return bun.NewDB(stdlib.OpenDB(*cfg), pgdialect.New()), nil
	}
	db, err := sql.Open("sqlite3", "file:"+dsn+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_foreign_keys=on")
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := db.Ping(); err != nil {
		db.Close()
		if strings.Contains(err.Error(), "requires cgo") {
			return nil, fmt.Errorf("SQLite needs cgo: install gcc (apt-get install gcc) and run with CGO_ENABLED=1, or give -db a postgres:// DSN")
		}
		return nil, fmt.Errorf("database: %w", err)
	}
	return bun.NewDB(db, sqlitedialect.New()), nil
}
