package client

import (
	"time"

	"github.com/tidemark-sync/tidemark"
)

// now returns the client's clock. The one clock gives all stamps of this client.
func (c *Client) now() *tidemark.Clock { return c.clock.Load() }

func (c *Client) wall() time.Time {
	return c.opts.Now().Add(time.Duration(c.skew.Load()))
}

// stampAfter returns the stamp of a new write of a row whose stamp so far is t.
// Servers of the guide's protocol compare milliseconds, and refuse a tie: two
// writes of one row are therefore never given the same millisecond.
func (c *Client) stampAfter(t tidemark.Stamp) tidemark.Stamp {
	s := c.now().Now()
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
	w.lease = s + clockLease
	return w.tx.Save(keyClock, w.lease.AppendJSON(nil))
}

// clamped is told that the server gave the stamp at to a write that this client
// had stamped with mine: a clock that is ahead of the server's follows it from
// then on. Differences below a second are rounding.
func (c *Client) clamped(mine, at tidemark.Stamp) {
	const worth = tidemark.Stamp(time.Second / time.Microsecond)
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
