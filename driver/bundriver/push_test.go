package bundriver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// batchOf numbers mutations from first.
func batchOf(client string, first int64, ms ...tidemark.Mutation) *tidemark.Batch {
	for i := range ms {
		ms[i].N = first + int64(i)
	}
	return &tidemark.Batch{Client: client, Mutations: ms}
}

// verdicts tells them in short: applied, superseded, or why refused.
func verdicts(vs []tidemark.Verdict) string {
	var words []string
	for _, v := range vs {
		word := "superseded"
		switch {
		case v.Err != nil:
			word = string(v.Err.Code)
		case v.Applied:
			word = "applied"
		}
		if v.Repeated {
			word += "*"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// A deferred constraint fails when all is written: in SQLite at the commit only. The
// others are made, each once, and a resend tells the same.
func TestPushWithDeferredConstraints(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := openLate(t, e)
		unit := func(first int64, b *tidemark.Batch, members ...int) {
			for _, i := range members {
				b.Mutations[i].Unit = first + int64(members[len(members)-1])
			}
		}
		early := batchOf("c", 1, create("late", "a", `{"list_id":"l"}`, 5), create("list", "l", `{"title":"x"}`, 5))
		unit(1, early, 0, 1)
		bad := batchOf("c", 3, create("late", "b", `{"list_id":"l"}`, 5), create("late", "c", `{"list_id":"nobody"}`, 5), create("late", "d", `{"list_id":"l"}`, 5),
			create("late", "e", `{"list_id":"l"}`, 5), create("late", "f", `{"list_id":"nobody"}`, 5), create("late", "g", `{"list_id":"l"}`, 5))
		unit(3, bad, 3, 4)
		for _, repeated := range []string{"", "*"} {
			for _, c := range []struct {
				b    *tidemark.Batch
				want string
			}{{early, "applied@ applied@"}, {bad, "applied@ constraint@ applied@ unit@ constraint@ applied@"}} {
				vs, err := d.Push(t.Context(), c.b, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := verdicts(vs), strings.ReplaceAll(c.want, "@", repeated); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
		var rows, entries int
		if err := db.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM late), (SELECT count(*) FROM "+e.own("log")+")").Scan(&rows, &entries); err != nil || rows != 4 || entries != 5 {
			t.Errorf("%d rows, %d entries, %v; want 4 and 5", rows, entries, err)
		}
	})
}

// TestFailuresOfPushLeaveNothing breaks each statement of a push in turn, COMMIT included, and pushes
// the same again: one effect, whatever became of the first.
func TestFailuresOfPushLeaveNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db, c := openCounted(t, e)
		broken := errors.New("the cable broke: EOF")
		for at := 1; ; at++ {
			broke := c.failAt(at, broken)
			uid := fmt.Sprint("u", at)
			b := batchOf("c"+uid, 1, create("list", uid, `{"title":"x"}`, 10), create("entry", "e"+uid, `{"list_id":"`+uid+`"}`, 10))
			w := &witness{}
			_, err := d.Push(context.Background(), b, w)
			c.fail = nil
			if err == nil && broke() {
				t.Fatalf("statement %d broke, and the push succeeded", at)
			}
			if err == nil {
				if at < 8 {
					t.Errorf("only %d statements", at)
				}
				break
			}
			if tidemark.CodeOf(err) != tidemark.CodeUnavailable || !errors.Is(err, broken) {
				t.Errorf("statement %d: %v", at, err)
			}
			if slices.Contains(w.ends, true) {
				t.Errorf("statement %d: the witness heard of a commit", at)
			}
			if n, err := d.Known(t.Context(), b.Client); n != 0 || err != nil {
				t.Errorf("statement %d: verdicts up to %d, %v", at, n, err)
			}
			if vs, err := d.Push(t.Context(), b, nil); err != nil || verdicts(vs) != "applied applied" {
				t.Errorf("statement %d: again: %s, %v", at, verdicts(vs), err)
			}
			var rows, entries int
			if err := db.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM list), (SELECT count(*) FROM "+e.own("log")+")").Scan(&rows, &entries); err != nil || rows != at || entries != 2*at {
				t.Errorf("statement %d: %d rows, %d entries, %v", at, rows, entries, err)
			}
		}
	})
}

