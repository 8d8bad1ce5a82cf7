package pgfaults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

// held has another transaction hold the row uid of note, which it made, until release is called.
func (b *bench) held(uid string) (release func()) {
	b.Helper()
	b.put([]tidemark.Mutation{mutation(tidemark.Create, "note", uid, `{"text":"old"}`, early)})
	conn, err := b.calmDB.Conn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, s := range []string{"BEGIN", "SELECT * FROM metadata WHERE uid = '" + uid + "' FOR UPDATE"} {
		if _, err := conn.ExecContext(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	done := sync.OnceFunc(func() {
		if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			b.Error(err)
		}
		_ = conn.Close()
	})
	b.Cleanup(done)
	return done
}

// once checks that a batch, whose push failed with err, left nothing, and that it has one effect when it is pushed again.
func (b *bench) once(batch *tidemark.Batch, err error, prefix string, want string) {
	b.Helper()
	if tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		b.Errorf("got %v, want %s", err, tidemark.CodeUnavailable)
	}
	b.settle()
	if n := b.number("SELECT count(*) FROM tidemark.log l WHERE "+origin+" = $1", batch.Client); n != 0 {
		b.Errorf("%d entries of a push that failed", n)
	}
	vs := b.again(batch, nil)
	if told(vs) != want || repeated(vs) != 0 {
		b.Errorf("again: got %s, %d of them repeated; want %s", told(vs), repeated(vs), want)
	}
	b.checkLedger(batch, vs)
	if n := b.number("SELECT count(*) FROM tidemark.log l WHERE "+origin+" = $1 AND starts_with(l.uid, $2)", batch.Client, prefix); n != int64(strings.Count(want, "applied")) {
		b.Errorf("%d entries for %s", n, want)
	}
}

func blockedBatch() *tidemark.Batch {
	return batchOf("client", 1, mutation(tidemark.Create, "note", "x.1", `{"n":1}`, late), mutation(tidemark.Update, "note", "x.held", `{"text":"new"}`, late))
}

// TestAPushThatWaits: its session is ended, its time runs out, the database's time limits strike.
func TestAPushThatWaits(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for name, c := range map[string]struct {
			parameters []string
			disturb    func(b *bench, cancel func())
		}{
			"its session is ended": {nil, func(b *bench, _ func()) {
				b.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
			}},
			"its statement is cancelled": {nil, func(b *bench, _ func()) {
				b.exec("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
			}},
			"its context ends":  {nil, func(_ *bench, cancel func()) { cancel() }},
			"statement_timeout": {[]string{"statement_timeout=150ms"}, func(*bench, func()) {}},
			"lock_timeout":      {[]string{"lock_timeout=150ms"}, func(*bench, func()) {}},
		} {
			t.Run(m.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, m, c.parameters...)
				release := b.held("x.held")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				w := &witness{}
				go func() {
					_, err := b.d.Push(ctx, blockedBatch(), w)
					done <- err
				}()
				if c.parameters == nil {
					b.waiting(1)
				}
				c.disturb(b, cancel)
				err := <-done
				if w.committed != 0 {
					t.Errorf("the witness heard %+v", *w)
				}
				release()
				b.once(blockedBatch(), err, "x.", "1 applied, 2 applied")
			})
		}
	}
}

