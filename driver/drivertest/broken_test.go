package drivertest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/drivertest"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// broken is the memory driver with one mistake.
type broken struct {
	*memory.Driver
	write    func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error)
	find     func(d *memory.Driver, ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error)
	snapshot func(s *tidemark.Snapshot)
	models   func(s []*tidemark.Schema) []*tidemark.Schema
	witness  func(w tidemark.Witness) tidemark.Witness
	commit   bool // a transaction is committed whatever its function says
}

func (b broken) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if b.witness != nil {
		w = b.witness(w)
	}
	return b.Driver.WriteTx(ctx, ms, w)
}

func (b broken) RunInTx(ctx context.Context, fn func(context.Context) error) (err error) {
	inner := b.Driver.RunInTx(ctx, func(ctx context.Context) error {
		err = fn(ctx)
		if b.commit {
			return nil
		}
		return err
	})
	return cmp.Or(err, inner)
}

// deaf is a witness to whom nobody says how it ends, hasty one that hears of it too early.
type (
	deaf  struct{ tidemark.Witness }
	hasty struct{ tidemark.Witness }
)

func (deaf) Ended(bool) {}

func (h hasty) Decided(from int, outs []tidemark.Outcome) {
	h.Witness.Decided(from, outs)
	h.Ended(true)
}

func (b broken) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	if b.write == nil {
		return b.Driver.Write(ctx, ms)
	}
	return b.write(b.Driver, ctx, ms)
}

func (b broken) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	if b.find == nil {
		return b.Driver.Find(ctx, p, limit)
	}
	return b.find(b.Driver, ctx, p, limit)
}

func (b broken) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	s, err := b.Driver.Snapshot(ctx, p, uids)
	if err == nil && b.snapshot != nil {
		b.snapshot(s)
	}
	return s, err
}

func (b broken) Models() []*tidemark.Schema {
	if b.models == nil {
		return b.Driver.Models()
	}
	return b.models(b.Driver.Models())
}

// clause is a where as an object, for mistakes about it.
type clause map[string]json.RawMessage

// finds is a driver that finds by another clause.
func finds(change func(clause)) func(d *memory.Driver, ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	return func(d *memory.Driver, ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
		return d.Find(ctx, otherwise(p, change), limit)
	}
}

// otherwise is p as change leaves it.
func otherwise(p *tidemark.Predicate, change func(clause)) *tidemark.Predicate {
	var c clause
	if err := json.Unmarshal([]byte(p.Key()), &c); err != nil {
		panic(err)
	}
	change(c)
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	if p, err = tidemark.ParseWhere(p.Schema(), raw); err != nil {
		panic(err)
	}
	return p
}

func without(c clause) { delete(c, "$or") }

func firstOnly(c clause) {
	var list []json.RawMessage
	if json.Unmarshal(c["$or"], &list) == nil && len(list) > 0 {
		c["$or"], _ = json.Marshal(list[:1])
	}
}

func alternativesOnly(c clause) {
	for name := range c {
		if name != "$or" && c["$or"] != nil {
			delete(c, name)
		}
	}
}

func firstOfList(c clause) {
	lists(c, func(values []json.RawMessage) []json.RawMessage { return values[:1] })
}

func notNull(c clause) {
	lists(c, func(values []json.RawMessage) []json.RawMessage {
		return slices.DeleteFunc(values, func(v json.RawMessage) bool { return string(v) == "null" })
	})
}

// lists changes the lists of the clause's own members.
func lists(c clause, change func([]json.RawMessage) []json.RawMessage) {
	for name, value := range c {
		var list struct{ In []json.RawMessage }
		if json.Unmarshal(value, &list) == nil && len(list.In) > 0 {
			c[name], _ = json.Marshal(map[string]any{"in": change(list.In)})
		}
	}
}