// The answer to the commit is lost: a resend finds the verdicts.
func TestPushWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _, _ := openCounted(t, e)
		b := batchOf("c", 1, create("list", "a", `{"title":"x"}`, 10), create("list", "a", `{"title":"y"}`, 5))
		ctx, cancel := context.WithCancel(t.Context())
		w := &leaving{cancel: cancel}
		_, err := d.Push(ctx, b, w)
		if err != nil && tidemark.CodeOf(err) != tidemark.CodeUnavailable { // SQLite may not notice
			t.Errorf("got %v", err)
		}
		vs, err := d.Push(t.Context(), b, nil)
		if got := verdicts(vs); err != nil || got != "applied superseded" && got != "applied* superseded*" || string(vs[0].Row.Get("title")) != `"x"` {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// leaving is a witness whose caller goes before the commit.
type leaving struct{ cancel func() }

func (w *leaving) Decided(int, []tidemark.Outcome) { w.cancel() }
func (w *leaving) Ended(bool)                      {}

// What is decided in one batch for a row, or for rows of which one refers to another, is what it would be
// one by one: also where a cascade or a trigger of one write changes another's row.
func TestBatchesThatChangeTheirOwnRows(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		mustExec(t, db, e.tables)
		mustExec(t, db, "CREATE TABLE late (uid TEXT NOT NULL PRIMARY KEY, list_id TEXT REFERENCES list ON DELETE CASCADE)")
		d := e.driver(t, db, []any{Late{}, List{}})
		del := func(model, uid string, at tidemark.Stamp) tidemark.Mutation {
			return tidemark.Mutation{Model: model, UID: uid, Op: tidemark.Delete, Stamp: at}
		}
		update := func(model, uid, data string, at tidemark.Stamp) tidemark.Mutation {
			return tidemark.Mutation{Model: model, UID: uid, Op: tidemark.Update, Data: tidemark.Row(data), Stamp: at}
		}
		vs, err := d.Push(t.Context(), batchOf("c", 1, create("list", "l", `{"title":"x"}`, 5), create("late", "a", `{"list_id":"l"}`, 5),
			update("list", "l", `{"title":"y"}`, 6), del("late", "a", 7), create("late", "a", `{"list_id":"l"}`, 8)), nil)
		if err != nil || verdicts(vs) != "applied applied applied applied applied" || string(vs[2].Before) != `{"uid":"l","title":"x"}` || string(vs[3].Row) != `{"uid":"a","list_id":"l"}` {
			t.Fatalf("%s %v: %+v", verdicts(vs), err, vs)
		}
		// The list's deletion takes its child along, and the update brings that into being again.
		vs, err = d.Push(t.Context(), batchOf("c", 6, del("list", "l", 10), update("late", "a", `{"list_id":null}`, 11)), nil)
		if err != nil || verdicts(vs) != "applied applied" || string(vs[1].Row) != `{"uid":"a","list_id":null}` {
			t.Errorf("%s %v: %+v", verdicts(vs), err, vs)
		}
		outs := write(t, d, create("list", "two", `{"title":"x"}`, 5), create("late", "two", `{"list_id":null}`, 6), create("list", "one", `{"title":"x"}`, 5))
		if outs[0].Err != nil || outs[1].Err == nil || outs[1].Err.Code != tidemark.CodeUIDTaken || outs[2].Err != nil {
			t.Errorf("one uid for two models: %+v", outs)
		}
	})
}

// Clients choose which columns they write; only so many statements stay prepared for that.
func TestPreparedStatementsAreBounded(t *testing.T) {
	t.Parallel()
	d, db := prepared.ready(t)
	db.SetMaxOpenConns(1)
	fields := []string{`"text":"x"`, `"n":1`, `"x":1.5`, `"b":true`, `"dec":"1"`, `"tod":"10:00:00"`, `"raw":"AA=="`, `"doc":{"a":"\"\\,{}"}`}
	for i := range 1 << len(fields) {
		var some []string
		for k, f := range fields {
			if i&(1<<k) != 0 {
				some = append(some, f)
			}
		}
		if o := write(t, d, create("note", fmt.Sprint("u", i), "{"+strings.Join(some, ",")+"}", 5))[0]; !o.Applied {
			t.Fatalf("%v: %+v", some, o)
		}
	}
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_prepared_statements").Scan(&n); err != nil || n < 50 || n > 250 {
		t.Errorf("%d statements are prepared, %v", n, err)
	}
}

// A table is altered, or a pooler forgets, while connections have statements prepared.
func TestPreparedStatementsGetOld(t *testing.T) {
	t.Parallel()
	d, db := prepared.ready(t)
	db.SetMaxOpenConns(1)
	f := follow(t, d, nil, 10)
	for i, change := range []string{"SELECT 1", "ALTER TABLE note ALTER n TYPE integer", "DEALLOCATE ALL", "ALTER TABLE note ADD more text"} {
		mustExec(t, db, change)
		if o := write(t, d, note("a", i, tidemark.Stamp(10+i)))[0]; !o.Applied {
			t.Errorf("%s: %+v", change, o)
		}
		mustExec(t, db, strings.Replace(change, "more", "still", 1))
		if _, err := f.pass(t.Context()); err != nil {
			t.Errorf("%s: %v", change, err)
		}
		f.check(t)
	}
}
