package drivertest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// units are the rules of mutations that are applied together or rejected together.
var units = []check{
	{"a unit is applied together", "the members of a unit without a refusal are made as others are", func(t *testing.T, h Harness) {
		h.log(t)
		b := h.unitBatch(t, `{"title":"b"}`)
		for i, v := range h.push(t, b) {
			if !v.Applied || v.Err != nil {
				t.Errorf("mutation %d: %+v", i, v)
			}
		}
		if n := len(h.find(t, "list", nil)); n != 5 {
			t.Errorf("%d rows", n)
		}
	}},
	{"a unit is rejected together", "a refused member has its error, the others have unit, and nothing of the unit is left", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "list", "old", `{"title":"old"}`, 5))
		b := h.unitBatch(t, `{}`)
		b.Mutations[3] = h.mutation(t, tidemark.Delete, "list", "old", "", 10)
		b.Mutations[3].N, b.Mutations[3].Unit = 4, 4
		c := h.settled(t)
		for _, repeated := range []bool{false, true} {
			vs := h.push(t, b)
			for i, want := range []tidemark.Code{"", tidemark.CodeUnit, tidemark.CodeConstraint, tidemark.CodeUnit, ""} {
				if got := codeOf(vs[i].Outcome); got != want || vs[i].Applied != (want == "") || vs[i].Changed && want != "" || vs[i].Repeated != repeated {
					t.Errorf("mutation %d: %+v, want code %q", i, vs[i], want)
				}
			}
			expectConstraint(t, vs[2].Outcome, tidemark.ConstraintRequired, "title")
		}
		h.wantNothing(t, "list", "u1", "u2")
		if rm := h.get(t, "list", "old"); rm.Row == nil || rm.Meta.Deleted() {
			t.Errorf("the deletion was made: %+v", rm)
		}
		p := h.since(t, c, "list", nil)
		wantUIDs(t, "logged", p.Rows, "u0", "u4")
		wantUIDs(t, "logged as gone", p.Gone)
		if o := h.write(t, h.mutation(t, tidemark.Create, "note", "u1", `{}`, 1))[0]; !o.Applied {
			t.Errorf("the uid of a rejected write is taken: %+v", o)
		}
	}},
	{"a unit that the caller refuses", "it is rejected together; each refused member has the caller's error", func(t *testing.T, h Harness) {
		h.log(t)
		b := h.unitBatch(t, `{"title":"b"}`)
		b.Refused = []*tidemark.Error{nil, tidemark.NewError("one", "1"), nil, tidemark.NewError("two", "2"), nil}
		vs := h.push(t, b)
		for i, want := range []tidemark.Code{"", "one", tidemark.CodeUnit, "two", ""} {
			if got := codeOf(vs[i].Outcome); got != want || vs[i].Applied != (want == "") {
				t.Errorf("mutation %d: %+v, want code %q", i, vs[i], want)
			}
		}
		h.wantNothing(t, "list", "u1", "u2", "u3")
	}},
	{"a superseded member", "it does not reject its unit", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "list", "u2", `{"title":"newer"}`, 500))
		vs := h.push(t, h.unitBatch(t, `{"title":"b"}`))
		for i, v := range vs {
			if v.Err != nil || v.Applied != (i != 2) {
				t.Errorf("mutation %d: %+v", i, v)
			}
		}
		if got := string(vs[2].Row.Get("title")); got != `"newer"` {
			t.Errorf("the superseded member is told %s", vs[2].Row)
		}
	}},
	{"units beside units", "a rejected unit does not disturb the unit before it, nor that behind it on the same rows", func(t *testing.T, h Harness) {
		h.log(t)
		m := func(uid, data string, unit int64) tidemark.Mutation {
			m := h.mutation(t, tidemark.Update, "list", uid, data, tidemark.Stamp(100+unit))
			m.Unit = unit
			return m
		}
		b := batch("c", 1, m("a", `{"title":"1"}`, 2), m("b", `{"title":"1"}`, 2), m("a", `{"title":"2"}`, 5), m("b", `{"title":null}`, 5), m("c", `{"title":"2"}`, 5),
			m("b", `{"title":"3"}`, 7), m("c", `{"title":"3"}`, 7))
		for i, v := range h.push(t, b) {
			if rejected := i >= 2 && i < 5; rejected != (v.Err != nil) || rejected == v.Applied {
				t.Errorf("mutation %d: %+v", i, v)
			}
		}
		for uid, want := range map[string]string{"a": `"1"`, "b": `"3"`, "c": `"3"`} {
			if got := string(h.get(t, "list", uid).Row.Get("title")); got != want {
				t.Errorf("%s is %s, want %s", uid, got, want)
			}
		}
	}},
	{"a push is seen whole", "others see all of a push or nothing of it", func(t *testing.T, h Harness) {
		h.log(t)
		var wg sync.WaitGroup
		defer wg.Wait() // also when the reader gives up
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			for i := range 40 {
				b := h.unitBatch(t, fmt.Sprintf(`{"title":"%d"}`, i))
				for k := range b.Mutations {
					m := h.mutation(t, tidemark.Update, "list", b.Mutations[k].UID, fmt.Sprintf(`{"title":"%d"}`, i), tidemark.Stamp(100+i))
					m.N, m.Unit = int64(i*5+k+1), 0
					if k > 0 && k < 4 {
						m.Unit = int64(i*5 + 4)
					}
					b.Mutations[k] = m
				}
				if _, err := h.log(t).Push(context.Background(), b, nil); err != nil {
					t.Errorf("Push: %v", err)
				}
			}
		})
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			titles := map[string]bool{}
			rows := h.find(t, "list", nil)
			for _, r := range rows {
				titles[string(r.Get("title"))] = true
			}
			if len(titles) > 1 || len(rows) != 0 && len(rows) != 5 {
				t.Errorf("torn: %d rows, titles %v", len(rows), titles)
				break
			}
		}
		wg.Wait()
	}},
}

// unitBatch is five writes of list, the three in the middle a unit; the data of the one in its middle is given.
func (h Harness) unitBatch(t testing.TB, data string) *tidemark.Batch {
	t.Helper()
	ms := make([]tidemark.Mutation, 5)
	for i := range ms {
		d := fmt.Sprintf(`{"title":"%d"}`, i)
		if i == 2 {
			d = data
		}
		ms[i] = h.mutation(t, tidemark.Create, "list", fmt.Sprint("u", i), d, 10)
	}
	b := batch("c", 1, ms...)
	for i := 1; i < 4; i++ {
		b.Mutations[i].Unit = 4
	}
	return b
}
