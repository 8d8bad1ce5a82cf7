package drivertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// unproven are the checks that no broken driver is known to fail yet, so that nobody knows whether
// they find anything. The list may only shrink.
var unproven = []string{"a_page_after_a_row_that_is_gone"}

// TestEveryCheckFindsSomething: a check that no broken driver fails may be no check.
func TestEveryCheckFindsSomething(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	note := func(names []string) {
		for _, name := range names {
			found[name] = true
		}
	}
	for _, m := range mistakes {
		note(m.want)
	}
	for _, m := range logMistakes {
		note(m.want)
	}
	for _, d := range defects {
		note(d.want)
	}
	names := drivertest.Names()
	for _, name := range names {
		switch listed := slices.Contains(unproven, name); {
		case !found[name] && !listed:
			t.Errorf("no broken driver fails %q", name)
		case found[name] && listed:
			t.Errorf("a broken driver fails %q, which goes from the list", name)
		}
		delete(found, name)
	}
	for _, name := range unproven {
		if !slices.Contains(names, name) {
			t.Errorf("there is no check %q", name)
		}
	}
	for name := range found {
		t.Errorf("there is no check %q", name)
	}
}

// defective is a driver with a defect beyond its log; what is nil is as it should be.
type defective struct {
	brokenLog
	find        func(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error)
	snapshot    func(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error)
	migrate     func(ctx context.Context) error
	constraints bool
}

func (d *defective) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	if d.find != nil {
		return d.find(ctx, p, limit)
	}
	return d.Driver.Find(ctx, p, limit)
}

func (d *defective) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	if d.snapshot != nil {
		return d.snapshot(ctx, p, uids)
	}
	return d.Driver.Snapshot(ctx, p, uids)
}

func (d *defective) Migrate(ctx context.Context) error {
	if d.migrate != nil {
		return d.migrate(ctx)
	}
	return d.Driver.Migrate(ctx)
}

// writes breaks what is written, before it is or after.
func writes(before func(d *defective, ms []tidemark.Mutation) error, after func(d *defective, ms []tidemark.Mutation, outs []tidemark.Outcome)) func(d *defective) {
	return func(d *defective) {
		d.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
			ms = slices.Clone(ms)
			if before != nil {
				if err := before(d, ms); err != nil {
					return nil, err
				}
			}
			outs, err := d.Driver.WriteTx(ctx, ms, w)
			if err == nil && after != nil {
				after(d, ms, outs)
			}
			return outs, err
		}
	}
}

func ofLog(breaks func(b *brokenLog)) func(d *defective) {
	return func(d *defective) { breaks(&d.brokenLog) }
}

func wait(turns int) {
	for range turns {
		runtime.Gosched()
	}
}

func constraint() *tidemark.Error { return tidemark.NewError(tidemark.CodeConstraint, "no") }

// cellNames are the checks of one operation, over each state of the metadata.
func cellNames(op string) (names []string) {
	for _, state := range []string{"no_metadata", "created", "updated", "only_updated", "updated_before_it_was_created", "a_tombstone", "a_bare_tombstone"} {
		names = append(names, op+"_over_"+state)
	}
	return names
}

