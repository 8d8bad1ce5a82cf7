package bundriver_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
)

// witness notes how its transactions ended.
type witness struct{ ends []bool }

func (w *witness) Decided(int, []tidemark.Outcome) {}
func (w *witness) Ended(committed bool)            { w.ends = append(w.ends, committed) }

func note(uid string, n int, stamp tidemark.Stamp) tidemark.Mutation {
	return tidemark.Mutation{Model: "note", UID: uid, Op: tidemark.Update, Data: tidemark.Row(fmt.Sprintf(`{"n":%d}`, n)), Stamp: stamp}
}

func notes(t testing.TB, db *bun.DB) int {
	t.Helper()
	var n int
	if err := db.NewSelect().Table("note").ColumnExpr("count(*)").Scan(context.Background(), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// However a transaction ends, the next writer gets its turn.
func TestRunInTxEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		write := func(ctx context.Context, w *witness) {
			t.Helper()
			if _, err := d.WriteTx(ctx, []tidemark.Mutation{note("a", 1, 10)}, w); err != nil {
				t.Errorf("WriteTx: %v", err)
			}
		}
		for name, c := range map[string]struct {
			fn   func(ctx context.Context, cancel func(), tx bun.Tx) error
			want tidemark.Code
		}{
			"the context ends": {func(_ context.Context, cancel func(), _ bun.Tx) error { cancel(); return nil }, tidemark.CodeUnavailable},
			"rolled back by itself": {func(_ context.Context, _ func(), tx bun.Tx) error {
				return tx.Rollback()
			}, tidemark.CodeInternal},
			"an error with a code": {func(context.Context, func(), bun.Tx) error {
				return tidemark.NewError("mine", "no")
			}, "mine"},
		} {
			var w witness
			ctx, cancel := context.WithCancel(t.Context())
			err := d.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error {
				write(ctx, &w)
				return c.fn(ctx, cancel, tx)
			})
			cancel()
			if tidemark.CodeOf(err) != c.want {
				t.Errorf("%s: got %v, want %s", name, err, c.want)
			}
			if len(w.ends) != 1 || w.ends[0] {
				t.Errorf("%s: the witness heard %v", name, w.ends)
			}
			if got := notes(t, db); got != 0 {
				t.Errorf("%s: %d rows", name, got)
			}
		}
		if _, err := d.Write(t.Context(), []tidemark.Mutation{note("b", 1, 10)}); err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.RunInTx(ended, nil); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
			t.Errorf("a context that has ended: got %v", err)
		}
		_ = d.Close()
		if err := d.RunInTx(t.Context(), nil); !errors.Is(err, tidemark.ErrClosed) {
			t.Errorf("after Close: got %v", err)
		}
	})
}

// A transaction whose connection is lost is rolled back, and says so.
func TestRunInTxLosesItsConnection(t *testing.T) {
	t.Parallel()
	d, db := engines[0].ready(t)
	var w witness
	err := d.RunInTx(t.Context(), func(ctx context.Context, tx bun.Tx) error {
		if _, err := d.WriteTx(ctx, []tidemark.Mutation{note("a", 1, 10)}, &w); err != nil {
			return err
		}
		var pid int
		if err := tx.NewRaw("SELECT pg_backend_pid()").Scan(ctx, &pid); err != nil {
			return err
		}
		if _, err := db.ExecContext(ctx, "SELECT pg_terminate_backend(?, 5000)", pid); err != nil {
			return err
		}
		_, err := d.WriteTx(ctx, []tidemark.Mutation{note("b", 1, 10)}, &w)
		if !tidemark.Temporary(err) {
			t.Errorf("a write: got %v", err)
		}
		return nil // it does not heed the error
	})
	if !tidemark.Temporary(err) {
		t.Errorf("got %v", err)
	}
	if len(w.ends) != 1 || w.ends[0] || notes(t, db) != 0 {
		t.Errorf("the witness heard %v, and there are %d rows", w.ends, notes(t, db))
	}
}

// The application's deferred constraints stay deferred, and fail at the commit.
func TestDeferredConstraintsFailAtTheCommit(t *testing.T) {
	t.Parallel()
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			db := e.open(t)
			mustExec(t, db, e.tables+`;
CREATE TABLE line (id integer PRIMARY KEY, list_id text NOT NULL REFERENCES list DEFERRABLE INITIALLY DEFERRED)`)
			d := e.driver(t, db, models)
			for _, parent := range []bool{true, false} {
				uid := fmt.Sprint("list ", parent)
				var w witness
				err := d.RunInTx(t.Context(), func(ctx context.Context, tx bun.Tx) error {
					if _, err := tx.ExecContext(ctx, "INSERT INTO line VALUES (?, ?)", len(uid), uid); err != nil {
						return err
					}
					if parent { // the child came first, as it may
						outs, err := d.WriteTx(ctx, []tidemark.Mutation{{Model: "list", UID: uid, Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 10}}, &w)
						if err == nil && outs[0].Err != nil {
							err = outs[0].Err
						}
						return err
					}
					_, err := d.WriteTx(ctx, []tidemark.Mutation{note("a", 1, 10)}, &w)
					return err
				})
				want := tidemark.Code("")
				if !parent {
					want = tidemark.CodeConstraint
				}
				if tidemark.CodeOf(err) != want || len(w.ends) != 1 || w.ends[0] != parent {
					t.Errorf("with its parent %v: got %v, and the witness heard %v", parent, err, w.ends)
				}
			}
			if got := notes(t, db); got != 0 {
				t.Errorf("%d rows of the transaction that failed", got)
			}
		})
	}
}

// Goroutines of one transaction take turns in the driver.
func TestGoroutinesInOneTransaction(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		err := d.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					uid := fmt.Sprint(i)
					bad := tidemark.Mutation{Model: "list", UID: "bad" + uid, Op: tidemark.Create, Data: tidemark.Row(`{"title":null}`), Stamp: 10}
					outs, err := d.Write(ctx, []tidemark.Mutation{note(uid, i, 10), bad, note(uid, i+1, 20)})
					if err != nil || outs[0].Err != nil || outs[1].Err == nil || outs[2].Err != nil {
						t.Errorf("%+v %v", outs, err)
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err != nil || notes(t, db) != 8 {
			t.Errorf("%d rows, %v", notes(t, db), err)
		}
	})
}

// Two drivers of one database are two: neither joins the other's transaction.
func TestATransactionOfAnotherDriver(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		other, err := bundriver.New(t.Context(), db, models, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = d.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
			if _, err := other.Write(ctx, []tidemark.Mutation{note("a", 1, 10)}); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
				t.Errorf("got %v", err)
			}
			return other.RunInTx(ctx, nil)
		})
		if tidemark.CodeOf(err) != tidemark.CodeInvalidRequest || errors.Is(err, sql.ErrTxDone) || notes(t, db) != 0 {
			t.Errorf("got %v, and %d rows", err, notes(t, db))
		}
	})
}
