package scopeindex_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/scopeindex"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pools has few values of each kind, in order where there is one, so that clauses and rows meet.
var pools = map[tidemark.Kind][]string{
	tidemark.Text:      {`""`, `"A"`, `"a"`, `"a\n\"b"`, `"aé"`, `"b"`, `"😀"`},
	tidemark.Integer:   {`-9223372036854775808`, `-1`, `0`, `1`, `2`, `3`, `9223372036854775807`},
	tidemark.Double:    {`-1e300`, `-0.5`, `0`, `0.5`, `1`, `1e300`},
	tidemark.Bool:      {`false`, `true`},
	tidemark.Timestamp: {`"0000-01-01T00:00:00.000Z"`, `"2026-01-01T00:00:00.000Z"`, `"2026-01-01T00:00:00.000001Z"`, `"9999-12-31T23:59:59.999999Z"`},
	tidemark.Bytes:     {`""`, `"AA=="`, `"QUJD"`},
	tidemark.JSON:      {`{}`, `[1,null]`, `"x"`},
	tidemark.Numeric:   {`"0"`, `"-1.5"`, `"10"`},
	tidemark.UUID:      {`"01890a5d-ac96-774b-bcce-b302099a8057"`, `"01890a5d-ac96-774b-bcce-b302099a8058"`},
	tidemark.Date:      {`"0000-01-01"`, `"2026-02-28"`, `"2026-03-01"`},
	tidemark.TimeOfDay: {`"00:00:00"`, `"10:11:12"`, `"10:11:12.5"`},
	tidemark.Enum:      {`"open"`, `"shut"`},
}

// drawSchema draws a model of some fields, in no order and of any kinds.
func drawSchema(t *rapid.T) *tidemark.Schema {
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", `back\slash`, "ünï"}), 1, 6, rapid.ID).Draw(t, "names")
	fields := make([]tidemark.Field, len(names))
	for i, name := range names {
		fields[i] = tidemark.Field{Name: name, Kind: tidemark.Kind(rapid.IntRange(1, int(tidemark.Enum)).Draw(t, "kind"))}
	}
	s, err := tidemark.NewSchema("item", fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawLiteral(t *rapid.T, f tidemark.Field) string {
	return rapid.SampledFrom(pools[f.Kind]).Draw(t, f.Name)
}

func quoted(s string) string { return string(tidemark.AppendString(nil, s)) }

// drawTerm draws what a clause asks of a field: also ranges of which nothing is within.
func drawTerm(t *rapid.T, f tidemark.Field) string {
	n := rapid.IntRange(0, 9).Draw(t, "term")
	switch {
	case n == 0 || !f.Kind.Comparable():
		return "null"
	case n <= 2:
		values := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{drawLiteral(t, f), drawLiteral(t, f), "null"}).Draw(t, "element")
		}), 0, 4).Draw(t, "values")
		return `{"in":[` + strings.Join(values, ",") + `]}`
	case n <= 5 || !f.Kind.Ordered():
		return drawLiteral(t, f)
	}
	bounds := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"gt", "gte", "lt", "lte"}), 1, 2, rapid.ID).Draw(t, "bounds")
	for i, b := range bounds {
		value := drawLiteral(t, f)
		if rapid.IntRange(0, 30).Draw(t, "null bound") == 0 {
			value = "null"
		}
		bounds[i] = quoted(b) + ":" + value
	}
	return "{" + strings.Join(bounds, ",") + "}"
}

func drawTerms(t *rapid.T, s *tidemark.Schema, most int) string {
	var terms []string
	for _, f := range rapid.SliceOfNDistinct(rapid.SampledFrom(s.Fields()), 0, most, func(f tidemark.Field) string { return f.Name }).Draw(t, "fields") {
		terms = append(terms, quoted(f.Name)+":"+drawTerm(t, f))
	}
	return strings.Join(terms, ",")
}

func drawPredicate(t *rapid.T, s *tidemark.Schema) *tidemark.Predicate {
	terms := drawTerms(t, s, 3)
	if n := rapid.IntRange(0, 8).Draw(t, "alternatives"); n < 5 && n > 0 {
		var any []string
		for range n {
			any = append(any, "{"+drawTerms(t, s, 3)+"}")
		}
		if terms != "" {
			terms += ","
		}
		terms += `"$or":[` + strings.Join(any, ",") + `]`
	}
	return parse(t, s, "{"+terms+"}")
}

func parse(t interface{ Fatalf(string, ...any) }, s *tidemark.Schema, raw string) *tidemark.Predicate {
	p, err := tidemark.ParseWhere(s, []byte(raw))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return p
}

