package client_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func TestOutboxGoesInBatchesInItsOrder(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline().queue(1200)
		p.client.GoOnline()
		p.pending(0)
		p.came("1-500", "501-1000", "1001-1200")
		p.once(1200)
		p.state(client.Synced)
		p.rejections()
		if got := labels(t, p.db); len(got) != 1200 || !slices.IsSorted(got) {
			t.Errorf("the server has %d rows", len(got))
		}
		if r := p.record("u007"); r.Meta.CreatedAt == 0 || string(r.Row) != string(r.Base) {
			t.Errorf("a row that was pushed is %+v", r)
		}
	})
}

func TestTwoBatchesAreOnTheirWayAtOnce(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 2
		p.known().queue(7)
		p.client.GoOnline()
		first, second := p.script.next(), p.script.next()
		synctest.Wait()
		if len(p.script.calls) != 0 {
			t.Fatal("a third batch came before an answer")
		}
		p.decide(first)
		third := p.script.next()
		p.decide(second)
		fourth := p.script.next()
		p.decide(third)
		p.decide(fourth)
		p.pending(0)
		var confirmed []int64
		for _, b := range p.batches {
			confirmed = append(confirmed, b.Confirmed)
		}
		p.came("2-3", "4-5", "6-7", "8-8")
		if !slices.Equal(confirmed, []int64{1, 1, 3, 5}) {
			t.Errorf("the client confirmed %v", confirmed)
		}
		p.once(7)
	})
}

func TestOneBatchGoesFirstUnderANameThatTheServerDoesNotKnow(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 2
		p.script.on(tidemark.MethodPush, nil)
		p.offline().queue(7)
		p.client.GoOnline()
		c := p.script.next()
		p.pending(7)
		if len(p.script.calls) != 0 {
			t.Error("a second batch came, which the server would take for the first if it lost that")
		}
		c.fail(tidemark.CodeUnavailable)
		p.script.on(tidemark.MethodPush, p.decide)
		pass(time.Minute)
		p.pending(0)
		p.once(7)
	})
}

func TestWritesMadeWhileABatchIsOnItsWayGoWithTheNext(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.known().client.GoOnline()
		p.queue(1)
		first := p.script.next()
		p.update("u001", "v0")
		second := p.script.next() // there was room for one more batch
		for i := range 9 {
			p.update("u001", fmt.Sprint("v", i+1))
		}
		p.pending(11)
		p.decide(first)
		p.decide(second)
		p.decide(p.script.next())
		p.pending(0)
		p.came("2-2", "3-3", "4-12")
		p.has("known", "v9")
		p.sees("known", "v9")
	})
}

func TestBatchesKeepToTheSizeOfAMessage(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline()
		for i := range 40 {
			p.create(fmt.Sprint("u", i), strings.Repeat("x", 20_000))
		}
		p.client.GoOnline()
		p.pending(0)
		for _, b := range p.batches {
			if raw, _ := b.MarshalJSON(); len(raw) > 270_000 {
				t.Errorf("a batch of %d bytes", len(raw))
			}
		}
		if n := len(p.numbers()); n != 4 {
			t.Errorf("%d batches came, want 4", n)
		}
	})
}

// A cut after any message: what was decided is not done twice, and nothing is lost.
func TestCutAtEachMessageGivesEachWriteOneEffect(t *testing.T) {
	const batches = 6
	for _, when := range []string{"before it is decided", "before its answer", "after its answer"} {
		for at := range batches {
			t.Run(fmt.Sprintf("batch %d %s", at, when), func(t *testing.T) {
				inBatches(t, func(t *testing.T, p *peer) {
					p.limits.Mutations = 3
					p.refuse = func(m *tidemark.Mutation) *tidemark.Error {
						if m.UID == "u005" {
							return tidemark.NewError("no", "not this one")
						}
						return nil
					}
					n := 0
					p.script.on(tidemark.MethodPush, func(c *call) {
						n++
						switch {
						case n-1 != at:
							p.decide(c)
						case when == "before it is decided":
							p.pipe.Cut()
						case when == "before its answer":
							if _, err := p.judge(p.batch(c)); err != nil {
								t.Error(err)
							}
							p.pipe.Cut()
						default:
							p.decide(c)
							p.pipe.Cut()
						}
					})
					p.offline().queue(18)
					p.update("u018", "l018 again")
					p.client.GoOnline()
					pass(time.Minute)
					p.pending(0)
					p.once(19)
					p.state(client.Synced)
					p.rejections(client.Rejected)
					want := []string{"l001", "l002", "l003", "l004", "l006", "l007", "l008", "l009", "l010", "l011", "l012", "l013", "l014", "l015", "l016", "l017", "l018 again"}
					p.has(want...)
					p.sees(want...)
				})
			})
		}
	}
}

