package drivertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// pushes are the rules of [tidemark.LogDriver]'s Push. They are skipped for a driver that is none.
var pushes = []check{
	{"a push is made in order", "a verdict for each mutation, with the outcome that Write would give", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "won", `{"n":5}`, 500))
		vs := h.push(t, batch("c", 1,
			h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10),
			h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 20),
			h.mutation(t, tidemark.Update, "note", "won", `{"n":6}`, 20),
			h.mutation(t, tidemark.Delete, "note", "a", "", 30),
			h.mutation(t, tidemark.Create, "note", "a", `{"n":3}`, 40)))
		for i, want := range []struct {
			applied        bool
			n, before      string
			stamp, deleted tidemark.Stamp
		}{{true, "1", "", 10, 0}, {true, "2", "1", 20, 0}, {false, "5", "", 500, 0}, {true, "2", "2", 30, 30}, {true, "3", "", 40, 0}} {
			v := vs[i]
			if v.Applied != want.applied || v.Changed != want.applied || v.Err != nil || v.Repeated || string(v.Row.Get("n")) != want.n ||
				string(v.Before.Get("n")) != want.before || v.Meta.T() != want.stamp || v.Meta.DeletedAt != want.deleted {
				t.Errorf("mutation %d: %+v, row %s, before %s", i, v, show(v.Row), show(v.Before))
			}
		}
		if got := h.get(t, "note", "a"); string(got.Row.Get("n")) != "3" || got.Meta.CreatedAt != 40 {
			t.Errorf("the row is %s %+v", got.Row, got.Meta)
		}
	}},
	{"a repetition", "what was decided before has the same verdict, with the row as it now is, and no effect", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "won", `{"n":5}`, 500))
		b := batch("c", 1,
			h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Update, "note", "won", `{"n":6}`, 20),
			h.mutation(t, tidemark.Create, "list", "none", `{}`, 10), h.mutation(t, tidemark.Delete, "note", "a", "", 20))
		first := h.push(t, b)
		h.write(t, h.mutation(t, tidemark.Delete, "note", "won", "", 600), h.mutation(t, tidemark.Create, "note", "a", `{"n":9}`, 15))
		h.write(t, h.mutation(t, tidemark.Create, "list", "none", `{"title":"now"}`, 5))
		c := h.settled(t)
		for i := range b.Mutations {
			b.Mutations[i].Stamp += 10_000 // a client whose clock was wrong dates anew
		}
		vs := h.push(t, b)
		for i, v := range vs {
			if !v.Repeated || v.Applied != first[i].Applied || codeOf(v.Outcome) != codeOf(first[i].Outcome) || v.Changed || v.Before != nil {
				t.Errorf("mutation %d: %+v, at first %+v", i, v, first[i])
			}
		}
		for i, uid := range map[int]string{0: "a", 1: "won", 3: "a"} {
			if now := h.get(t, "note", uid); differ(h.schema(t, "note"), vs[i].Row, now.Row) != "" || vs[i].Meta != now.Meta {
				t.Errorf("mutation %d: told %s %+v, and it is %s %+v", i, show(vs[i].Row), vs[i].Meta, show(now.Row), now.Meta)
			}
		}
		if e := vs[2].Err; e == nil || e.Kind != tidemark.ConstraintRequired || e.Field != "title" || e.Message == "" {
			t.Errorf("the refusal is told again as %+v", vs[2].Err)
		}
		for _, model := range []string{"note", "list"} {
			wantUIDs(t, "what a repetition changed", h.since(t, c, model, nil).Rows)
		}
	}},
	{"a repetition and more", "a batch that begins in what is known goes on behind it", func(t *testing.T, h Harness) {
		h.log(t)
		ms := make([]tidemark.Mutation, 6)
		for i := range ms {
			ms[i] = h.mutation(t, tidemark.Create, "note", fmt.Sprint("u", i), `{"n":1}`, 10)
		}
		h.push(t, batch("c", 1, ms[:3]...))
		for i, v := range h.push(t, batch("c", 2, ms[1:]...)) {
			if v.Repeated != (i < 2) || !v.Applied {
				t.Errorf("verdict %d: %+v", i, v)
			}
		}
		if n := h.known(t, "c"); n != 6 {
			t.Errorf("the highest number is %d", n)
		}
	}},
	{"other content under a number", "it is repeated, and nothing of the batch is done", func(t *testing.T, h Harness) {
		d := h.log(t)
		h.push(t, batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "b", `{"n":1}`, 10)))
		fresh := h.mutation(t, tidemark.Create, "note", "c", `{"n":1}`, 10)
		for name, other := range map[string]tidemark.Mutation{
			"data":  h.mutation(t, tidemark.Create, "note", "b", `{"n":2}`, 10),
			"uid":   h.mutation(t, tidemark.Create, "note", "d", `{"n":1}`, 10),
			"op":    h.mutation(t, tidemark.Update, "note", "b", `{"n":1}`, 10),
			"model": {Model: "list", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{"n":1}`), Stamp: 10},
		} {
			_, err := d.Push(t.Context(), batch("c", 2, other, fresh), nil)
			wantCode(t, name, err, tidemark.CodeRepeated)
		}
		h.wantNothing(t, "note", "c", "d")
		if n := h.known(t, "c"); n != 2 || string(h.get(t, "note", "b").Row.Get("n")) != "1" {
			t.Errorf("the highest number is %d, the row %+v", n, h.get(t, "note", "b"))
		}
	}},
	{"a gap", "a batch behind the next number is gap, and nothing of it is done", func(t *testing.T, h Harness) {
		d := h.log(t)
		h.push(t, batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10)))
		_, err := d.Push(t.Context(), batch("c", 3, h.mutation(t, tidemark.Create, "note", "b", `{}`, 10)), nil)
		wantCode(t, "Push", err, tidemark.CodeGap)
		h.wantNothing(t, "note", "b")
		if n := h.known(t, "c"); n != 1 {
			t.Errorf("the highest number is %d", n)
		}
	}},
	{"somebody else's client", "a client is its first owner's; others are denied", func(t *testing.T, h Harness) {
		d := h.log(t)
		push := func(client, owner string, n int64) error {
			b := batch(client, n, h.mutation(t, tidemark.Create, "note", fmt.Sprint(client, n), `{}`, 10))
			b.Owner = owner
			_, err := d.Push(t.Context(), b, nil)
			return err
		}
		for client, owner := range map[string]string{"c": "me", "nobody's": ""} {
			wantCode(t, "the first push", push(client, owner, 1), "")
			wantCode(t, "somebody else", push(client, "you'; --", 2), tidemark.CodeDenied)
			wantCode(t, "somebody else's repetition", push(client, "you'; --", 1), tidemark.CodeDenied)
			wantCode(t, "the owner", push(client, owner, 2), "")
		}
		wantCode(t, "nobody", push("c", "", 3), tidemark.CodeDenied)
		h.wantNothing(t, "note", "c3")
	}},
	{"an unknown client", "it may begin with any number; names that differ are different clients", func(t *testing.T, h Harness) {
		h.log(t)
		names := []string{"c", "C", "é", "e\u0301", "'; DROP TABLE note; --", "c ", "%"}
		for _, name := range names {
			if n := h.known(t, name); n != 0 {
				t.Errorf("%q is known with %d", name, n)
			}
		}
		for i, name := range names {
			first := int64(42 + i)
			if v := h.push(t, batch(name, first, h.mutation(t, tidemark.Create, "note", fmt.Sprint("u", i), `{}`, 10)))[0]; !v.Applied || v.Repeated {
				t.Errorf("%q: %+v", name, v)
			}
			if n := h.known(t, name); n != first {
				t.Errorf("%q: the highest number is %d", name, n)
			}
		}
	}},
	{"confirmed verdicts", "they are forgotten, and the others are not; a client that confirms too much harms nobody", func(t *testing.T, h Harness) {
		d := h.log(t)
		ms := make([]tidemark.Mutation, 6)
		for i := range ms {
			ms[i] = h.mutation(t, tidemark.Create, "note", fmt.Sprint("u", i), `{"n":1}`, 10)
		}
		h.push(t, batch("c", 1, ms[:3]...))
		b := batch("c", 4, ms[3])
		b.Confirmed = 2
		h.push(t, b)
		for n, want := range map[int64]tidemark.Code{1: tidemark.CodeRepeated, 2: tidemark.CodeRepeated, 3: "", 4: ""} {
			vs, err := d.Push(t.Context(), batch("c", n, ms[n-1]), nil)
			wantCode(t, fmt.Sprint("number ", n), err, want)
			if err == nil && !vs[0].Repeated {
				t.Errorf("number %d: %+v", n, vs[0])
			}
		}
		for i, confirmed := range []int64{1 << 60, -7} {
			b := batch("c", int64(5+i), ms[4+i])
			b.Confirmed = confirmed
			if v := h.push(t, b)[0]; !v.Applied {
				t.Errorf("confirmed %d: %+v", confirmed, v)
			}
		}
		if n := h.known(t, "c"); n != 6 {
			t.Errorf("the highest number is %d", n)
		}
	}},
	{"refused by the caller", "the verdict has the caller's error, the mutation has no effect, and it is remembered", func(t *testing.T, h Harness) {
		h.log(t)
		b := batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10), tidemark.Mutation{Model: "nowhere", UID: "", Op: 0, Data: tidemark.Row(`7`)},
			h.mutation(t, tidemark.Create, "note", "b", `{}`, 10), h.mutation(t, tidemark.Create, "note", "c", `{}`, 10))
		no := tidemark.NewError("no-way", "it's not \"yours\"").OnField("f")
		b.Refused = []*tidemark.Error{nil, no, no} // shorter than the batch
		for i := range 2 {
			for k, v := range h.push(t, b) {
				if refused := k == 1 || k == 2; refused != (v.Err != nil) || refused == v.Applied || v.Repeated != (i > 0) {
					t.Errorf("mutation %d: %+v", k, v)
				} else if refused && (v.Err.Code != no.Code || v.Err.Message != no.Message || v.Err.Field != no.Field) {
					t.Errorf("mutation %d is refused as %+v", k, v.Err)
				}
			}
			b.Refused = nil // the caller would not ask again
		}
		h.wantNothing(t, "note", "b")
	}},
	{"a refusal in a push", "a mutation that the driver refuses disturbs only itself, with the error that Write gives", func(t *testing.T, h Harness) {
		h.log(t)
		h.write(t, h.mutation(t, tidemark.Create, "list", "taken", `{"title":"x"}`, 10))
		ms := []tidemark.Mutation{
			h.mutation(t, tidemark.Create, "note", "a", `{}`, 10), h.mutation(t, tidemark.Create, "list", "b", `{}`, 10), h.mutation(t, tidemark.Create, "note", "taken", `{}`, 20),
			{Model: "nowhere", UID: "d", Op: tidemark.Create, Data: tidemark.Row(`{}`), Stamp: 10}, h.mutation(t, tidemark.Create, "note", "e", `{}`, 0),
			{Model: "note", UID: "", Op: tidemark.Create, Data: tidemark.Row(`{}`), Stamp: 10}, h.mutation(t, tidemark.Update, "list", "taken", `{"title":"y"}`, 20),
		}
		for _, repeated := range []bool{false, true} {
			vs := h.push(t, batch("c", 1, ms...))
			for i, want := range []tidemark.Code{"", tidemark.CodeConstraint, tidemark.CodeUIDTaken, tidemark.CodeUnknownModel, tidemark.CodeInvalidStamp, tidemark.CodeInvalidData, ""} {
				if got := codeOf(vs[i].Outcome); got != want || vs[i].Applied != (want == "") || vs[i].Repeated != repeated {
					t.Errorf("mutation %d: %+v, want code %q", i, vs[i], want)
				}
			}
			expectConstraint(t, vs[1].Outcome, tidemark.ConstraintRequired, "title")
		}
		h.wantNothing(t, "list", "b")
		h.wantNothing(t, "note", "e")
	}},
	{"constraints in a push", "each kind of constraint refuses its own mutation", func(t *testing.T, h Harness) {
		h.log(t)
		if !h.Constraints {
			t.Skip("the driver's tables have no constraints but required columns")
		}
		vs := h.push(t, batch("c", 1,
			h.mutation(t, tidemark.Create, "entry", "e1", `{"slug":"one"}`, 20), h.mutation(t, tidemark.Create, "entry", "e2", `{"slug":"one"}`, 20),
			h.mutation(t, tidemark.Create, "entry", "e3", `{"list_id":"nobody"}`, 20), h.mutation(t, tidemark.Create, "entry", "e4", `{"rank":-1}`, 20),
			h.mutation(t, tidemark.Create, "list", "l", `{"title":"x"}`, 20), h.mutation(t, tidemark.Create, "entry", "e5", `{"list_id":"l"}`, 20)))
		for i, kind := range []string{"", tidemark.ConstraintUnique, tidemark.ConstraintReference, tidemark.ConstraintCheck, "", ""} {
			if kind != "" {
				expectConstraint(t, vs[i].Outcome, kind, "")
			} else if !vs[i].Applied {
				t.Errorf("mutation %d: %+v", i, vs[i])
			}
		}
		h.wantNothing(t, "entry", "e2", "e3", "e4")
	}},
	{"a large push", "a thousand mutations, some of them refused, are one push", func(t *testing.T, h Harness) {
		h.log(t)
		ms := make([]tidemark.Mutation, 1000)
		for i := range ms {
			data := `{"title":"x"}`
			if i%333 == 7 {
				data = `{"title":null}`
			}
			ms[i] = h.mutation(t, tidemark.Create, "list", fmt.Sprintf("u%04d", i), data, 10)
		}
		for _, repeated := range []bool{false, true} {
			for i, v := range h.push(t, batch("c", 1, ms...)) {
				if refused := i%333 == 7; (codeOf(v.Outcome) == tidemark.CodeConstraint) != refused || v.Applied == refused || v.Repeated != repeated {
					t.Fatalf("mutation %d: %+v", i, v)
				}
			}
		}
		if n := len(h.find(t, "list", nil)); n != 997 {
			t.Errorf("%d rows", n)
		}
	}},
	{"malformed batches", "they are invalid-request, of known and unknown clients, and nothing of them is done", func(t *testing.T, h Harness) {
		d := h.log(t)
		h.push(t, batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10)))
		b, c := h.mutation(t, tidemark.Create, "note", "b", `{}`, 10), h.mutation(t, tidemark.Create, "note", "c", `{}`, 10)
		for _, client := range []string{"c", "new"} {
			hole := batch(client, 2, b, c)
			hole.Mutations[1].N = 4
			cut := batch(client, 2, b, c)
			cut.Mutations[1].Unit = 4
			torn := batch(client, 2, b, c)
			torn.Mutations[0].Unit = 3
			for name, b := range map[string]*tidemark.Batch{"empty": batch(client, 2), "from 0": batch(client, 0, b), "negative": batch(client, -1, b), "a hole": hole, "a cut unit": cut, "a torn unit": torn} {
				_, err := d.Push(t.Context(), b, nil)
				wantCode(t, name+" of "+client, err, tidemark.CodeInvalidRequest)
			}
		}
		_, err := d.Push(t.Context(), batch("", 1, b), nil)
		wantCode(t, "no client", err, tidemark.CodeInvalidRequest)
		h.wantNothing(t, "note", "b", "c")
		if a, b := h.known(t, "c"), h.known(t, "new"); a != 1 || b != 0 {
			t.Errorf("the highest numbers are %d and %d", a, b)
		}
	}},
	{"the same batch twice at once", "of pushes of one batch at once, one has the effect, and all tell the same", func(t *testing.T, h Harness) {
		h.log(t)
		const rounds, at = 8, 4
		h.purged(t)
		for round := range rounds {
			ms := make([]tidemark.Mutation, 5)
			for i := range ms {
				ms[i] = h.mutation(t, tidemark.Update, "note", fmt.Sprint("u", i), fmt.Sprintf(`{"n":%d}`, round), tidemark.Stamp(100+round))
			}
			ms[3] = h.mutation(t, tidemark.Create, "list", "none", `{}`, 10)
			var wg sync.WaitGroup
			var fresh, heard [at]int
			for k := range at {
				wg.Go(func() {
					var w heed
					vs, err := h.log(t).Push(context.Background(), batch("c", int64(1+5*round), ms...), &w)
					if err != nil {
						t.Errorf("Push: %v", err)
						return
					}
					for i, v := range vs {
						if !v.Repeated {
							fresh[k]++
						}
						if v.Applied != (i != 3) || (codeOf(v.Outcome) == tidemark.CodeConstraint) != (i == 3) {
							t.Errorf("verdict %d: %+v", i, v)
						}
					}
					heard[k] = len(w.outs)
				})
			}
			wg.Wait()
			slices.Sort(fresh[:])
			if fresh != [at]int{0, 0, 0, 5} {
				t.Errorf("decided anew: %v", fresh)
			}
		}
		if n := h.purged(t); n != rounds*4 {
			t.Errorf("%d changes, want %d", n, rounds*4)
		}
	}},
	{"clients at once", "clients that push the same rows in different orders all succeed, and each row ends with its newest write", func(t *testing.T, h Harness) {
		h.log(t)
		const clients, rows = 8, 20
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for part := range 2 {
					var ms []tidemark.Mutation
					for k := range rows {
						n := k
						if c%2 == 1 {
							n = rows - 1 - k
						}
						ms = append(ms, h.mutation(t, tidemark.Update, "note", fmt.Sprintf("u%02d", n), fmt.Sprintf(`{"n":%d}`, c), tidemark.Stamp(100+c+part*50)))
					}
					if _, err := h.log(t).Push(context.Background(), batch(fmt.Sprint("client ", c), int64(1+part*rows), ms...), nil); err != nil {
						t.Errorf("Push: %v", err)
					}
				}
			})
		}
		wg.Wait()
		for _, r := range h.find(t, "note", nil) {
			if string(r.Get("n")) != fmt.Sprint(clients-1) {
				t.Errorf("%s", r)
			}
		}
	}},
	{"the witness of a push", "it hears of what is not a repetition, with the verdicts' outcomes, and then of the end", func(t *testing.T, h Harness) {
		h.log(t)
		ms := []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Create, "note", "b", `{"n":1}`, 10),
			h.mutation(t, tidemark.Create, "list", "c", `{}`, 10), h.mutation(t, tidemark.Delete, "note", "a", "", 20)}
		var first, second, third heed
		h.pushHeard(t, batch("c", 1, ms[:2]...), &first)
		vs := h.pushHeard(t, batch("c", 1, ms...), &second)
		h.pushHeard(t, batch("c", 1, ms...), &third)
		first.want(t, "the first push", 0, 1)
		second.want(t, "with two of four repeated", 3)
		third.want(t, "a repetition")
		if o := second.outs[3]; o.Before == nil || !o.Changed || o.Meta != vs[3].Meta || string(o.Row) != string(vs[3].Row) {
			t.Errorf("heard %+v, told %+v", o, vs[3])
		}
		var refused heed
		if _, err := h.log(t).Push(t.Context(), batch("c", 9, ms[0]), &refused); err == nil || refused.committed || len(refused.outs) > 0 {
			t.Errorf("of a gap it hears %+v", refused)
		}
	}},
	{"witnesses of racing pushes", "of each row, witnesses of pushes and of writes hear in the order of the commits", func(t *testing.T, h Harness) {
		d := h.log(t)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		stamps := rand.New(rand.NewPCG(seed, 0)).Perm(80)
		var heard order
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for k, s := range stamps[i*5 : i*5+5] {
					ms := []tidemark.Mutation{h.mutation(t, tidemark.Update, "note", fmt.Sprint("hot", k%2), fmt.Sprintf(`{"n":%d}`, s), tidemark.Stamp(100+s))}
					w := &ordered{order: &heard, uid: ms[0].UID}
					err := error(nil)
					if i%3 == 0 {
						_, err = d.WriteTx(t.Context(), ms, w)
					} else {
						_, err = d.Push(t.Context(), batch(fmt.Sprint("client ", i), int64(k+1), ms...), w)
					}
					if err != nil {
						t.Errorf("%v", err)
					}
				}
			})
		}
		wg.Wait()
		heard.want(t, h, 80)
	}},
	{"a push takes part in no transaction", "a push with the context of a transaction is refused, or stands though that is undone", func(t *testing.T, h Harness) {
		h.log(t)
		h.tx(t)
		var pushed error
		_ = h.RunInTx(t.Context(), func(ctx context.Context) error {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, pushed = h.log(t).Push(short, batch("c", 1, h.mutation(t, tidemark.Create, "note", "a", `{}`, 10)), nil)
			return errUndo
		})
		if known, row := h.known(t, "c") == 1, h.get(t, "note", "a").Row != nil; known != row || known != (pushed == nil) {
			t.Errorf("Push returned %v; known %v, row there %v", pushed, known, row)
		}
	}},
}

// heed is a witness that keeps what it hears of each mutation.
type heed struct {
	outs      map[int]tidemark.Outcome
	ended     int
	committed bool
}

func (w *heed) Decided(from int, outs []tidemark.Outcome) {
	for i, o := range outs {
		if w.outs == nil {
			w.outs = map[int]tidemark.Outcome{}
		}
		o.Row, o.Before = slices.Clone(o.Row), slices.Clone(o.Before)
		w.outs[from+i] = o
	}
}

func (w *heed) Ended(committed bool) {
	w.ended++
	w.committed = committed
}

// want asks that the witness heard of the changes of these mutations and of no others, and of one commit.
func (w *heed) want(t testing.TB, what string, changed ...int) {
	t.Helper()
	var got []int
	for i, o := range w.outs {
		if o.Changed {
			got = append(got, i)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, changed) || len(changed) == 0 && len(w.outs) > 0 {
		t.Errorf("%s: heard of changes by %v, want %v", what, got, changed)
	}
	if len(changed) > 0 && (w.ended != 1 || !w.committed) {
		t.Errorf("%s: heard %d times of an end, committed %v", what, w.ended, w.committed)
	}
}

// wantNothing asks that neither row nor metadata is there.
func (h Harness) wantNothing(t testing.TB, model string, uids ...string) {
	t.Helper()
	for _, uid := range uids {
		if rm := h.get(t, model, uid); rm.Row != nil || !rm.Meta.IsZero() {
			t.Errorf("%s of %s is there: %s %+v", uid, model, show(rm.Row), rm.Meta)
		}
	}
}
