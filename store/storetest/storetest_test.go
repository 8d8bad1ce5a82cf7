package storetest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a testing.TB that keeps what is said to it.
type recorder struct {
	context.Context
	mu       sync.Mutex
	said     []string
	cleanups []func()
}

func (r *recorder) Helper()            {}
func (r *recorder) FailNow()           { runtime.Goexit() }
func (r *recorder) Cleanup(fn func())  { r.cleanups = append(r.cleanups, fn) }
func (r *recorder) Failed() bool       { return len(r.said) > 0 }
func (r *recorder) asTB() storetest.TB { return tb{r} }
func (r *recorder) Errorf(f string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(f, a...))
}

// tb gives the recorder's context under testing.TB's name.
type tb struct{ *recorder }

func (t tb) Context() context.Context { return t.recorder.Context }

// broken checks every rule against stores made by wrap, and returns the rules that failed.
func broken(t *testing.T, wrap func(*memory.Store) tidemark.Store) []string {
	var names []string
	for _, rule := range storetest.Rules() {
		ctx, cancel := context.WithCancel(t.Context())
		r := &recorder{Context: ctx}
		var s *memory.Store
		h := storetest.Harness{Reopen: true, Open: func() (tidemark.Store, error) {
			if s == nil {
				s = memory.New()
			} else {
				s = s.Reopen()
			}
			return wrap(s), nil
		}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			storetest.Check(r.asTB(), rule, h)
		}()
		<-done
		cancel()
		for _, fn := range slices.Backward(r.cleanups) {
			fn()
		}
		if r.Failed() {
			names = append(names, rule.Name)
			if !strings.Contains(r.said[0], rule.Says) {
				t.Errorf("%s does not print its rule: %s", rule.Name, r.said[0])
			}
		}
	}
	return names
}

// wrapped is a store whose transactions are wrapped; the others pass.
type wrapped struct {
	tidemark.Store
	tx     func(tidemark.StoreTx) tidemark.StoreTx
	find   func([]tidemark.Row) []tidemark.Row
	clause func(map[string]json.RawMessage) // changes what is found by
	update func(ctx context.Context, fn func(tidemark.StoreTx) error) error
	close  func() error
}

func (w wrapped) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return w.Store.View(ctx, func(tx tidemark.StoreTx) error { return fn(w.wrap(tx)) })
}

func (w wrapped) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if w.update != nil {
		return w.update(ctx, fn)
	}
	return w.Store.Update(ctx, func(tx tidemark.StoreTx) error { return fn(w.wrap(tx)) })
}

func (w wrapped) wrap(tx tidemark.StoreTx) tidemark.StoreTx {
	if w.tx == nil {
		return tx
	}
	return w.tx(tx)
}

func (w wrapped) Find(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
	if w.clause != nil {
		p = otherwise(p, w.clause)
	}
	rows, err := w.Store.Find(ctx, p)
	if w.find != nil {
		rows = w.find(rows)
	}
	return rows, err
}

func (w wrapped) Close() error {
	if w.close != nil {
		return w.close()
	}
	return w.Store.Close()
}

// otherwise is p as change leaves its members.
func otherwise(p *tidemark.Predicate, change func(map[string]json.RawMessage)) *tidemark.Predicate {
	var c map[string]json.RawMessage
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

func withoutAlternatives(c map[string]json.RawMessage) { delete(c, "$or") }

func alternativesOnly(c map[string]json.RawMessage) {
	for name := range c {
		if name != "$or" && c["$or"] != nil {
			delete(c, name)
		}
	}
}

func firstAlternative(c map[string]json.RawMessage) {
	var list []json.RawMessage
	if json.Unmarshal(c["$or"], &list) == nil && len(list) > 0 {
		c["$or"], _ = json.Marshal(list[:1])
	}
}

func firstOfList(c map[string]json.RawMessage) {
	for name, value := range c {
		var list struct{ In []json.RawMessage }
		if json.Unmarshal(value, &list) == nil && len(list.In) > 0 {
			c[name] = list.In[0]
		}
	}
}

// otherClause reads by another clause.
type otherClause struct {
	tidemark.StoreTx
	held, unseen func(map[string]json.RawMessage)
}

func (x otherClause) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	if x.held != nil {
		p = otherwise(p, x.held)
	}
	return x.StoreTx.Held(p)
}

func (x otherClause) Unseen(p *tidemark.Predicate, pass int64) ([]string, error) {
	if x.unseen != nil {
		p = otherwise(p, x.unseen)
	}
	return x.StoreTx.Unseen(p, pass)
}

