package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// once answers the first sync by r, and the later ones by nothing.
func (s *script) once(r tidemark.SyncResult) {
	done := false
	s.on(tidemark.MethodSyncGo, func(c *call) {
		if !done {
			done = true
			c.synced(r)
			return
		}
		c.synced(tidemark.SyncResult{})
	})
}

func TestSyncAnswersAreApplied(t *testing.T) {
	now := tidemark.StampOf(start.Add(time.Hour))
	for _, tc := range []struct {
		name    string
		held    []tidemark.RowMeta
		answer  tidemark.SyncResult
		want    []string
		deleted bool
	}{
		{"4 a row of the server arrives", nil,
			tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "theirs", T1)}}, []string{"theirs"}, false},
		{"10 a newer row replaces the local one", []tidemark.RowMeta{live("u", "old", T1)},
			tidemark.SyncResult{UpdateClient: []tidemark.RowMeta{state("u", "new", T1, T2, 0)}}, []string{"new"}, false},
		{"14 a deleted row goes, and leaves a guard", []tidemark.RowMeta{live("u", "old", T0)},
			tidemark.SyncResult{DeleteClient: []tidemark.Deletion{{UID: "u", At: T1}}}, nil, true},
		{"86 a deletion that is older than the row is ignored", []tidemark.RowMeta{live("u", "old", T2)},
			tidemark.SyncResult{DeleteClient: []tidemark.Deletion{{UID: "u", At: T1}}}, []string{"old"}, false},
		{"87 a deletion in the future counts", []tidemark.RowMeta{live("u", "old", T2)},
			tidemark.SyncResult{DeleteClient: []tidemark.Deletion{{UID: "u", At: future}}}, nil, true},
		{"a deletion of a row that is not held", nil,
			tidemark.SyncResult{DeleteClient: []tidemark.Deletion{{UID: "x", At: T1}}}, nil, false},
		{"55 a row that is there already does not disturb another", []tidemark.RowMeta{live("u", "one", T1)},
			tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "one", T1), live("v", "two", T1)}}, []string{"one", "two"}, false},
		{"88 a row that appeared meanwhile and is newer stays", []tidemark.RowMeta{live("u", "newer", now)},
			tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "older", T1)}}, []string{"newer"}, false},
		{"a row that lies outside the clause is stored, as the server told", []tidemark.RowMeta{live("u", "old", T1)},
			tidemark.SyncResult{UpdateClient: []tidemark.RowMeta{state("u", "elsewhere", T1, T2, 0)}}, []string{"elsewhere"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(tc.held...).script.once(tc.answer)
				b.open()
				b.register(nil)
				b.sees(tc.want...)
				b.state(client.Synced)
				if r := b.record("u"); r.Meta.Deleted() != tc.deleted {
					t.Errorf("the record is %+v", r)
				}
				if err := b.client.Sync(t.Context()); err != nil {
					t.Error(err)
				}
				b.sees(tc.want...)
			})
		})
	}
}

func TestDictionaryHasTheServersStateOfTheRowsHeld(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("a", "x", T1), state("b", "y", T1, T2, 0), live("c", "x", T2), tidemark.RowMeta{
			Row: tidemark.Row(`{"uid":"d","label":"x"}`), Meta: tidemark.Meta{UID: "d"}})
		b.script.on(tidemark.MethodSyncGo, nil)
		b.opts.Offline = true
		b.open()
		b.register(tidemark.Where{"label": "x"})
		b.client.GoOnline()
		synctest.Wait()
		c := b.script.next()
		got := c.dict()
		if len(got) != 3 || got["a"] == nil || got["c"] == nil || got["d"] == nil {
			t.Fatalf("the dictionary is %s", c.Args[2])
		}
		for uid, raw := range got {
			if _, err := tidemark.ParseClientEntry(uid, raw); err != nil {
				t.Errorf("a server refuses the entry: %v", err)
			}
		}
		c.synced(tidemark.SyncResult{})
	})
}

func TestRowsThatTheServerLacksArePushedAgain(t *testing.T) {
	entry := func(m tidemark.Meta) json.RawMessage { raw, _ := m.MarshalJSON(); return raw }
	created, updated := live("u", "mine", T1), state("u", "mine", T1, T2, 0)
	both := []string{`create u {"label":"mine","score":null}`, `update u {"label":"mine","score":null}`}
	for _, tc := range []struct {
		name string
		held tidemark.RowMeta
		ask  tidemark.SyncResult
		sent []string
	}{
		{"created", created, tidemark.SyncResult{AddDatabase: []json.RawMessage{entry(created.Meta)}}, both[:1]},
		{"created and updated", updated, tidemark.SyncResult{AddDatabase: []json.RawMessage{entry(updated.Meta)}}, both},
		{"an update", updated, tidemark.SyncResult{UpdateDatabase: []json.RawMessage{entry(updated.Meta)}}, both[1:]},
		{"an update of a row without date of update", created, tidemark.SyncResult{UpdateDatabase: []json.RawMessage{entry(created.Meta)}}, both[1:]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(tc.held).script.once(tc.ask)
				b.open()
				b.register(nil)
				b.sees("mine")
				b.pending(0)
				b.sent(append([]string{"sync item {}"}, tc.sent...)...)
				if r := b.record("u"); r.Meta.T() != tc.held.Meta.T() {
					t.Errorf("the row's stamp became %v", r.Meta.T())
				}
				b.rejections()
			})
		})
	}
}

