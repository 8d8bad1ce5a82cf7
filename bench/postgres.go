package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-sync/tidemark/internal/pgserver"
)

// postgres is a PostgreSQL in which the bench makes databases of its own.
type postgres struct {
	dsn    string
	server *pgserver.Server // nil when it is somebody else's
	made   int
}

func openPostgres(dsn string) (*postgres, error) {
	if dsn != "" {
		return &postgres{dsn: dsn}, nil
	}
	s, err := pgserver.Start("shared_buffers=256MB")
	if err != nil {
		return nil, fmt.Errorf("%w (or give -pg DSN, or -db sqlite)", err)
	}
	return &postgres{dsn: s.DSN(), server: s}, nil
}

func (p *postgres) close() {
	if p.server != nil {
		p.server.Stop()
	}
}

// database creates an empty database and returns its address.
func (p *postgres) database(ctx context.Context) (dsn string, drop func(), err error) {
	u, err := url.Parse(p.dsn)
	if err != nil {
		return "", nil, fmt.Errorf("the address of PostgreSQL must be a URL: %w", err)
	}
	p.made++
	name := fmt.Sprintf("tidemark_bench_%d_%d", os.Getpid(), p.made)
	if err := p.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'"); err != nil {
		return "", nil, err
	}
	u.Path = "/" + name
	return u.String(), func() {
		_ = p.exec(context.WithoutCancel(ctx), "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	}, nil
}

func (p *postgres) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, p.dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// database returns the address of a fresh database of the engine.
func (b *bench) database(ctx context.Context, engine string) (dsn string, drop func(), err error) {
	switch engine {
	case "postgres":
		return b.postgres.database(ctx)
	case "sqlite":
		path, err := b.file("server")
		return path, func() { removeFile(path) }, err
	}
	return "", nil, fmt.Errorf("unknown database %q", engine)
}

// file returns a path for a SQLite file that does not exist.
func (b *bench) file(name string) (string, error) {
	f, err := os.CreateTemp(b.dir, name+"-*.db")
	if err != nil {
		return "", err
	}
	path := f.Name()
	return path, f.Close()
}

func removeFile(path string) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(filepath.Clean(path + suffix))
	}
}
