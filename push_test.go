package tidemark_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

func TestBatchesOnTheWire(t *testing.T) {
	t.Parallel()
	b := &tidemark.Batch{Client: "a client", Confirmed: 4, Mutations: []tidemark.Mutation{
		{N: 5, Op: tidemark.Create, Model: "post", UID: `a"b`, Data: tidemark.Row(`{"title":"A"}`), Stamp: 1767225600000000},
		{N: 6, Unit: 7, Op: tidemark.Update, Model: "post", UID: "u", Data: tidemark.Row(`{"title":"B"}`), Stamp: 1767225600000001},
		{N: 7, Unit: 7, Op: tidemark.Delete, Model: "post", UID: "u", Stamp: 1767225600000002},
		{N: 8, Op: tidemark.Delete, Model: "post", UID: "v", Stamp: 1},
	}}
	raw, err := b.MarshalJSON()
	want := `{"client":"a client","confirmed":4,"first":5,"mutations":[` +
		`["create","post","a\"b",1767225600000000,{"title":"A"}],["update","post","u",1767225600000001,{"title":"B"},7],` +
		`["delete","post","u",1767225600000002,null,7],["delete","post","v",1]]}`
	if err != nil || string(raw) != want {
		t.Errorf("got  %s, %v\nwant %s", raw, err, want)
	}
	got, err := tidemark.ParseBatch(raw, 4)
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("got %+v, %v, want %+v", got, err, b)
	}
	if _, err := tidemark.ParseBatch(raw, 3); tidemark.CodeOf(err) != tidemark.CodeLimit {
		t.Errorf("beyond the limit: got %v", err)
	}
}

// What is wrong with one mutation is left for its verdict; what is wrong with the batch refuses it.
func TestBatchesAreChecked(t *testing.T) {
	t.Parallel()
	for mutation, want := range map[string]tidemark.Mutation{
		`["adopt","m","u",1]`:                   {N: 1, Model: "m", UID: "u", Stamp: 1},
		`[7,"m","u",1,{}]`:                      {N: 1, Model: "m", UID: "u", Stamp: 1, Data: tidemark.Row("{}")},
		`["delete","","",null]`:                 {N: 1, Op: tidemark.Delete},
		`["delete","m","u","2026-01-01"]`:       {N: 1, Op: tidemark.Delete, Model: "m", UID: "u"},
		`["delete","m","u",1.5]`:                {N: 1, Op: tidemark.Delete, Model: "m", UID: "u"},
		`["delete","m","u",1e15]`:               {N: 1, Op: tidemark.Delete, Model: "m", UID: "u", Stamp: 1e15},
		`["delete","m","u",-62167219200000001]`: {N: 1, Op: tidemark.Delete, Model: "m", UID: "u"},
		`["delete","m","u",253402300800000000]`: {N: 1, Op: tidemark.Delete, Model: "m", UID: "u", Stamp: 253402300799999999},
		`["update","m","u",1,[1]]`:              {N: 1, Op: tidemark.Update, Model: "m", UID: "u", Stamp: 1, Data: tidemark.Row("[1]")},
		`["update","m","u",1,null,1,"more"]`:    {N: 1, Unit: 1, Op: tidemark.Update, Model: "m", UID: "u", Stamp: 1},
	} {
		b, err := tidemark.ParseBatch([]byte(`{"client":"c","mutations":[`+mutation+`]}`), 0)
		if err != nil || !reflect.DeepEqual(b.Mutations[0], want) {
			t.Errorf("%s: got %+v, %v; want %+v", mutation, b, err, want)
		}
	}
	const one = `["delete","m","u",1]`
	for _, raw := range []string{
		``, `null`, `[]`, `{}`, `{"client":"c"}`, `{"client":"c","mutations":[]}`, `{"client":"c","mutations":null}`, `{"mutations":[` + one + `]}`,
		`{"client":"","mutations":[` + one + `]}`, `{"client":"\u0000","mutations":[` + one + `]}`, `{"client":5,"mutations":[` + one + `]}`,
		`{"client":"c","first":0,"mutations":[` + one + `]}`, `{"client":"c","first":-1,"mutations":[` + one + `]}`, `{"client":"c","first":9007199254740993,"mutations":[` + one + `]}`,
		`{"client":"c","first":"1","mutations":[` + one + `]}`, `{"client":"c","confirmed":{},"mutations":[` + one + `]}`,
		`{"client":"c","mutations":["delete"]}`, `{"client":"c","mutations":[["delete","m","u"]]}`, `{"client":"c","mutations":[["delete",1,"u",1]]}`,
		`{"client":"c","mutations":[["delete","m",null,1]]}`, `{"client":"c","mutations":[["delete","m","u",1,null,"1"]]}`,
		`{"client":"c","mutations":[["delete","m","u",1,null,2]]}`,                                             // a unit that is not whole
		`{"client":"c","first":5,"mutations":[["delete","m","u",1,null,4]]}`,                                   // one that ended before
		`{"client":"c","mutations":[["delete","m","u",1,null,2],["delete","m","u",1,null,3],` + one + `]}`,     // two that overlap
		`{"client":"c","mutations":[["delete","m","u",1,null,3],` + one + `,["delete","m","u",1,null,3]]}`,     // one with a gap
		`{"client":"c","mutations":[["delete","m","u",1,null,-1]]}`, `{"client":"c","mutations":[` + one + `]`, // cut off
	} {
		if b, err := tidemark.ParseBatch([]byte(raw), 0); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("%s: got %+v, %v; want invalid-request", raw, b, err)
		}
	}
}

