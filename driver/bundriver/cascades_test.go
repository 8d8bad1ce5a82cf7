package bundriver_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark/driver/bundriver"
)

func TestNewWarnsOfCascades(t *testing.T) {
	t.Parallel()
	type parent struct {
		bun.BaseModel `bun:"table:parent"`
		UID           string `bun:"uid,pk,type:text"`
	}
	type child struct {
		bun.BaseModel `bun:"table:child"`
		UID           string  `bun:"uid,pk,type:text"`
		A             *string `bun:"a,type:text"`
		B             *string `bun:"b,type:text"`
		C             *string `bun:"c,type:text"`
		D             *string `bun:"d,type:text"`
	}
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		mustExec(t, db, `CREATE TABLE parent (uid text NOT NULL PRIMARY KEY);
CREATE TABLE alien (uid text NOT NULL PRIMARY KEY);
CREATE TABLE child (uid text NOT NULL PRIMARY KEY, a text REFERENCES parent ON DELETE CASCADE, b text REFERENCES parent ON DELETE SET NULL,
	c text REFERENCES parent, d text REFERENCES alien ON DELETE CASCADE)`)
		var log bytes.Buffer
		d, err := bundriver.New(context.Background(), db, []any{parent{}, child{}}, &bundriver.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if n := strings.Count(log.String(), "foreign key"); n != 2 || !strings.Contains(log.String(), "model=child") ||
			!strings.Contains(log.String(), "on_delete=CASCADE") || !strings.Contains(log.String(), `on_delete="SET NULL"`) {
			t.Errorf("%d warnings, want 2: %s", n, &log)
		}
	})
}
