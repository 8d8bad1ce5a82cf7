package storetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

// unproven are the rules that no broken store finds yet, so that nobody knows whether they
// find anything. The list may only shrink.
var unproven = []string{
	// The broken stores are in memory, which no other process opens.
	"close/twice opened",
	"concurrency/two stores exclude each other",
	"concurrency/waiting for another store ends with the context",
	"schema/another store's",
}

// TestEveryRuleFindsSomething: a rule that no broken store breaks may be no rule.
func TestEveryRuleFindsSomething(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, c := range precise() {
		for _, name := range c.want {
			found[name] = true
		}
	}
	for _, c := range defects {
		for _, name := range c.want {
			found[name] = true
		}
	}
	for _, r := range storetest.Rules() {
		switch listed := slices.Contains(unproven, r.Name); {
		case !found[r.Name] && !listed:
			t.Errorf("no broken store breaks rule %q", r.Name)
		case found[r.Name] && listed:
			t.Errorf("rule %q is broken by a store, and goes from the list", r.Name)
		}
		delete(found, r.Name)
	}
	for name := range found {
		t.Errorf("there is no rule %q", name)
	}
	for _, name := range unproven {
		if !slices.ContainsFunc(storetest.Rules(), func(r storetest.Rule) bool { return r.Name == name }) {
			t.Errorf("there is no rule %q", name)
		}
	}
}

// TestTheSuiteFindsDefects: each defect is found by the rules about it, and perhaps by others.
func TestTheSuiteFindsDefects(t *testing.T) {
	t.Parallel()
	for name, c := range defects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			missed := func(got []string) bool {
				return slices.ContainsFunc(c.want, func(rule string) bool { return !slices.Contains(got, rule) })
			}
			got := broken(t, c.wrap)
			for n := 1; n < 5 && missed(got); n++ { // what comes of two at once is found when they happen to meet
				got = append(got, broken(t, c.wrap)...)
			}
			for _, rule := range c.want {
				if !slices.Contains(got, rule) {
					t.Errorf("rule %q did not find it; found by %q", rule, got)
				}
			}
		})
	}
}

// faulty is a store with a fault in what is not nil.
type faulty struct {
	*memory.Store
	declare func(ctx context.Context, s *tidemark.Schema) error
	find    func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error)
	get     func(ctx context.Context, model, uid string) (tidemark.Row, error)
	view    func(ctx context.Context, fn func(tidemark.StoreTx) error) error
	update  func(ctx context.Context, fn func(tidemark.StoreTx) error) error
	close   func() error
}

func (f *faulty) Declare(ctx context.Context, s *tidemark.Schema) error {
	if f.declare != nil {
		return f.declare(ctx, s)
	}
	return f.Store.Declare(ctx, s)
}

func (f *faulty) Find(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
	if f.find != nil {
		return f.find(ctx, p)
	}
	return f.Store.Find(ctx, p)
}

func (f *faulty) Get(ctx context.Context, model, uid string) (tidemark.Row, error) {
	if f.get != nil {
		return f.get(ctx, model, uid)
	}
	return f.Store.Get(ctx, model, uid)
}

func (f *faulty) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if f.view != nil {
		return f.view(ctx, fn)
	}
	return f.Store.View(ctx, fn)
}

func (f *faulty) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if f.update != nil {
		return f.update(ctx, fn)
	}
	return f.Store.Update(ctx, fn)
}

func (f *faulty) Close() error {
	if f.close != nil {
		return f.close()
	}
	return f.Store.Close()
}

// faultyTx is a transaction with a fault in what is not nil.
type faultyTx struct {
	tidemark.StoreTx
	put     func(model string, recs []tidemark.Record) error
	records func(model string, uids []string) ([]tidemark.Record, error)
	held    func(p *tidemark.Predicate) ([]tidemark.Meta, error)
	enqueue func(ms []tidemark.Mutation) error
	outbox  func(after int64, limit int) ([]tidemark.Mutation, error)
	load    func(key string) ([]byte, error)
	save    func(key string, value []byte) error
}

func (x *faultyTx) Put(model string, recs []tidemark.Record) error {
	if x.put != nil {
		return x.put(model, recs)
	}
	return x.StoreTx.Put(model, recs)
}

func (x *faultyTx) Records(model string, uids []string) ([]tidemark.Record, error) {
	if x.records != nil {
		return x.records(model, uids)
	}
	return x.StoreTx.Records(model, uids)
}

