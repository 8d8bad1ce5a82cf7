package server_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// The application's tables: two models, and a log that is its own.
type (
	sqlPost struct {
		bun.BaseModel `bun:"table:post"`
		UID           string     `bun:"uid,pk,type:text" json:"uid"`
		Title         string     `bun:"title,type:text,notnull" json:"title"`
		Owner         *string    `bun:"owner,type:text" json:"owner"`
		Likes         *int64     `bun:"likes" json:"likes"`
		Due           *time.Time `bun:"due,type:timestamp" json:"due"`
	}
	sqlTag struct {
		bun.BaseModel `bun:"table:tag"`
		UID           string  `bun:"uid,pk,type:text"`
		Name          *string `bun:"name,type:text"`
	}
	sqlLog struct {
		bun.BaseModel `bun:"table:log"`
		ID            int64  `bun:"id,pk,autoincrement"`
		Text          string `bun:"text,type:text,notnull,unique"`
	}
)

// sqlBench is a bench over a database in SQL.
type sqlBench struct {
	*bench
	db     *bun.DB
	driver *bundriver.Driver
}

// onSQL runs a test on each kind of database.
func onSQL(t *testing.T, run func(t *testing.T, b *sqlBench)) {
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		run(t, setupSQL(t, pgtest.Open(t)))
	})
	for name, conns := range map[string]int{"SQLite": 0, "SQLite on one connection": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), "test.db")+"?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF")
			if err != nil {
				t.Fatal(err)
			}
			raw.SetMaxOpenConns(conns)
			db := bun.NewDB(raw, sqlitedialect.New())
			t.Cleanup(func() { _ = db.Close() })
			run(t, setupSQL(t, db))
		})
	}
}

