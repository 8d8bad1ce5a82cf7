package tidemark_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

func TestWhereHasACanonicalKey(t *testing.T) {
	t.Parallel()
	s := itemSchema(t)
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
	} {
		p, err := c.where.Compile(s)
		if err != nil || p.Key() != c.want {
			t.Errorf("%v: got %v, %v; want %s", c.where, p, err, c.want)
		}
	}
}

func TestWhereRefusesWhatItCannotMean(t *testing.T) {
	t.Parallel()
	s, err := tidemark.NewSchema("item", append(itemSchema(t).Fields(),
		tidemark.Field{Name: "tags", Kind: tidemark.JSON}, tidemark.Field{Name: "cost", Kind: tidemark.Numeric}))
	if err != nil {
		t.Fatal(err)
	}
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
	for _, w := range []tidemark.Where{{"price": math.NaN()}, {"price": math.Inf(1)}, {"name": make(chan int)}, {"name": "\xff"}, {"qty": tidemark.Range{}}} {
		if _, err := w.Compile(s); !errors.Is(err, &tidemark.Error{Code: tidemark.CodeInvalidWhere}) {
			t.Errorf("%v: got %v, want invalid-where", w, err)
		}
	}
}

func TestNullAndMissingAreTheSame(t *testing.T) {
	t.Parallel()
	s := itemSchema(t)
	for _, row := range []string{`{"uid":"a"}`, `{"uid":"a","name":null}`} {
		for where, want := range map[string]bool{`{"name":null}`: true, `{"name":"a"}`: false, `{"name":{"gte":""}}`: false, `{"name":{"lt":null}}`: false, `{}`: true} {
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
	} {
		a, b := parse(c.a), parse(c.b)
		if a.Covers(b) != c.covers || a.Overlaps(b) != c.overlaps {
			t.Errorf("%s and %s: covers %v, overlaps %v; want %v, %v", a, b, a.Covers(b), a.Overlaps(b), c.covers, c.overlaps)
		}
	}
}
