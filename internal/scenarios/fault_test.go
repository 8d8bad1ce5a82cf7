package scenarios

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/server"
)

// The faults of the original, by their numbers in docs/scenarios.md: ours has none of them.

// rounds is how often a race is tried.
const rounds = 300

// A row that somebody moves out of a device's scope while that is offline goes
// from the device, and from nowhere else, whoever of the two is offline. Fault 1
func TestARowThatLeftTheScopeIsDeletedNowhere(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		for _, pair := range [][2]device{{w.jsDevice(t), w.goDevice(t, nil)}, {w.goDevice(t, nil), w.jsDevice(t)}} {
			w.empty()
			scoped, other := pair[0], pair[1]
			scoped.scope(open)
			other.scope(nil)
			scoped.connect()
			other.connect()
			away := other.create("open")
			back := other.create("open")
			expect.Becomes(t, "the scope", 2, func() int { return scoped.find(open) })

			scoped.disconnect()
			other.update(away, map[string]any{"label": "closed"})
			expect.Becomes(t, "pending", 0, other.pending)
			scoped.connect()
			scoped.sync()
			expect.Becomes(t, "the scope", 1, func() int { return scoped.find(open) })

			other.disconnect()
			other.update(back, map[string]any{"label": "closed too"})
			scoped.sync()
			other.connect()
			expect.Becomes(t, "the scope", 0, func() int { return scoped.find(open) })
			scoped.sync()
			other.sync()
			if got := w.labels(); len(got) != 2 || got[away] != "closed" || got[back] != "closed too" {
				t.Errorf("the server has %v", got)
			}
			expect.Becomes(t, "the other device's rows", 2, func() int { return other.find(nil) })
		}
	})
}

// A row whose creation races a sync of its creator's is never taken for one that
// is gone. Fault 2
func TestCreatesRacingASyncAreNeverLost(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		a, b := w.peer(t), w.peer(t)
		entries := map[string]any{}
		for i := range rounds {
			uid, scope := fmt.Sprint("u", i), map[string]any{"label": fmt.Sprint(i / 20)}
			if i%20 == 0 {
				clear(entries)
			}
			entries[uid] = map[string]any{"uid": uid, "created_at": T1, "__dirty__": true}
			created := a.send("item", tidemark.MethodCreate, uid, scope, T1)
			for _, p := range []*peer{a, b} {
				if r := p.sync(scope, entries); len(r.DeleteClient) != 0 {
					t.Fatalf("round %d: the client is told to drop %v", i, r.DeleteClient)
				}
			}
			if e := a.wait(created).Err; e != nil {
				t.Fatal(e)
			}
		}
		if got := w.labels(); len(got) != rounds {
			t.Errorf("%d rows are left of %d", len(got), rounds)
		}
	})
}

// Writes of one row that overtake one another, on one connection and on several,
// of one server and of two, end with the newest. Fault 3, and 20
func TestPipelinedWritesEndWithTheNewest(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		twin := &world{t: t, db: w.db, uids: w.uids, driver: w.driver, addr: "127.0.0.1:0"}
		twin.start()
		t.Cleanup(twin.stop)
		peers := []*peer{w.peer(t), w.peer(t), twin.peer(t)}
		for i := range rounds {
			uid := fmt.Sprint("u", i)
			peers[0].tuple(tidemark.MethodCreate, uid, map[string]any{"label": "x"}, T0)
			var answers []<-chan tidemark.Answer
			for n := range 5 {
				n = (n*3 + i) % 5 // in every order of arrival
				p := peers[(n+i)%len(peers)]
				if i%2 == 0 {
					p = peers[0]
				}
				if n == 3 && i%3 == 0 {
					answers = append(answers, p.send("item", tidemark.MethodDelete, uid, T1+3))
					continue
				}
				answers = append(answers, p.send("item", tidemark.MethodUpdate, uid, map[string]any{"label": fmt.Sprint(n)}, T1+tidemark.Stamp(n)))
			}
			for _, ch := range answers {
				if a := peers[0].wait(ch); a.Err != nil {
					t.Fatal(a.Err)
				}
			}
			if label, meta := w.get(uid); label != "4" || meta.T() != T1+4 || meta.Deleted() {
				t.Fatalf("round %d ends with %q of %+v", i, label, meta)
			}
		}
	})
}

// A sync tells its result to who asked, and nobody else; so does a read. Fault 4
func TestReadsAreNotBroadcast(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		w.put(&itemRow{UID: "u", Label: "x"}, tidemark.Meta{UID: "u", CreatedAt: T0})
		listener, reader := w.peer(t), w.peer(t)
		reader.sync(map[string]any{}, map[string]any{})
		for _, method := range []string{tidemark.MethodFindMany, tidemark.MethodFindUnique} {
			if a := reader.ask("item", method, map[string]any{}); a.Err != nil {
				t.Error(a.Err)
			}
		}
		reader.tuple(tidemark.MethodUpdate, "u", map[string]any{"label": "y"}, T1)
		expect.Soon(t, func() error {
			if got := fmt.Sprint(listener.events()); got != "[updateWithMeta u]" {
				return fmt.Errorf("the others heard %s", got)
			}
			return nil
		})
	})
}

