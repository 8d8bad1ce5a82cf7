package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// recorder notes what its driver commits, in the order of the commits.
type recorder struct {
	tidemark.Driver
	mu      sync.Mutex
	commits map[string][]string
	batches []int
	before  func(ms []tidemark.Mutation)
}

func (r *recorder) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	if r.before != nil {
		r.before(ms)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, len(ms))
	outcomes, err := r.Driver.Write(ctx, ms)
	for i := range outcomes {
		o := outcomes[i]
		tuple, _ := tidemark.RowMeta{Row: o.Row, Meta: o.Meta}.MarshalJSON()
		r.commits[ms[i].UID] = append(r.commits[ms[i].UID], string(tuple))
	}
	return outcomes, err
}

func recording(t *testing.T) (*bench, *recorder) {
	db := memory.New(schemas(t)...)
	rec := &recorder{Driver: db, commits: map[string][]string{}}
	return setupOver(t, db, rec, nil).shared(), rec
}

// Fault 3 of the original, and the order of events: 64 sessions write few rows at
// once, with hooks that take their time; everybody sees each row's commits in their order,
// and each writer sees its own event before its answer.
func TestEventsLeaveInTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b, rec := recording(t)
	var mu sync.Mutex
	b.server.Service("post").After(func(context.Context, *server.Call) error {
		mu.Lock()
		n := rng.IntN(50)
		mu.Unlock()
		for range n { // a hook that takes its time
			runtime.Gosched()
		}
		return nil
	}, "updateWithMeta")
	const writers, each, rows = 64, 10, 3
	clients := make([]*client, writers)
	stamps := make([][]int, writers)
	for i := range clients {
		clients[i], stamps[i] = b.dial(), rng.Perm(writers*each)
	}
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for k := range each {
				uid := fmt.Sprint("row", (i+k)%rows)
				title := fmt.Sprintf("%d.%d", i, k)
				a := c.ask("post", "updateWithMeta", uid, map[string]any{"title": title}, at(-stamps[i][k]))
				if a.Err != nil {
					t.Errorf("%v", a.Err)
				} else if !strings.Contains(strings.Join(c.events(), "\n"), string(a.Result)) {
					t.Errorf("the answer %s came before its event", a.Result)
				}
			}
		})
	}
	wg.Wait()
	last := b.dial()
	for _, c := range append(clients, last) {
		if c != last {
			c.until("all events", func() bool { return len(c.got) >= writers*each+each })
		}
		seen := map[string][]string{}
		for _, e := range c.events() {
			_, tuple, _ := strings.Cut(e, " ")
			uid, _, _ := strings.Cut(strings.TrimPrefix(tuple, `[{"uid":"`), `"`)
			seen[uid] = append(seen[uid], tuple)
		}
		for uid, want := range rec.commits {
			if c != last {
				if len(seen[uid]) != len(want) {
					t.Fatalf("%s: %d events for %d commits", uid, len(seen[uid]), len(want))
				}
				equalList(t, seen[uid], want)
			}
		}
	}
	for uid, commits := range rec.commits { // and the newest has won
		final, _ := b.db.Get("post", uid).MarshalJSON()
		equal(t, string(final), commits[len(commits)-1])
	}
}

// The writes of one session are made in the order in which they came.
func TestWritesOfASessionKeepTheirOrder(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprint("hooked ", hooked), func(t *testing.T) {
			t.Parallel()
			b, rec := recording(t)
			if hooked {
				b.server.Service("post").Before(func(ctx context.Context, c *server.Call) error {
					// An update sees what the create before it made.
					var uid string
					if err := c.Arg(0, &uid); err != nil {
						return err
					}
					if c.Method == "updateWithMeta" && b.db.Get("post", uid).Row == nil {
						return tidemark.NewError(tidemark.CodeDenied, "there is no such row")
					}
					return nil
				}, "createWithMeta", "updateWithMeta")
			}
			gate := make(chan struct{})
			rec.before = func([]tidemark.Mutation) { <-gate }
			c := b.dial()
			var ids []uint64
			for i := range 50 {
				uid := fmt.Sprint("u", i)
				ids = append(ids, c.send("post", "createWithMeta", uid, map[string]any{"title": "1"}, at(0)),
					c.send("tag", "createWithMeta", "t"+uid, map[string]any{"name": "1"}, at(0)),
					c.send("post", "updateWithMeta", uid, map[string]any{"title": "2"}, at(1)))
			}
			close(gate)
			for _, id := range ids {
				if a := c.answer(id); a.Err != nil {
					t.Fatal(a.Err)
				}
			}
			var order []uint64
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.got {
				if m.Kind == tidemark.AnswerMessage {
					order = append(order, m.ID)
				}
			}
			for i := range ids {
				if order[i] != ids[i] {
					t.Fatalf("answers came in the order %v", order)
				}
			}
			for i := range 50 {
				if got := titleOf(b.db.Get("post", fmt.Sprint("u", i)).Row); got != `"2"` {
					t.Errorf("row %d is %s", i, got)
				}
			}
			if batched := len(rec.batches) < 150; batched == hooked {
				t.Errorf("%d writes to the driver, hooked %v", len(rec.batches), hooked)
			}
		})
	}
}

