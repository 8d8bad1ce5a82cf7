package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// txs are the rules of a [tidemark.TxDriver]. They are skipped for a driver that is none.
var txs = []check{
	{"a transaction commits whole", "what is written in a transaction is seen in it at once, and by others after the commit", func(t *testing.T, h Harness) {
		h.tx(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "old", `{"n":1}`, 10))
		var w hearing
		err := h.RunInTx(t.Context(), func(ctx context.Context) error {
			h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Update, "note", "old", `{"n":2}`, 20))
			h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 20))
			if got := len(h.findIn(t, ctx, "note", tidemark.Where{"n": 2})); got != 2 {
				t.Errorf("the transaction sees %d of its rows", got)
			}
			if got := len(h.find(t, "note", tidemark.Where{"n": 2})); got != 0 {
				t.Errorf("others see %d rows before the commit", got)
			}
			w.want(t, "decided 0+2, decided 0+1")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.want(t, "decided 0+2, decided 0+1, ended true, ended true")
		if got := len(h.find(t, "note", tidemark.Where{"n": 2})); got != 2 {
			t.Errorf("%d rows after the commit", got)
		}
		if rm := h.get(t, "note", "a"); rm.Meta.CreatedAt != 10 || rm.Meta.UpdatedAt != 20 {
			t.Errorf("metadata %+v", rm.Meta)
		}
	}},
	{"a rollback leaves nothing", "an error or a panic undoes rows, metadata and what the uids belong to", func(t *testing.T, h Harness) {
		h.tx(t)
		h.write(t, h.mutation(t, tidemark.Create, "note", "old", `{"n":1}`, 10))
		failure := errors.New("no")
		for _, panics := range []bool{false, true} {
			var w hearing
			func() {
				defer func() {
					if p := recover(); panics != (p != nil) {
						t.Errorf("panic %v", p)
					}
				}()
				err := h.RunInTx(t.Context(), func(ctx context.Context) error {
					h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10), h.mutation(t, tidemark.Delete, "note", "old", "", 20))
					if panics {
						panic("no")
					}
					return failure
				})
				if !errors.Is(err, failure) {
					t.Errorf("got %v", err)
				}
			}()
			w.want(t, "decided 0+2, ended false")
			if rm := h.get(t, "note", "a"); rm.Row != nil || rm.Meta.UID != "" {
				t.Errorf("left: %s %+v", rm.Row, rm.Meta)
			}
			if rm := h.get(t, "note", "old"); string(rm.Row.Get("n")) != "1" || rm.Meta.Deleted() {
				t.Errorf("changed: %s %+v", rm.Row, rm.Meta)
			}
		}
		if o := h.write(t, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10)); !o[0].Applied {
			t.Errorf("the uid is not free: %+v", o[0])
		}
	}},
	{"a refusal in a transaction", "a refused mutation disturbs neither the others nor the transaction", func(t *testing.T, h Harness) {
		h.tx(t)
		h.write(t, h.mutation(t, tidemark.Create, "list", "taken", `{"title":"x"}`, 10))
		var w hearing
		err := h.RunInTx(t.Context(), func(ctx context.Context) error {
			outs := h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Create, "list", "a", `{"title":"x"}`, 10), h.mutation(t, tidemark.Create, "list", "b", `{"title":null}`, 10),
				h.mutation(t, tidemark.Create, "note", "taken", `{}`, 20), h.mutation(t, tidemark.Create, "list", "c", `{"title":"x"}`, 10))
			if codeOf(outs[1]) != tidemark.CodeConstraint || codeOf(outs[2]) != tidemark.CodeUIDTaken || !outs[0].Applied || !outs[3].Applied {
				t.Errorf("outcomes %+v", outs)
			}
			outs = h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Create, "list", "d", `{}`, 10))
			if codeOf(outs[0]) != tidemark.CodeConstraint {
				t.Errorf("outcome %+v", outs[0])
			}
			h.writeIn(t, ctx, &w, h.mutation(t, tidemark.Create, "list", "e", `{"title":"x"}`, 10))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(h.find(t, "list", tidemark.Where{"title": "x"})); got != 4 {
			t.Errorf("%d rows, want taken, a, c and e", got)
		}
	}},
	{"a transaction inside another", "it can be undone by itself", func(t *testing.T, h Harness) {
		h.tx(t)
		var kept, undone, after hearing
		err := h.RunInTx(t.Context(), func(ctx context.Context) error {
			h.writeIn(t, ctx, &kept, h.mutation(t, tidemark.Create, "note", "a", `{"n":1}`, 10))
			failure := errors.New("no")
			if err := h.RunInTx(ctx, func(ctx context.Context) error {
				h.writeIn(t, ctx, &undone, h.mutation(t, tidemark.Update, "note", "a", `{"n":2}`, 20))
				return failure
			}); !errors.Is(err, failure) {
				t.Errorf("got %v", err)
			}
			undone.want(t, "decided 0+1, ended false")
			return h.RunInTx(ctx, func(ctx context.Context) error {
				h.writeIn(t, ctx, &after, h.mutation(t, tidemark.Create, "note", "b", `{"n":1}`, 10))
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		kept.want(t, "decided 0+1, ended true")
		undone.want(t, "decided 0+1, ended false")
		after.want(t, "decided 0+1, ended true")
		if got := len(h.find(t, "note", tidemark.Where{"n": 1})); got != 2 {
			t.Errorf("%d rows", got)
		}
	}},
	{"contexts with other transactions", "a transaction that has ended, or another driver's, is refused", func(t *testing.T, h Harness) {
		h.tx(t)
		ended := tidemark.WithTx(t.Context(), "another driver's")
		for range 2 {
			_, err1 := h.Driver.Write(ended, []tidemark.Mutation{h.mutation(t, tidemark.Create, "note", "a", `{}`, 10)})
			_, err2 := h.Driver.Find(ended, h.compile(t, "note", nil), 0)
			_, err3 := h.Driver.Snapshot(ended, h.compile(t, "note", nil), nil)
			err4 := h.RunInTx(ended, func(context.Context) error { return nil })
			for i, err := range []error{err1, err2, err3, err4, h.Driver.Migrate(ended)} {
				if tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
					t.Errorf("%d: got %v", i, err)
				}
			}
			if err := h.RunInTx(t.Context(), func(ctx context.Context) error { ended = ctx; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(h.find(t, "note", nil)); got != 0 {
			t.Errorf("%d rows", got)
		}
	}},
	{"witnesses of racing writers", "of each row, witnesses hear in the order of the commits", func(t *testing.T, h Harness) {
		h.tx(t)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		stamps := rand.New(rand.NewPCG(seed, 0)).Perm(96)
		var heard order
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				for k, s := range stamps[i*4 : i*4+4] {
					m := h.mutation(t, tidemark.Update, "note", fmt.Sprint("hot", k%2), fmt.Sprintf(`{"n":%d}`, s), tidemark.Stamp(100+s))
					write := func(ctx context.Context) error {
						_, err := h.Driver.(tidemark.TxDriver).WriteTx(ctx, []tidemark.Mutation{m}, &ordered{order: &heard, uid: m.UID})
						return err
					}
					err := error(nil)
					if i%2 == 0 {
						err = write(t.Context())
					} else {
						err = h.RunInTx(t.Context(), write)
					}
					if err != nil {
						t.Errorf("%v", err)
					}
				}
			})
		}
		wg.Wait()
		heard.want(t, h, 96)
	}},
}

// order is what several witnesses heard, by row: the stamps that decide.
type order struct {
	mu        sync.Mutex
	stamps    map[string][]tidemark.Stamp
	committed int
}

// want asks that the stamps of each row only grew, up to what the row has, and for the number of commits.
func (o *order) want(t testing.TB, h Harness, commits int) {
	t.Helper()
	for uid, stamps := range o.stamps {
		if !slices.IsSorted(stamps) {
			t.Fatalf("%s: heard of %v", uid, stamps)
		}
		if rm := h.get(t, "note", uid); rm.Meta.T() != stamps[len(stamps)-1] {
			t.Errorf("%s: heard last of %d, and it is %d", uid, stamps[len(stamps)-1], rm.Meta.T())
		}
	}
	if o.committed != commits {
		t.Errorf("%d of %d transactions have ended", o.committed, commits)
	}
}

type ordered struct {
	order *order
	uid   string
}

func (w *ordered) Decided(_ int, outs []tidemark.Outcome) {
	w.order.mu.Lock()
	defer w.order.mu.Unlock()
	if w.order.stamps == nil {
		w.order.stamps = make(map[string][]tidemark.Stamp)
	}
	w.order.stamps[w.uid] = append(w.order.stamps[w.uid], outs[0].Meta.T())
}

func (w *ordered) Ended(committed bool) {
	w.order.mu.Lock()
	defer w.order.mu.Unlock()
	if committed {
		w.order.committed++
	}
}

// hearing is a witness that notes what it hears.
type hearing struct{ heard string }

func (w *hearing) note(s string) {
	if w.heard != "" {
		w.heard += ", "
	}
	w.heard += s
}

func (w *hearing) Decided(from int, outs []tidemark.Outcome) {
	w.note(fmt.Sprintf("decided %d+%d", from, len(outs)))
}

func (w *hearing) Ended(committed bool) { w.note(fmt.Sprintf("ended %t", committed)) }

func (w *hearing) want(t testing.TB, want string) {
	t.Helper()
	if w.heard != want {
		t.Errorf("the witness heard: %s; want %s", w.heard, want)
	}
}

// tx skips the test for a driver without transactions.
func (h Harness) tx(t *testing.T) {
	t.Helper()
	if _, ok := h.Driver.(tidemark.TxDriver); !ok || h.RunInTx == nil {
		t.Skip("the driver has no transactions that server code can bound, which is allowed")
	}
}

func (h Harness) writeIn(t testing.TB, ctx context.Context, w tidemark.Witness, ms ...tidemark.Mutation) []tidemark.Outcome {
	t.Helper()
	outs, err := h.Driver.(tidemark.TxDriver).WriteTx(ctx, ms, w)
	if err != nil {
		t.Errorf("WriteTx: %v", err)
		return make([]tidemark.Outcome, len(ms))
	}
	return outs
}

func (h Harness) findIn(t testing.TB, ctx context.Context, model string, w tidemark.Where) []tidemark.Row {
	t.Helper()
	rows, err := h.Driver.Find(ctx, h.compile(t, model, w), 0)
	if err != nil {
		t.Errorf("Find: %v", err)
	}
	return rows
}
