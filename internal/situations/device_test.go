package situations_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// The application is upgraded while writes are pending: its model gets a column, then loses one, and another
// becomes of another type. Everything that was queued arrives as it was written.
func TestAnUpgradeWithWritesPending(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		w.migrate()
		w.write(created("held", "old", daysAgo(3)))
		d := w.device(nil)
		w.agree(d)
		d.offline()
		d.opts.Offline = true
		d.create("made", "by the first version")
		d.update("held", client.Patch{"label": "by the first version", "score": 7})

		d.reopen()
		second := d.upgraded()
		d.shows(map[string]string{"made": "by the first version", "held": "by the first version"})
		expect.Equal(t, "pending", d.pending(), 2)
		second.note("made", "by the second version")
		second.note("held", "by the second version")

		d.close() // the third version has no owner, and shows the score as it likes
		d.boot()
		type item3 struct {
			UID   string `json:"uid"`
			Label string `json:"label"`
			Score *int64 `json:"score"`
			Note  string `json:"note"`
		}
		third, err := client.NewModel[item3](t.Context(), d.client, "item", nil)
		w.must(err)
		expect.Equal(t, "pending", d.pending(), 4)
		i, err := third.FindByUID(t.Context(), "held")
		w.must(err)
		if i.Label != "by the first version" || i.Score == nil || *i.Score != 7 || i.Note != "by the second version" {
			t.Errorf("the third version shows %+v", i)
		}
		_, err = third.Update(t.Context(), "made", client.Patch{"label": "by the third version", "score": nil})
		w.must(err)
		d.online()
		d.sync()
		w.has(map[string]string{"made": "by the third version", "held": "by the first version"})
		expect.Equal(t, "rows with all that was written", w.number(`SELECT count(*) FROM item WHERE note = 'by the second version' AND owner = 'ann' AND
			(uid = 'held' AND score = 7 OR uid = 'made' AND score IS NULL)`), 2)
		d.lists()

		d.opts.Offline = false // and back to the first version, as after a failed rollout
		d.reopen()
		w.agree(d)
		expect.Equal(t, "the owner, which the third version did not know", d.row("made").Owner, "ann")
	})
}

// The next version of the application has no model of that name. What was written of it waits, with what is
// behind it, and the status says why; nothing is thrown away.
func TestAnUpgradeThatForgetsAModelWithWritesPending(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		w.migrate()
		d := w.device(&client.Options{Offline: true})
		_, err := d.upgraded().tags.Create(t.Context(), Tag{UID: "t", Name: "a tag"})
		w.must(err)
		d.create("behind", "the tag")
		d.opts.Offline = false
		d.reopen()
		expect.Becomes(t, "the reason", tidemark.CodeUnknownModel, func() tidemark.Code { return tidemark.CodeOf(d.client.Status().LastError) })
		expect.Equal(t, "pending", d.pending(), 2)
		d.shows(map[string]string{"behind": "the tag"})
		_, err = client.NewModel[Tag](t.Context(), d.client, "tag", nil)
		w.must(err)
		w.agree(d)
		w.has(map[string]string{"behind": "the tag"})
		expect.Equal(t, "tags on the server", w.number("SELECT count(*) FROM tag"), 1)
	})
}

// Two programs work on one file at once, both connected, and a third is opened there when they have gone. Each
// shows what the others wrote, and the server has it all, each write once.
func TestTwoProgramsOnOneFile(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		w.write(created("held", "old", daysAgo(3)))
		path := filepath.Join(t.TempDir(), "shared.db")
		one, two, other := w.deviceOn(path, nil), w.deviceOn(path, nil), w.device(nil)
		one.register(nil)
		two.register(nil)
		one.sync()
		two.sync()
		want := map[string]string{"held": "old"}
		for round := range 3 {
			if round == 1 { // only one of them has a connection, and then none
				two.offline()
			}
			if round == 2 {
				one.offline()
			}
			for i := range 10 {
				for n, d := range []*device{one, two} {
					uid := fmt.Sprintf("r%d-%d-%d", round, n, i)
					d.create(uid, "made")
					want[uid] = "made"
					if i%3 == 0 {
						d.label(uid, "edited by its own")
						want[uid] = "edited by its own"
					}
					if i%4 == 1 {
						[]*device{two, one}[n].label(uid, "edited by the other")
						want[uid] = "edited by the other"
					}
				}
			}
			one.shows(want)
			two.shows(want)
		}
		one.online()
		two.online()
		w.comesToHave(want)
		one.sync()
		two.sync()
		w.agree(other)
		for _, d := range []*device{one, two} {
			d.shows(want)
			d.lists()
		}
		two.close()
		one.reopen()
		w.agree(one, other)
		expect.Equal(t, "writes left in the outbox", one.pending(), 0)
		if n := w.number("SELECT count(*) FROM tidemark_log"); n != 1+60+24+18 {
			t.Errorf("the log has %d changes, want each write once: %d", n, 1+60+24+18)
		}
	})
}

