package pgtest_test

import (
	"context"
	"testing"

	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a, b := pgtest.Open(t), pgtest.Open(t)
	if _, err := a.ExecContext(ctx, `CREATE TABLE here (n int)`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ExecContext(ctx, `SELECT * FROM here`); err == nil {
		t.Error("the table of one database is there in another")
	}
	var encoding string
	if err := b.QueryRowContext(ctx, `SHOW server_encoding`).Scan(&encoding); err != nil || encoding != "UTF8" {
		t.Errorf("encoding %q, %v; want UTF8", encoding, err)
	}
}