func TestCrashAfterAnyBatchGivesEachWriteOneEffect(t *testing.T) {
	for at := range 5 {
		t.Run(fmt.Sprint("batch ", at), func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.limits.Mutations = 3
				p.script.on(tidemark.MethodPush, nil)
				p.offline().queue(15)
				p.opts.Offline = false
				p.client.GoOnline()
				for range at {
					p.decide(p.script.next())
				}
				if _, err := p.judge(p.batch(p.script.next())); err != nil { // whose answer is lost
					t.Fatal(err)
				}
				synctest.Wait()
				for len(p.script.calls) > 0 {
					p.script.next()
				}
				p.script.on(tidemark.MethodPush, p.decide)
				p.crash()
				p.pending(0)
				p.once(15)
				p.rejections()
				if got := labels(t, p.db); len(got) != 15 {
					t.Errorf("the server has %q", got)
				}
				if len(p.names) != 2 || p.names[0] != p.names[1] {
					t.Errorf("the client opened as %q", p.names)
				}
			})
		})
	}
}

func TestAnswerOfFewerVerdictsHasTheRestSentAgain(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 4
		p.known().queue(10)
		p.client.GoOnline()
		first, second := p.script.next(), p.script.next()
		p.tell(first, 1)
		p.decide(second) // which does not follow: its answer says nothing
		p.pending(9)
		p.script.on(tidemark.MethodPush, p.decide)
		p.decide(p.script.next())
		p.decide(p.script.next())
		p.pending(0)
		p.came("2-5", "6-9", "3-6", "7-10", "11-11")
		p.once(10)
		if p.logs.has("takes a new name") {
			t.Error("the client has lost its name")
		}
	})
}

func TestTemporaryErrorOfABatchLeavesAllPendingAndIsTriedAgain(t *testing.T) {
	for name, fail := range map[string]func(*call){
		"unavailable": func(c *call) { c.fail(tidemark.CodeUnavailable) },
		"limit":       func(c *call) { c.fail(tidemark.CodeLimit) },
		"denied":      func(c *call) { c.fail(tidemark.CodeDenied) },
		"no verdict":  func(c *call) { c.raw(`{"now":null,"first":1,"verdicts":[]}`) },
		"malformed":   func(c *call) { c.raw(`{"verdicts":[["applied"]]}`) },
		"others":      func(c *call) { c.raw(`{"first":9,"verdicts":[["superseded",null,null]]}`) },
		"too many": func(c *call) {
			c.raw(`{"first":1,"verdicts":[["applied",null,null],["applied",null,null],["applied",null,null],["applied",null,null],["applied",null,null],["applied",null,null]]}`)
		},
		"nothing": func(c *call) { c.raw(`null`) },
		"silence": func(c *call) {},
	} {
		t.Run(name, func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.opts.Rand = func() float64 { return 0 }
				p.opts.MinBackoff, p.opts.MaxBackoff = time.Second, 4*time.Second
				p.limits.Mutations = 5
				p.script.on(tidemark.MethodPush, nil)
				p.offline().queue(12)
				p.client.GoOnline()
				for range 3 {
					fail(p.script.next())
					fail(p.script.next())
				}
				p.pending(12)
				p.rejections()
				if p.client.Status().LastError == nil && name != "silence" {
					t.Error("the status shows no error")
				}
				p.script.on(tidemark.MethodPush, p.decide)
				pass(5 * time.Minute)
				for len(p.script.calls) > 0 {
					p.script.next() // of the client's, abandoned
				}
				pass(5 * time.Minute)
				p.pending(0)
				p.once(12)
				p.state(client.Synced)
			})
		})
	}
}

