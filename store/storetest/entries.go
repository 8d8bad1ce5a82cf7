package storetest

import (
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var entryRules = []Rule{
	{Name: "entries/saved", Says: "Load returns what Save stored last under the key, byte for byte",
		check: func(t *T) {
			for _, v := range []string{"1", "two", "\x00\xff bytes", strings.Repeat("x", 1<<20)} {
				t.save("k", []byte(v))
				if got := t.load("k"); string(got) != v {
					t.fatalf("got %.40q, want %.40q", got, v)
				}
			}
		}},
	{Name: "entries/none", Says: "Load returns nil when there is no entry",
		check: func(t *T) {
			if got := t.load("k"); got != nil {
				t.fatalf("got %q", got)
			}
		}},
	{Name: "entries/empty", Says: "an entry with an empty value is not the same as none",
		check: func(t *T) {
			t.save("k", []byte{})
			if got := t.load("k"); got == nil || len(got) != 0 {
				t.fatalf("got %#v", got)
			}
			if got := t.entries(""); len(got) != 1 || got[0].Value == nil {
				t.fatalf("entries %#v", got)
			}
		}},
	{Name: "entries/removed", Says: "a nil value removes the entry",
		check: func(t *T) {
			t.save("k", []byte("v"))
			t.save("k", nil)
			t.save("k", nil)
			if got := t.load("k"); got != nil || len(t.entries("")) != 0 {
				t.fatalf("got %q", got)
			}
		}},
	{Name: "entries/prefix", Says: "Entries returns the entries whose key begins with prefix, sorted by key, by bytes",
		check: func(t *T) {
			for _, k := range []string{"b/2", "b/10", "b", "a", "c", "b/", "B/1", "b0", "b/é", "b/\U0010ffff", "b%", "b_x"} {
				t.save(k, []byte("of "+k))
			}
			for prefix, want := range map[string][]string{
				"b/": {"b/", "b/10", "b/2", "b/é", "b/\U0010ffff"},
				"":   {"B/1", "a", "b", "b%", "b/", "b/10", "b/2", "b/é", "b/\U0010ffff", "b0", "b_x", "c"},
				"b%": {"b%"}, "b_": {"b_x"}, "x": nil,
			} {
				var got []string
				for _, e := range t.entries(prefix) {
					got = append(got, e.Key)
					if string(e.Value) != "of "+e.Key {
						t.fatalf("%s has %q", e.Key, e.Value)
					}
				}
				if !slices.Equal(got, want) {
					t.fatalf("%q: got %q, want %q", prefix, got, want)
				}
			}
		}},
	{Name: "entries/keys", Says: "a key of 1,024 bytes is kept; a longer one, or one that is no text, is CodeInvalidData",
		check: func(t *T) {
			longest := strings.Repeat("k", 1024)
			t.save(longest, []byte("v"))
			if string(t.load(longest)) != "v" {
				t.fatalf("the longest key is not kept")
			}
			for _, k := range []string{longest + "k", "a\x00", "\xff"} {
				err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Save(k, []byte("v")) })
				if tidemark.CodeOf(err) != tidemark.CodeInvalidData {
					t.fatalf("%.20q: %v", k, err)
				}
			}
		}},
	{Name: "entries/the caller's", Says: "values that a store returns belong to the caller, and what it was given stays the caller's",
		check: func(t *T) {
			v := []byte("value")
			t.save("k", v)
			clear(v)
			clear(t.load("k"))
			clear(t.entries("")[0].Value)
			if got := t.load("k"); string(got) != "value" {
				t.fatalf("got %q", got)
			}
		}},
}

func (t *T) entries(prefix string) (es []tidemark.Entry) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		es, err = tx.Entries(prefix)
		return err
	})
	return es
}
