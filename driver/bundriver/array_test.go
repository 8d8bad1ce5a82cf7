package bundriver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

// Batches travel as arrays, in binary over pgx and as literals elsewhere: it must not be seen.
func TestBatchesKeepEveryText(t *testing.T) {
	t.Parallel()
	texts := []string{"", "NULL", "null", `"`, `\`, `\"`, "{a,b}", ",", " ", "a\tb\nc", "💥é", "'; DROP TABLE note; --", strings.Repeat("long ", 5000)}
	for name, e := range map[string]engine{"prepared": prepared, "plain": engines[0]} {
		for _, joined := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", joined ", joined), func(t *testing.T) {
				t.Parallel()
				d, _ := e.ready(t)
				ms := []tidemark.Mutation{{Model: "note", UID: "none", Op: tidemark.Create, Data: tidemark.Row(`{"text":null}`), Stamp: 10}}
				for _, text := range texts {
					data := append(tidemark.AppendString(tidemark.Row(`{"text":`), text), '}')
					ms = append(ms, tidemark.Mutation{Model: "note", UID: "uid of " + strings.Map(printable, text[:min(len(text), 100)]), Op: tidemark.Create, Data: data, Stamp: 10})
				}
				write := func(ctx context.Context) error {
					outs, err := d.Write(ctx, ms)
					for i := range outs {
						if !outs[i].Applied || i > 0 && string(outs[i].Row.Get("text")) != string(ms[i].Data.Get("text")) || i == 0 && string(outs[i].Row.Get("text")) != "null" {
							t.Errorf("%s became %+v", ms[i].Data, outs[i])
						}
					}
					return err
				}
				err := write(t.Context())
				if joined {
					for i := range ms {
						ms[i].Op, ms[i].Stamp = tidemark.Update, 20
					}
					err = d.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error { return write(ctx) })
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func printable(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}
