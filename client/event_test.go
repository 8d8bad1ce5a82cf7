package client_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
)

func TestEventsAreApplied(t *testing.T) {
	for _, tc := range []struct {
		name   string
		held   []tidemark.RowMeta
		action string
		event  tidemark.RowMeta
		want   []string
	}{
		{"a row that a scope selects", nil, tidemark.MethodCreate, live("u", "scoped", T1), []string{"scoped"}},
		{"a row that no scope selects is not stored", nil, tidemark.MethodCreate, live("u", "elsewhere", T1), nil},
		{"a row that is held and leaves the scope", []tidemark.RowMeta{live("u", "scoped", T1)}, tidemark.MethodUpdate, state("u", "elsewhere", T1, T2, 0), []string{"elsewhere"}},
		{"a row that is held outside all scopes", []tidemark.RowMeta{live("u", "mine", T1)}, tidemark.MethodUpdate, state("u", "theirs", T1, T2, 0), []string{"theirs"}},
		{"48 metadata without row", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodCreate, live("u", "", T1), []string{"scoped"}},
		{"49 tombstone by a create", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodCreate, tombstone("u", "", T1), nil},
		{"50 tombstone by an update", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodUpdate, tombstone("u", "scoped", T1), nil},
		{"53 tombstone without row by a delete", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodDelete, tombstone("u", "", T1), nil},
		{"a delete of an absent row, as a uid only", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodDelete,
			tidemark.RowMeta{Row: tidemark.Row(`{"uid":"u"}`), Meta: tidemark.Meta{UID: "u", DeletedAt: T1}}, nil},
		{"a refused delete, as the original publishes it, drops nothing", []tidemark.RowMeta{live("u", "scoped", T0)}, tidemark.MethodDelete, state("u", "theirs", T0, T2, 0), []string{"theirs"}},
		{"an older state", []tidemark.RowMeta{state("u", "scoped", T0, T2, 0)}, tidemark.MethodUpdate, state("u", "older", T0, T1, 0), []string{"scoped"}},
		{"an older deletion", []tidemark.RowMeta{state("u", "scoped", T0, T2, 0)}, tidemark.MethodDelete, tombstone("u", "", T1), []string{"scoped"}},
		{"an equal state", []tidemark.RowMeta{live("u", "scoped", T1)}, tidemark.MethodUpdate, live("u", "healed", T1), []string{"healed"}},
		{"a read", nil, tidemark.MethodFindMany, live("u", "scoped", T1), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(tc.held...).open()
				b.register(tidemark.Where{"label": "scoped"})
				b.script.event(tc.action, tc.event)
				b.sees(tc.want...)
			})
		})
	}
}

func TestEventOfADeletionAfterTheRowIsGoneLeavesNothing(t *testing.T) { // 52
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(nil)
		b.script.event(tidemark.MethodDelete, tombstone("u", "x", T1))
		if r := b.record("u"); !r.IsZero() {
			t.Errorf("the record is %+v", r)
		}
	})
}

func TestStaleEventsDoNotTouchAPendingWrite(t *testing.T) { // 51
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.register(nil)
		b.update("u", "mine")
		b.script.event(tidemark.MethodUpdate, state("u", "theirs", T0, T1, 0))
		b.sees("mine")
		b.script.event(tidemark.MethodDelete, tombstone("u", "", T2))
		b.sees("mine")
		b.pending(1)
	})
}

func TestNewerEventBeforeTheAnswerStays(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.register(nil)
		b.update("u", "mine")
		c := b.script.next()
		newer := state("u", "newer", T0, c.stamp()+5, 0)
		b.script.event(tidemark.MethodUpdate, c.won())
		b.script.event(tidemark.MethodUpdate, newer)
		c.accept() // an answer of before the newer write
		b.sees("newer")
		b.pending(0)
		b.rejections()
	})
}

// Of two states with one stamp the later told counts, so the order shows.
func TestAnswerDoesNotOvertakeTheEventBeforeIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		gate := &gatedStore{Store: b.hold(live("u", "old", T0), live("v", "other", T0)).store, gate: make(chan struct{})}
		b.script.on(tidemark.MethodUpdate, nil)
		c, err := client.Open(t.Context(), gate, b.pipe, b.opts)
		if err != nil {
			t.Fatal(err)
		}
		b.client = c
		if b.items, err = client.NewModel[Item](t.Context(), c, "item", nil); err != nil {
			t.Fatal(err)
		}
		b.update("u", "mine")
		push := b.script.next()
		gate.shut.Store(true)
		b.script.event(tidemark.MethodUpdate, live("v", "busy", T1)) // the session is held up by its store
		synctest.Wait()
		won := push.won()
		won.Row = won.Row.With("label", json.RawMessage(`"by event"`))
		b.script.event(tidemark.MethodUpdate, won)
		won.Row = won.Row.With("label", json.RawMessage(`"by answer"`))
		push.reply(won)
		synctest.Wait()
		gate.shut.Store(false)
		close(gate.gate)
		b.sees("by answer", "busy")
	})
}

