package pgfaults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type (
	Note struct {
		bun.BaseModel `bun:"table:note"`
		UID           string  `bun:"uid,pk"`
		Text          *string `bun:"text"`
		N             *int64  `bun:"n"`
	}
	List struct {
		bun.BaseModel `bun:"table:list"`
		UID           string `bun:"uid,pk"`
		Title         string `bun:"title,notnull"`
	}
)

var models = []any{(*Note)(nil), (*List)(nil)}

const tables = `CREATE TABLE note (uid text PRIMARY KEY, text text, n bigint);
	CREATE TABLE list (uid text PRIMARY KEY, title text NOT NULL);
	CREATE TABLE own (id text PRIMARY KEY)`

// mode is a way to speak with PostgreSQL.
type mode struct {
	name   string
	simple bool
	opts   *bundriver.Options
}

var modes = []mode{
	{"piped", false, nil},
	{"prepared", false, &bundriver.Options{Prepare: true}},
	{"simple", true, nil}, // statement by statement
}

// bench is a database with two drivers: one over a wire that can be cut, one that is never disturbed.
type bench struct {
	testing.TB
	dsn    string
	wire   *wire
	d      *bundriver.Driver
	db     *bun.DB
	calm   *bundriver.Driver
	calmDB *bun.DB
}

// newBench has parameters of the sessions of d as name=value.
func newBench(t testing.TB, m mode, parameters ...string) *bench {
	t.Helper()
	b := &bench{TB: t, dsn: pgtest.DSN(t), wire: &wire{}}
	b.calmDB = pgtest.Connect(t, b.dsn)
	b.exec(tables)
	b.calm = b.driver(b.calmDB, nil)
	if err := b.calm.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := pgtest.Config(t, b.dsn)
	cfg.DialFunc = b.wire.dial
	cfg.RuntimeParams["application_name"] = "disturbed"
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		cfg.RuntimeParams[name] = value
	}
	if m.simple {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	}
	b.db = bun.NewDB(stdlib.OpenDB(*cfg), pgdialect.New())
	t.Cleanup(func() {
		_ = b.db.Close()
		b.wire.finishing.Wait()
	})
	b.d = b.driver(b.db, m.opts)
	return b
}

func (b *bench) driver(db *bun.DB, opts *bundriver.Options) *bundriver.Driver {
	b.Helper()
	d, err := bundriver.New(context.Background(), db, models, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

func (b *bench) exec(statement string, args ...any) {
	b.Helper()
	if _, err := b.calmDB.DB.ExecContext(context.Background(), statement, args...); err != nil {
		b.Fatalf("%s: %v", statement, err)
	}
}

func (b *bench) number(query string, args ...any) (n int64) {
	b.Helper()
	if err := b.calmDB.DB.QueryRowContext(context.Background(), query, args...).Scan(&n); err != nil {
		b.Fatalf("%s: %v", query, err)
	}
	return n
}

// origin is the client of an entry of the log, without the driver that made it.
const origin = `regexp_replace(l.origin, '^.*/', '')`

// stateOf is everything that the database has of uids with the prefix, without it: rows, metadata, log.
const stateOf = `SELECT coalesce(string_agg(x.s, E'\n' ORDER BY x.s), '') FROM (
	SELECT 'note ' || to_jsonb(t)::text AS s FROM note t WHERE starts_with(t.uid, $1)
	UNION ALL SELECT 'list ' || to_jsonb(t)::text FROM list t WHERE starts_with(t.uid, $1)
	UNION ALL SELECT 'own ' || to_jsonb(t)::text FROM own t WHERE starts_with(t.id, $1)
	UNION ALL SELECT 'meta ' || to_jsonb(m)::text FROM metadata m WHERE starts_with(m.uid, $1)
	UNION ALL SELECT 'uid ' || to_jsonb(u)::text FROM tidemark.uids u WHERE starts_with(u.uid, $1)
	UNION ALL SELECT 'log ' || jsonb_build_array(l.uid, l.model, l.before, l.stamp, ` + origin + `)::text FROM tidemark.log l WHERE starts_with(l.uid, $1)) x`

func (b *bench) state(prefix string) string {
	b.Helper()
	var s string
	if err := b.calmDB.DB.QueryRowContext(context.Background(), stateOf, prefix).Scan(&s); err != nil {
		b.Fatal(err)
	}
	return strings.ReplaceAll(s, prefix, "ID.")
}

// settle waits until no session of the disturbed handle is at work.
func (b *bench) settle() {
	b.Helper()
	b.wire.finishing.Wait()
	b.until(func() bool {
		return b.number(`SELECT count(*) FROM pg_stat_activity WHERE application_name = 'disturbed' AND datname = current_database() AND state <> 'idle'`) == 0
	})
}

// until waits for a condition.
func (b *bench) until(what func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !what() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.Fatal("waited in vain")
		}
	}
}

