package drivertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

var reads = []check{
	{"models", "Models returns the schemas in the order of registration, with every field", func(t *testing.T, h Harness) {
		got := h.Driver.Models()
		want := Schemas()
		if len(got) != len(want) {
			t.Fatalf("%d models, want %d", len(got), len(want))
		}
		for i := range want {
			g, w := got[i].Fields(), want[i].Fields()
			for k := range w {
				w[k].Indexed = false
			}
			for k := range g {
				g[k].Indexed = false // which columns have one is the database's affair
			}
			if got[i].Name() != want[i].Name() || !slices.Equal(g, w) {
				t.Errorf("model %d: got %s %+v, want %s %+v", i, got[i].Name(), g, want[i].Name(), w)
			}
		}
	}},
	{"find", "Find returns whole rows, all or as many as the limit says", func(t *testing.T, h Harness) {
		if rows := h.find(t, "note", tidemark.Where{}); len(rows) != 0 {
			t.Fatalf("%d rows in an empty table", len(rows))
		}
		for i := range 5 {
			h.Put(t, "note", h.full(t, "note", fmt.Sprintf("u%d", i), tidemark.Row(fmt.Sprintf(`{"n":%d}`, i%2))), tidemark.Meta{})
		}
		for limit, want := range map[int]int{0: 3, 1: 1, 3: 3, 9: 3} {
			rows, err := h.Driver.Find(context.Background(), h.compile(t, "note", tidemark.Where{"n": 0}), limit)
			if err != nil || len(rows) != want {
				t.Errorf("limit %d: %d rows, %v; want %d", limit, len(rows), err, want)
			}
			for _, r := range rows {
				if d := differ(h.schema(t, "note"), r, h.full(t, "note", r.UID(), tidemark.Row(`{"n":0}`))); d != "" {
					t.Error(d)
				}
			}
		}
	}},
	{"snapshot", "a snapshot has what is selected, and what is known of the uids besides, each once", readSnapshot},
	{"a snapshot without uids", "it has no others", func(t *testing.T, h Harness) {
		h.Put(t, "note", nil, tidemark.Meta{UID: "gone", DeletedAt: 5})
		if s := h.snapshot(t, "note", tidemark.Where{}); len(s.Selected) != 0 || len(s.Others) != 0 {
			t.Errorf("got %+v", s)
		}
	}},
	{"where", "a clause selects the rows that Predicate.Match selects", readWhere},
	{"lists and alternatives", "a list selects rows with any of its values, null as any other; of alternatives one must hold, and all members besides; by whatever is read", readAlternatives},
	{"an unknown model", "a predicate of a model that the driver lacks is unknown-model", func(t *testing.T, h Harness) {
		p, err := tidemark.Where{}.Compile(schema("nowhere"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Driver.Find(context.Background(), p, 0); tidemark.CodeOf(err) != tidemark.CodeUnknownModel {
			t.Errorf("Find: %v", err)
		}
		if _, err := h.Driver.Snapshot(context.Background(), p, nil); tidemark.CodeOf(err) != tidemark.CodeUnknownModel {
			t.Errorf("Snapshot: %v", err)
		}
	}},
	{"migrate", "rows without metadata get some, created now, and nothing else changes, however often it runs", readMigrated},
}

func readSnapshot(t *testing.T, h Harness) {
	put := func(uid, text string, meta tidemark.Meta) {
		h.Put(t, "note", h.full(t, "note", uid, tidemark.Row(`{"text":"`+text+`"}`)), meta)
	}
	live := func(uid string) tidemark.Meta { return tidemark.Meta{UID: uid, CreatedAt: 3, UpdatedAt: 4} }
	put("in", "x", live("in"))
	put("in unasked", "x", live("in unasked"))
	put("in bare", "x", tidemark.Meta{})
	put("out", "y", live("out"))
	put("out bare", "y", tidemark.Meta{})
	put("out unasked", "y", live("out unasked"))
	h.Put(t, "note", nil, tidemark.Meta{UID: "grave", CreatedAt: 1, DeletedAt: 9})
	h.Put(t, "note", nil, live("orphan"))
	h.Put(t, "list", tidemark.Row(`{"uid":"other","title":"x"}`), live("other"))
	h.Put(t, "list", nil, tidemark.Meta{UID: "other grave", DeletedAt: 9})
	s := h.snapshot(t, "note", tidemark.Where{"text": "x"},
		"in", "in bare", "out", "out", "out bare", "grave", "orphan", "other", "other grave", "nobody", `'; DROP TABLE note; --`, "")
	got := map[string]string{}
	for name, list := range map[string][]tidemark.RowMeta{"selected": s.Selected, "others": s.Others} {
		for _, rm := range list {
			uid := max(rm.Meta.UID, rm.Row.UID())
			if got[uid] != "" {
				t.Errorf("%s stands twice", uid)
			}
			got[uid] = fmt.Sprint(name, rm.Row != nil, rm.Meta.CreatedAt, rm.Meta.UpdatedAt, rm.Meta.DeletedAt)
		}
	}
	show := func(list string, row bool, c, u, d tidemark.Stamp) string { return fmt.Sprint(list, row, c, u, d) }
	want := map[string]string{
		"in": show("selected", true, 3, 4, 0), "in unasked": show("selected", true, 3, 4, 0), "in bare": show("selected", true, 0, 0, 0),
		"out": show("others", true, 3, 4, 0), "out bare": show("others", true, 0, 0, 0),
		"grave": show("others", false, 1, 0, 9), "orphan": show("others", false, 3, 4, 0),
	}
	for uid, w := range want {
		if got[uid] != w {
			t.Errorf("%s: got %q, want %q", uid, got[uid], w)
		}
		delete(got, uid)
	}
	if len(got) > 0 {
		t.Errorf("also there: %v", got)
	}
}

func readMigrated(t *testing.T, h Harness) {
	ctx := context.Background()
	before := tidemark.StampOf(time.Now())
	h.Put(t, "list", tidemark.Row(`{"uid":"bare","title":"x"}`), tidemark.Meta{})
	old := tidemark.Meta{UID: "old", CreatedAt: 5}
	h.Put(t, "list", tidemark.Row(`{"uid":"old","title":"x"}`), old)
	h.Put(t, "", nil, tidemark.Meta{UID: "grave", DeletedAt: 7})
	var first tidemark.Meta
	for range 2 {
		if err := h.Driver.Migrate(ctx); err != nil {
			t.Fatal(err)
		}
		m := h.get(t, "list", "bare").Meta
		if first.IsZero() {
			first = m
		}
		if m != first || m.UID != "bare" || m.CreatedAt < before || m.UpdatedAt != 0 || m.DeletedAt != 0 {
			t.Errorf("bare: %+v, at first %+v", m, first)
		}
		if m := h.get(t, "list", "old").Meta; m != old {
			t.Errorf("old: %+v", m)
		}
		if m := h.get(t, "list", "grave").Meta; m.DeletedAt != 7 {
			t.Errorf("grave: %+v", m)
		}
	}
	if o := h.write(t, h.mutation(t, tidemark.Create, "note", "bare", `{}`, 1<<50))[0]; codeOf(o) != tidemark.CodeUIDTaken {
		t.Errorf("a migrated row's uid in another model: %+v", o)
	}
}

// samples are values of each field of note, among them those that databases
// are known to order or compare in ways of their own.
var samples = map[string][]string{
	"text": {`""`, `"a"`, `"A"`, `"B"`, `"b"`, `"a b"`, `"ab"`, `"é"`, `"e\u0301"`, `"Z"`, `"z"`, `"_"`, `"%"`, `"10"`, `"9"`, `"😀"`, `"\uffee"`, `"it's"`, `"\\"`, `"\"q\""`, `"null"`, `" a"`, `"a "`},
	"n":    {`0`, `1`, `-1`, `9007199254740993`, `9007199254740992`, `9223372036854775807`, `-9223372036854775808`, `2147483648`},
	"x":    {`0`, `0.1`, `0.30000000000000004`, `0.3`, `1e308`, `-1e308`, `5e-324`, `1e21`, `9007199254740993`, `-0.5`},
	"b":    {`true`, `false`},
	"at": {`"0000-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"1969-12-31T23:59:59.999999Z"`, `"1970-01-01T00:00:00Z"`, `"2026-01-01T00:00:00Z"`, `"2026-01-01T00:00:00.000001Z"`,
		`"2026-01-01T00:00:00.1Z"`, `"2026-01-01T00:00:00.100001Z"`, `"2026-01-01T00:00:00.12Z"`, `"2026-01-01T01:00:00+01:00"`, `"9999-12-31T23:59:59.999999Z"`},
	"raw": {`""`, `"AA=="`, `"/+8="`, `"aGVsbG8="`},
	"dec": {`"0"`, `"1.5"`, `"-12345.678"`, `"1.50"`},
	"id":  {`"01890a5d-ac96-774b-bcce-b302099a8057"`, `"00000000-0000-0000-0000-000000000000"`},
	"day": {`"0000-02-29"`, `"0001-01-01"`, `"2026-02-28"`, `"9999-12-31"`, `"2026-03-01"`},
	"tod": {`"00:00:00"`, `"23:59:59.999999"`, `"12:30:00.5"`, `"12:30:00"`},
}

// readWhere compares random clauses over random rows.
func readWhere(t *testing.T, h Harness) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := h.schema(t, "note")
	names := []string{"text", "n", "x", "b", "at", "raw", "dec", "id", "day", "tod"}
	pick := func(name string) string { return samples[name][rnd.IntN(len(samples[name]))] }
	ms := make([]tidemark.Mutation, 150)
	for i := range ms {
		data := []byte{'{'}
		for _, name := range names {
			if len(data) > 1 {
				data = append(data, ',')
			}
			v := pick(name)
			if rnd.IntN(6) == 0 {
				v = "null"
			}
			data = append(tidemark.AppendString(data, name), ":"+v...)
		}
		ms[i] = h.mutation(t, tidemark.Create, "note", fmt.Sprintf("u%03d", i), string(append(data, '}')), 10)
	}
	var rows []tidemark.Row
	for _, o := range h.write(t, ms...) {
		if !o.Applied {
			t.Fatalf("%+v", o)
		}
		rows = append(rows, o.Row)
	}
	members := func() string {
		name := names[rnd.IntN(len(names))]
		clause := randomTerm(rnd, s, name, pick)
		if second := names[rnd.IntN(len(names))]; second != name && rnd.IntN(3) == 0 {
			clause += "," + randomTerm(rnd, s, second, pick)
		}
		return clause
	}
	for range 1000 {
		clause := members()
		if rnd.IntN(5) == 0 {
			alternatives := make([]string, 1+rnd.IntN(3))
			for i := range alternatives {
				alternatives[i] = "{" + members() + "}"
			}
			or := `"$or":[` + strings.Join(alternatives, ",") + "]"
			if clause += "," + or; rnd.IntN(2) == 0 {
				clause = or
			}
		}
		p, err := tidemark.ParseWhere(s, []byte("{"+clause+"}"))
		if err != nil {
			t.Fatalf("{%s}: %v", clause, err)
		}
		expectSelected(t, h, p, rows)
	}
}

func randomTerm(rnd *rand.Rand, s *tidemark.Schema, name string, pick func(string) string) string {
	f, _ := s.Field(name)
	key := string(tidemark.AppendString(nil, name)) + ":"
	switch n := rnd.IntN(10); {
	case n == 0:
		return key + "null"
	case n == 1 && f.Kind.Comparable():
		list := []string{pick(name), pick(name)}
		if rnd.IntN(3) == 0 {
			list = append(list, "null")
		}
		return key + `{"in":[` + strings.Join(list, ",") + "]}"
	case n < 4 || !f.Kind.Ordered():
		return key + pick(name)
	}
	low, high := []string{"gt", "gte"}[rnd.IntN(2)], []string{"lt", "lte"}[rnd.IntN(2)]
	switch rnd.IntN(3) {
	case 0:
		return fmt.Sprintf(`%s{"%s":%s}`, key, low, pick(name))
	case 1:
		return fmt.Sprintf(`%s{"%s":%s}`, key, high, pick(name))
	}
	return fmt.Sprintf(`%s{"%s":%s,"%s":%s}`, key, low, pick(name), high, pick(name))
}

// readAlternatives reads rows with each n and text, by clauses whose parts count each.
func readAlternatives(t *testing.T, h Harness) {
	var from tidemark.Cursor
	_, logs := h.Driver.(tidemark.LogDriver)
	if logs {
		from = h.settled(t)
	}
	for n := range 4 {
		for _, text := range []string{"a", "b", "null"} {
			data := fmt.Sprintf(`{"n":%d,"text":"%s"}`, n, text)
			if text == "null" {
				data = fmt.Sprintf(`{"n":%d,"text":null}`, n)
			}
			h.write(t, h.mutation(t, tidemark.Create, "note", fmt.Sprint(n, text), data, 10))
		}
	}
	for want, w := range map[string]tidemark.Where{
		"0a 0b 0null 2a 2b 2null":             {"n": tidemark.In{0, 2}},
		"0b 0null 1b 1null 2b 2null 3b 3null": {"text": tidemark.In{"b", nil}},
		"1a 1null 3a 3null":                   {"n": tidemark.In{1, 3}, "text": tidemark.In{nil, "a"}},
		"0a 1a 1b 1null 2a 3a":                {"$or": []tidemark.Where{{"n": 1}, {"text": "a"}}},
		"1a 1null 3b":                         {"$or": []tidemark.Where{{"n": 1, "text": tidemark.In{"a", nil}}, {"n": 3, "text": "b"}}},
		"1b 2a 2b 2null":                      {"n": tidemark.Range{GTE: 1, LT: 3}, "$or": []tidemark.Where{{"n": 2}, {"text": "b"}}},
		"0null 1null 3b":                      {"n": tidemark.In{0, 1, 3}, "$or": []tidemark.Where{{"n": tidemark.Range{LT: 2}, "text": nil}, {"n": 3, "text": "b"}}},
		"2b":                                  {"text": "b", "$or": []tidemark.Where{{"n": 2}}},
		"":                                    {"n": 0, "$or": []tidemark.Where{{"n": 1}, {"n": 2}}},
		"0a 0b 0null 1a 1b 1null 2a 2b 2null 3a 3b 3null": {"n": tidemark.Range{GTE: 0}, "$or": []tidemark.Where{{"n": 1}, {}}},
	} {
		p := h.compile(t, "note", w)
		uids := strings.Fields(want)
		rows, err := h.Driver.Find(t.Context(), p, 0)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		found := make([]tidemark.RowMeta, len(rows))
		for i, row := range rows {
			found[i].Row = row
		}
		wantUIDs(t, fmt.Sprintf("found by %s", p), found, uids...)
		wantUIDs(t, fmt.Sprintf("selected by %s", p), h.snapshot(t, "note", w).Selected, uids...)
		if !logs {
			continue
		}
		for _, q := range []tidemark.Pull{{}, {From: from}} {
			q.Scope, q.Limit, q.Bytes, q.Count = p, generous, generous, true
			page := h.pull(t, q)
			wantUIDs(t, fmt.Sprintf("pulled from %d by %s", q.From.At, p), page.Rows, uids...)
			if page.Total != len(uids) {
				t.Errorf("%s counts %d, want %d", p, page.Total, len(uids))
			}
		}
	}
}

func expectSelected(t *testing.T, h Harness, p *tidemark.Predicate, rows []tidemark.Row) {
	t.Helper()
	found, err := h.Driver.Find(context.Background(), p, 0)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	var got, want []string
	for _, r := range found {
		got = append(got, r.UID())
	}
	for _, r := range rows {
		if p.Match(r) {
			want = append(want, r.UID())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: selects %v, Match %v", p, got, want)
	}
}
