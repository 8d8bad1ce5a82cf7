package sqlite_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// TestModelsAreViews: an application reads, joins and aggregates the visible rows in SQL.
func TestModelsAreViews(t *testing.T) {
	t.Parallel()
	s, db := open(t, file(t), nil)
	schema, err := tidemark.NewSchema("order", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text, Indexed: true},
		{Name: "qty", Kind: tidemark.Integer},
		{Name: "price", Kind: tidemark.Double},
		{Name: "done", Kind: tidemark.Bool},
		{Name: "due", Kind: tidemark.Timestamp},
		{Name: "extra", Kind: tidemark.JSON},
		{Name: `a.b \ [0] 日`, Kind: tidemark.Text},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Declare(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	row := tidemark.Row(`{"uid":"a","title":"it's","qty":9007199254740993,"price":0.5,"done":true,"due":"2026-01-31T10:00:00.250Z","extra":{"k":[1]},"a.b \\ [0] 日":"odd"}`)
	hidden := tidemark.Row(`{"uid":"b","title":"hidden"}`)
	err = s.Update(t.Context(), func(tx tidemark.StoreTx) error {
		return tx.Put("order", []tidemark.Record{{UID: "a", Row: row, Pending: 1}, {UID: "b", Base: hidden, Pending: 1},
			{UID: "c", Meta: tidemark.Meta{UID: "c", DeletedAt: 5}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	var uid, title, month, extra, odd string
	var qty int64
	var price float64
	var done int
	err = db.QueryRow(`SELECT uid, title, qty, price, done, strftime('%Y-%m', due), extra, "a.b \ [0] 日" FROM "order"`).
		Scan(&uid, &title, &qty, &price, &done, &month, &extra, &odd)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(uid, title, qty, price, done, month, extra, odd)
	if want := fmt.Sprint("a", "it's", 9007199254740993, 0.5, 1, "2026-01", `{"k":[1]}`, "odd"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var n int
	if err := db.QueryRow(`SELECT count(*) FROM "order"`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows are visible (%v), want 1", n, err)
	}
}

// TestViewsFollowTheSchema, also when a view of the application's is built on one.
func TestViewsFollowTheSchema(t *testing.T) {
	t.Parallel()
	s, db := open(t, file(t), nil)
	if err := s.Declare(t.Context(), itemSchema(t, false)); err != nil {
		t.Fatal(err)
	}
	put(t, s, tidemark.Row(`{"uid":"a","name":"n","colour":"red"}`))
	if _, err := db.Exec("CREATE VIEW mine AS SELECT uid, name FROM item"); err != nil {
		t.Fatal(err)
	}
	changed, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "name", Kind: tidemark.Text, Indexed: true}, {Name: "colour", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Declare(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	var colour, name string
	if err := db.QueryRow("SELECT item.colour, mine.name FROM item JOIN mine USING (uid)").Scan(&colour, &name); err != nil || colour != "red" || name != "n" {
		t.Errorf("%q, %q, %v", colour, name, err)
	}
}

// TestTheApplicationsTablesAreNotTouched: a model whose name the file uses already is refused.
func TestTheApplicationsTablesAreNotTouched(t *testing.T) {
	t.Parallel()
	s, db := open(t, file(t), nil)
	if _, err := db.Exec("CREATE TABLE Notes (x); INSERT INTO Notes VALUES (1); CREATE VIEW v AS SELECT 1 AS one"); err != nil {
		t.Fatal(err)
	}
	declare := func(name string) error {
		schema, err := tidemark.NewSchema(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.Declare(t.Context(), schema)
	}
	if err := declare("Post"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"notes", "Notes", "v", "post", "sqlite_x", "tidemark_outbox", "Tidemark_x"} {
		if err := declare(name); tidemark.CodeOf(err) != tidemark.CodeUnknownModel || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := declare("Post"); err != nil {
		t.Errorf("declared again: %v", err)
	}
	var n int
	if err := db.QueryRow("SELECT x + one FROM Notes, v").Scan(&n); err != nil || n != 2 {
		t.Errorf("the application's table: %d, %v", n, err)
	}
}

// TestTheHandleIsFreeForTheApplication while the store works, whatever the number of its connections.
func TestTheHandleIsFreeForTheApplication(t *testing.T) {
	t.Parallel()
	for _, connections := range []int{1, 2, 3, 4, 0} {
		t.Run(fmt.Sprint(connections, " connections"), func(t *testing.T) {
			t.Parallel()
			s, db := openWith(t, file(t), connections, nil)
			if err := s.Declare(t.Context(), itemSchema(t, true)); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				put(t, s, tidemark.Row(`{"uid":"a"}`))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				var n int
				err := db.QueryRowContext(ctx, "SELECT count(*) FROM item").Scan(&n)
				cancel()
				if err != nil || n != 1 {
					t.Fatalf("%d rows, %v", n, err)
				}
			}
		})
	}
}
