package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func TestWriteIsPushedAndConfirmed(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.create("a", "first")
		b.update("a", "second")
		b.remove("a")
		b.sent(`create a {"label":"first","score":null}`, `update a {"label":"second"}`, `delete a`)
		b.pending(0)
		b.sees()
		b.rejections()
		b.state(client.Synced)
	})
}

func TestWritesArePushedBeforeAnyScopeSyncsInLocalOrderAcrossModels(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		parts, err := client.NewModel[Part](t.Context(), b.client, "part", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.register(tidemark.Where{})
		b.create("i", "parent")
		if _, err := parts.Create(t.Context(), Part{UID: "p", Item: "i"}); err != nil {
			t.Fatal(err)
		}
		b.update("i", "changed")
		b.pending(3)
		b.sent()
		b.client.GoOnline()
		b.sent(`create i {"label":"parent","score":null}`, `create p {"item":"i"}`, `update i {"label":"changed"}`, `sync item {}`)
		b.pending(0)
	})
}

// What a verdict leaves behind, by scenario number: a row is held, a write is
// made, and the server answers with some state.
func TestVerdictsOfAFakeServer(t *testing.T) {
	none := tidemark.RowMeta{}
	for _, tc := range []struct {
		name    string
		held    tidemark.RowMeta
		write   func(*bench)
		answer  tidemark.RowMeta
		want    []string
		listed  []client.RejectionKind
		deleted bool
	}{
		{"29 remove, answered by a future tombstone", live("u", "mine", T0), func(b *bench) { b.remove("u") },
			tombstone("u", "mine", future), nil, nil, true},
		{"30 remove, the server's row is newer", live("u", "mine", T0), func(b *bench) { b.remove("u") },
			live("u", "theirs", future), []string{"theirs"}, []client.RejectionKind{client.Superseded}, false},
		{"36 create, answered by a tombstone without row", none, func(b *bench) { b.create("u", "mine") },
			tombstone("u", "", future), nil, []client.RejectionKind{client.Superseded}, true},
		{"37 create, answered by a row and a tombstone", none, func(b *bench) { b.create("u", "mine") },
			tombstone("u", "theirs", future), nil, []client.RejectionKind{client.Superseded}, true},
		{"40 create, a newer row won", none, func(b *bench) { b.create("u", "mine") },
			live("u", "theirs", future), []string{"theirs"}, []client.RejectionKind{client.Superseded}, false},
		{"41 update, answered by a tombstone without row", live("u", "old", T0), func(b *bench) { b.update("u", "mine") },
			tombstone("u", "", future), nil, []client.RejectionKind{client.Superseded}, true},
		{"42 update, answered by a row and a tombstone", live("u", "old", T0), func(b *bench) { b.update("u", "mine") },
			tombstone("u", "theirs", future), nil, []client.RejectionKind{client.Superseded}, true},
		{"85 update, the answer is in the future", live("u", "old", T0), func(b *bench) { b.update("u", "mine") },
			state("u", "theirs", T0, future, 0), []string{"theirs"}, []client.RejectionKind{client.Superseded}, false},
		{"update, the answer has metadata only", live("u", "old", T0), func(b *bench) { b.update("u", "mine") },
			state("u", "", T0, tidemark.StampOf(start), 0), []string{"mine"}, nil, false},
		{"create, the answer has metadata only", none, func(b *bench) { b.create("u", "mine") },
			live("u", "", tidemark.StampOf(start)), []string{"mine"}, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				if tc.held.Row != nil {
					b.hold(tc.held)
				}
				for _, m := range []string{tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete} {
					b.script.on(m, func(c *call) { c.reply(tc.answer) })
				}
				b.open()
				tc.write(b)
				b.sees(tc.want...)
				b.pending(0)
				b.rejections(tc.listed...)
				if r := b.record("u"); r.Meta.Deleted() != tc.deleted || r.Pending != 0 {
					t.Errorf("the record is %+v", r)
				}
			})
		})
	}
}

