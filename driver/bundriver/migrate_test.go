package bundriver_test

import (
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

type shadowed struct {
	bun.BaseModel `bun:"table:shadowed"`
	UID           string `bun:"uid,pk,type:text"`
	Title         string `bun:"title,type:text"`
}

// A role has the schema of its own name first on its search_path. Were that our
// schema, the application's next start would create its tables there, empty, in
// front of the real ones.
func TestTheSchemaNeverHidesTheApplicationsTables(t *testing.T) {
	t.Parallel()
	for _, shadow := range []string{`SET search_path = tidemark, public`, `SET search_path = "$user", public`} {
		db := pgtest.Open(t)
		db.SetMaxOpenConns(1) // one session, whose settings hold
		ctx := t.Context()
		start := func(opts *bundriver.Options) (*bundriver.Driver, error) {
			if _, err := db.NewCreateTable().Model((*shadowed)(nil)).IfNotExists().Exec(ctx); err != nil {
				t.Fatal(err)
			}
			d, err := bundriver.New(ctx, db, []any{(*shadowed)(nil)}, opts)
			if err != nil {
				t.Fatal(err)
			}
			return d, d.Migrate(ctx)
		}
		opts := &bundriver.Options{}
		if _, err := db.Exec(shadow); err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow("SELECT current_user").Scan(&opts.Schema); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(shadow, "$user") {
			opts.Schema = ""
		}
		if _, err := start(opts); err == nil || !strings.Contains(err.Error(), "Options.Schema") {
			t.Fatalf("%s: got %v, want a refusal that names the option", shadow, err)
		}
		opts.Schema = "Sync's own"
		d, err := start(opts)
		if err != nil {
			t.Fatal(err)
		}
		write := tidemark.Mutation{Model: "shadowed", UID: "u", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 1}
		if out, err := d.Write(ctx, []tidemark.Mutation{write}); err != nil || !out[0].Applied {
			t.Fatalf("got %+v, %v", out, err)
		}
		d, err = start(opts) // the second start, with our schema in place
		if err != nil {
			t.Fatal(err)
		}
		p, _ := tidemark.Where{}.Compile(d.Models()[0])
		if rows, err := d.Find(ctx, p, 0); err != nil || len(rows) != 1 {
			t.Errorf("%s: after a restart there are %d rows, %v; want 1", shadow, len(rows), err)
		}
	}
}
