package client_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
)

// queued is a file with n writes pending.
func queued(b testing.TB, n int) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "queued.db")
	store := openFile(b, path)
	schema, err := tidemark.NewSchema("article", []tidemark.Field{{Name: "title", Kind: tidemark.Text}, {Name: "content", Kind: tidemark.Text}})
	if err == nil {
		err = store.Declare(b.Context(), schema)
	}
	if err == nil {
		err = store.Update(b.Context(), func(tx tidemark.StoreTx) error {
			ms := make([]tidemark.Mutation, n)
			recs := make([]tidemark.Record, n)
			for i := range ms {
				uid := fmt.Sprintf("uid-%06d", i)
				data := tidemark.Row(fmt.Sprintf(`{"title":"twenty characters ..","content":"%0200d"}`, i))
				ms[i] = tidemark.Mutation{Model: "article", UID: uid, Op: tidemark.Create, Data: data, Stamp: tidemark.Stamp(i + 1)}
				row, _ := tidemark.Rebase(nil, tidemark.Meta{}, ms[i:i+1])
				recs[i] = tidemark.Record{UID: uid, Row: row, Pending: 1}
			}
			if err := tx.Enqueue(ms); err != nil {
				return err
			}
			return tx.Put("article", recs)
		})
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

// BenchmarkOpenWithQueue opens a client with 100,000 writes pending.
func BenchmarkOpenWithQueue(b *testing.B) {
	store := openFile(b, queued(b, 100_000))
	b.ReportAllocs()
	for b.Loop() {
		c, err := client.Open(b.Context(), store, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		if n := c.Status().Pending; n != 100_000 {
			b.Fatalf("%d are pending", n)
		}
		c.Close()
	}
}

// BenchmarkPushQueued pushes 10,000 writes that were queued offline, from one file to a server
// in memory.
func BenchmarkPushQueued(b *testing.B) {
	const n = 10_000
	schema, err := tidemark.NewSchema("article", []tidemark.Field{{Name: "title", Kind: tidemark.Text}, {Name: "content", Kind: tidemark.Text}})
	if err != nil {
		b.Fatal(err)
	}
	type article struct {
		UID     string `json:"uid"`
		Title   string `json:"title"`
		Content string `json:"content"`
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		db := drivermemory.New(schema)
		p := realServer(b, db)
		store := openFile(b, queued(b, n))
		c, err := client.Open(b.Context(), store, p, &client.Options{Offline: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.NewModel[article](b.Context(), c, "article", nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		c.GoOnline()
		if err := c.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if got := db.Len("article"); got != n {
			b.Fatalf("the server has %d rows", got)
		}
		c.Close()
		b.StartTimer()
	}
}
