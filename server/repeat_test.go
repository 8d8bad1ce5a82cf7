package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// What a client sends again has the same verdicts, one effect, one event, and its hooks run
// once, also where they change what is written.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooked %v", hooked), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil).shared()
			var before, after atomic.Int64
			if hooked {
				b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
					if n := before.Add(1); string(c.Args[0]) == `"a"` && c.Method == tidemark.MethodCreate {
						c.Args[1] = fmt.Appendf(nil, `{"name":"by the hook %d"}`, n)
					}
					return nil
				}, tidemark.MethodCreate, tidemark.MethodUpdate)
				b.server.Service("tag").After(func(context.Context, *server.Call) error { after.Add(1); return nil })
			}
			c := b.dial()
			ms := func() *tidemark.Batch {
				return batch(1, creation("tag", "a", `{"name":"A"}`, -9), update("tag", "a", `{"name":"late"}`, -10),
					creation("tag", "bad", `{"name":1}`, -9), deletion("tag", "a", -8))
			}
			first := c.push(ms())
			logged, events := changes(t, b.db), len(c.events())
			if len(first) != 4 || logged != 2 || events != 3 {
				t.Fatalf("the first push: %q, %d changes, %d events", first, logged, events)
			}
			again := ms()
			again.Mutations[1].Stamp = stamp(-1) // it was stamped anew
			more := creation("tag", "b", `{"name":"B"}`, -5)
			more.N = 5
			again.Mutations = append(again.Mutations, more)
			second := b.dial().push(again)
			for i := range first {
				if got, want := kindOf(second[i]), kindOf(first[i]); got != want {
					t.Errorf("again: got %s, want %s", got, want)
				}
			}
			if got := changes(t, b.db) - logged; got != 1 {
				t.Errorf("again: %d effects, want 1", got)
			}
			c.result("tag", "findMany", map[string]any{}) // what was sent before is here now
			if got := len(c.events()) - events; got != 1 {
				t.Errorf("again: %d events, want 1", got)
			}
			if hooked && (before.Load() != 4 || after.Load() != 5) { // the findMany is one of after's
				t.Errorf("the before-hook ran %d times, the after-hook %d times", before.Load(), after.Load())
			}
		})
	}
}

// kindOf is a verdict without row and metadata.
func kindOf(verdict string) string {
	kind, _, _ := strings.Cut(verdict, " {")
	words := strings.Fields(kind)
	if words[1] == "rejected" {
		return strings.Join(words[:3], " ")
	}
	return strings.Join(words[:2], " ")
}

// The connection breaks when all is committed and nothing is answered.
func TestPushCutBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	reached, proceed := make(chan struct{}), make(chan struct{})
	var ran atomic.Int64
	b.server.Service("tag").After(func(_ context.Context, c *server.Call) error {
		if ran.Add(1) == 2 {
			close(reached)
			<-proceed
		}
		return nil
	}, tidemark.MethodCreate)
	watcher, c := b.dial(), b.dial()
	ms := func() *tidemark.Batch {
		return batch(1, creation("post", "p", `{"title":"x"}`, -9), creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -8), creation("post", "q", `{"title":"y"}`, -7))
	}
	c.send("sync", "push", textOf(ms()))
	<-reached
	c.conn.Close(tidemark.ClosedTransport)
	c.waitClosed()
	next := b.dial()
	close(proceed) // it is made whole, though its session is gone
	equalList(t, next.push(ms()), []string{
		`1 applied {"uid":"p","title":"x","owner":null,"likes":null,"due":null} -9 - -`,
		`2 applied`, `3 applied`, // hooks decide what leaves, and do not run again
		`4 applied {"uid":"q","title":"y","owner":null,"likes":null,"due":null} -7 - -`,
	})
	if got := changes(t, b.db); got != 4 || ran.Load() != 2 {
		t.Errorf("%d effects, %d hooks", got, ran.Load())
	}
	watcher.result("post", "findMany", map[string]any{})
	if got := watcher.events(); len(got) != 4 {
		t.Errorf("got %d events, want 4: %q", len(got), got)
	}
}

// The same batches by several connections at once: each mutation is made once, and its hooks
// run once, however long they take.
func TestPushBySeveralSessionsOfOneClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil).shared()
		var ran atomic.Int64
		b.server.Service("tag").Before(func(context.Context, *server.Call) error {
			ran.Add(1)
			<-time.After(time.Second)
			return nil
		}, tidemark.MethodCreate)
		var ms []tidemark.Mutation
		for i := range 40 {
			ms = append(ms, creation([]string{"tag", "post"}[i%2], fmt.Sprint("row ", i), []string{`{"name":"n"}`, `{"title":"t"}`}[i%2], -9))
		}
		watcher := b.dial()
		clients := []*client{b.dial(), b.dial(), b.dial()}
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				for from := 0; from < len(ms); from += 10 {
					for i, v := range c.push(batch(int64(from+1), slices.Clone(ms[from:from+10])...)) {
						if kindOf(v) != fmt.Sprint(from+i+1, " applied") {
							t.Errorf("got %s", v)
						}
					}
				}
			})
		}
		wg.Wait()
		if got := changes(t, b.db); got != 40 || ran.Load() != 20 {
			t.Errorf("%d effects, %d hooks; want 40, 20", got, ran.Load())
		}
		watcher.result("tag", "findMany", map[string]any{})
		if got := watcher.events(); len(got) != 40 {
			t.Errorf("got %d events, want 40", len(got))
		}
	})
}

