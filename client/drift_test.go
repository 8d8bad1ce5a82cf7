package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// outbox are the writes that are pending in the store.
func (b *bench) outbox() (ms []tidemark.Mutation) {
	b.t.Helper()
	err := b.store.View(b.t.Context(), func(tx tidemark.StoreTx) (err error) {
		ms, err = tx.Outbox(0, 0)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return ms
}

// increasing checks that the stamps of writes that came increase by a millisecond from one
// write of a row to the next, and that none is ahead of the present by more than ahead.
func (p *peer) increasing(ahead time.Duration) {
	p.t.Helper()
	rows := map[string]tidemark.Stamp{}
	for _, b := range p.batches {
		for _, m := range b.Mutations {
			if m.Stamp > tidemark.StampOf(p.now().Add(ahead)) {
				p.t.Errorf("write %d is stamped %v, more than %v ahead", m.N, m.Stamp, ahead)
			}
			if m.Stamp/1000 <= rows[m.UID]/1000 {
				p.t.Errorf("write %d is stamped %v, the former one of its row %v", m.N, m.Stamp, rows[m.UID])
			}
			rows[m.UID] = m.Stamp
		}
	}
}

func TestWritesOfAClockThatIsAheadAreRestampedInOrder(t *testing.T) {
	for _, ahead := range []time.Duration{2 * time.Minute, 10 * time.Minute, 24 * time.Hour, 3000 * 24 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.opts.Now = func() time.Time { return time.Now().Add(ahead) }
				p.offline().queue(5)
				for i := range 5 {
					p.update(fmt.Sprintf("u%03d", 1+i%2), fmt.Sprint("v", i))
				}
				p.client.GoOnline()
				p.pending(0)
				p.increasing(time.Second)
				p.sees("v4", "v3", "l003", "l004", "l005")
				p.has("v4", "v3", "l003", "l004", "l005")
				p.rejections()
				if s := p.client.Status().Skew; s != -ahead {
					t.Errorf("the status shows a skew of %v", s)
				}
				if !p.logs.has("is lowered") {
					t.Error("the log does not tell")
				}
				p.batches = nil
				p.create("w", "later")
				p.pending(0)
				p.increasing(time.Second)
			})
		})
	}
}

func TestClockThatIsAheadByLessThanTheServerToleratesKeepsItsStamps(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Now = func() time.Time { return time.Now().Add(30 * time.Second) }
		p.offline().queue(3)
		want := p.outbox()
		p.client.GoOnline()
		p.pending(0)
		for i, m := range p.batches[0].Mutations {
			if m.Stamp != want[i].Stamp {
				t.Errorf("write %d has the stamp %v, not %v", m.N, m.Stamp, want[i].Stamp)
			}
		}
		p.update("u001", "later") // still later than before, whatever the corrected clock says
		p.pending(0)
		p.increasing(time.Minute)
		p.has("later", "l002", "l003")
		p.rejections()
	})
}

func TestDifferenceBelowASecondIsNone(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Now = func() time.Time { return time.Now().Add(-900 * time.Millisecond) }
		p.open()
		p.queue(1)
		p.pending(0)
		if s := p.client.Status().Skew; s != 0 {
			t.Errorf("the status shows a skew of %v", s)
		}
		if m := p.batches[0].Mutations[0]; m.Stamp > tidemark.StampOf(p.opts.Now().Add(time.Millisecond)) {
			t.Errorf("the write is stamped %v", m.Stamp)
		}
	})
}

// The server's time is that of its answer, which was on its way for a while.
func TestHalfOfTheWayCounts(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		p.script.on(tidemark.MethodOpen, func(c *call) {
			go func() {
				<-time.After(2 * time.Second) // the way there
				now := tidemark.StampOf(time.Now())
				<-time.After(2 * time.Second)
				c.result(tidemark.OpenAnswer{Protocol: 1, Now: now, Limits: p.limits})
			}()
		})
		p.open()
		pass(10 * time.Second)
		if s := p.client.Status().Skew; s != time.Hour {
			t.Errorf("the skew is %v", s)
		}
	})
}

func TestClockThatIsADayBehindStampsWithTheServersTime(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
		p.open()
		if _, err := p.db.Write(t.Context(), []tidemark.Mutation{{Model: "item", UID: "u001", Op: tidemark.Create, Data: tidemark.Row(`{"label":"theirs"}`), Stamp: tidemark.StampOf(time.Now().Add(-time.Hour))}}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		p.queue(1)
		p.pending(0)
		p.has("l001") // it is the later write
		p.rejections()
		if s := p.client.Status().Skew; s != 24*time.Hour {
			t.Errorf("the status shows a skew of %v", s)
		}
	})
}

// A clock that jumps is followed from the next answer on, and stamps never go back but
// where they were ahead of what the server tolerates.
func TestClockThatJumpsIsFollowed(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		var jump time.Duration
		p.opts.Now = func() time.Time { return time.Now().Add(jump) }
		p.open()
		for i, j := range []struct{ to, skew time.Duration }{
			{0, 0}, {time.Hour, -time.Hour}, {time.Hour + 300*time.Millisecond, -time.Hour}, {-time.Hour, time.Hour},
			{-24 * time.Hour, 24 * time.Hour}, {10 * time.Minute, -10 * time.Minute}, {500 * time.Millisecond, 0},
		} {
			jump = j.to
			for n := range 3 {
				uid := fmt.Sprintf("%d-%d", i, n)
				p.create(uid, uid)
				p.update(uid, uid+" again")
				pass(time.Second)
			}
			p.pending(0)
			if got := p.client.Status().Skew; got != j.skew {
				t.Errorf("after the jump to %v the skew is %v", j.to, got)
			}
		}
		p.rejections()
		if got := labels(t, p.db); len(got) != 21 {
			t.Errorf("the server has %q", got)
		}
		// After the last jump all is stamped with the server's time again.
		p.batches = nil
		p.create("z", "z")
		p.pending(0)
		if m := p.batches[0].Mutations[0]; m.Stamp < tidemark.StampOf(time.Now().Add(-time.Second)) || m.Stamp > tidemark.StampOf(time.Now().Add(time.Second)) {
			t.Errorf("the last write is stamped %v", m.Stamp)
		}
	})
}

