package drivertest

import (
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

var batches = []check{
	{"an empty batch", "a batch without mutations is fine", func(t *testing.T, h Harness) { h.write(t) }},
	{"the same row many times", "the mutations of a batch are made in their order", func(t *testing.T, h Harness) {
		ms := []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "a", `{"text":"t","n":0}`, 1000)}
		for i := 1; i <= 40; i++ {
			ms = append(ms, h.mutation(t, tidemark.Update, "note", "a", fmt.Sprintf(`{"n":%d}`, i), tidemark.Stamp(1000+i)))
		}
		for i, o := range h.write(t, ms...) {
			if want := fmt.Sprint(i); !o.Applied || string(o.Row.Get("n")) != want {
				t.Fatalf("mutation %d: applied %v, row %s", i, o.Applied, o.Row)
			}
			if i > 0 && string(o.Before.Get("n")) != fmt.Sprint(i-1) {
				t.Fatalf("mutation %d: before %s", i, o.Before)
			}
		}
	}},
	{"outcomes stand in place", "outcome i is that of mutation i, whatever became of the others", func(t *testing.T, h Harness) {
		outs := h.write(t,
			h.mutation(t, tidemark.Create, "list", "a", `{"title":"a"}`, 10),
			tidemark.Mutation{Model: "nowhere", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{}`), Stamp: 10},
			h.mutation(t, tidemark.Create, "list", "c", `{}`, 10),
			tidemark.Mutation{Model: "list", UID: "", Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 10},
			h.mutation(t, tidemark.Create, "list", "e", `{"title":"e"}`, 0),
			h.mutation(t, tidemark.Create, "list", "f", `{"title":"f"}`, 10))
		for i, want := range []tidemark.Code{"", tidemark.CodeUnknownModel, tidemark.CodeConstraint, tidemark.CodeInvalidData, tidemark.CodeInvalidStamp, ""} {
			if got := codeOf(outs[i]); got != want {
				t.Errorf("mutation %d: code %q, want %q", i, got, want)
			}
		}
		if n := len(h.find(t, "list", tidemark.Where{})); n != 2 {
			t.Errorf("%d rows, want 2", n)
		}
	}},
	{"a missing required column", "it is a constraint error of kind required that names the column, and leaves no metadata", func(t *testing.T, h Harness) {
		for _, data := range []string{`{}`, `{"title":null}`} {
			o := h.write(t, h.mutation(t, tidemark.Create, "list", "a", data, 10))[0]
			expectConstraint(t, o, tidemark.ConstraintRequired, "title")
		}
		if rm := h.get(t, "list", "a"); rm.Row != nil || !rm.Meta.IsZero() {
			t.Errorf("left %s %+v", rm.Row, rm.Meta)
		}
		if o := h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10))[0]; !o.Applied {
			t.Errorf("the uid of a refused write is taken: %+v", o)
		}
	}},
	{"no data", "a write of a row without data counts as one without columns", func(t *testing.T, h Harness) {
		if o := h.write(t, tidemark.Mutation{Model: "note", UID: "a", Op: tidemark.Create, Stamp: 10})[0]; !o.Applied || o.Row.UID() != "a" {
			t.Errorf("%+v", o)
		}
	}},
	{"an update of some columns", "an update needs only the columns that it changes", func(t *testing.T, h Harness) {
		h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10))
		if o := h.write(t, h.mutation(t, tidemark.Update, "list", "a", `{}`, 20))[0]; !o.Applied || o.Meta.UpdatedAt != 20 || string(o.Row.Get("title")) != `"x"` {
			t.Errorf("empty update: %+v", o)
		}
	}},
	{"null is null", "a null in the data is stored as null and not as the column's default; an absent column takes the default", func(t *testing.T, h Harness) {
		if !h.Constraints {
			t.Skip("the driver's tables have no defaults")
		}
		outs := h.write(t,
			h.mutation(t, tidemark.Create, "entry", "a", `{"rank":null}`, 10), h.mutation(t, tidemark.Create, "entry", "b", `{}`, 10),
			h.mutation(t, tidemark.Update, "entry", "b", `{"rank":null}`, 20))
		for i, want := range []string{"null", "7", "null"} {
			if got := string(outs[i].Row.Get("rank")); got != want {
				t.Errorf("mutation %d: rank %s, want %s", i, got, want)
			}
		}
	}},
	{"constraints", "each kind of constraint is told with its column, and disturbs nobody else", refusedAmongMany},
	{"one of a thousand", "a refused mutation does not disturb the others of a large batch", func(t *testing.T, h Harness) {
		ms := make([]tidemark.Mutation, 1000)
		for i := range ms {
			data := `{"title":"x"}`
			if i == 357 || i == 900 {
				data = `{"title":null}`
			}
			ms[i] = h.mutation(t, tidemark.Create, "list", fmt.Sprintf("u%04d", i), data, 10)
		}
		for i, o := range h.write(t, ms...) {
			if refused := i == 357 || i == 900; o.Applied == refused || (o.Err != nil) != refused {
				t.Fatalf("mutation %d: %+v", i, o)
			}
		}
		if n := len(h.find(t, "list", tidemark.Where{})); n != 998 {
			t.Errorf("%d rows, want 998", n)
		}
	}},
	{"a uid belongs to one model", "a write of another model's uid is uid-taken and changes nothing, tombstones included", func(t *testing.T, h Harness) {
		h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10), h.mutation(t, tidemark.Delete, "list", "dead", "", 10))
		for _, uid := range []string{"a", "dead"} {
			for op := tidemark.Create; op <= tidemark.Delete; op++ {
				if o := h.write(t, h.mutation(t, op, "note", uid, "{}", 99))[0]; codeOf(o) != tidemark.CodeUIDTaken {
					t.Errorf("%s of %s: %+v", op, uid, o)
				}
			}
			if got := h.get(t, "list", uid).Meta.T(); got != 10 {
				t.Errorf("%s: stamp %d, want 10", uid, got)
			}
			if rm := h.get(t, "note", uid); rm.Row != nil || !rm.Meta.IsZero() {
				t.Errorf("the other model sees %s: %+v", uid, rm)
			}
		}
	}},
	{"a tombstone of unknown model", "it counts for every model until one writes the uid, whose it is then", func(t *testing.T, h Harness) {
		h.Put(t, "", nil, tidemark.Meta{UID: "a", DeletedAt: 50})
		if got := h.get(t, "note", "a").Meta.DeletedAt; got != 50 {
			t.Errorf("note sees deleted_at %d, want 50", got)
		}
		if o := h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 40))[0]; o.Applied || o.Meta.DeletedAt != 50 {
			t.Errorf("an older create: %+v", o)
		}
		if o := h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 60))[0]; codeOf(o) != tidemark.CodeUIDTaken {
			t.Errorf("the second model: %+v", o)
		}
	}},
}

// refusedAmongMany puts one mutation that breaks each constraint between good ones.
func refusedAmongMany(t *testing.T, h Harness) {
	if !h.Constraints {
		t.Skip("the driver's tables have no constraints but required columns")
	}
	h.write(t, h.mutation(t, tidemark.Create, "list", "l", `{"title":"x"}`, 10), h.mutation(t, tidemark.Create, "entry", "e", `{"slug":"taken","list_id":"l"}`, 10))
	outs := h.write(t,
		h.mutation(t, tidemark.Create, "entry", "e1", `{"slug":"one"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e2", `{"slug":"taken"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e3", `{"slug":"one"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e4", `{"slug":"four"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e5", `{"list_id":"nobody"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e6", `{"list_id":"l"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e7", `{"rank":-1}`, 20),
		h.mutation(t, tidemark.Delete, "list", "l", "", 20),
		h.mutation(t, tidemark.Update, "entry", "e", `{"slug":"free"}`, 20),
		h.mutation(t, tidemark.Create, "entry", "e8", `{"slug":"taken"}`, 20))
	for i, want := range []struct{ kind, field string }{{}, {tidemark.ConstraintUnique, "slug"}, {tidemark.ConstraintUnique, "slug"}, {},
		{tidemark.ConstraintReference, ""}, {}, {tidemark.ConstraintCheck, ""}, {tidemark.ConstraintReference, ""}, {}, {}} {
		if want.kind != "" {
			expectConstraint(t, outs[i], want.kind, want.field)
		} else if !outs[i].Applied {
			t.Errorf("mutation %d: %+v", i, outs[i])
		}
	}
	for _, uid := range []string{"e2", "e3", "e5", "e7"} {
		if rm := h.get(t, "entry", uid); rm.Row != nil || !rm.Meta.IsZero() {
			t.Errorf("%s left %s %+v", uid, rm.Row, rm.Meta)
		}
	}
	if rm := h.get(t, "list", "l"); rm.Row == nil || rm.Meta.Deleted() {
		t.Errorf("a list that is referred to: %s %+v", rm.Row, rm.Meta)
	}
}

func codeOf(o tidemark.Outcome) tidemark.Code {
	if o.Err == nil {
		return ""
	}
	return o.Err.Code
}

// expectConstraint asks for an error of that kind; field "" leaves the column open.
func expectConstraint(t *testing.T, o tidemark.Outcome, kind, field string) {
	t.Helper()
	if codeOf(o) != tidemark.CodeConstraint || o.Err.Kind != kind || field != "" && o.Err.Field != field || o.Err.Message == "" || o.Applied {
		t.Errorf("got %+v, want a constraint of kind %s on %q", o, kind, field)
	}
}