// A slow hook of one row holds up that row's later events and nothing else.
func TestSlowHookHoldsUpItsRowOnly(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	gate, inside := make(chan struct{}), make(chan struct{})
	b.server.Service("post").After(func(_ context.Context, c *server.Call) error {
		if c.Result.(*tidemark.RowMeta).Row.UID() == "slow" && c.Method == "createWithMeta" {
			close(inside)
			<-gate
		}
		return nil
	}, "createWithMeta", "updateWithMeta")
	a, c := b.dial(), b.dial()
	first := a.send("post", "createWithMeta", "slow", map[string]any{"title": "1"}, at(0))
	<-inside
	c.result("post", "createWithMeta", "other", map[string]any{"title": "1"}, at(0))
	c.result("post", "findMany", map[string]any{})
	d := b.dial()
	second := d.send("post", "updateWithMeta", "slow", map[string]any{"title": "2"}, at(1))
	poll(t, "the second commit", func() bool { return titleOf(b.db.Get("post", "slow").Row) == `"2"` })
	if got := len(c.events()); got != 1 {
		t.Errorf("%d events while the first hook runs, want that of the other row", got)
	}
	close(gate)
	a.answer(first)
	d.answer(second)
	c.event(3)
	events := c.events()
	if !strings.Contains(events[1], `"title":"1"`) || !strings.Contains(events[2], `"title":"2"`) {
		t.Errorf("events %q", events)
	}
}

// slow is a driver that takes its time after a commit.
type slow struct {
	tidemark.Driver
	gate chan struct{}
}

func (s *slow) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	outcomes, err := s.Driver.Write(ctx, ms)
	if titleOf(ms[0].Data) == `"first"` {
		<-s.gate
	}
	return outcomes, err
}

// Writers of one row take turns, so that what is committed first is told first; a
// writer whose time is over leaves the line, and other rows do not wait.
func TestWritersOfARowTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(schemas(t)...)
		d := &slow{Driver: db, gate: make(chan struct{})}
		b := setupOver(t, db, d, &server.Options{CallTimeout: 5 * time.Second}).shared()
		write := func(uid, title string, s int) (*client, uint64) {
			c := b.dial()
			id := c.send("post", "updateWithMeta", uid, map[string]any{"title": title}, at(s))
			synctest.Wait()
			return c, id
		}
		first, id1 := write("a", "first", 1)
		late, id2 := write("a", "late", 2)
		first.result("post", "findMany", map[string]any{})
		other, id3 := write("b", "other row", 1)
		if a := other.answer(id3); a.Err != nil {
			t.Error(a.Err)
		}
		equal(t, titleOf(db.Get("post", "a").Row), `"first"`)
		if a := late.answer(id2); a.Err == nil || a.Err.Code != tidemark.CodeTimeout {
			t.Errorf("got %s %v", a.Result, a.Err)
		}
		second, id4 := write("a", "second", 3)
		third, id5 := write("a", "third", 4)
		close(d.gate)
		first.answer(id1)
		second.answer(id4)
		third.answer(id5)
		synctest.Wait()
		var titles []string
		for _, e := range first.events() {
			_, tuple, _ := strings.Cut(e, " ")
			var rm tidemark.RowMeta
			if err := rm.UnmarshalJSON([]byte(tuple)); err != nil {
				t.Fatal(err)
			}
			titles = append(titles, titleOf(rm.Row))
		}
		equalList(t, titles, []string{`"other row"`, `"first"`, `"second"`, `"third"`})
		if n := b.server.Rows(); n != 0 {
			t.Errorf("%d rows are still held or waited for", n)
		}
	})
}
