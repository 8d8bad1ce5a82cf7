package tidemark_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"pgregory.net/rapid"
)

func TestWhereHasACanonicalKey(t *testing.T) {
	t.Parallel()
	s := wideSchema(t)
	paris := time.FixedZone("", 3600)
	var nothing *string
	for _, c := range []struct {
		where tidemark.Where
		want  string
	}{
		{nil, `{}`},
		{tidemark.Where{}, `{}`},
		{tidemark.Where{"qty": 1, "name": "a"}, `{"name":"a","qty":1}`},
		{tidemark.Where{"name": nil}, `{"name":null}`},
		{tidemark.Where{"name": nothing}, `{"name":null}`},
		{tidemark.Where{"due": time.Date(2026, 1, 1, 1, 0, 0, 0, paris)}, `{"due":"2026-01-01T00:00:00.000Z"}`},
		{tidemark.Where{"due": "2026-01-01T01:00:00+01:00"}, `{"due":"2026-01-01T00:00:00.000Z"}`},
		{tidemark.Where{"qty": tidemark.Range{LT: 9, GTE: 1}}, `{"qty":{"gte":1,"lt":9}}`},
		{tidemark.Where{"qty": map[string]any{"gt": 1, "gte": 1, "lte": 4, "lt": 5}}, `{"qty":{"gt":1,"lte":4}}`},
		{tidemark.Where{"qty": json.RawMessage(`{"gte":null}`)}, `{"qty":{"gt":null}}`},
		{tidemark.Where{"price": math.Copysign(0, -1)}, `{"price":0}`},
		{tidemark.Where{"done": tidemark.Range{GTE: false}}, `{"done":{"gte":false}}`},
		{tidemark.Where{"name": "<&>\u2028"}, "{\"name\":\"<&>\u2028\"}"},
		{tidemark.Where{"qty": tidemark.In{10, nil, 9, 10, nothing}}, `{"qty":{"in":[null,9,10]}}`},
		{tidemark.Where{"qty": &tidemark.In{2, 1.0}}, `{"qty":{"in":[1,2]}}`},
		{tidemark.Where{"qty": tidemark.In{7, 7}}, `{"qty":7}`},
		{tidemark.Where{"qty": tidemark.In{nil}}, `{"qty":null}`},
		{tidemark.Where{"qty": tidemark.In{}}, `{"qty":{"gt":null}}`},
		{tidemark.Where{"cost": tidemark.In(nil)}, `{"cost":{"in":[]}}`},
		{tidemark.Where{"cost": tidemark.In{"1.50", "1.5"}}, `{"cost":"1.5"}`},
		{tidemark.Where{"tags": tidemark.In{nil, nil}}, `{"tags":null}`},
		{tidemark.Where{"due": map[string]any{"in": []any{"2026-01-01T01:00:00+01:00", time.Date(2025, 1, 1, 1, 0, 0, 0, paris)}}}, `{"due":{"in":["2025-01-01T00:00:00.000Z","2026-01-01T00:00:00.000Z"]}}`},
		{tidemark.Where{"$or": []tidemark.Where{{"qty": 2}, {"name": "a", "done": true}, {"qty": 2.0}}, "price": 1}, `{"price":1,"$or":[{"done":true,"name":"a"},{"qty":2}]}`},
		{tidemark.Where{"$or": []any{map[string]any{"qty": tidemark.Range{GT: 1}}, tidemark.Where{"qty": nil}}}, `{"$or":[{"qty":null},{"qty":{"gt":1}}]}`},
		{tidemark.Where{"$or": []tidemark.Where{{"qty": 2}, {}}, "price": 1}, `{"price":1}`},
		{tidemark.Where{"$or": []tidemark.Where{nil}}, `{}`},
	} {
		p, err := c.where.Compile(s)
		if err != nil || p.Key() != c.want {
			t.Errorf("%v: got %v, %v; want %s", c.where, p, err, c.want)
			continue
		}
		if again, err := tidemark.ParseWhere(s, []byte(p.Key())); err != nil || again.Key() != c.want {
			t.Errorf("%s reads back as %v, %v", c.want, again, err)
		}
	}
}

