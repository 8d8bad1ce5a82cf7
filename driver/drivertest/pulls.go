package drivertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// pulls are the rules of a [tidemark.LogDriver]'s log and its pages. They are skipped for a driver that is none.
var pulls = []check{
	{"every way to write is logged", "what Write, WriteTx, transactions and Push write follows the cursor that was before", func(t *testing.T, h Harness) {
		h.log(t)
		h.Put(t, "note", h.full(t, "note", "alien", nil), tidemark.Meta{})
		for i, way := range h.ways() {
			stamp := tidemark.Stamp(1000 * (i + 1))
			uid := func(s string) string { return fmt.Sprint(s, i) }
			h.write(t, h.mutation(t, tidemark.Create, "note", uid("old"), `{"n":1}`, stamp), h.mutation(t, tidemark.Create, "note", uid("dead"), `{"n":1}`, stamp))
			h.Put(t, "note", h.full(t, "note", uid("alien"), nil), tidemark.Meta{})
			c := h.settled(t)
			ms := []tidemark.Mutation{
				h.mutation(t, tidemark.Create, "note", uid("new"), `{"n":1}`, stamp+1),
				h.mutation(t, tidemark.Update, "note", uid("old"), `{"n":2}`, stamp+1),
				h.mutation(t, tidemark.Delete, "note", uid("dead"), "", stamp+1),
			}
			if way.name != "Push" { // no client sends it
				ms = append(ms, h.mutation(t, tidemark.Adopt, "note", uid("alien"), "", stamp+1))
			}
			for k, o := range way.write(t, h, ms) {
				if !o.Applied || !o.Changed {
					t.Errorf("%s: %s of %s: %+v", way.name, ms[k].Op, ms[k].UID, o)
				}
			}
			p := h.since(t, c, "note", tidemark.Where{})
			want := []string{uid("new"), uid("old"), uid("alien")}
			if way.name == "Push" {
				want = want[:2]
			}
			wantUIDs(t, way.name+": rows", p.Rows, want...)
			wantUIDs(t, way.name+": gone", p.Gone, uid("dead"))
			h.wantAsNow(t, "note", slices.Concat(p.Rows, p.Gone))
		}
	}},
	{"each change is logged once", "each mutation that changes something is one entry, by whatever way it came", func(t *testing.T, h Harness) {
		h.log(t)
		for i, way := range h.ways() {
			h.purged(t)
			var ms []tidemark.Mutation
			for k := range 7 {
				ms = append(ms, h.mutation(t, tidemark.Create, "note", fmt.Sprintf("u%d-%d", i, k), `{"n":1}`, 10))
			}
			way.write(t, h, ms)
			if n := h.purged(t); n != int64(len(ms)) {
				t.Errorf("%s: %d entries for %d changes", way.name, n, len(ms))
			}
		}
	}},
	{"adopted rows are logged", "the metadata that Adopt gives a row is a change", func(t *testing.T, h Harness) {
		h.log(t)
		h.Put(t, "note", h.full(t, "note", "a", nil), tidemark.Meta{})
		h.purged(t)
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Adopt, "note", "a", "", 10))
		p := h.since(t, c, "note", tidemark.Where{})
		wantUIDs(t, "rows", p.Rows, "a")
		h.wantAsNow(t, "note", p.Rows)
		if n := h.purged(t); n != 1 {
			t.Errorf("%d entries", n)
		}
	}},
	{"what was undone is not logged", "a rollback, also of a transaction inside another, leaves no entry", func(t *testing.T, h Harness) {
		h.log(t)
		h.tx(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "old", `{"n":1}`, 10))
		h.purged(t)
		c := h.settled(t)
		write := func(ctx context.Context, uid string) {
			h.writeIn(t, ctx, &hearing{}, h.mutation(t, tidemark.Create, "note", uid, `{"n":1}`, 20), h.mutation(t, tidemark.Update, "note", "old", `{"n":2}`, 20))
		}
		_ = h.RunInTx(t.Context(), func(ctx context.Context) error {
			write(ctx, "undone")
			return errUndo
		})
		h.inTx(t, func(ctx context.Context) error {
			_ = h.RunInTx(ctx, func(ctx context.Context) error {
				write(ctx, "undone inside")
				return errUndo
			})
			h.writeIn(t, ctx, &hearing{}, h.mutation(t, tidemark.Create, "note", "kept", `{"n":1}`, 20))
			return nil
		})
		p := h.since(t, c, "note", tidemark.Where{})
		wantUIDs(t, "rows", p.Rows, "kept")
		wantUIDs(t, "gone", p.Gone)
		if n := h.purged(t); n != 1 {
			t.Errorf("%d entries", n)
		}
	}},
	{"what changes nothing is not logged", "a write that is superseded or refused leaves no entry", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "dead", `{"n":1}`, 10), h.mutation(t, tidemark.Delete, "note", "dead", "", 20))
		h.purged(t)
		ms := []tidemark.Mutation{
			h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 10), h.mutation(t, tidemark.Create, "note", "a", `{"n":2}`, 5),
			h.mutation(t, tidemark.Delete, "note", "a", "", 5), h.mutation(t, tidemark.Adopt, "note", "a", "", 50),
			h.mutation(t, tidemark.Update, "note", "dead", `{"n":2}`, 15), h.mutation(t, tidemark.Delete, "note", "dead", "", 20),
			h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 50), h.mutation(t, tidemark.Create, "list", "b", `{}`, 50),
			h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 0), h.mutation(t, tidemark.Adopt, "note", "nobody", "", 50),
		}
		for i, o := range h.write(t, ms...) {
			if o.Changed {
				t.Errorf("%s of %s at %d says changed", ms[i].Op, ms[i].UID, ms[i].Stamp)
			}
		}
		if n := h.purged(t); n != 0 {
			t.Errorf("%d entries", n)
		}
	}},
	{"a lost write that buries a row is logged", "a stale row under a tombstone that goes because of a write is a departure", func(t *testing.T, h Harness) {
		h.log(t)
		h.Put(t, "note", h.full(t, "note", "stale", nil), tidemark.Meta{UID: "stale", CreatedAt: 10, DeletedAt: 30})
		c := h.settled(t)
		o := h.write(t, h.mutation(t, tidemark.Update, "note", "stale", `{"n":1}`, 20))[0]
		if o.Applied || !o.Changed || o.Before == nil {
			t.Errorf("outcome %+v", o)
		}
		p := h.since(t, c, "note", tidemark.Where{})
		wantUIDs(t, "gone", p.Gone, "stale")
		wantUIDs(t, "rows", p.Rows)
		h.wantAsNow(t, "note", p.Gone)
	}},
	{"pull of everything", "from the zero cursor a scope has the rows that it selects, with their metadata, and nothing is gone", func(t *testing.T, h Harness) {
		h.log(t)
		h.fill(t)
		for _, w := range scopes {
			p := h.pull(t, tidemark.Pull{Scope: h.compile(t, "note", w), Limit: generous, Bytes: generous})
			s := h.snapshot(t, "note", w)
			wantUIDs(t, fmt.Sprintf("rows of %v", w), p.Rows, uidsOf(s.Selected)...)
			wantUIDs(t, fmt.Sprintf("gone of %v", w), p.Gone)
			h.wantAsNow(t, "note", p.Rows)
			if p.More || p.Horizon.IsZero() {
				t.Errorf("%v: more %v, horizon %+v", w, p.More, p.Horizon)
			}
		}
	}},
	{"pages", "pages of any size have what one page has, in its order, and no page more than its limit", func(t *testing.T, h Harness) {
		h.log(t)
		c := h.settled(t)
		h.fill(t)
		for _, from := range []tidemark.Cursor{{}, c} {
			for _, w := range scopes {
				q := tidemark.Pull{Scope: h.compile(t, "note", w), From: from, Limit: generous, Bytes: generous}
				whole := h.pull(t, q)
				for _, limit := range []int{1, 2, 3, 7, len(whole.Rows) + len(whole.Gone), 1000} {
					q.Limit = max(limit, 1)
					got := h.pass(t, q)
					if !slices.Equal(uidsOf(got.Rows), uidsOf(whole.Rows)) || !slices.Equal(uidsOf(got.Gone), uidsOf(whole.Gone)) {
						t.Errorf("%v from %d by %d: rows %v, gone %v; want %v and %v", w, from.At, limit, uidsOf(got.Rows), uidsOf(got.Gone), uidsOf(whole.Rows), uidsOf(whole.Gone))
					}
				}
			}
		}
	}},
	{"the last page", "a page says that there is more when there is, and the page after the last row is empty", func(t *testing.T, h Harness) {
		h.log(t)
		c := h.settled(t)
		for i := range 6 {
			h.write(t, h.mutation(t, tidemark.Create, "note", fmt.Sprint("u", i), `{"n":1}`, 10))
		}
		for _, from := range []tidemark.Cursor{{}, c} {
			q := tidemark.Pull{Scope: h.compile(t, "note", tidemark.Where{"n": 1}), From: from, Limit: 5, Bytes: generous}
			p := h.pull(t, q)
			if len(p.Rows) != 5 || !p.More || p.Last != uidOf(p.Rows[4]) {
				t.Errorf("from %d: %d of 6 rows, more %v, last %q", from.At, len(p.Rows), p.More, p.Last)
			}
			q.After, q.Limit = p.Last, 1
			if p = h.pull(t, q); len(p.Rows) != 1 || p.More {
				t.Fatalf("from %d: the last page has %d rows, more %v", from.At, len(p.Rows), p.More)
			}
			q.After = uidOf(p.Rows[0])
			if p = h.pull(t, q); len(p.Rows) != 0 || p.More {
				t.Errorf("from %d: behind the last page are %d rows, more %v", from.At, len(p.Rows), p.More)
			}
		}
	}},
	{"pages by bytes", "a page ends near Bytes, and has at least one row", func(t *testing.T, h Harness) {
		h.log(t)
		c := h.settled(t)
		text := make([]byte, 2000)
		for i := range text {
			text[i] = 'x'
		}
		for i := range 30 {
			h.write(t, h.mutation(t, tidemark.Create, "note", fmt.Sprintf("u%02d", i), fmt.Sprintf(`{"text":"%s"}`, text), 10))
		}
		for _, from := range []tidemark.Cursor{{}, c} {
			q := tidemark.Pull{Scope: h.compile(t, "note", tidemark.Where{}), From: from, Limit: 1000, Bytes: 10_000}
			if n := len(h.pull(t, q).Rows); n < 2 || n > 10 {
				t.Errorf("from %d: %d rows of 2 kB on a page of about 10 kB", from.At, n)
			}
			wantUIDs(t, "pages by bytes", h.pass(t, q).Rows, uidsOf(h.snapshot(t, "note", nil).Selected)...)
			q.Bytes = 1
			if n := len(h.pull(t, q).Rows); n != 1 {
				t.Errorf("from %d: %d rows on a page of about a byte", from.At, n)
			}
		}
	}},
	{"a page after a row that is gone", "a pass goes on behind a uid that is no longer there, and behind texts that never were", func(t *testing.T, h Harness) {
		h.log(t)
		c := h.settled(t)
		h.fill(t)
		for i, from := range []tidemark.Cursor{{}, c} {
			q := tidemark.Pull{Scope: h.compile(t, "note", tidemark.Where{"n": tidemark.Range{GTE: 0}}), From: from, Limit: 3, Bytes: generous}
			whole := h.pass(t, q)
			first := h.pull(t, q)
			q.After = first.Last
			h.write(t, h.mutation(t, tidemark.Delete, "note", q.After, "", tidemark.Stamp(5000+i)))
			rest := h.pass(t, q)
			wantUIDs(t, "both parts", slices.Concat(first.Rows, rest.Rows, first.Gone, rest.Gone), uidsOf(slices.Concat(whole.Rows, whole.Gone))...)
			for _, after := range []string{"'; DROP TABLE note; --", "u", "%", "\\", "\U0010ffff"} {
				q.After = after
				if p := h.pass(t, q); len(p.Rows)+len(p.Gone) > len(whole.Rows)+len(whole.Gone) {
					t.Errorf("%d rows after %q, and %d in all", len(p.Rows)+len(p.Gone), after, len(whole.Rows)+len(whole.Gone))
				}
			}
		}
	}},
	{"count", "Count has the number of rows that the scope selects, whatever the page has", func(t *testing.T, h Harness) {
		h.log(t)
		h.fill(t)
		for _, from := range []tidemark.Cursor{{}, h.settled(t)} {
			for _, w := range scopes {
				p := h.pull(t, tidemark.Pull{Scope: h.compile(t, "note", w), From: from, Limit: 2, Bytes: generous, Count: true})
				if want := len(h.find(t, "note", w)); p.Total != want {
					t.Errorf("%v from %d: %d, want %d", w, from.At, p.Total, want)
				}
			}
		}
	}},
	{"pull from a cursor", "what changed since, each row once, as it now is; nothing of other rows and models", func(t *testing.T, h Harness) {
		h.log(t)
		h.fill(t)
		c := h.settled(t)
		for i := range 40 {
			h.write(t, h.mutation(t, tidemark.Update, "note", "often", fmt.Sprintf(`{"n":%d}`, i), tidemark.Stamp(10_000+i)))
		}
		h.write(t, h.mutation(t, tidemark.Create, "note", "once", `{"n":2}`, 10_000), h.mutation(t, tidemark.Create, "list", "other", `{"title":"x"}`, 10_000))
		p := h.since(t, c, "note", tidemark.Where{})
		wantUIDs(t, "rows", p.Rows, "often", "once")
		wantUIDs(t, "gone", p.Gone)
		h.wantAsNow(t, "note", p.Rows)
		p = h.since(t, h.settled(t), "note", tidemark.Where{})
		wantUIDs(t, "rows from now on", p.Rows)
	}},
	{"rows that left", "a row that the scope selected since is told as gone, with the row as it is, or its tombstone", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "moved", `{"n":1,"text":"a"}`, 10), h.mutation(t, tidemark.Create, "note", "deleted", `{"n":1}`, 10),
			h.mutation(t, tidemark.Create, "note", "moved and deleted", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "moved and back", `{"n":1}`, 10),
			h.mutation(t, tidemark.Create, "note", "deleted and back", `{"n":1}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Update, "note", "moved", `{"n":2}`, 20), h.mutation(t, tidemark.Delete, "note", "deleted", "", 20),
			h.mutation(t, tidemark.Update, "note", "moved and deleted", `{"n":2}`, 20), h.mutation(t, tidemark.Update, "note", "moved and back", `{"n":2}`, 20),
			h.mutation(t, tidemark.Delete, "note", "deleted and back", "", 20), h.mutation(t, tidemark.Create, "note", "came and went", `{"n":1}`, 20))
		h.write(t, h.mutation(t, tidemark.Update, "note", "moved", `{"text":"b"}`, 30), h.mutation(t, tidemark.Delete, "note", "moved and deleted", "", 30),
			h.mutation(t, tidemark.Update, "note", "moved and back", `{"n":1}`, 30), h.mutation(t, tidemark.Create, "note", "deleted and back", `{"n":1}`, 30),
			h.mutation(t, tidemark.Update, "note", "came and went", `{"n":2}`, 30))
		p := h.since(t, c, "note", tidemark.Where{"n": 1})
		wantUIDs(t, "gone", p.Gone, "moved", "deleted", "moved and deleted", "came and went")
		wantUIDs(t, "rows", p.Rows, "moved and back", "deleted and back")
		h.wantAsNow(t, "note", slices.Concat(p.Rows, p.Gone))
		for _, rm := range p.Gone {
			if deleted := uidOf(rm) == "deleted" || uidOf(rm) == "moved and deleted"; deleted != (rm.Row == nil) || deleted != rm.Meta.Deleted() {
				t.Errorf("%s is told as %s %+v", uidOf(rm), show(rm.Row), rm.Meta)
			}
		}
	}},
	{"a row under a tombstone", "a row that another program put back is deleted as long as its metadata says so: no page tells it as a row, nor counts it", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "back", `{"n":1}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Delete, "note", "back", "", 20), h.mutation(t, tidemark.Create, "note", "b", `{"n":1}`, 20))
		h.Put(t, "note", h.full(t, "note", "back", tidemark.Row(`{"n":1}`)), tidemark.Meta{})
		h.Put(t, "note", h.full(t, "note", "stale", tidemark.Row(`{"n":1}`)), tidemark.Meta{UID: "stale", CreatedAt: 10, DeletedAt: 20})
		for _, w := range []tidemark.Where{{}, {"n": 1}} {
			q := tidemark.Pull{Scope: h.compile(t, "note", w), Limit: generous, Bytes: generous, Count: true}
			p := h.pull(t, q)
			wantUIDs(t, "rows of everything", p.Rows, "a", "b")
			if p.Total != 2 {
				t.Errorf("%v counts %d, want 2", w, p.Total)
			}
			q.Limit = 1
			wantUIDs(t, "rows, one a page", h.pass(t, q).Rows, "a", "b")
			q.From, q.Limit = c, generous
			p = h.pull(t, q)
			wantUIDs(t, "rows since", p.Rows, "b")
			wantUIDs(t, "gone since", p.Gone, "back")
			if p.Total != 2 || len(p.Gone) == 1 && (p.Gone[0].Row != nil || !p.Gone[0].Meta.Deleted()) {
				t.Errorf("%v since: counts %d, gone %v", w, p.Total, p.Gone)
			}
		}
	}},
	{"rows that were never there", "a row that the scope has not selected since is not told, whatever became of it", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "left before", `{"n":1}`, 10), h.mutation(t, tidemark.Update, "note", "left before", `{"n":2}`, 20),
			h.mutation(t, tidemark.Create, "note", "elsewhere", `{"n":3}`, 10), h.mutation(t, tidemark.Create, "note", "null", `{}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Update, "note", "left before", `{"n":3}`, 30), h.mutation(t, tidemark.Update, "note", "elsewhere", `{"n":4}`, 30),
			h.mutation(t, tidemark.Delete, "note", "null", "", 30), h.mutation(t, tidemark.Create, "note", "new elsewhere", `{"n":5}`, 30),
			h.mutation(t, tidemark.Delete, "note", "never been", "", 30))
		p := h.since(t, c, "note", tidemark.Where{"n": 1})
		wantUIDs(t, "gone", p.Gone)
		wantUIDs(t, "rows", p.Rows)
	}},
	{"versions before", "Befores has of each row of the page the first versions since the cursor that the scope selected, at least MaxBefores, and not the one that is", func(t *testing.T, h Harness) {
		h.log(t)
		h.Put(t, "note", h.full(t, "note", "adopted", tidemark.Row(`{"n":1}`)), tidemark.Meta{})
		for _, uid := range []string{"changed", "moved", "deleted", "often", "untouched"} {
			h.write(t, h.mutation(t, tidemark.Create, "note", uid, `{"n":1,"text":"0"}`, 10))
		}
		h.write(t, h.mutation(t, tidemark.Create, "note", "came", `{"n":2,"text":"0"}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Adopt, "note", "adopted", "", 20), h.mutation(t, tidemark.Create, "note", "created", `{"n":1,"text":"a"}`, 20),
			h.mutation(t, tidemark.Update, "note", "changed", `{"text":"a"}`, 20), h.mutation(t, tidemark.Update, "note", "moved", `{"text":"a"}`, 20),
			h.mutation(t, tidemark.Update, "note", "came", `{"n":1}`, 20), h.mutation(t, tidemark.Create, "note", "came and went", `{"n":1,"text":"a"}`, 20))
		h.write(t, h.mutation(t, tidemark.Update, "note", "changed", `{"text":"b"}`, 30), h.mutation(t, tidemark.Update, "note", "moved", `{"n":2}`, 30),
			h.mutation(t, tidemark.Delete, "note", "deleted", "", 30), h.mutation(t, tidemark.Update, "note", "came and went", `{"n":2}`, 30))
		h.write(t, h.mutation(t, tidemark.Update, "note", "moved", `{"text":"c"}`, 40))
		for i := range 3 * tidemark.MaxBefores {
			h.write(t, h.mutation(t, tidemark.Update, "note", "often", fmt.Sprintf(`{"text":"%d"}`, i+1), tidemark.Stamp(20+i)))
		}
		want := map[string]string{"changed": `"0" "a"`, "moved": `"0" "a"`, "deleted": `"0"`, "came and went": `"a"`}
		q := tidemark.Pull{Scope: h.compile(t, "note", tidemark.Where{"n": 1}), From: c, Limit: 3, Bytes: generous, Befores: true}
		for more := true; more; {
			p := h.pull(t, q)
			var uids []string
			for _, rm := range slices.Concat(p.Rows, p.Gone) {
				uid := uidOf(rm)
				uids = append(uids, uid)
				var texts []string
				for _, row := range p.Befores[uid] {
					if row.UID() != uid {
						t.Errorf("%s is among the versions of %s", show(row), uid)
					}
					texts = append(texts, string(row.Get("text")))
				}
				if uid == "often" {
					for i, text := range texts {
						if text != fmt.Sprintf(`"%d"`, i) {
							t.Errorf("version %d of %s is %s", i, uid, text)
						}
					}
					if len(texts) < tidemark.MaxBefores {
						t.Errorf("%d versions of %s", len(texts), uid)
					}
				} else if got := strings.Join(texts, " "); got != want[uid] {
					t.Errorf("of %s the versions %s, want %s", uid, got, want[uid])
				}
			}
			for uid := range p.Befores {
				if !slices.Contains(uids, uid) {
					t.Errorf("versions of %s, which is not on the page %v", uid, uids)
				}
			}
			q.After, more = p.Last, p.More
		}
		q.After, q.Befores = "", false
		if p := h.pull(t, q); len(p.Befores) > 0 {
			t.Errorf("versions of %d rows that nobody asked for", len(p.Befores))
		}
	}},
	{"a page is of one moment", "a page shows a commit whole or not at all, and its horizon is of its moment", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "a", `{"n":0}`, 1), h.mutation(t, tidemark.Create, "note", "b", `{"n":0}`, 1))
		var wg sync.WaitGroup
		defer wg.Wait() // also when the reader gives up
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			for i := 2; i < 60; i++ {
				data := fmt.Sprintf(`{"n":%d}`, i)
				_, err := h.Driver.Write(t.Context(), []tidemark.Mutation{h.mutation(t, tidemark.Update, "note", "a", data, tidemark.Stamp(i)), h.mutation(t, tidemark.Update, "note", "b", data, tidemark.Stamp(i))})
				if err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
		m := mirror{scope: h.compile(t, "note", tidemark.Where{})}
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			m.catchUp(t, h, generous, generous)
			if a, b := m.rows["a"], m.rows["b"]; a.Meta.T() != b.Meta.T() || string(a.Row.Get("n")) != string(b.Row.Get("n")) {
				t.Errorf("torn: %s %+v and %s %+v", a.Row, a.Meta, b.Row, b.Meta)
				break
			}
		}
		wg.Wait()
		m.catchUp(t, h, generous, generous)
		m.wantFresh(t, h, "after the last commit")
	}},
	{"pull of an unknown model", "a scope of a model that the driver lacks is unknown-model", func(t *testing.T, h Harness) {
		p, err := tidemark.Where{}.Compile(schema("nowhere"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.log(t).Pull(t.Context(), tidemark.Pull{Scope: p, Limit: 1, Bytes: 1})
		wantCode(t, "Pull", err, tidemark.CodeUnknownModel)
	}},
	{"what a page has is the caller's", "changing a page's rows changes nothing in the driver", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10))
		c := h.settled(t)
		h.write(t, h.mutation(t, tidemark.Update, "list", "a", `{"title":"y"}`, 20))
		for _, from := range []tidemark.Cursor{{}, c} {
			p := h.since(t, from, "list", tidemark.Where{})
			wantUIDs(t, "rows", p.Rows, "a")
			for _, rm := range p.Rows {
				clear(rm.Row)
			}
		}
		vs := h.push(t, batch("c", 1, h.mutation(t, tidemark.Update, "list", "a", `{"title":"z"}`, 30)))
		clear(vs[0].Before)
		clear(vs[0].Row)
		if got := string(h.get(t, "list", "a").Row.Get("title")); got != `"z"` {
			t.Errorf("the title is %s", got)
		}
		wantUIDs(t, "gone", h.since(t, c, "list", tidemark.Where{"title": "y"}).Gone, "a")
	}},
}

