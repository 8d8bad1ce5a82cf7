package client_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// Situations of docs/scenarios.md that no other test of this package tells.

// The server asks for a row that it lacks and then decides otherwise.
func TestRowThatTheServerLackedMayStillLose(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer tidemark.RowMeta
		want   []string
	}{
		{"tombstone" /*38*/, tombstone("u", "", T2), nil},
		{"row and tombstone" /*39*/, tombstone("u", "theirs", T2), nil},
		{"a newer row" /*40*/, live("u", "theirs", T2), []string{"theirs"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(live("u", "mine", T1)).script.once(tidemark.SyncResult{AddDatabase: []json.RawMessage{json.RawMessage(`{"uid":"u"}`)}})
				b.script.on(tidemark.MethodCreate, func(c *call) { c.reply(tc.answer) })
				b.open()
				b.register(nil)
				b.sees(tc.want...)
				b.pending(0)
				b.sent("sync item {}", `create u {"label":"mine","score":null}`)
				b.rejections(client.Superseded)
			})
		})
	}
}

// A row that the server asked for is pushed until there is a verdict. Added later, and 8 where it is refused.
func TestRowThatTheServerLackedStaysPendingUntilTheVerdict(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "mine", T1)).script.once(tidemark.SyncResult{AddDatabase: []json.RawMessage{json.RawMessage(`{"uid":"u"}`)}})
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.register(nil)
		b.script.next().fail(tidemark.CodeUnavailable)
		b.sees("mine")
		b.pending(1)
		b.crash()
		b.script.next().fail(tidemark.CodeTimeout)
		b.sees("mine")
		b.pending(1)
		b.rejections()
		b.script.next().accept()
		b.sees("mine")
		b.pending(0)
	})
}

// An edit made while a row that the server asked for is on its way stays, whatever
// becomes of that. 90, 91
func TestEditBehindAPushThatTheServerAskedFor(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func(*call)
		listed []client.RejectionKind
	}{
		{"accepted" /*90*/, (*call).accept, nil},
		{"refused" /*91*/, func(c *call) { c.fail("no") }, []client.RejectionKind{client.Rejected}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(state("u", "first", T0, T1, 0)).script.once(tidemark.SyncResult{UpdateDatabase: []json.RawMessage{json.RawMessage(`{"uid":"u"}`)}})
				b.script.on(tidemark.MethodUpdate, nil)
				b.open()
				b.register(nil)
				asked := b.script.next()
				b.update("u", "second")
				tc.answer(asked)
				b.sees("second")
				b.pending(1)
				b.script.next().accept()
				b.sees("second")
				b.pending(0)
				b.rejections(tc.listed...)
			})
		})
	}
}

// Of two updates the second is not sent before the first has its answer, however
// late that is, so no answer can come out of order. 78
func TestSecondUpdateWaitsForTheFirstsAnswer(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.update("u", "first")
		b.update("u", "second")
		first := b.script.next()
		pass(15 * time.Second)
		b.sent(`update u {"label":"first"}`)
		first.accept()
		b.sent(`update u {"label":"second"}`)
		b.script.next().accept()
		b.sees("second")
		b.pending(0)
	})
}

// A row can be removed once: it is hidden at once, so a second removal finds none
// and sends nothing. When the one is refused, the row is back. 82
func TestRowIsRemovedOnce(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodDelete, nil)
		b.open()
		b.remove("u")
		wantIs(t, b.items.Remove(t.Context(), "u"), tidemark.ErrNotFound)
		b.pending(1)
		c := b.script.next()
		pass(10 * time.Second)
		c.fail("no")
		b.sees("old")
		b.pending(0)
		b.sent("delete u")
		b.rejections(client.Rejected)
	})
}

// A removal that is refused leaves the update before it as it was: applied, or
// still pending. Added later
func TestRefusedRemovalLeavesTheUpdateBeforeIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodDelete, nil)
		b.open()
		b.update("u", "edited")
		b.remove("u")
		b.sees()
		b.script.next().fail("no")
		b.sees("edited")
		b.pending(0)
		b.rejections(client.Rejected)
		b.script.on(tidemark.MethodUpdate, func(c *call) { c.fail(tidemark.CodeUnavailable) })
		b.update("u", "edited again")
		b.sees("edited again")
		b.pending(1)
	})
}

// The same range registered again is the same scope, and nothing is logged. 67
func TestRangeRegisteredTwiceIsOneScope(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(tidemark.Where{"score": tidemark.Range{GTE: 1, LTE: 10}})
		b.register(tidemark.Where{"score": map[string]any{"lte": 10, "gte": 1}})
		b.sent(`sync item {"score":{"gte":1,"lte":10}}`)
		if s := b.client.Status(); s.Scopes != 1 || s.Synced != 1 {
			t.Errorf("the status is %+v", s)
		}
		if b.logs.has("level=WARN") || b.logs.has("level=ERROR") {
			t.Error("something was logged")
		}
	})
}

