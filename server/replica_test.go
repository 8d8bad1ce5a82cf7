package server_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// replica is the simplest client of the second protocol that is right: it takes pages and
// changes in the order in which they come, each by its stamp.
type replica struct {
	t       *testing.T
	schemas map[string]*tidemark.Schema
	rows    map[[2]string]copied // by model and uid
	scopes  []*copiedScope

	c       *client
	next    int               // of c.got
	asked   map[uint64][]turn // what an answer is about
	last    map[[2]string]tidemark.Stamp
	numbers map[int64]*tidemark.Predicate // of all scopes of this session so far
	heard   []tidemark.Change
}

// copied is a row as the server told it, or that it left.
type copied struct {
	row     tidemark.Row
	meta    tidemark.Meta
	at      tidemark.Stamp // of the departure, where there is no row
	deleted bool
}

type copiedScope struct {
	model  string
	where  *tidemark.Predicate
	cursor string // of the last pass that came to its end
	tag    string
	upto   string // of the pass under way
	number int64
	synced bool // on this session
}

// turn is a page that was asked for.
type turn struct {
	scope *copiedScope
	from  string
	first bool
}

func (r *replica) connect(b *bench) {
	r.c, r.next, r.asked, r.last, r.numbers = b.dial(), 0, map[uint64][]turn{}, map[[2]string]tidemark.Stamp{}, map[int64]*tidemark.Predicate{}
	var turns []turn
	var requests []tidemark.ScopeRequest
	for _, s := range r.scopes {
		s.number, s.synced = 0, false
		requests, turns = append(requests, r.request(s)), append(turns, turn{s, s.cursor, true})
	}
	id := r.c.send("sync", "open", tidemark.OpenRequest{Protocol: 1, Client: "replica", Scopes: requests})
	r.asked[id] = turns
	r.c.answer(id) // which comes first
}

func (r *replica) request(s *copiedScope) tidemark.ScopeRequest {
	q := wanted(s.model, s.where.Key())
	q.Cursor, q.Tag = s.cursor, s.tag
	return q
}

func (r *replica) subscribe(model, where string) {
	p, err := tidemark.ParseWhere(r.schemas[model], []byte(where))
	if err != nil {
		r.t.Fatal(err)
	}
	s := &copiedScope{model: model, where: p}
	r.scopes = append(r.scopes, s)
	r.asked[r.c.send("sync", "subscribe", []tidemark.ScopeRequest{r.request(s)})] = []turn{{s, "", true}}
}

// take takes what has come so far, and asks for the pages that follow.
func (r *replica) take() {
	r.c.mu.Lock()
	got := slices.Clone(r.c.got[r.next:])
	r.next = len(r.c.got)
	r.c.mu.Unlock()
	for _, m := range got {
		switch m.Event {
		case tidemark.EventChanges:
			r.changes(m.Args[0])
		case tidemark.EventCursor:
			for _, s := range r.scopes {
				if s.synced {
					s.cursor, _ = tidemark.DecodeString(tidemark.Row(m.Args[0]).Get("cursor"))
				}
			}
		case "":
			r.answer(m)
		}
	}
}

func (r *replica) answer(m *tidemark.Message) {
	turns, ok := r.asked[m.ID]
	if !ok {
		return
	}
	delete(r.asked, m.ID)
	var a tidemark.Answer
	if err := a.UnmarshalJSON(m.Args[0]); err != nil || a.Err != nil {
		r.t.Fatalf("answer %s: %v", m.Args[0], err)
	}
	var pages []*tidemark.ScopePage
	switch a.Result[0] {
	case '[':
		pages = r.answers(turns, a.Result)
	default:
		if scopes := tidemark.Row(a.Result).Get("scopes"); scopes != nil {
			pages = r.answers(turns, scopes)
		} else if len(turns) > 0 {
			p := &tidemark.ScopePage{}
			if err := p.UnmarshalJSON(a.Result); err != nil {
				r.t.Fatal(err)
			}
			pages = append(pages, p)
		}
	}
	for i, p := range pages {
		if p == nil { // it did not find room
			r.pull(turns[i], "")
			continue
		}
		r.page(turns[i], p)
	}
}