// While there is no server the device tries ever more rarely. When it has been synchronised the next outage begins with
// short waits again; a server that accepts and then breaks off does not count as success. In the end it always tries again.
func TestReconnectingBeginsAnewAfterSuccess(t *testing.T) {
	for _, guide := range []bool{false, true} {
		t.Run(fmt.Sprintf("guide %v", guide), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := (&world{t: t, guide: guide, bubble: true}).withDatabase().open()
				d := w.device(&client.Options{MinBackoff: time.Second, MaxBackoff: time.Minute, Rand: func() float64 { return 0 }})
				for range 3 {
					d.line.outage(10 * time.Minute)
					gaps := d.line.gaps()
					if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}; len(gaps) < len(want) || !slices.EqualFunc(gaps[:len(want)], want, func(g, s time.Duration) bool { return g == s*time.Second }) {
						t.Errorf("the waits are %v", gaps)
					}
					d.create("", "written in the outage")
					d.line.set(false)
					<-time.After(time.Minute)
					w.agree(d)
				}
				d.line.breaks(true) // each connection breaks before anything was said
				<-time.After(10 * time.Minute)
				if gaps := d.line.gaps(); slices.Max(gaps) != time.Minute || len(gaps) > 20 {
					t.Errorf("where connections break at once the waits are %v", gaps)
				}
				d.line.breaks(false)
				<-time.After(time.Minute)
				w.agree(d)
			})
		})
	}
}

func (w *world) withDatabase() *world {
	w.connect()
	return w
}

// outage has the line down for a time, from now on.
func (l *line) outage(length time.Duration) {
	l.mu.Lock()
	l.dials = []time.Time{time.Now()}
	l.mu.Unlock()
	l.set(true)
	<-time.After(length)
}

// breaks has each connection break as soon as it is made.
func (l *line) breaks(on bool) {
	l.set(on)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.frail, l.dials = false, on, nil
}

// gaps are the times between the beginning of the outage and the attempts to connect.
func (l *line) gaps() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(l.dials); i++ {
		gaps = append(gaps, l.dials[i].Sub(l.dials[i-1]))
	}
	return gaps
}

// counter counts what is executed in a device's file, and the rows that are read.
type counter struct {
	dsn              string
	statements, rows atomic.Int64
}

func (c *counter) Driver() driver.Driver { return &sqlite3.SQLiteDriver{} }

func (c *counter) Connect(context.Context) (driver.Conn, error) {
	conn, err := (&sqlite3.SQLiteDriver{}).Open(c.dsn)
	return &countedConn{conn, c}, err
}

type countedConn struct {
	driver.Conn
	c *counter
}

func (c *countedConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.c.statements.Add(1)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c *countedConn) PrepareContext(ctx context.Context, q string) (driver.Stmt, error) {
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, q)
	return &countedStmt{s, c.c}, err
}

type countedStmt struct {
	driver.Stmt
	c *counter
}

func (s *countedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.c.statements.Add(1)
	return s.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (s *countedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.c.statements.Add(1)
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	return &countedRows{rows, s.c}, nil
}

type countedRows struct {
	driver.Rows
	c *counter
}

func (r *countedRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == nil {
		r.c.rows.Add(1)
	}
	return err
}

// cost is what fn takes.
func (c *counter) cost(fn func()) (statements, rows int64) {
	s, r := c.statements.Load(), c.rows.Load()
	fn()
	return c.statements.Load() - s, c.rows.Load() - r
}

// A write costs the same whether ten others are pending or ten thousand, and so does an edit and a look at the status.
func TestAQueueWhoseLengthCostsNothing(t *testing.T) {
	t.Parallel()
	w := &world{t: t}
	c := &counter{dsn: sqlite.DSNNormal(filepath.Join(t.TempDir(), "device.db"))}
	db := sql.OpenDB(c)
	store, err := sqlite.Open(t.Context(), db, &sqlite.Options{AllowNormal: true})
	w.must(err)
	cl, err := client.Open(t.Context(), store, nil, nil)
	w.must(err)
	t.Cleanup(func() { _ = cl.Close(); _ = store.Close(); _ = db.Close() })
	items, err := client.NewModel[Item](t.Context(), cl, "item", nil)
	w.must(err)
	queue := func(n int) {
		for made := cl.Status().Pending; made < n; made = cl.Status().Pending {
			w.must(cl.Tx(t.Context(), func(tx *client.Tx) (err error) {
				for i := 0; i < min(client.MaxUnit, n-made) && err == nil; i++ {
					_, err = items.CreateTx(tx, Item{Label: "queued"})
				}
				return err
			}))
		}
	}
	type cost struct{ statements, rows int64 }
	measure := func() map[string]cost {
		out := map[string]cost{}
		var row Item
		note := func(what string, fn func() error) {
			s, r := c.cost(func() { w.must(fn()) })
			out[what] = cost{s, r}
		}
		note("a create", func() (err error) { row, err = items.Create(t.Context(), Item{Label: "new"}); return err })
		note("an edit", func() error {
			_, err := items.Update(t.Context(), row.UID, client.Patch{"label": "edited"})
			return err
		})
		note("a look", func() error { _, err := items.FindByUID(t.Context(), row.UID); return err })
		note("the status", func() error { cl.Status(); return nil })
		note("a removal", func() error { return items.Remove(t.Context(), row.UID) })
		return out
	}
	queue(10)
	measure() // prepares the statements, and leases the clock
	few := measure()
	queue(10_000)
	measure()
	many := measure()
	for what, want := range few {
		if got := many[what]; got.statements > want.statements || got.rows > want.rows || want.statements == 0 && what != "the status" {
			t.Errorf("with 10 writes pending %s takes %+v, with 10,000 %+v", what, want, got)
		}
	}
	if few["the status"] != (cost{}) {
		t.Errorf("the status takes %+v", few["the status"])
	}
}
