package bundriver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

func BenchmarkWrite(b *testing.B) {
	for _, e := range append(engines, prepared) {
		for _, n := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s/create/%d", e.name, n), func(b *testing.B) {
				d, _ := e.ready(b)
				data := tidemark.Row(`{"text":"` + strings.Repeat("x", 200) + `","n":1,"at":"2026-01-01T00:00:00.123Z"}`)
				next := 0
				for b.Loop() {
					ms := make([]tidemark.Mutation, n)
					for i := range ms {
						next++
						ms[i] = tidemark.Mutation{Model: "note", UID: fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", next), Op: tidemark.Create, Data: data, Stamp: 10}
					}
					write(b, d, ms...)
				}
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

// BenchmarkPush is a write with metadata, log and verdict: a row of the workload W8, first created, then updated.
func BenchmarkPush(b *testing.B) {
	for _, e := range append(engines, prepared) {
		for _, n := range []int{1, 1000} {
			for _, op := range []tidemark.Op{tidemark.Create, tidemark.Update} {
				b.Run(fmt.Sprintf("%s/%s/%d", e.name, op, n), func(b *testing.B) {
					d, _ := e.ready(b)
					data := tidemark.Row(`{"text":"` + strings.Repeat("x", 200) + `","n":1,"at":"2026-01-01T00:00:00.123Z"}`)
					next := int64(0)
					push := func(op tidemark.Op, modulo int64) {
						ms := make([]tidemark.Mutation, n)
						for i := range ms {
							next++
							ms[i] = tidemark.Mutation{N: next, Model: "note", UID: fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", next%modulo), Op: op, Data: data, Stamp: tidemark.Stamp(10 + next)}
						}
						vs, err := d.Push(context.Background(), &tidemark.Batch{Client: "c", Confirmed: next - int64(n), Mutations: ms}, nil)
						if err != nil || !vs[n-1].Applied {
							b.Fatal(err)
						}
					}
					const rows = 10_000
					if op == tidemark.Update {
						for range max(rows/n, 1) {
							push(tidemark.Create, rows)
						}
					}
					for b.Loop() {
						push(op, map[tidemark.Op]int64{tidemark.Create: 1 << 60, tidemark.Update: rows}[op])
					}
					b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "mutations/s")
				})
			}
		}
	}
}

// One write in a transaction of the application's; compare create/1.
func BenchmarkRunInTx(b *testing.B) {
	for _, e := range append(engines, prepared) {
		b.Run(e.name, func(b *testing.B) {
			d, _ := e.ready(b)
			next := 0
			for b.Loop() {
				next++
				m := tidemark.Mutation{Model: "note", UID: fmt.Sprint("n", next), Op: tidemark.Create, Data: tidemark.Row(`{"n":1}`), Stamp: 10}
				err := d.RunInTx(b.Context(), func(ctx context.Context, _ bun.Tx) error {
					_, err := d.Write(ctx, []tidemark.Mutation{m})
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	const n = 100_000
	for _, e := range engines {
		d, _ := e.ready(b)
		data := tidemark.Row(`{"text":"` + strings.Repeat("x", 200) + `","n":1,"at":"2026-01-01T00:00:00.123Z"}`)
		uids := make([]string, n)
		for at := 0; at < n; at += 5000 {
			ms := make([]tidemark.Mutation, 5000)
			for i := range ms {
				uids[at+i] = fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", at+i)
				ms[i] = tidemark.Mutation{Model: "note", UID: uids[at+i], Op: tidemark.Create, Data: data, Stamp: 10}
			}
			write(b, d, ms...)
		}
		all, err := tidemark.Where{}.Compile(d.Models()[0])
		if err != nil {
			b.Fatal(err)
		}
		b.Run(e.name+"/find", func(b *testing.B) {
			for b.Loop() {
				if rows, err := d.Find(context.Background(), all, 0); err != nil || len(rows) != n {
					b.Fatalf("%d rows, %v", len(rows), err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
		})
		b.Run(e.name+"/snapshot", func(b *testing.B) {
			for b.Loop() {
				if s, err := d.Snapshot(context.Background(), all, uids); err != nil || len(s.Selected) != n {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkBare is the least that a create costs: bun's own insert of the rows, without metadata.
func BenchmarkBare(b *testing.B) {
	for _, e := range engines {
		for _, n := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s/%d", e.name, n), func(b *testing.B) {
				_, db := e.ready(b)
				text, one := strings.Repeat("x", 200), int64(1)
				next := 0
				for b.Loop() {
					rows := make([]Note, n)
					for i := range rows {
						next++
						rows[i] = Note{UID: fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", next), Text: &text, N: &one}
					}
					if _, err := db.NewInsert().Model(&rows).Exec(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}
