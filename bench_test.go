package tidemark_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// benchRow is the row of docs/performance.md.
var benchRow = tidemark.Row(`{"uid":"01890a5d-ac96-774b-bcce-b302099a8057","title":"Twenty characters ..","content":"` + strings.Repeat("0123456789", 20) +
	`","list_id":"list-000042","created_at":"2026-01-01T00:00:00.123Z","updated_at":"2026-01-01T00:00:00.123456Z"}`)

func benchSchema(b *testing.B) *tidemark.Schema {
	s, err := tidemark.NewSchema("item", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text}, {Name: "content", Kind: tidemark.Text}, {Name: "list_id", Kind: tidemark.Text},
		{Name: "created_at", Kind: tidemark.Timestamp}, {Name: "updated_at", Kind: tidemark.Timestamp},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkMatch(b *testing.B) {
	for _, where := range []string{`{}`, `{"list_id":"list-000042"}`, `{"created_at":{"gte":"2026-01-01T00:00:00Z"},"list_id":"list-000042"}`} {
		p, err := tidemark.ParseWhere(benchSchema(b), []byte(where))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(len(p.Terms()), " terms"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !p.Match(benchRow) {
					b.Fatal("not matched")
				}
			}
		})
	}
}

func BenchmarkParseWhere(b *testing.B) {
	s := benchSchema(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tidemark.ParseWhere(s, []byte(`{"list_id":"list-000042"}`)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReconcile(b *testing.B) {
	entry := &tidemark.ClientEntry{Meta: tidemark.Meta{UID: "u", CreatedAt: 1, UpdatedAt: 5}}
	d := tidemark.Drifted{Selected: true, Present: true, Server: tidemark.Meta{UID: "u", CreatedAt: 1, UpdatedAt: 7}, Client: entry}
	b.ReportAllocs()
	for b.Loop() {
		if tidemark.Reconcile(d).Client != tidemark.ClientUpdate {
			b.Fatal("not updated")
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	meta := tidemark.Meta{UID: "u", CreatedAt: 1, UpdatedAt: 5}
	b.ReportAllocs()
	for b.Loop() {
		if d, err := tidemark.Decide(tidemark.Update, "u", 9, meta, true); err != nil || !d.Applied {
			b.Fatal(d, err)
		}
	}
}

func BenchmarkRebase(b *testing.B) {
	meta := tidemark.Meta{UID: "u", CreatedAt: 1}
	pending := []tidemark.Mutation{{Model: "item", UID: "u", Op: tidemark.Update, Data: tidemark.Row(`{"title":"Another title"}`), Stamp: 9}}
	b.ReportAllocs()
	for b.Loop() {
		if row, _ := tidemark.Rebase(benchRow, meta, pending); len(row) == 0 {
			b.Fatal("no row")
		}
	}
}

func BenchmarkCheckJSON(b *testing.B) {
	b.SetBytes(int64(len(benchRow)))
	b.ReportAllocs()
	for b.Loop() {
		if err := tidemark.CheckJSON(benchRow, tidemark.JSONLimits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendString(b *testing.B) {
	text := strings.Repeat("0123456789", 20)
	b.SetBytes(int64(len(text)))
	buf := make([]byte, 0, 300)
	for b.Loop() {
		buf = tidemark.AppendString(buf[:0], text)
	}
}

func BenchmarkInstant(b *testing.B) {
	b.Run("append", func(b *testing.B) {
		buf := make([]byte, 0, 40)
		for b.Loop() {
			buf = tidemark.AppendInstant(buf[:0], 1767225600123456)
		}
	})
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			if _, err := tidemark.ParseInstant("2026-01-01T00:00:00.123456Z"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSyncResult is the answer to a sync of 10,000 rows, made and read.
func BenchmarkSyncResult(b *testing.B) {
	var r tidemark.SyncResult
	for range 10_000 {
		r.AddClient = append(r.AddClient, tidemark.RowMeta{Row: benchRow, Meta: tidemark.Meta{UID: benchRow.UID(), CreatedAt: 1767225600123456}})
	}
	raw, err := r.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("marshal", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.MarshalJSON(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		b.ReportAllocs()
		for b.Loop() {
			var got tidemark.SyncResult
			if err := got.UnmarshalJSON(raw); err != nil || len(got.AddClient) != 10_000 {
				b.Fatal(err)
			}
		}
	})
}
