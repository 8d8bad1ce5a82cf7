package server_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

func TestPushUnits(t *testing.T) {
	t.Parallel()
	denied := tidemark.NewError("my-rule", "no")
	for _, hooked := range []bool{false, true} {
		for name, c := range map[string]struct {
			ms   []tidemark.Mutation
			want []string
			rows int
		}{
			"applied together": {
				unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -9)),
				[]string{"1 applied", "2 applied"}, 2},
			"one is invalid": {
				append(unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{"name":1}`, -9), creation("tag", "c", `{}`, -9)), creation("tag", "d", `{}`, -9)),
				[]string{"1 rejected unit", "2 rejected invalid-data", "3 rejected unit", "4 applied"}, 1},
			"the database refuses one": {
				unit(1, creation("tag", "a", `{}`, -9), creation("post", "b", `{}`, -9)),
				[]string{"1 rejected unit", "2 rejected constraint"}, 0},
			"one is superseded": {
				unit(1, creation("tag", "a", `{}`, -9), update("tag", "a", `{"name":"x"}`, -10), creation("tag", "b", `{}`, -9)),
				[]string{"1 applied", "2 superseded", "3 applied"}, 2},
			"the rule refuses one": {
				unit(1, creation("tag", "a", `{}`, -9), creation("tag", "forbidden", `{}`, -9)),
				map[bool][]string{true: {"1 rejected unit", "2 rejected my-rule"}, false: {"1 applied", "2 applied"}}[hooked],
				map[bool]int{true: 0, false: 2}[hooked]},
		} {
			t.Run(fmt.Sprintf("%s hooked %v", name, hooked), func(t *testing.T) {
				t.Parallel()
				b := setup(t, nil).shared()
				if hooked {
					b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
						if string(c.Args[0]) == `"forbidden"` {
							return denied
						}
						return nil
					})
				}
				s := b.dial()
				var got []string
				for _, v := range s.push(batch(1, c.ms...)) {
					got = append(got, kindOf(v))
				}
				equalList(t, got, c.want)
				if b.db.Len("tag") != c.rows {
					t.Errorf("%d rows, want %d", b.db.Len("tag"), c.rows)
				}
				told := 0
				for _, v := range got {
					if !strings.Contains(v, "rejected") {
						told++
					}
				}
				if len(s.events()) != told {
					t.Errorf("got %d events, want %d", len(s.events()), told)
				}
			})
		}
	}
}

// When one of a unit is refused, no further hook of it runs, and the driver makes none of it.
func TestPushLooksNoFurtherIntoARefusedUnit(t *testing.T) {
	t.Parallel()
	b, d := setupPushes(t)
	var ran atomic.Int64
	b.server.Service("tag").Before(func(context.Context, *server.Call) error { ran.Add(1); return nil })
	got := b.dial().push(batch(1, unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{"name":1}`, -9), creation("tag", "c", `{"name":1}`, -9), creation("tag", "poison", `{}`, -9))...))
	equalList(t, got, []string{"1 rejected unit", "2 rejected invalid-data", "3 rejected unit", "4 rejected unit"})
	if ran.Load() != 2 || d.refused.Load() != 4 || d.calls.Load() != 1 {
		t.Errorf("%d hooks, %d refused, %d pushes; want 2, 4, 1", ran.Load(), d.refused.Load(), d.calls.Load())
	}
}
