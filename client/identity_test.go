package client_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestClientKeepsItsNameAcrossConnectionsAndRuns(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.create("a", "one")
		p.pipe.Cut()
		pass(time.Minute)
		p.crash()
		p.create("b", "two")
		p.pending(0)
		if len(p.names) != 3 || p.names[0] != p.names[1] || p.names[1] != p.names[2] {
			t.Fatalf("it opened as %q", p.names)
		}
		if _, err := uuid.Parse(p.names[0]); err != nil {
			t.Error(err)
		}
		for _, b := range p.batches {
			if b.Client != p.names[0] {
				t.Errorf("it pushed as %q", b.Client)
			}
		}
	})
}

// A server lets a name that it does not know begin with any number.
func TestServerThatLostItsDatabaseGetsWhatIsPending(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.queue(5)
		p.pending(0)
		p.client.GoOffline()
		p.db = drivermemory.New(itemSchema(t))
		p.create("v", "later")
		p.update("v", "later still")
		p.client.GoOnline()
		p.pending(0)
		p.has("later still")
		p.rejections()
		if p.names[0] != p.names[1] {
			t.Errorf("it took a new name without need: %q", p.names)
		}
	})
}

func TestServerThatWasSetBackGetsWhatIsPendingUnderANewName(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.queue(5)
		p.pending(0)
		p.client.GoOffline()
		p.db = drivermemory.New(itemSchema(t)) // with what a backup knows: the first two writes
		for n := int64(1); n <= 2; n++ {
			if _, err := p.db.Push(t.Context(), &tidemark.Batch{Client: p.names[0], Mutations: []tidemark.Mutation{
				{N: n, Model: "item", UID: fmt.Sprintf("u%03d", n), Op: tidemark.Create, Data: tidemark.Row(fmt.Sprintf(`{"label":"l%03d","score":null}`, n)), Stamp: T1},
			}}, nil); err != nil {
				t.Fatal(err)
			}
		}
		p.create("v", "later")
		p.batches = nil
		p.client.GoOnline()
		p.pending(0)
		p.has("l001", "l002", "later")
		if b := p.batches[len(p.batches)-1]; b.Client == p.names[0] || b.Mutations[0].N != 6 {
			t.Errorf("the last batch is of %s, from %d", b.Client, b.Mutations[0].N)
		}
		if !p.logs.has("the numbers of the outbox have a hole") {
			t.Error("the log does not say why")
		}
	})
}

// A server that refuses every name is not asked without a pause.
func TestServerThatAlwaysSaysGapIsAskedWithEverLongerWaits(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		n := 0
		p.script.on(tidemark.MethodPush, func(c *call) { n++; c.fail(tidemark.CodeGap) })
		p.open()
		p.queue(3)
		pass(10 * time.Minute)
		if n < 5 || n > 100 {
			t.Errorf("it was asked %d times in ten minutes", n)
		}
		p.pending(3)
		p.script.on(tidemark.MethodPush, p.decide)
		pass(time.Minute)
		p.pending(0)
		p.once(3)
	})
}

func TestDiscardedWritesLeaveAHoleThatNothingFallsInto(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		parts, err := client.NewModel[Part](t.Context(), p.client, "part", nil)
		if err != nil {
			t.Fatal(err)
		}
		p.queue(2)
		p.pending(0)
		p.client.GoOffline()
		p.create("a", "one")
		if _, err := parts.Create(t.Context(), Part{UID: "p"}); err != nil {
			t.Fatal(err)
		}
		p.create("b", "two")
		if _, err := parts.Create(t.Context(), Part{UID: "q"}); err != nil {
			t.Fatal(err)
		}
		if err := parts.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
			t.Fatal(err)
		}
		p.create("c", "three")
		p.client.GoOnline()
		p.pending(0)
		p.has("one", "two", "three", "l001", "l002")
		p.rejections()
		p.once(5)
	})
}

// realServer is a server over db, outside any bubble.
func realServer(t testing.TB, db *drivermemory.Driver) *pipe.Pipe {
	t.Helper()
	srv, err := server.New(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := pipe.New(srv, nil)
	t.Cleanup(func() { p.Close(); srv.Close() })
	return p
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(from + suffix)
		if os.IsNotExist(err) && suffix != "" {
			continue
		}
		if err == nil {
			err = os.WriteFile(to+suffix, raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Two devices that began as one file: what each writes has its effect, whoever pushes first,
// also where they write the same, and what was pending in the file has it once.
func TestOlderCopyOfTheFileTakesANewName(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name          string
		pending       int // writes in the file when it is copied
		first, second int // writes of the two afterwards
		same          bool
	}{
		{name: "the copy has fewer", pending: 0, first: 7, second: 2},
		{name: "the copy has more", pending: 0, first: 2, second: 7},
		{name: "both have pending writes of the file", pending: 4, first: 3, second: 3},
		{name: "both write the same", pending: 2, first: 3, second: 3, same: true},
		{name: "the copy writes nothing", pending: 3, first: 2, second: 0},
		{name: "only the copy writes", pending: 3, first: 0, second: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			db := drivermemory.New(itemSchema(t))
			p := realServer(t, db)
			dir := t.TempDir()
			write := func(items *client.Model[Item], n int, prefix string) {
				for i := range n {
					if _, err := items.Create(t.Context(), Item{UID: fmt.Sprint(prefix, i), Label: fmt.Sprint(prefix, i)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			sync := func(path string, n int, prefix string) (rejected []client.Rejection) {
				store := openFile(t, path)
				c, items := openOn(t, store, p, &client.Options{Offline: true})
				write(items, n, prefix)
				c.GoOnline()
				if err := c.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s := c.Status(); s.Pending != 0 {
					t.Errorf("%s: %d writes are pending", prefix, s.Pending)
				}
				rejected, err := c.Rejections(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				store.Close()
				return rejected
			}
			file, older := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")
			sync(file, 3, "before")
			store := openFile(t, file)
			c, items := openOn(t, store, nil, nil)
			write(items, tc.pending, "pending")
			c.Close()
			store.Close()
			copyFile(t, file, older)

			prefix := "second"
			if tc.same {
				prefix = "first"
			}
			if r := sync(file, tc.first, "first"); len(r) != 0 {
				t.Errorf("the file has rejections: %+v", r)
			}
			r := sync(older, tc.second, prefix)
			if !tc.same && len(r) != 0 {
				t.Errorf("the copy has rejections: %+v", r)
			}
			sync(file, 1, "last of first")
			sync(older, 1, "last of second")
			want := 3 + tc.pending + tc.first + tc.second + 2
			if tc.same {
				want -= tc.second
			}
			if got := labels(t, db); len(got) != want {
				t.Errorf("the server has %d rows, want %d: %q", len(got), want, got)
			}
		})
	}
}

func TestAnOlderCopyIsKnownBeforeItWritesAnything(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.queue(3)
		p.pending(0)
		name := p.names[0]
		if _, err := p.db.Push(t.Context(), &tidemark.Batch{Client: name, Mutations: []tidemark.Mutation{ // by the other copy
			{N: 4, Model: "item", UID: "u001", Op: tidemark.Update, Data: tidemark.Row(`{"label":"done"}`), Stamp: T1},
		}}, nil); err != nil {
			t.Fatal(err)
		}
		p.crash()
		pass(time.Second)
		p.batches = nil
		p.update("u001", "done") // the same write, which must not be taken for the other one
		p.pending(0)
		p.has("done", "l002", "l003")
		synctest.Wait()
		if b := p.batches[0]; b.Client == name {
			t.Error("it pushes under the name of the other copy")
		}
		p.rejections()
	})
}
