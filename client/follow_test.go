package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/memory"
)

// small makes pages of two rows of the tests.
var small = &server.Options{PageBytes: 120}

// tap listens to a device's connections, and cuts them.
type tap struct {
	w *world

	mu       sync.Mutex // protects what follows
	asked    []string   // the methods called on the service sync, but for push
	told     int        // rows of pages that came
	received int        // messages that came
	bytes    int
	cutAfter int // the next cut, after so many messages; 0 for none
	every    int // and the ones after that
}

func (p *tap) dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := p.w.dial(ctx, hello, &tapped{Handler: h, tap: p})
	if err != nil {
		return nil, w, err
	}
	return &tappedConn{conn, p}, w, nil
}

type tapped struct {
	tidemark.Handler
	tap *tap
}

func (h *tapped) Receive(m *tidemark.Message) {
	p := h.tap
	p.mu.Lock()
	p.received++
	for _, a := range m.Args {
		p.bytes += len(a)
	}
	p.told += rowsOf(m)
	cut := p.cutAfter > 0 && p.received >= p.cutAfter
	if cut {
		p.cutAfter = 0
		if p.every > 0 {
			p.cutAfter = p.received + p.every
		}
	}
	p.mu.Unlock()
	h.Handler.Receive(m)
	if cut {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		p.w.pipe.Cut()
	}
}

// rowsOf counts the rows of the pages in an answer.
func rowsOf(m *tidemark.Message) int {
	if m.Kind != tidemark.AnswerMessage || len(m.Args) == 0 {
		return 0
	}
	var a tidemark.Answer
	if a.UnmarshalJSON(m.Args[0]) != nil || len(a.Result) == 0 {
		return 0
	}
	var open tidemark.OpenAnswer
	var page tidemark.ScopePage
	n := 0
	if json.Unmarshal(a.Result, &open) == nil {
		for _, sc := range open.Scopes {
			if sc.Page != nil {
				n += len(sc.Page.Rows) + len(sc.Page.Gone)
			}
		}
	}
	var list []tidemark.ScopeAnswer
	if json.Unmarshal(a.Result, &list) == nil {
		for _, sc := range list {
			if sc.Page != nil {
				n += len(sc.Page.Rows) + len(sc.Page.Gone)
			}
		}
	}
	if page.UnmarshalJSON(a.Result) == nil {
		n += len(page.Rows) + len(page.Gone)
	}
	return n
}

type tappedConn struct {
	tidemark.Conn
	tap *tap
}

func (c *tappedConn) Send(m *tidemark.Message) error {
	if len(m.Args) > 0 {
		if r, err := tidemark.ParseRequest(m.Args[0]); err == nil && r.Name == tidemark.ServiceSync && r.Action != tidemark.MethodPush {
			c.tap.mu.Lock()
			c.tap.asked = append(c.tap.asked, r.Action)
			c.tap.mu.Unlock()
		}
	}
	return c.Conn.Send(m)
}

// heard returns what was asked and how many rows came since the last time.
func (p *tap) heard() (asked string, told int) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, told = strings.Join(p.asked, " "), p.told
	p.asked, p.told = nil, 0
	return asked, told
}

// call has the server's own code call a method of items.
func (w *world) call(method string, args ...any) {
	w.t.Helper()
	if _, err := w.server.Service("item").Call(w.t.Context(), method, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) put(uid, label string, score int) {
	w.t.Helper()
	w.call(tidemark.MethodUpdate, uid, map[string]any{"label": label, "score": score}, tidemark.StampOf(time.Now()))
}

func (w *world) delete(uid string) {
	w.t.Helper()
	w.call(tidemark.MethodDelete, uid, tidemark.StampOf(time.Now()))
}

// fill puts n rows, whose labels are their uids.
func (w *world) fill(n int) (labels []string) {
	for i := range n {
		uid := fmt.Sprintf("u%03d", i)
		w.put(uid, uid, i)
		labels = append(labels, uid)
	}
	return labels
}

// recalled is a device that was in step with the rows of where, and is not connected.
func (w *world) recalled(p *tap, where tidemark.Where) *bench {
	b := w.deviceOver(p.dial, nil)
	b.register(where)
	b.state(client.Synced)
	pass(10 * time.Second) // the cursor comes
	b.client.GoOffline()
	p.heard()
	pass(time.Second)
	return b
}

func (b *bench) online() {
	b.t.Helper()
	b.client.GoOnline()
	b.state(client.Synced)
}

func TestFirstSyncGoesPageByPage(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		want := w.fill(25)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, nil)
		b.register(nil)
		b.sees(want...)
		b.state(client.Synced)
		asked, told := p.heard()
		if n := strings.Count(asked, "pull"); told != 25 || n < 8 || n > 13 {
			t.Errorf("%d rows came, by %s", told, asked)
		}
	})
}