func (r *replica) answers(turns []turn, raw []byte) (pages []*tidemark.ScopePage) {
	var list []tidemark.ScopeAnswer
	if err := json.Unmarshal(raw, &list); err != nil {
		r.t.Fatal(err)
	}
	for i, a := range list {
		s := turns[i].scope
		if a.Err != nil {
			r.t.Fatalf("scope %s: %v", s.where, a.Err)
		}
		s.number, s.tag = a.Scope, a.Tag
		r.numbers[a.Scope] = s.where
		pages = append(pages, a.Page)
	}
	return pages
}

func (r *replica) pull(t turn, after string) {
	t.first = after == ""
	r.asked[r.c.send("sync", "pull", tidemark.PullRequest{Scope: t.scope.number, Cursor: t.from, After: after})] = []turn{t}
}

func (r *replica) page(t turn, p *tidemark.ScopePage) {
	if t.first {
		t.scope.upto = p.Cursor
	}
	for _, rm := range p.Rows {
		r.row(t.scope.model, rm.Row, rm.Meta)
	}
	for _, d := range p.Gone {
		r.gone(t.scope.model, d)
	}
	if p.After != "" {
		r.pull(t, p.After)
		return
	}
	t.scope.cursor, t.scope.synced = t.scope.upto, true
}

func (r *replica) changes(raw []byte) {
	var cs tidemark.Changes
	if err := cs.UnmarshalJSON(raw); err != nil {
		r.t.Fatalf("%s: %v", raw, err)
	}
	for _, c := range cs {
		r.heard = append(r.heard, c)
		key, at := [2]string{c.Model, c.Gone.UID}, c.Gone.At
		if c.Row != nil {
			key[1], at = c.Row.UID(), c.Meta.T()
			r.row(c.Model, c.Row, c.Meta)
		} else {
			r.gone(c.Model, c.Gone)
		}
		if at < r.last[key] {
			r.t.Errorf("of %v we hear of %v after %v", key, at, r.last[key])
		}
		r.last[key] = at
	}
}

func (r *replica) row(model string, row tidemark.Row, meta tidemark.Meta) {
	key := [2]string{model, row.UID()}
	have := r.rows[key]
	at := have.at
	if have.row != nil {
		at = have.meta.T()
	}
	if meta.T() < at || meta.T() == at && have.deleted {
		return
	}
	r.rows[key] = copied{row: row, meta: meta}
}

func (r *replica) gone(model string, d tidemark.Departure) {
	key := [2]string{model, d.UID}
	have := r.rows[key]
	at := have.at
	if have.row != nil {
		at = have.meta.T()
	}
	if d.At > at || d.At == at && d.Deleted {
		r.rows[key] = copied{at: d.At, deleted: d.Deleted}
	}
}

// settle takes everything until no page is outstanding.
func (r *replica) settle() {
	r.t.Helper()
	for {
		r.take()
		if len(r.asked) == 0 {
			break
		}
		n := r.next
		r.c.until("more", func() bool { return len(r.c.got) > n })
	}
	r.c.mark()
	r.take()
}