// The broken transactions: each does one thing otherwise.
type (
	unordered    struct{ tidemark.StoreTx } // Records come sorted
	losesBase    struct{ tidemark.StoreTx } // Put takes Base for what is visible
	prunesEdge   struct{ tidemark.StoreTx } // Prune takes the edge too
	leavesHoles  struct{ tidemark.StoreTx } // Outbox counts from after, included
	forgetsEmpty struct{ tidemark.StoreTx } // an empty value is none
	anyPrefix    struct{ tidemark.StoreTx } // Entries ignores its prefix
	hidesUID     struct{ tidemark.StoreTx } // Held gives no uid where there is no metadata
	pendingOfAll struct{ tidemark.StoreTx } // Pending ignores the model
	keepsSettled struct{ tidemark.StoreTx } // Dequeue removes the first number only
	forgetsSeen  struct{ tidemark.StoreTx } // Put does not keep Seen
	losesUnit    struct{ tidemark.StoreTx } // Enqueue does not keep Unit
	countsGiven  struct{ tidemark.StoreTx } // Queued counts the numbers that were given
	oldest       struct{ tidemark.StoreTx } // Newest is the first mutation's
	seenTooLate  struct{ tidemark.StoreTx } // Unseen takes the pass itself too
	amendsFirst  struct{ tidemark.StoreTx } // Amend amends the first mutation only
	amendsStamp  struct{ tidemark.StoreTx } // Amend leaves the Unit
)

func (x unordered) Records(model string, uids []string) ([]tidemark.Record, error) {
	return x.StoreTx.Records(model, slices.Sorted(slices.Values(uids)))
}

func (x losesBase) Put(model string, recs []tidemark.Record) error {
	recs = slices.Clone(recs)
	for i := range recs {
		if recs[i].Base != nil && recs[i].Row != nil {
			recs[i].Base = recs[i].Row
		}
	}
	return x.StoreTx.Put(model, recs)
}

func (x prunesEdge) Prune(model string, before tidemark.Stamp) error {
	return x.StoreTx.Prune(model, before+1)
}

func (x leavesHoles) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	return x.StoreTx.Outbox(after-1, limit)
}

func (x forgetsEmpty) Load(key string) ([]byte, error) {
	v, err := x.StoreTx.Load(key)
	if len(v) == 0 {
		v = nil
	}
	return v, err
}

func (x anyPrefix) Entries(string) ([]tidemark.Entry, error) { return x.StoreTx.Entries("") }

func (x hidesUID) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	metas, err := x.StoreTx.Held(p)
	for i := range metas {
		if metas[i].T() == 0 {
			metas[i] = tidemark.Meta{}
		}
	}
	return metas, err
}

func (x pendingOfAll) Pending(_ string, uids []string) ([]tidemark.Mutation, error) {
	ms, err := x.StoreTx.Outbox(0, 0)
	return slices.DeleteFunc(ms, func(m tidemark.Mutation) bool { return !slices.Contains(uids, m.UID) }), err
}

func (x keepsSettled) Dequeue(ns []int64) error {
	return x.StoreTx.Dequeue(ns[:min(len(ns), 1)])
}

func (x forgetsSeen) Put(model string, recs []tidemark.Record) error {
	recs = slices.Clone(recs)
	for i := range recs {
		recs[i].Seen = min(recs[i].Seen, 0)
	}
	return x.StoreTx.Put(model, recs)
}

func (x losesUnit) Enqueue(ms []tidemark.Mutation) error {
	without := slices.Clone(ms)
	for i := range without {
		without[i].Unit = 0
	}
	err := x.StoreTx.Enqueue(without)
	for i := range ms {
		ms[i].N = without[i].N
	}
	return err
}

func (x countsGiven) Queued() (int, int64, error) {
	_, highest, err := x.StoreTx.Queued()
	return int(highest), highest, err
}

func (x oldest) Newest(model, uid string) (tidemark.Stamp, error) {
	ms, err := x.StoreTx.Pending(model, []string{uid})
	if err != nil || len(ms) == 0 {
		return 0, err
	}
	return ms[0].Stamp, nil
}

func (x seenTooLate) Unseen(p *tidemark.Predicate, pass int64) ([]string, error) {
	return x.StoreTx.Unseen(p, pass+1)
}

func (x amendsFirst) Amend(ms []tidemark.Mutation) error {
	return x.StoreTx.Amend(ms[:min(len(ms), 1)])
}

func (x amendsStamp) Amend(ms []tidemark.Mutation) error {
	ms = slices.Clone(ms)
	for i := range ms {
		ms[i].Unit = 0
	}
	return x.StoreTx.Amend(ms)
}

// defect is a way to break a store, and the rules that find it.
type defect struct {
	wrap func(*memory.Store) tidemark.Store
	want []string
}