func TestScopesGoWithTheOpening(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(3)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, &client.Options{Offline: true})
		b.register(tidemark.Where{"label": "u001"})
		b.register(tidemark.Where{"label": "u002"})
		b.online()
		b.sees("u001", "u002")
		if asked, told := p.heard(); asked != "open" || told != 2 {
			t.Errorf("%d rows came, by %s", told, asked)
		}
	})
}

func TestNothingToCatchUpIsOneRoundTrip(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(300)
		p := &tap{w: w}
		b := w.recalled(p, nil)
		p.bytes = 0
		b.online()
		if asked, told := p.heard(); asked != "open" || told != 0 || p.bytes > 1500 {
			t.Errorf("%d rows and %d bytes came, by %s", told, p.bytes, asked)
		}
	})
}

func TestCatchUpTellsWhatChanged(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(100)
		p := &tap{w: w}
		b := w.recalled(p, tidemark.Where{"score": tidemark.Range{LT: 50}})
		w.put("u007", "again", 7)
		pass(time.Second)
		w.put("u007", "and again", 7) // many edits of one row are one
		w.delete("u008")
		w.put("u009", "left", 90)
		w.put("u090", "came", 9)
		w.put("u091", "elsewhere", 95)
		b.online()
		asked, told := p.heard()
		if asked != "open" || told != 4 {
			t.Errorf("%d rows came, by %s", told, asked)
		}
		items, err := b.items.FindWhere(t.Context(), nil)
		if got := render(items); err != nil || len(items) != 49 || strings.Contains(got, "u008") || strings.Contains(got, "u009") ||
			!strings.Contains(got, `u007="and again"`) || !strings.Contains(got, `u090="came"`) {
			t.Errorf("the device has %s", got)
		}
	})
}

func TestLiveChanges(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		b := w.device(nil)
		b.register(tidemark.Where{"score": 1})
		b.state(client.Synced)
		w.put("a", "enters", 1)
		b.sees("enters")
		pass(time.Second)
		w.put("a", "changes", 1)
		b.sees("changes")
		pass(time.Second)
		w.put("a", "leaves", 2)
		b.sees()
		if r := b.record("a"); !r.IsZero() {
			t.Errorf("the record is %+v", r)
		}
		pass(time.Second)
		w.put("a", "returns", 1)
		b.sees("returns")
		pass(time.Second)
		w.delete("a")
		b.sees()
	})
}

func TestCursorFollowsLiveChanges(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		p := &tap{w: w}
		b := w.deviceOver(p.dial, nil)
		b.register(nil)
		b.state(client.Synced)
		w.fill(20)
		pass(10 * time.Second)
		b.client.GoOffline()
		p.heard()
		b.online()
		if asked, told := p.heard(); asked != "open" || told != 0 {
			t.Errorf("%d rows came again, by %s", told, asked)
		}
	})
}

// The copy is the same, and no row comes twice, wherever the connection is cut.
func TestFirstSyncGoesOnAfterACutAtAnyMessage(t *testing.T) {
	for cut := 1; cut <= 16; cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			inSecondWorld(t, small, func(t *testing.T, w *world) {
				want := w.fill(25)
				p := &tap{w: w, cutAfter: cut}
				b := w.deviceOver(p.dial, nil)
				b.register(nil)
				pass(time.Minute)
				b.sees(want...)
				b.state(client.Synced)
				if asked, told := p.heard(); told != 25 {
					t.Errorf("%d rows came, by %s", told, asked)
				}
			})
		})
	}
}

