package drivertest_test

import (
	"context"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// logMistakes are logs that break a rule, with the checks that must find it. No others may fail
// but those in may (patterns), which rest on the rule, or find it by chance.
var logMistakes = map[string]struct {
	breaks    func(b *brokenLog)
	want, may []string
}{
	"changed is said of what is superseded": {outcomes(func(_ tidemark.Mutation, o *tidemark.Outcome) { o.Changed = o.Err == nil }), []string{"create_over_created", "update_over_a_tombstone", "delete_over_updated", "adopt_over_created", "what_changes_nothing_is_not_logged"}, []string{"*_over_*", "every_cell_in_one_batch"}},
	"changed is not said of an adopted row": {outcomes(func(m tidemark.Mutation, o *tidemark.Outcome) { o.Changed = o.Changed && m.Op != tidemark.Adopt }), []string{"adopt_over_no_metadata", "every_cell_in_one_batch", "every_way_to_write_is_logged"}, nil},
	"what nobody heard of counts as heard": {func(b *brokenLog) {
		b.own = func(context.Context, tidemark.Cursor, tidemark.Cursor) (bool, error) { return true, nil }
	}, []string{unheard}, nil},
	"adopted rows are not logged":          {unlogged, []string{"adopted_rows_are_logged"}, nil},
	"transactions are logged twice":        {twice, []string{"each_change_is_logged_once", "what_was_undone_is_not_logged"}, nil},
	"the horizon passes open transactions": {ahead, []string{"the_horizon_and_an_open_transaction"}, []string{"catch-up_beside_writers"}},
	"departures are not told":              {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) { p.Gone = nil }), []string{"rows_that_left", "catch-up_from_any_cursor", "every_way_to_write_is_logged", "a_lost_write_that_buries_a_row_is_logged", "the_horizon_and_an_open_transaction", "what_a_page_has_is_the_caller's"}, []string{"a_page_after_a_row_that_is_gone", "catch-up_beside_writers", "versions_before", "a_row_under_a_tombstone"}},
	"departures have no row": {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) {
		for i := range p.Gone {
			p.Gone[i].Row = nil
		}
	}), []string{"rows_that_left"}, nil},
	"departures of rows that were never there": {tells(func(b *brokenLog, q tidemark.Pull, p *tidemark.Page) {
		if q.From.IsZero() || p.More || q.After != "" {
			return
		}
		q.Scope, q.Limit, q.Bytes = everything(q.Scope), 1<<20, 1<<20
		every, err := b.Driver.Pull(context.Background(), q)
		if err != nil {
			return
		}
		told := map[string]bool{}
		for _, rm := range append(slices.Clone(p.Rows), p.Gone...) {
			told[rm.Meta.UID] = true
		}
		for _, rm := range append(every.Rows, every.Gone...) {
			if !told[rm.Meta.UID] {
				p.Gone = append(p.Gone, rm)
			}
		}
	}), []string{"rows_that_were_never_there"}, []string{"catch-up_from_any_cursor", "catch-up_beside_writers", "pages"}},
	"the limit of a page is ignored":       {asks(func(q *tidemark.Pull) { q.Limit = 1 << 20 }), []string{"pages", "the_last_page"}, []string{"catch-up_from_any_cursor", "catch-up_beside_writers", "the_horizon_and_an_open_transaction", "a_page_after_a_row_that_is_gone", "a_row_under_a_tombstone"}},
	"the bytes of a page are ignored":      {asks(func(q *tidemark.Pull) { q.Bytes = 1 << 20 }), []string{"pages_by_bytes"}, nil},
	"the scope is ignored":                 {asks(func(q *tidemark.Pull) { q.Scope = everything(q.Scope) }), []string{"pull_of_everything", "count", "rows_that_left", "rows_that_were_never_there", "catch-up_from_any_cursor", "catch-up_beside_writers", "the_horizon_and_an_open_transaction", "what_a_page_has_is_the_caller's"}, []string{"versions_before", "lists_and_alternatives"}},
	"alternatives of a scope are ignored":  {asks(func(q *tidemark.Pull) { q.Scope = otherwise(q.Scope, without) }), []string{"lists_and_alternatives"}, nil},
	"a list of a scope is its first value": {asks(func(q *tidemark.Pull) { q.Scope = otherwise(q.Scope, firstOfList) }), []string{"lists_and_alternatives"}, nil},
	"Befores is not heeded":                {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) { p.Befores = nil }), []string{"versions_before"}, nil},
	"Befores has rows as they are": {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) {
		for _, rm := range p.Rows {
			if p.Befores != nil {
				p.Befores[rm.Row.UID()] = append(p.Befores[rm.Row.UID()], rm.Row)
			}
		}
	}), []string{"versions_before"}, nil},
	"Befores has only the last version": {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) {
		for uid, rows := range p.Befores {
			p.Befores[uid] = rows[len(rows)-1:]
		}
	}), []string{"versions_before"}, nil},
	"rows under tombstones are told": {tells(func(b *brokenLog, q tidemark.Pull, p *tidemark.Page) {
		for _, rm := range dead(b, q) {
			if q.From.IsZero() && rm.Row.UID() > q.After && !p.More {
				p.Rows = append(p.Rows, rm)
			}
		}
	}), []string{"a_row_under_a_tombstone"}, nil},
	"rows under tombstones are counted": {tells(func(b *brokenLog, q tidemark.Pull, p *tidemark.Page) {
		if q.Count {
			p.Total += len(dead(b, q))
		}
	}), []string{"a_row_under_a_tombstone"}, nil},
	"rows under tombstones have left as they are": {tells(func(b *brokenLog, _ tidemark.Pull, p *tidemark.Page) {
		for i, rm := range p.Gone {
			if now := b.Get("note", rm.Meta.UID); now.Meta.Deleted() {
				p.Gone[i].Row = now.Row
			}
		}
	}), []string{"a_row_under_a_tombstone"}, nil},
	"the count is of the page":       {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) { p.Total = len(p.Rows) }), []string{"count"}, []string{"a_row_under_a_tombstone"}},
	"that there is more is not said": {tells(func(_ *brokenLog, _ tidemark.Pull, p *tidemark.Page) { p.More = false }), []string{"pages", "pages_by_bytes", "the_last_page"}, []string{"catch-up_from_any_cursor", "catch-up_beside_writers", "the_horizon_and_an_open_transaction", "a_page_after_a_row_that_is_gone", "a_row_under_a_tombstone"}},
	"more is said of the last page":  {tells(func(_ *brokenLog, q tidemark.Pull, p *tidemark.Page) { p.More = len(p.Rows) == q.Limit }), []string{"the_last_page"}, []string{"pages", "pages_by_bytes", "catch-up_from_any_cursor", "catch-up_beside_writers", "the_horizon_and_an_open_transaction", "a_page_after_a_row_that_is_gone"}},
	"a page begins with the last row": {asks(func(q *tidemark.Pull) {
		if q.After != "" {
			q.After = q.After[:len(q.After)-1]
		}
	}), []string{"pages", "pages_by_bytes", "the_last_page"}, []string{"catch-up_from_any_cursor", "catch-up_beside_writers", "the_horizon_and_an_open_transaction", "a_page_after_a_row_that_is_gone", "a_row_under_a_tombstone"}},
	"a pull that tells something tells everything": {func(b *brokenLog) {
		b.pull = func(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
			p, err := b.Driver.Pull(ctx, q)
			if err == nil && q.From.At < p.Horizon.At {
				q.From = tidemark.Cursor{}
				p, err = b.Driver.Pull(ctx, q)
			}
			return p, err
		}
	}, []string{"pull_from_a_cursor", "rows_that_left", "every_way_to_write_is_logged", "catch-up_from_any_cursor"}, []string{"versions_before", "catch-up_beside_writers", "a_unit_is_rejected_together", "purge", "cursors_of_another_history", "cursors_travel", "what_a_page_has_is_the_caller's", "a_lost_write_that_buries_a_row_is_logged", "what_was_undone_is_not_logged", "the_horizon_and_an_open_transaction", "a_page_after_a_row_that_is_gone", "a_row_under_a_tombstone"}},
	"the epoch is not looked at": {forgiving(func(good, c *tidemark.Cursor) { c.Epoch = good.Epoch }), []string{"cursors_of_another_history"}, nil},
	"the nonce is not looked at": {forgiving(func(good, c *tidemark.Cursor) { c.Nonce = good.Nonce }), []string{"cursors_of_another_history", "purge"}, nil},
	"the future is the present": {forgiving(func(good, c *tidemark.Cursor) {
		if c.At > good.At {
			c.At, c.Nonce = good.At, good.Nonce
		}
	}), []string{"cursors_of_another_history"}, nil},
	"before all is the present": {forgiving(func(good, c *tidemark.Cursor) {
		if c.At < 0 {
			c.At, c.Nonce = good.At, good.Nonce
		}
	}), []string{"cursors_of_another_history"}, nil},
	"a purge takes tombstones": {func(b *brokenLog) {
		b.purge = func(ctx context.Context, before time.Time) (int64, error) {
			n, err := b.Driver.Purge(ctx, before)
			if rm := b.Get("note", "dead"); n > 0 && rm.Meta.Deleted() {
				b.DropMeta("dead")
			}
			return n, err
		}
	}, []string{"purge_keeps_metadata"}, []string{"what_changes_nothing_is_not_logged"}},
	"a purge takes numbers": {func(b *brokenLog) {
		purged := false
		b.purge = func(ctx context.Context, before time.Time) (int64, error) {
			n, err := b.Driver.Purge(ctx, before)
			purged = n > 0
			return n, err
		}
		b.known = func(ctx context.Context, client string) (int64, error) {
			if purged {
				return 0, nil
			}
			return b.Driver.Known(ctx, client)
		}
	}, []string{"purge_keeps_numbers"}, nil},
	"a purge takes everything": {func(b *brokenLog) {
		b.purge = func(ctx context.Context, _ time.Time) (int64, error) {
			return b.Driver.Purge(ctx, time.Now().Add(time.Hour))
		}
	}, []string{"purge", "purge_keeps_numbers"}, nil},
	"a purge takes nothing": {func(b *brokenLog) {
		b.purge = func(ctx context.Context, _ time.Time) (int64, error) { return b.Driver.Purge(ctx, time.Time{}) }
	}, []string{"purge", "each_change_is_logged_once"}, []string{"adopted_rows_are_logged", "what_was_undone_is_not_logged", "the_same_batch_twice_at_once", "purge_keeps_numbers", "what_changes_nothing_is_not_logged"}},
	"the order of a push is reversed": {pushesWith(func(b *tidemark.Batch) {
		if b.Check() != nil {
			return
		}
		first := b.Mutations[0].N
		slices.Reverse(b.Mutations)
		for i := range b.Mutations {
			b.Mutations[i].N = first + int64(i)
			b.Mutations[i].Unit = 0
		}
	}), []string{"a_push_is_made_in_order"}, []string{"a_large_push", "a_refusal_in_a_push", "a_repetition", "a_repetition_and_more", "a_unit_is_rejected_together", "a_unit_that_the_caller_refuses", "confirmed_verdicts", "the_same_batch_twice_at_once", "the_witness_of_a_push", "units_beside_units", "refused_by_the_caller", "a_superseded_member"}},
	"owners are not looked at":      {pushesWith(func(b *tidemark.Batch) { b.Owner = "" }), []string{"somebody_else's_client", "purge_keeps_numbers"}, nil},
	"the caller is not listened to": {pushesWith(func(b *tidemark.Batch) { b.Refused = nil }), []string{"refused_by_the_caller", "a_unit_that_the_caller_refuses"}, nil},
	"nothing is ever confirmed":     {pushesWith(func(b *tidemark.Batch) { b.Confirmed = 0 }), []string{"confirmed_verdicts"}, nil},
	"members of units stand alone": {pushesWith(func(b *tidemark.Batch) {
		if b.Check() == nil {
			for i := range b.Mutations {
				b.Mutations[i].Unit = 0
			}
		}
	}), []string{"a_unit_is_rejected_together", "a_unit_that_the_caller_refuses", "units_beside_units"}, nil},
	"a gap is closed":               {accepts(tidemark.CodeGap), []string{"a_gap", "purge_keeps_numbers", "the_witness_of_a_push"}, nil},
	"other content is made as well": {accepts(tidemark.CodeRepeated), []string{"other_content_under_a_number", "confirmed_verdicts", "purge_keeps_numbers"}, nil},
	"somebody else is let in":       {accepts(tidemark.CodeDenied), []string{"somebody_else's_client", "purge_keeps_numbers"}, nil},
	"repetitions are not marked": {judges(func(_ *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			vs[i].Repeated = false
		}
	}), []string{"a_repetition"}, []string{"a_large_push", "a_refusal_in_a_push", "a_repetition_and_more", "a_unit_is_rejected_together", "confirmed_verdicts", "purge_keeps_numbers", "refused_by_the_caller", "the_same_batch_twice_at_once"}},
	"repeated refusals are forgotten": {judges(func(_ *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			if vs[i].Repeated {
				vs[i].Err = nil
			}
		}
	}), []string{"a_repetition"}, []string{"a_large_push", "a_refusal_in_a_push", "a_unit_is_rejected_together", "refused_by_the_caller", "the_same_batch_twice_at_once"}},
	"a superseded member rejects its unit": {judges(func(b *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			if b.Mutations[i].Unit != 0 && !vs[i].Applied && vs[i].Err == nil {
				vs[i].Err = tidemark.NewError(tidemark.CodeUnit, "no")
			}
		}
	}), []string{"a_superseded_member"}, nil},
	"the others of a unit have the same error": {judges(func(b *tidemark.Batch, vs []tidemark.Verdict) {
		for i := range vs {
			if codeOf(vs[i]) == tidemark.CodeUnit {
				vs[i].Err = tidemark.NewError(tidemark.CodeConstraint, "no")
			}
		}
	}), []string{"a_unit_is_rejected_together", "a_unit_that_the_caller_refuses"}, nil},
	"the witness hears of repetitions": {func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			vs, err := b.Driver.Push(ctx, batch, w)
			for i := range vs {
				if vs[i].Repeated && w != nil {
					w.Decided(i, []tidemark.Outcome{vs[i].Outcome})
				}
			}
			return vs, err
		}
	}, []string{"the_witness_of_a_push"}, nil},
	"the witness of a push does not hear of the end": {func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			if w != nil {
				w = deaf{w}
			}
			return b.Driver.Push(ctx, batch, w)
		}
	}, []string{"the_witness_of_a_push"}, []string{"witnesses_of_racing_pushes"}},
	"two pushes of one batch are both made": {racy, []string{"the_same_batch_twice_at_once"}, nil},
	"a push is made one by one": {func(b *brokenLog) {
		b.push = func(ctx context.Context, batch *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
			if err := batch.Check(); err != nil || w != nil || batch.Refused != nil || slices.ContainsFunc(batch.Mutations, func(m tidemark.Mutation) bool { return m.Unit != 0 && m.Stamp < 100 }) {
				return b.Driver.Push(ctx, batch, w)
			}
			var all []tidemark.Verdict
			for i := range batch.Mutations {
				one := *batch
				one.Mutations = slices.Clone(batch.Mutations[i : i+1])
				one.Mutations[0].Unit = 0
				vs, err := b.Driver.Push(ctx, &one, w)
				if err != nil {
					return nil, err
				}
				all = append(all, vs...)
				if i == 2 && one.Mutations[0].Model == "list" {
					b.untilRead()
				}
			}
			return all, nil
		}
	}, []string{"a_push_is_seen_whole", "units_beside_units"}, nil},
}

