package client_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func (b *bench) cursor(at string) {
	b.t.Helper()
	b.script.emit(tidemark.EventCursor, map[string]string{"cursor": at})
}

const lostLog = "has lost"

// What was told live after the cursor is not told again by a server that was restored to a moment in between.
func TestWhatIsNotToldAgainHasTheScopeToldFromTheBeginning(t *testing.T) {
	for name, told := range map[string]tidemark.Change{
		"a row":    came(live("b", "lost", T1), 7),
		"a change": came(state("a", "lost", T0, T1, 0), 7),
		"a delete": gone("a", T1, true),
		"a leave":  gone("a", T1, false),
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %v", name, crash), func(t *testing.T) {
				run(t, func(t *testing.T, b *bench) {
					b.followed(live("a", "stays", T0))
					b.tell(told)
					if b.reconnect(); crash {
						b.nextPull("c1", "")
						b.crash()
					}
					b.nextPull("c1", "").page("c2", "", live("c", "other", T2))
					b.nextPull("", "").page("c2", "", live("a", "stays", T0), live("c", "other", T2))
					b.sees("stays", "other")
					b.state(client.Synced)
					b.reconnect()
					b.nextPull("c2", "").page("c2", "")
					b.state(client.Synced)
				})
			})
		}
	}
}

func TestWhatIsToldAgainIsNotMissed(t *testing.T) {
	for name, again := range map[string]tidemark.ScopePage{
		"as it was":  {Rows: []tidemark.RowMeta{live("b", "told", T1)}},
		"newer":      {Rows: []tidemark.RowMeta{state("b", "newer", T1, T2, 0)}},
		"it left":    {Gone: []tidemark.Departure{{UID: "b", At: T1}}},
		"is deleted": {Gone: []tidemark.Departure{{UID: "b", At: T2, Deleted: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.followed(live("a", "a", T0))
				b.tell(came(live("b", "told", T1), 7), gone("never held", T1, true), came(live("a", "a", T0), 7))
				b.reconnect()
				first := again
				first.Cursor, first.After = "c2", "m"
				b.nextPull("c1", "").give(first)
				b.nextPull("c1", "m")
				synctest.Wait() // until the page is stored
				b.reconnect()   // the pass goes on
				b.nextPull("c1", "m").page("c3", "")
				b.nextPull("c2", "").page("c3", "")
				b.state(client.Synced)
				if b.logs.has(lostLog) {
					t.Error("it is missed")
				}
			})
		})
	}
}

// An older version is not what was told.
func TestRowThatIsToldAgainInAnOlderVersionIsMissed(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		b.tell(came(state("a", "lost", T0, T2, 0), 7))
		b.reconnect()
		b.nextPull("c1", "").page("c2", "", state("a", "written since", T0, T1, 0))
		b.nextPull("", "").page("c2", "", state("a", "written since", T0, T1, 0))
		b.sees("written since")
	})
}

func TestCursorPassesWhatWasToldBeforeIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		b.tell(came(live("b", "b", T1), 7))
		b.script.emit(tidemark.EventChanges, tidemark.Changes{came(live("c", "c", T1), 7)})
		b.cursor("c2")
		synctest.Wait()
		b.reconnect()
		b.nextPull("c2", "").page("c2", "")
		b.state(client.Synced)
		b.sees("a", "b", "c")
		b.cursor("c3")
		b.tell(came(live("d", "lost", T1), 7))
		b.cursor("c3") // which says nothing new
		synctest.Wait()
		b.reconnect()
		b.nextPull("c3", "").page("c3", "")
		b.nextPull("", "").page("c3", "", live("a", "a", T0), live("b", "b", T1), live("c", "c", T1))
		b.sees("a", "b", "c")
	})
}

// A live change and a pass are told side by side: of what the pass tells as well nothing is expected later.
func TestWhatIsToldLiveDuringAPass(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed(live("a", "a", T0))
		b.reconnect()
		late := b.nextPull("c1", "")
		b.tell(came(live("b", "before its page", T1), 7), came(live("c", "after the page's moment", T1), 7))
		late.page("c2", "", live("b", "before its page", T1), live("d", "d", T1))
		b.tell(came(live("d", "d", T1), 7)) // told behind its page
		b.reconnect()
		b.nextPull("c2", "").page("c3", "", live("c", "after the page's moment", T1))
		b.state(client.Synced)
		if b.logs.has(lostLog) {
			t.Error("something is missed")
		}
	})
}