func TestFirstSyncEndsThoughEveryConnectionBreaks(t *testing.T) {
	for every := 2; every <= 4; every++ { // the first message has nothing of scopes
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			inSecondWorld(t, small, func(t *testing.T, w *world) {
				want := w.fill(25)
				p := &tap{w: w, cutAfter: every, every: every}
				b := w.deviceOver(p.dial, nil)
				b.register(nil)
				pass(30 * time.Minute)
				p.mu.Lock()
				p.cutAfter, p.every = 0, 0
				p.mu.Unlock()
				b.sees(want...)
				if _, told := p.heard(); told != 25 {
					t.Errorf("%d rows came", told)
				}
				pass(time.Minute)
				b.state(client.Synced)
			})
		})
	}
}

// What changes between the parts of a first sync is not lost, on neither side of its place.
func TestChangesBetweenThePartsOfAFirstSync(t *testing.T) {
	for cut := 2; cut <= 14; cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			inSecondWorld(t, small, func(t *testing.T, w *world) {
				w.fill(25)
				p := &tap{w: w, cutAfter: cut}
				b := w.deviceOver(p.dial, nil)
				b.register(tidemark.Where{"score": tidemark.Range{GTE: 0}})
				synctest.Wait()
				b.client.GoOffline()
				pass(time.Second)
				for _, uid := range []string{"u001", "u020"} {
					w.delete(uid)
				}
				for _, uid := range []string{"u002", "u021"} {
					w.put(uid, "left", -1)
				}
				for _, uid := range []string{"u003", "u003a", "u022", "u022a"} {
					w.put(uid, "new", 5)
				}
				b.client.GoOnline()
				pass(time.Minute)
				b.state(client.Synced)
				b.equals(w, tidemark.Where{"score": tidemark.Range{GTE: 0}})
			})
		})
	}
}

// equals checks that the device has exactly the server's rows of a clause.
func (b *bench) equals(w *world, where tidemark.Where) {
	b.t.Helper()
	synctest.Wait()
	p, err := where.Compile(w.schema)
	if err != nil {
		b.t.Fatal(err)
	}
	rows, err := w.db.Find(b.t.Context(), p, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	held, err := b.store.Find(b.t.Context(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	text := func(rows []tidemark.Row) []string {
		var out []string
		for _, r := range rows {
			out = append(out, fmt.Sprintf("%s=%s/%s", r.UID(), r.Get("label"), r.Get("score")))
		}
		slices.Sort(out)
		return out
	}
	if got, want := text(held), text(rows); !slices.Equal(got, want) {
		b.t.Errorf("the device has\n  %s\nthe server\n  %s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// mortal is a store whose process dies after so many transactions.
type mortal struct {
	*memory.Store
	left atomic.Int64
	heir *memory.Store
}

func (m *mortal) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	err := m.Store.Update(ctx, fn)
	if m.left.Add(-1) == 0 && err == nil {
		m.heir = m.Store.Reopen()
	}
	return err
}

func TestProcessThatDiesAfterAnyTransactionGoesOn(t *testing.T) {
	for lives := 1; lives <= 18; lives++ {
		t.Run(fmt.Sprint(lives), func(t *testing.T) {
			inSecondWorld(t, small, func(t *testing.T, w *world) {
				want := w.fill(25)
				m := &mortal{Store: memory.New()}
				m.left.Store(int64(lives))
				p := &tap{w: w}
				if c, err := client.Open(t.Context(), m, dialerFunc(p.dial), nil); err == nil {
					if items, err := client.NewModel[Item](t.Context(), c, "item", nil); err == nil {
						_, _ = items.Register(t.Context(), nil)
					}
					synctest.Wait()
					c.Close()
				}
				_, first := p.heard()
				b := &bench{t: t, dial: p.dial, store: m.heir, logs: &logged{}}
				if m.heir == nil {
					b.store = m.Store
				}
				b.reopen(w)
				defer b.store.Close()
				defer b.client.Close()
				b.register(nil)
				b.sees(want...)
				b.state(client.Synced)
				if _, told := p.heard(); told+first > 25+5 { // the page whose transaction failed, and the one asked for ahead
					t.Errorf("%d and then %d rows came", first, told)
				}
			})
		})
	}
}

func TestServerOfAnotherHistoryTellsItsRowsAnew(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(10)
		p := &tap{w: w}
		b := w.recalled(p, nil)
		w.db = drivermemory.New(w.schema) // another history: the cursor is of no use
		w.restart()
		for _, uid := range []string{"u003", "u009", "v"} {
			w.put(uid, uid+" now", 1)
		}
		b.create("w", "mine, pending")
		b.update("u001", "also pending")
		b.online()
		b.pending(0)
		b.equals(w, nil)
		b.rejections()
	})
}

func TestPurgedLogTellsTheScopeAnew(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(10)
		p := &tap{w: w}
		b := w.recalled(p, nil)
		b.create("mine", "pending")
		w.delete("u004")
		pass(time.Hour)
		w.put("u005", "newer", 5)
		if _, err := w.db.Purge(t.Context(), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		b.online()
		b.equals(w, nil)
		b.pending(0)
		if asked, _ := p.heard(); !strings.HasPrefix(asked, "open pull") {
			t.Errorf("asked %s", asked)
		}
	})
}

func TestOverlappingScopes(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(12)
		b := w.device(nil)
		low, high := tidemark.Where{"score": tidemark.Range{LT: 8}}, tidemark.Where{"score": tidemark.Range{GTE: 4}}
		b.register(low)
		b.register(high)
		b.equals(w, nil)
		pass(time.Second)
		w.put("u002", "moves to the other", 9)
		b.equals(w, nil)
		pass(time.Second)
		w.put("u005", "stays in both", 6)
		w.put("u006", "leaves one", 10)
		b.equals(w, nil)
		b.client.GoOffline()
		pass(time.Second)
		w.put("u007", "leaves the other", 1)
		w.put("u009", "to the first", 0)
		w.call(tidemark.MethodUpdate, "u011", map[string]any{"score": nil}, tidemark.StampOf(time.Now())) // out of both
		b.online()
		b.equals(w, low)
		b.equals(w, high)
		if r := b.record("u011"); r.Base != nil {
			t.Errorf("the record is %+v", r)
		}
	})
}

