package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

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

// With a released scope go the rows that no other one has, but for those with pending writes.
func TestRowsOfAForgottenScopeGo(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(8)
		b := w.device(&client.Options{ScopeAge: time.Hour})
		b.register(tidemark.Where{"score": tidemark.Range{LT: 6}}).Release()
		b.register(tidemark.Where{"score": tidemark.Range{GTE: 7}})
		pass(59 * time.Minute)
		b.register(tidemark.Where{"score": 1})
		b.register(tidemark.Where{"score": 2}).Release()
		b.client.GoOffline()
		b.update("u003", "mine")
		b.opts.Offline = true
		b.again(w).sees("u000", "u001", "u002", "mine", "u004", "u005", "u007")
		pass(2 * time.Minute)
		b.again(w).sees("u001", "u002", "mine", "u007")
		b.pending(1)
		b.online()
		b.pending(0)
		b.register(tidemark.Where{"score": tidemark.Range{LT: 6}})
		b.equals(w, tidemark.Where{"score": tidemark.Range{LT: 6}})
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

func TestCoveredScopesNeedNoSyncOfTheirOwn(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		narrow := b.register(tidemark.Where{"label": "x"})
		range1 := b.register(tidemark.Where{"score": tidemark.Range{GTE: 1}})
		b.register(tidemark.Where{"score": tidemark.Range{GTE: 5}, "label": "y"})
		b.client.GoOnline()
		b.sent(`sync item {"label":"x"}`, `sync item {"score":{"gte":1}}`)
		if s := b.client.Status(); s.Synced != 3 || s.Scopes != 3 {
			t.Errorf("%d of %d are synchronised", s.Synced, s.Scopes)
		}
		all := b.register(nil)
		b.sent(`sync item {}`)
		b.register(tidemark.Where{"label": "z"})
		b.sent() // covered by a scope that is synchronised
		all.Release()
		b.sent() // what it covered stays in step by events
		b.state(client.Synced)
		if err := b.client.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		b.sent(`sync item {"label":"x"}`, `sync item {"label":"z"}`, `sync item {"score":{"gte":1}}`)
		narrow.Release()
		range1.Release()
		range1.Release()
		if s := b.client.Status(); s.Scopes != 2 {
			t.Errorf("%d scopes are left", s.Scopes)
		}
	})
}

func TestSeveralScopesAreSynchronisedAtOnceButNotAll(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, nil)
		b.open()
		for i := range 10 {
			b.register(tidemark.Where{"score": i})
		}
		if n := len(b.script.requests()); n != 4 {
			t.Errorf("%d syncs are under way, want 4", n)
		}
		for range 10 {
			b.script.next().synced(tidemark.SyncResult{})
		}
		b.state(client.Synced)
	})
}

func TestScopesAreRememberedAcrossRestarts(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(tidemark.Where{"label": "x"})
		b.register(tidemark.Where{"label": "y"}).Release()
		b.script.requests()
		b.crash()
		b.sent(`sync item {"label":"x"}`)
		again := b.register(tidemark.Where{"label": "x"})
		b.sent()
		again.Release()
		b.crash()
		b.sent()
	})
}

func TestScopesNobodyAsksForAnyLongerAreForgotten(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.ScopeAge = time.Hour
		b.open()
		b.register(tidemark.Where{"label": "x"})
		b.script.requests()
		pass(59 * time.Minute)
		b.crash()
		b.sent(`sync item {"label":"x"}`)
		pass(2 * time.Minute)
		b.crash()
		b.sent()
	})
}

func TestLongClausesAreRememberedToo(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		long := string(slices.Repeat([]byte("x"), 5000))
		b.register(tidemark.Where{"label": long})
		b.script.requests()
		b.crash()
		b.sent(fmt.Sprintf(`sync item {"label":%q}`, long))
	})
}

func TestSeveralHoldersOfOneScope(t *testing.T) { // 72 and 75
	run(t, func(t *testing.T, b *bench) {
		b.open()
		first := b.register(tidemark.Where{"label": "x"})
		second := b.register(tidemark.Where{"label": "x"})
		b.sent(`sync item {"label":"x"}`)
		first.Release()
		first.Release()
		if s := b.client.Status(); s.Scopes != 1 {
			t.Fatalf("%d scopes are left, want 1", s.Scopes)
		}
		second.Release()
		if s := b.client.Status(); s.Scopes != 0 {
			t.Fatalf("%d scopes are left, want 0", s.Scopes)
		}
	})
}

// heldUp is a connection whose sends wait for the gate, when there is one.
type heldUp struct {
	tidemark.Conn
	gate *chan struct{}
}

func (c *heldUp) Send(m *tidemark.Message) error {
	if *c.gate != nil {
		<-*c.gate
	}
	return c.Conn.Send(m)
}

