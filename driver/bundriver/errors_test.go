package bundriver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

func TestMessagesTellNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _ := e.ready(t)
		write(t, d, create("entry", "e", `{"slug":"canary-value"}`, 5))
		for _, data := range []string{`{"slug":"canary-value"}`, `{"list_id":"canary-value"}`, `{"rank":-77777}`} {
			o := write(t, d, create("entry", "x", data, 5))[0]
			if o.Err == nil {
				t.Fatalf("%s was written", data)
			}
			for _, leak := range []string{"canary", "77777", "SQL", "INSERT", "pkey", "_key", "_check", "entry", "constraint failed", "23"} {
				if strings.Contains(o.Err.Message, leak) {
					t.Errorf("%q tells %q", o.Err.Message, leak)
				}
			}
			if errors.Unwrap(o.Err) == nil {
				t.Errorf("%s: the cause is lost", data)
			}
		}
	})
}

// Late refers to a list that may come later in the transaction.
type Late struct {
	bun.BaseModel `bun:"table:late"`
	UID           string  `bun:"uid,pk"`
	ListID        *string `bun:"list_id"`
}

func openLate(t *testing.T, e engine) (*bundriver.Driver, *bun.DB) {
	t.Helper()
	db := e.open(t)
	mustExec(t, db, e.tables)
	mustExec(t, db, "CREATE TABLE late (uid TEXT NOT NULL PRIMARY KEY, list_id TEXT REFERENCES list DEFERRABLE INITIALLY DEFERRED)")
	return e.driver(t, db, []any{Late{}, List{}}), db
}

func TestDeferredConstraints(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, _ := openLate(t, e)
		for i, o := range write(t, d, create("late", "a", `{"list_id":"l"}`, 5), create("list", "l", `{"title":"x"}`, 5)) {
			if !o.Applied {
				t.Errorf("a child before its parent: mutation %d: %+v", i, o)
			}
		}
		outs := write(t, d, create("late", "b", `{"list_id":"l"}`, 5), create("late", "c", `{"list_id":"nobody"}`, 5), create("late", "d", `{"list_id":"l"}`, 5))
		if !outs[0].Applied || !outs[2].Applied || outs[1].Err == nil || outs[1].Err.Kind != tidemark.ConstraintReference {
			t.Errorf("got %+v", outs)
		}
	})
}

func TestTriggersThatRefuse(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	mustExec(t, db, postgresTables)
	mustExec(t, db, `CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.title = 'silent' THEN RETURN NULL; ELSIF NEW.title = 'loud' THEN RAISE EXCEPTION 'secret'; END IF; NEW.title := upper(NEW.title); RETURN NEW; END $$;
CREATE TRIGGER judge BEFORE INSERT OR UPDATE ON list FOR EACH ROW EXECUTE FUNCTION judge()`)
	d := engines[0].driver(t, db, models)
	outs := write(t, d, create("list", "a", `{"title":"a"}`, 5), create("list", "b", `{"title":"silent"}`, 5), create("list", "c", `{"title":"loud"}`, 5), create("list", "d", `{"title":"d"}`, 5))
	if string(outs[0].Row) != `{"uid":"a","title":"A"}` || !outs[3].Applied {
		t.Errorf("got %+v", outs)
	}
	for _, o := range outs[1:3] {
		if o.Err == nil || o.Err.Kind != tidemark.ConstraintCheck || strings.Contains(o.Err.Message, "secret") {
			t.Errorf("got %+v", o)
		}
	}
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	db := pgtest.Connect(t, dsn)
	mustExec(t, db, postgresTables)
	d := engines[0].driver(t, db, models)
	ctx, end := context.WithTimeout(context.Background(), time.Minute) // so that nothing here waits for ever
	defer end()
	other, err := pgtest.Connect(t, dsn).Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ExecContext(ctx, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.ExecContext(ctx, "INSERT INTO list VALUES ('a', 'theirs')"); err != nil {
		t.Fatal(err)
	}
	blocked, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = d.Write(blocked, []tidemark.Mutation{create("list", "a", `{"title":"ours"}`, 5)})
	if tidemark.CodeOf(err) != tidemark.CodeUnavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that is not given: %v", err)
	}
	waiting := func(want int) func() bool {
		return func() bool {
			n := -1
			_ = db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").Scan(&n)
			return n == want
		}
	}
	waitFor(t, waiting(0)) // the server may take a while to see that the first has gone
	done := make(chan error, 1)
	go func() {
		_, err := d.Write(ctx, []tidemark.Mutation{create("list", "a", `{"title":"ours"}`, 5)})
		done <- err
	}()
	waitFor(t, waiting(1))
	mustExec(t, db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
	if err := <-done; tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		t.Errorf("a connection that was cut: %v", err)
	}
	go func() {
		_, err := d.Write(ctx, []tidemark.Mutation{create("list", "a", `{"title":"ours"}`, 5)})
		done <- err
	}()
	waitFor(t, waiting(1))
	if _, err := other.ExecContext(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	// The other program's row came in between: the write is made again, as an update.
	if err := <-done; err != nil {
		t.Errorf("a row that another program inserted meanwhile: %v", err)
	}
	_ = db.Close()
	if _, err := d.Write(ctx, []tidemark.Mutation{create("list", "b", `{"title":"x"}`, 5)}); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		t.Errorf("a closed handle: %v", err)
	}
}

