package storetest

import (
	"slices"

	"github.com/tidemark-sync/tidemark"
)

func (t *T) findOf(s *tidemark.Schema, where tidemark.Where) []string {
	t.Helper()
	p, err := where.Compile(s)
	t.must(err)
	rows, err := t.store.Find(t.Context(), p)
	t.must(err)
	return uidsOf(rows)
}

var schemaRules = []Rule{
	{Name: "schema/declared again", Says: "Declare is idempotent and touches no row",
		check: func(t *T) {
			t.declare()
			want := synced("a", `"qty":1`)
			t.put(want)
			t.declare()
			if got := t.records("a")[0]; !sameRecord(got, want) {
				t.fatalf("got %+v", got)
			}
		}},
	{Name: "schema/members stay", Says: "when the schema has changed, rows keep the members that it lacks",
		check: func(t *T) {
			t.declare()
			want := synced("a", `"qty":1,"tag":"x","unheard of":[1]`)
			t.put(want)
			t.must(t.store.Declare(t.Context(), mustSchema("item", tidemark.Field{Name: "name", Kind: tidemark.Text, Indexed: true})))
			if got := t.records("a")[0]; !sameRecord(got, want) {
				t.fatalf("got %+v", got)
			}
			t.declare()
			if got := t.find(tidemark.Where{"qty": 1, "tag": "x"}); !slices.Equal(got, []string{"a"}) {
				t.fatalf("found %v", got)
			}
		}},
	{Name: "schema/new field", Says: "a field that was added finds the members that rows have already, with an index or without",
		check: func(t *T) {
			for _, indexed := range []bool{false, true} {
				t.must(t.store.Declare(t.Context(), mustSchema("item", tidemark.Field{Name: "qty", Kind: tidemark.Integer})))
				t.put(synced("a", `"qty":1,"colour":"red"`), synced("b", `"qty":1,"colour":"blue"`), synced("c", ""), tombstone("d", 1))
				s := mustSchema("item", tidemark.Field{Name: "colour", Kind: tidemark.Text, Indexed: indexed})
				t.must(t.store.Declare(t.Context(), s))
				if got := t.findOf(s, tidemark.Where{"colour": "red"}); !slices.Equal(got, []string{"a"}) {
					t.fatalf("indexed %v: found %v", indexed, got)
				}
				if got := t.findOf(s, tidemark.Where{"colour": nil}); !slices.Equal(got, []string{"c"}) {
					t.fatalf("indexed %v: null found %v", indexed, got)
				}
			}
		}},
	{Name: "schema/other kind", Says: "a field that has another kind now is compared as that kind",
		check: func(t *T) {
			t.must(t.store.Declare(t.Context(), mustSchema("item", tidemark.Field{Name: "v", Kind: tidemark.Text, Indexed: true})))
			t.put(synced("a", `"v":"2026-01-01"`), synced("b", `"v":"x"`))
			s := mustSchema("item", tidemark.Field{Name: "v", Kind: tidemark.Timestamp, Indexed: true})
			t.must(t.store.Declare(t.Context(), s))
			t.put(synced("c", `"v":"2026-01-01T00:00:00.000Z"`))
			if got := t.findOf(s, tidemark.Where{"v": "2026-01-01T00:00:00Z"}); !slices.Equal(got, []string{"a", "c"}) {
				t.fatalf("found %v, want [a c]", got)
			}
		}},
	{Name: "schema/older predicate", Says: "a clause that was compiled against another schema than the declared one still means what Match does",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":1,"extra":"x"`), synced("b", `"qty":"1"`))
			s := mustSchema("item", tidemark.Field{Name: "qty", Kind: tidemark.Text}, tidemark.Field{Name: "extra", Kind: tidemark.Text})
			if got := t.findOf(s, tidemark.Where{"qty": "1"}); !slices.Equal(got, []string{"b"}) {
				t.fatalf("found %v, want [b]", got)
			}
			if got := t.findOf(s, tidemark.Where{"extra": "x"}); !slices.Equal(got, []string{"a"}) {
				t.fatalf("found %v, want [a]", got)
			}
		}},
	{Name: "schema/names", Says: "models and fields may have any name that NewSchema takes",
		check: func(t *T) {
			for _, name := range []string{"select", "a b", "a.b", "a-b", `back\slash`, "日本", "a[0]", "$x", "%", "x; drop"} {
				s := mustSchema(name, tidemark.Field{Name: name, Kind: tidemark.Text, Indexed: true}, tidemark.Field{Name: "plain " + name, Kind: tidemark.Text})
				t.must(t.store.Declare(t.Context(), s))
				r := row("u", "").With(name, []byte(`"v"`)).With("plain "+name, []byte(`"w"`))
				t.update(func(tx tidemark.StoreTx) error {
					return tx.Put(name, []tidemark.Record{{UID: "u", Row: r, Base: r}})
				})
				if got := t.findOf(s, tidemark.Where{name: "v", "plain " + name: "w"}); !slices.Equal(got, []string{"u"}) {
					t.fatalf("%q: found %v", name, got)
				}
			}
		}},
	{Name: "schema/another store's", Says: "a store follows the Declare of another process", another: true,
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"name":"n","qty":1`))
			first, second := t.store, t.open()
			t.must(second.Declare(t.Context(), mustSchema("item", tidemark.Field{Name: "name", Kind: tidemark.Text, Indexed: true})))
			if got := t.find(tidemark.Where{"qty": 1}); !slices.Equal(got, []string{"a"}) {
				t.fatalf("found %v, want [a]", got)
			}
			t.put(synced("b", `"name":"n","qty":1`))
			for _, s := range []tidemark.Store{first, second} {
				t.store = s
				for _, w := range []tidemark.Where{{"name": "n"}, {"qty": 1}} {
					if got := t.find(w); !slices.Equal(got, []string{"a", "b"}) {
						t.fatalf("%v found %v", w, got)
					}
				}
				if r, err := s.Get(t.Context(), "item", "b"); err != nil || r == nil {
					t.fatalf("Get: %s, %v", r, err)
				}
			}
			t.must(second.Declare(t.Context(), mustSchema("another")))
			t.store = first
			if got := t.findOf(mustSchema("another"), nil); len(got) != 0 {
				t.fatalf("found %v", got)
			}
			t.must(first.Update(t.Context(), func(tx tidemark.StoreTx) error {
				return tx.Put("another", []tidemark.Record{synced("x", "")})
			}))
		}},
}