func TestMarksAreFewHoweverMuchIsTold(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.followed()
		var rows []tidemark.RowMeta
		for i := range 5000 {
			rows = append(rows, live(fmt.Sprintf("u%04d", i), "x", T1))
			b.script.emit(tidemark.EventChanges, tidemark.Changes{came(rows[i], 7)})
		}
		b.nextPull("c1", "").page("c2", "", rows...)
		b.state(client.Synced)
		if n := b.entries("told/"); n > 1000 {
			t.Errorf("%d entries are kept", n)
		}
		b.cursor("c3")
		synctest.Wait()
		if n := b.entries("told/"); n != 0 {
			t.Errorf("%d entries are kept behind a cursor", n)
		}
	})
}

func (b *bench) entries(prefix string) (n int) {
	b.t.Helper()
	err := b.store.View(b.t.Context(), func(tx tidemark.StoreTx) error {
		entries, err := tx.Entries(prefix)
		n = len(entries)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// A server that knows less of a client's writes than it has decided was restored: what it
// told of them is no more.
func TestServerThatLostVerdictsTellsAllFromTheBeginning(t *testing.T) {
	for _, highest := range []int64{0, 1} {
		t.Run(fmt.Sprint("it knows ", highest), func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.followed(live("a", "a", T0))
				b.script.on(tidemark.MethodPush, nil)
				b.create("b", "mine")
				mine := tidemark.Outcome{Applied: true, Row: tidemark.Row(`{"uid":"b","label":"mine","score":null}`), Meta: tidemark.Meta{UID: "b", CreatedAt: T2}}
				b.script.next().verdict(1, mine)
				b.script.on(tidemark.MethodOpen, func(c *call) {
					c.give(tidemark.OpenAnswer{Protocol: 1, Now: T2, Epoch: "e", Highest: highest, Scopes: []tidemark.ScopeAnswer{{Scope: 7, Tag: "tag"}}})
				})
				b.reconnect()
				b.nextPull("c1", "").page("c2", "")
				if highest == 0 {
					b.nextPull("", "").page("c2", "", live("a", "a", T0))
					b.sees("a")
				} else {
					b.sees("a", "mine")
				}
				b.state(client.Synced)
				b.reconnect()
				b.nextPull("c2", "").page("c2", "")
				b.state(client.Synced)
			})
		})
	}
}

// A row that this device's own write took out of its scopes is in no pass. When the server was put back to a moment
// before that write, and somebody's outbox then makes the row again in its former version, the device must take that.
func TestRowOutsideAllScopesThatTheServerLost(t *testing.T) {
	const lost, kept, other = "lost its verdicts", "lost nothing", "another history"
	for name, how := range map[string]struct {
		open tidemark.OpenAnswer
		told bool
	}{
		lost:                               {tidemark.OpenAnswer{Epoch: "e"}, false},
		kept:                               {tidemark.OpenAnswer{Epoch: "e", Highest: 1}, false},
		other:                              {tidemark.OpenAnswer{Epoch: "e2", Highest: 1}, false},
		"does not tell again what it told": {tidemark.OpenAnswer{Epoch: "e", Highest: 1}, true},
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %v", name, crash), func(t *testing.T) {
				run(t, func(t *testing.T, b *bench) {
					b.scoped().open()
					b.register(tidemark.Where{"label": "here"})
					b.nextPull("", "").page("c1", "", live("a", "here", T0))
					b.state(client.Synced)
					b.script.on(tidemark.MethodPush, nil)
					b.update("a", "away")
					away := state("a", "away", T0, T2, 0)
					b.script.next().verdict(1, tidemark.Outcome{Applied: true, Row: away.Row, Meta: away.Meta})
					if how.told {
						b.tell(came(live("b", "here", T1), 7))
					}
					b.script.on(tidemark.MethodOpen, func(c *call) {
						a := how.open
						a.Protocol, a.Now, a.Scopes = 1, T2, []tidemark.ScopeAnswer{{Scope: 7, Tag: "tag"}}
						c.give(a)
					})
					b.reconnect()
					if name == other {
						b.nextPull("c1", "").fail(tidemark.CodeCursorTooOld)
					} else {
						b.nextPull("c1", "").page("c2", "")
					}
					if name != kept {
						if crash {
							b.nextPull("", "")
							b.crash()
						}
						b.nextPull("", "").page("c2", "")
					}
					b.state(client.Synced)
					b.sees("away")
					b.tell(came(live("a", "here", T0), 7))
					if name == kept { // an older message, on its way for long
						b.sees("away")
					} else {
						b.sees("here")
					}
				})
			})
		}
	}
}