func TestRejectedWriteIsRolledBackToTheServersState(t *testing.T) {
	for _, tc := range []struct {
		name  string
		held  tidemark.RowMeta
		write func(*bench)
		want  []string
	}{
		{"8 create", tidemark.RowMeta{}, func(b *bench) { b.create("u", "mine") }, nil},
		{"92 update", live("u", "old", T0), func(b *bench) { b.update("u", "mine") }, []string{"old"}},
		{"remove", live("u", "old", T0), func(b *bench) { b.remove("u") }, []string{"old"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				if tc.held.Row != nil {
					b.hold(tc.held)
				}
				for _, m := range []string{tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete} {
					b.script.on(m, nil)
				}
				b.open()
				tc.write(b)
				b.pending(1)
				b.script.next().fail("denied")
				b.sees(tc.want...)
				b.pending(0)
				r := b.rejections(client.Rejected)[0]
				if r.Code != "denied" || r.Message != "as the script says" || r.Mutation.UID != "u" {
					t.Errorf("the rejection is %+v", r)
				}
				if got := b.record("u"); string(got.Row) != string(tc.held.Row) || got.Meta != tc.held.Meta {
					t.Errorf("the record is %+v, want the one of before", got)
				}
			})
		})
	}
}

func TestRejectionNeverBlocksTheQueue(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, func(c *call) {
			if c.text(0) == "bad" {
				c.fail(tidemark.CodeConstraint)
				return
			}
			c.accept()
		})
		b.opts.Offline = true
		b.open()
		b.create("a", "one")
		b.create("bad", "two")
		b.create("c", "three")
		b.client.GoOnline()
		b.sees("one", "three")
		b.pending(0)
		b.rejections(client.Rejected)
	})
}

func TestLateRejectionLeavesLaterWritesOfTheRow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		held   bool
		first  func(*bench)
		second func(*bench)
		want   []string
	}{
		{"80 create rejects late", false, func(b *bench) { b.create("u", "first") }, func(b *bench) { b.update("u", "second") }, []string{"second"}},
		{"81 first update rejects late", true, func(b *bench) { b.update("u", "first") }, func(b *bench) { b.update("u", "second") }, []string{"second"}},
		{"54 update rejects after remove", true, func(b *bench) { b.update("u", "first") }, func(b *bench) { b.remove("u") }, nil},
		{"remove rejects, then a row is created anew", true, func(b *bench) { b.remove("u") }, func(b *bench) { b.create("u", "second") }, []string{"second"}},
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
				tc.second(b)
				first := b.script.next()
				pass(100 * time.Millisecond)
				first.fail("no")
				b.sees(tc.want...)
				b.script.next().accept()
				b.sees(tc.want...)
				b.pending(0)
				b.rejections(client.Rejected)
			})
		})
	}
}

func TestAnswerAfterALaterLocalWriteDoesNotHideIt(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func(*call)
		listed []client.RejectionKind
	}{
		{"79 accepted", (*call).accept, nil},
		{"83 superseded by a state older than the later write", func(c *call) { c.reply(state("u", "theirs", T0, c.stamp()+1, 0)) }, nil},
		{"91 rejected", func(c *call) { c.fail("no") }, []client.RejectionKind{client.Rejected}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
				b.open()
				b.update("u", "first")
				pass(time.Second)
				b.update("u", "second")
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

func TestPushIsOneAtATimeAndInOrder(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		for _, uid := range []string{"a", "b", "c"} {
			b.create(uid, uid)
		}
		b.sent(`create a {"label":"a","score":null}`)
		b.script.next().accept()
		b.sent(`create b {"label":"b","score":null}`)
	})
}

func TestOwnEventBeforeTheAnswerChangesNothingTwice(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.update("u", "mine")
		c := b.script.next()
		b.script.event(tidemark.MethodUpdate, c.won())
		b.sees("mine")
		b.pending(1)
		c.accept()
		b.sees("mine")
		b.pending(0)
		b.rejections()
	})
}

func TestUpdateThenRemoveBeforeTheFirstAnswerStaysRemoved(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.update("u", "mine")
		b.remove("u")
		b.script.next().accept()
		b.sees()
		b.pending(0)
		if r := b.record("u"); !r.Meta.Deleted() || r.Base != nil {
			t.Errorf("the record is %+v", r)
		}
	})
}

