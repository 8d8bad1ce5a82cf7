package client_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// scored is a row with a score, which no write of these tests touches.
func scored(uid, label string, at tidemark.Stamp) tidemark.RowMeta {
	t := live(uid, label, at)
	t.Row = t.Row.With("score", []byte("5"))
	return t
}

// shows checks a visible row whole; "" for none.
func (b *bench) shows(uid, want string) {
	b.t.Helper()
	if got := b.record(uid).Row; string(got) != want {
		b.t.Fatalf("%s is shown as %s, want %s", uid, got, want)
	}
}

// departed is a bench that held a row and wrote it; then the row left, in an older version.
func departed(b *bench, leave func(*bench)) (push *call, mine tidemark.Mutation) {
	b.t.Helper()
	b.followed(scored("a", "old", T0))
	pushed := make(chan *call, 1)
	b.script.on(tidemark.MethodPush, func(c *call) {
		select {
		case pushed <- c:
		default:
		}
	})
	b.update("a", "mine")
	push = <-pushed
	var batch tidemark.Batch
	if err := batch.UnmarshalJSON(push.Args[0]); err != nil {
		b.t.Fatal(err)
	}
	leave(b)
	return push, batch.Mutations[0]
}

func left(b *bench) { b.tell(gone("a", T2, false)) }

func (c *call) verdict(n int64, o tidemark.Outcome) {
	c.give(&tidemark.PushAnswer{Now: T2, Verdicts: []tidemark.Verdict{{N: n, Outcome: o}}})
	synctest.Wait()
}

const wholeMine = `{"uid":"a","label":"mine","score":5}`

func TestRowThatLeftIsShownWholeWhileAWriteOfItIsPending(t *testing.T) {
	for name, leave := range map[string]func(*bench){
		"live":  left,
		"twice": func(b *bench) { left(b); b.tell(gone("a", T2+1, false)) },
		"a page": func(b *bench) {
			b.reconnect()
			b.nextPull("c1", "").give(tidemark.ScopePage{Cursor: "c2", Gone: []tidemark.Departure{{UID: "a", At: T2}}})
		},
		"not told again": func(b *bench) {
			b.reconnect()
			b.nextPull("c1", "").fail(tidemark.CodeCursorTooOld)
			b.nextPull("", "").page("c2", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				departed(b, leave)
				b.shows("a", wholeMine)
				b.update("a", "again")
				b.shows("a", `{"uid":"a","label":"again","score":5}`)
				b.crash()
				b.shows("a", `{"uid":"a","label":"again","score":5}`)
			})
		})
	}
}

func TestOwnRowThatLeftBeforeItsVerdictIsShownWhole(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed()
		b.script.on(tidemark.MethodPush, func(*call) {})
		score := int64(5)
		if _, err := b.items.Create(t.Context(), Item{UID: "a", Label: "new", Score: &score}); err != nil {
			t.Fatal(err)
		}
		moved := tidemark.StampOf(time.Now()) + 10 // by another device, which the server has told of it
		pass(time.Second)
		b.update("a", "mine")
		b.tell(gone("a", moved, false))
		b.shows("a", wholeMine)
	})
}

func TestRowThatLeftGoesWhenItsWriteIsRefused(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		push, m := departed(b, left)
		push.verdict(m.N, tidemark.Outcome{Err: tidemark.NewError("no", "no")})
		b.shows("a", "")
		b.pending(0)
		if r := b.record("a"); r.Base != nil {
			t.Errorf("its former version is kept: %s", r.Base)
		}
		if rs, err := b.client.Rejections(t.Context()); err != nil || len(rs) != 1 || rs[0].Row != nil {
			t.Errorf("the rejections are %+v, %v", rs, err)
		}
		b.state(client.Synced)
	})
}

func TestRowThatLeftIsTheServersWhenItsWriteIsApplied(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		push, m := departed(b, left)
		push.verdict(m.N, tidemark.Outcome{Applied: true, Row: tidemark.Row(`{"uid":"a","label":"mine","score":6}`), Meta: tidemark.Meta{UID: "a", CreatedAt: T0, UpdatedAt: m.Stamp}})
		b.shows("a", `{"uid":"a","label":"mine","score":6}`)
	})
}

func TestRowThatLeftInANewerVersionThanAllWritesIsHidden(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		_, m := departed(b, func(*bench) {})
		b.tell(gone("a", m.Stamp+1, false))
		b.shows("a", "")
	})
}

// A server that was put back no longer has a row of which a write is pending. Where somebody makes it again, in an older
// version than it had, that is the row.
func TestRowThatTheServerLostAndHasAgain(t *testing.T) {
	for _, at := range []struct{ pending, deleted bool }{{true, false}, {false, false}, {true, true}, {false, true}} {
		t.Run(fmt.Sprintf("%+v", at), func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				again := scored("a", "again", T0)
				b.followed(scored("a", "newer", T1))
				var push atomic.Pointer[call]
				b.script.on(tidemark.MethodPush, func(c *call) { push.Store(c) })
				b.update("a", "mine")
				if at.deleted { // which the server has lost too
					b.tell(gone("a", T2, true))
				}
				b.reconnect()
				b.nextPull("c1", "").fail(tidemark.CodeCursorTooOld)
				b.nextPull("", "").page("c2", "")
				synctest.Wait()
				if at.pending {
					b.tell(came(again, 7))
					b.shows("a", wholeMine)
				}
				push.Load().verdict(1, tidemark.Outcome{Err: tidemark.NewError("no", "no")})
				if rs, err := b.client.Rejections(t.Context()); err != nil || len(rs) != 1 || rs[0].Meta.CreatedAt < 0 {
					t.Errorf("the rejections are %+v, %v", rs, err)
				}
				if !at.pending {
					b.tell(came(again, 7))
				}
				b.shows("a", string(again.Row))
			})
		})
	}
}

// What the device had written of a row before the server lost it, and had lost by itself, does not come to light.
func TestWriteThatHadLostBeforeTheServerLostItsRowStaysHidden(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		_, m := departed(b, func(*bench) {})
		b.tell(came(scored("a", "newer", m.Stamp+1), 7))
		b.shows("a", `{"uid":"a","label":"newer","score":5}`)
		b.reconnect()
		b.nextPull("c1", "").fail(tidemark.CodeCursorTooOld)
		b.nextPull("", "").page("c2", "")
		synctest.Wait()
		b.shows("a", "")
	})
}

// A server of the guide's protocol deletes what a client says is deleted.
func TestRowThatLeftIsNoTombstoneForTheGuidesServer(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		departed(b, left)
		b.script.on(tidemark.MethodOpen, func(c *call) { c.fail(tidemark.CodeMissingMethod) })
		b.script.on(tidemark.MethodUpdate, func(c *call) { c.fail("no") })
		b.script.on(tidemark.MethodSyncGo, nil)
		b.reconnect()
		if d := b.script.next().dict(); len(d) > 0 {
			t.Errorf("the server is told %s", d)
		}
	})
}
