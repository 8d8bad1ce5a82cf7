package tidemark_test

import (
	"encoding/json"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// FuzzCursor: what is not a cursor is refused, and what is has one spelling.
func FuzzCursor(f *testing.F) {
	for _, c := range []tidemark.Cursor{{}, {Epoch: "e", At: 1, Nonce: 2}, {At: -1}, {Epoch: "7465.0001.abc", At: 1 << 62, Nonce: 1<<64 - 1}} {
		f.Add(c.String(), c.Epoch, c.At, c.Nonce)
	}
	f.Add("AQ", "\x00", int64(0), uint64(0))
	f.Fuzz(func(t *testing.T, text, epoch string, at int64, nonce uint64) {
		c, err := tidemark.ParseCursor(text)
		switch {
		case err != nil && tidemark.CodeOf(err) != tidemark.CodeInvalidRequest:
			t.Fatalf("%q: %v", text, err)
		case err == nil && c.String() != text:
			t.Fatalf("%q is read as %+v, which is %q", text, c, c.String())
		}
		if len(epoch) > 300 {
			return
		}
		c = tidemark.Cursor{Epoch: epoch, At: at, Nonce: nonce}
		if again, err := tidemark.ParseCursor(c.String()); err != nil || again != c {
			t.Fatalf("%+v is %q, which is read as %+v, %v", c, c.String(), again, err)
		}
	})
}

// message is what travels in both directions.
type message interface {
	json.Marshaler
	json.Unmarshaler
}

// readTwice reads what a peer sent, writes it and reads that: it must mean the same. It returns
// false for what is refused.
func readTwice(t *testing.T, raw []byte, first, again message) bool {
	if err := first.UnmarshalJSON(raw); err != nil {
		return false
	}
	if tidemark.CheckJSON(raw, tidemark.JSONLimits{}) != nil {
		return false // which the transport does not let pass
	}
	text, err := first.MarshalJSON()
	if err != nil || tidemark.CheckJSON(text, tidemark.JSONLimits{}) != nil {
		t.Fatalf("%s is written as %s: %v, %v", raw, text, err, tidemark.CheckJSON(text, tidemark.JSONLimits{}))
	}
	if err := again.UnmarshalJSON(text); err != nil {
		t.Fatalf("%s is written as %s, which is refused: %v", raw, text, err)
	}
	if second, err := again.MarshalJSON(); err != nil || string(second) != string(text) {
		t.Fatalf("%s is written as %s, and then as %s, %v", raw, text, second, err)
	}
	return true
}

// sound checks a row that a message brought.
func sound(t *testing.T, raw []byte, row tidemark.Row, meta tidemark.Meta) {
	if err := tidemark.CheckJSON(row, tidemark.JSONLimits{}); len(row) > 0 && err != nil {
		t.Fatalf("%s brings the row %s: %v", raw, row, err)
	}
	if len(row) > 0 && row.UID() != meta.UID && !meta.IsZero() || meta.CreatedAt < 0 || meta.UpdatedAt < 0 || meta.DeletedAt < 0 {
		t.Fatalf("%s brings the row %s with %+v", raw, row, meta)
	}
}

func FuzzScopePage(f *testing.F) {
	for _, s := range []string{
		`{"cursor":"c","after":"u","total":3,"blocks":[{"fields":["uid","title"],"rows":[["a","A",1767225600000000],["b","B",25,1000]]}],"gone":[["c",1767225600000123],["d",1767225600000456,"deleted"]]}`,
		`{"blocks":[{"fields":["title","uid"],"rows":[[null,"a",0],[{"x":[1]},"\ud83d\ude00",-0]]},{"fields":["uid"],"rows":[["c",1,1]]}]}`,
		`{"blocks":[{"fields":["uid","\u0075id"],"rows":[["a","b",1]]}]}`, `{"blocks":[{"fields":["uid","a","\u0061"],"rows":[["a",1,2,1]]}]}`,
		`{"blocks":[{"rows":[["a",1]],"fields":["uid"]}]}`, `{"blocks":[{"fields":["uid"],"rows":[["a",9223372036854775807],["b",9223372036854775807,9223372036854775807]]}]}`,
		`{"total":-1,"cursor":5}`, `{"gone":[[]]}`, `{"gone":[["",1]]}`, `{"blocks":[{"fields":["uid",""],"rows":[["a",1,1]]}]}`, `null`, `{`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p, again tidemark.ScopePage
		if !readTwice(t, raw, page{&p}, page{&again}) {
			return
		}
		for _, rm := range p.Rows {
			sound(t, raw, rm.Row, rm.Meta)
			if rm.Meta.UID == "" || rm.Row.UID() != rm.Meta.UID {
				t.Fatalf("%s brings the row %s of %q", raw, rm.Row, rm.Meta.UID)
			}
		}
		for _, d := range p.Gone {
			if d.UID == "" || d.Meta().T() <= 0 {
				t.Fatalf("%s brings the departure %+v", raw, d)
			}
		}
	})
}

// page is a ScopePage that is a message.
type page struct{ *tidemark.ScopePage }