// A sync that hangs after a reconnection keeps the client from being synchronised,
// and nothing is pushed twice meanwhile. 47
func TestSlowSyncAfterAReconnection(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(nil)
		b.state(client.Synced)
		b.pipe.Block()
		b.pipe.Cut()
		pass(time.Second)
		b.state(client.Connecting)
		gone := b.client.Status().DisconnectedAt
		if gone.IsZero() {
			t.Error("the status does not tell when the connection ended")
		}
		b.create("u", "mine")
		b.script.requests()
		b.script.on(tidemark.MethodSyncGo, nil)
		b.pipe.Unblock()
		pass(time.Minute / 4)
		b.state(client.Syncing)
		b.script.next().synced(tidemark.SyncResult{})
		b.state(client.Synced)
		b.sent(`create u {"label":"mine","score":null}`, "sync item {}")
		b.pending(0)
	})
}

// Events of services that are no model leave the store alone, whatever they carry.
func TestEventsOfOtherServicesTouchNoRows(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).open()
		b.register(nil)
		raw, _ := state("u", "theirs", T0, T2, 0).MarshalJSON()
		for _, name := range []string{"items", "__proto__", "constructor", "sync"} {
			b.script.emit(tidemark.EventService, tidemark.ServiceEvent{Name: name, Action: tidemark.MethodUpdate, Result: raw})
		}
		b.sees("old")
	})
}

// The uid that a program gives a new row is the row's; one that it puts beside
// the model's columns cannot be, and a column cannot hide a row. Added later
func TestCreateKeepsUIDAndRowInStep(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		got, err := b.items.Create(t.Context(), Item{UID: "given", Label: "x"})
		if err != nil || got.UID != "given" {
			t.Fatalf("got %+v, %v", got, err)
		}
		for _, patch := range []client.Patch{{"uid": "other"}, {"__deleted__": true}} {
			if _, err := b.items.Update(t.Context(), "given", patch); err == nil {
				t.Errorf("%v was taken", patch)
			}
		}
		b.sees("x")
		b.sent(`create given {"label":"x","score":null}`)
	})
}

// Two scopes of one model are served apart: one that ends leaves the other. 72, 75
func TestScopeThatEndsLeavesTheOthers(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		wide, narrow := b.register(tidemark.Where{"label": "a"}), b.register(tidemark.Where{"label": "b"})
		b.script.requests()
		wide.Release()
		b.pipe.Cut()
		pass(time.Minute)
		b.sent(`sync item {"label":"b"}`)
		if got := string(narrow.Where()); got != `{"label":"b"}` {
			t.Errorf("the scope is %s", got)
		}
	})
}

// Rows are found by text, truth and null alike. 95, 96
func TestFindByBooleanAndNull(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		type Task struct {
			UID    string  `json:"uid"`
			Active bool    `json:"active"`
			Owner  *string `json:"owner"`
		}
		b.opts.Offline = true
		b.open()
		tasks, err := client.NewModel[Task](t.Context(), b.client, "task", nil)
		if err != nil {
			t.Fatal(err)
		}
		me := "me"
		for i, task := range []Task{{Active: true, Owner: &me}, {Active: false}, {Active: false, Owner: &me}} {
			task.UID = fmt.Sprint("t", i)
			if _, err := tasks.Create(t.Context(), task); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct {
			where tidemark.Where
			want  string
		}{
			{tidemark.Where{"active": true}, "t0"},
			{tidemark.Where{"owner": nil}, "t1"},
			{tidemark.Where{"active": false, "owner": "me"}, "t2"},
		} {
			got, err := tasks.FindWhere(t.Context(), tc.where)
			if err != nil || len(got) != 1 || got[0].UID != tc.want {
				t.Errorf("%v selects %+v, %v", tc.where, got, err)
			}
		}
		synctest.Wait()
	})
}

// The answer to a creation, or to a removal, that comes after a later write of
// the row leaves that. 79, 83
func TestAnswerThatComesAfterALaterWriteOfAnotherKind(t *testing.T) {
	for _, tc := range []struct {
		name   string
		held   bool
		first  func(*bench)
		second func(*bench)
		answer func(*call)
		listed []client.RejectionKind
	}{
		{"a creation, then an update" /*79*/, false, func(b *bench) { b.create("u", "first") }, func(b *bench) { b.update("u", "second") }, (*call).accept, nil},
		{"a removal that an older row won against, then a new row" /*83*/, true, func(b *bench) { b.remove("u") }, func(b *bench) { b.create("u", "second") },
			func(c *call) { c.reply(state("u", "theirs", T0, c.stamp()+1, 0)) }, []client.RejectionKind{client.Superseded}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				if tc.held {
					b.hold(live("u", "old", T0))
				}
				for _, m := range []string{tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete} {
					b.script.on(m, nil)
				}
				b.open()
				tc.first(b)
				pass(time.Second)
				tc.second(b)
				tc.answer(b.script.next())
				b.sees("second")
				b.pending(1)
				b.script.next().accept()
				b.sees("second")
				b.pending(0)
				b.rejections(tc.listed...)
			})
		})
	}
}