func setupSQL(t *testing.T, db *bun.DB) *sqlBench {
	t.Helper()
	for _, model := range []any{(*sqlPost)(nil), (*sqlTag)(nil), (*sqlLog)(nil)} {
		if _, err := db.NewCreateTable().Model(model).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	driver, err := bundriver.New(t.Context(), db, []any{(*sqlPost)(nil), (*sqlTag)(nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := driver.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &sqlBench{bench: &bench{t: t, log: &logText{}}, db: db, driver: driver}
	if b.server, err = server.New(driver, &server.Options{Logger: textLogger(b.log), Now: func() time.Time { return noon }}); err != nil {
		t.Fatal(err)
	}
	b.pipe = pipe.New(b.server, nil)
	t.Cleanup(func() {
		b.server.Close()
		b.pipe.Close()
		_ = driver.Close()
	})
	b.shared()
	return b
}

func (b *sqlBench) logged() int {
	b.t.Helper()
	n, err := b.db.NewSelect().Model((*sqlLog)(nil)).Count(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return int(n)
}

func (b *sqlBench) update(ctx context.Context, uid, title string, seconds int) error {
	_, err := b.server.Service("post").Call(ctx, tidemark.MethodUpdate, uid, map[string]any{"title": title}, stamp(seconds))
	return err
}

// The application's own rows and its models are written together or not at all.
func TestRunInTxOfBun(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		c := b.dial()
		failure := errors.New("no")
		write := func(title string, seconds int, end func(ctx context.Context, tx bun.Tx) error) error {
			return b.driver.RunInTx(t.Context(), func(ctx context.Context, tx bun.Tx) error {
				if _, err := tx.NewInsert().Model(&sqlLog{Text: title}).Exec(ctx); err != nil {
					return err
				}
				if err := b.update(ctx, "a", title, seconds); err != nil {
					return err
				}
				var p sqlPost // plain bun sees what the service wrote, in the transaction
				if err := tx.NewSelect().Model(&p).Where("uid = ?", "a").Scan(ctx); err != nil || p.Title != title {
					t.Errorf("bun sees %q, %v", p.Title, err)
				}
				return end(ctx, tx)
			})
		}
		if err := write("1", 1, func(context.Context, bun.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := write("2", 2, func(context.Context, bun.Tx) error { return failure }); !errors.Is(err, failure) {
			t.Errorf("got %v", err)
		}
		// A statement of the application's that fails, whose error it does not heed.
		err := write("3", 3, func(ctx context.Context, tx bun.Tx) error {
			_, _ = tx.NewInsert().Model(&sqlLog{Text: "1"}).Exec(ctx)
			return nil
		})
		if committed := b.logged() == 2; committed != (err == nil) {
			t.Errorf("committed %v, and the error is %v", committed, err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = write("4", 4, func(context.Context, bun.Tx) error { panic("no") })
		}()
		c.settled()
		want := []string{`updateWithMeta "1"`}
		if err == nil {
			want = append(want, `updateWithMeta "3"`)
		}
		equalList(t, c.titles(), want)
		if got := b.logged(); got != len(want) {
			t.Errorf("%d rows in the log, want %d", got, len(want))
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = b.driver.RunInTx(ctx, func(ctx context.Context, _ bun.Tx) error {
			defer cancel()
			return b.update(ctx, "a", "5", 5)
		})
		if err == nil {
			t.Error("committed though the context has ended")
		}
		c.result("post", "updateWithMeta", "a", map[string]any{"title": "6"}, at(6))
		equalList(t, c.titles(), append(want, `updateWithMeta "6"`))
		if n := b.server.Rows(); n != 0 {
			t.Errorf("%d rows are still held or waited for", n)
		}
	})
}

// A session's write waits for a transaction that has its row, in the database; the
// transaction may write the row again, and others, without waiting for that session.
func TestATransactionDoesNotWaitForThoseThatWaitForIt(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		c := b.dial()
		var id uint64
		err := b.driver.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
			if err := b.update(ctx, "a", "1", 1); err != nil {
				return err
			}
			id = c.send("post", "updateWithMeta", "a", map[string]any{"title": "3"}, at(3))
			poll(t, "the session to hold the row", func() bool { return b.server.Held("post", "a") })
			return errors.Join(b.update(ctx, "a", "2", 2), b.update(ctx, "b", "2", 2))
		})
		if err != nil {
			t.Fatal(err)
		}
		if a := c.answer(id); a.Err != nil {
			t.Fatal(a.Err)
		}
		c.settled()
		got := slices.DeleteFunc(c.events(), func(e string) bool { return !strings.Contains(e, `{"uid":"a"`) })
		for i, want := range []string{`"title":"1"`, `"title":"2"`, `"title":"3"`} {
			if len(got) != 3 || !strings.Contains(got[i], want) {
				t.Fatalf("of row a we hear of %q", got)
			}
		}
	})
}

// Two transactions that take two rows in opposite orders end, both or one of them.
func TestTransactionsInOppositeOrders(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		c := b.dial()
		done := make(chan error, 2)
		first := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		for i, uids := range [][2]string{{"a", "b"}, {"b", "a"}} {
			go func() {
				done <- b.driver.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
					if err := b.update(ctx, uids[0], fmt.Sprint(i), 1+i); err != nil {
						return err
					}
					close(first[i])
					if b.db.Dialect().Name().String() == "pg" { // SQLite lets the second begin when the first has ended
						<-first[1-i]
					}
					return b.update(ctx, uids[1], fmt.Sprint(i), 1+i)
				})
			}()
		}
		events := 0
		for range 2 {
			err := <-done
			switch tidemark.CodeOf(err) {
			case "":
				events += 2
			case tidemark.CodeUnavailable: // the deadlock's victim may try again
			default:
				t.Errorf("got %v", err)
			}
		}
		if events == 0 {
			t.Error("neither has succeeded")
		}
		c.settled()
		if got := len(c.events()); got != events {
			t.Errorf("%d events, want %d", got, events)
		}
	})
}

func TestEventsOfTransactionsOfBunLeaveInTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		writersOfRows(t, b.bench, rand.New(rand.NewPCG(seed, 0)), func(ctx context.Context, fn func(context.Context) error) error {
			return b.driver.RunInTx(ctx, func(ctx context.Context, _ bun.Tx) error { return fn(ctx) })
		})
	})
}

// Two servers' drivers on one database: a transaction belongs to one of them.
func TestATransactionOfAnotherDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		other := memory.New(schemas(t)...)
		err := other.RunInTx(t.Context(), func(ctx context.Context) error { return b.update(ctx, "a", "x", 1) })
		if tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("got %v", err)
		}
		if err := b.driver.Migrate(t.Context()); err != nil { // nothing is left locked
			t.Error(err)
		}
	})
}