// The clock jumps while writes of one row are on their way and others wait: those that
// wait must not come to lie before the stamp that the server gives to the first.
func TestJumpWhileWritesAreOnTheirWayKeepsTheirOrder(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		var jump time.Duration
		p.opts.Now = func() time.Time { return time.Now().Add(jump) }
		p.limits.Mutations = 2
		p.script.on(tidemark.MethodPush, nil)
		p.open()
		jump = time.Hour
		p.create("u", "v0")
		for i := range 9 {
			p.update("u", fmt.Sprint("v", i+1))
		}
		for n := 0; n < 10; {
			c := p.script.next()
			pass(300 * time.Millisecond)
			p.decide(c)
			n += len(p.batches[len(p.batches)-1].Mutations)
		}
		p.has("v9")
		p.sees("v9")
		p.pending(0)
		p.rejections()
	})
}

func TestStampOfAnotherIsNotAdoptedBeyondTheServersTime(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		far := tidemark.StampOf(time.Now().AddDate(1000, 0, 0))
		if _, err := p.db.Write(t.Context(), []tidemark.Mutation{{Model: "item", UID: "a", Op: tidemark.Create, Data: tidemark.Row(`{"label":"forged"}`), Stamp: far}}); err != nil {
			t.Fatal(err)
		}
		p.create("a", "mine")
		p.sees("forged")
		p.create("b", "next")
		p.pending(0)
		if m := p.batches[len(p.batches)-1].Mutations[0]; m.Stamp > tidemark.StampOf(time.Now().Add(time.Minute)) {
			t.Errorf("the next write is stamped %v", m.Stamp)
		}
		p.rejections(client.Superseded)
		if p.logs.has("is lowered") {
			t.Error("the clock followed the stamp, and was lowered again")
		}
	})
}

func TestLoweredClockStaysLoweredAfterARestart(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.opts.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		p.offline().queue(2)
		p.client.GoOnline()
		p.pending(0)
		p.opts.Now = nil
		p.opts.Offline = true
		p.crash()
		p.create("v", "after")
		if m := p.outbox()[0]; m.Stamp > tidemark.StampOf(time.Now().Add(3*time.Second)) {
			t.Errorf("the write is stamped %v", m.Stamp)
		}
	})
}

// A base may itself be ahead, by less than the server tolerates or by more: what was written on
// top of it stays on top, and what has lost against it is not made to win.
func TestRestampedWriteStandsToItsBaseAsBefore(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ahead time.Duration // of the base
		want  string
	}{{"the write is newer", 30 * time.Second, "mine"}, {"the write has lost", time.Hour, "theirs"}} {
		t.Run(tc.name, func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.opts.Now = func() time.Time { return time.Now().Add(10 * time.Minute) }
				p.hold(live("u", "old", T0))
				p.offline().update("u", "mine")
				theirs := live("u", "theirs", tidemark.StampOf(time.Now().Add(tc.ahead)))
				p.db.Put("item", theirs.Row, theirs.Meta)
				stamp := p.outbox()[0].Stamp
				err := p.store.Update(t.Context(), func(tx tidemark.StoreTx) error {
					recs, err := tx.Records("item", []string{"u"})
					if err != nil {
						return err
					}
					r := &recs[0]
					r.Base, r.Meta = theirs.Row, theirs.Meta
					r.Row, _ = tidemark.Rebase(r.Base, r.Meta, p.outbox())
					return tx.Put("item", recs)
				})
				if err != nil {
					t.Fatal(err)
				}
				p.sees(tc.want)
				p.client.GoOnline()
				p.pending(0)
				p.sees(tc.want)
				p.has(tc.want)
				if got := p.batches[0].Mutations[0].Stamp; got > stamp {
					t.Errorf("the stamp was raised from %v to %v", stamp, got)
				}
			})
		})
	}
}

// The clock is wrong, and the connection ends at the answer that says so, or at any later one.
func TestRestampedWritesHaveOneEffectWhateverIsCut(t *testing.T) {
	for at := range 5 {
		t.Run(fmt.Sprint("message ", at), func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.limits.Mutations = 4
				p.opts.Now = func() time.Time { return time.Now().Add(time.Hour) }
				n := 0
				p.script.on(tidemark.MethodOpen, func(c *call) {
					p.open2(c)
					if n++; n-1 == at {
						p.pipe.Cut()
					}
				})
				p.script.on(tidemark.MethodPush, func(c *call) {
					if n++; n-1 == at {
						_, _ = p.judge(p.batch(c))
						p.pipe.Cut()
						return
					}
					p.decide(c)
				})
				p.offline().queue(4)
				for i := range 8 {
					p.update(fmt.Sprintf("u%03d", 1+i%4), fmt.Sprint("v", i))
				}
				p.client.GoOnline()
				pass(time.Minute)
				p.pending(0)
				p.once(12)
				p.has("v4", "v5", "v6", "v7")
				p.sees("v4", "v5", "v6", "v7")
				p.rejections()
			})
		})
	}
}
