package drivertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

var ends = []check{
	{"close", "Close is idempotent; afterwards everything returns ErrClosed", func(t *testing.T, h Harness) {
		for range 2 {
			if err := h.Driver.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		}
		for name, err := range h.all(t, context.Background()) {
			if !errors.Is(err, tidemark.ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", name, err)
			}
		}
	}},
	{"a context that has ended", "every method returns the context's error, and nothing is written", func(t *testing.T, h Harness) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for name, err := range h.all(t, ctx) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want context.Canceled", name, err)
			}
		}
		if rows := h.find(t, "list", tidemark.Where{}); len(rows) != 0 {
			t.Errorf("%d rows were written", len(rows))
		}
	}},
	{"what a driver returns is the caller's", "changing a returned row or slice changes nothing in the driver", func(t *testing.T, h Harness) {
		m := h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10)
		o := h.write(t, m)[0]
		clear(o.Row)
		clear(m.Data)
		clear(h.find(t, "list", tidemark.Where{})[0])
		clear(h.Driver.Models())
		if got := string(h.get(t, "list", "a").Row.Get("title")); got != `"x"` {
			t.Errorf("the title is %s", got)
		}
	}},
}

// all calls every method with ctx and returns their errors.
func (h Harness) all(t *testing.T, ctx context.Context) map[string]error {
	t.Helper()
	p := h.compile(t, "list", tidemark.Where{})
	_, find := h.Driver.Find(ctx, p, 0)
	_, snapshot := h.Driver.Snapshot(ctx, p, []string{"a"})
	_, write := h.Driver.Write(ctx, []tidemark.Mutation{h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10)})
	errs := map[string]error{"Find": find, "Snapshot": snapshot, "Write": write, "Migrate": h.Driver.Migrate(ctx)}
	if d, ok := h.Driver.(tidemark.LogDriver); ok {
		_, errs["Horizon"] = d.Horizon(ctx)
		_, errs["Pull"] = d.Pull(ctx, tidemark.Pull{Scope: p, Limit: 1, Bytes: 1})
		_, errs["Push"] = d.Push(ctx, batch("c", 1, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10)), nil)
		_, errs["Known"] = d.Known(ctx, "c")
		_, errs["Purge"] = d.Purge(ctx, time.Now())
	}
	return errs
}
