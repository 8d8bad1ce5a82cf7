package tidemark

import (
	"sync"
	"time"
)

// DefaultMaxDrift is how far ahead of the server a client's stamp may be before
// the server clamps it.
const DefaultMaxDrift = time.Minute

// Clock is a hybrid logical clock (Kulkarni et al., 2014) reduced to one number:
// its stamps follow the wall clock, are strictly increasing, and are never behind
// anything that the clock has observed. It is safe for concurrent use.
type Clock struct {
	wall func() time.Time

	mu   sync.Mutex // protects last
	last Stamp
}

// NewClock returns a clock over wall; nil means time.Now.
func NewClock(wall func() time.Time) *Clock {
	if wall == nil {
		wall = time.Now
	}
	return &Clock{wall: wall}
}

// Now returns a stamp later than every stamp that this clock returned or observed.
func (c *Clock) Now() Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, StampOf(c.wall()))
	return c.last
}

// Observe makes sure that later stamps of this clock are later than s. A stamp
// more than maxDrift ahead of the wall clock is not adopted: one wrong clock must
// not carry all others away. A maxDrift of zero or less means no such bound.
func (c *Clock) Observe(s Stamp, maxDrift time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if maxDrift > 0 && s > StampOf(c.wall().Add(maxDrift)) {
		return
	}
	c.last = max(c.last, s)
}

// Clamp returns s when it is at most maxDrift ahead of the wall clock, and
// otherwise a stamp of this clock, so that several clamped writes keep the order
// in which they are clamped.
func (c *Clock) Clamp(s Stamp, maxDrift time.Duration) Stamp {
	if s <= StampOf(c.wall().Add(maxDrift)) {
		return s
	}
	return c.Now()
}