func TestWaitsAreShortAgainAfterAVerdict(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Rand = func() float64 { return 0 }
		p.opts.MinBackoff = time.Second
		p.script.on(tidemark.MethodPush, nil)
		p.open()
		for i := range 3 {
			p.create(fmt.Sprint("u", i), "x")
			p.script.next().fail(tidemark.CodeUnavailable)
			began := time.Now()
			c := p.script.next()
			if d := time.Since(began); d != time.Second {
				t.Errorf("tried again after %v", d)
			}
			p.decide(c)
		}
		p.pending(0)
	})
}

func TestRejectionInTheMiddleOfABatch(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		var told []string
		p.opts.OnRejection = func(r client.Rejection) { told = append(told, r.Mutation.UID) }
		p.refuse = func(m *tidemark.Mutation) *tidemark.Error {
			if strings.Contains(string(m.Data), "bad") {
				return tidemark.NewError("too-bad", "because").OnField("label")
			}
			return nil
		}
		p.offline()
		p.create("a", "good a")
		p.create("b", "bad b")
		p.update("a", "bad a")
		p.create("c", "good c")
		if _, err := p.items.Update(t.Context(), "a", client.Patch{"score": 7}); err != nil {
			t.Fatal(err)
		}
		p.sees("bad a", "bad b", "good c")
		p.client.GoOnline()
		p.sees("good a", "good c")
		p.has("good a", "good c")
		p.pending(0)
		rs := p.rejections(client.Rejected, client.Rejected)
		if rs[0].Mutation.UID != "b" || rs[0].Code != "too-bad" || rs[0].Message != "because" || rs[0].Field != "label" || rs[1].Mutation.UID != "a" {
			t.Errorf("the rejections are %+v", rs)
		}
		if !slices.Equal(told, []string{"b", "a"}) {
			t.Errorf("the callback was told of %q", told)
		}
		a, err := p.items.FindByUID(t.Context(), "a")
		if err != nil || a.Label != "good a" || a.Score == nil || *a.Score != 7 {
			t.Errorf("the row is %+v, %v", a, err)
		}
	})
}

func TestRollbackLeavesOtherPendingWritesOfTheRow(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 1
		p.script.on(tidemark.MethodPush, nil)
		p.refuse = func(m *tidemark.Mutation) *tidemark.Error {
			if m.N == 2 {
				return tidemark.NewError("no", "no")
			}
			return nil
		}
		p.open()
		p.create("u", "one")
		p.decide(p.script.next())
		if _, err := p.items.Update(t.Context(), "u", client.Patch{"label": "two", "score": 2}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.items.Update(t.Context(), "u", client.Patch{"score": 3}); err != nil {
			t.Fatal(err)
		}
		p.decide(p.script.next())
		u, err := p.items.FindByUID(t.Context(), "u")
		if synctest.Wait(); err != nil || u.Score == nil || *u.Score != 3 {
			t.Fatalf("the row is %+v, %v", u, err)
		}
		p.sees("one")
		p.pending(1)
		p.decide(p.script.next())
		p.sees("one")
		p.pending(0)
	})
}

func TestSupersededWriteOfABatchIsListed(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline()
		p.create("a", "mine")
		p.create("b", "mine too")
		theirs := tidemark.StampOf(time.Now().Add(30 * time.Second))
		if _, err := p.db.Write(t.Context(), []tidemark.Mutation{{Model: "item", UID: "a", Op: tidemark.Create, Data: tidemark.Row(`{"label":"theirs"}`), Stamp: theirs}}); err != nil {
			t.Fatal(err)
		}
		p.client.GoOnline()
		p.sees("theirs", "mine too")
		p.pending(0)
		r := p.rejections(client.Superseded)[0]
		if r.Mutation.UID != "a" || r.Meta.CreatedAt != theirs || !strings.Contains(string(r.Row), "theirs") {
			t.Errorf("the rejection is %+v", r)
		}
	})
}

