package drivertest

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// cursors are the rules about positions in the log, and about what is forgotten.
var cursors = []check{
	{"a cursor of an empty log", "it is not the zero cursor, and what is written later follows it", func(t *testing.T, h Harness) {
		h.log(t)
		c := h.horizon(t)
		if c.IsZero() || c.Epoch == "" {
			t.Errorf("horizon %+v", c)
		}
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10))
		wantUIDs(t, "rows", h.since(t, c, "note", nil).Rows, "a")
	}},
	{"cursors travel", "a cursor that was written and read is the same", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10))
		c := h.settled(t)
		back, err := tidemark.ParseCursor(c.String())
		if err != nil || back != c {
			t.Fatalf("%+v came back as %+v, %v", c, back, err)
		}
		h.write(t, h.mutation(t, tidemark.Create, "note", "b", `{}`, 10))
		wantUIDs(t, "rows", h.since(t, back, "note", nil).Rows, "b")
	}},
	{"cursors grow", "the horizon passes a commit, its nonce is that of the last change, and the epoch stays", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10))
		a := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "b", `{}`, 10))
		b := h.settled(t)
		if b.At <= a.At || b.Nonce == a.Nonce || a.Nonce == 0 || b.Epoch != a.Epoch {
			t.Errorf("%+v, then %+v", a, b)
		}
	}},
	{"cursors of another history", "a cursor of another epoch, with another nonce, from the future or from nowhere is cursor-too-old", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "b", `{}`, 10))
		for name, change := range map[string]func(c *tidemark.Cursor){
			"another epoch":            func(c *tidemark.Cursor) { c.Epoch += "x" },
			"no epoch":                 func(c *tidemark.Cursor) { c.Epoch = "" },
			"a hostile epoch":          func(c *tidemark.Cursor) { c.Epoch = "'; DROP TABLE note; --\x00\xff" },
			"another nonce":            func(c *tidemark.Cursor) { c.Nonce++ },
			"no nonce":                 func(c *tidemark.Cursor) { c.Nonce = 0 },
			"the future":               func(c *tidemark.Cursor) { c.At = 1 << 60 },
			"the end of numbers":       func(c *tidemark.Cursor) { c.At = 1<<63 - 1 },
			"before all":               func(c *tidemark.Cursor) { c.At = -1 },
			"the beginning of numbers": func(c *tidemark.Cursor) { c.At = -1 << 63 },
		} {
			bad := c
			change(&bad)
			_, err := h.log(t).Pull(t.Context(), tidemark.Pull{Scope: h.compile(t, "note", nil), From: bad, Limit: 10, Bytes: generous})
			wantCode(t, name, err, tidemark.CodeCursorTooOld)
		}
		wantUIDs(t, "the cursor itself", h.since(t, c, "note", nil).Rows, "b")
	}},
	{"the horizon and an open transaction", "a cursor never passes a change of a transaction that is still open", func(t *testing.T, h Harness) {
		h.log(t)
		h.tx(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "old", `{"n":1}`, 10))
		var before, beside tidemark.Cursor
		copies := [2]mirror{{scope: h.compile(t, "note", nil)}, {scope: h.compile(t, "note", tidemark.Where{"n": 1})}}
		h.inTx(t, func(ctx context.Context) error {
			h.writeIn(t, ctx, &hearing{}, h.mutation(t, tidemark.Create, "note", "open", `{"n":1}`, 20), h.mutation(t, tidemark.Update, "note", "old", `{"n":2}`, 20))
			before = h.horizon(t)
			// Another commit passes the open one where the database has several writers at a time.
			short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, _ = h.Driver.Write(short, []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "beside", `{"n":1}`, 20)})
			beside = h.horizon(t)
			for i := range copies {
				copies[i].catchUp(t, h, 2, generous)
			}
			h.writeIn(t, ctx, &hearing{}, h.mutation(t, tidemark.Create, "note", "open at the end", `{"n":1}`, 20))
			return nil
		})
		for name, c := range map[string]tidemark.Cursor{"before the other commit": before, "after it": beside} {
			has := map[string]bool{}
			for _, uid := range uidsOf(h.since(t, c, "note", nil).Rows) {
				has[uid] = true
			}
			if !has["open"] || !has["old"] || !has["open at the end"] {
				t.Errorf("the cursor %s has passed what was open: after it are only %v", name, has)
			}
		}
		for i := range copies {
			copies[i].catchUp(t, h, 2, generous)
			copies[i].wantFresh(t, h, "after the commit")
		}
	}},
	{"purge", "the changes go, and cursors before them; those with nothing forgotten behind them stay good", func(t *testing.T, h Harness) {
		d := h.log(t)
		first := h.settled(t)
		h.fill(t)
		if n, err := d.Purge(t.Context(), longAgo()); n != 0 || err != nil {
			t.Errorf("purged %d of an hour ago, %v", n, err)
		}
		if p := h.since(t, first, "note", nil); len(p.Rows) == 0 {
			t.Error("a purge of what is older than an hour took what is younger")
		}
		last := h.settled(t)
		if n := h.purged(t); n == 0 {
			t.Error("purged nothing")
		}
		_, err := d.Pull(t.Context(), tidemark.Pull{Scope: h.compile(t, "note", nil), From: first, Limit: 10, Bytes: generous})
		wantCode(t, "a cursor before the purge", err, tidemark.CodeCursorTooOld)
		after := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "new", `{"n":1}`, 1000))
		for name, c := range map[string]tidemark.Cursor{"taken before": last, "taken after": after} {
			wantUIDs(t, "a cursor "+name, h.since(t, c, "note", nil).Rows, "new")
		}
		bad := last
		bad.Nonce++
		_, err = d.Pull(t.Context(), tidemark.Pull{Scope: h.compile(t, "note", nil), From: bad, Limit: 10, Bytes: generous})
		wantCode(t, "another nonce at the floor", err, tidemark.CodeCursorTooOld)
	}},
	{"purge keeps metadata", "rows, metadata and tombstones stay: an old write that comes late must still lose", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "dead", `{"n":1}`, 10), h.mutation(t, tidemark.Delete, "note", "dead", "", 30))
		h.purged(t)
		outs := h.write(t, h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 5), h.mutation(t, tidemark.Update, "note", "dead", `{"n":2}`, 20))
		if outs[0].Applied || outs[1].Applied {
			t.Errorf("old writes win: %+v", outs)
		}
		if rm := h.get(t, "note", "dead"); rm.Meta.DeletedAt != 30 || rm.Row != nil {
			t.Errorf("the tombstone is %s %+v", show(rm.Row), rm.Meta)
		}
		if rm := h.get(t, "note", "a"); rm.Meta.CreatedAt != 10 || string(rm.Row.Get("n")) != "1" {
			t.Errorf("the row is %s %+v", show(rm.Row), rm.Meta)
		}
	}},
	{"purge keeps numbers", "a client's verdicts go when it has not pushed since, its highest number and its owner stay", func(t *testing.T, h Harness) {
		d := h.log(t)
		b := batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "b", `{"n":1}`, 10))
		b.Owner = "me"
		h.push(t, b)
		if _, err := d.Purge(t.Context(), longAgo()); err != nil {
			t.Fatal(err)
		}
		if vs := h.push(t, b); !vs[0].Repeated || !vs[1].Repeated {
			t.Errorf("a purge of what is older than an hour took the verdicts: %+v", vs)
		}
		h.purged(t)
		if n := h.known(t, "c"); n != 2 {
			t.Errorf("the highest number is %d", n)
		}
		next := h.mutation(t, tidemark.Create, "note", "next", `{"n":1}`, 10)
		for name, c := range map[string]struct {
			first int64
			owner string
			want  tidemark.Code
		}{"a repetition": {2, "me", tidemark.CodeRepeated}, "a gap": {4, "me", tidemark.CodeGap}, "somebody else": {3, "you", tidemark.CodeDenied}} {
			b := batch("c", c.first, next)
			b.Owner = c.owner
			_, err := d.Push(t.Context(), b, nil)
			wantCode(t, name, err, c.want)
		}
		b = batch("c", 3, next)
		b.Owner = "me"
		if vs := h.push(t, b); !vs[0].Applied || vs[0].Repeated {
			t.Errorf("the next one: %+v", vs[0])
		}
	}},
	{"changes that nobody heard of", "Own is true between two cursors when a witness heard of every change between them, and false otherwise, also where they have been purged since", func(t *testing.T, h Harness) {
		d := h.log(t)
		heard := func(from tidemark.Cursor, what string, want bool) tidemark.Cursor {
			t.Helper()
			to := h.settled(t)
			if own, err := d.Own(t.Context(), from, to); err != nil || own != want {
				t.Errorf("after %s: %v, %v; want %v", what, own, err, want)
			}
			return to
		}
		c := h.settled(t)
		if _, err := d.WriteTx(t.Context(), []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10)}, &hearing{}); err != nil {
			t.Fatal(err)
		}
		c = heard(c, "a write with a witness", true)
		h.pushHeard(t, batch("c", 1, h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 20)), &hearing{})
		c = heard(c, "a push with a witness", true)
		before := c
		h.write(t, h.mutation(t, tidemark.Update, "note", "a", `{"n":3}`, 30))
		c = heard(c, "a write without one", false)
		h.push(t, batch("c", 2, h.mutation(t, tidemark.Update, "note", "a", `{"n":4}`, 40)))
		c = heard(c, "a push without one", false)
		heard(c, "nothing", true)
		heard(before, "all of it", false)
		if h.purged(t) == 0 {
			t.Error("purged nothing")
		}
		heard(before, "all of it, which was purged", false)
	}},
}