// A deletion that the server refuses takes the row from no device. Fault 7
func TestARefusedDeletionTakesTheRowFromNobody(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		w.put(&itemRow{UID: "u", Label: "theirs"}, tidemark.Meta{UID: "u", CreatedAt: T0, UpdatedAt: T2})
		d := fresh(t)
		d.connect()
		d.scope(nil)
		p := w.peer(t)
		p.tuple(tidemark.MethodDelete, "u", T1)
		p.tuple(tidemark.MethodCreate, "v", map[string]any{"label": "behind"}, T2)
		expect.Becomes(t, "the event behind", "behind", func() string { return d.label("v") })
		expect.Equal(t, "the device's row", d.label("u"), "theirs")
	})
}

// A deletion of what is deleted already takes the row from the devices that
// still have it, and none of them brings it back. Fault 9
func TestASecondDeletionResurrectsNothing(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		w.put(nil, tidemark.Meta{UID: "u", CreatedAt: T0, DeletedAt: T1})
		d := fresh(t)
		d.arrange("u", local{label: "copy", created: T0})
		d.connect()
		expect.Equal(t, "the device's copy", d.label("u"), "copy")
		w.peer(t).tuple(tidemark.MethodDelete, "u", T2)
		expect.Becomes(t, "the device's copy", "", func() string { return d.label("u") })
		d.scope(nil)
		d.sync()
		row, meta := w.get("u")
		expect.Equal(t, "the server's row", row, "")
		expect.Equal(t, "its dates", days(meta), "T0 - T2")
		expect.Equal(t, "the device's copy", d.label("u"), "")
	})
}

// An update of one column leaves those that may not be null, and dates are
// written like anything else. Faults 10 and 11
func TestAnUpdateWritesWhatItIsGiven(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		w.put(&itemRow{UID: "u", Label: "label"}, tidemark.Meta{UID: "u", CreatedAt: T0})
		d := fresh(t)
		d.connect()
		d.scope(nil)
		d.update("u", map[string]any{"score": 7})
		expect.Becomes(t, "pending", 0, d.pending)
		d.update("u", map[string]any{"start": T1.String()})
		expect.Becomes(t, "pending", 0, d.pending)
		var row itemRow
		if err := w.db.NewSelect().Model(&row).Where("uid = 'u'").Scan(t.Context()); err != nil {
			t.Fatal(err)
		}
		if row.Label != "label" || row.Score == nil || *row.Score != 7 || row.Start == nil || !row.Start.Equal(T1.Time()) {
			t.Errorf("the server has %+v", row)
		}
		expect.Equal(t, "the scope of the date", d.find(tidemark.Where{"start": T1.String()}), 1)
	})
}

// A sync without a where, during another, is refused and holds up nothing. Fault 14
func TestASyncWithoutAWhereHoldsUpNothing(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		gate, running := make(chan struct{}), make(chan struct{}, 1)
		var slow atomic.Bool
		slow.Store(true)
		w.prepare = func(srv *server.Server) {
			srv.Service("item").After(func(context.Context, *server.Call) error {
				if slow.Load() {
					running <- struct{}{}
					<-gate
				}
				return nil
			}, tidemark.MethodFindMany)
		}
		w.open()
		w.put(&itemRow{UID: "u", Label: "x"}, tidemark.Meta{UID: "u", CreatedAt: T0})
		p := w.peer(t)
		first := p.send("sync", "go", "item", map[string]any{}, map[string]any{})
		<-running
		for _, args := range [][]any{{"item", nil, map[string]any{}}, {"item"}, {"item", map[string]any{}, nil}} {
			if e := p.ask("sync", "go", args...).Err; e == nil || e.Code != tidemark.CodeInvalidRequest {
				t.Errorf("%v: got %v", args, e)
			}
		}
		slow.Store(false)
		close(gate)
		if e := p.wait(first).Err; e != nil {
			t.Error(e)
		}
		if r := p.sync(map[string]any{}, map[string]any{}); len(r.AddClient) != 1 {
			t.Errorf("a sync afterwards answers %+v", r)
		}
	})
}

// A device whose clock is ten minutes ahead works as any other, and wins no
// later conflict. Fault 17
func TestADeviceWhoseClockIsAhead(t *testing.T) {
	t.Parallel()
	const ahead = 10 * time.Minute
	engines(t, func(t *testing.T, w *world) {
		w.open()
		js := w.jsDevice(t)
		js.js.Do("skew", ahead.Milliseconds())
		ours := w.goDevice(t, &client.Options{Now: func() time.Time { return time.Now().Add(ahead) }})
		for _, d := range []device{js, ours} {
			d.connect()
			d.scope(nil)
			uid := d.create("one")
			expect.Becomes(t, "pending", 0, d.pending)
			d.update(uid, map[string]any{"label": "two"})
			expect.Becomes(t, "pending", 0, d.pending)
			label, meta := w.get(uid)
			expect.Equal(t, "the server's row", label, "two")
			if lead := time.Until(meta.T().Time()); lead > time.Minute {
				t.Errorf("the row is of %v in the future", lead)
			}
			honest := w.peer(t)
			honest.tuple(tidemark.MethodUpdate, uid, map[string]any{"label": "honest"}, tidemark.StampOf(time.Now().Add(30*time.Second)))
			expect.Becomes(t, "the device's row", "honest", func() string { return d.label(uid) })
			gone := d.create("gone")
			expect.Becomes(t, "pending", 0, d.pending)
			d.remove(gone)
			expect.Soon(t, func() error {
				d.sync()
				if label, _ := w.get(gone); label != "" || d.label(gone) != "" || d.pending() != 0 {
					return fmt.Errorf("the removed row is %q there and %q here, %d writes are pending", label, d.label(gone), d.pending())
				}
				return nil
			})
		}
	})
}