// wideSchema has besides a field that has no order, and one that can only be null or not.
func wideSchema(t *testing.T) *tidemark.Schema {
	t.Helper()
	s, err := tidemark.NewSchema("item", append(itemSchema(t).Fields(),
		tidemark.Field{Name: "tags", Kind: tidemark.JSON}, tidemark.Field{Name: "cost", Kind: tidemark.Numeric}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhereRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	s := wideSchema(t)
	for _, c := range []struct {
		raw  string
		want tidemark.Code
	}{
		{`{"colour":1}`, tidemark.CodeUnknownField},
		{`{"colour":null}`, tidemark.CodeUnknownField},
		{`{"Name":"a"}`, tidemark.CodeUnknownField},
		{`{"__proto__":{}}`, tidemark.CodeUnknownField},
		{`{"name; drop table item":1}`, tidemark.CodeUnknownField},
		{`{"qty":"1"}`, tidemark.CodeInvalidWhere},
		{`{"qty":1.5}`, tidemark.CodeInvalidWhere},
		{`{"qty":99999999999999999999}`, tidemark.CodeInvalidWhere},
		{`{"name":7}`, tidemark.CodeInvalidWhere},
		{`{"name":"a\u0000"}`, tidemark.CodeInvalidWhere},
		{`{"done":"true"}`, tidemark.CodeInvalidWhere},
		{`{"due":"soon"}`, tidemark.CodeInvalidWhere},
		{`{"due":7}`, tidemark.CodeInvalidWhere},
		{`{"name":[]}`, tidemark.CodeInvalidWhere},
		{`{"name":["a"]}`, tidemark.CodeInvalidWhere},
		{`{"name":{}}`, tidemark.CodeInvalidWhere},
		{`{"name":{"like":"a%"}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"gte":1,"in":[2]}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":[2],"in":[2]}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":2}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":null}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":["2"]}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":[2,]}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":[[2]]}}`, tidemark.CodeInvalidWhere},
		{`{"tags":{"in":[null,1]}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"in":[1` + strings.Repeat(",1", 1000) + `]}}`, tidemark.CodeInvalidWhere},
		{`{"$or":[]}`, tidemark.CodeInvalidWhere},
		{`{"$or":{}}`, tidemark.CodeInvalidWhere},
		{`{"$or":null}`, tidemark.CodeInvalidWhere},
		{`{"$or":[null]}`, tidemark.CodeInvalidWhere},
		{`{"$or":[{"qty":1}],"$or":[{"qty":1}]}`, tidemark.CodeInvalidWhere},
		{`{"$or":[{"$or":[{"qty":1}]}]}`, tidemark.CodeInvalidWhere},
		{`{"$or":[{},{"qty":"1"}]}`, tidemark.CodeInvalidWhere},
		{`{"$or":[{"qty":1,"qty":1}]}`, tidemark.CodeInvalidWhere},
		{`{"$or":[{"colour":1}]}`, tidemark.CodeUnknownField},
		{`{"$or":[{}` + strings.Repeat(`,{}`, 32) + `]}`, tidemark.CodeInvalidWhere},
		{`{"name":"a","$or":[{"qty":0}` + strings.Repeat(`,{"qty":0}`, 31) + `]}`, tidemark.CodeInvalidWhere},
		{`{"$and":[{"qty":1}]}`, tidemark.CodeUnknownField},
		{`{"qty":{"gte":{}}}`, tidemark.CodeInvalidWhere},
		{`{"qty":{"gte":"1"}}`, tidemark.CodeInvalidWhere},
		{`{"tags":{"gte":1}}`, tidemark.CodeInvalidWhere},
		{`{"tags":[1]}`, tidemark.CodeInvalidWhere},
		{`{"cost":{"gte":"1"}}`, tidemark.CodeInvalidWhere},
		{`{"qty":1,"qty":2}`, tidemark.CodeInvalidWhere},
		{`{"qty":1,"\u0071ty":2}`, tidemark.CodeInvalidWhere},
		{`null`, tidemark.CodeInvalidWhere},
		{`"qty"`, tidemark.CodeInvalidWhere},
		{`[]`, tidemark.CodeInvalidWhere},
		{``, tidemark.CodeInvalidWhere},
		{`{"qty":1`, tidemark.CodeInvalidWhere},
	} {
		p, err := tidemark.ParseWhere(s, []byte(c.raw))
		if tidemark.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, %v; want %s", c.raw, p, err, c.want)
		}
	}
	for _, w := range []tidemark.Where{{"price": math.NaN()}, {"price": math.Inf(1)}, {"name": make(chan int)}, {"name": "\xff"}, {"qty": tidemark.Range{}}, {"price": tidemark.In{math.NaN()}}, {"$or": []tidemark.Where{{"name": make(chan int)}}}, {"$or": []tidemark.Where{}}} {
		if _, err := w.Compile(s); !errors.Is(err, &tidemark.Error{Code: tidemark.CodeInvalidWhere}) {
			t.Errorf("%v: got %v, want invalid-where", w, err)
		}
	}
}

func TestNullAndMissingAreTheSame(t *testing.T) {
	t.Parallel()
	s := itemSchema(t)
	for _, row := range []string{`{"uid":"a"}`, `{"uid":"a","name":null}`} {
		for where, want := range map[string]bool{`{"name":null}`: true, `{"name":"a"}`: false, `{"name":{"gte":""}}`: false, `{"name":{"lt":null}}`: false, `{}`: true,
			`{"name":{"in":["a",null]}}`: true, `{"name":{"in":["a","b"]}}`: false, `{"name":{"in":[]}}`: false,
			`{"$or":[{"name":"a"},{"name":null,"qty":null}]}`: true, `{"name":null,"$or":[{"name":"a"},{"qty":1}]}`: false} {
			p, err := tidemark.ParseWhere(s, []byte(where))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Match(tidemark.Row(row)); got != want {
				t.Errorf("%s selects %s: got %v", where, row, got)
			}
		}
	}
	if p, _ := tidemark.ParseWhere(s, []byte(`{}`)); p.Match(nil) {
		t.Error("no row was selected")
	}
}

func TestScopesCoverAndOverlap(t *testing.T) {
	t.Parallel()
	s := itemSchema(t)
	parse := func(raw string) *tidemark.Predicate {
		p, err := tidemark.ParseWhere(s, []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		a, b             string
		covers, overlaps bool
	}{
		{`{}`, `{"qty":1}`, true, true},
		{`{"qty":1}`, `{}`, false, true},
		{`{"qty":1}`, `{"qty":1,"name":"a"}`, true, true},
		{`{"qty":1}`, `{"name":"a"}`, false, true},
		{`{"qty":1}`, `{"qty":2}`, false, false},
		{`{"qty":null}`, `{"qty":2}`, false, false},
		{`{"qty":{"gte":1}}`, `{"qty":1}`, true, true},
		{`{"qty":{"gt":1}}`, `{"qty":1}`, false, false},
		{`{"qty":{"gte":1}}`, `{"qty":{"gt":1,"lt":5}}`, true, true},
		{`{"qty":{"gt":1}}`, `{"qty":{"gte":1}}`, false, true},
		{`{"qty":{"lt":1}}`, `{"qty":{"gte":1}}`, false, false},
		{`{"qty":{"lte":1}}`, `{"qty":{"gte":1}}`, false, true},
		{`{"qty":1}`, `{"qty":{"gte":1,"lte":1}}`, true, true},
		{`{"qty":1}`, `{"qty":{"gt":5,"lt":5}}`, true, false},
		{`{"due":"2026-01-01T00:00:00Z"}`, `{"due":"2026-01-01T01:00:00+01:00"}`, true, true},
		{`{"qty":{"in":[1,2,null]}}`, `{"qty":{"in":[2,null]}}`, true, true},
		{`{"qty":{"in":[1,2,null]}}`, `{"qty":null}`, true, true},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"in":[2,null]}}`, false, true},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"in":[3,null]}}`, false, false},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"gt":1}}`, false, true},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"gt":2}}`, false, false},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"gte":2,"lte":2}}`, true, true},
		{`{"qty":{"gte":1}}`, `{"qty":{"in":[1,2]}}`, true, true},
		{`{"qty":{"gte":1}}`, `{"qty":{"in":[1,null]}}`, false, true},
		{`{"qty":{"in":[1,2]}}`, `{"qty":{"in":[]}}`, true, false},
		{`{"$or":[{"qty":1},{"name":"a"}]}`, `{"qty":1}`, true, true},
		{`{"$or":[{"qty":1},{"name":"a"}]}`, `{"qty":2}`, false, true},
		{`{"$or":[{"qty":1},{"qty":2}]}`, `{"qty":3}`, false, false},
		{`{"$or":[{"qty":1},{"qty":2}]}`, `{"qty":{"in":[1,2]}}`, false, true}, // in vain: no alternative covers it alone
		{`{"qty":{"in":[1,2]}}`, `{"$or":[{"qty":1},{"qty":2,"name":"a"}]}`, true, true},
		{`{"$or":[{"qty":1},{"name":"a"}]}`, `{"$or":[{"name":"a","done":true},{"qty":1}]}`, true, true},
		{`{"$or":[{"qty":1},{"name":"a"}]}`, `{"$or":[{"name":"b","done":true},{"qty":1}]}`, false, true},
		{`{"name":"a"}`, `{"name":"a","$or":[{"qty":1},{"qty":2}]}`, true, true},
		{`{"name":"b"}`, `{"name":"a","$or":[{"qty":1},{"qty":2}]}`, false, false},
		{`{"name":"b"}`, `{"name":"a","$or":[{"name":"b"}]}`, true, false},
		{`{"$or":[{"qty":{"gt":null}},{"qty":1}]}`, `{"qty":1}`, true, true},
	} {
		a, b := parse(c.a), parse(c.b)
		if a.Covers(b) != c.covers || a.Overlaps(b) != c.overlaps {
			t.Errorf("%s and %s: covers %v, overlaps %v; want %v, %v", a, b, a.Covers(b), a.Overlaps(b), c.covers, c.overlaps)
		}
	}
}

// TestRandomClausesAgree holds all that can be asked of clauses to what they select of some rows.
func TestRandomClausesAgree(t *testing.T) {
	t.Parallel()
	s := itemSchema(t)
	values := map[string][]string{"name": {`"a"`, `"b"`, `"c"`}, "qty": {"1", "2", "3"}}
	var rows []tidemark.Row
	for _, name := range append(values["name"], "null") {
		for _, qty := range append(values["qty"], "null") {
			rows = append(rows, tidemark.Row(`{"name":`+name+`,"qty":`+qty+`}`))
		}
	}
	term := func(t *rapid.T, field string) string {
		some := rapid.SliceOfN(rapid.SampledFrom(append(values[field], "null")), 1, 3).Draw(t, "values")
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 0:
			return some[0]
		case 1:
			return `{"in":[` + strings.Join(some, ",") + `]}`
		case 2:
			return `{"gte":` + some[0] + `}`
		}
		return `{"gt":` + some[0] + `,"lte":` + some[len(some)-1] + `}`
	}
	members := func(t *rapid.T) []string {
		var list []string
		for _, field := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"name", "qty"}), rapid.ID).Draw(t, "fields") {
			list = append(list, `"`+field+`":`+term(t, field))
		}
		return list
	}
	parse := func(t *rapid.T, list []string) *tidemark.Predicate {
		p, err := tidemark.ParseWhere(s, []byte("{"+strings.Join(list, ",")+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	clause := func(t *rapid.T) (*tidemark.Predicate, []bool) {
		list := members(t)
		var all, any []*tidemark.Predicate
		for _, m := range list {
			all = append(all, parse(t, []string{m}))
		}
		if n := rapid.IntRange(0, 4).Draw(t, "alternatives"); n > 0 {
			var alternatives []string
			for range n {
				m := members(t)
				any = append(any, parse(t, m))
				alternatives = append(alternatives, "{"+strings.Join(m, ",")+"}")
			}
			list = append(list, `"$or":[`+strings.Join(alternatives, ",")+`]`)
		}
		p := parse(t, list)
		again, err := tidemark.ParseWhere(s, []byte(p.Key()))
		if err != nil || again.Key() != p.Key() {
			t.Fatalf("key %s of %s reads back as %v, %v", p.Key(), list, again, err)
		}
		selects := make([]bool, len(rows))
		for i, r := range rows {
			holds := func(p *tidemark.Predicate) bool { return p.Match(r) }
			fails := func(p *tidemark.Predicate) bool { return !p.Match(r) }
			selects[i] = p.Match(r)
			if want := !slices.ContainsFunc(all, fails) && (any == nil || slices.ContainsFunc(any, holds)); selects[i] != want || again.Match(r) != want {
				t.Fatalf("%s selects %s: %v, and its key %s: %v; want %v", list, r, selects[i], p.Key(), again.Match(r), want)
			}
		}
		return p, selects
	}
	rapid.Check(t, func(t *rapid.T) {
		p, mine := clause(t)
		q, theirs := clause(t)
		common, all := false, true
		for i := range rows {
			common, all = common || mine[i] && theirs[i], all && (mine[i] || !theirs[i])
		}
		if common && !p.Overlaps(q) || p.Overlaps(q) != q.Overlaps(p) {
			t.Fatalf("%s and %s: overlap %v and %v, common rows %v", p, q, p.Overlaps(q), q.Overlaps(p), common)
		}
		if p.Covers(q) && !all {
			t.Fatalf("%s does not cover %s", p, q)
		}
		if p.Empty() && slices.Contains(mine, true) {
			t.Fatalf("%s is not empty", p)
		}
		if !p.Covers(p) {
			t.Fatalf("%s does not cover itself", p)
		}
	})
}

// The longest clauses are not compared value by value, which would take a quarter of a second:
// they may overlap, and one is not known to cover the other.
func TestLongClausesOverlapInVain(t *testing.T) {
	t.Parallel()
	clause := func(odd int) *tidemark.Predicate {
		lists := make([]tidemark.Where, tidemark.MaxTerms)
		for k := range lists {
			list := make(tidemark.In, tidemark.MaxValues)
			for i := range list {
				list[i] = 2*(i*len(lists)+k) + odd
			}
			lists[k] = tidemark.Where{"qty": list}
		}
		p, err := tidemark.Where{"$or": lists}.Compile(itemSchema(t))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p, q := clause(0), clause(1)
	none, err := tidemark.Where{"qty": tidemark.Range{GT: 1, LT: 1}}.Compile(p.Schema())
	if err != nil {
		t.Fatal(err)
	}
	if !p.Overlaps(q) || p.Covers(q) || !p.Covers(clause(0)) || p.Overlaps(none) || !p.Covers(none) {
		t.Errorf("overlap %v, cover %v, cover the same %v, overlap nothing %v, cover nothing %v", p.Overlaps(q), p.Covers(q), p.Covers(clause(0)), p.Overlaps(none), p.Covers(none))
	}
	row := tidemark.Row(`{"qty":62}`)
	if !p.Match(row) || q.Match(row) {
		t.Errorf("%s: %v, %v", row, p.Match(row), q.Match(row))
	}
}

// FuzzWhere reads what anybody may send for a where: it is refused, or has a key that means the same.
func FuzzWhere(f *testing.F) {
	for _, raw := range []string{
		`{}`, `{"name":"a","qty":{"gte":1,"lt":null}}`, `{"qty":{"in":[1,null,2.0]},"$or":[{"name":"a"},{"due":{"gt":"2026-01-01"},"done":{"in":[]}}]}`,
		`{"$or":[{"$or":[]}]}`, `{"$or":[{}]}`, `{"tags":null,"cost":{"in":["1.0"]}}`, `{"$or":[{"qty":1},{"qty":1,"name":{"in":["\ud83d\ude00"]}}]}`,
	} {
		f.Add(raw)
	}
	s, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "name", Kind: tidemark.Text}, {Name: "qty", Kind: tidemark.Integer}, {Name: "done", Kind: tidemark.Bool},
		{Name: "due", Kind: tidemark.Timestamp}, {Name: "tags", Kind: tidemark.JSON}, {Name: "cost", Kind: tidemark.Numeric}})
	if err != nil {
		f.Fatal(err)
	}
	rows := []tidemark.Row{nil, []byte(`{`), []byte(`{"uid":"a","name":"a","qty":1,"done":true,"due":"2026-01-01T00:00:00.000Z","cost":"1"}`), []byte(`{"uid":"b","qty":2}`)}
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := tidemark.ParseWhere(s, []byte(raw))
		if err != nil {
			if c := tidemark.CodeOf(err); c != tidemark.CodeInvalidWhere && c != tidemark.CodeUnknownField {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		again, err := tidemark.ParseWhere(s, []byte(p.Key()))
		if err != nil || again.Key() != p.Key() || again.Empty() != p.Empty() || !p.Covers(again) {
			t.Fatalf("%q: %s reads back as %v, %v", raw, p, again, err)
		}
		for _, r := range rows {
			if p.Match(r) != again.Match(r) || p.Match(r) && p.Empty() {
				t.Errorf("%q: %s selects %s: %v, its key %v", raw, p, r, p.Match(r), again.Match(r))
			}
		}
	})
}