func TestSQLiteIsBusy(t *testing.T) {
	t.Parallel()
	d, db := engines[1].ready(t)
	ctx := context.Background()
	mustExec(t, db, "PRAGMA busy_timeout = 20")
	other, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := d.Write(short, []tidemark.Mutation{create("list", "a", `{"title":"x"}`, 5)}); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := other.ExecContext(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	write(t, d, create("list", "a", `{"title":"x"}`, 5))
}

// TestTwoProcessesOnOneSQLiteFile has writers that do not queue up in one driver.
func TestTwoProcessesOnOneSQLiteFile(t *testing.T) {
	t.Parallel()
	a, db := engines[1].ready(t)
	b := engines[1].driver(t, db, models)
	done := make(chan error, 2)
	for k, d := range []*bundriver.Driver{a, b} {
		go func() {
			for i := range 100 {
				m := create("note", "hot", fmt.Sprintf(`{"n":%d}`, 2*i+k), tidemark.Stamp(1+2*i+k))
				if _, err := d.Write(context.Background(), []tidemark.Mutation{m}); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("a writer that should have waited for the other: %v", err)
		}
	}
	p, err := tidemark.Where{"n": 199}.Compile(a.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := a.Find(context.Background(), p, 0); err != nil || len(rows) != 1 {
		t.Errorf("the newest write is lost: %v", err)
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !what() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		ctx := context.Background()
		mustExec(t, db, e.tables)
		mustExec(t, db, "CREATE TABLE metadata (uid text PRIMARY KEY, created_at timestamp, updated_at timestamp, deleted_at timestamp)")
		mustExec(t, db, "INSERT INTO metadata (uid, created_at) VALUES ('old', '2020-01-01 00:00:00')")
		mustExec(t, db, "INSERT INTO list VALUES ('old', 'x'), ('both', 'x')")
		mustExec(t, db, "INSERT INTO note (uid) VALUES ('both')")
		var values []string
		for i := range 4500 {
			values = append(values, fmt.Sprintf("('u%04d')", i))
		}
		mustExec(t, db, "INSERT INTO note (uid) VALUES "+strings.Join(values, ","))
		now := time.Date(2026, 5, 1, 0, 0, 0, 1000, time.UTC)
		d, err := bundriver.New(ctx, db, models, &bundriver.Options{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		for range 3 { // processes that start at once
			go func() { done <- d.Migrate(ctx) }()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Errorf("Migrate: %v", err)
			}
		}
		var owned, metas int
		if err := db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM "+e.uids+"), (SELECT count(*) FROM metadata)").Scan(&owned, &metas); err != nil || owned != 4502 || metas != 4502 {
			t.Errorf("%d uids, %d metadata, %v; want 4502 of each", owned, metas, err)
		}
		p, err := tidemark.Where{"uid": "u4321"}.Compile(d.Models()[0])
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.Snapshot(ctx, p, []string{"both"})
		if err != nil || len(s.Selected) != 1 || s.Selected[0].Meta != (tidemark.Meta{UID: "u4321", CreatedAt: tidemark.StampOf(now)}) {
			t.Errorf("got %+v, %v", s, err)
		}
		if o := write(t, d, create("list", "both", `{"title":"y"}`, 1<<55))[0]; o.Err == nil || o.Err.Code != tidemark.CodeUIDTaken {
			t.Errorf("a uid in two tables is the first one's: %+v", o)
		}
	})
}

func TestMigrateRefusesAnotherMetadataTable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		mustExec(t, db, "CREATE TABLE metadata (uid text PRIMARY KEY, created_at timestamp)")
		d, err := bundriver.New(context.Background(), db, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Migrate(context.Background()); err == nil || !strings.Contains(err.Error(), "is not metadata(") {
			t.Errorf("got %v", err)
		}
		d, err = bundriver.New(context.Background(), db, nil, &bundriver.Options{MetadataTable: `odd "name"`})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Migrate(context.Background()); err != nil {
			t.Errorf("another name: %v", err)
		}
	})
}
