package tidemark_test

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-sync/tidemark"
)

func ledgers(t *rapid.T) *tidemark.Ledger {
	l := &tidemark.Ledger{
		Owner:     rapid.OneOf(rapid.Just(""), rapid.SampledFrom([]string{"ann", "quote \" and \\", "<ü>"})).Draw(t, "owner"),
		Highest:   rapid.Int64Min(0).Draw(t, "highest"),
		Confirmed: rapid.Int64Min(0).Draw(t, "confirmed"),
	}
	for range rapid.IntRange(0, 5).Draw(t, "receipts") {
		r := tidemark.Receipt{Digest: rapid.Uint64().Draw(t, "digest"), Applied: rapid.Bool().Draw(t, "applied")}
		if rapid.Bool().Draw(t, "refused") {
			r.Err = tidemark.NewError(tidemark.CodeConstraint, "no \"%s\"", rapid.StringMatching(`[a-z<&\n]{0,5}`).Draw(t, "message")).OnField("title")
			r.Err.Kind = tidemark.ConstraintUnique
		}
		l.Receipts = append(l.Receipts, r)
	}
	return l
}

func TestLedgersAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := ledgers(t)
		text := l.AppendJSON([]byte("x"))[1:]
		if got, err := tidemark.ParseLedger(text); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%s was read as %+v, %v", text, got, err)
		}
		// What json.Marshal has written stays readable, and the other way round.
		older, _ := json.Marshal(l)
		if got, err := tidemark.ParseLedger(older); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%s was read as %+v, %v", older, got, err)
		}
		var got tidemark.Ledger
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(&got, l) {
			t.Errorf("%s was read as %+v, %v", text, got, err)
		}
	})
}

func TestDamagedLedgersAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{``, `null`, `[]`, `{`, `{"highest":2`, `{"highest":"2"}`, `{"highest":2.5}`, `{"confirmed":true}`, `{"owner":5}`, `{"receipts":{}}`,
		`{"receipts":[5]}`, `{"receipts":[{"d":-1}]}`, `{"receipts":[{"d":"1"}]}`, `{"receipts":[{"d":18446744073709551616}]}`, `{"receipts":[{"a":1.5}]}`,
		`{"receipts":[{"e":[]}]}`, `{"highest":2}}`} {
		if l, err := tidemark.ParseLedger([]byte(text)); tidemark.CodeOf(err) != tidemark.CodeInternal {
			t.Errorf("%s was read as %+v, %v", text, l, err)
		}
	}
}

// A client that confirms nothing does not have the server keep all of its verdicts.
func TestLedgerOfWhoConfirmsNothing(t *testing.T) {
	t.Parallel()
	const size = 500
	var l *tidemark.Ledger
	for first := int64(1); first < 60*size; first += size {
		b := &tidemark.Batch{Client: "c"}
		for i := range int64(size) {
			b.Mutations = append(b.Mutations, tidemark.Mutation{N: first + i, Op: tidemark.Delete, Model: "post", UID: "x", Stamp: 1})
		}
		if l == nil {
			l = tidemark.NewLedger(b)
		}
		if n, err := l.Admit(b); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		l.Record(b, make([]tidemark.Outcome, size))
		if n, err := l.Admit(b); n != size || err != nil {
			t.Fatalf("the same again: %d repetitions, %v", n, err)
		}
	}
	if n := len(l.Receipts); n > 10_000 || l.Receipt(l.Highest-9_999) == nil || l.Highest != 60*size {
		t.Errorf("%d receipts are kept of %d", n, l.Highest)
	}
	old := &tidemark.Batch{Client: "c", Mutations: []tidemark.Mutation{{N: 7, Op: tidemark.Delete, Model: "post", UID: "x", Stamp: 1}}}
	if _, err := l.Admit(old); tidemark.CodeOf(err) != tidemark.CodeRepeated {
		t.Errorf("got %v", err)
	}
	next := &tidemark.Batch{Client: "c", Confirmed: math.MinInt64, Mutations: []tidemark.Mutation{{N: l.Highest + 1, Op: tidemark.Delete, Model: "post", UID: "x", Stamp: 1}}}
	l.Record(next, make([]tidemark.Outcome, 1))
	if n, err := l.Admit(next); n != 1 || err != nil || l.Confirmed < 0 {
		t.Errorf("with a number out of range confirmed: %d repetitions, %v, %d", n, err, l.Confirmed)
	}
}

func BenchmarkLedger(b *testing.B) {
	l := &tidemark.Ledger{Highest: 500, Confirmed: 0, Receipts: make([]tidemark.Receipt, 500)}
	for i := range l.Receipts {
		l.Receipts[i] = tidemark.Receipt{Digest: 0xfedcba9876543210 + uint64(i), Applied: true}
	}
	var text []byte
	for b.Loop() {
		text = l.AppendJSON(text[:0])
		if _, err := tidemark.ParseLedger(text); err != nil {
			b.Fatal(err)
		}
	}
}
