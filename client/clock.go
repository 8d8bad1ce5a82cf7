package client

import (
	"context"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// now returns the client's clock. The one clock gives all stamps of this client.
func (c *Client) now() *tidemark.Clock { return c.clock.Load() }

// wall is the server's time, as far as it is known.
func (c *Client) wall() time.Time {
	return c.opts.Now().Add(time.Duration(c.skew.Load()))
}

// observe makes later stamps later than s, unless that is further ahead of the
// server than it tolerates.
func (c *Client) observe(s tidemark.Stamp) { c.now().Observe(s, c.maxDrift()) }

func (c *Client) maxDrift() time.Duration {
	return positive(time.Duration(c.drift.Load()), tidemark.DefaultMaxDrift)
}

// stampAfter returns the stamp of a new write of a row whose stamp so far is t.
func (c *Client) stampAfter(t tidemark.Stamp) tidemark.Stamp { return following(c.now().Now(), t) }

// following returns s, or the first stamp that follows t when that is later. Servers of the
// guide's protocol compare milliseconds, and refuse a tie: two writes of one
// row are therefore never given the same millisecond.
func following(s, t tidemark.Stamp) tidemark.Stamp {
	if t <= 0 {
		return s
	}
	return max(s, (t/1000+1)*1000)
}

// clockLease is how far ahead of the last stamp the stored clock reaches, so that
// it is not stored with every write.
const clockLease = tidemark.Stamp(time.Second / time.Microsecond)

// saveClock stores the clock with a write, when the stored one is behind it.
func (w *work) saveClock(s tidemark.Stamp) error {
	if int64(s) <= w.c.lease.Load() || s > w.c.now().Now()+clockLease {
		return nil // behind, or a row's own stamp far in the future
	}
	return w.leaseClock(s)
}

func (w *work) leaseClock(s tidemark.Stamp) error {
	w.lease = s + clockLease
	return w.tx.Save(keyClock, w.lease.AppendJSON(nil))
}

// worth is the difference between two clocks below which they count as one:
// rounding, and the way to the server.
const worth = time.Second

// correct compares the device's clock with the server's, which read now while its
// answer took so long to come. Stamps follow the server's from then on.
func (c *Client) correct(now tidemark.Stamp, took time.Duration) {
	if now <= 0 {
		return
	}
	skew := now.Time().Add(took / 2).Sub(c.opts.Now())
	if skew.Abs() < worth {
		skew = 0
	}
	was := time.Duration(c.skew.Load())
	if (skew - was).Abs() < max(worth, took/2) {
		return
	}
	c.skew.Store(int64(skew))
	c.log.Warn("clock differs from the server's", "by", -skew, "before", -was)
	c.touch()
}

// ahead reports whether the clock is further ahead of the server than that tolerates.
func (c *Client) ahead() bool {
	return c.now().Now() > tidemark.StampOf(c.wall().Add(c.maxDrift()))
}

// lower sets a clock that is ahead back to the server's time, and gives what the
// server has not seen stamps that it will not have to clamp, in the same order. It
// must not be called while a write is on its way: the server clamps that to a
// stamp which those behind it have to follow.
func (c *Client) lower(ctx context.Context) error {
	was, slow := c.now(), tidemark.NewClock(c.wall)
	err := c.commit(ctx, func(w *work) error {
		// Here, since other writes take their stamps in transactions of their own.
		c.clock.Store(slow)
		n, err := w.restamp(tidemark.StampOf(c.wall()))
		if err != nil {
			return err
		}
		c.log.Warn("clock was ahead of the server's and is lowered", "restamped", n)
		return w.leaseClock(slow.Now())
	})
	if err != nil {
		c.clock.CompareAndSwap(slow, was)
	}
	return err
}

// restamp gives the writes in the outbox that are stamped later than top stamps of
// the clock, in their order, and returns how many. How they stand to their rows' bases and
// to one another stays the same, so that no visible row changes.
func (w *work) restamp(top tidemark.Stamp) (n int, err error) {
	type row struct{ model, uid string }
	newest := map[row]tidemark.Stamp{}
	for after := int64(0); ; {
		ms, err := w.tx.Outbox(after, outboxPage)
		if err != nil || len(ms) == 0 {
			return n, err
		}
		after = ms[len(ms)-1].N
		bases, err := w.bases(ms)
		if err != nil {
			return n, err
		}
		var amended []tidemark.Mutation
		for i, m := range ms {
			last := max(newest[row{m.Model, m.UID}], bases[i])
			if m.Stamp > top {
				if s := following(w.c.now().Now(), last); s < m.Stamp {
					m.Stamp = s
					amended = append(amended, m)
				}
			}
			newest[row{m.Model, m.UID}] = max(last, m.Stamp)
		}
		if err := w.tx.Amend(amended); err != nil {
			return n, err
		}
		n += len(amended)
	}
}

// bases returns for each mutation the stamp of its row's base.
func (w *work) bases(ms []tidemark.Mutation) ([]tidemark.Stamp, error) {
	byModel := map[string]*rows{}
	for i := range ms {
		rowsOf(byModel, ms[i].Model).add(ms[i].UID)
	}
	for model, r := range byModel {
		var err error
		if r.byUID, _, err = w.records(model, r.uids); err != nil {
			return nil, err
		}
	}
	out := make([]tidemark.Stamp, len(ms))
	for i, m := range ms {
		out[i] = byModel[m.Model].byUID[m.UID].Meta.T()
	}
	return out, nil
}

// clamped is told, in the guide's protocol, that the server gave the stamp at to a
// write that this client had stamped with mine: a clock that is ahead of the
// server's follows it from then on.
func (c *Client) clamped(mine, at tidemark.Stamp) {
	const worth = tidemark.Stamp(worth / time.Microsecond)
	if at <= 0 || mine-at < worth || tidemark.StampOf(c.wall())-at < worth {
		return
	}
	c.skew.Store(int64(at.Time().Sub(c.opts.Now())))
	slow := tidemark.NewClock(c.wall)
	slow.Observe(at, 0)
	c.clock.Store(slow)
	c.lease.Store(0)
	c.log.Warn("clock is ahead of the server's and was lowered", "by", time.Duration(mine-at)*time.Microsecond)
}
