package scopeindex_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/scopeindex"
)

func benchSchema(b *testing.B) *tidemark.Schema {
	s, err := tidemark.NewSchema("item", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text}, {Name: "list_id", Kind: tidemark.Text}, {Name: "due", Kind: tidemark.Timestamp}, {Name: "done", Kind: tidemark.Bool},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// second is a moment of the million seconds in which rows and ranges lie.
func second(n int) string {
	return string(tidemark.AppendInstant(nil, 1767225600_000000+int64(n)*1_000_000))
}

// scope draws the i-th of n: 99 of 100 ask for one of n/5 lists, a third of these with a
// range besides, the others for a range alone.
func scope(r *rand.Rand, i, n int) string {
	var terms []string
	if i%100 != 0 {
		terms = append(terms, fmt.Sprintf(`"list_id":"list-%06d"`, r.IntN(max(n/5, 1))))
	}
	if i%3 == 0 || i%100 == 0 {
		from := r.IntN(1_000_000)
		terms = append(terms, fmt.Sprintf(`"due":{"gte":"%s","lt":"%s"}`, second(from), second(from+1+r.IntN(2000))))
	}
	return "{" + strings.Join(terms, ",") + "}"
}

func benchRows(r *rand.Rand, n int) []tidemark.Row {
	rows := make([]tidemark.Row, 4096)
	for i := range rows {
		rows[i] = tidemark.Row(fmt.Sprintf(`{"uid":"01890a5d-ac96-774b-bcce-%012d","title":"Twenty characters ..","list_id":"list-%06d","due":"%s","done":false}`,
			i, r.IntN(max(n/5, 1)), second(r.IntN(1_000_000))))
	}
	return rows
}

var sizes = []int{10, 100, 1_000, 10_000, 100_000}

// BenchmarkChange looks up both images of a change: the row before and the row after.
func BenchmarkChange(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n, " scopes"), func(b *testing.B) {
			s, r := benchSchema(b), rand.New(rand.NewPCG(1, uint64(n)))
			ix := scopeindex.New(s)
			for i := range n {
				ix.Add(parse(b, s, scope(r, i, n)), int64(i))
			}
			rows := benchRows(r, n)
			into, found, i := make([]int64, 0, 1024), 0, 0
			b.ReportAllocs()
			for b.Loop() {
				into = ix.Lookup(rows[i&4095], into[:0])
				into = ix.Lookup(rows[(i+1)&4095], into)
				found += len(into)
				i += 2
			}
			b.ReportMetric(float64(found)/float64(b.N), "found/op")
		})
	}
}

// BenchmarkAddRemove takes one predicate out of many and files it again.
func BenchmarkAddRemove(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n, " scopes"), func(b *testing.B) {
			s, r := benchSchema(b), rand.New(rand.NewPCG(1, uint64(n)))
			ix, filed := scopeindex.New(s), make([]*tidemark.Predicate, n)
			for i := range filed {
				filed[i] = parse(b, s, scope(r, i, n))
				ix.Add(filed[i], int64(i))
			}
			i := 0
			for b.Loop() {
				ix.Remove(filed[i%n], int64(i%n))
				ix.Add(filed[i%n], int64(i%n))
				i += 37
			}
		})
	}
}