func (p page) MarshalJSON() ([]byte, error)   { return p.ScopePage.MarshalJSON() }
func (p page) UnmarshalJSON(raw []byte) error { return p.ScopePage.UnmarshalJSON(raw) }

func FuzzChanges(f *testing.F) {
	for _, s := range []string{
		`{"changes":[{"model":"post","row":{"uid":"a","title":"A"},"meta":[1767225600000000,5],"in":[7],"out":[9]},{"model":"post","uid":"b","at":1767225600000000,"deleted":true,"out":[7]}]}`,
		`{"changes":[{"model":"post","uid":"b","at":-5,"in":[],"out":[-1,9223372036854775807]}]}`, `{"changes":[{"model":"p","row":{"uid":"a"},"meta":[0,0,1],"uid":"b"}]}`,
		`{"changes":[{"model":"p","row":{"uid":5},"meta":[1]}]}`, `{"changes":[{"model":"p","row":{},"meta":[1]}]}`, `{"changes":[{"model":"","uid":"a"}]}`, `{"changes":[null]}`, `{}`, `[]`,
		`{"changes":[{"model":"p","row": {"uid" : "\u0061"} ,"meta":[1]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var cs, again tidemark.Changes
		if !readTwice(t, raw, &cs, &again) {
			return
		}
		for _, c := range cs {
			sound(t, raw, c.Row, c.Meta)
			if c.Model == "" || len(c.Row) == 0 && c.Gone.UID == "" || len(c.Row) > 0 && c.Meta.T() <= 0 {
				t.Fatalf("%s brings the change %+v", raw, c)
			}
		}
	})
}

func FuzzPushAnswer(f *testing.F) {
	for _, s := range []string{
		`{"now":"2026-01-01T00:00:00Z","first":5,"verdicts":[["applied",{"uid":"a"},[1767225600000000]],["superseded",null,null],["applied",null,[0,0,7]],["rejected",null,null,{"code":"constraint","message":"no","field":"title","kind":"unique"}]]}`,
		`{"now":null,"first":9223372036854775807,"verdicts":[["applied",null,null],["superseded",{"uid":5},[1,2,3]]]}`, `{"verdicts":[["rejected",{},[],{"code":5}]]}`,
		`{"verdicts":[["rejected",null,null,null]]}`, `{"verdicts":[["applied",null,[-1]]]}`, `{"now":8.64e15,"verdicts":[]}`, `{"verdicts":[["\u0061pplied",null,null]]}`, `{}`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a, again tidemark.PushAnswer
		if !readTwice(t, raw, &a, &again) {
			return
		}
		for i, v := range a.Verdicts {
			sound(t, raw, v.Row, v.Meta)
			if v.Err != nil && v.Applied || v.Err != nil && v.Err.Code == "" || v.N != a.Verdicts[0].N+int64(i) {
				t.Fatalf("%s brings the verdict %+v", raw, v)
			}
		}
	})
}

// FuzzOpenAnswer reads what a server says first, and its scopes.
func FuzzOpenAnswer(f *testing.F) {
	for _, s := range []string{
		`{"protocol":1,"now":"2026-01-01T00:00:00Z","epoch":"e","highest":5,"limits":{"scopes":100,"mutations":500,"bytes":262144,"maxDrift":60000000},"models":{"post":{"hash":"h","fields":{"uid":"text"}}},"scopes":[{"scope":1,"tag":"t","page":{"cursor":"c","blocks":[]}}]}`,
		`{"scopes":[{"scope":1,"tag":"t","error":{"code":"cursor-too-old","message":"m"}},{"scope":0,"error":5},{}]}`, `{"scope":7,"tag":"t","page":{"cursor":"c","blocks":[{"fields":["uid"],"rows":[["a",1]]}]}}`,
		`{"scope":-1,"page":null}`, `{"scope":1e3}`, `{"protocol":"1"}`, `{"models":{"":{"fields":null}},"highest":-5}`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a, again tidemark.ScopeAnswer
		readTwice(t, raw, scope{&a}, scope{&again})
		var o tidemark.OpenAnswer
		if json.Unmarshal(raw, &o) != nil || tidemark.CheckJSON(raw, tidemark.JSONLimits{}) != nil {
			return
		}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatalf("%s cannot be written: %v", raw, err)
		}
		var second tidemark.OpenAnswer
		if err := json.Unmarshal(text, &second); err != nil {
			t.Fatalf("%s is written as %s, which is refused: %v", raw, text, err)
		}
		if repeated, err := json.Marshal(second); err != nil || string(repeated) != string(text) {
			t.Fatalf("%s is written as %s, and then as %s, %v", raw, text, repeated, err)
		}
	})
}

// scope is a ScopeAnswer that is a message.
type scope struct{ *tidemark.ScopeAnswer }

func (s scope) MarshalJSON() ([]byte, error)   { return s.ScopeAnswer.MarshalJSON() }
func (s scope) UnmarshalJSON(raw []byte) error { return s.ScopeAnswer.UnmarshalJSON(raw) }