func TestBrokenLinkNeverUndoesAWrite(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		first := b.script.next()
		b.pipe.Cut()
		b.sees("mine")
		b.pending(1)
		again := b.script.next()
		if again.stamp() != first.stamp() {
			t.Errorf("the write was sent again with the stamp %v, first %v", again.stamp(), first.stamp())
		}
		again.accept() // as a server does that had made it already: the same state
		b.sees("mine")
		b.pending(0)
		b.rejections()
	})
}

func TestTemporaryFailureIsTriedAgainWithEverLongerWaits(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Rand = func() float64 { return 0 }
		b.opts.MinBackoff, b.opts.MaxBackoff = time.Second, 8*time.Second
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		for _, wait := range []time.Duration{0, 1, 2, 4, 8, 8, 8} {
			began := time.Now()
			c := b.script.next()
			if got := time.Since(began); got != wait*time.Second {
				t.Errorf("tried again after %v, want %v", got, wait*time.Second)
			}
			c.fail(tidemark.CodeUnavailable)
		}
		b.sees("mine")
		b.pending(1)
		b.rejections()
		wantCode(t, b.client.Status().LastError, tidemark.CodeUnavailable)
		b.script.next().accept()
		b.pending(0)
		b.state(client.Synced)
		if err := b.client.Status().LastError; err != nil {
			t.Errorf("the last error is still %v", err)
		}
	})
}

func TestUnansweredPushTimesOutAndIsSentAgain(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		late := b.script.next()
		began := time.Now()
		again := b.script.next()
		if d := time.Since(began); d < 20*time.Second || d > 21*time.Second {
			t.Errorf("sent again after %v", d)
		}
		late.fail("no") // an answer that comes too late is not a verdict on the second attempt
		b.sees("mine")
		again.accept()
		b.sees("mine")
		b.pending(0)
		b.rejections()
	})
}

func TestMalformedAnswerToAWriteLeavesItPending(t *testing.T) {
	for name, answer := range map[string]string{
		"no date":       `[{"uid":"u","label":"x"},{"uid":"u"}]`,
		"another uid":   `[{"uid":"v","label":"x"},{"uid":"v","created_at":"2000-01-01T00:00:00.000Z"}]`,
		"differing":     `[{"uid":"v","label":"x"},{"uid":"u","created_at":"2000-01-01T00:00:00.000Z"}]`,
		"no tuple":      `{"uid":"u"}`,
		"null":          `null`,
		"a wrong value": `[{"uid":"u","label":7},{"uid":"u","created_at":"2000-01-01T00:00:00.000Z"}]`,
		"no JSON":       `[{"uid":"u","label":"x},{"uid":"u"]`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.script.on(tidemark.MethodCreate, nil)
				b.open()
				b.create("u", "mine")
				b.script.next().raw(answer)
				b.sees("mine")
				b.pending(1)
				b.rejections()
				b.script.next().accept()
				b.pending(0)
			})
		})
	}
}

func TestClampedWriteCountsAsAppliedAndLowersTheClock(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Now = func() time.Time { return time.Now().Add(10 * time.Minute) }
		clamp := func(c *call) {
			r := c.won()
			now := tidemark.StampOf(time.Now())
			if r.Meta.UpdatedAt != 0 {
				r.Meta.UpdatedAt = now
			} else {
				r.Meta.CreatedAt = now
			}
			c.reply(r)
		}
		b.script.on(tidemark.MethodCreate, clamp)
		b.script.on(tidemark.MethodUpdate, clamp)
		b.open()
		b.create("u", "mine")
		b.sees("mine")
		b.rejections()
		pass(time.Second)
		b.script.on(tidemark.MethodUpdate, nil)
		b.update("u", "again")
		c := b.script.next()
		if ahead := c.stamp() - tidemark.StampOf(time.Now()); ahead > 1_000_000 {
			t.Errorf("the next stamp is still %v µs ahead of the server", ahead)
		}
		clamp(c)
		b.sees("again")
		b.rejections()
	})
}