func codeOf(v tidemark.Verdict) tidemark.Code {
	if v.Err == nil {
		return ""
	}
	return v.Err.Code
}

func everything(p *tidemark.Predicate) *tidemark.Predicate {
	every, err := tidemark.Where{}.Compile(p.Schema())
	if err != nil {
		panic(err)
	}
	return every
}

var failedLog = regexp.MustCompile(`--- FAIL: TestLogMistake/(\S+)`)

const logMistakeEnv = "DRIVERTEST_LOG_MISTAKE"

// TestLogMistake runs the suite on one mistake; it is for TestTheSuiteFindsMistakesOfLogs.
func TestLogMistake(t *testing.T) {
	m, ok := logMistakes[os.Getenv(logMistakeEnv)]
	if !ok {
		return // not asked for
	}
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		b := &brokenLog{Driver: memory.New(drivertest.Schemas()...)}
		m.breaks(b)
		return drivertest.Harness{Driver: b, RunInTx: b.RunInTx, Put: func(_ testing.TB, model string, row tidemark.Row, meta tidemark.Meta) {
			b.Put(model, row, meta)
		}}
	})
}

const unheard = "changes_that_nobody_heard_of"

// TestTheSuiteFindsMistakesOfLogs runs the suite on logs that are broken, without checks of
// values, which take long and have nothing to do with it.
func TestTheSuiteFindsMistakesOfLogs(t *testing.T) {
	t.Parallel()
	for name, m := range logMistakes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out []byte
			found := untilFound(m.want, func() (found []string) {
				cmd := exec.Command(os.Args[0], "-test.run=^TestLogMistake$", "-test.skip=^TestLogMistake$/^(where|large_texts|hostile_texts|values_come_back)$")
				cmd.Env = append(os.Environ(), logMistakeEnv+"="+name)
				out, _ = cmd.CombinedOutput()
				for _, f := range failedLog.FindAllStringSubmatch(string(out), -1) {
					found = append(found, f[1])
				}
				return found
			})
			for _, w := range m.want {
				if !slices.Contains(found, w) {
					t.Errorf("check %s does not find it; found by %q", w, found)
				}
			}
			for _, f := range found {
				if f == unheard { // its writes without a witness have one in some of these drivers
					continue
				}
				if !slices.ContainsFunc(slices.Concat(m.want, m.may), func(pattern string) bool { ok, _ := path.Match(pattern, f); return ok }) {
					t.Errorf("check %s fails as well\n%.2000s", f, out)
				}
			}
		})
	}
}
