package drivertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// log returns the driver as one that keeps a change log, and skips the test when it keeps none.
func (h Harness) log(t testing.TB) tidemark.LogDriver {
	t.Helper()
	d, ok := h.Driver.(tidemark.LogDriver)
	if !ok {
		t.Skip("the driver keeps no change log, which is allowed")
	}
	return d
}

func (h Harness) horizon(t testing.TB) tidemark.Cursor {
	t.Helper()
	c, err := h.log(t).Horizon(context.Background())
	if err != nil {
		t.Fatalf("Horizon: %v", err)
	}
	return c
}

// generous asks for more than any test has in one page.
const generous = 1 << 20

// pull reads one page.
func (h Harness) pull(t testing.TB, q tidemark.Pull) *tidemark.Page {
	t.Helper()
	p, err := h.log(t).Pull(context.Background(), q)
	if err != nil {
		t.Fatalf("Pull of %s: %v", q.Scope, err)
	}
	return p
}

// pass reads all pages from q on, and returns them as one page: with the horizon of the
// first, and Limit and Bytes of q for each.
func (h Harness) pass(t testing.TB, q tidemark.Pull) *tidemark.Page {
	t.Helper()
	all := h.pull(t, q)
	told := map[string]bool{}
	page := *all
	for pages := 1; ; pages++ {
		for _, rm := range slices.Concat(page.Rows, page.Gone) {
			if uid := uidOf(rm); told[uid] {
				t.Fatalf("Pull of %s: a pass tells %s twice", q.Scope, uid)
			} else {
				told[uid] = true
			}
		}
		if n := len(page.Rows) + len(page.Gone); n > q.Limit {
			t.Errorf("Pull of %s: %d rows on a page, the limit is %d", q.Scope, n, q.Limit)
		}
		if !page.More {
			return all
		}
		if page.Last == "" || page.Last == q.After || pages > 10_000 {
			t.Fatalf("Pull of %s: there is more after %q, and the page ends at %q", q.Scope, q.After, page.Last)
		}
		q.After = page.Last
		page = *h.pull(t, q)
		all.Rows, all.Gone = append(all.Rows, page.Rows...), append(all.Gone, page.Gone...)
	}
}

// since reads what changed since c in one page.
func (h Harness) since(t testing.TB, c tidemark.Cursor, model string, w tidemark.Where) *tidemark.Page {
	t.Helper()
	return h.pull(t, tidemark.Pull{Scope: h.compile(t, model, w), From: c, Limit: generous, Bytes: generous})
}

// settled returns a cursor below which everything is that was committed, so that what
// follows it is what the test does next. Transactions of others, such as parallel tests, may hold it back for a while.
func (h Harness) settled(t testing.TB) tidemark.Cursor {
	t.Helper()
	var c tidemark.Cursor
	eventually(t, "the horizon passes what was committed", func() bool {
		c = h.horizon(t)
		for _, s := range h.Driver.Models() {
			if p := h.since(t, c, s.Name(), tidemark.Where{}); len(p.Rows)+len(p.Gone) > 0 {
				return false
			}
		}
		return true
	})
	return c
}

// purged purges the whole log, and returns how many changes it had.
func (h Harness) purged(t testing.TB) int64 {
	t.Helper()
	h.settled(t) // what is above the horizon may be kept
	n, err := h.log(t).Purge(context.Background(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatalf("Purge: %v", err)
	}
	return n
}

// eventually waits until what holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not in half a minute: %s", what)
		}
		<-tick.C
	}
}

func uidOf(rm tidemark.RowMeta) string {
	if len(rm.Row) > 0 {
		return rm.Row.UID()
	}
	return rm.Meta.UID
}

func uidsOf(list []tidemark.RowMeta) []string {
	uids := make([]string, len(list))
	for i, rm := range list {
		uids[i] = uidOf(rm)
	}
	return uids
}