// Scenarios 12, 38-40 and 43-45: the server asked for a row and then decides
// otherwise.
func TestPushThatTheServerAskedForMayStillLose(t *testing.T) {
	ask := func(uids ...string) tidemark.SyncResult {
		var r tidemark.SyncResult
		for _, uid := range uids {
			r.UpdateDatabase = append(r.UpdateDatabase, json.RawMessage(fmt.Sprintf(`{"uid":%q}`, uid)))
		}
		return r
	}
	for _, tc := range []struct {
		name   string
		answer func(*call)
		want   []string
		listed []client.RejectionKind
	}{
		{"43 tombstone", func(c *call) { c.reply(tombstone("u", "", T2)) }, []string{"other"}, []client.RejectionKind{client.Superseded}},
		{"44 row and tombstone", func(c *call) { c.reply(tombstone("u", "x", T2)) }, []string{"other"}, []client.RejectionKind{client.Superseded}},
		{"45 a newer row", func(c *call) { c.reply(state("u", "theirs", T0, T2, 0)) }, []string{"theirs", "other"}, []client.RejectionKind{client.Superseded}},
		{"12 an error", func(c *call) { c.fail("no") }, []string{"other"}, []client.RejectionKind{client.Rejected}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(state("u", "mine", T0, T1, 0), state("v", "other", T0, T1, 0)).script.once(ask("u", "v"))
				b.script.on(tidemark.MethodUpdate, func(c *call) {
					if c.text(0) == "u" {
						tc.answer(c)
						return
					}
					c.accept()
				})
				b.open()
				b.register(nil)
				b.sees(tc.want...)
				b.pending(0)
				rs := b.rejections(tc.listed...)
				if got := string(rs[0].Mutation.Data); got != `{"label":"mine","score":null}` {
					t.Errorf("the rejection has %s", got)
				}
			})
		})
	}
}

func TestWriteMadeBeforeTheServerAsksForTheRowIsPushedBehindIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T1))
		b.script.on(tidemark.MethodSyncGo, nil)
		b.script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.register(nil)
		sync := b.script.next()
		if _, err := b.items.Update(t.Context(), "u", client.Patch{"score": 7}); err != nil {
			t.Fatal(err)
		}
		early := b.script.next()
		sync.synced(tidemark.SyncResult{AddDatabase: []json.RawMessage{json.RawMessage(`{"uid":"u"}`)}})
		b.sees("old")
		early.fail(tidemark.CodeUnavailable)
		b.script.on(tidemark.MethodUpdate, (*call).accept)
		pass(time.Minute)
		b.sent("sync item {}", `update u {"score":7}`, `create u {"label":"old","score":null}`, `update u {"score":7}`)
		b.pending(0)
	})
}

func TestLocalWriteDuringASyncStays(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer tidemark.SyncResult
		want   []string
	}{
		{"84 an older row arrives", tidemark.SyncResult{UpdateClient: []tidemark.RowMeta{state("u", "theirs", T0, T2, 0)}}, []string{"mine"}},
		{"85 a row in the future arrives", tidemark.SyncResult{UpdateClient: []tidemark.RowMeta{state("u", "theirs", T0, future, 0)}}, []string{"theirs"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(live("u", "old", T0))
				b.script.on(tidemark.MethodSyncGo, nil)
				b.script.on(tidemark.MethodUpdate, nil)
				b.open()
				b.register(nil)
				sync := b.script.next()
				b.update("u", "mine")
				sync.synced(tc.answer)
				b.sees(tc.want...)
				b.pending(1)
			})
		})
	}
}

func TestStaleSyncAnswerDoesNotBringBackADeletedRow(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0))
		b.script.on(tidemark.MethodSyncGo, nil)
		b.open()
		b.register(nil)
		sync := b.script.next()
		b.script.event(tidemark.MethodDelete, tombstone("u", "old", T2))
		b.sees()
		sync.synced(tidemark.SyncResult{UpdateClient: []tidemark.RowMeta{state("u", "stale", T0, T1, 0)}})
		b.sees()
	})
}

