package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/store/memory"
)

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
