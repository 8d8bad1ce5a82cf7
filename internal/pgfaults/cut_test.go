package pgfaults

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

// operation is what is cut: rows that are there, and what is then written, all with uids of one prefix.
type operation struct {
	name string
	make func(p string) (there, ms []tidemark.Mutation)
}

const (
	early tidemark.Stamp = 1_000_000
	late  tidemark.Stamp = 2_000_000
)

var operations = []operation{
	{"create", func(p string) (there, ms []tidemark.Mutation) {
		return nil, []tidemark.Mutation{mutation(tidemark.Create, "note", p+"a", `{"text":"new","n":1}`, late)}
	}},
	{"update", func(p string) (there, ms []tidemark.Mutation) {
		return []tidemark.Mutation{mutation(tidemark.Create, "note", p+"a", `{"text":"old","n":1}`, early)},
			[]tidemark.Mutation{mutation(tidemark.Update, "note", p+"a", `{"text":"new"}`, late)}
	}},
	{"delete", func(p string) (there, ms []tidemark.Mutation) {
		return []tidemark.Mutation{mutation(tidemark.Create, "note", p+"a", `{"text":"old"}`, early)},
			[]tidemark.Mutation{mutation(tidemark.Delete, "note", p+"a", "", late)}
	}},
	{"batch", batch},
}

// batch is twenty mutations: of every kind, with a unit that is applied, one that is refused, and
// refused mutations that stand alone.
func batch(p string) (there, ms []tidemark.Mutation) {
	there = []tidemark.Mutation{
		mutation(tidemark.Create, "note", p+"held", `{"text":"old","n":1}`, early),
		mutation(tidemark.Create, "note", p+"newer", `{"text":"newer"}`, late+5),
		mutation(tidemark.Create, "note", p+"going", `{"text":"old"}`, early),
		mutation(tidemark.Create, "list", p+"list", `{"title":"old"}`, early),
	}
	ms = []tidemark.Mutation{
		mutation(tidemark.Create, "list", p+"l1", `{"title":"one"}`, late),
		mutation(tidemark.Create, "note", p+"n1", `{"n":1}`, late), // 2 to 4 are a unit
		mutation(tidemark.Update, "note", p+"held", `{"n":2}`, late),
		mutation(tidemark.Update, "list", p+"l1", `{"title":"two"}`, late+1),
		mutation(tidemark.Create, "list", p+"bad", `{"title":null}`, late), // refused
		mutation(tidemark.Create, "note", p+"n2", `{"n":2}`, late),         // 7 and 8 are a unit, which is refused
		mutation(tidemark.Create, "note", p+"n3", `{"n":3}`, late),
		mutation(tidemark.Update, "list", p+"list", `{"title":null}`, late),
		mutation(tidemark.Update, "note", p+"newer", `{"text":"older"}`, late), // superseded
		mutation(tidemark.Delete, "note", p+"going", "", late),
		mutation(tidemark.Delete, "note", p+"never", "", late),
		mutation(tidemark.Create, "note", p+"list", `{}`, late), // the uid is taken
	}
	for i := len(ms); i < 20; i++ {
		ms = append(ms, mutation(tidemark.Create, "note", fmt.Sprint(p, "m", i), fmt.Sprintf(`{"text":"m","n":%d}`, i), late))
	}
	for _, unit := range [][2]int{{2, 4}, {7, 8}} {
		for n := unit[0]; n <= unit[1]; n++ {
			ms[n-1].Unit = int64(unit[1])
		}
	}
	return there, ms
}

var every = flag.Bool("every", false, "cut at every message, not at some and the last ones (takes half an hour)")

// sweep cuts in each way at some of the messages, and at each of the last ones, where the COMMIT is, until there is
// nothing left to cut. once does something with uids of a prefix, in which the cut happens, and all that is to be checked then.
func sweep(t *testing.T, b *bench, once func(t testing.TB, prefix string, when moment, at int) (met bool)) {
	const last = 6
	for when := range moment(moments) {
		cuts := 0
		try := func(at int) bool {
			cuts++
			return !t.Failed() && once(t, fmt.Sprint(when, cuts, "."), when, at)
		}
		try(math.MaxInt) // which prepares what stays prepared
		try(math.MaxInt)
		messages := b.wire.messages(when)
		if messages < 4 {
			t.Errorf("%v: only %d messages", when, messages)
		}
		step := max(1, messages/6)
		if *every {
			step = 1
		}
		at := 1 + rand.IntN(step)
		for ; at <= messages-last; at += step {
			try(at)
		}
		for at = max(1, messages-last); try(at); at++ { // a new connection may need more than it did
		}
		t.Logf("%v: %d messages, %d cuts", when, at-1, cuts)
	}
}