// The session has not noticed yet that the clause was released when it is registered again, without its rows.
func TestClauseThatIsReleasedEvictedAndRegisteredAtOnceIsToldAgain(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(3)
		var gate chan struct{}
		b := w.deviceOver(func(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
			conn, welcome, err := w.dial(ctx, hello, h)
			return &heldUp{conn, &gate}, welcome, err
		}, nil)
		s := b.register(nil)
		b.state(client.Synced)
		gate = make(chan struct{})
		b.create("v", "mine") // which the session is sending
		synctest.Wait()
		s.Release()
		if _, err := b.items.Evict(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := b.items.Register(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		close(gate)
		b.state(client.Synced)
		b.equals(w, nil)
	})
}

// The server makes a write that was discarded on its way, and tells only its verdict of it.
func TestResetWhileABatchIsOnItsWay(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.register(nil)
		b.nextPull("", "").page("c1", "", live("a", "a", T0))
		b.state(client.Synced)
		b.script.on(tidemark.MethodPush, nil)
		b.create("u", "mine")
		push := b.script.next()
		if err := b.items.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
			t.Fatal(err)
		}
		var batch tidemark.Batch
		if err := batch.UnmarshalJSON(push.Args[0]); err != nil {
			t.Fatal(err)
		}
		m := batch.Mutations[0]
		mine := live("u", "mine", m.Stamp)
		pages := func(rows ...tidemark.RowMeta) {
			for synctest.Wait(); len(b.script.calls) > 0; synctest.Wait() {
				b.nextPull("", "").page("c2", "", rows...)
			}
		}
		pages(live("a", "a", T0)) // those that are read before the batch is decided
		push.verdicts(&tidemark.PushAnswer{Now: m.Stamp, Verdicts: []tidemark.Verdict{{N: m.N, Outcome: tidemark.Outcome{Applied: true, Row: mine.Row, Meta: mine.Meta}}}})
		pages(live("a", "a", T0), mine)
		b.sees("a", "mine")
		b.state(client.Synced)
	})
}

// A scope that the server refuses holds up no other, though its clause covers that one's.
func TestScopeThatIsRefusedCoversNothing(t *testing.T) {
	mine := live("a", "mine", T0)
	refuse := tidemark.NewError(tidemark.CodeDenied, "not all rows")
	for name, protocol := range map[string]func(b *bench){
		"guide": func(b *bench) {
			b.script.on(tidemark.MethodSyncGo, func(c *call) {
				if string(c.Args[1]) == "{}" {
					c.answer(tidemark.Answer{Err: refuse})
					return
				}
				c.synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{mine}})
			})
		},
		"second": func(b *bench) {
			answers := func(rs []tidemark.ScopeRequest) (as []tidemark.ScopeAnswer) {
				for i, r := range rs {
					a := tidemark.ScopeAnswer{Scope: int64(7 + i), Tag: "tag", Page: &tidemark.ScopePage{Cursor: "c", Rows: []tidemark.RowMeta{mine}}}
					if string(r.Where) == "{}" {
						a = tidemark.ScopeAnswer{Err: refuse}
					}
					as = append(as, a)
				}
				return as
			}
			b.script.on(tidemark.MethodOpen, func(c *call) {
				var r tidemark.OpenRequest
				_ = json.Unmarshal(c.Args[0], &r)
				c.give(tidemark.OpenAnswer{Protocol: 1, Now: tidemark.StampOf(time.Now()), Epoch: "e", Scopes: answers(r.Scopes)})
			})
			b.script.on(tidemark.MethodSubscribe, func(c *call) {
				var rs []tidemark.ScopeRequest
				_ = json.Unmarshal(c.Args[0], &rs)
				c.give(answers(rs))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				protocol(b)
				b.opts.Offline = true
				b.open()
				all, own := b.register(nil), b.register(tidemark.Where{"label": "mine"})
				b.client.GoOnline()
				pass(time.Minute)
				b.sees("mine")
				if err := own.Synced(t.Context()); err != nil {
					t.Error(err)
				}
				wantCode(t, all.Synced(t.Context()), tidemark.CodeDenied)
			})
		})
	}
}

// A scope that is held is in use, however long ago it was asked for.
func TestScopeThatIsHeldForLongIsNotForgotten(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.fill(3)
		p := &tap{w: w}
		b := w.deviceOver(p.dial, &client.Options{ScopeAge: time.Hour})
		b.register(nil)
		for range 3 {
			pass(30 * time.Minute)
			w.put("u001", "changed", 1)
		}
		pass(time.Minute)
		p.heard()
		b.again(w)
		b.register(nil)
		b.state(client.Synced)
		if asked, told := p.heard(); told != 0 {
			t.Errorf("%d rows came again, by %s", told, asked)
		}
		for range 3 { // nobody holds it from here on
			b.again(w)
			w.put("u001", "changed again", 1)
			pass(30 * time.Minute)
		}
		if b.again(w); b.client.Status().Scopes != 0 {
			t.Error("it is still remembered")
		}
	})
}