// defects are broken drivers, with checks that must find each; others may.
var defects = map[string]struct {
	breaks func(d *defective)
	want   []string
}{
	"stamps are two microseconds later": {writes(func(_ *defective, ms []tidemark.Mutation) error {
		for i := range ms {
			if ms[i].Stamp != 0 {
				ms[i].Stamp += 2
			}
		}
		return nil
	}, nil), slices.Concat(cellNames("create"), cellNames("update"), cellNames("delete"), []string{"every_cell_in_one_batch", "create_starts_afresh", "stamps_at_the_ends"})},
	"an adoption is an update": {writes(func(_ *defective, ms []tidemark.Mutation) error {
		for i := range ms {
			if ms[i].Op == tidemark.Adopt {
				ms[i].Op = tidemark.Update
			}
		}
		return nil
	}, nil), cellNames("adopt")},
	"a uid may be in two models": {writes(nil, func(d *defective, ms []tidemark.Mutation, outs []tidemark.Outcome) {
		for i := range outs {
			if outs[i].Err != nil && outs[i].Err.Code == tidemark.CodeUIDTaken {
				outs[i] = tidemark.Outcome{Applied: true, Changed: true, Row: ms[i].Data, Meta: tidemark.Meta{UID: ms[i].UID, CreatedAt: ms[i].Stamp}}
			}
		}
	}), []string{"a_uid_belongs_to_one_model", "a_tombstone_of_unknown_model", "two_models_race_for_a_uid", "a_refusal_in_a_transaction", "migrate"}},
	"writers decide by what was": {writes(func(d *defective, ms []tidemark.Mutation) error {
		was := make([]tidemark.RowMeta, len(ms))
		for i := range ms {
			if ms[i].Model == "note" {
				was[i] = d.Get("note", ms[i].UID)
			}
		}
		wait(300)
		for i := range ms {
			if ms[i].Model == "note" && ms[i].Stamp > was[i].Meta.T() {
				d.DropMeta(ms[i].UID)
			}
		}
		return nil
	}, nil), []string{"64_writers_of_one_row", "writes,_updates_and_deletes_of_few_rows"}},
	"rows are locked in the order of the batch": {func(d *defective) {
		var mu sync.Mutex
		held := map[string]bool{}
		deadlock := tidemark.NewError(tidemark.CodeUnavailable, "a deadlock")
		locked := func(ms []tidemark.Mutation, then func() error) error {
			own := map[string]bool{}
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				for uid := range own {
					delete(held, uid)
				}
			}()
			for _, m := range ms {
				mu.Lock()
				busy := held[m.UID] && !own[m.UID]
				if !busy {
					held[m.UID], own[m.UID] = true, true
				}
				mu.Unlock()
				if busy {
					return deadlock
				}
				wait(10)
			}
			return then()
		}
		d.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) (outs []tidemark.Outcome, err error) {
			err = locked(ms, func() (err error) { outs, err = d.Driver.WriteTx(ctx, ms, w); return err })
			return outs, err
		}
		d.push = func(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) (vs []tidemark.Verdict, err error) {
			err = locked(b.Mutations, func() (err error) { vs, err = d.Driver.Push(ctx, b, w); return err })
			return vs, err
		}
	}, []string{"batches_in_opposite_orders", "clients_at_once"}},
	"a snapshot is of two moments": {func(d *defective) {
		d.snapshot = func(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
			first, err := d.Driver.Snapshot(ctx, p, uids)
			if err != nil || len(first.Others) != 1 {
				return first, err
			}
			for range 1000 {
				second, err := d.Driver.Snapshot(ctx, p, uids)
				if err != nil {
					return nil, err
				}
				if len(second.Others) == 1 && second.Others[0].Meta != first.Others[0].Meta {
					first.Others = second.Others
					break
				}
				runtime.Gosched()
			}
			return first, nil
		}
	}, []string{"a_snapshot_during_writes"}},
	"a page is of two moments": {ofLog(tells(func(b *brokenLog, q tidemark.Pull, p *tidemark.Page) {
		if q.Scope.Schema().Name() != "note" || len(p.Rows) != 2 {
			return
		}
		for range 1000 {
			if now := b.Get("note", p.Rows[1].Row.UID()); now.Row != nil && !bytes.Equal(now.Row, p.Rows[1].Row) {
				p.Rows[1] = now
				return
			}
			runtime.Gosched()
		}
	})), []string{"a_page_is_of_one_moment"}},
	"the database enforces nothing": {func(d *defective) { d.constraints = true }, []string{"constraints", "constraints_in_a_push"}},
	"a null is the default": {func(d *defective) {
		d.constraints = true
		writes(func(_ *defective, ms []tidemark.Mutation) error {
			for i, m := range ms {
				if rank := m.Data.Get("rank"); m.Model == "entry" && (m.Op == tidemark.Create && rank == nil || string(rank) == "null") {
					ms[i].Data = m.Data.With("rank", []byte("7"))
				}
			}
			return nil
		}, nil)(d)
	}, []string{"null_is_null"}},
	"a closed driver goes on": {func(d *defective) {
		d.known = func(ctx context.Context, client string) (int64, error) {
			n, err := d.Driver.Known(ctx, client)
			if errors.Is(err, tidemark.ErrClosed) {
				return 0, nil
			}
			return n, err
		}
	}, []string{"close"}},
	"a write goes on when its context has ended": {func(d *defective) {
		d.write = func(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
			return d.Driver.WriteTx(context.WithoutCancel(ctx), ms, w)
		}
	}, []string{"a_context_that_has_ended"}},
	"rows are shared": {func(d *defective) {
		var mu sync.Mutex
		kept := map[string]tidemark.Row{}
		d.find = func(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
			rows, err := d.Driver.Find(ctx, p, limit)
			mu.Lock()
			defer mu.Unlock()
			for _, r := range rows {
				kept[r.UID()] = r
			}
			return rows, err
		}
		d.snapshot = func(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
			s, err := d.Driver.Snapshot(ctx, p, uids)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			for i, rm := range s.Selected {
				if r := kept[rm.Meta.UID]; r != nil {
					s.Selected[i].Row = r
				}
			}
			return s, nil
		}
	}, []string{"what_a_driver_returns_is_the_caller's"}},
	"an empty batch is refused": {writes(func(_ *defective, ms []tidemark.Mutation) error {
		if len(ms) == 0 {
			return constraint()
		}
		return nil
	}, nil), []string{"an_empty_batch"}},
	"a refused write leaves metadata": {writes(nil, func(d *defective, ms []tidemark.Mutation, outs []tidemark.Outcome) {
		for i, o := range outs {
			if o.Err != nil && o.Err.Code == tidemark.CodeConstraint {
				d.Put(ms[i].Model, nil, tidemark.Meta{UID: ms[i].UID, CreatedAt: ms[i].Stamp})
			}
		}
	}), []string{"a_missing_required_column"}},
	"a write without columns is refused": {writes(nil, func(_ *defective, ms []tidemark.Mutation, outs []tidemark.Outcome) {
		for i := range outs {
			if len(ms[i].Data) <= len("{}") && ms[i].Op != tidemark.Delete {
				outs[i] = tidemark.Outcome{Err: constraint()}
			}
		}
	}), []string{"no_data", "an_update_of_some_columns"}},
	"a snapshot has more than was asked for": {func(d *defective) {
		d.snapshot = func(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
			return d.Driver.Snapshot(ctx, p, append(slices.Clone(uids), "gone"))
		}
	}, []string{"a_snapshot_without_uids"}},
	"an unknown model is empty": {func(d *defective) {
		d.find = func(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
			rows, err := d.Driver.Find(ctx, p, limit)
			if tidemark.CodeOf(err) == tidemark.CodeUnknownModel {
				err = nil
			}
			return rows, err
		}
		d.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			p, err := d.Driver.Pull(ctx, q)
			if tidemark.CodeOf(err) == tidemark.CodeUnknownModel {
				return &tidemark.Page{}, nil
			}
			return p, err
		}
	}, []string{"an_unknown_model", "pull_of_an_unknown_model"}},
	"Migrate does nothing": {func(d *defective) { d.migrate = func(context.Context) error { return nil } }, []string{"migrate"}},
	"documents and long texts are lost": {writes(func(_ *defective, ms []tidemark.Mutation) error {
		for i, m := range ms {
			if doc := m.Data.Get("doc"); doc != nil && json.Valid(doc) && string(doc) != "null" {
				ms[i].Data = m.Data.With("doc", []byte(`{"other":1}`))
			}
			if len(m.Data) > 1<<20 {
				ms[i].Data = tidemark.Row(`{}`)
			}
		}
		return nil
	}, nil), []string{"json", "large_texts"}},
	"another's transaction is none": {func(d *defective) {
		d.find = func(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
			rows, err := d.Driver.Find(ctx, p, limit)
			if tidemark.CodeOf(err) == tidemark.CodeInvalidRequest {
				return d.Driver.Find(context.Background(), p, limit)
			}
			return rows, err
		}
	}, []string{"contexts_with_other_transactions"}},
	"a push in a transaction fails and is made": {func(d *defective) {
		d.push = func(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			if tidemark.TxOf(ctx) == nil {
				return d.Driver.Push(ctx, b, w)
			}
			_, err := d.Driver.WriteTx(ctx, b.Mutations, silent{})
			d.Put(b.Mutations[0].Model, tidemark.Row(`{"uid":"`+b.Mutations[0].UID+`"}`), tidemark.Meta{UID: b.Mutations[0].UID, CreatedAt: 1})
			return nil, errors.Join(err, context.DeadlineExceeded)
		}
	}, []string{"a_push_takes_part_in_no_transaction"}},
	"the horizon stands still": {func(d *defective) {
		d.horizon = func(ctx context.Context) (tidemark.Cursor, error) {
			_, err := d.Driver.Horizon(ctx)
			return tidemark.Cursor{}, err
		}
	}, []string{"a_cursor_of_an_empty_log", "cursors_grow"}},
	"every client is known": {func(d *defective) {
		d.known = func(ctx context.Context, client string) (int64, error) {
			n, err := d.Driver.Known(ctx, client)
			return max(n, 1), err
		}
	}, []string{"an_unknown_client"}},
	"malformed batches are passed over": {func(d *defective) {
		d.push = func(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			vs, err := d.Driver.Push(ctx, b, w)
			if tidemark.CodeOf(err) == tidemark.CodeInvalidRequest {
				err = nil
			}
			return vs, err
		}
	}, []string{"malformed_batches"}},
	"repetitions are told as new": {ofLog(judges(func(_ *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			vs[i].Repeated = false
		}
	})), []string{"a_repetition_and_more", "a_refusal_in_a_push", "a_large_push"}},
	"who pushed does not hear of the end": {func(d *defective) {
		d.push = func(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			if w != nil {
				w = deaf{w}
			}
			return d.Driver.Push(ctx, b, w)
		}
	}, []string{"witnesses_of_racing_pushes"}},
	"cursors are too long to travel": {func(d *defective) {
		d.horizon = func(ctx context.Context) (tidemark.Cursor, error) {
			c, err := d.Driver.Horizon(ctx)
			c.Epoch += strings.Repeat("x", 600)
			return c, err
		}
		d.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			q.From.Epoch = strings.TrimRight(q.From.Epoch, "x")
			p, err := d.Driver.Pull(ctx, q)
			if err == nil {
				p.Horizon.Epoch += strings.Repeat("x", 600)
			}
			return p, err
		}
	}, []string{"cursors_travel"}},
	"no unit is accepted": {ofLog(judges(func(b *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			if b.Mutations[i].Unit != 0 {
				vs[i].Applied, vs[i].Err = false, tidemark.NewError(tidemark.CodeUnit, "no")
			}
		}
	})), []string{"a_unit_is_applied_together"}},
}