func TestNewerRowReplacesAGuard(t *testing.T) { // 89 and 94
	run(t, func(t *testing.T, b *bench) {
		b.hold(tombstone("u", "", T1)).script.once(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "back", T2)}})
		b.open()
		b.register(nil)
		b.sees("back")
	})
}

func TestGuardsGoWithTheNextConnection(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(tombstone("u", "", T1))
		b.open()
		b.register(nil)
		if r := b.record("u"); !r.IsZero() {
			t.Errorf("the record is %+v", r)
		}
	})
}

func TestMalformedSyncAnswerStoresNothingAndIsAskedAgain(t *testing.T) {
	good := `[{"uid":"a","label":"x"},{"uid":"a","created_at":"2000-01-01T00:00:00.000Z"}]`
	for name, answer := range map[string]string{
		"differing uids":          `{"addClient":[` + good + `,[{"uid":"b"},{"uid":"c","created_at":"2000-01-01T00:00:00.000Z"}]]}`,
		"differing in the second": `{"addClient":[` + good + `],"updateClient":[[{"uid":"b"},{"uid":"c","created_at":"2000-01-01T00:00:00.000Z"}]]}`,
		"no metadata":             `{"addClient":[` + good + `,[{"uid":"b"},null]]}`,
		"a bad stamp":             `{"addClient":[` + good + `],"deleteClient":[["b","yesterday"]]}`,
		"a wrong value":           `{"addClient":[` + good + `,[{"uid":"b","label":[]},{"uid":"b","created_at":"2000-01-01T00:00:00.000Z"}]]}`,
		"a member twice":          `{"addClient":[` + good + `,[{"uid":"b","uid":"b"},{"uid":"b","created_at":"2000-01-01T00:00:00.000Z"}]]}`,
		"a uid with control":      `{"addClient":[` + good + `,[{"uid":"b\u0001"},{"uid":"b\u0001","created_at":"2000-01-01T00:00:00.000Z"}]]}`,
		"no object":               `[]`,
		"null":                    `null`,
		"no JSON":                 `{"addClient":[` + good,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.script.on(tidemark.MethodSyncGo, nil)
				b.open()
				s := b.register(nil)
				b.script.next().raw(answer)
				b.sees()
				b.state(client.Syncing)
				if b.client.Status().LastError == nil {
					t.Error("the status shows no error")
				}
				b.script.next().raw(`{"addClient":[` + good + `]}`)
				b.sees("x")
				if err := s.Synced(t.Context()); err != nil {
					t.Error(err)
				}
				b.state(client.Synced)
			})
		})
	}
}

func TestServersValuesAreCanonicalAndCannotHideRows(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			c.raw(`{"addClient":[[{"uid":"a","label":"\u0078y","score":1e1,"__deleted__":true,"extra":{"k": 1}},{"uid":"a","created_at":"1999-01-01T01:00:00+01:00"}]]}`)
		})
		b.open()
		b.register(nil)
		b.sees("xy")
		if got := string(b.record("a").Base); got != `{"uid":"a","label":"xy","score":10,"extra":{"k": 1}}` {
			t.Errorf("the row is kept as %s", got)
		}
	})
}

func TestIntegersThatComeAsTextAreIntegers(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			c.raw(`{"addClient":[[{"uid":"a","label":"x","score":"-9007199254740993"},{"uid":"a","created_at":"1999-01-01T00:00:00Z"}]]}`)
		})
		b.open()
		b.register(nil)
		b.sees("x")
		if i, err := b.items.FindByUID(t.Context(), "a"); err != nil || i.Score == nil || *i.Score != -9007199254740993 {
			t.Errorf("got %+v, %v", i, err)
		}
	})
}

func TestLargeDictionaryIsSplitByRangesOfUIDs(t *testing.T) {
	var some tidemark.In
	for i := 98; i > 4; i-- {
		some = append(some, fmt.Sprintf("u%03d", i), fmt.Sprintf("unheard-of%03d", i))
	}
	for name, c := range map[string]struct {
		where tidemark.Where
		rows  int
	}{
		"a range":      {tidemark.Where{"label": "x", "uid": tidemark.Range{GT: "u004", LTE: "u097"}}, 93},
		"a list":       {tidemark.Where{"label": "x", "uid": some}, 94},
		"alternatives": {tidemark.Where{"$or": []tidemark.Where{{"uid": tidemark.Range{LT: "u050"}}, {"label": "x"}}}, 100},
	} {
		t.Run(name, func(t *testing.T) { splitDictionary(t, c.where, c.rows) })
	}
}