// drawRow draws a row: values, nulls, values of another kind, members that are absent or that
// the model does not know; and now and then no row at all, or half of one.
func drawRow(t *rapid.T, s *tidemark.Schema) tidemark.Row {
	members := []string{`"other":{"a":[1]}`}
	for _, f := range rapid.Permutation(s.Fields()).Draw(t, "order") {
		name := quoted(f.Name)
		if f.Name == "b" {
			name = `"\u0062"`
		}
		switch n := rapid.IntRange(0, 11).Draw(t, "member"); n {
		case 0:
		case 1:
			members = append(members, name+":null")
		case 2:
			members = append(members, name+":"+rapid.SampledFrom([]string{`{"no":1}`, `"no such value"`, `1.25`, `true`}).Draw(t, "odd"))
		default:
			members = append(members, name+": "+drawLiteral(t, f))
		}
	}
	row := tidemark.Row("{" + strings.Join(members, ",") + "}")
	switch rapid.IntRange(0, 40).Draw(t, "whole") {
	case 0:
		return nil
	case 1:
		return row[:len(row)-1]
	}
	return row
}

// world is an index beside the plain list that it stands for.
type world struct {
	schema *tidemark.Schema
	index  *scopeindex.Index
	filed  map[int64]*tidemark.Predicate
	given  int64 // ids
}

func newWorld(s *tidemark.Schema) *world {
	return &world{schema: s, index: scopeindex.New(s), filed: map[int64]*tidemark.Predicate{}}
}

func (w *world) add(p *tidemark.Predicate) {
	w.given++
	w.index.Add(p, w.given)
	w.filed[w.given] = p
}

func (w *world) remove(id int64) {
	w.index.Remove(w.filed[id], id)
	delete(w.filed, id)
}

// ids are sorted: draws must not depend on the order of a map.
func (w *world) ids() []int64 {
	var ids []int64
	for id := range w.filed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// check compares what the index finds with what each predicate says by itself.
func (w *world) check(t *rapid.T, row tidemark.Row) (selected int) {
	want := []int64{-7}
	for _, id := range w.ids() {
		if w.filed[id].Match(row) {
			want = append(want, id)
		}
	}
	got := w.index.Lookup(row, []int64{-7})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%s is selected by %v, want %v of %v", row, got, want, w.filed)
	}
	return len(want) - 1
}

func TestLookupFindsWhatMatchSelects(t *testing.T) {
	t.Parallel()
	rows, selected := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(drawSchema(t))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch n := rapid.IntRange(0, 9).Draw(t, "step"); {
			case n < 5:
				w.add(drawPredicate(t, w.schema))
			case n < 7 && len(w.filed) > 0:
				w.remove(rapid.SampledFrom(w.ids()).Draw(t, "id"))
			default:
				rows++
				selected += w.check(t, drawRow(t, w.schema))
			}
		}
		for _, id := range w.ids() {
			w.remove(id)
		}
		rows++
		if w.check(t, drawRow(t, w.schema)) != 0 {
			t.Fatal("what was removed is found")
		}
	})
	if !t.Failed() && selected < rows/2 {
		t.Errorf("%d rows were selected %d times: the test proves next to nothing", rows, selected)
	}
}

// TestCrowds has so many predicates that share values that other terms become the better ones.
func TestCrowds(t *testing.T) {
	t.Parallel()
	s, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "a", Kind: tidemark.Bool}, {Name: "b", Kind: tidemark.Integer}, {Name: "c", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(s)
		for range 400 {
			low := rapid.IntRange(-50, 50).Draw(t, "low")
			where := fmt.Sprintf(`{"a":true,"b":{"gte":%d,"lt":%d},"c":%d}`, low, low+rapid.IntRange(-1, 20).Draw(t, "width"), rapid.IntRange(0, 2).Draw(t, "c"))
			switch rapid.IntRange(0, 5).Draw(t, "form") {
			case 0:
				where = fmt.Sprintf(`{"a":true,"b":{"gt":%d}}`, low)
			case 1:
				where = fmt.Sprintf(`{"a":true,"b":{"lte":%d}}`, low)
			case 2:
				where = fmt.Sprintf(`{"a":{"in":[true,null]},"b":{"in":[%d,%d]},"$or":[{"c":0},{"a":true},{"b":{"gt":%d}}]}`, low, low+1, low)
			}
			w.add(parse(t, s, where))
			if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				w.remove(rapid.SampledFrom(w.ids()).Draw(t, "id"))
			}
		}
		for range 20 {
			w.check(t, tidemark.Row(fmt.Sprintf(`{"a":true,"b":%d,"c":%d}`, rapid.IntRange(-60, 80).Draw(t, "b"), rapid.IntRange(0, 2).Draw(t, "c"))))
		}
	})
}