// TestATransactionIsEnded: whatever the application's transaction did is undone, and it may be run again.
func TestATransactionIsEnded(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for _, moment := range []string{"before the first write", "between", "before the commit"} {
			t.Run(m.name+"/"+moment, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, m)
				run := func(w *witness, ended string) error {
					return b.d.RunInTx(t.Context(), func(ctx context.Context, tx bun.Tx) error {
						end := func(at string) {
							if at != ended {
								return
							}
							var pid int64
							if err := tx.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
								t.Error(err)
							}
							b.exec("SELECT pg_terminate_backend($1, 10000)", pid)
						}
						end("before the first write")
						for i, uid := range []string{"x.1", "x.2"} {
							if _, err := b.d.WriteTx(ctx, []tidemark.Mutation{mutation(tidemark.Create, "note", uid, `{}`, late)}, w); err != nil {
								return err
							}
							if i == 0 {
								end("between")
							}
						}
						end("before the commit")
						return nil
					})
				}
				w := &witness{}
				if err := run(w, moment); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
					t.Errorf("got %v", err)
				}
				if got := b.state("x."); got != "" || w.committed != 0 || w.undone != w.decided {
					t.Errorf("the witness heard %+v, and the database has\n%s", *w, got)
				}
				w = &witness{}
				if err := run(w, ""); err != nil || w.committed != 2 || b.number("SELECT count(*) FROM tidemark.log") != 2 {
					t.Errorf("again: %v, the witness heard %+v, and the database has\n%s", err, *w, b.state("x."))
				}
			})
		}
	}
}

// TestADeadlock: two transactions write two rows in opposite orders. One of them loses; its caller runs it
// again.
func TestADeadlock(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, m, "deadlock_timeout=50ms")
			uids := []string{"x.1", "x.2"}
			for _, uid := range uids {
				b.put([]tidemark.Mutation{mutation(tidemark.Create, "note", uid, `{"n":0}`, early)})
			}
			var both, all sync.WaitGroup
			both.Add(2)
			errs, witnesses := make([]error, 2), make([]witness, 2)
			run := func(k int, meet func()) error {
				order := slices.Clone(uids)
				if k == 1 {
					slices.Reverse(order)
				}
				witnesses[k] = witness{}
				return b.d.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
					for i, uid := range order {
						ms := []tidemark.Mutation{mutation(tidemark.Update, "note", uid, fmt.Sprintf(`{"n":%d}`, k+1), late+tidemark.Stamp(k))}
						if _, err := b.d.WriteTx(ctx, ms, &witnesses[k]); err != nil {
							return err
						}
						if i == 0 {
							meet()
						}
					}
					return nil
				})
			}
			for k := range errs {
				all.Go(func() { errs[k] = run(k, func() { both.Done(); both.Wait() }) })
			}
			all.Wait()
			lost := slices.IndexFunc(errs, func(err error) bool { return err != nil })
			if lost < 0 || errs[1-lost] != nil || tidemark.CodeOf(errs[lost]) != tidemark.CodeUnavailable {
				t.Fatalf("got %v", errs)
			}
			if witnesses[lost].committed != 0 || witnesses[1-lost].committed != 2 {
				t.Errorf("the witnesses heard %+v", witnesses)
			}
			if err := run(lost, func() {}); err != nil {
				t.Errorf("again: %v", err)
			}
			// Whoever came last, the later stamp has won; the log has what it replaced only where that was there.
			if n := b.number("SELECT count(*) FROM note WHERE n = 2"); n != 2 {
				t.Errorf("%d rows have the later write, want 2:\n%s", n, b.state("x."))
			}
		})
	}
}

