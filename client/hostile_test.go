package client_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// scoped makes the script speak the second protocol. Scopes get numbers from 7 on, and no
// page with the answer: pulls wait for the test.
func (b *bench) scoped() *bench {
	number := func(n int) tidemark.ScopeAnswer { return tidemark.ScopeAnswer{Scope: int64(7 + n), Tag: "tag"} }
	b.script.on(tidemark.MethodOpen, func(c *call) {
		var r tidemark.OpenRequest
		_ = json.Unmarshal(c.Args[0], &r)
		a := tidemark.OpenAnswer{Protocol: 1, Now: tidemark.StampOf(time.Now()), Epoch: "e"}
		for i := range r.Scopes {
			a.Scopes = append(a.Scopes, number(i))
		}
		c.give(a)
	})
	b.script.on(tidemark.MethodSubscribe, func(c *call) {
		var rs []tidemark.ScopeRequest
		_ = json.Unmarshal(c.Args[0], &rs)
		var as []tidemark.ScopeAnswer
		for i := range rs {
			as = append(as, number(i))
		}
		c.give(as)
	})
	b.script.on(tidemark.MethodUnsubscribe, func(c *call) { c.answer(tidemark.Answer{}) })
	b.script.on(tidemark.MethodPull, nil)
	return b
}

func (c *call) give(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	c.raw(string(raw))
}

func (c *call) page(cursor, after string, rows ...tidemark.RowMeta) {
	c.give(tidemark.ScopePage{Cursor: cursor, After: after, Rows: rows})
}

// nextPull waits for a pull, and checks what it asks for.
func (b *bench) nextPull(cursor, after string) *call {
	b.t.Helper()
	c := b.script.next()
	var r tidemark.PullRequest
	if c.Action != tidemark.MethodPull || json.Unmarshal(c.Args[0], &r) != nil || r.Cursor != cursor || r.After != after {
		b.t.Fatalf("got %s %s, want a pull from %q after %q", c.Action, c.Args, cursor, after)
	}
	return c
}

func (b *bench) tell(changes ...tidemark.Change) {
	b.t.Helper()
	b.script.emit(tidemark.EventChanges, tidemark.Changes(changes))
	synctest.Wait()
}

func came(t tidemark.RowMeta, in ...int64) tidemark.Change {
	return tidemark.Change{Model: "item", Row: t.Row, Meta: t.Meta, In: in}
}

func gone(uid string, at tidemark.Stamp, deleted bool) tidemark.Change {
	return tidemark.Change{Model: "item", Gone: tidemark.Departure{UID: uid, At: at, Deleted: deleted}, Out: []int64{7}}
}

func TestRowThatLeftWhileAPageIsOnItsWayStaysAway(t *testing.T) {
	for _, deleted := range []bool{true, false} {
		t.Run(fmt.Sprint("deleted=", deleted), func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.scoped().open()
				b.register(nil)
				b.nextPull("", "").page("c1", "m", live("a", "a", T0))
				late := b.nextPull("", "m")
				b.tell(gone("u", T2, deleted), gone("a", T2, deleted))
				late.page("c2", "", live("u", "old", T1))
				b.sees()
				b.state(client.Synced)
				b.tell(came(live("u", "again", T2), 7)) // a tombstone does not outweigh the version that left
				b.sees("again")
			})
		})
	}
}

func TestOlderPageDoesNotCoverALiveChange(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.register(nil)
		b.nextPull("", "").page("c1", "m", live("a", "a", T0))
		late := b.nextPull("", "m")
		b.tell(came(state("u", "live", T0, T2, 0), 7))
		late.page("c2", "", live("u", "old", T0))
		b.sees("a", "live")
		b.state(client.Synced)
	})
}

func TestLocalWriteDuringAPassStays(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.script.on(tidemark.MethodPush, nil)
		b.register(nil)
		b.nextPull("", "").page("c1", "m", live("a", "a", T0))
		late := b.nextPull("", "m")
		b.create("u", "mine")
		push := b.script.next()
		late.page("c2", "", live("u", "theirs", T1))
		b.sees("a", "mine")
		b.pending(1)
		push.fail(tidemark.CodeUnavailable)
	})
}