func TestReleasedScopeStaysReadableAndGoesOn(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		want := w.fill(40)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, nil)
		s := b.register(nil)
		b.state(client.Synced)
		pass(10 * time.Second)
		s.Release()
		p.heard()
		w.put("u000", "changed", 0)
		b.sees(want...) // it hears no more
		b = b.again(w)
		b.sees(want...)
		if asked, told := p.heard(); asked != "open" || told != 0 {
			t.Errorf("%d rows came of a released scope, by %s", told, asked)
		}
		b.register(nil)
		b.equals(w, nil)
		if asked, told := p.heard(); asked != "subscribe" || told != 1 {
			t.Errorf("%d rows came, by %s", told, asked)
		}
	})
}

// again closes the client, and opens it on the same store.
func (b *bench) again(w *world) *bench {
	b.t.Helper()
	b.client.Close()
	b.reopen(w)
	synctest.Wait()
	return b
}

func TestReleasedScopeIsForgottenInTime(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(5)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, nil)
		b.register(nil).Release()
		pass(31 * 24 * time.Hour)
		b = b.again(w)
		p.heard()
		b.register(nil)
		b.equals(w, nil)
		if _, told := p.heard(); told != 5 {
			t.Errorf("%d rows came, want all", told)
		}
	})
}

func TestEvictedRowsComeAgain(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(20)
		b := w.device(nil)
		s := b.register(tidemark.Where{"score": tidemark.Range{LT: 10}})
		other := b.register(tidemark.Where{"score": tidemark.Range{GTE: 15}})
		b.state(client.Synced)
		s.Release()
		n, err := b.items.Evict(t.Context(), tidemark.Where{"score": tidemark.Range{GTE: 5}})
		if err != nil || n != 5 {
			t.Fatalf("evicted %d, %v", n, err)
		}
		b.equals(w, tidemark.Where{"score": tidemark.Range{GTE: 15}})
		b.register(tidemark.Where{"score": tidemark.Range{LT: 10}})
		b.equals(w, tidemark.Where{"score": tidemark.Range{LT: 10}})
		other.Release()
	})
}