func inEachMode(t *testing.T, run func(t *testing.T, b *bench, op operation)) {
	for _, m := range modes {
		for _, op := range operations {
			t.Run(m.name+"/"+op.name, func(t *testing.T) {
				t.Parallel()
				run(t, newBench(t, m), op)
			})
		}
	}
}

// put writes what is there before, undisturbed.
func (b *bench) put(ms []tidemark.Mutation) {
	b.Helper()
	if len(ms) == 0 {
		return
	}
	outs, err := b.calm.Write(context.Background(), ms)
	if err != nil || !outs[0].Applied {
		b.Fatalf("got %+v, %v", outs, err)
	}
}

// TestPushIsCut: wherever the connection is cut, the same push again tells all verdicts, and there
// is one effect.
func TestPushIsCut(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, b *bench, op operation) { pushes(t, b, op) })
}

// TestPushIsCutWhileItConnects does the same with a connection that is opened for the push.
func TestPushIsCutWhileItConnects(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, m)
			b.db.SetMaxIdleConns(-1)
			pushes(t, b, operations[0])
		})
	}
}

func pushes(t *testing.T, b *bench, op operation) {
	there, ms := op.make("clean.")
	b.put(there)
	clean, err := b.calm.Push(t.Context(), batchOf("clean.client", 1, ms...), nil)
	if err != nil {
		t.Fatal(err)
	}
	want, wantState := told(clean), b.state("clean.")
	t.Logf("undisturbed: %s\n%s", want, wantState)
	var done, undone int // of those whose answer was lost
	sweep(t, b, func(t testing.TB, p string, when moment, at int) bool {
		there, ms := op.make(p)
		b.put(there)
		batch, w := batchOf(p+"client", 1, ms...), &witness{}
		b.wire.arm(when, at)
		first, err := b.d.Push(context.Background(), batch, w)
		met := b.wire.disarm()
		if err != nil && (!met || tidemark.CodeOf(err) != tidemark.CodeUnavailable) {
			t.Errorf("%v %d: got %v", when, at, err)
		}
		vs := b.again(batch, w)
		switch {
		case err == nil && (told(first) != want || repeated(vs) != len(vs)):
			t.Errorf("%v %d: first %s, then %d of %d are repeated", when, at, told(first), repeated(vs), len(vs))
		case err != nil && repeated(vs) == len(vs):
			done++
		case err != nil && repeated(vs) == 0:
			undone++
		case err != nil:
			t.Errorf("%v %d: %d of %d are repeated", when, at, repeated(vs), len(vs))
		}
		third := b.again(batch, w)
		b.settle()
		if told(vs) != want || told(third) != want || repeated(third) != len(third) {
			t.Errorf("%v %d: got %s\nthen %s\nwant %s", when, at, told(vs), told(third), want)
		}
		if got := b.state(p); got != wantState {
			t.Errorf("%v %d: the database has\n%s\nwant\n%s", when, at, got, wantState)
		}
		b.checkLedger(batch, vs)
		if err == nil && w.committed != 1 || w.committed > 1 || err != nil && repeated(vs) == 0 && w.committed != 1 || w.decided != w.committed+w.undone {
			t.Errorf("%v %d: the witness heard %+v", when, at, *w)
		}
		return met
	})
	if done == 0 || undone == 0 {
		t.Errorf("of the pushes without an answer %d had their effect, and %d had none: both must be met", done, undone)
	}
	t.Logf("without an answer: %d with an effect, %d without", done, undone)
}

// again pushes until there is an answer. The first attempt may meet with the connection that was cut.
func (b *bench) again(batch *tidemark.Batch, w tidemark.Witness) []tidemark.Verdict {
	b.Helper()
	for range 3 {
		vs, err := b.d.Push(context.Background(), batch, w)
		if err == nil {
			return vs
		}
		if !tidemark.Temporary(err) {
			b.Fatalf("again: %v", err)
		}
	}
	b.Fatal("three pushes found no connection")
	return nil
}

