package client

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// benchItem is the row of docs/performance.md.
type benchItem struct {
	UID       string    `json:"uid"`
	Title     string    `json:"title"`
	Content   string    `json:"content"`
	ListID    string    `json:"list_id" tidemark:"index"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

var benchRow = tidemark.Row(`{"uid":"01890a5d-ac96-774b-bcce-b302099a8057","title":"Twenty characters ..","content":"` + strings.Repeat("0123456789", 20) +
	`","list_id":"list-000042","created_at":"2026-01-01T00:00:00.123Z","updated_at":"2026-01-01T00:00:00.123456Z"}`)

func benchCodec(b *testing.B) *codec {
	c, err := compile[benchItem]("item")
	if err != nil {
		b.Fatal(err)
	}
	if c.schema, err = tidemark.NewSchema("item", c.columns()); err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkCodec(b *testing.B) {
	c := benchCodec(b)
	var x benchItem
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := c.decode(benchRow, &x); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.encode(x.UID, &x); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("patch", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.patch(x.UID, Patch{"title": "Another title"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSynced reads the answer to a sync of 10,000 rows.
func BenchmarkSynced(b *testing.B) {
	c := benchCodec(b)
	var r tidemark.SyncResult
	for range 10_000 {
		r.AddClient = append(r.AddClient, tidemark.RowMeta{Row: benchRow, Meta: tidemark.Meta{UID: benchRow.UID(), CreatedAt: 1767225600123456}})
	}
	raw, err := r.MarshalJSON()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (guide{}).synced(c.schema, raw); err != nil {
			b.Fatal(err)
		}
	}
}
