package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/scopeindex"
)

// index is W7: which of many scopes the rows before and after a change are in. The scopes and
// rows are those of BenchmarkChange in internal/scopeindex.
func (b *bench) index(context.Context) error {
	schema, err := tidemark.NewSchema("item", []tidemark.Field{
		{Name: "title", Kind: tidemark.Text}, {Name: "list_id", Kind: tidemark.Text}, {Name: "due", Kind: tidemark.Timestamp}, {Name: "done", Kind: tidemark.Bool},
	})
	if err != nil {
		return err
	}
	for _, n := range []int{10, 100, 1_000, 10_000, 100_000} {
		r := rand.New(rand.NewPCG(1, uint64(n)))
		ix := scopeindex.New(schema)
		for i := range n {
			p, err := drawScope(r, i, n, schema)
			if err != nil {
				return err
			}
			ix.Add(p, int64(i))
		}
		rows := make([]tidemark.Row, 4096)
		for i := range rows {
			rows[i] = fmt.Appendf(nil, `{"uid":"01890a5d-ac96-774b-bcce-%012d","title":"Twenty characters ..","list_id":"list-%06d","due":"%s","done":false}`,
				i, r.IntN(max(n/5, 1)), second(r.IntN(1_000_000)))
		}
		var g goal
		if n == 100_000 {
			g = atMost(2)
		}
		for range b.n {
			took, allocated := lookUp(ix, rows)
			b.report.line("W7", "a change among "+grouped(n)+" scopes", "µs", g).add(took)
			b.report.line("W7", "  allocations, "+grouped(n)+" scopes", "", goal{}).add(allocated)
		}
	}
	return nil
}

// lookUp returns how many microseconds a change takes, and how many allocations.
func lookUp(ix *scopeindex.Index, rows []tidemark.Row) (micros, allocated float64) {
	const changes = 200_000
	into := make([]int64, 0, 4096)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	for i := range changes {
		into = ix.Lookup(rows[2*i%len(rows)], into[:0])
		into = ix.Lookup(rows[(2*i+1)%len(rows)], into)
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	return float64(took.Nanoseconds()) / 1e3 / changes, float64((after.Mallocs - before.Mallocs) / changes)
}

// second is a moment of the million seconds in which rows and ranges lie.
func second(n int) string {
	return string(tidemark.AppendInstant(nil, 1767225600_000000+int64(n)*1_000_000))
}

// drawScope draws the i-th of n: 99 of 100 ask for one of n/5 lists, a third of these with a
// range besides, the others for a range alone.
func drawScope(r *rand.Rand, i, n int, schema *tidemark.Schema) (*tidemark.Predicate, error) {
	var terms []string
	if i%100 != 0 {
		terms = append(terms, fmt.Sprintf(`"list_id":"list-%06d"`, r.IntN(max(n/5, 1))))
	}
	if i%3 == 0 || i%100 == 0 {
		from := r.IntN(1_000_000)
		terms = append(terms, fmt.Sprintf(`"due":{"gte":"%s","lt":"%s"}`, second(from), second(from+1+r.IntN(2000))))
	}
	return tidemark.ParseWhere(schema, []byte("{"+strings.Join(terms, ",")+"}"))
}
