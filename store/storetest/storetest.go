// Package storetest is what every implementation of [tidemark.Store] must pass:
// a table of rules, each with the words of the contract that it checks.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Harness {
//			path := filepath.Join(t.TempDir(), "test.db")
//			open := func() (tidemark.Store, error) { return mystore.Open(path) }
//			return storetest.Harness{Open: open, Reopen: true}
//		})
//	}
package storetest

import (
	"context"
	"slices"
	"strconv"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// Harness is how the suite gets at the stores of one test.
type Harness struct {
	// Open opens the store, empty the first time. Required.
	Open func() (tidemark.Store, error)

	// Reopen says that Open may be called again once the store was closed, and
	// then gives what was durable.
	Reopen bool

	// Another says that Open may be called while the store is open, as another
	// process would.
	Another bool

	// Serial says that View and Update wait for one another, as they must on one connection.
	Serial bool
}

// Rule is one rule of the contract.
type Rule struct {
	// Name is the topic and a short name, as in outbox/numbers are never reused.
	Name string
	// Says is the rule in words; it is printed when the rule is broken.
	Says string

	check                     func(*T)
	reopen, another, parallel bool // what the harness must offer
}

// Rules returns all rules, by topic.
func Rules() []Rule {
	return slices.Concat(recordRules, findRules, outboxRules, entryRules, transactionRules, concurrencyRules, closeRules, schemaRules)
}

// Run checks every rule against a fresh store each. Rules that the harness cannot
// show (see [Harness]) are left out.
func Run(t *testing.T, setup func(t *testing.T) Harness) {
	t.Helper()
	for _, r := range Rules() {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			Check(t, r, setup(t))
		})
	}
}

// TB is the part of testing.TB that the suite uses, so that the suite itself can be tested.
type TB interface {
	// Context ends with the test.
	Context() context.Context
	// Cleanup has a function called when the test is over, the last first.
	Cleanup(func())
	// Errorf fails the test, which goes on.
	Errorf(format string, args ...any)
	// FailNow fails the test and ends it.
	FailNow()
	// Failed reports whether it has failed.
	Failed() bool
	// Helper leaves the calling function out of where a failure is said to be.
	Helper()
}

// Check checks one rule against the store that h opens.
func Check(t TB, r Rule, h Harness) {
	t.Helper()
	if r.reopen && !h.Reopen || r.another && !h.Another || r.parallel && h.Serial {
		return
	}
	c := &T{TB: t, harness: h, rule: r}
	c.store = c.open()
	r.check(c)
}

// T is one check in progress.
type T struct {
	TB
	harness Harness
	rule    Rule
	store   tidemark.Store
}

// fatalf ends the check, with the rule that was broken.
func (t *T) fatalf(format string, args ...any) {
	t.Helper()
	t.Errorf("rule: %s\n"+format, append([]any{t.rule.Says}, args...)...)
	t.FailNow()
}

func (t *T) must(err error) {
	t.Helper()
	if err != nil {
		t.fatalf("unexpected error: %v", err)
	}
}

// open opens the store, and closes it when the check ends.
func (t *T) open() tidemark.Store {
	t.Helper()
	s, err := t.harness.Open()
	t.must(err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen closes the store and opens it again.
func (t *T) reopen() {
	t.Helper()
	t.must(t.store.Close())
	t.store = t.open()
	t.must(t.store.Declare(t.Context(), item))
}

func (t *T) declare() {
	t.Helper()
	t.must(t.store.Declare(t.Context(), item))
}

func (t *T) update(fn func(tx tidemark.StoreTx) error) {
	t.Helper()
	t.must(t.store.Update(t.Context(), fn))
}

func (t *T) view(fn func(tx tidemark.StoreTx) error) {
	t.Helper()
	t.must(t.store.View(t.Context(), fn))
}

func (t *T) put(recs ...tidemark.Record) {
	t.Helper()
	t.update(func(tx tidemark.StoreTx) error { return tx.Put("item", recs) })
}

func (t *T) records(uids ...string) (recs []tidemark.Record) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		recs, err = tx.Records("item", uids)
		return err
	})
	if len(recs) != len(uids) {
		t.fatalf("%d records for %d uids", len(recs), len(uids))
	}
	return recs
}

func (t *T) find(where tidemark.Where) []string {
	t.Helper()
	rows, err := t.store.Find(t.Context(), t.compile(where))
	t.must(err)
	return uidsOf(rows)
}

func (t *T) held(where tidemark.Where) (metas []tidemark.Meta) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		metas, err = tx.Held(t.compile(where))
		return err
	})
	return metas
}