// check compares the copy with the tables, and what was told with what may be told.
func (r *replica) check(driver tidemark.Driver) {
	r.t.Helper()
	want := map[[2]string]string{}
	for model, schema := range r.schemas {
		all, err := tidemark.Where{}.Compile(schema)
		if err != nil {
			r.t.Fatal(err)
		}
		snap, err := driver.Snapshot(context.Background(), all, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, rm := range snap.Selected {
			if r.selects(model, rm.Row) {
				want[[2]string{model, rm.Row.UID()}] = string(rm.AppendJSON(nil))
			}
		}
	}
	got := map[[2]string]string{}
	for key, have := range r.rows {
		if have.row != nil {
			got[key] = string(tidemark.RowMeta{Row: have.row, Meta: have.meta}.AppendJSON(nil))
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(union(got, want)), func(a, b [2]string) int { return strings.Compare(a[1], b[1]) }) {
		if got[key] != want[key] {
			r.t.Errorf("%v: the copy is %s\nand the table %s", key, got[key], want[key])
		}
	}
	for _, c := range r.heard {
		for _, n := range append(slices.Clone(c.In), c.Out...) {
			if r.numbers[n] == nil {
				r.t.Errorf("told of a foreign scope: %+v", c)
			} else if slices.Contains(c.In, n) && !r.numbers[n].Match(c.Row) {
				r.t.Errorf("%s does not select what was told: %s", r.numbers[n], c.Row)
			}
		}
		if c.Row != nil != (len(c.In) > 0) || len(c.In)+len(c.Out) == 0 {
			r.t.Errorf("told without a scope: %+v", c)
		}
	}
	r.heard = nil
}

func union[K comparable, V any](a, b map[K]V) map[K]V {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

func (r *replica) selects(model string, row tidemark.Row) bool {
	return slices.ContainsFunc(r.scopes, func(s *copiedScope) bool { return s.model == model && s.where.Match(row) })
}

// Clients that subscribe while others write, come and go, and take what comes by its stamp, hold in the
// end what the tables hold, no more and no less. No row reaches a client outside its scopes.
func TestCopiesEqualTheTables(t *testing.T) {
	t.Parallel()
	for range 30 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			b := setup(t, replicated())
			copiesEqualTheTables(t, b, b.db, b.db.RunInTx, seed)
		})
	}
}

// The same over databases in SQL, whose transactions write at once.
func TestCopiesEqualTheTablesOfSQL(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	onSQL(t, func(t *testing.T, b *sqlBench) {
		srv, err := server.New(b.driver, replicated())
		if err != nil {
			t.Fatal(err)
		}
		over := &bench{t: t, server: srv, pipe: pipe.New(srv, nil), log: b.log}
		t.Cleanup(func() {
			srv.Close()
			over.pipe.Close()
		})
		copiesEqualTheTables(t, over, b.driver, func(ctx context.Context, fn func(context.Context) error) error {
			return b.driver.RunInTx(ctx, func(ctx context.Context, _ bun.Tx) error { return fn(ctx) })
		}, seed)
	})
}

// replicated are the options under which copies are compared: small pages, and cursors at once.
func replicated() *server.Options {
	return &server.Options{PageBytes: 300, CursorInterval: 1, Now: func() time.Time { return noon }}
}

type inTx func(context.Context, func(context.Context) error) error

