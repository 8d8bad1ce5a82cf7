package tidemark_test

import (
	"slices"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

func TestPatchTakesWhatTheSchemaKnows(t *testing.T) {
	t.Parallel()
	s, err := tidemark.NewSchema("item", append(itemSchema(t).Fields(), tidemark.Field{Name: "total", Kind: tidemark.Integer, ReadOnly: true}))
	if err != nil {
		t.Fatal(err)
	}
	patch, unknown, err := s.Patch("u", []byte(`{"uid":"u","__deleted__":null,"colour":"red","due":"2026-01-01","total":9,"name":"a","constructor":{}}`))
	if err != nil || string(patch) != `{"name":"a","due":"2026-01-01T00:00:00.000Z"}` || !slices.Equal(unknown, []string{"colour", "total", "constructor"}) {
		t.Errorf("got %s, %v, %v", patch, unknown, err)
	}
	if patch, _, err := s.Patch("u", []byte(`{}`)); err != nil || string(patch) != `{}` {
		t.Errorf("empty data: got %s, %v", patch, err)
	}
	for _, raw := range []string{
		`{"uid":"v"}`, `{"uid":7}`, `{"uid":null}`, `{"__deleted__":true}`, `{"__deleted__":1}`, `{"qty":"1"}`, `{"name":7}`, `{"name":"\u0000"}`,
		`{"name":"a","name":"b"}`, `null`, `[]`, `7`, ``, `{`,
	} {
		if p, _, err := s.Patch("u", []byte(raw)); tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%s: got %s, %v; want invalid-data", raw, p, err)
		}
	}
}

func TestSchemasAreChecked(t *testing.T) {
	t.Parallel()
	text := func(name string) tidemark.Field { return tidemark.Field{Name: name, Kind: tidemark.Text} }
	for name, fields := range map[string][]tidemark.Field{
		"":         nil,
		`a"b`:      nil,
		"__meta":   nil,
		"twice":    {text("a"), text("a")},
		"kindless": {{Name: "a"}},
		"numbered": {{Name: "uid", Kind: tidemark.Integer}},
		"reserved": {text("__deleted__")},
		"quoted":   {text(`a"`)},
		"or":       {text("$or")},
	} {
		if _, err := tidemark.NewSchema(name, fields); err == nil {
			t.Errorf("schema %q was accepted", name)
		}
	}
	s, err := tidemark.NewSchema("post", []tidemark.Field{text("title"), text("uid")})
	if err != nil {
		t.Fatal(err)
	}
	if f := s.Fields(); len(f) != 2 || f[0].Name != "uid" || !f[0].Required || f[1].Name != "title" {
		t.Errorf("got %+v", f)
	}
	for uid, ok := range map[string]bool{"0190a000-0000-7000-8000-000000000001": true, "__proto__": true, "é": true, "": false, "a\x00": false, "a\n": false, "\xff": false, string(make([]byte, 200)): false} {
		if err := tidemark.CheckUID(uid); (err == nil) != ok {
			t.Errorf("uid %q: %v", uid, err)
		}
	}
}