func (t *T) unseen(where tidemark.Where, pass int64) (uids []string) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		uids, err = tx.Unseen(t.compile(where), pass)
		return err
	})
	return uids
}

func (t *T) compile(where tidemark.Where) *tidemark.Predicate {
	t.Helper()
	p, err := where.Compile(item)
	t.must(err)
	return p
}

func (t *T) enqueue(ms ...tidemark.Mutation) []tidemark.Mutation {
	t.Helper()
	t.update(func(tx tidemark.StoreTx) error { return tx.Enqueue(ms) })
	return ms
}

func (t *T) outbox(after int64, limit int) (ms []tidemark.Mutation) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		ms, err = tx.Outbox(after, limit)
		return err
	})
	return ms
}

func (t *T) pending(model string, uids ...string) (ms []tidemark.Mutation) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		ms, err = tx.Pending(model, uids)
		return err
	})
	return ms
}

func (t *T) amend(ms ...tidemark.Mutation) {
	t.Helper()
	t.update(func(tx tidemark.StoreTx) error { return tx.Amend(ms) })
}

func (t *T) dequeue(ns ...int64) {
	t.Helper()
	t.update(func(tx tidemark.StoreTx) error { return tx.Dequeue(ns) })
}

func (t *T) save(key string, value []byte) {
	t.Helper()
	t.update(func(tx tidemark.StoreTx) error { return tx.Save(key, value) })
}

func (t *T) load(key string) (value []byte) {
	t.Helper()
	t.view(func(tx tidemark.StoreTx) (err error) {
		value, err = tx.Load(key)
		return err
	})
	return value
}

// item is the model that the checks work with; qty, price and due have an index, name and done have none.
var item = mustSchema("item",
	tidemark.Field{Name: "name", Kind: tidemark.Text},
	tidemark.Field{Name: "qty", Kind: tidemark.Integer, Indexed: true},
	tidemark.Field{Name: "price", Kind: tidemark.Double, Indexed: true},
	tidemark.Field{Name: "done", Kind: tidemark.Bool},
	tidemark.Field{Name: "due", Kind: tidemark.Timestamp, Indexed: true},
	tidemark.Field{Name: "tag", Kind: tidemark.Text, Indexed: true})

func mustSchema(name string, fields ...tidemark.Field) *tidemark.Schema {
	s, err := tidemark.NewSchema(name, fields)
	if err != nil {
		panic(err)
	}
	return s
}

// synced returns the record of a row that is as the server told it. members are the JSON members after uid.
func synced(uid, members string) tidemark.Record {
	r := row(uid, members)
	return tidemark.Record{UID: uid, Row: r, Base: r, Meta: tidemark.Meta{UID: uid, CreatedAt: 1_000_000}}
}

func row(uid, members string) tidemark.Row {
	b := append([]byte(`{"uid":`), tidemark.AppendString(nil, uid)...)
	if members != "" {
		b = append(append(b, ','), members...)
	}
	return append(b, '}')
}

// tombstone returns the record of a row that was deleted.
func tombstone(uid string, at tidemark.Stamp) tidemark.Record {
	return tidemark.Record{UID: uid, Meta: tidemark.Meta{UID: uid, CreatedAt: 1, DeletedAt: at}}
}

func mutation(uid string) tidemark.Mutation {
	return tidemark.Mutation{Model: "item", UID: uid, Op: tidemark.Update, Data: tidemark.Row(`{"name":"n"}`), Stamp: 7}
}

func uidsOf(rows []tidemark.Row) []string {
	uids := make([]string, len(rows))
	for i, r := range rows {
		uids[i] = r.UID()
	}
	return uids
}

func numbers(ms []tidemark.Mutation) []int64 {
	ns := make([]int64, len(ms))
	for i, m := range ms {
		ns[i] = m.N
	}
	return ns
}

func sameRecord(a, b tidemark.Record) bool {
	return a.UID == b.UID && string(a.Row) == string(b.Row) && string(a.Base) == string(b.Base) &&
		(a.Row == nil) == (b.Row == nil) && (a.Base == nil) == (b.Base == nil) && a.Meta == b.Meta && a.Pending == b.Pending && a.Seen == b.Seen
}

func sameMutation(a, b tidemark.Mutation) bool {
	return a.N == b.N && a.Unit == b.Unit && a.Model == b.Model && a.UID == b.UID && a.Op == b.Op && a.Stamp == b.Stamp &&
		string(a.Data) == string(b.Data) && (a.Data == nil) == (b.Data == nil)
}

// number returns n names that sort as they are numbered.
func number(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = "u" + strconv.Itoa(100_000+i)
	}
	return names
}
