package drivertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

var races = []check{
	{"64 writers of one row", "concurrent writers of one row end with the newest", func(t *testing.T, h Harness) {
		outs := h.race(t, 64, func(i int) []tidemark.Mutation {
			n := (i*37 + 11) % 64
			return []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "hot", fmt.Sprintf(`{"n":%d}`, n), tidemark.Stamp(1000+n))}
		})
		for _, o := range outs {
			if o[0].Err != nil {
				t.Errorf("%v", o[0].Err)
			}
		}
		rm := h.get(t, "note", "hot")
		if string(rm.Row.Get("n")) != "63" || rm.Meta.CreatedAt != 1063 {
			t.Errorf("got %s %+v, want n 63 of stamp 1063", rm.Row, rm.Meta)
		}
	}},
	{"writes, updates and deletes of few rows", "whatever the order of arrival, a row ends as its newest write says", func(t *testing.T, h Harness) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rnd := rand.New(rand.NewPCG(seed, 0))
		newest := map[string]tidemark.Mutation{}
		plans := make([][]tidemark.Mutation, 24)
		stamp := tidemark.Stamp(0)
		for _, n := range rnd.Perm(24 * 20) {
			uid := fmt.Sprintf("u%d", rnd.IntN(5))
			stamp++
			m := h.mutation(t, tidemark.Delete, "note", uid, "", stamp)
			switch rnd.IntN(3) {
			case 0:
				m = h.mutation(t, tidemark.Create, "note", uid, fmt.Sprintf(`{"n":%d}`, stamp), stamp)
			case 1:
				m = h.mutation(t, tidemark.Update, "note", uid, fmt.Sprintf(`{"n":%d}`, stamp), stamp)
			}
			newest[uid] = m
			plans[n%24] = append(plans[n%24], m)
		}
		for _, p := range plans {
			rnd.Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
		}
		h.race(t, len(plans), func(i int) []tidemark.Mutation { return plans[i] })
		for uid, m := range newest {
			rm := h.get(t, "note", uid)
			if rm.Meta.T() != m.Stamp || rm.Meta.Deleted() != (m.Op == tidemark.Delete) || (rm.Row != nil) != (m.Op != tidemark.Delete) {
				t.Errorf("%s: %s %+v, want what %s at %d makes", uid, rm.Row, rm.Meta, m.Op, m.Stamp)
			}
			if rm.Row != nil && string(rm.Row.Get("n")) != fmt.Sprint(int64(m.Stamp)) {
				t.Errorf("%s: n is %s, want %d", uid, rm.Row.Get("n"), m.Stamp)
			}
		}
	}},
	{"two models race for a uid", "one of them gets it, the other is told uid-taken", func(t *testing.T, h Harness) {
		for i := range 10 {
			uid := fmt.Sprintf("u%d", i)
			outs := h.race(t, 2, func(i int) []tidemark.Mutation {
				if i == 0 {
					return []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", uid, `{}`, 10)}
				}
				return []tidemark.Mutation{h.mutation(t, tidemark.Create, "list", uid, `{"title":"x"}`, 10)}
			})
			a, b := outs[0][0], outs[1][0]
			if a.Applied == b.Applied || codeOf(a)+codeOf(b) != tidemark.CodeUIDTaken {
				t.Errorf("%s: %+v and %+v", uid, a, b)
			}
		}
	}},
	{"batches in opposite orders", "batches that touch the same rows in different orders all succeed", func(t *testing.T, h Harness) {
		const rows = 30
		h.race(t, 8, func(i int) []tidemark.Mutation {
			var ms []tidemark.Mutation
			for k := range rows {
				n := k
				if i%2 == 1 {
					n = rows - 1 - k
				}
				op, data := tidemark.Create, fmt.Sprintf(`{"n":%d}`, i)
				if n%3 == 0 {
					op = tidemark.Update
				}
				ms = append(ms, h.mutation(t, op, "note", fmt.Sprintf("u%02d", n), data, tidemark.Stamp(100+i)))
			}
			return ms
		})
		for _, r := range h.find(t, "note", tidemark.Where{}) {
			if string(r.Get("n")) != "7" {
				t.Errorf("%s", r)
			}
		}
	}},
	{"a snapshot during writes", "a snapshot shows a batch whole or not at all", func(t *testing.T, h Harness) {
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{"n":0}`, 1), h.mutation(t, tidemark.Create, "note", "b", `{"n":0}`, 1))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 2; i < 60; i++ {
				data := fmt.Sprintf(`{"n":%d}`, i)
				h.write(t, h.mutation(t, tidemark.Update, "note", "a", data, tidemark.Stamp(i)), h.mutation(t, tidemark.Update, "note", "b", data, tidemark.Stamp(i)))
			}
		}()
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			s := h.snapshot(t, "note", tidemark.Where{"uid": "a"}, "b")
			if len(s.Selected) != 1 || len(s.Others) != 1 || s.Selected[0].Meta.T() != s.Others[0].Meta.T() ||
				string(s.Selected[0].Row.Get("n")) != string(s.Others[0].Row.Get("n")) {
				t.Fatalf("torn: %+v", s)
			}
		}
	}},
}

// race runs n batches at once, and returns their outcomes.
func (h Harness) race(t *testing.T, n int, batch func(i int) []tidemark.Mutation) [][]tidemark.Outcome {
	t.Helper()
	outs := make([][]tidemark.Outcome, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		ms := batch(i)
		wg.Go(func() {
			<-start
			o, err := h.Driver.Write(context.Background(), ms)
			if err != nil {
				t.Errorf("batch %d: %v", i, err)
				o = make([]tidemark.Outcome, len(ms))
			}
			outs[i] = o
		})
	}
	close(start)
	wg.Wait()
	return outs
}