func TestChangeBeforeTheAnswerToASubscription(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.script.on(tidemark.MethodSubscribe, nil)
		b.register(nil)
		c := b.script.next()
		b.tell(came(live("u", "live", T1), 9), gone("v", T2, true))
		c.give([]tidemark.ScopeAnswer{{Scope: 9, Tag: "t", Page: &tidemark.ScopePage{Cursor: "c", Rows: []tidemark.RowMeta{live("v", "old", T1)}}}})
		b.sees("live")
		b.state(client.Synced)
	})
}

func TestChangesBeforeTheAnswerToTheOpening(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped()
		b.script.on(tidemark.MethodOpen, nil)
		b.opts.Offline = true
		b.open()
		b.register(nil)
		b.client.GoOnline()
		c := b.script.next()
		b.tell(came(live("u", "live", T1), 9), gone("v", T2, true))
		b.sees()
		c.give(tidemark.OpenAnswer{Protocol: 1, Now: T2, Scopes: []tidemark.ScopeAnswer{{Scope: 9, Tag: "t", Page: &tidemark.ScopePage{Cursor: "c", Rows: []tidemark.RowMeta{live("v", "old", T1)}}}}})
		b.sees("live")
	})
}

// A row that was pushed before its scope was live, and deleted by another client before
// it was, is on none of the scope's pages; it must not seem to be told of in the pass.
func TestWritesAndSubscriptionsAreNotOnTheirWayTogether(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.script.on(tidemark.MethodPush, nil)
		subscribe := b.script.rules[tidemark.MethodSubscribe]
		b.script.on(tidemark.MethodSubscribe, nil)
		b.create("u", "mine")
		push := b.script.next()
		b.register(nil)
		b.sent("sync.push")
		push.give(&tidemark.PushAnswer{Now: T2, Verdicts: []tidemark.Verdict{{N: 1, Outcome: tidemark.Outcome{
			Applied: true, Row: tidemark.Row(`{"uid":"u","label":"mine","score":null}`), Meta: tidemark.Meta{UID: "u", CreatedAt: T2}}}}})
		joined := b.script.next()
		b.create("v", "later")
		b.sent("sync.subscribe")
		subscribe(joined)
		b.nextPull("", "").page("c1", "")
		b.sees("later")
		if c := b.script.next(); c.Action != tidemark.MethodPush {
			t.Errorf("then came %s", c)
		}
	})
}

// followed is a bench whose scope was in step at cursor c1, with rows, and that is connected anew.
func (b *bench) followed(rows ...tidemark.RowMeta) *bench {
	b.scoped().open()
	b.register(nil)
	b.nextPull("", "").page("c1", "", rows...)
	b.state(client.Synced)
	return b
}

func (b *bench) reconnect() {
	b.t.Helper()
	b.client.GoOffline()
	synctest.Wait()
	b.client.GoOnline()
	synctest.Wait()
}

func TestCursorOfTheSessionIsNotThatOfAScopeWhosePassIsUnderWay(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		b.script.emit(tidemark.EventCursor, map[string]string{"cursor": "c2"})
		synctest.Wait()
		b.reconnect()
		b.nextPull("c2", "")
		b.script.emit(tidemark.EventCursor, map[string]string{"cursor": "c9"})
		synctest.Wait()
		b.reconnect()
		b.nextPull("c2", "").page("c3", "")
		b.state(client.Synced)
		b.reconnect()
		b.nextPull("c3", "").page("c3", "")
	})
}

func TestOwnWriteThatMovedARowOutOfReachKeepsIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "mine", T1), live("b", "older", T0), live("c", "deleted at the same time", T1))
		b.tell(gone("a", T1, false), gone("b", T1, false), gone("c", T1, true), gone("never held", T1, true))
		b.sees("mine")
		if r := b.record("never held"); !r.IsZero() {
			t.Errorf("the record is %+v", r)
		}
	})
}