// TestWriteIsCut: the same write again, and the last writer has won; the log has each change once.
func TestWriteIsCut(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, b *bench, op operation) {
		there, ms := op.make("clean.")
		b.put(there)
		if _, err := b.calm.Write(t.Context(), ms); err != nil {
			t.Fatal(err)
		}
		wantState := b.state("clean.")
		sweep(t, b, func(t testing.TB, p string, when moment, at int) bool {
			there, ms := op.make(p)
			b.put(there)
			empty, w := b.state(p), &witness{}
			b.wire.arm(when, at)
			_, err := b.d.WriteTx(context.Background(), ms, w)
			met := b.wire.disarm()
			if err != nil && (!met || tidemark.CodeOf(err) != tidemark.CodeUnavailable) {
				t.Errorf("%v %d: got %v", when, at, err)
			}
			b.settle()
			if got := b.state(p); got != wantState && (got != empty || err == nil || w.committed > 0) {
				t.Errorf("%v %d: %v, the witness heard %+v, and the database has\n%s", when, at, err, *w, got)
			}
			for n := 1; ; n++ {
				if _, err = b.d.Write(context.Background(), ms); err == nil {
					break
				}
				if n == 3 || !tidemark.Temporary(err) {
					t.Fatalf("%v %d: again: %v", when, at, err)
				}
			}
			if got := b.state(p); got != wantState {
				t.Errorf("%v %d: the database has\n%s\nwant\n%s", when, at, got, wantState)
			}
			return met
		})
	})
}

// TestRunInTxIsCut: what the application wrote itself and what the driver wrote are there together or not at all,
// and the witness hears of a commit only where there was one.
func TestRunInTxIsCut(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, b *bench, op operation) {
		run := func(ctx context.Context, b *bench, p string, w *witness, calm bool) error {
			_, ms := op.make(p)
			d := b.d
			if calm {
				d = b.calm
			}
			return d.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error {
				res, err := tx.ExecContext(ctx, "INSERT INTO own VALUES (?) ON CONFLICT DO NOTHING", p+"own")
				if err != nil {
					return tidemark.Wrap(err, tidemark.CodeUnavailable, "the application's own statement failed")
				}
				if n, err := res.RowsAffected(); err != nil || n == 0 {
					return err // it was done before
				}
				_, err = d.WriteTx(ctx, ms, w)
				return err
			})
		}
		there, _ := op.make("clean.")
		b.put(there)
		if err := run(t.Context(), b, "clean.", &witness{}, true); err != nil {
			t.Fatal(err)
		}
		wantState := b.state("clean.")
		var done, undone int
		sweep(t, b, func(t testing.TB, p string, when moment, at int) bool {
			there, _ := op.make(p)
			b.put(there)
			empty, w := b.state(p), &witness{}
			b.wire.arm(when, at)
			err := run(context.Background(), b, p, w, false)
			met := b.wire.disarm()
			if err != nil && (!met || tidemark.CodeOf(err) != tidemark.CodeUnavailable) {
				t.Errorf("%v %d: got %v", when, at, err)
			}
			b.settle()
			switch got := b.state(p); {
			case got == wantState && err != nil:
				done++
			case got == empty && err != nil && w.committed == 0:
				undone++
			case got != wantState || err != nil || w.committed != 1:
				t.Errorf("%v %d: %v, the witness heard %+v, and the database has\n%s", when, at, err, *w, got)
			}
			for n := 1; ; n++ {
				if err = run(context.Background(), b, p, w, false); err == nil {
					break
				}
				if n == 3 || !tidemark.Temporary(err) {
					t.Fatalf("%v %d: again: %v", when, at, err)
				}
			}
			if got := b.state(p); got != wantState || w.committed > 1 {
				t.Errorf("%v %d: the witness heard %+v, and the database has\n%s\nwant\n%s", when, at, *w, got, wantState)
			}
			return met
		})
		if done == 0 || undone == 0 {
			t.Errorf("of the transactions without an answer %d had their effect, and %d had none: both must be met", done, undone)
		}
	})
}
