package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
)

var findRules = []Rule{
	{Name: "find/visible rows only", Says: "Find and Get return rows that are visible: no tombstones, nothing that a pending Delete hides",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", ""), tombstone("b", 5),
				tidemark.Record{UID: "c", Base: row("c", ""), Meta: tidemark.Meta{UID: "c", CreatedAt: 1}, Pending: 1},
				tidemark.Record{UID: "d", Row: row("d", ""), Pending: 1})
			if got := t.find(nil); !slices.Equal(got, []string{"a", "d"}) {
				t.fatalf("found %v, want [a d]", got)
			}
			for uid, visible := range map[string]bool{"a": true, "b": false, "c": false, "d": true, "e": false, "": false} {
				if r, err := t.store.Get(t.Context(), "item", uid); err != nil || (r != nil) != visible {
					t.fatalf("Get(%q): %s, %v", uid, r, err)
				}
			}
		}},
	{Name: "find/by the visible row", Says: "Find looks at the visible row, not at the server's",
		check: func(t *T) {
			t.declare()
			t.put(tidemark.Record{UID: "a", Row: row("a", `"qty":2`), Base: row("a", `"qty":1`), Pending: 1})
			if got := t.find(tidemark.Where{"qty": 2}); len(got) != 1 {
				t.fatalf("by the visible value: %v", got)
			}
			if got := t.find(tidemark.Where{"qty": 1}); len(got) != 0 {
				t.fatalf("by the server's value: %v", got)
			}
		}},
	{Name: "find/sorted", Says: "Find returns rows sorted by uid, by bytes, whatever finds them",
		check: func(t *T) {
			t.declare()
			for i, uid := range []string{"b", "a", "Z", "é", "😀", "\uffff", "0", "a a", "ab"} {
				t.put(synced(uid, fmt.Sprintf(`"qty":%d,"name":"n","tag":"t"`, -i)))
			}
			for _, w := range []tidemark.Where{nil, {"name": "n"}, {"tag": "t"}, {"qty": tidemark.Range{GT: -100}}, {"qty": tidemark.Range{GT: -100}, "tag": "t"}} {
				if got := t.find(w); len(got) != 9 || !slices.IsSorted(got) {
					t.fatalf("%v: found %q", w, got)
				}
			}
		}},
	{Name: "find/missing is null", Says: "a missing member and null are the same thing",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", ""), synced("b", `"qty":null,"name":null`), synced("c", `"qty":0,"name":""`))
			for _, f := range []string{"qty", "name"} {
				if got := t.find(tidemark.Where{f: nil}); !slices.Equal(got, []string{"a", "b"}) {
					t.fatalf("%s: null found %v", f, got)
				}
				if got := t.find(tidemark.Where{f: map[string]any{"gt": nil}}); len(got) != 0 {
					t.fatalf("%s: a null bound found %v", f, got)
				}
			}
			if got := t.find(tidemark.Where{"qty": tidemark.Range{LTE: 5}}); !slices.Equal(got, []string{"c"}) {
				t.fatalf("a range found %v", got)
			}
		}},
	{Name: "find/wrong kind is null", Says: "a value that is not of its field's kind counts as null",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":"5","price":"x","done":1,"due":"soon","tag":7,"name":true`),
				synced("b", `"qty":true,"price":false,"done":"true","due":5,"tag":null,"name":{}`),
				synced("c", `"qty":5,"price":5,"done":true,"due":"2026-01-01T00:00:00.000Z","tag":"7","name":"x"`))
			for f, low := range map[string]any{"qty": -1, "price": -1, "done": false, "due": time.Unix(0, 0), "tag": "", "name": ""} {
				if got := t.find(tidemark.Where{f: nil}); !slices.Equal(got, []string{"a", "b"}) {
					t.fatalf("%s: null found %v, want [a b]", f, got)
				}
				if got := t.find(tidemark.Where{f: tidemark.Range{GTE: low}}); !slices.Equal(got, []string{"c"}) {
					t.fatalf("%s: from %v found %v, want [c]", f, low, got)
				}
			}
		}},
	{Name: "find/numbers exactly", Says: "integers and doubles compare exactly",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":9007199254740992,"price":0.1`), synced("b", `"qty":9007199254740993,"price":0.30000000000000004`),
				synced("c", `"qty":9223372036854775807,"price":0.3`), synced("d", `"qty":-9223372036854775808,"price":1.7976931348623157e308`), synced("e", `"price":5e-324`))
			for _, c := range []struct {
				where tidemark.Where
				want  string
			}{
				{tidemark.Where{"qty": int64(9007199254740993)}, "b"},
				{tidemark.Where{"qty": tidemark.Range{GT: int64(9007199254740992)}}, "b c"},
				{tidemark.Where{"qty": int64(-9223372036854775808)}, "d"},
				{tidemark.Where{"price": 0.3}, "c"},
				{tidemark.Where{"price": 0.30000000000000004}, "b"},
				{tidemark.Where{"price": tidemark.Range{GT: 0.3}}, "b d"},
				{tidemark.Where{"price": 5e-324}, "e"},
				{tidemark.Where{"price": 1.7976931348623157e308}, "d"},
			} {
				if got := strings.Join(t.find(c.where), " "); got != c.want {
					t.fatalf("%v: found %q, want %q", c.where, got, c.want)
				}
			}
		}},
	{Name: "find/text by bytes", Says: "text compares by bytes",
		check: func(t *T) {
			t.declare()
			for i, s := range []string{"B", "a", "b", "é", "z", "\uffff", "😀", "A", ""} {
				t.put(synced("u"+strconv.Itoa(i), fmt.Sprintf(`"name":%q,"tag":%q`, s, s)))
			}
			for _, f := range []string{"name", "tag"} {
				if got := t.find(tidemark.Where{f: tidemark.Range{GT: "a"}}); !slices.Equal(got, []string{"u2", "u3", "u4", "u5", "u6"}) {
					t.fatalf("%s: after a found %v", f, got)
				}
				if got := t.find(tidemark.Where{f: "b"}); !slices.Equal(got, []string{"u2"}) {
					t.fatalf("%s: b found %v", f, got)
				}
			}
		}},
	{Name: "find/instants", Says: "timestamps compare as instants, microseconds counting",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"due":"2026-01-01T00:00:00.123Z"`), synced("b", `"due":"2026-01-01T00:00:00.123001Z"`),
				synced("c", `"due":"2026-01-01T01:00:00.123+01:00"`), synced("d", `"due":"1969-12-31T23:59:59.999Z"`), synced("e", `"due":"0001-01-01T00:00:00.000Z"`))
			at := time.Date(2026, 1, 1, 0, 0, 0, 123_000_000, time.UTC)
			if got := t.find(tidemark.Where{"due": at}); !slices.Equal(got, []string{"a", "c"}) {
				t.fatalf("equality found %v", got)
			}
			if got := t.find(tidemark.Where{"due": tidemark.Range{GT: at}}); !slices.Equal(got, []string{"b"}) {
				t.fatalf("after found %v", got)
			}
			if got := t.find(tidemark.Where{"due": tidemark.Range{LT: at}}); !slices.Equal(got, []string{"d", "e"}) {
				t.fatalf("before found %v", got)
			}
		}},
	{Name: "find/what Match selects", Says: "Find returns exactly the visible rows that Predicate.Match selects, Held and Unseen the Bases; here for random rows and clauses",
		check: func(t *T) { checkRandom(t, rand.Uint64()) }},
	{Name: "find/lists and alternatives", Says: "a list selects rows with any of its values, null as any other; of alternatives one must hold, and all members besides; in Find, Held and Unseen alike",
		check: func(t *T) {
			t.declare()
			for n := range 4 {
				for _, text := range []string{"a", "b", "null"} {
					members := fmt.Sprintf(`"qty":%d,"price":%d.5,"tag":%q,"name":%q`, n, n, text, text)
					t.put(synced(fmt.Sprint(n, text), strings.ReplaceAll(members, `"null"`, "null")))
				}
			}
			for _, f := range []struct{ number, text string }{{"qty", "tag"}, {"qty", "name"}, {"price", "tag"}} { // indexed or not
				n := func(i int) any {
					if f.number == "price" {
						return float64(i) + 0.5
					}
					return i
				}
				or := func(list ...tidemark.Where) []tidemark.Where { return list }
				for want, w := range map[string]tidemark.Where{
					"0a 0b 0null 2a 2b 2null":             {f.number: tidemark.In{n(0), n(2)}},
					"0b 0null 1b 1null 2b 2null 3b 3null": {f.text: tidemark.In{"b", nil}},
					"1a 1null 3a 3null":                   {f.number: tidemark.In{n(1), n(3)}, f.text: tidemark.In{nil, "a"}},
					"0a 1a 1b 1null 2a 3a":                {"$or": or(tidemark.Where{f.number: n(1)}, tidemark.Where{f.text: "a"})},
					"1a 1null 3b":                         {"$or": or(tidemark.Where{f.number: n(1), f.text: tidemark.In{"a", nil}}, tidemark.Where{f.number: n(3), f.text: "b"})},
					"1b 2a 2b 2null":                      {f.number: tidemark.Range{GTE: n(1), LT: n(3)}, "$or": or(tidemark.Where{f.number: n(2)}, tidemark.Where{f.text: "b"})},
					"2b":                                  {f.text: "b", "$or": or(tidemark.Where{f.number: n(2)})},
					"":                                    {f.number: n(0), "$or": or(tidemark.Where{f.number: n(1)}, tidemark.Where{f.number: n(2)})},
				} {
					uids := strings.Fields(want)
					if got := t.find(w); !slices.Equal(got, uids) {
						t.fatalf("%v: found %v, want %v", w, got, uids)
					}
					if got := slices.Collect(mapped(t.held(w))); !slices.Equal(got, uids) {
						t.fatalf("%v: held %v, want %v", w, got, uids)
					}
					if got := t.unseen(w, 1); !slices.Equal(got, uids) {
						t.fatalf("%v: unseen %v, want %v", w, got, uids)
					}
				}
			}
		}},
	{Name: "find/by uid", Says: "a where may name uid",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", ""), synced("b", ""), synced("c", ""))
			if got := t.find(tidemark.Where{"uid": "b"}); !slices.Equal(got, []string{"b"}) {
				t.fatalf("found %v", got)
			}
			if got := t.find(tidemark.Where{"uid": tidemark.Range{GT: "a"}}); !slices.Equal(got, []string{"b", "c"}) {
				t.fatalf("found %v", got)
			}
			if got := t.find(tidemark.Where{"uid": nil}); len(got) != 0 {
				t.fatalf("found %v", got)
			}
		}},
	{Name: "find/values are values", Says: "text that looks like SQL is text",
		check: func(t *T) {
			t.declare()
			evil := `x' OR '1'='1"; DROP TABLE item; --`
			t.put(synced("a", `"name":"n","tag":"t"`), synced("b", `"name":`+strconv.Quote(evil)+`,"tag":`+strconv.Quote(evil)))
			for _, f := range []string{"name", "tag"} {
				if got := t.find(tidemark.Where{f: evil}); !slices.Equal(got, []string{"b"}) {
					t.fatalf("%s: found %v", f, got)
				}
			}
		}},
	{Name: "find/after a change", Says: "Find and Held follow every change of a record",
		check: func(t *T) {
			t.declare()
			for i, step := range []struct {
				rec  tidemark.Record
				find bool
				held bool
			}{
				{synced("a", `"qty":1`), true, true},
				{tidemark.Record{UID: "a", Row: row("a", `"qty":2`), Base: row("a", `"qty":1`), Pending: 1}, false, true},
				{tidemark.Record{UID: "a", Row: row("a", `"qty":1`), Base: row("a", `"qty":2`), Pending: 1}, true, false},
				{tidemark.Record{UID: "a", Base: row("a", `"qty":1`), Pending: 1}, false, true},
				{tombstone("a", 3), false, false},
				{tidemark.Record{UID: "a", Row: row("a", `"qty":1`), Pending: 1}, true, false},
				{tidemark.Record{UID: "a"}, false, false},
			} {
				t.put(step.rec)
				if got := len(t.find(tidemark.Where{"qty": 1})) == 1; got != step.find {
					t.fatalf("step %d: found is %v", i, got)
				}
				if got := len(t.held(tidemark.Where{"qty": 1})) == 1; got != step.held {
					t.fatalf("step %d: held is %v", i, got)
				}
			}
		}},
	{Name: "find/held", Says: "Held returns the metadata of the rows whose Base is selected, sorted by uid, with the uid even where the server told of no metadata",
		check: func(t *T) {
			t.declare()
			b := tidemark.Record{UID: "b", Row: row("b", `"qty":2`), Base: row("b", `"qty":1`), Meta: tidemark.Meta{UID: "b", CreatedAt: 2, UpdatedAt: 3}, Pending: 1}
			t.put(synced("c", `"qty":1`), b, tidemark.Record{UID: "a", Row: row("a", ""), Base: row("a", "")},
				tombstone("t", 4), tidemark.Record{UID: "new", Row: row("new", `"qty":1`), Pending: 1})
			want := []tidemark.Meta{{UID: "a"}, b.Meta, {UID: "c", CreatedAt: 1_000_000}}
			if got := t.held(nil); !slices.Equal(got, want) {
				t.fatalf("got %+v, want %+v", got, want)
			}
			if got := t.held(tidemark.Where{"qty": 1}); !slices.Equal(got, want[1:]) {
				t.fatalf("where: got %+v, want %+v", got, want[1:])
			}
		}},
	{Name: "find/unseen", Says: "Unseen returns the uids of the rows whose Base is selected and whose Seen is below pass, sorted",
		check: func(t *T) {
			t.declare()
			seen := func(uid, members string, pass int64) tidemark.Record {
				r := synced(uid, members)
				r.Seen = pass
				return r
			}
			written := seen("written", `"qty":1,"name":"n"`, 4)
			written.Row, written.Pending = row("written", `"qty":2,"name":"m"`), 1
			hidden := seen("hidden", `"qty":1,"name":"n"`, 4)
			hidden.Row, hidden.Pending = nil, 1
			gone := tombstone("gone", 9)
			t.put(seen("never", `"qty":1,"name":"n"`, 0), seen("before", `"qty":1,"name":"n"`, 4), seen("now", `"qty":1,"name":"n"`, 5),
				seen("later", `"qty":1,"name":"n"`, 6), seen("another", `"qty":2,"name":"m"`, 1), written, hidden, gone,
				tidemark.Record{UID: "own", Row: row("own", `"qty":1,"name":"n"`), Pending: 1})
			want := []string{"before", "hidden", "never", "written"}
			for _, w := range []tidemark.Where{{"qty": 1}, {"name": "n"}, {"qty": tidemark.Range{LT: 2}}} {
				if got := t.unseen(w, 5); !slices.Equal(got, want) {
					t.fatalf("%v: unseen in pass 5 are %v, want %v", w, got, want)
				}
			}
			if got := t.unseen(nil, 2); !slices.Equal(got, []string{"another", "never"}) {
				t.fatalf("unseen in pass 2 are %v", got)
			}
			if got := t.unseen(nil, 0); len(got) != 0 {
				t.fatalf("unseen in pass 0 are %v", got)
			}
		}},
	{Name: "find/in the transaction", Says: "Held, Unseen and Records see what the same transaction has put",
		check: func(t *T) {
			t.declare()
			t.update(func(tx tidemark.StoreTx) error {
				t.must(tx.Put("item", []tidemark.Record{synced("a", `"qty":1`)}))
				metas, err := tx.Held(t.compile(tidemark.Where{"qty": 1}))
				t.must(err)
				unseen, err := tx.Unseen(t.compile(tidemark.Where{"qty": 1}), 1)
				t.must(err)
				recs, err := tx.Records("item", []string{"a"})
				t.must(err)
				if len(metas) != 1 || len(unseen) != 1 || recs[0].Row == nil {
					t.fatalf("held %v, unseen %v, record %+v", metas, unseen, recs[0])
				}
				return nil
			})
		}},
}