func (x *faultyTx) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	if x.held != nil {
		return x.held(p)
	}
	return x.StoreTx.Held(p)
}

func (x *faultyTx) Enqueue(ms []tidemark.Mutation) error {
	if x.enqueue != nil {
		return x.enqueue(ms)
	}
	return x.StoreTx.Enqueue(ms)
}

func (x *faultyTx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	if x.outbox != nil {
		return x.outbox(after, limit)
	}
	return x.StoreTx.Outbox(after, limit)
}

func (x *faultyTx) Load(key string) ([]byte, error) {
	if x.load != nil {
		return x.load(key)
	}
	return x.StoreTx.Load(key)
}

func (x *faultyTx) Save(key string, value []byte) error {
	if x.save != nil {
		return x.save(key, value)
	}
	return x.StoreTx.Save(key, value)
}

// stores breaks a store, txs its transactions; what is kept between transactions is in the closure.
func stores(breaks func(f *faulty)) func(*memory.Store) tidemark.Store {
	return func(s *memory.Store) tidemark.Store {
		f := &faulty{Store: s}
		breaks(f)
		return f
	}
}

func txs(breaks func(x *faultyTx)) func(*memory.Store) tidemark.Store {
	return stores(func(f *faulty) {
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.View(ctx, func(tx tidemark.StoreTx) error { return fn(faultyOf(tx, breaks)) })
		}
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.Update(ctx, func(tx tidemark.StoreTx) error { return fn(faultyOf(tx, breaks)) })
		}
	})
}

func faultyOf(tx tidemark.StoreTx, breaks func(x *faultyTx)) *faultyTx {
	x := &faultyTx{StoreTx: tx}
	breaks(x)
	return x
}

// puts has other records stored than are given.
func puts(change func(x *faultyTx, model string, recs []tidemark.Record) []tidemark.Record) func(*memory.Store) tidemark.Store {
	return txs(func(x *faultyTx) {
		x.put = func(model string, recs []tidemark.Record) error {
			return x.StoreTx.Put(model, change(x, model, slices.Clone(recs)))
		}
	})
}

// rowsBy has the rows of records changed.
func rowsBy(change func(tidemark.Row) tidemark.Row) func(*memory.Store) tidemark.Store {
	return puts(func(_ *faultyTx, _ string, recs []tidemark.Record) []tidemark.Record {
		for i := range recs {
			if recs[i].Check() == nil {
				recs[i].Row, recs[i].Base = change(recs[i].Row), change(recs[i].Base)
			}
		}
		return recs
	})
}

var errOther = errors.New("another error")

// foreign tells of ctx's end by another error.
func foreign(err error) error {
	if errors.Is(err, context.Canceled) {
		return errOther
	}
	return err
}

