package pgfaults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgserver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

// TestTheServerCrashesUnderPushers: what was acknowledged is there afterwards, everything once, and
// a reader's cursor goes on over it.
func TestTheServerCrashesUnderPushers(t *testing.T) {
	t.Parallel()
	server, err := pgserver.Start(pgserver.Careless...) // the process crashes, the machine does not
	if errors.Is(err, pgserver.ErrNoBinaries) {
		testneeds.Missing(t, "PostgreSQL", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	for _, m := range []mode{modes[0], modes[1]} {
		t.Run(m.name, func(t *testing.T) { // one after the other: both crash the server
			cfg := pgtest.Config(t, server.DSN())
			cfg.RuntimeParams["search_path"] = m.name
			db := bun.NewDB(stdlib.OpenDB(*cfg), pgdialect.New())
			t.Cleanup(func() { _ = db.Close() })
			b := &bench{TB: t, calmDB: db}
			b.exec("CREATE SCHEMA " + m.name)
			b.exec(tables)
			opts := bundriver.Options{Schema: "tidemark_" + m.name, Prepare: m.opts != nil}
			d, err := bundriver.New(t.Context(), db, models, &opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			crash(t, server, d, b, opts.Schema)
		})
	}
}

func crash(t *testing.T, server *pgserver.Server, d *bundriver.Driver, b *bench, schema string) {
	const pushers, restarts = 4, 3
	var acknowledged, unknown atomic.Int64
	stop := make(chan struct{})
	f := newFollower(t, d)
	var wg sync.WaitGroup
	last := make([]int64, pushers)
	refused := 0
	for k := range pushers {
		wg.Go(func() { last[k] = push(t, d, k, stop, &acknowledged, &unknown) })
	}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				switch err := f.pass(t.Context()); {
				case tidemark.CodeOf(err) == tidemark.CodeCursorTooOld:
					// Numbers of transactions that left no trace in the log are given again after a crash:
					// a cursor that has seen them is refused rather than taken for what it was not.
					f.cursor, f.rows = tidemark.Cursor{}, make(map[string]string)
					refused++
				case err != nil && !tidemark.Temporary(err):
					t.Errorf("reader: %v", err)
					return
				}
			}
		}
	})
	for range restarts {
		at := acknowledged.Load()
		b.until(func() bool { return acknowledged.Load() >= at+40 || t.Failed() })
		if err := server.Restart(); err != nil {
			t.Error(err)
		}
	}
	at := acknowledged.Load()
	b.until(func() bool { return acknowledged.Load() >= at+40 || t.Failed() })
	close(stop)
	wg.Wait()
	var pushes int64
	for k := range pushers {
		pushes += last[k] / 2
		if n, err := d.Known(t.Context(), fmt.Sprint("client", k)); err != nil || n != last[k] {
			t.Errorf("client %d: known up to %d, %v; it has the verdicts up to %d", k, n, err, last[k])
		}
	}
	t.Logf("%d pushes, %d attempts without an answer, %d cursors refused", pushes, unknown.Load(), refused)
	if unknown.Load() == 0 {
		t.Error("no push met with a crash")
	}
	if got, want := b.number("SELECT count(*) FROM note WHERE uid <> 'hot'"), pushes; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	if got := b.number("SELECT count(*) FROM " + schema + ".log WHERE uid <> 'hot'"); got != pushes {
		t.Errorf("%d entries of new rows, want %d", got, pushes)
	}
	if got := b.number("SELECT count(*) - count(DISTINCT stamp) FROM " + schema + ".log WHERE uid = 'hot'"); got != 0 {
		t.Errorf("%d entries of the row that everybody writes are there twice", got)
	}
	if tidemark.CodeOf(f.pass(t.Context())) == tidemark.CodeCursorTooOld {
		f.cursor, f.rows = tidemark.Cursor{}, make(map[string]string)
	}
	if err := f.pass(t.Context()); err != nil {
		t.Error(err)
	}
	if got := int64(len(f.rows)); got != pushes+1 {
		t.Errorf("the reader has %d rows, want %d", got, pushes+1)
	}
}

// push pushes as client k until stop is closed, each batch until it has verdicts, and returns its last number.
func push(t *testing.T, d *bundriver.Driver, k int, stop chan struct{}, acknowledged, unknown *atomic.Int64) int64 {
	for n := int64(1); ; n += 2 {
		select {
		case <-stop:
			return n - 1
		default:
		}
		batch := batchOf(fmt.Sprint("client", k), n, mutation(tidemark.Create, "note", fmt.Sprint("u", k, ".", n), `{}`, late),
			mutation(tidemark.Update, "note", "hot", fmt.Sprintf(`{"n":%d}`, n), late+tidemark.Stamp(n*10+int64(k))))
		batch.Confirmed = n - 1
		for {
			vs, err := d.Push(context.Background(), batch, nil)
			if err == nil {
				if len(vs) != 2 || !vs[0].Applied {
					t.Errorf("client %d: %s", k, told(vs))
				}
				break
			}
			if unknown.Add(1); !tidemark.Temporary(err) {
				t.Errorf("client %d: %v", k, err)
				return n - 1
			}
		}
		acknowledged.Add(1)
	}
}

// follower keeps a copy of the notes by cursors.
type follower struct {
	d      *bundriver.Driver
	scope  *tidemark.Predicate
	cursor tidemark.Cursor
	rows   map[string]string
}

func newFollower(t testing.TB, d *bundriver.Driver) *follower {
	t.Helper()
	p, err := tidemark.Where{}.Compile(d.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	return &follower{d: d, scope: p, rows: make(map[string]string)}
}

func (f *follower) pass(ctx context.Context) error {
	q := tidemark.Pull{Scope: f.scope, From: f.cursor, Limit: 1000, Bytes: 1 << 20}
	var upto tidemark.Cursor
	for first := true; ; first = false {
		page, err := f.d.Pull(ctx, q)
		if err != nil {
			return err
		}
		if first {
			upto = page.Horizon
		}
		for _, rm := range page.Rows {
			f.rows[rm.Row.UID()] = string(rm.Row)
		}
		if q.After = page.Last; !page.More {
			f.cursor = upto
			return nil
		}
	}
}