// What is created offline in one order arrives in it: a foreign key is never
// broken, though parent and child are of two models.
func TestParentAndChildArriveInOrder(t *testing.T) {
	t.Parallel()
	type folder struct {
		UID  string `json:"uid"`
		Name string `json:"name"`
	}
	type sheet struct {
		UID    string `json:"uid"`
		Folder string `json:"folder"`
	}
	engines(t, func(t *testing.T, w *world) {
		w.open()
		ctx := t.Context()
		d := w.goDevice(t, nil).open()
		sheets, err1 := client.NewModel[sheet](ctx, d.client, "sheet", nil)
		folders, err2 := client.NewModel[folder](ctx, d.client, "folder", nil)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		_, err1 = sheets.Register(ctx, nil)
		_, err2 = folders.Register(ctx, nil)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			f, err1 := folders.Create(ctx, folder{UID: fmt.Sprint("z", i), Name: "folder"})
			s, err2 := sheets.Create(ctx, sheet{UID: fmt.Sprint("a", i), Folder: f.UID})
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if i%4 == 0 { // and what is removed, in the other order
				if err := errors.Join(sheets.Remove(ctx, s.UID), folders.Remove(ctx, f.UID)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := sheets.Create(ctx, sheet{UID: "orphan", Folder: "nowhere"}); err != nil {
			t.Fatal(err)
		}
		d.connect()
		for _, table := range []string{"folder", "sheet"} {
			n, err := w.db.NewSelect().Table(table).Count(ctx)
			if err != nil || n != 15 {
				t.Errorf("%d rows in %s, want 15 (%v)", n, table, err)
			}
		}
		rs, err := d.client.Rejections(ctx)
		if err != nil || len(rs) != 1 || rs[0].Mutation.UID != "orphan" || rs[0].Code != tidemark.CodeConstraint {
			t.Errorf("rejected: %+v, %v", rs, err)
		}
	})
}

// flaky is a link that breaks, each time sooner or later.
type flaky struct {
	tidemark.Dialer

	mu sync.Mutex // protects n
	n  int        // how often it was made
}

func (f *flaky) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := f.Dialer.Dial(ctx, hello, h)
	if err != nil {
		return nil, w, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return &flakyConn{conn, f, 3 + f.n*5%7}, w, nil
}

// flakyConn breaks after some messages: before or behind the last.
type flakyConn struct {
	tidemark.Conn
	link *flaky
	left int
}

func (c *flakyConn) Send(m *tidemark.Message) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.left--; c.left > 0 {
		return c.Conn.Send(m)
	}
	if c.link.n%2 == 0 {
		_ = c.Conn.Send(m)
	}
	c.Conn.Close(tidemark.ClosedTransport)
	return nil
}

// A link that breaks undoes no write, whether the server has seen it or not. Fault 5
func TestABrokenLinkUndoesNoWrite(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.guideOnly = true // one write at a time, so that the link breaks often
		w.open()
		link := &flaky{Dialer: w.dialer()}
		d := newDevice(t, link, nil)
		d.scope(nil)
		d.client.GoOnline()
		want := map[string]string{}
		for i := range 60 {
			uid := d.create(fmt.Sprint("created ", i))
			want[uid] = fmt.Sprint("created ", i)
			if i%3 == 0 {
				want[uid] = fmt.Sprint("updated ", i)
				d.update(uid, map[string]any{"label": want[uid]})
			}
			if i%5 == 0 {
				d.remove(uid)
				delete(want, uid)
			}
			expect.Becomes(t, "the rows on the device", len(want), func() int { return d.find(nil) })
		}
		expect.Becomes(t, "pending", 0, d.pending)
		got := w.labels()
		for uid, label := range want {
			if got[uid] != label || d.label(uid) != label {
				t.Errorf("%s is %q there and %q here, want %q", uid, got[uid], d.label(uid), label)
			}
		}
		expect.Equal(t, "how many rows the server has", len(got), len(want))
		if rs, err := d.client.Rejections(t.Context()); err != nil || len(rs) != 0 {
			t.Errorf("rejected: %+v, %v", rs, err)
		}
		link.mu.Lock()
		defer link.mu.Unlock()
		if link.n < 10 {
			t.Errorf("the link broke only %d times", link.n)
		}
	})
}