func TestWriteThatIsTooLargeIsRejectedHereAndTheOthersGoOn(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*peer)
	}{
		{"known here", func(p *peer) { p.opts.MaxMessage = 5000 }},
		{"said by the server", func(p *peer) {
			p.script.on(tidemark.MethodPush, func(c *call) {
				if len(c.Args[0]) > 5000 {
					p.batch(c)
					c.fail(tidemark.CodeTooLarge)
					return
				}
				p.decide(c)
			})
		}},
		{"the server fails on it", func(p *peer) {
			p.script.on(tidemark.MethodPush, func(c *call) {
				if strings.Contains(string(c.Args[0]), "xxx") {
					p.batch(c)
					c.fail(tidemark.CodeInternal)
					return
				}
				p.decide(c)
			})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				tc.set(p)
				p.offline().queue(10)
				p.create("u011", strings.Repeat("x", 6000))
				for i := range 300 {
					p.create(fmt.Sprintf("u1%03d", i), "after")
				}
				p.client.GoOnline()
				p.pending(0)
				p.rejections(client.Rejected)
				p.once(310)
				if got := labels(t, p.db); len(got) != 310 {
					t.Errorf("the server has %d rows", len(got))
				}
				if n := len(p.numbers()); n > 40 {
					t.Errorf("batches stay small: there were %d", n)
				}
				p.create("v", "later")
				p.pending(0)
				p.once(311)
				p.state(client.Synced)
			})
		})
	}
}

func TestVerdictWithAMalformedRowStandsWithoutIt(t *testing.T) {
	for name, verdict := range map[string]string{
		"a wrong value":   `["applied",{"uid":"u","label":7},[946684800000000]]`,
		"another row":     `["applied",{"uid":"v","label":"x"},[946684800000000]]`,
		"no row, no date": `["applied",null,null]`,
	} {
		t.Run(name, func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.script.on(tidemark.MethodPush, func(c *call) { c.raw(`{"now":null,"first":1,"verdicts":[` + verdict + `]}`) })
				p.open()
				p.create("u", "mine")
				p.pending(0)
				p.sees("mine")
				p.rejections()
				if r := p.record("u"); string(r.Base) != `{"uid":"u","label":"mine","score":null}` || r.Meta.CreatedAt == 0 {
					t.Errorf("the record is %+v", r)
				}
			})
		})
	}
}

func TestServerThatForgetsTheSecondProtocolGetsTheRestOneByOne(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 2
		p.script.on(tidemark.MethodPush, nil)
		p.offline().queue(6)
		p.client.GoOnline()
		p.decide(p.script.next())
		p.script.next()
		p.pending(4)
		p.script.on(tidemark.MethodOpen, func(c *call) { c.fail(tidemark.CodeMissingService) })
		p.script.requests()
		p.pipe.Cut()
		pass(time.Minute)
		p.pending(0)
		p.sent(`create u003 {"label":"l003","score":null}`, `create u004 {"label":"l004","score":null}`,
			`create u005 {"label":"l005","score":null}`, `create u006 {"label":"l006","score":null}`)
		p.script.on(tidemark.MethodOpen, p.open2)
		p.script.on(tidemark.MethodPush, p.decide)
		p.pipe.Cut()
		p.create("v", "again in batches")
		pass(time.Minute)
		p.pending(0)
		if p.fresh[`create v {"label":"again in batches","score":null}`] != 1 {
			t.Errorf("decided: %v", p.fresh)
		}
	})
}

func TestTenThousandQueuedWritesArePushed(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline().queue(10_000)
		p.client.GoOnline()
		p.pending(0)
		p.once(10_000)
		if n := len(p.numbers()); n != 20 {
			t.Errorf("%d batches came, want 20", n)
		}
	})
}
