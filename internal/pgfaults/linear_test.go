package pgfaults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// register is one row as porcupine sees it: a write makes it a number, or 0, which is no row; a
// read returns what it is. Stamps come from one clock at the call, so that a write that is superseded was
// under way together with the one that superseded it, and came right before it.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		rows := make(map[string][]porcupine.Operation)
		for _, o := range history {
			uid := o.Input.(access).uid
			rows[uid] = append(rows[uid], o)
		}
		for _, part := range rows {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return int64(0) },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(access); in.write {
			return true, in.value
		}
		return output.(int64) == state.(int64), state
	},
	DescribeOperation: func(input, output any) string {
		if in := input.(access); in.write {
			return fmt.Sprintf("%s = %d", in.uid, in.value)
		}
		return fmt.Sprintf("%s is %d", input.(access).uid, output)
	},
}

// access is one operation on a row.
type access struct {
	uid   string
	write bool
	value int64
}

// TestTheRegisterIsStrict: the checker finds what the tests below are to find.
func TestTheRegisterIsStrict(t *testing.T) {
	t.Parallel()
	op := func(call, end int64, write bool, value int64) porcupine.Operation {
		return porcupine.Operation{Input: access{"u", write, value}, Output: value, Call: call, Return: end}
	}
	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    bool
	}{
		"a stale read":       {[]porcupine.Operation{op(1, 2, true, 1), op(3, 4, true, 2), op(5, 6, false, 1)}, false},
		"a lost write":       {[]porcupine.Operation{op(1, 2, true, 1), op(3, 4, false, 0)}, false},
		"back and forth":     {[]porcupine.Operation{op(1, 2, true, 1), op(3, 20, true, 2), op(5, 6, false, 2), op(7, 8, false, 1)}, false},
		"an unknown write":   {[]porcupine.Operation{op(1, 2, true, 1), op(3, 99, true, 2), op(5, 6, false, 1), op(7, 8, false, 2)}, true},
		"one that never was": {[]porcupine.Operation{op(1, 2, true, 1), op(3, 99, true, 2), op(5, 6, false, 1)}, true},
	} {
		if got := porcupine.CheckOperations(register, c.history); got != c.want {
			t.Errorf("%s: linearizable %v, want %v", name, got, c.want)
		}
	}
}

// subject is a driver whose rows are looked at.
type subject struct {
	d tidemark.LogDriver
	// within runs fn in a transaction, where the driver has such.
	within func(ctx context.Context, fn func(ctx context.Context) error) error
	// disturb prepares the disturbance of an operation that begins; it may end its context.
	disturb func(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc)
}

// TestLinear: whatever way a row is written and read, it behaves as one register. An operation without an
// answer may have happened at any later time, or never.
func TestLinear(t *testing.T) {
	t.Parallel()
	subjects := map[string]func(t *testing.T) *subject{"sqlite": onSQLite, "memory": inMemory}
	for _, m := range modes {
		subjects["postgres "+m.name] = func(t *testing.T) *subject { return onPostgres(t, m) }
	}
	for name, open := range subjects {
		for _, disturbed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/disturbed=%v", name, disturbed), func(t *testing.T) {
				t.Parallel()
				s := open(t)
				if !disturbed {
					s.disturb = func(ctx context.Context, _ *rand.Rand) (context.Context, context.CancelFunc) { return ctx, func() {} }
				}
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				var answered, unknown int
				for round := range 10 {
					h := s.history(t, rand.New(rand.NewPCG(seed, uint64(round))), fmt.Sprint("r", round, "."))
					answered, unknown = answered+h.answered, unknown+h.unknown
					if result := porcupine.CheckOperationsTimeout(register, h.operations, time.Minute); result != porcupine.Ok {
						t.Fatalf("round %d: %s\n%s", round, result, h)
					}
				}
				t.Logf("%d operations, %d of them without an answer", answered+unknown, unknown)
				if disturbed && unknown == 0 {
					t.Error("nothing was disturbed")
				}
			})
		}
	}
}

// history is what clients did and saw.
type history struct {
	mu         sync.Mutex // protects all
	operations []porcupine.Operation
	answered   int
	unknown    int
}

func (h *history) String() string {
	s := ""
	for _, o := range h.operations {
		s += fmt.Sprintf("%d: %d-%d %s\n", o.ClientId, o.Call, o.Return, register.DescribeOperation(o.Input, o.Output))
	}
	return s
}

const never = int64(1) << 60