// TestTwoPushesInOppositeOrder: they lock all their rows in one order, so nobody loses.
func TestTwoPushesInOppositeOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, modes[0], "deadlock_timeout=50ms")
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			for i := range 50 {
				var ms []tidemark.Mutation
				for n := range 6 {
					uid := fmt.Sprint("x.", n)
					if k == 1 {
						uid = fmt.Sprint("x.", 5-n)
					}
					ms = append(ms, mutation(tidemark.Update, "note", uid, fmt.Sprintf(`{"n":%d}`, i), late+tidemark.Stamp(2*i+k)))
				}
				if _, err := b.d.Push(t.Context(), batchOf(fmt.Sprint("client", k), int64(6*i+1), ms...), nil); err != nil {
					t.Errorf("push %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestASerializableDatabase: the driver's own transactions do not depend on the default isolation; one that the
// application makes serializable loses with CodeUnavailable, and may be run again.
func TestASerializableDatabase(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, m, "default_transaction_isolation=serializable")
			p, err := tidemark.Where{}.Compile(b.d.Models()[0])
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for k := range 4 {
				wg.Go(func() {
					for i := range 15 {
						ms := []tidemark.Mutation{mutation(tidemark.Update, "note", "x.hot", `{"n":1}`, late+tidemark.Stamp(4*i+k)), mutation(tidemark.Create, "note", fmt.Sprint("x.", k, i), `{}`, late)}
						if _, err := b.d.Push(t.Context(), batchOf(fmt.Sprint("client", k), int64(2*i+1), ms...), nil); err != nil {
							t.Errorf("push: %v", err)
						}
						if _, err := b.d.Find(t.Context(), p, 0); err != nil {
							t.Errorf("find: %v", err)
						}
						if _, err := b.d.Pull(t.Context(), tidemark.Pull{Scope: p, Limit: 100, Bytes: 1 << 20}); err != nil {
							t.Errorf("pull: %v", err)
						}
					}
				})
			}
			wg.Wait()
			if n := b.number("SELECT count(*) FROM note"); n != 61 {
				t.Errorf("%d rows, want 61", n)
			}
		})
	}
}

func TestASerializationFailure(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for _, at := range []string{"the write", "the commit"} {
			t.Run(m.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, m)
				b.put([]tidemark.Mutation{mutation(tidemark.Create, "note", "x.1", `{}`, early)})
				w := &witness{}
				run := func(meanwhile func()) error {
					return b.d.RunInTx(t.Context(), func(ctx context.Context, tx bun.Tx) error {
						if _, err := tx.ExecContext(ctx, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"); err != nil {
							return err
						}
						uid := "x.1"
						if at == "the commit" { // each reads all and adds one: a write skew
							uid = "x.2"
						}
						var n int
						if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM own").Scan(&n); err != nil {
							return err
						}
						if at == "the write" {
							meanwhile()
						}
						if _, err := tx.ExecContext(ctx, "INSERT INTO own VALUES (?)", fmt.Sprint("x.own", n)); err != nil {
							return tidemark.Wrap(err, tidemark.CodeUnknown, "the test's own statement")
						}
						_, err := b.d.WriteTx(ctx, []tidemark.Mutation{mutation(tidemark.Update, "note", uid, `{"n":1}`, late)}, w)
						if at == "the commit" {
							meanwhile()
						}
						return err
					})
				}
				err := run(func() {
					if at == "the write" {
						b.put([]tidemark.Mutation{mutation(tidemark.Update, "note", "x.1", `{"n":5}`, early+1)})
						return
					}
					skew := "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM own; INSERT INTO own VALUES ('x.theirs'); COMMIT"
					conn, err := b.calmDB.Conn(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					for _, s := range strings.Split(skew, "; ") {
						if _, err := conn.ExecContext(t.Context(), s); err != nil {
							t.Fatal(err)
						}
					}
				})
				if tidemark.CodeOf(err) != tidemark.CodeUnavailable || w.committed != 0 || b.number("SELECT count(*) FROM own WHERE id <> 'x.theirs'") != 0 {
					t.Errorf("got %v, the witness heard %+v, and the database has\n%s", err, *w, b.state("x."))
				}
				if err := run(func() {}); err != nil || w.committed != 1 {
					t.Errorf("again: %v, the witness heard %+v", err, *w)
				}
			})
		}
	}
}