// checkRandom compares the store with Match.
func checkRandom(t *T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	values := map[string][]string{
		"name":  {`"a"`, `"b"`, `"B"`, `""`, `"é"`, `null`, `3`},
		"qty":   {`0`, `1`, `-1`, `2147483648`, `9007199254740993`, `null`, `1.0`, `"1"`},
		"price": {`0`, `0.1`, `-1.5`, `1e21`, `1e-7`, `2`, `null`, `true`},
		"done":  {`true`, `false`, `null`, `1`},
		"due":   {`"2026-01-01T00:00:00.000Z"`, `"2026-01-01T00:00:00.000001Z"`, `"1970-01-01T00:00:00.000Z"`, `null`, `"x"`},
		"tag":   {`"a"`, `"b"`, `"A"`, `"ab"`, `null`, `false`},
	}
	fields := []string{"name", "qty", "price", "done", "due", "tag"}
	pick := func() (f, v string) {
		f = fields[r.IntN(len(fields))]
		return f, values[f][r.IntN(len(values[f]))]
	}
	random := func(uid string) tidemark.Row {
		out := row(uid, "")
		for range r.IntN(7) {
			f, v := pick()
			out = out.With(f, []byte(v))
		}
		return out
	}
	members := func() string {
		clause := map[string]string{}
		for range 1 + r.IntN(3) {
			f, v := pick()
			switch n := r.IntN(8); {
			case n == 0:
				v = `{"in":[` + v + `,` + values[f][r.IntN(3)] + `]}`
			case n < 4 && v != "null":
				v = `{"` + []string{"gt", "gte", "lt", "lte"}[r.IntN(4)] + `":` + v + `}`
			}
			clause[f] = v
		}
		var list []string
		for f, v := range clause {
			list = append(list, `"`+f+`":`+v)
		}
		return strings.Join(list, ",")
	}
	t.declare()
	recs := make([]tidemark.Record, 60)
	for i, uid := range number(len(recs)) {
		recs[i] = tidemark.Record{UID: uid, Row: random(uid), Pending: 1, Seen: r.Int64N(3)}
		if r.IntN(3) > 0 {
			recs[i].Base = recs[i].Row
		} else if r.IntN(2) == 0 {
			recs[i].Base = random(uid)
		}
	}
	t.put(recs...)
	for range 200 {
		text := members()
		if r.IntN(4) == 0 {
			text += fmt.Sprintf(`,"$or":[{%s},{%s}]`, members(), members())
		}
		p, err := tidemark.ParseWhere(item, []byte("{"+text+"}"))
		if err != nil {
			continue // a literal of another kind
		}
		var found, held, unseen []string
		for _, rec := range recs {
			if p.Match(rec.Row) {
				found = append(found, rec.UID)
			}
			if p.Match(rec.Base) {
				held = append(held, rec.UID)
				if rec.Seen < 2 {
					unseen = append(unseen, rec.UID)
				}
			}
		}
		rows, err := t.store.Find(t.Context(), p)
		t.must(err)
		if got := uidsOf(rows); !slices.Equal(got, found) {
			t.fatalf("seed %d, %s: found %v, want %v", seed, p, got, found)
		}
		t.view(func(tx tidemark.StoreTx) error {
			metas, err := tx.Held(p)
			if got := slices.Collect(mapped(metas)); !slices.Equal(got, held) {
				t.fatalf("seed %d, %s: held %v, want %v", seed, p, got, held)
			}
			t.must(err)
			got, err := tx.Unseen(p, 2)
			if !slices.Equal(got, unseen) {
				t.fatalf("seed %d, %s: unseen %v, want %v", seed, p, got, unseen)
			}
			return err
		})
	}
}

func mapped(metas []tidemark.Meta) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, m := range metas {
			if !yield(m.UID) {
				return
			}
		}
	}
}