func TestResetTellsTheScopesAnew(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(20)
		b := w.device(nil)
		b.register(nil)
		b.state(client.Synced)
		if err := b.items.Reset(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		b.equals(w, nil)
		b.state(client.Synced)
		w.put("u003", "live", 3)
		b.equals(w, nil)
	})
}

// Reset at any moment of a first sync loses nothing.
func TestResetDuringAFirstSync(t *testing.T) {
	for n := 1; n <= 16; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inSecondWorld(t, small, func(t *testing.T, w *world) {
				w.fill(25)
				p := &tap{w: w}
				var b *bench
				b = w.deviceOver(func(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
					return p.dial(ctx, hello, &nth{Handler: h, n: n, fn: func() { _ = b.items.Reset(context.Background(), nil) }})
				}, &client.Options{Offline: true})
				b.register(nil)
				b.online()
				b.equals(w, nil)
			})
		})
	}
}

// nth calls fn before the n-th message.
type nth struct {
	tidemark.Handler
	n  int
	fn func()
}

func (h *nth) Receive(m *tidemark.Message) {
	if h.n--; h.n == 0 {
		h.fn()
	}
	h.Handler.Receive(m)
}

func TestSyncConfirmsLiveScopes(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(10)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, nil)
		b.register(tidemark.Where{"score": 1})
		b.register(tidemark.Where{"score": 2})
		b.state(client.Synced)
		pass(10 * time.Second)
		p.heard()
		w.write(tidemark.Mutation{Model: "item", UID: "x", Op: tidemark.Create, Data: tidemark.Row(`{"label":"unheard","score":1}`), Stamp: tidemark.StampOf(time.Now())})
		if err := b.client.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asked, told := p.heard(); asked != "pull pull" || told != 1 {
			t.Errorf("%d rows came, by %s", told, asked)
		}
		b.sees("u001", "u002", "unheard")
	})
}

func TestOneFileBetweenServersWithAndWithoutTheSecondProtocol(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(15)
		b := w.device(nil)
		b.register(nil)
		for i := range 4 {
			b.online()
			b.equals(w, nil)
			b.client.GoOffline()
			pass(time.Minute)
			w.put("u001", fmt.Sprint("changed ", i), i)
			w.delete(fmt.Sprintf("u%03d", 2+i))
			b.update("u009", fmt.Sprint("mine ", i))
			w.guide = !w.guide
			w.restart()
			pass(time.Second)
		}
		b.online()
		b.equals(w, nil)
		b.rejections()
	})
}

func TestProgressIsShown(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(25)
		b := w.deviceOver(w.dial, &client.Options{Offline: true})
		b.register(nil)
		type at struct{ rows, of int }
		var seen []at
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s := range b.client.WatchStatus(ctx) {
				seen = append(seen, at{s.SyncedRows, s.TotalRows})
				if s.SyncedRows > 0 && (s.TotalRows != 25 || s.State != client.Syncing) {
					t.Errorf("status %+v", s)
				}
			}
		}()
		b.online()
		cancel()
		<-done
		if s := b.client.Status(); s.SyncedRows != 0 || s.TotalRows != 0 || s.Synced != 1 {
			t.Errorf("status %+v", s)
		}
		if !slices.ContainsFunc(seen, func(a at) bool { return a.of == 25 }) {
			t.Errorf("the status showed %v", seen)
		}
	})
}

func TestScopeThatIsNoLongerCoveredGoesOnByItself(t *testing.T) {
	inSecondWorld(t, small, func(t *testing.T, w *world) {
		w.fill(12)
		b := w.device(nil)
		narrow := tidemark.Where{"score": tidemark.Range{LT: 4}}
		b.register(narrow)
		b.state(client.Synced)
		all := b.register(nil)
		b.equals(w, nil)
		all.Release()
		b.state(client.Synced)
		w.put("u001", "live", 1)
		b.equals(w, narrow)
		w.put("u010", "not heard", 10)
		if r := b.record("u010"); strings.Contains(string(r.Row), "heard") {
			t.Errorf("the record is %+v", r)
		}
	})
}
