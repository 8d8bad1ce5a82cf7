package client_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func openFile(t testing.TB, path string) tidemark.Store {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSN(path))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); db.Close() })
	return store
}

func openOn(t testing.TB, store tidemark.Store, dialer tidemark.Dialer, opts *client.Options) (*client.Client, *client.Model[Item]) {
	t.Helper()
	c, err := client.Open(t.Context(), store, dialer, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	items, err := client.NewModel[Item](t.Context(), c, "item", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, items
}

func TestClientOnAFileAgainstTheRealServer(t *testing.T) {
	t.Parallel()
	schema, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text, Required: true}, {Name: "score", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(drivermemory.New(schema), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	p := pipe.New(srv, nil)
	defer p.Close()
	path := filepath.Join(t.TempDir(), "a.db")

	first, items := openOn(t, openFile(t, path), p, &client.Options{Offline: true})
	for i := range 100 {
		if _, err := items.Create(t.Context(), Item{UID: fmt.Sprintf("u%03d", i), Label: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := items.Update(t.Context(), "u007", client.Patch{"label": "y"}); err != nil {
		t.Fatal(err)
	}
	if _, err := items.Register(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	first.Close()

	second, items := openOn(t, openFile(t, path), p, nil)
	if err := second.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := second.Status(); s.Pending != 0 || s.Scopes != 1 || s.Rejected != 0 {
		t.Errorf("the status is %+v", s)
	}
	other, theirs := openOn(t, openFile(t, filepath.Join(t.TempDir(), "b.db")), p, nil)
	if _, err := theirs.Register(t.Context(), tidemark.Where{"label": "y"}); err != nil {
		t.Fatal(err)
	}
	if err := other.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := theirs.FindWhere(t.Context(), nil)
	if err != nil || len(got) != 1 || got[0].UID != "u007" {
		t.Errorf("the other device has %v, %v", got, err)
	}
	if all, err := items.FindWhere(t.Context(), nil); err != nil || len(all) != 100 {
		t.Errorf("the first device has %d rows, %v", len(all), err)
	}
}

// Article is the row of the workloads.
type Article struct {
	UID     string    `json:"uid"`
	Title   string    `json:"title"`
	Content string    `json:"content"`
	ListID  string    `json:"list_id" tidemark:"index"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

func BenchmarkLocal(b *testing.B) {
	c, err := client.Open(b.Context(), openFile(b, filepath.Join(b.TempDir(), "bench.db")), nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	articles, err := client.NewModel[Article](b.Context(), c, "article", nil)
	if err != nil {
		b.Fatal(err)
	}
	const rows = 5000
	n, uids := 0, make([]string, rows)
	create := func(uid string) error {
		n++
		_, err := articles.Create(b.Context(), Article{UID: uid, Title: "twenty characters ..", Content: strings.Repeat("content ", 25),
			ListID: fmt.Sprintf("list-%d", n%(rows/100)), Created: time.Now(), Updated: time.Now()})
		return err
	}
	for i := range uids {
		uids[i] = fmt.Sprintf("uid-%06d", i)
		if err := create(uids[i]); err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, fn func(i int) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := fn(i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("find by uid", func(i int) error { _, err := articles.FindByUID(b.Context(), uids[i%rows]); return err })
	run("find 100 where", func(i int) error {
		got, err := articles.FindWhere(b.Context(), tidemark.Where{"list_id": fmt.Sprintf("list-%d", i%(rows/100))})
		if err == nil && len(got) < 100 {
			return fmt.Errorf("found %d", len(got))
		}
		return err
	})
	run("create", func(int) error { return create("") })
	run("update", func(i int) error {
		_, err := articles.Update(b.Context(), uids[i%rows], client.Patch{"title": fmt.Sprint("title ", i)})
		return err
	})
}