// gatedStore is a store whose updates wait, while it is shut, for the gate.
type gatedStore struct {
	*memory.Store
	shut atomic.Bool
	gate chan struct{}
}

func (g *gatedStore) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if g.shut.Load() {
		<-g.gate
	}
	return g.Store.Update(ctx, fn)
}

func TestNewWritesAreLaterThanAllThatWasSeen(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.register(nil)
		seen := tidemark.StampOf(time.Now().Add(30 * time.Second)) // this device's clock is behind
		b.script.event(tidemark.MethodCreate, live("u", "theirs", seen))
		b.sees("theirs")
		b.create("v", "an answer to it")
		c := b.script.next()
		if got := c.stamp(); got <= seen {
			t.Errorf("the stamp %v is not after %v", got, seen)
		}
		b.script.event(tidemark.MethodCreate, live("w", "forged", tidemark.StampOf(time.Now().AddDate(1000, 0, 0))))
		b.sees("theirs", "an answer to it", "forged")
		c.accept()
		b.create("x", "later")
		if got := b.script.next(); got.text(0) != "x" || got.stamp() > seen+tidemark.Stamp(time.Minute/time.Microsecond) {
			t.Errorf("a forged stamp carried the clock away: %v at %v", got, got.stamp())
		}
	})
}

func TestMalformedEventsAreIgnored(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).open()
		b.register(nil)
		for _, raw := range []string{
			`null`, `7`, `[]`, `{}`, `{"name":7}`, `{"name":"item","action":"updateWithMeta"}`,
			`{"name":"item","action":"updateWithMeta","result":null}`,
			`{"name":"item","action":"updateWithMeta","result":[]}`,
			`{"name":"item","action":"updateWithMeta","result":[null,null]}`,
			`{"name":"item","action":"updateWithMeta","result":[{"uid":"u","label":"x"},{"uid":"v","updated_at":"2001-01-01T00:00:00Z"}]}`,
			`{"name":"item","action":"updateWithMeta","result":[{"uid":"u","label":9},{"uid":"u","updated_at":"2001-01-01T00:00:00Z"}]}`,
			`{"name":"item","action":"updateWithMeta","result":["u",{"uid":"u","updated_at":"2001-01-01T00:00:00Z"}]}`,
			`{"name":"item","action":"updateWithMeta","result":[{"uid":"u","label":"x"},{"uid":"u","updated_at":"soon"}]}`,
			`{"name":"item","action":"updateWithMeta","result":[{"uid":"u","label":"x"`,
			`{"name":"nobody","action":"updateWithMeta","result":[{"uid":"u"},{"uid":"u","updated_at":"2001-01-01T00:00:00Z"}]}`,
		} {
			b.script.emit(tidemark.EventService, json.RawMessage(raw))
			b.script.emit(tidemark.EventApplication, json.RawMessage(raw))
			b.script.emit("nobody-knows", json.RawMessage(raw))
		}
		b.sees("old")
		b.script.event(tidemark.MethodUpdate, state("u", "new", T0, T2, 0))
		b.sees("new")
		b.state(client.Synced)
		if !b.logs.has("malformed") {
			t.Error("nothing was logged")
		}
	})
}

func TestHandlersOfEventsAndNotices(t *testing.T) { // 62 and 63
	run(t, func(t *testing.T, b *bench) {
		b.open()
		var got []string
		stop := b.client.OnEvent("chat", "said", func(r json.RawMessage) { got = append(got, "event "+string(r)) })
		b.client.OnNotice("ping", func(v json.RawMessage) { got = append(got, "notice "+string(v)) })
		cancelled := b.client.OnNotice("ping", func(json.RawMessage) { t.Error("called after it was removed") })
		cancelled()
		b.script.emit(tidemark.EventService, tidemark.ServiceEvent{Name: "chat", Action: "said", Result: json.RawMessage(`"hi"`)})
		b.script.emit(tidemark.EventService, tidemark.ServiceEvent{Name: "chat", Action: "left", Result: json.RawMessage(`"hi"`)})
		b.script.emit(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "ping", Value: json.RawMessage(`{"n":1}`)})
		b.script.emit(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "unknown", Value: json.RawMessage(`{"n":1}`)})
		b.state(client.Synced)
		stop()
		b.script.emit(tidemark.EventService, tidemark.ServiceEvent{Name: "chat", Action: "said", Result: json.RawMessage(`"again"`)})
		b.state(client.Synced)
		b.client.Close()
		if len(got) != 2 || got[0] != `event "hi"` || got[1] != `notice {"n":1}` {
			t.Errorf("the handlers got %q", got)
		}
	})
}