func copiesEqualTheTables(t *testing.T, b *bench, driver tidemark.Driver, tx inTx, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var replicas []*replica
	for range 3 {
		r := &replica{t: t, rows: map[[2]string]copied{}, schemas: map[string]*tidemark.Schema{}}
		for _, s := range driver.Models() {
			r.schemas[s.Name()] = s
		}
		r.connect(b)
		replicas = append(replicas, r)
	}
	for range 4 {
		var wg sync.WaitGroup
		for range 3 {
			w := &randomWriter{b: b, tx: tx, rng: rand.New(rand.NewPCG(rng.Uint64(), 0))}
			wg.Go(func() { w.run(25) })
		}
		for _, r := range replicas {
			own := rand.New(rand.NewPCG(rng.Uint64(), 0))
			wg.Go(func() {
				for range 3 {
					if len(r.scopes) < 6 && own.IntN(2) == 0 {
						r.subscribe(randomScope(own))
					}
					r.take()
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		b.quiet()
		for _, r := range replicas {
			r.settle()
			r.check(driver)
			if rng.IntN(2) == 0 { // away for a while: the scopes that it has are caught up later
				r.c.conn.Close(tidemark.ClosedTransport)
				(&randomWriter{b: b, tx: tx, rng: rng}).run(5)
				r.connect(b)
			}
		}
	}
	if n := b.server.Rows(); n != 0 {
		t.Errorf("%d rows are still held or waited for", n)
	}
}

func randomScope(rng *rand.Rand) (model, where string) {
	n := rng.IntN(4)
	return "post", [...]string{
		`{}`,
		fmt.Sprintf(`{"owner":"o%d"}`, n),
		fmt.Sprintf(`{"owner":"o%d","likes":{"gte":%d}}`, n, rng.IntN(4)),
		fmt.Sprintf(`{"likes":{"gte":%d,"lt":%d}}`, n, n+2),
		`{"owner":null}`,
	}[rng.IntN(5)]
}

// randomWriter writes rows by every way that there is.
type randomWriter struct {
	b      *bench
	tx     inTx
	rng    *rand.Rand
	pusher *client
	client string
	n      int64
}

func (w *randomWriter) run(steps int) {
	w.pusher, w.client, w.n = w.b.dial(), fmt.Sprint("writer", w.rng.Uint64()), 1
	for range steps {
		switch w.rng.IntN(4) {
		case 0:
			w.lost(w.call(context.Background()))
		case 1:
			w.transaction()
		default:
			w.push()
		}
	}
	w.pusher.conn.Close(tidemark.ClosedByClient)
}

func (w *randomWriter) mutation() tidemark.Mutation {
	m := tidemark.Mutation{Model: "post", UID: fmt.Sprint("u", w.rng.IntN(12)), Stamp: stamp(-w.rng.IntN(1000)),
		Op: tidemark.Create + tidemark.Op(w.rng.IntN(3))}
	if m.Op != tidemark.Delete {
		m.Data = tidemark.Row(fmt.Sprintf(`{"title":"%d","owner":%s,"likes":%d}`, w.rng.IntN(1000),
			[]string{`"o0"`, `"o1"`, `"o2"`, `"o3"`, "null"}[w.rng.IntN(5)], w.rng.IntN(5)))
	}
	return m
}

func (w *randomWriter) call(ctx context.Context) error {
	m := w.mutation()
	args := []any{m.UID, json.RawMessage(m.Data), m.Stamp}
	if m.Op == tidemark.Delete {
		args = []any{m.UID, m.Stamp}
	}
	method := map[tidemark.Op]string{tidemark.Create: "createWithMeta", tidemark.Update: "updateWithMeta", tidemark.Delete: "deleteWithMeta"}[m.Op]
	_, err := w.b.server.Service("post").Call(ctx, method, args...)
	return err
}

// lost takes note of an error: one that is temporary is a transaction that lost against another.
func (w *randomWriter) lost(err error) {
	if err != nil && !tidemark.Temporary(err) {
		w.b.t.Error(err)
	}
}

func (w *randomWriter) transaction() {
	undo := errors.New("undo")
	err := w.tx(context.Background(), func(ctx context.Context) error {
		if err := w.call(ctx); err != nil {
			return err
		}
		err := w.tx(ctx, func(ctx context.Context) error {
			err := w.call(ctx)
			if w.rng.IntN(2) == 0 {
				return cmp.Or(err, undo)
			}
			return err
		})
		if err != nil && err != undo {
			return err
		}
		if err := w.call(ctx); err != nil {
			return err
		}
		if w.rng.IntN(3) == 0 {
			return undo
		}
		return nil
	})
	if err != undo {
		w.lost(err)
	}
}

func (w *randomWriter) push() {
	batch := &tidemark.Batch{Client: w.client}
	for range 1 + w.rng.IntN(6) {
		m := w.mutation()
		m.N = w.n
		w.n++
		batch.Mutations = append(batch.Mutations, m)
	}
	if n := len(batch.Mutations); n > 2 && w.rng.IntN(2) == 0 {
		for i := n - 2; i < n; i++ {
			batch.Mutations[i].Unit = batch.Mutations[n-1].N
		}
	}
	if a := w.pusher.ask("sync", "push", textOf(batch)); a.Err != nil {
		w.n = batch.Mutations[0].N // nothing was decided
		w.lost(a.Err)
	} else {
		var got tidemark.PushAnswer
		if err := got.UnmarshalJSON(a.Result); err != nil {
			w.b.t.Error(err)
		}
		w.n = batch.Mutations[0].N + int64(len(got.Verdicts))
	}
}