func TestPartsOfABatch(t *testing.T) {
	t.Parallel()
	refused := tidemark.NewError("no", "no")
	b := &tidemark.Batch{Client: "c", Owner: "o", Confirmed: 1, Refused: []*tidemark.Error{nil, refused}}
	for n := int64(2); n < 6; n++ {
		b.Mutations = append(b.Mutations, tidemark.Mutation{N: n, Model: "m", UID: "u", Op: tidemark.Delete, Stamp: 1})
		b.Digests = append(b.Digests, uint64(n))
	}
	p := b.Part(1, 3)
	if p.Client != "c" || p.Owner != "o" || p.Confirmed != 1 || len(p.Mutations) != 2 || p.Mutations[0].N != 3 || p.Refusal(0) != refused || p.Refusal(1) != nil || p.Check() != nil {
		t.Errorf("got %+v", p)
	}
	if p := b.Part(2, 4); p.Refusal(0) != nil || p.Mutations[1].N != 5 {
		t.Errorf("got %+v", p)
	}
	// The ledger remembers what was sent, whatever became of it.
	l := tidemark.NewLedger(p)
	l.Record(p, make([]tidemark.Outcome, 2))
	if got := l.Receipt(4).Digest; got != 4 {
		t.Errorf("the digest of 4 is %d", got)
	}
	p.Mutations[0].Data = tidemark.Row(`{}`)
	if n, err := l.Admit(p); n != 2 || err != nil {
		t.Errorf("as it was sent: %d, %v", n, err)
	}
	p.Digests = nil
	if _, err := l.Admit(p); tidemark.CodeOf(err) != tidemark.CodeRepeated {
		t.Errorf("another one: %v", err)
	}
}