func (s *subject) history(t *testing.T, random *rand.Rand, prefix string) *history {
	const clients, each, rows = 6, 15, 2
	h := &history{}
	var clock atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for k := range clients {
		own := rand.New(rand.NewPCG(random.Uint64(), uint64(k)))
		wg.Go(func() {
			for i := range each {
				in := access{uid: fmt.Sprint(prefix, own.IntN(rows)), write: own.IntN(2) == 0}
				o := porcupine.Operation{ClientId: k, Call: int64(time.Since(start))}
				stamp := clock.Add(1)
				if in.write && own.IntN(4) > 0 { // otherwise it deletes
					in.value = stamp
				}
				value, err := s.do(t, own, in, late+tidemark.Stamp(stamp), fmt.Sprint(prefix, k, ".", i))
				o.Input, o.Output, o.Return = in, value, int64(time.Since(start))
				h.mu.Lock()
				switch {
				case err == nil:
					h.answered++
					h.operations = append(h.operations, o)
				case !tidemark.Temporary(err) && !errors.Is(err, context.Canceled):
					t.Errorf("%+v: %v", in, err)
				default:
					h.unknown++
					if o.Return = never; in.write {
						h.operations = append(h.operations, o)
					}
				}
				h.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return h
}

// do reads or writes a row in one of the ways.
func (s *subject) do(t *testing.T, random *rand.Rand, in access, stamp tidemark.Stamp, client string) (int64, error) {
	ctx, cancel := s.disturb(t.Context(), random)
	defer cancel()
	if !in.write {
		return s.read(ctx, random, in.uid)
	}
	m := mutation(tidemark.Delete, "note", in.uid, "", stamp)
	if in.value != 0 {
		m = mutation(tidemark.Update, "note", in.uid, fmt.Sprintf(`{"n":%d}`, in.value), stamp)
	}
	switch random.IntN(3) {
	case 0:
		_, err := s.d.Write(ctx, []tidemark.Mutation{m})
		return 0, err
	case 1:
		if s.within != nil {
			return 0, s.within(ctx, func(ctx context.Context) error {
				_, err := s.d.Write(ctx, []tidemark.Mutation{m})
				return err
			})
		}
	}
	for n := 1; ; n++ { // a client pushes until it has verdicts
		_, err := s.d.Push(ctx, batchOf(client, 1, m), nil)
		if err == nil || !tidemark.Temporary(err) || n == 4 || ctx.Err() != nil {
			return 0, err
		}
	}
}

func (s *subject) read(ctx context.Context, random *rand.Rand, uid string) (int64, error) {
	p, err := tidemark.Where{"uid": uid}.Compile(s.d.Models()[0])
	if err != nil {
		return 0, err
	}
	var row tidemark.Row
	switch random.IntN(3) {
	case 0:
		snap, err := s.d.Snapshot(ctx, p, nil)
		if err != nil || len(snap.Selected) == 0 {
			return 0, err
		}
		row = snap.Selected[0].Row
	case 1:
		page, err := s.d.Pull(ctx, tidemark.Pull{Scope: p, Limit: 5, Bytes: 1 << 16})
		if err != nil || len(page.Rows) == 0 {
			return 0, err
		}
		row = page.Rows[0].Row
	default:
		rows, err := s.d.Find(ctx, p, 0)
		if err != nil || len(rows) == 0 {
			return 0, err
		}
		row = rows[0]
	}
	return strconv.ParseInt(string(row.Get("n")), 10, 64)
}

func onPostgres(t *testing.T, m mode) *subject {
	b := newBench(t, m)
	b.db.SetMaxIdleConns(6)
	return &subject{d: b.d, within: inTx(b.d), disturb: func(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
		if random.IntN(6) == 0 {
			b.wire.arm(moment(random.IntN(moments)), 1+random.IntN(60))
		}
		return ctx, func() {}
	}}
}

func onSQLite(t *testing.T) *subject {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "test.db")+"?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF")
	if err != nil {
		t.Fatal(err)
	}
	b := bun.NewDB(db, sqlitedialect.New())
	t.Cleanup(func() { _ = b.Close() })
	for _, s := range []string{"CREATE TABLE note (uid TEXT NOT NULL PRIMARY KEY, text TEXT, n INTEGER)", "CREATE TABLE list (uid TEXT NOT NULL PRIMARY KEY, title TEXT NOT NULL)"} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	d, err := bundriver.New(t.Context(), b, models, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &subject{d: d, within: inTx(d), disturb: hasten}
}

func inMemory(t *testing.T) *subject {
	schema, err := tidemark.NewSchema("note", []tidemark.Field{{Name: "text", Kind: tidemark.Text}, {Name: "n", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	d := memory.New(schema)
	return &subject{d: d, within: d.RunInTx, disturb: func(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
		if random.IntN(8) > 0 {
			return ctx, func() {}
		}
		f := &fleeting{Context: ctx}
		f.looks.Store(int64(random.IntN(4)))
		return f, func() {}
	}}
}

// fleeting is a context that ends after so many looks at it: in memory nothing takes long enough for a clock.
type fleeting struct {
	context.Context
	looks atomic.Int64
}

func (f *fleeting) Err() error {
	if f.looks.Add(-1) < 0 {
		return context.Canceled
	}
	return f.Context.Err()
}

// hasten ends the context of some operations while they are under way.
func hasten(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
	if random.IntN(8) > 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(random.IntN(1_000_000)))
}

func inTx(d *bundriver.Driver) func(ctx context.Context, fn func(ctx context.Context) error) error {
	return func(ctx context.Context, fn func(ctx context.Context) error) error {
		return d.RunInTx(ctx, func(ctx context.Context, _ bun.Tx) error { return fn(ctx) })
	}
}