// precise are the defects of which it is known that no other rule finds them.
func precise() map[string]defect {
	tx := func(wrap func(tidemark.StoreTx) tidemark.StoreTx) func(*memory.Store) tidemark.Store {
		return func(s *memory.Store) tidemark.Store { return wrapped{Store: s, tx: wrap} }
	}
	finds := func(change func(map[string]json.RawMessage)) func(*memory.Store) tidemark.Store {
		return func(s *memory.Store) tidemark.Store { return wrapped{Store: s, clause: change} }
	}
	lists := []string{"find/what Match selects", "find/lists and alternatives"}
	return map[string]defect{
		"nothing": {func(s *memory.Store) tidemark.Store { return s }, nil},
		"records out of order": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return unordered{x} }),
			[]string{"records/order", "records/unknown"}},
		"base lost": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return losesBase{x} }),
			[]string{"records/put comes back whole", "records/refused", "find/what Match selects", "find/after a change", "find/held", "find/unseen", "outbox/in any order"}},
		"prune too much": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return prunesEdge{x} }), []string{"records/prune"}},
		"outbox from after": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return leavesHoles{x} }),
			[]string{"outbox/pages"}},
		"empty value lost":   {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return forgetsEmpty{x} }), []string{"entries/empty"}},
		"prefix ignored":     {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return anyPrefix{x} }), []string{"entries/prefix"}},
		"held without uid":   {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return hidesUID{x} }), []string{"find/what Match selects", "find/held", "outbox/in any order"}},
		"pending of another": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return pendingOfAll{x} }), []string{"outbox/pending", "outbox/in any order"}},
		"dequeues one": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return keepsSettled{x} }),
			[]string{"outbox/dequeue", "outbox/many", "outbox/in any order"}},
		"seen lost": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return forgetsSeen{x} }),
			[]string{"records/put comes back whole", "find/what Match selects", "find/unseen"}},
		"counts what was given": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return countsGiven{x} }), []string{"outbox/queued"}},
		"the oldest for the newest": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return oldest{x} }),
			[]string{"outbox/newest", "outbox/in any order"}},
		"unit lost": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return losesUnit{x} }), []string{"outbox/whole"}},
		"unseen takes the pass": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return seenTooLate{x} }),
			[]string{"find/what Match selects", "find/unseen"}},
		"amends one": {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return amendsFirst{x} }), []string{"outbox/many"}},
		"unit kept":  {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return amendsStamp{x} }), []string{"outbox/amend"}},
		"found in disorder": {func(s *memory.Store) tidemark.Store {
			return wrapped{Store: s, find: func(rows []tidemark.Row) []tidemark.Row { slices.Reverse(rows); return rows }}
		}, []string{"find/visible rows only", "find/sorted", "find/missing is null", "find/wrong kind is null", "find/numbers exactly",
			"find/text by bytes", "find/instants", "find/what Match selects", "find/lists and alternatives", "find/by uid", "schema/other kind"}},
		"alternatives are ignored":          {finds(withoutAlternatives), lists},
		"members beside alternatives":       {finds(alternativesOnly), lists},
		"the first alternative is the only": {finds(firstAlternative), lists},
		"a list is its first value":         {finds(firstOfList), lists},
		"held without alternatives":         {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return otherClause{x, withoutAlternatives, nil} }), lists},
		"held by the first value":           {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return otherClause{x, firstOfList, nil} }), lists},
		"unseen without alternatives":       {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return otherClause{x, nil, withoutAlternatives} }), lists},
		"unseen by the first value":         {tx(func(x tidemark.StoreTx) tidemark.StoreTx { return otherClause{x, nil, firstOfList} }), lists},
		"errors commit": {func(s *memory.Store) tidemark.Store {
			return wrapped{Store: s, update: func(ctx context.Context, fn func(tidemark.StoreTx) error) (err error) {
				if e := s.Update(ctx, func(tx tidemark.StoreTx) error { err = fn(tx); return nil }); e != nil {
					return e
				}
				return err
			}}
		}, []string{"transactions/rolled back", "outbox/no gap after a rollback", "outbox/in any order"}},
		"the context is forgotten": {func(s *memory.Store) tidemark.Store {
			return wrapped{Store: s, update: func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return s.Update(context.WithoutCancel(ctx), fn)
			}}
		}, []string{"transactions/context ended inside"}},
		"close does not wait": {func(s *memory.Store) tidemark.Store {
			return wrapped{Store: s, close: func() error { s.Reopen(); return nil }}
		}, []string{"close/waits"}},
	}
}

// TestTheSuiteFindsWhatIsBroken: for each defect, the rules about it fail, and no other.
func TestTheSuiteFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	for name, c := range precise() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := broken(t, c.wrap)
			slices.Sort(got)
			if want := slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
				t.Errorf("failed %q\nwant   %q", got, want)
			}
		})
	}
}

func TestThereAreFiftyRules(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range storetest.Rules() {
		if seen[r.Name] || r.Says == "" || !strings.Contains(r.Name, "/") {
			t.Errorf("rule %q is not named or stands twice", r.Name)
		}
		seen[r.Name] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d rules", len(seen))
	}
}