// Over a real database, by several connections of one client and others at once: each mutation
// is made once, and each event is told once.
func TestPushOnSQL(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
			c.Args[1] = json.RawMessage(`{"name":"by the hook"}`)
			return nil
		}, tidemark.MethodUpdate)
		ms := []tidemark.Mutation{creation("tag", "a", `{"name":"A"}`, -9), creation("post", "bad", `{}`, -9), update("tag", "a", `{"name":"B"}`, -8)}
		ms = append(ms, unit(4, creation("post", "p", `{"title":"t"}`, -9), creation("post", "a", `{"title":"taken"}`, -9))...)
		ms = append(ms, unit(6, creation("post", "q", `{"title":"t"}`, -9), update("tag", "b", `{"name":"C"}`, -7))...)
		ms = append(ms, deletion("post", "q", -6), update("post", "q", `{"title":"late"}`, -8))
		want := []string{"1 applied", "2 rejected constraint", "3 applied", "4 rejected unit", "5 rejected uid-taken", "6 applied", "7 applied", "8 applied", "9 superseded"}
		watcher := b.dial()
		clients := []*client{b.dial(), b.dial(), b.dial(), b.dial()}
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				part := batch(1, slices.Clone(ms)...)
				if i == 3 { // another client, of other rows
					part = batch(1, creation("tag", "theirs", `{}`, -9), creation("post", "theirs too", `{"title":"t"}`, -9))
					part.Client = "another"
				}
				for j, v := range c.push(part) {
					if got := kindOf(v); i < 3 && got != want[j] || i == 3 && got != fmt.Sprint(j+1, " applied") {
						t.Errorf("got %s", v)
					}
				}
			})
		}
		wg.Wait()
		watcher.result("tag", "findMany", map[string]any{})
		if got := len(watcher.events()); got != 8 {
			t.Errorf("got %d events, want 8: %q", got, watcher.events())
		}
		rows := watcher.result("tag", "findMany", map[string]any{"name": "by the hook"})
		if n := strings.Count(rows, `"uid"`); n != 2 {
			t.Errorf("got %s", rows)
		}
		if known, err := b.driver.Known(t.Context(), device); known != 9 || err != nil {
			t.Errorf("the last mutation known is %d, %v", known, err)
		}
	})
}

// Random histories of clients that send again what they have no verdict of, whole or in
// part, by several connections, end as if each mutation had been made once.
func TestPushRandomly(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		pushRandomly(t, rng)
	}
}

func pushRandomly(t *testing.T, rng *rand.Rand) {
	b := setup(t, nil).shared()
	once := memory.New(schemas(t)...)
	if rng.IntN(2) == 0 {
		b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
	}
	var ms []tidemark.Mutation
	for len(ms) < 40 {
		first := int64(len(ms) + 1)
		part := make([]tidemark.Mutation, 1+max(0, rng.IntN(6)-2))
		for i := range part {
			model := []string{"tag", "post"}[rng.IntN(2)]
			part[i] = tidemark.Mutation{Model: model, UID: fmt.Sprint(model, rng.IntN(4)), Op: tidemark.Op(1 + rng.IntN(3)), Stamp: stamp(-rng.IntN(100))}
			if part[i].Op != tidemark.Delete {
				part[i].Data = tidemark.Row([]string{`{"name":"x"}`, `{"title":"x"}`, `{"title":null}`, `{"title":"y","likes":7}`}[rng.IntN(4)])
			}
		}
		if len(part) > 1 {
			part = unit(first, part...)
		}
		ms = append(ms, part...)
	}
	for i := range ms {
		ms[i].N = int64(i + 1)
	}
	want := map[int]string{}
	prepared := slices.Clone(ms) // as the server hands them on
	for i := range prepared {
		if prepared[i].Op != tidemark.Delete {
			for _, s := range once.Models() {
				if s.Name() == prepared[i].Model {
					prepared[i].Data, _, _ = s.Patch(prepared[i].UID, prepared[i].Data)
				}
			}
		}
	}
	vs, err := once.Push(t.Context(), &tidemark.Batch{Client: device, Mutations: prepared}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vs {
		want[i] = fmt.Sprint(v.N, map[bool]string{true: " applied", false: " superseded"}[v.Applied])
		if v.Err != nil {
			want[i] = fmt.Sprint(v.N, " rejected ", v.Err.Code)
		}
	}
	ends := []int{0} // where a batch may begin or end
	_ = tidemark.EachUnit(ms, func(_, to int) error { ends = append(ends, to); return nil })
	sessions := []*client{b.dial(), b.dial(), b.dial()}
	for from, done := 0, 0; done < len(ms); {
		to := ends[rng.IntN(len(ends))]
		if from = ends[rng.IntN(len(ends))]; from > done || to <= from {
			continue
		}
		c := sessions[rng.IntN(len(sessions))]
		part := &tidemark.Batch{Client: device, Mutations: ms[from:to]}
		if rng.IntN(4) == 0 {
			c.send("sync", "push", textOf(part)) // not waited for
		}
		got := c.push(part)
		if len(got) != to-from {
			t.Fatalf("got %d verdicts, want %d", len(got), to-from)
		}
		for i, v := range got {
			if kindOf(v) != want[from+i] {
				t.Errorf("got %s, want %s", kindOf(v), want[from+i])
			}
		}
		done = max(done, to)
	}
	if got, want := changes(t, b.db), changes(t, once); got != want {
		t.Errorf("%d effects, want %d", got, want)
	}
	state := func(db *memory.Driver) map[string]string {
		rows := map[string]string{}
		for _, model := range []string{"tag", "post"} {
			for i := range 4 {
				rm := db.Get(model, fmt.Sprint(model, i))
				rows[fmt.Sprint(model, i)] = string(rm.Row) + metaText(rm.Meta)
			}
		}
		return rows
	}
	if got, want := state(b.db), state(once); !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if t.Failed() {
		t.FailNow()
	}
}