func TestVerdictDoesNotBringBackARowThatLeft(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "old", T0))
		b.script.on(tidemark.MethodPush, nil)
		b.update("a", "mine")
		push := b.script.next()
		var batch tidemark.Batch
		if err := batch.UnmarshalJSON(push.Args[0]); err != nil {
			t.Fatal(err)
		}
		mine := batch.Mutations[0]
		b.tell(gone("a", mine.Stamp+1, true)) // somebody deleted it right after
		b.sees()
		push.give(&tidemark.PushAnswer{Now: mine.Stamp, Verdicts: []tidemark.Verdict{{N: mine.N, Outcome: tidemark.Outcome{
			Applied: true, Row: tidemark.Row(`{"uid":"a","label":"mine","score":null}`), Meta: tidemark.Meta{UID: "a", CreatedAt: T0, UpdatedAt: mine.Stamp}}}}})
		b.sees()
		b.pending(0)
	})
}

func TestRefusedPositionCostsAPassFromTheBeginning(t *testing.T) {
	for _, code := range []tidemark.Code{tidemark.CodeInvalidRequest, tidemark.CodeCursorTooOld, tidemark.CodeScopeChanged} {
		t.Run(string(code), func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.followed(live("a", "stays", T0), live("b", "goes", T0))
				b.script.on(tidemark.MethodPush, func(c *call) { c.fail(tidemark.CodeUnavailable) })
				b.update("b", "pending")
				b.reconnect()
				b.nextPull("c1", "").fail(code)
				b.sees("stays", "pending")
				b.nextPull("", "").page("c2", "", live("a", "stays", T0))
				b.sees("stays", "pending")
				b.pending(1)
				if r := b.record("b"); !r.Meta.Deleted() {
					t.Errorf("the record is %+v", r)
				}
			})
		})
	}
}

func TestOtherTagCostsAPassFromTheBeginning(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		b.script.on(tidemark.MethodOpen, func(c *call) {
			c.give(tidemark.OpenAnswer{Protocol: 1, Now: T2, Scopes: []tidemark.ScopeAnswer{{Scope: 3, Tag: "another", Page: &tidemark.ScopePage{Cursor: "c5"}}}})
		})
		b.reconnect()
		b.nextPull("", "").page("c6", "")
		b.sees()
		b.state(client.Synced)
	})
}

func TestUnknownScopeIsSubscribedAgain(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		done := b.sync()
		b.nextPull("c1", "").fail(tidemark.CodeUnknownScope)
		b.nextPull("c1", "").page("c2", "")
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.sent("sync.subscribe", "sync.pull", "sync.pull", "sync.subscribe", "sync.pull")
	})
}

func TestRefusedScopeIsAskedForAgainLater(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		refused := tidemark.NewError(tidemark.CodeDenied, "not yours")
		b.scoped().open()
		b.script.on(tidemark.MethodSubscribe, func(c *call) { c.give([]tidemark.ScopeAnswer{{Err: refused}}) })
		s := b.register(nil)
		wantCode(t, s.Synced(t.Context()), tidemark.CodeDenied)
		b.script.requests()
		pass(time.Minute)
		if n := len(b.script.requests()); n < 2 || n > 12 {
			t.Errorf("%d requests in a minute", n)
		}
		b.scoped().script.on(tidemark.MethodPull, func(c *call) { c.page("c1", "", live("a", "now", T0)) })
		pass(time.Minute)
		b.sees("now")
	})
}

func TestServerThatRefusesWhatItBeganIsNotHammered(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		b.script.on(tidemark.MethodPull, func(c *call) {
			var r tidemark.PullRequest
			if _ = json.Unmarshal(c.Args[0], &r); r.After == "" {
				c.page("c1", "m", live("a", "a", T0))
				return
			}
			c.fail(tidemark.CodeInvalidRequest)
		})
		b.register(nil)
		pass(10 * time.Minute)
		if n := len(b.script.requests()); n < 4 || n > 200 {
			t.Errorf("%d requests in ten minutes", n)
		}
	})
}