// TestRanges has many ranges of one field: numbers next to each other, and texts that differ after their first eight bytes.
func TestRanges(t *testing.T) {
	t.Parallel()
	s, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "n", Kind: tidemark.Integer}, {Name: "s", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	literals := map[string]func(int) string{"n": strconv.Itoa, "s": func(n int) string { return fmt.Sprintf(`"the same %02d"`, n) }}
	rapid.Check(t, func(t *rapid.T) {
		w, of := newWorld(s), rapid.SampledFrom([]string{"n", "s"}).Draw(t, "field")
		literal := literals[of]
		for range 60 {
			low := rapid.IntRange(0, 30).Draw(t, "low")
			bounds := []string{
				rapid.SampledFrom([]string{`"gt":`, `"gte":`}).Draw(t, "above") + literal(low),
				rapid.SampledFrom([]string{`"lt":`, `"lte":`}).Draw(t, "below") + literal(low+rapid.IntRange(0, 6).Draw(t, "width")),
			}
			if n := rapid.IntRange(0, 20).Draw(t, "bound"); n < 2 {
				bounds = bounds[n:][:1]
			}
			w.add(parse(t, s, `{"`+of+`":{`+strings.Join(bounds, ",")+`}}`))
			if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				w.remove(rapid.SampledFrom(w.ids()).Draw(t, "id"))
			}
		}
		for n := range 40 {
			w.check(t, tidemark.Row(`{"`+of+`":`+literal(n)+`}`))
		}
	})
}

func TestAPredicateOfAnotherSchemaSelectsNothing(t *testing.T) {
	t.Parallel()
	older, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "a", Kind: tidemark.Text}, {Name: "gone", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "a", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	ix := scopeindex.New(s)
	for i, raw := range []string{`{"gone":null}`, `{"a":null}`, `{"a":"1"}`} {
		ix.Add(parse(t, older, raw), int64(i))
	}
	if got := ix.Lookup(tidemark.Row(`{"uid":"u","a":null}`), nil); got != nil {
		t.Errorf("got %v", got)
	}
	ix.Remove(parse(t, older, `{"gone":null}`), 0)
}

// anyKind is a model with a field of each kind, a row of it with no escapes, and predicates that ask for each.
func anyKind(t *testing.T) (*scopeindex.Index, tidemark.Row, int) {
	var fields []tidemark.Field
	for k := tidemark.Text; k <= tidemark.Enum; k++ {
		fields = append(fields, tidemark.Field{Name: k.String(), Kind: k})
	}
	s, err := tidemark.NewSchema("item", fields)
	if err != nil {
		t.Fatal(err)
	}
	ix, row, n := scopeindex.New(s), `{"uid":"u"`, 0
	add := func(raw string) {
		ix.Add(parse(t, s, raw), int64(n))
		n++
	}
	add(`{}`)
	for _, f := range fields {
		value := pools[f.Kind][len(pools[f.Kind])-1]
		row += `,"` + f.Name + `":` + value
		if f.Kind.Comparable() {
			add(`{"` + f.Name + `":` + value + `}`)
		}
		if f.Kind.Ordered() {
			add(`{"uid":{"gt":"t"},"` + f.Name + `":{"lte":` + value + `}}`)
		}
		if f.Kind.Comparable() {
			add(`{"` + f.Name + `":{"in":[null,` + value + `]},"$or":[{"json":null},{"uid":"u"},{"uid":{"in":["u","v"]}}]}`)
		}
	}
	return ix, tidemark.Row(row + "}"), n
}

func TestLookupTakesNoMemory(t *testing.T) {
	ix, row, all := anyKind(t)
	into := make([]int64, 0, all)
	if n := testing.AllocsPerRun(1000, func() { into = ix.Lookup(row, into[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(into) != all {
		t.Errorf("%d of %d predicates select %s", len(into), all, row)
	}
}

func TestLookupsRunConcurrently(t *testing.T) {
	t.Parallel()
	ix, row, all := anyKind(t)
	other := tidemark.Row(`{"uid":"w","integer":2}`)
	others := ix.Lookup(other, nil)
	if len(others) == 0 || len(others) == all {
		t.Fatalf("%v found of the other row", others)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if got := ix.Lookup(row, nil); len(got) != all {
					t.Errorf("%d found, want %d", len(got), all)
				}
				if got := ix.Lookup(other, nil); !slices.Equal(got, others) {
					t.Errorf("%v found of the other row, want %v", got, others)
				}
			}
		})
	}
	wg.Wait()
}
