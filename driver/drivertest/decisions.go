package drivertest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// cellChecks has one check for each operation over each state of the metadata.
func cellChecks() []check {
	var checks []check
	for op := tidemark.Create; op <= tidemark.Adopt; op++ {
		for _, s := range metaStates {
			checks = append(checks, check{fmt.Sprintf("%s over %s", op, s.name), "a write does to row and metadata what tidemark.Decide says, and tells it, whatever its stamp and whether there is a row", func(t *testing.T, h Harness) {
				for _, c := range cellsOf(t, h, op, s, 0) {
					c.expect(t, h, h.write(t, c.m)[0])
				}
			}})
		}
	}
	return checks
}

var decisions = []check{
	{"every cell in one batch", "what a batch does is what its mutations do one by one", func(t *testing.T, h Harness) {
		all := cells(t, h)
		ms := make([]tidemark.Mutation, len(all))
		for i, c := range all {
			ms[i] = c.m
		}
		for i, o := range h.write(t, ms...) {
			all[i].expect(t, h, o)
		}
	}},
	{"ties", "the server wins ties against create and update, a delete wins them against the server", func(t *testing.T, h Harness) {
		h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"first"}`, 100))
		outs := h.write(t,
			h.mutation(t, tidemark.Create, "list", "a", `{"title":"second"}`, 100),
			h.mutation(t, tidemark.Update, "list", "a", `{"title":"third"}`, 100),
			h.mutation(t, tidemark.Delete, "list", "a", "", 100))
		if outs[0].Applied || outs[1].Applied || !outs[2].Applied {
			t.Errorf("applied %v, %v, %v; want false, false, true", outs[0].Applied, outs[1].Applied, outs[2].Applied)
		}
	}},
	{"create starts afresh", "metadata of a re-created row has created_at alone", func(t *testing.T, h Harness) {
		outs := h.write(t,
			h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 100),
			h.mutation(t, tidemark.Update, "list", "a", `{"title":"y"}`, 200),
			h.mutation(t, tidemark.Delete, "list", "a", "", 300),
			h.mutation(t, tidemark.Create, "list", "a", `{"title":"z"}`, 400))
		if want := (tidemark.Meta{UID: "a", CreatedAt: 100, UpdatedAt: 200, DeletedAt: 300}); outs[2].Meta != want {
			t.Errorf("tombstone %+v, want %+v", outs[2].Meta, want)
		}
		if want := (tidemark.Meta{UID: "a", CreatedAt: 400}); outs[3].Meta != want || h.get(t, "list", "a").Meta != want {
			t.Errorf("got %+v, want %+v", outs[3].Meta, want)
		}
	}},
	{"microseconds", "stamps are compared and kept in microseconds", func(t *testing.T, h Harness) {
		at := tidemark.Stamp(1767225600000001)
		h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, at))
		outs := h.write(t, h.mutation(t, tidemark.Update, "list", "a", `{"title":"y"}`, at), h.mutation(t, tidemark.Update, "list", "a", `{"title":"z"}`, at+1))
		if outs[0].Applied || !outs[1].Applied || outs[1].Meta.UpdatedAt != at+1 || h.get(t, "list", "a").Meta.CreatedAt != at {
			t.Errorf("got %+v", outs)
		}
	}},
	{"stamps at the ends", "stamps at the begin of 1970 and in the year 9999 are kept; there are none before", func(t *testing.T, h Harness) {
		for i, at := range []tidemark.Stamp{1, 2, 253402300799999999} {
			uid := fmt.Sprintf("s%d", i)
			o := h.write(t, h.mutation(t, tidemark.Create, "list", uid, `{"title":"x"}`, at))[0]
			if want := (tidemark.Meta{UID: uid, CreatedAt: at}); !o.Applied || o.Meta != want || h.get(t, "list", uid).Meta != want {
				t.Errorf("stamp %d: got %+v, and %+v from the snapshot", at, o, h.get(t, "list", uid).Meta)
			}
		}
	}},
}

// cell is one case of last writer wins.
type cell struct {
	name    string
	m       tidemark.Mutation
	meta    tidemark.Meta
	row     tidemark.Row
	present bool
}

// metaState is a state of metadata that a write can meet.
type metaState struct {
	name string
	meta tidemark.Meta
}

// mid is the newest stamp of all states, so that a write can be older, equal or newer.
const mid = tidemark.Stamp(1_000_000_000_000)

var metaStates = []metaState{
	{"no metadata", tidemark.Meta{}},
	{"created", tidemark.Meta{CreatedAt: mid}},
	{"updated", tidemark.Meta{CreatedAt: mid - 500, UpdatedAt: mid}},
	{"only updated", tidemark.Meta{UpdatedAt: mid}},
	{"updated before it was created", tidemark.Meta{CreatedAt: mid + 900, UpdatedAt: mid}}, // what a client's wrong clock leaves
	{"a tombstone", tidemark.Meta{CreatedAt: mid - 900, UpdatedAt: mid + 500, DeletedAt: mid}},
	{"a bare tombstone", tidemark.Meta{DeletedAt: mid}},
}

// cells puts rows and metadata in all states, and returns a write of each operation for each.
func cells(t *testing.T, h Harness) []cell {
	t.Helper()
	var all []cell
	for op := tidemark.Create; op <= tidemark.Adopt; op++ {
		for _, s := range metaStates {
			all = append(all, cellsOf(t, h, op, s, len(all))...)
		}
	}
	return all
}

// cellsOf is cells for one operation and one state; n numbers the rows from there on.
func cellsOf(t *testing.T, h Harness, op tidemark.Op, s metaState, n int) []cell {
	t.Helper()
	var all []cell
	for _, stamp := range []tidemark.Stamp{0, mid - 1, mid, mid + 1} {
		for _, present := range []bool{false, true} {
			all = append(all, newCell(t, h, s.name, s.meta, op, stamp, present, n+len(all)))
		}
	}
	return all
}

func newCell(t *testing.T, h Harness, name string, meta tidemark.Meta, op tidemark.Op, stamp tidemark.Stamp, present bool, n int) cell {
	t.Helper()
	uid := fmt.Sprintf("cell%04d", n)
	c := cell{name: fmt.Sprintf("%s at %d over %s, row present %v", op, stamp, name, present), present: present}
	data := ""
	if op == tidemark.Create || op == tidemark.Update {
		data = `{"text":"new","n":2}`
	}
	c.m = h.mutation(t, op, "note", uid, data, stamp)
	if name != "no metadata" {
		c.meta = meta
		c.meta.UID = uid
	}
	if present {
		c.row = h.full(t, "note", uid, tidemark.Row(`{"text":"old","x":1.5}`))
	}
	if present || c.meta.UID != "" {
		h.Put(t, "note", c.row, c.meta)
	}
	return c
}

// expect compares an outcome, and what is stored after it, with Decide.
func (c cell) expect(t *testing.T, h Harness, got tidemark.Outcome) {
	t.Helper()
	s := h.schema(t, "note")
	want, err := tidemark.Decide(c.m.Op, c.m.UID, c.m.Stamp, c.meta, c.present)
	stored := h.get(t, "note", c.m.UID)
	if err != nil {
		if got.Err == nil || !errors.Is(got.Err, &tidemark.Error{Code: tidemark.CodeOf(err)}) {
			t.Errorf("%s: got %+v, want error %v", c.name, got, err)
		}
		if stored.Meta != c.meta || differ(s, stored.Row, c.row) != "" {
			t.Errorf("%s: a refused write changed row or metadata to %s %+v", c.name, stored.Row, stored.Meta)
		}
		return
	}
	if got.Err != nil || got.Applied != want.Applied || got.Meta != want.Meta {
		t.Errorf("%s: got applied %v, meta %+v, error %v; want %v, %+v", c.name, got.Applied, got.Meta, got.Err, want.Applied, want.Meta)
	}
	after := c.row
	switch want.Effect {
	case tidemark.Remove:
		after = nil
	case tidemark.Upsert:
		if after == nil {
			after = h.full(t, "note", c.m.UID, nil)
		}
		after = after.Merge(c.m.Data)
	}
	answer := after
	if want.Applied && c.m.Op == tidemark.Delete {
		answer = c.row
	}
	if d := differ(s, got.Row, answer); d != "" {
		t.Errorf("%s: outcome's row: %s", c.name, d)
	}
	if changed := want.Changes(c.meta, c.present); got.Changed != changed {
		t.Errorf("%s: outcome says changed %v, want %v", c.name, got.Changed, changed)
	}
	if d := differ(s, got.Before, c.row); got.Changed && d != "" {
		t.Errorf("%s: outcome's row before: %s", c.name, d)
	}
	if d := differ(s, stored.Row, after); d != "" {
		t.Errorf("%s: stored row: %s", c.name, d)
	}
	if stored.Meta != want.Meta {
		t.Errorf("%s: stored metadata %+v, want %+v", c.name, stored.Meta, want.Meta)
	}
}