// wantUIDs compares, whatever the order.
func wantUIDs(t testing.TB, what string, list []tidemark.RowMeta, want ...string) {
	t.Helper()
	got := uidsOf(list)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// wantAsNow compares what was told with what the driver has now.
func (h Harness) wantAsNow(t testing.TB, model string, list []tidemark.RowMeta) {
	t.Helper()
	for _, rm := range list {
		now := h.get(t, model, uidOf(rm))
		if d := differ(h.schema(t, model), rm.Row, now.Row); d != "" || rm.Meta != now.Meta {
			t.Errorf("%s is told as %s %+v, and is %s %+v", uidOf(rm), show(rm.Row), rm.Meta, show(now.Row), now.Meta)
		}
	}
}

// wantCode compares the code of an error.
func wantCode(t testing.TB, what string, err error, want tidemark.Code) {
	t.Helper()
	if got := tidemark.CodeOf(err); got != want {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}

// mirror is a client's copy of a scope.
type mirror struct {
	scope  *tidemark.Predicate
	cursor tidemark.Cursor
	rows   map[string]tidemark.RowMeta
}

// catchUp brings the copy up to date; a zero cursor fills it anew.
func (m *mirror) catchUp(t testing.TB, h Harness, limit, bytes int) {
	t.Helper()
	if m.cursor.IsZero() {
		m.rows = map[string]tidemark.RowMeta{}
	}
	p := h.pass(t, tidemark.Pull{Scope: m.scope, From: m.cursor, Limit: limit, Bytes: bytes})
	for _, rm := range p.Rows {
		m.rows[uidOf(rm)] = rm
	}
	for _, rm := range p.Gone {
		delete(m.rows, uidOf(rm))
	}
	m.cursor = p.Horizon
}

// wantFresh compares the copy with what is in the database.
func (m *mirror) wantFresh(t testing.TB, h Harness, what string) {
	t.Helper()
	s, err := h.Driver.Snapshot(context.Background(), m.scope, nil)
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	for _, now := range s.Selected {
		uid := uidOf(now)
		if got := m.rows[uid]; differ(m.scope.Schema(), got.Row, now.Row) != "" || got.Meta != now.Meta {
			t.Errorf("%s: the copy of %s has %s as %s %+v, and it is %s %+v", what, m.scope, uid, show(got.Row), got.Meta, now.Row, now.Meta)
		}
	}
	if len(m.rows) > len(s.Selected) {
		has := slices.Sorted(maps.Keys(m.rows))
		t.Errorf("%s: the copy of %s has %v, and there is only %v", what, m.scope, has, uidsOf(s.Selected))
	}
}

// a way is one by which rows are written.
type way struct {
	name    string
	bounded bool // whether it needs RunInTx
	write   func(t testing.TB, h Harness, ms []tidemark.Mutation) []tidemark.Outcome
}

var errUndo = errors.New("undo")

// ways are all ways to write. Each keeps what it writes.
var ways = []way{
	{"Write", false, func(t testing.TB, h Harness, ms []tidemark.Mutation) []tidemark.Outcome { return h.write(t, ms...) }},
	{"WriteTx", false, func(t testing.TB, h Harness, ms []tidemark.Mutation) []tidemark.Outcome {
		return h.writeIn(t, context.Background(), &hearing{}, ms...)
	}},
	{"Write in a transaction", true, func(t testing.TB, h Harness, ms []tidemark.Mutation) (outs []tidemark.Outcome) {
		h.inTx(t, func(ctx context.Context) error {
			for _, m := range ms { // several writes are one commit
				o, err := h.Driver.Write(ctx, []tidemark.Mutation{m})
				if err != nil {
					return err
				}
				outs = append(outs, o...)
			}
			return nil
		})
		return outs
	}},
	{"WriteTx in a transaction inside another", true, func(t testing.TB, h Harness, ms []tidemark.Mutation) (outs []tidemark.Outcome) {
		h.inTx(t, func(ctx context.Context) error {
			return h.RunInTx(ctx, func(ctx context.Context) error {
				outs = h.writeIn(t, ctx, &hearing{}, ms...)
				return nil
			})
		})
		return outs
	}},
	{"Push", false, func(t testing.TB, h Harness, ms []tidemark.Mutation) (outs []tidemark.Outcome) {
		for _, v := range h.push(t, batch(fmt.Sprintf("client of %s %d", ms[0].UID, ms[0].Stamp), 1, ms...)) {
			outs = append(outs, v.Outcome)
		}
		return outs
	}},
}

// ways are those that the harness can go.
func (h Harness) ways() []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool { return w.bounded && h.RunInTx == nil })
}

// inTx runs fn in a transaction that must be committed.
func (h Harness) inTx(t testing.TB, fn func(ctx context.Context) error) {
	t.Helper()
	if err := h.RunInTx(context.Background(), fn); err != nil {
		t.Fatalf("RunInTx: %v", err)
	}
}

// batch numbers the mutations from first on.
func batch(client string, first int64, ms ...tidemark.Mutation) *tidemark.Batch {
	b := &tidemark.Batch{Client: client, Mutations: slices.Clone(ms)}
	for i := range b.Mutations {
		b.Mutations[i].N = first + int64(i)
	}
	return b
}

// push makes a batch that must not fail.
func (h Harness) push(t testing.TB, b *tidemark.Batch) []tidemark.Verdict {
	t.Helper()
	return h.pushHeard(t, b, nil)
}

func (h Harness) pushHeard(t testing.TB, b *tidemark.Batch, w tidemark.Witness) []tidemark.Verdict {
	t.Helper()
	vs, err := h.log(t).Push(context.Background(), b, w)
	if err != nil {
		t.Fatalf("Push: %v", err)
	}
	if len(vs) != len(b.Mutations) {
		t.Fatalf("Push: %d verdicts for %d mutations", len(vs), len(b.Mutations))
	}
	for i, v := range vs {
		if v.N != b.Mutations[i].N {
			t.Fatalf("Push: verdict %d is of number %d, want %d", i, v.N, b.Mutations[i].N)
		}
	}
	return vs
}

func (h Harness) known(t testing.TB, client string) int64 {
	t.Helper()
	n, err := h.log(t).Known(context.Background(), client)
	if err != nil {
		t.Fatalf("Known: %v", err)
	}
	return n
}