// scopes are clauses over note that histories and pages are read through.
var scopes = []tidemark.Where{
	{}, {"n": 1}, {"text": "x"}, {"text": nil}, {"n": tidemark.Range{GTE: 1, LT: 3}}, {"n": 2, "text": "y"}, {"uid": "u3"}, {"n": tidemark.Range{GT: 5, LT: 5}},
}

// fill writes rows, changes some of them, and deletes some; uids are in no order.
func (h Harness) fill(t testing.TB) {
	t.Helper()
	text := func(i int) string { return []string{`"x"`, `"y"`, "null"}[i%3] }
	for i := range 24 {
		uid := fmt.Sprintf("u%d", i*7%24)
		h.write(t, h.mutation(t, tidemark.Create, "note", uid, fmt.Sprintf(`{"n":%d,"text":%s}`, i%4, text(i)), 100))
		if i%3 == 0 {
			h.write(t, h.mutation(t, tidemark.Update, "note", uid, fmt.Sprintf(`{"n":%d}`, i%5), 200))
		}
		if i%8 == 0 {
			h.write(t, h.mutation(t, tidemark.Delete, "note", uid, "", 300))
		}
	}
	h.Put(t, "note", h.full(t, "note", "foreign", tidemark.Row(`{"n":1}`)), tidemark.Meta{})
	h.write(t, h.mutation(t, tidemark.Create, "note", "B", `{"n":1}`, 100), h.mutation(t, tidemark.Create, "note", "é", `{"n":1}`, 100), h.mutation(t, tidemark.Create, "note", "'; --", `{"n":1}`, 100))
}

// longAgo is before all that a test does.
func longAgo() time.Time { return time.Now().Add(-time.Hour) }