func splitDictionary(t *testing.T, where tidemark.Where, all int) {
	run(t, func(t *testing.T, b *bench) {
		var rows []tidemark.RowMeta
		for i := range 100 {
			rows = append(rows, live(fmt.Sprintf("u%03d", i), "x", T1))
		}
		b.hold(rows...)
		b.opts.MaxMessage = 4000
		var wheres []string
		seen := map[string]int{}
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			if n := len(c.msg.Args[0]); n > 4000 {
				t.Errorf("a message of %d bytes", n)
			}
			schema := b.items.Schema()
			p, err := tidemark.ParseWhere(schema, c.Args[1])
			if err != nil {
				t.Error(err)
			}
			wheres = append(wheres, string(c.Args[1]))
			for _, r := range rows {
				_, told := c.dict()[r.Meta.UID]
				if told != p.Match(r.Row) {
					t.Errorf("%s: told %v of the row %s", c.Args[1], told, r.Meta.UID)
				}
				if told {
					seen[r.Meta.UID]++
				}
			}
			c.synced(tidemark.SyncResult{})
		})
		b.opts.Offline = true
		b.open()
		b.register(where)
		b.client.GoOnline()
		b.state(client.Synced)
		if len(wheres) < 3 || len(seen) != all {
			t.Errorf("%d pieces told of %d rows: %v", len(wheres), len(seen), wheres)
		}
		for uid, n := range seen {
			if n != 1 {
				t.Errorf("%s was told %d times", uid, n)
			}
		}
	})
}

func TestSyncWaitsForVerdictsAndScopes(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.opts.Offline = true
		b.open()
		b.register(nil)
		b.create("u", "mine")
		done := b.sync()
		pass(time.Minute)
		b.client.GoOnline()
		c := b.script.next()
		b.script.on(tidemark.MethodSyncGo, nil)
		pass(time.Second)
		c.accept()
		s := b.script.next()
		select {
		case err := <-done:
			t.Fatalf("Sync returned before the scope was synchronised: %v", err)
		default:
		}
		s.synced(tidemark.SyncResult{})
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.pending(0)
	})
}

func TestSyncWithoutScopesWaitsForVerdicts(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		b.create("v", "mine")
		done := b.sync()
		b.script.next().accept()
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("Sync returned while a write was pending")
		}
		b.create("w", "after the call")
		b.script.next().accept()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.pending(1)
	})
}

func TestSyncWaitsForRowsThatTheServerAskedFor(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "mine", T1)).script.on(tidemark.MethodCreate, nil)
		b.open()
		b.register(nil)
		b.script.once(tidemark.SyncResult{AddDatabase: []json.RawMessage{json.RawMessage(`{"uid":"u"}`)}})
		done := b.sync()
		c := b.script.next()
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("Sync returned before the server had its row")
		}
		c.accept()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// sync calls Sync in the background.
func (b *bench) sync() <-chan error {
	done := make(chan error, 1)
	go func() { done <- b.client.Sync(b.t.Context()) }()
	synctest.Wait()
	return done
}

func TestSyncEndsWithItsContextAndWithTheServersVerdict(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		s := b.register(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantIs(t, b.client.Sync(ctx), context.DeadlineExceeded)
		b.script.on(tidemark.MethodSyncGo, func(c *call) { c.fail(tidemark.CodeDenied) })
		b.client.GoOnline()
		wantCode(t, b.client.Sync(t.Context()), tidemark.CodeDenied)
		wantCode(t, s.Synced(t.Context()), tidemark.CodeDenied)
		b.script.on(tidemark.MethodSyncGo, func(c *call) { c.synced(tidemark.SyncResult{}) })
		if err := b.client.Sync(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSyncThatFailsIsTriedAgain(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, nil)
		b.open()
		s := b.register(nil)
		for range 5 {
			b.script.next().fail(tidemark.CodeUnavailable)
		}
		b.script.next() // and one that is never answered
		b.script.next().synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "theirs", T1)}})
		if err := s.Synced(t.Context()); err != nil {
			t.Error(err)
		}
		b.sees("theirs")
	})
}

// An event may overtake the answer to a sync that was read before it.
func TestStaleSyncAnswerDoesNotBringARowThatWasNotHeld(t *testing.T) {
	for name, event := range map[string]tidemark.RowMeta{"deleted": tombstone("u", "in", T2), "left": state("u", "out", T0, T2, 0)} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.script.on(tidemark.MethodSyncGo, nil)
				b.open()
				b.register(tidemark.Where{"label": "in"})
				sync := b.script.next()
				b.script.event(tidemark.MethodUpdate, event)
				b.sees()
				sync.synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "in", T1)}})
				b.sees()
				b.state(client.Synced)
				b.script.event(tidemark.MethodUpdate, state("u", "in", T0, T2+1, 0))
				b.sees("in")
			})
		})
	}
}