// What is not the protocol ends the connection, or fails the scope; nothing is stored by halves,
// and the client tries again, ever more seldom.
func TestHostilePages(t *testing.T) {
	row := `["a",null,1000]`
	for name, page := range map[string]string{
		"not an object":        `[]`,
		"null":                 `null`,
		"no cursor":            `{"blocks":[{"fields":["uid","label"],"rows":[` + row + `]}]}`,
		"a cursor of no text":  `{"cursor":7}`,
		"an endless pass":      `{"cursor":"c1","after":"m"}`,
		"a row without a uid":  `{"cursor":"c1","blocks":[{"fields":["label"],"rows":[["x",1000]]}]}`,
		"a uid of no text":     `{"cursor":"c1","blocks":[{"fields":["uid","label"],"rows":[` + row + `,[7,"x",1000]]}]}`,
		"a uid with control":   `{"cursor":"c1","blocks":[{"fields":["uid","label"],"rows":[` + row + `,["\u0001","x",1000]]}]}`,
		"too few values":       `{"cursor":"c1","blocks":[{"fields":["uid","label"],"rows":[` + row + `,["b"]]}]}`,
		"too many values":      `{"cursor":"c1","blocks":[{"fields":["uid","label"],"rows":[` + row + `,["b","x",1,2,3]]}]}`,
		"a value of no kind":   `{"cursor":"c1","blocks":[{"fields":["uid","label"],"rows":[` + row + `,["b",[],1000]]}]}`,
		"a number too large":   `{"cursor":"c1","blocks":[{"fields":["uid","score"],"rows":[["a",1,1000],["b",1e300,1000]]}]}`,
		"a field twice":        `{"cursor":"c1","blocks":[{"fields":["uid","label","label"],"rows":[["a","x","y",1000]]}]}`,
		"a field by an escape": `{"cursor":"c1","blocks":[{"fields":["uid","label","\u006cabel"],"rows":[["a","x","y",1000]]}]}`,
		"an object twice":      `{"cursor":"c1","blocks":[{"fields":["uid","more"],"rows":[["a",{"x":1,"x":2},1000]]}]}`,
		"a negative stamp":     `{"cursor":"c1","blocks":[{"fields":["uid"],"rows":[["a",1000],["b",-5000]]}]}`,
		"a departure of none":  `{"cursor":"c1","gone":[["",1]]}`,
		"a departure before":   `{"cursor":"c1","gone":[["a",-1]]}`,
		"no JSON":              `{"cursor":"c1","blocks":[{`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.scoped().open()
				s := b.register(nil)
				asked := 0
				b.script.on(tidemark.MethodPull, func(c *call) { asked++; c.raw(page) })
				b.nextPull("", "").raw(page)
				pass(10 * time.Minute)
				b.sees()
				if s := b.client.Status(); s.LastError == nil || s.State == client.Synced {
					t.Errorf("the status is %+v", s)
				}
				if asked < 2 || asked > 300 {
					t.Errorf("%d pulls in ten minutes", asked)
				}
				b.script.on(tidemark.MethodPull, func(c *call) { c.page("c1", "", live("a", "good", T1)) })
				pass(time.Minute)
				b.sees("good")
				if err := s.Synced(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestHostileChanges(t *testing.T) {
	good := `{"model":"item","row":{"uid":"a","label":"x"},"meta":[1000],"in":[7]}`
	for name, changes := range map[string]string{
		"no object":          `[]`,
		"no list":            `{"changes":{}}`,
		"no model":           `{"changes":[` + good + `,{"row":{"uid":"b"},"meta":[1000],"in":[7]}]}`,
		"no metadata":        `{"changes":[` + good + `,{"model":"item","row":{"uid":"b"},"in":[7]}]}`,
		"a wrong value":      `{"changes":[` + good + `,{"model":"item","row":{"uid":"b","label":[]},"meta":[1000],"in":[7]}]}`,
		"a member twice":     `{"changes":[` + good + `,{"model":"item","row":{"uid":"b","label":"x","label":"y"},"meta":[1000],"in":[7]}]}`,
		"a uid with control": `{"changes":[` + good + `,{"model":"item","uid":"\u0001","at":5}]}`,
		"a stamp of no kind": `{"changes":[` + good + `,{"model":"item","row":{"uid":"b"},"meta":["now"],"in":[7]}]}`,
		"a cursor of none":   "",
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.followed()
				if changes == "" {
					b.script.emit(tidemark.EventCursor, map[string]any{"cursor": ""})
				} else {
					b.script.emit(tidemark.EventChanges, json.RawMessage(changes))
				}
				synctest.Wait()
				if b.client.Status().LastError == nil {
					t.Error("the status shows no error")
				}
				b.sees()
				b.client.GoOnline()
				b.nextPull("c1", "").page("c2", "", live("a", "told again", T1))
				b.sees("told again")
			})
		})
	}
}