// untilFound runs the suite until all checks that are wanted have found what is broken, five times at most:
// what comes of two that write at once is found when they happen to.
func untilFound(want []string, run func() []string) (found []string) {
	for range 5 {
		found = append(found, run()...)
		if !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(found, w) }) {
			break
		}
	}
	return found
}

const defectEnv = "DRIVERTEST_DEFECT"

// TestDefect runs the suite on one defect; it is for TestTheSuiteFindsDefects.
func TestDefect(t *testing.T) {
	c, ok := defects[os.Getenv(defectEnv)]
	if !ok {
		return // not asked for
	}
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		d := &defective{brokenLog: brokenLog{Driver: memory.New(drivertest.Schemas()...)}}
		c.breaks(d)
		return drivertest.Harness{Driver: d, RunInTx: d.RunInTx, Constraints: d.constraints, Put: func(_ testing.TB, model string, row tidemark.Row, meta tidemark.Meta) {
			d.Put(model, row, meta)
		}}
	})
}

var failedDefect = regexp.MustCompile(`--- FAIL: TestDefect/(\S+)`)

// TestTheSuiteFindsDefects runs, in processes of their own since they must fail, the checks that are to
// find each defect.
func TestTheSuiteFindsDefects(t *testing.T) {
	t.Parallel()
	for name, c := range defects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			patterns := make([]byte, 0, 1024)
			for i, w := range c.want {
				if i > 0 {
					patterns = append(patterns, '|')
				}
				patterns = append(patterns, regexp.QuoteMeta(w)...)
			}
			var out []byte
			found := untilFound(c.want, func() (found []string) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDefect$/^("+string(patterns)+")$")
				cmd.Env = append(os.Environ(), defectEnv+"="+name)
				out, _ = cmd.CombinedOutput()
				for _, f := range failedDefect.FindAllStringSubmatch(string(out), -1) {
					found = append(found, f[1])
				}
				return found
			})
			for _, w := range c.want {
				if !slices.Contains(found, w) {
					t.Errorf("check %s does not find it; found by %q\n%.1000s", w, found, out)
				}
			}
		})
	}
}