// waiting waits until so many sessions wait for a lock.
func (b *bench) waiting(n int64) {
	b.Helper()
	b.until(func() bool {
		return b.number(`SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == n
	})
}

func mutation(op tidemark.Op, model, uid, data string, at tidemark.Stamp) tidemark.Mutation {
	m := tidemark.Mutation{Model: model, UID: uid, Op: op, Stamp: at}
	if data != "" {
		m.Data = tidemark.Row(data)
	}
	return m
}

// batchOf numbers mutations from first.
func batchOf(client string, first int64, ms ...tidemark.Mutation) *tidemark.Batch {
	ms = slices.Clone(ms)
	for i := range ms {
		ms[i].N = first + int64(i)
	}
	return &tidemark.Batch{Client: client, Mutations: ms}
}

// told gives verdicts in short, without whether they are repeated.
func told(vs []tidemark.Verdict) string {
	var s []string
	for _, v := range vs {
		word := "superseded"
		switch {
		case v.Err != nil:
			word = string(v.Err.Code)
		case v.Applied:
			word = "applied"
		}
		s = append(s, fmt.Sprint(v.N, " ", word))
	}
	return strings.Join(s, ", ")
}

func repeated(vs []tidemark.Verdict) (n int) {
	for _, v := range vs {
		if v.Repeated {
			n++
		}
	}
	return n
}

// ledger reads what the database remembers of a client.
func (b *bench) ledger(client string) *tidemark.Ledger {
	b.Helper()
	var text string
	if err := b.calmDB.DB.QueryRowContext(context.Background(), "SELECT ledger FROM tidemark.clients WHERE client = $1", client).Scan(&text); err != nil {
		b.Fatal(err)
	}
	l := &tidemark.Ledger{}
	if err := json.Unmarshal([]byte(text), l); err != nil {
		b.Fatalf("the ledger %s: %v", text, err)
	}
	return l
}

// checkLedger holds the ledger and Known against the verdicts of a batch, which is all that the client ever pushed.
func (b *bench) checkLedger(batch *tidemark.Batch, vs []tidemark.Verdict) {
	b.Helper()
	l := b.ledger(batch.Client)
	highest := batch.Mutations[len(batch.Mutations)-1].N
	if known, err := b.calm.Known(context.Background(), batch.Client); err != nil || known != highest || l.Highest != highest || len(l.Receipts) != len(vs) {
		b.Errorf("%s: known up to %d, %v; the ledger has %d and %d receipts; want %d", batch.Client, known, err, l.Highest, len(l.Receipts), highest)
		return
	}
	for i, r := range l.Receipts {
		if r.Digest != batch.Mutations[i].Digest() || r.Applied != vs[i].Applied || tidemark.CodeOf(errOf(r.Err)) != tidemark.CodeOf(errOf(vs[i].Err)) {
			b.Errorf("%s: receipt %d is %+v, the verdict %+v", batch.Client, i, r, vs[i])
		}
	}
}

// errOf makes a nil error of no error.
func errOf(e *tidemark.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// witness notes how its transactions ended.
type witness struct {
	decided   int
	committed int
	undone    int
}

func (w *witness) Decided(int, []tidemark.Outcome) { w.decided++ }
func (w *witness) Ended(committed bool) {
	if committed {
		w.committed++
	} else {
		w.undone++
	}
}