func TestChangesThatConcernNoScopeAreIgnored(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "held", T0))
		other := came(live("x", "x", T1), 7)
		other.Model = "unknown"
		b.tell(other, came(live("b", "of no scope", T1), 99), came(state("a", "held, changed", T0, T1, 0), 99), came(live("c", "new", T1), 99, 7))
		b.sees("held, changed", "new")
		if !b.logs.has("unknown model") {
			t.Error("nothing was logged")
		}
		b.state(client.Synced)
	})
}

func TestHostileAnswersToTheOpening(t *testing.T) {
	for name, answer := range map[string]string{
		"null":             `null`,
		"no protocol":      `{}`,
		"a later protocol": `{"protocol":2,"now":"2000-01-01T00:00:00Z","scopes":[{"scope":1,"tag":"t"}]}`,
		"too few scopes":   `{"protocol":1,"now":"2000-01-01T00:00:00Z","scopes":[]}`,
		"too many":         `{"protocol":1,"now":"2000-01-01T00:00:00Z","scopes":[{"scope":1},{"scope":2}]}`,
		"no number":        `{"protocol":1,"now":"2000-01-01T00:00:00Z","scopes":[{"tag":"t"}]}`,
		"no text":          `"welcome"`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.scoped()
				asked := 0
				b.script.on(tidemark.MethodOpen, func(c *call) { asked++; c.raw(answer) })
				b.opts.Offline = true
				b.open()
				b.register(nil)
				b.create("u", "mine")
				b.client.GoOnline()
				pass(10 * time.Minute)
				b.pending(1)
				if asked < 2 || asked > 60 {
					t.Errorf("%d connections in ten minutes", asked)
				}
				b.sent()
			})
		})
	}
}

func TestEndlessPassInCircles(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.scoped().open()
		n := 0
		b.script.on(tidemark.MethodPull, func(c *call) { n++; c.page("c1", fmt.Sprint(n%5)) })
		b.register(nil)
		pass(time.Minute)
		if n > 200 {
			t.Errorf("%d pulls in a minute", n)
		}
		if err := b.client.Status().LastError; err == nil || !strings.Contains(err.Error(), "do not end") {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestEventsOfModelsAreNotExpectedBesideScopes(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		var got []string
		b.client.OnEvent("greet", "hello", func(raw json.RawMessage) { got = append(got, string(raw)) })
		b.client.OnNotice("news", func(raw json.RawMessage) { got = append(got, string(raw)) })
		b.script.event(tidemark.MethodUpdate, state("a", "by a channel", T0, T2, 0))
		b.script.emit(tidemark.EventService, tidemark.ServiceEvent{Name: "greet", Action: "hello", Result: json.RawMessage(`1`)})
		b.script.emit(tidemark.EventApplication, tidemark.ApplicationEvent{Type: "news", Value: json.RawMessage(`2`)})
		b.sees("a")
		if fmt.Sprint(got) != "[1 2]" {
			t.Errorf("heard %v", got)
		}
	})
}