// defects are broken stores with the rules that must find them.
var defects = map[string]defect{
	"nothing is durable": {func(s *memory.Store) tidemark.Store {
		used := false
		_ = s.View(context.Background(), func(tx tidemark.StoreTx) error {
			_, highest, err := tx.Queued()
			used = highest > 0
			return err
		})
		if used {
			return memory.New()
		}
		return s
	}, []string{"transactions/durable", "outbox/numbers survive reopening", "outbox/queued"}},
	"numbers are given again": {txs(func(x *faultyTx) {
		x.enqueue = func(ms []tidemark.Mutation) error {
			left, err := x.StoreTx.Outbox(0, 0)
			last := int64(0)
			if len(left) > 0 {
				last = left[len(left)-1].N
			}
			err = errors.Join(err, x.StoreTx.Enqueue(ms))
			for i := range ms {
				ms[i].N = last + int64(i) + 1
			}
			return err
		}
	}), []string{"outbox/numbers are never reused", "outbox/numbers survive reopening"}},
	"numbers have gaps": {txs(func(x *faultyTx) {
		x.enqueue = func(ms []tidemark.Mutation) error {
			for i := range ms {
				one := []tidemark.Mutation{ms[i]}
				if err := errors.Join(x.StoreTx.Enqueue(one), x.StoreTx.Dequeue([]int64{one[0].N}), x.StoreTx.Enqueue(one)); err != nil {
					return err
				}
				ms[i].N = one[0].N
			}
			return nil
		}
	}), []string{"outbox/numbered"}},
	"undeclared models are not enqueued": {txs(func(x *faultyTx) {
		x.enqueue = func(ms []tidemark.Mutation) error {
			for _, m := range ms {
				if _, err := x.StoreTx.Records(m.Model, nil); err != nil && strings.HasPrefix(m.Model, "never") {
					return err
				}
			}
			return x.StoreTx.Enqueue(ms)
		}
	}), []string{"outbox/undeclared models"}},
	"mutations are shared": {stores(func(f *faulty) {
		var mu sync.Mutex
		kept := map[int64]tidemark.Row{}
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.outbox = func(after int64, limit int) ([]tidemark.Mutation, error) {
						ms, err := x.StoreTx.Outbox(after, limit)
						mu.Lock()
						defer mu.Unlock()
						for i, m := range ms {
							if kept[m.N] == nil {
								kept[m.N] = m.Data
							}
							ms[i].Data = kept[m.N]
						}
						return ms, err
					}
				}))
			})
		}
	}), []string{"outbox/the caller's"}},
	"updates read what others change": {stores(func(f *faulty) {
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			read := map[string][]byte{}
			_ = f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				es, err := tx.Entries("")
				for _, e := range es {
					read[e.Key] = e.Value
				}
				return err
			})
			for range 10 {
				runtime.Gosched()
			}
			return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.load = func(key string) ([]byte, error) { return read[key], nil }
					x.save = func(key string, value []byte) error {
						read[key] = value
						return x.StoreTx.Save(key, value)
					}
				}))
			})
		}
	}), []string{"concurrency/updates exclude each other"}},
	"Find sees half of an update": {stores(func(f *faulty) {
		f.find = func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
			first, err := f.Store.Find(ctx, p)
			if err != nil || len(first) != 2 {
				return first, err
			}
			for range 1000 {
				second, err := f.Store.Find(ctx, p)
				if err != nil {
					return nil, err
				}
				if len(second) == 2 && !bytes.Equal(first[1], second[1]) {
					return []tidemark.Row{first[0], second[1]}, nil
				}
				runtime.Gosched()
			}
			return first, nil
		}
	}), []string{"concurrency/one state"}},
	"a View reads what is there now": {stores(func(f *faulty) {
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.load = func(key string) (v []byte, err error) {
						err = f.Store.View(ctx, func(now tidemark.StoreTx) (err error) { v, err = now.Load(key); return err })
						return v, err
					}
				}))
			})
		}
	}), []string{"concurrency/undisturbed"}},
	"a transaction reads what was before it": {stores(func(f *faulty) {
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.records = func(model string, uids []string) (recs []tidemark.Record, err error) {
						err = f.Store.View(ctx, func(was tidemark.StoreTx) (err error) { recs, err = was.Records(model, uids); return err })
						return recs, err
					}
					x.held = func(p *tidemark.Predicate) (metas []tidemark.Meta, err error) {
						err = f.Store.View(ctx, func(was tidemark.StoreTx) (err error) { metas, err = was.Held(p); return err })
						return metas, err
					}
				}))
			})
		}
	}), []string{"transactions/reads its own writes", "find/in the transaction"}},
	"what panics is committed": {stores(func(f *faulty) {
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			var p any
			err := f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
				defer func() { p = recover() }()
				return fn(tx)
			})
			if p != nil {
				panic(p)
			}
			return err
		}
	}), []string{"transactions/panic"}},
	"what was written last is hidden": {stores(func(f *faulty) {
		var mu sync.Mutex
		last := map[string]bool{}
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			mu.Lock()
			clear(last)
			mu.Unlock()
			return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.put = func(model string, recs []tidemark.Record) error {
						mu.Lock()
						defer mu.Unlock()
						for _, r := range recs {
							last[r.UID] = true
						}
						return x.StoreTx.Put(model, recs)
					}
				}))
			})
		}
		f.get = func(ctx context.Context, model, uid string) (tidemark.Row, error) {
			r, err := f.Store.Get(ctx, model, uid)
			mu.Lock()
			defer mu.Unlock()
			if last[uid] {
				r = nil
			}
			return r, err
		}
	}), []string{"transactions/visible after", "records/texts"}},
	"writes in a View are lost in silence": {stores(func(f *faulty) {
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.put = func(string, []tidemark.Record) error { return nil }
					x.save = func(string, []byte) error { return nil }
					x.enqueue = func([]tidemark.Mutation) error { return nil }
				}))
			})
		}
	}), []string{"transactions/view does not write", "transactions/over"}},
	"View tells of an error in its own words": {stores(func(f *faulty) {
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			if err := f.Store.View(ctx, fn); err != nil {
				return fmt.Errorf("view: %w", err)
			}
			return nil
		}
	}), []string{"transactions/view's error"}},
	"writes of nothing are refused": {txs(func(x *faultyTx) {
		x.put = func(model string, recs []tidemark.Record) error {
			if len(recs) == 0 {
				return errOther
			}
			return x.StoreTx.Put(model, recs)
		}
	}), []string{"transactions/empty", "records/undeclared"}},
	"the end of a context is another error": {stores(func(f *faulty) {
		f.find = func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
			rows, err := f.Store.Find(ctx, p)
			return rows, foreign(err)
		}
		f.update = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return foreign(f.Store.Update(ctx, fn))
		}
	}), []string{"close/context ended", "concurrency/waiting ends with the context", "transactions/context ended inside"}},
	"View works on after Close": {stores(func(f *faulty) {
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			if err := f.Store.View(ctx, fn); !errors.Is(err, tidemark.ErrClosed) {
				return err
			}
			return nil
		}
	}), []string{"close/ErrClosed"}},
	"the second Close is an error": {stores(func(f *faulty) {
		var once sync.Once
		f.close = func() error {
			err := tidemark.ErrClosed
			once.Do(func() { err = nil; _ = f.Store.Close() })
			return err
		}
	}), []string{"close/idempotent"}},
	"Declare empties the model": {stores(func(f *faulty) {
		f.declare = func(ctx context.Context, s *tidemark.Schema) error {
			if err := f.Store.Declare(ctx, s); err != nil {
				return err
			}
			p, err := tidemark.Where{}.Compile(s)
			if err != nil {
				return err
			}
			return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
				held, err := tx.Held(p)
				for _, m := range held {
					err = errors.Join(err, tx.Put(s.Name(), []tidemark.Record{{UID: m.UID}}))
				}
				return err
			})
		}
	}), []string{"schema/declared again", "schema/members stay", "schema/new field", "schema/other kind", "transactions/durable"}},
	"the first schema stays": {stores(func(f *faulty) {
		var mu sync.Mutex
		first := map[string]*tidemark.Schema{}
		f.declare = func(ctx context.Context, s *tidemark.Schema) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.ContainsAny(s.Name(), ` \`) {
				return tidemark.NewError(tidemark.CodeInvalidData, "a name with a space")
			}
			if first[s.Name()] == nil {
				first[s.Name()] = s
			}
			return f.Store.Declare(ctx, s)
		}
		f.find = func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
			mu.Lock()
			s := first[p.Schema().Name()]
			mu.Unlock()
			if s != nil {
				var err error
				if p, err = tidemark.ParseWhere(s, []byte(p.Key())); err != nil {
					return nil, err
				}
			}
			return f.Store.Find(ctx, p)
		}
	}), []string{"schema/new field", "schema/other kind", "schema/older predicate", "schema/names"}},
	"Declare refuses to be called beside another": {stores(func(f *faulty) {
		var mu sync.Mutex
		f.declare = func(ctx context.Context, s *tidemark.Schema) error {
			if !mu.TryLock() {
				return errOther
			}
			defer mu.Unlock()
			for range 100 {
				runtime.Gosched()
			}
			return f.Store.Declare(ctx, s)
		}
	}), []string{"concurrency/everything at once"}},
	"Find looks at the server's row": {stores(func(f *faulty) {
		f.find = func(ctx context.Context, p *tidemark.Predicate) (rows []tidemark.Row, err error) {
			err = f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				held, err := tx.Held(p)
				for _, m := range held {
					recs, err := tx.Records(p.Schema().Name(), []string{m.UID})
					if err != nil {
						return err
					}
					if recs[0].Row != nil {
						rows = append(rows, recs[0].Row)
					}
				}
				return err
			})
			return rows, err
		}
	}), []string{"find/by the visible row", "find/what Match selects"}},
	"text with a quote is not found": {stores(func(f *faulty) {
		f.find = func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
			if strings.Contains(p.Key(), "'") {
				return nil, errOther
			}
			return f.Store.Find(ctx, p)
		}
	}), []string{"find/values are values"}},
	"rows are shared": {stores(func(f *faulty) {
		var mu sync.Mutex
		kept := map[string]tidemark.Row{}
		f.find = func(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
			rows, err := f.Store.Find(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			for _, r := range rows {
				kept[r.UID()] = r
			}
			return rows, err
		}
		f.get = func(ctx context.Context, model, uid string) (tidemark.Row, error) {
			mu.Lock()
			defer mu.Unlock()
			if kept[uid] != nil {
				return kept[uid], nil
			}
			return f.Store.Get(ctx, model, uid)
		}
	}), []string{"records/the caller's"}},
	"a put keeps what it does not name": {puts(func(x *faultyTx, model string, recs []tidemark.Record) []tidemark.Record {
		for i := range recs {
			was, err := x.StoreTx.Records(model, []string{recs[i].UID})
			if err == nil && recs[i].Meta.IsZero() {
				recs[i].Meta = was[0].Meta
			}
		}
		return recs
	}), []string{"records/put replaces", "records/removed"}},
	"the first of one uid stays": {puts(func(_ *faultyTx, _ string, recs []tidemark.Record) []tidemark.Record {
		seen := map[string]bool{}
		return slices.DeleteFunc(recs, func(r tidemark.Record) bool {
			again := seen[r.UID]
			seen[r.UID] = true
			return again
		})
	}), []string{"records/put of one uid twice"}},
	"a thousand are put at most": {puts(func(_ *faultyTx, _ string, recs []tidemark.Record) []tidemark.Record {
		return recs[:min(len(recs), 1000)]
	}), []string{"records/many"}},
	"rows are written anew": {rowsBy(func(r tidemark.Row) tidemark.Row {
		var v any
		if json.Unmarshal(r, &v) != nil {
			return r
		}
		other, _ := json.Marshal(v)
		return other
	}), []string{"records/texts"}},
	"large rows are cut": {rowsBy(func(r tidemark.Row) tidemark.Row {
		if len(r) > 1<<20 {
			r = tidemark.Row(fmt.Sprintf(`{"uid":%q}`, r.UID()))
		}
		return r
	}), []string{"records/large"}},
	"records are put one by one": {txs(func(x *faultyTx) {
		x.put = func(model string, recs []tidemark.Record) error {
			for i := range recs {
				if err := x.StoreTx.Put(model, recs[i:i+1]); err != nil {
					return err
				}
			}
			return nil
		}
	}), []string{"records/refused together", "records/undeclared"}},
	"models share their uids": {txs(func(x *faultyTx) {
		x.put = func(model string, recs []tidemark.Record) error {
			if model == "other item" {
				model = "item"
			}
			return x.StoreTx.Put(model, recs)
		}
	}), []string{"records/models apart"}},
	"no uids are all": {txs(func(x *faultyTx) {
		x.records = func(model string, uids []string) ([]tidemark.Record, error) {
			if len(uids) == 0 {
				return make([]tidemark.Record, 1), nil
			}
			return x.StoreTx.Records(model, uids)
		}
	}), []string{"records/none"}},
	"none is empty": {txs(func(x *faultyTx) {
		x.load = func(key string) ([]byte, error) {
			v, err := x.StoreTx.Load(key)
			return append([]byte{}, v...), err
		}
	}), []string{"entries/none", "entries/removed"}},
	"long values and keys are cut": {txs(func(x *faultyTx) {
		x.save = func(key string, value []byte) error {
			if value != nil {
				value = value[:min(len(value), 1<<16)]
			}
			return x.StoreTx.Save(key[:min(len(key), 1000)], value)
		}
	}), []string{"entries/saved", "entries/keys"}},
	"values are shared": {stores(func(f *faulty) {
		var mu sync.Mutex
		kept := map[string][]byte{}
		f.view = func(ctx context.Context, fn func(tidemark.StoreTx) error) error {
			return f.Store.View(ctx, func(tx tidemark.StoreTx) error {
				return fn(faultyOf(tx, func(x *faultyTx) {
					x.load = func(key string) ([]byte, error) {
						mu.Lock()
						defer mu.Unlock()
						if kept[key] == nil {
							v, err := x.StoreTx.Load(key)
							if err != nil {
								return nil, err
							}
							kept[key] = v
						}
						return kept[key], nil
					}
				}))
			})
		}
	}), []string{"entries/the caller's"}},
}