func TestClampedWriteThatLostIsListed(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Now = func() time.Time { return time.Now().Add(10 * time.Minute) }
		b.hold(live("u", "old", T0)).script.on(tidemark.MethodUpdate, func(c *call) {
			c.reply(state("u", "theirs", T0, tidemark.StampOf(time.Now().Add(time.Minute)), 0))
		})
		b.open()
		b.update("u", "mine")
		b.sees("theirs")
		b.rejections(client.Superseded)
	})
}

func TestStampsOfOneRowIncreaseByAMillisecondWhateverTheClockDoes(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		now := start.Add(time.Hour)
		b.opts.Now = func() time.Time { now = now.Add(-time.Second); return now }
		b.opts.Offline = true
		b.hold(state("u", "old", T0, tidemark.StampOf(start.AddDate(1, 0, 0)), 0))
		b.open()
		for range 3 {
			b.update("u", "x")
		}
		b.crash()
		b.update("u", "x")
		var ms []tidemark.Mutation
		_ = b.store.View(t.Context(), func(tx tidemark.StoreTx) (err error) { ms, err = tx.Outbox(0, 0); return err })
		last := tidemark.StampOf(start.AddDate(1, 0, 0))
		for _, m := range ms {
			if m.Stamp/1000 <= last/1000 {
				t.Errorf("stamp %v does not follow %v", m.Stamp, last)
			}
			last = m.Stamp
		}
		if len(ms) != 4 {
			t.Errorf("%d writes are pending, want 4", len(ms))
		}
	})
}

func TestStampsIncreaseAcrossRestartsAndClockSteps(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		ahead := time.Hour
		b.opts.Now = func() time.Time { return time.Now().Add(ahead) }
		b.open()
		b.create("a", "first")
		ahead = 0
		b.crash()
		b.create("b", "second")
		var ms []tidemark.Mutation
		_ = b.store.View(t.Context(), func(tx tidemark.StoreTx) (err error) { ms, err = tx.Outbox(0, 0); return err })
		if len(ms) != 2 || ms[1].Stamp <= ms[0].Stamp {
			t.Errorf("the stamps are %v", ms)
		}
	})
}

func TestWriteBeyondTheMessageLimitIsRejectedHere(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.MaxMessage = 2000
		b.open()
		b.create("big", strings.Repeat("x", 3000))
		b.create("small", "x")
		b.sent(`create small {"label":"x","score":null}`)
		if r := b.rejections(client.Rejected)[0]; r.Code != tidemark.CodeTooLarge {
			t.Errorf("the rejection is %+v", r)
		}
	})
}

func TestPendingWritesSurviveARestart(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.pipe.Block()
		b.open()
		b.create("u", "mine")
		b.update("u", "more")
		b.pending(2)
		b.crash()
		b.sees("more")
		b.pending(2)
		b.pipe.Unblock()
		pass(time.Minute)
		b.pending(0)
		b.sent(`create u {"label":"mine","score":null}`, `update u {"label":"more"}`)
	})
}

func TestAnswerLostInACrashIsAskedForAgain(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		first := b.script.next()
		b.crash()
		again := b.script.next()
		if again.stamp() != first.stamp() || again.String() != first.String() {
			t.Errorf("after the restart %v was sent, first %v", again, first)
		}
		again.accept()
		b.pending(0)
		b.rejections()
		b.sees("mine")
	})
}

func TestWritesOfAnUndeclaredModelWaitForIt(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		parts, err := client.NewModel[Part](t.Context(), b.client, "part", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parts.Create(t.Context(), Part{UID: "p"}); err != nil {
			t.Fatal(err)
		}
		b.create("i", "behind")
		b.opts.Offline = false
		b.crash()
		b.sent()
		b.pending(2)
		wantCode(t, b.client.Status().LastError, tidemark.CodeUnknownModel)
		if _, err := client.NewModel[Part](t.Context(), b.client, "part", nil); err != nil {
			t.Fatal(err)
		}
		b.sent(`create p {"item":""}`, `create i {"label":"behind","score":null}`)
		b.pending(0)
		b.state(client.Synced)
	})
}