// mistakes are drivers that break a rule, with the checks that must find it.
var mistakes = map[string]struct {
	b    broken
	want []string
}{
	"an equal stamp wins": {broken{write: func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
		for i := range ms {
			if ms[i].Stamp != 0 && ms[i].Op == tidemark.Update {
				ms[i].Stamp++
			}
		}
		return d.Write(ctx, ms)
	}}, []string{"ties", "update_over_updated", "update_over_created", "microseconds"}},
	"stamps are cut to milliseconds": {broken{write: func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
		for i := range ms {
			if ms[i].Stamp > 1e15 {
				ms[i].Stamp -= ms[i].Stamp % 1000
			}
		}
		return d.Write(ctx, ms)
	}}, []string{"microseconds"}},
	"the row before is forgotten": {broken{write: func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
		outs, err := d.Write(ctx, ms)
		for i := range outs {
			outs[i].Before = nil
		}
		return outs, err
	}}, []string{"delete_over_created", "update_over_updated", "the_same_row_many_times"}},
	"one refusal ends the batch": {broken{write: func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
		for i := range ms {
			if outs, err := d.Write(ctx, ms[i:i+1]); err != nil || outs[0].Err != nil {
				all := make([]tidemark.Outcome, len(ms))
				for k := range all {
					all[k].Err = tidemark.NewError(tidemark.CodeInternal, "stopped")
				}
				return all, err
			}
		}
		return make([]tidemark.Outcome, len(ms)), nil
	}}, []string{"outcomes_stand_in_place", "one_of_a_thousand"}},
	"the limit is ignored": {broken{find: func(d *memory.Driver, ctx context.Context, p *tidemark.Predicate, _ int) ([]tidemark.Row, error) {
		return d.Find(ctx, p, 0)
	}}, []string{"find"}},
	"the clause is ignored": {broken{find: func(d *memory.Driver, ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
		all, err := tidemark.Where{}.Compile(p.Schema())
		if err != nil {
			return nil, err
		}
		return d.Find(ctx, all, limit)
	}}, []string{"find", "where"}},
	"alternatives are ignored":           {broken{find: finds(without)}, []string{"where", "lists_and_alternatives"}},
	"the first alternative is the only":  {broken{find: finds(firstOnly)}, []string{"where", "lists_and_alternatives"}},
	"members beside alternatives do not": {broken{find: finds(alternativesOnly)}, []string{"where", "lists_and_alternatives"}},
	"a list is its first value":          {broken{find: finds(firstOfList)}, []string{"where", "lists_and_alternatives"}},
	"null in a list is forgotten":        {broken{find: finds(notNull)}, []string{"where", "lists_and_alternatives"}},
	"a snapshot has no others":           {broken{snapshot: func(s *tidemark.Snapshot) { s.Others = nil }}, []string{"snapshot", "delete_over_a_tombstone"}},
	"a snapshot tells one twice": {broken{snapshot: func(s *tidemark.Snapshot) {
		s.Others = append(s.Others, s.Selected...)
	}}, []string{"snapshot"}},
	"a witness does not hear of the end": {broken{witness: func(w tidemark.Witness) tidemark.Witness { return deaf{w} }},
		[]string{"a_transaction_commits_whole", "a_rollback_leaves_nothing", "witnesses_of_racing_writers"}},
	"a witness hears of an end that is none": {broken{witness: func(w tidemark.Witness) tidemark.Witness { return hasty{w} }},
		[]string{"a_transaction_commits_whole", "a_rollback_leaves_nothing", "a_transaction_inside_another"}},
	"what failed is committed": {broken{commit: true}, []string{"a_rollback_leaves_nothing", "a_transaction_inside_another"}},
	"models in another order": {broken{models: func(s []*tidemark.Schema) []*tidemark.Schema {
		s[0], s[1] = s[1], s[0]
		return s
	}}, []string{"models"}},
	"texts are trimmed": {broken{write: func(d *memory.Driver, ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
		for i := range ms {
			ms[i].Data = tidemark.Row(strings.ReplaceAll(string(ms[i].Data), ` "`, `"`))
		}
		return d.Write(ctx, ms)
	}}, []string{"values_come_back", "hostile_texts"}},
}

const mistakeEnv = "DRIVERTEST_MISTAKE"

// TestMistake runs the suite on one mistake; it is for TestTheSuiteFindsMistakes.
func TestMistake(t *testing.T) {
	m, ok := mistakes[os.Getenv(mistakeEnv)]
	if !ok {
		return // not asked for
	}
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		b := m.b
		b.Driver = memory.New(drivertest.Schemas()...)
		return drivertest.Harness{Driver: b, RunInTx: b.RunInTx, Put: func(_ testing.TB, model string, row tidemark.Row, meta tidemark.Meta) {
			b.Put(model, row, meta)
		}}
	})
}

var failed = regexp.MustCompile(`--- FAIL: TestMistake/(\S+)`)

// TestTheSuiteFindsMistakes runs the suite, in processes of their own since it
// must fail, on drivers that are broken.
func TestTheSuiteFindsMistakes(t *testing.T) {
	t.Parallel()
	for name, m := range mistakes {
		found := untilFound(m.want, func() (found []string) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMistake$")
			cmd.Env = append(os.Environ(), mistakeEnv+"="+name)
			out, _ := cmd.CombinedOutput()
			for _, f := range failed.FindAllStringSubmatch(string(out), -1) {
				found = append(found, f[1])
			}
			return found
		})
		for _, w := range m.want {
			if !slices.Contains(found, w) {
				t.Errorf("%s: check %s does not find it; found by %v", name, w, found)
			}
		}
	}
}
