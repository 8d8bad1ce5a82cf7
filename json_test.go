package tidemark_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tidemark-sync/tidemark"
)

func TestJSONIsCheckedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		raw  string
		lim  tidemark.JSONLimits
		want tidemark.Code // "" means accepted
	}{
		{`{"a":[1,-0.5e+3,true,false,null,"\u00e9\n"]} `, tidemark.JSONLimits{}, ""},
		{`{"a":1,"A":2}`, tidemark.JSONLimits{}, ""},
		{`{"a":1,"b":2,"a":3}`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`{"a":1,"\u0061":2}`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`{"0":0,"1":0,"2":0,"3":0,"4":0,"5":0,"6":0,"7":0,"8":0,"9":0,"3":0}`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{deep(16), tidemark.JSONLimits{Depth: 16}, ""},
		{deep(17), tidemark.JSONLimits{Depth: 16}, tidemark.CodeTooLarge},
		{deep(1_000_000), tidemark.JSONLimits{}, tidemark.CodeTooLarge},
		{`[1,2,3]`, tidemark.JSONLimits{Values: 4}, ""},
		{`[1,2,3,4]`, tidemark.JSONLimits{Values: 4}, tidemark.CodeTooLarge},
		{"\"\xff\"", tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`{"a":1,}`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`[1,]`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`01`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{`1 2`, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
		{``, tidemark.JSONLimits{}, tidemark.CodeInvalidRequest},
	} {
		err := tidemark.CheckJSON([]byte(c.raw), c.lim)
		if got := tidemark.CodeOf(err); got != c.want {
			t.Errorf("%.40s: got %v, want %q", c.raw, err, c.want)
		}
	}
}

// FuzzJSON holds the scanner against encoding/json: both accept the same texts,
// but for what we refuse on purpose.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"\u00e9"}],"c":-1.5e-7}`, `[]`, `{}`, `"\ud800"`, `nul`, `{"a":1,"a":2}`, `[1,]`, "\"\x01\"", `-`, `1e`, `{"a"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := tidemark.CheckJSON(b, tidemark.JSONLimits{Depth: 100})
		valid := json.Valid(b)
		if err == nil && !valid {
			t.Fatalf("%q was accepted", b)
		}
		if err != nil && valid && utf8.Valid(b) && !strings.Contains(err.Error(), "twice") && tidemark.CodeOf(err) != tidemark.CodeTooLarge {
			t.Fatalf("%q was refused: %v", b, err)
		}
		n := 0
		_ = tidemark.EachMember(b, func(string, []byte) error { n++; return nil })
		_ = tidemark.EachElement(b, func(int, []byte) error { n++; return nil })
		if s, err := tidemark.DecodeString(b); err == nil {
			if again, err := tidemark.DecodeString(tidemark.AppendString(nil, s)); err != nil || again != s {
				t.Fatalf("%q became %q, %v", s, again, err)
			}
		}
		_, _ = tidemark.ParseRequest(b)
		_ = new(tidemark.SyncResult).UnmarshalJSON(b)
		_ = tidemark.Row(b).Merge(b)
	})
}

func TestWalkingStopsAtTheFirstError(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	n := 0
	err := tidemark.EachMember([]byte(`{"a":1,"b":2}`), func(string, []byte) error { n++; return stop })
	if err != stop || n != 1 {
		t.Errorf("got %v after %d members", err, n)
	}
	if err := tidemark.EachMember([]byte(`{"a":1}x`), func(string, []byte) error { return nil }); err == nil {
		t.Error("text after the object was accepted")
	}
	if _, err := tidemark.Elements([]byte(`{"length":1}`)); err == nil {
		t.Error("an object passed for an array")
	}
}

func TestRowsChangeByCopy(t *testing.T) {
	t.Parallel()
	r := tidemark.Row(`{"uid":"u","a":1,"b":{"c":[2]}}`)
	before := bytes.Clone(r)
	for _, c := range []struct {
		name string
		got  tidemark.Row
		want string
	}{
		{"merge", r.Merge(tidemark.Row(`{"b":null,"d":3}`)), `{"uid":"u","a":1,"b":null,"d":3}`},
		{"merge into nothing", tidemark.Row(nil).Merge(tidemark.Row(`{"a":1}`)), `{"a":1}`},
		{"merge of garbage", r.Merge(tidemark.Row(`{"b":`)), string(before)},
		{"with", r.With("a", json.RawMessage(`"x"`)), `{"uid":"u","a":"x","b":{"c":[2]}}`},
		{"without", r.Without("b"), `{"uid":"u","a":1}`},
		{"without the first", r.Without("uid"), `{"a":1,"b":{"c":[2]}}`},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
	if !bytes.Equal(r, before) {
		t.Errorf("the row itself changed: %s", r)
	}
	if r.UID() != "u" || string(r.Get("b")) != `{"c":[2]}` || r.Get("z") != nil || tidemark.Row(nil).UID() != "" {
		t.Error("members are not found")
	}
}

// Every byte at every place of a string means what encoding/json says, whatever
// stands around it.
func TestEachByteOfAString(t *testing.T) {
	t.Parallel()
	for c := range 128 {
		for place := range 20 {
			text := []byte("abcdefghij klmnopqrs")
			text[place] = byte(c)
			raw := append(append([]byte{'"'}, text...), '"')
			if got, want := tidemark.CheckJSON(raw, tidemark.JSONLimits{}) == nil, json.Valid(raw); got != want {
				t.Errorf("%q is JSON: %v, want %v", raw, got, want)
			}
			var want string
			err := json.Unmarshal(raw, &want)
			if got, gotErr := tidemark.DecodeString(raw); (gotErr == nil) != (err == nil) || got != want {
				t.Errorf("%q decodes as %q, %v; want %q, %v", raw, got, gotErr, want, err)
			}
			encoded := tidemark.AppendString(nil, string(text))
			if err := json.Unmarshal(encoded, &want); err != nil || want != string(text) {
				t.Errorf("%q is written as %s", text, encoded)
			}
		}
	}
}