// TestTheDatabaseRefusesForNow: errors of the classes "insufficient resources" and "system error", at a row and at the
// commit, say nothing of the write: it is not refused, and may be pushed again.
func TestTheDatabaseRefusesForNow(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"53100", "53200", "53400", "58030", "55P03"} {
		for _, when := range []string{"at the row", "at the commit"} {
			t.Run(state+"/"+when, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, modes[0])
				b.exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '` + state + `'; END $$`)
				if when == "at the row" {
					b.exec(`CREATE TRIGGER fail BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION fail()`)
				} else {
					b.exec(`CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON tidemark.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()`)
				}
				there, ms := batch("x.")
				batch := batchOf("client", 1, ms...)
				w := &witness{}
				_, err := b.d.Push(t.Context(), batch, w)
				if e, ok := errors.AsType[*tidemark.Error](err); !ok || strings.Contains(e.Message, "secret") || w.committed != 0 {
					t.Errorf("got %v, the witness heard %+v", err, *w)
				}
				b.exec(`DROP FUNCTION fail CASCADE`)
				b.put(there)
				clean, errClean := b.calm.Push(t.Context(), func() *tidemark.Batch {
					there, ms := operations[3].make("clean.")
					b.put(there)
					return batchOf("clean", 1, ms...)
				}(), nil)
				if errClean != nil {
					t.Fatal(errClean)
				}
				b.once(batch, err, "x.", told(clean))
			})
		}
	}
}

// TestADiskIsFull has a table on a file system of a few megabytes.
func TestADiskIsFull(t *testing.T) {
	t.Parallel()
	b := newBench(t, modes[0])
	dir := smallDisk(t)
	b.exec(`CREATE TABLESPACE small LOCATION '` + dir + `'`)
	defer func() {
		b.exec(`ALTER TABLE note SET TABLESPACE pg_default`)
		b.exec(`DROP TABLESPACE small`)
	}()
	b.exec(`ALTER TABLE note SET TABLESPACE small`)
	b.exec(`ALTER TABLE note ALTER text SET STORAGE PLAIN`) // neither compressed nor put elsewhere
	text := strings.Repeat("x", 4000)
	var n int64
	for first := int64(1); ; first += 100 {
		var ms []tidemark.Mutation
		for i := range int64(100) {
			ms = append(ms, mutation(tidemark.Create, "note", fmt.Sprint("x.", first+i), `{"text":"`+text+`"}`, late))
		}
		batch := batchOf("client", first, ms...)
		_, err := b.d.Push(t.Context(), batch, nil)
		if err == nil {
			n = first + 99
			if n > 10_000 {
				t.Fatal("the disk is never full")
			}
			continue
		}
		if tidemark.CodeOf(err) != tidemark.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		if got := b.number("SELECT count(*) FROM note"); got != n || b.number("SELECT count(*) FROM tidemark.log") != n {
			t.Errorf("%d rows, want %d", got, n)
		}
		b.exec(`ALTER TABLE note SET TABLESPACE pg_default`)
		if vs := b.again(batch, nil); repeated(vs) != 0 || b.number("SELECT count(*) FROM note") != n+100 || b.number("SELECT count(*) FROM tidemark.log") != n+100 {
			t.Errorf("with room again: %d are repeated, %d rows", repeated(vs), b.number("SELECT count(*) FROM note"))
		}
		return
	}
}

// smallDisk mounts a file system in memory that the server may write to.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getenv("TIDEMARK_PG_DSN") != "" {
		t.Skip("the server is not ours: it need not see this machine's files")
	}
	dir, err := os.MkdirTemp("", "tidemark-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=6m,mode=0777", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("a small file system cannot be mounted here, which needs root: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	space := filepath.Join(dir, "space")
	if out, err := exec.Command("install", "-d", "-o", "postgres", "-m", "0700", space).CombinedOutput(); err != nil {
		t.Skipf("no directory for the user postgres: %v: %s", err, out)
	}
	return space
}

// TestARowIsAwaitedBeyondTheContext: the caller is answered in time, and the session does not stay behind.
func TestARowIsAwaitedBeyondTheContext(t *testing.T) {
	t.Parallel()
	b := newBench(t, modes[0])
	release := b.held("x.held")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := b.d.Push(ctx, blockedBatch(), nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	b.waiting(0) // while the row is still held
	release()
	b.once(blockedBatch(), err, "x.", "1 applied, 2 applied")
}