func TestPushAnswersOnTheWire(t *testing.T) {
	t.Parallel()
	row := tidemark.Row(`{"uid":"u","title":"A"}`)
	a := &tidemark.PushAnswer{Now: 1767225600000000, Verdicts: []tidemark.Verdict{
		{N: 5, Outcome: tidemark.Outcome{Applied: true, Row: row, Meta: tidemark.Meta{UID: "u", CreatedAt: 5}}},
		{N: 6, Outcome: tidemark.Outcome{Row: row, Meta: tidemark.Meta{UID: "u", UpdatedAt: 6}}},
		{N: 7, Outcome: tidemark.Outcome{Applied: true, Meta: tidemark.Meta{DeletedAt: 7}}},
		{N: 8, Outcome: tidemark.Outcome{Err: &tidemark.Error{Code: tidemark.CodeConstraint, Message: "no", Field: "title", Kind: "unique"}}},
	}}
	raw, err := a.MarshalJSON()
	want := `{"now":"2026-01-01T00:00:00.000Z","first":5,"verdicts":[["applied",{"uid":"u","title":"A"},[5]],["superseded",{"uid":"u","title":"A"},[0,6]],` +
		`["applied",null,[0,0,7]],["rejected",null,null,{"code":"constraint","message":"no","field":"title","kind":"unique"}]]}`
	if err != nil || string(raw) != want {
		t.Errorf("got  %s, %v\nwant %s", raw, err, want)
	}
	var got tidemark.PushAnswer
	if err := got.UnmarshalJSON(raw); err != nil || !reflect.DeepEqual(&got, a) {
		t.Errorf("got %+v, %v, want %+v", got, err, a)
	}
	for _, bad := range []string{`null`, `{"verdicts":{}}`, `{"verdicts":[[]]}`, `{"verdicts":[["applied",null]]}`, `{"verdicts":[["undecided",null,null]]}`,
		`{"verdicts":[["applied",5,null]]}`, `{"verdicts":[["applied",null,[1,2,3,4]]]}`, `{"verdicts":[["applied",null,[-1]]]}`, `{"verdicts":[["rejected",null,null]]}`,
		`{"verdicts":[["applied",null,null,{"code":"x"}]]}`, `{"now":"yesterday","verdicts":[]}`, `{"first":"5","verdicts":[]}`} {
		if err := new(tidemark.PushAnswer).UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// Whatever comes as a batch: it is refused, or it is well formed, has whole units, and reads
// the same when it is written again.
func FuzzBatch(f *testing.F) {
	for _, s := range []string{
		`{"client":"c","confirmed":4,"first":5,"mutations":[["create","post","a",1767225600000000,{"title":"A"}],["update","post","b",1767225600000001,{"title":"B"},7],["delete","post","b",1767225600000002,null,7]]}`,
		`{"mutations":[["delete","m","u",1]],"client":"c"}`, `{"client":"c","mutations":[["delete","m","u",1,null,1]],"first":9007199254740992,"confirmed":-9223372036854775808}`,
		`{"client":"c","mutations":[["adopt","\ud800","\u0000",1e300,"x",-0]]}`, `{"client":"c","mutations":[["delete","m","u",1,null,9223372036854775807]]}`,
		`{"client":"c","mutations":[["update","m","u",-9223372036854775808,[{}]]],"mutations":[["delete","m","u",1]]}`,
		` { "client" : "c" , "mutations" : [ [ "create" , "m" , "u" , 1 , { } ] ] } `, `{"client":"c","mutations":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		`null`, `{`, ``,
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, most int) {
		b, err := tidemark.ParseBatch(raw, most)
		if err != nil {
			if code := tidemark.CodeOf(err); code != tidemark.CodeInvalidRequest && code != tidemark.CodeLimit {
				t.Fatalf("got %v", err)
			}
			return
		}
		if err := b.Check(); err != nil || most > 0 && len(b.Mutations) > most {
			t.Fatalf("%d mutations, %v", len(b.Mutations), err)
		}
		covered := 0
		_ = tidemark.EachUnit(b.Mutations, func(from, to int) error {
			if last := b.Mutations[from].Unit; from != covered || to <= from || last != 0 && b.Mutations[to-1].N != last {
				t.Fatalf("the unit of %d to %d, after %d", from, to, covered)
			}
			covered = to
			if err := b.Part(from, to).Check(); err != nil {
				t.Fatalf("a unit by itself: %v", err)
			}
			return nil
		})
		if covered != len(b.Mutations) {
			t.Fatalf("units of %d of %d mutations", covered, len(b.Mutations))
		}
		if tidemark.CheckJSON(raw, tidemark.JSONLimits{}) != nil {
			return // which the transport does not let pass
		}
		for i := range b.Mutations {
			if b.Mutations[i].Op == 0 {
				return // there is no writing of that
			}
		}
		text, err := b.MarshalJSON()
		if err != nil || !json.Valid(text) {
			t.Fatalf("written as %s, %v", text, err)
		}
		var again tidemark.Batch
		if err := again.UnmarshalJSON(text); err != nil {
			t.Fatalf("written as %s: %v", text, err)
		}
		for i := range again.Mutations {
			if x, y := &again.Mutations[i], &b.Mutations[i]; x.Digest() != y.Digest() || x.Stamp != y.Stamp || x.Unit != y.Unit || x.N != y.N || !bytes.Equal(x.Data, y.Data) {
				t.Fatalf("again %s, not %s", fmt.Sprint(*x), fmt.Sprint(*y))
			}
		}
	})
}
