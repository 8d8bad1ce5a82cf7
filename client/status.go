package client

import (
	"context"
	"iter"
	"time"
)

// State is where the client stands with its server.
type State uint8

const (
	// Offline: switched off by GoOffline or Options.Offline, without a dialer, or closed.
	Offline State = iota
	// Connecting: there is no connection, and one is being tried or will be.
	Connecting
	// Syncing: connected; writes are pending, or scopes are not yet synchronised.
	Syncing
	// Synced: connected, nothing pending, all scopes synchronised.
	Synced
)

// String returns the state's name in lower case.
func (s State) String() string {
	return [...]string{"offline", "connecting", "syncing", "synced"}[s%4]
}

// Status is what a program may show of its connection.
type Status struct {
	// State is where the client stands.
	State State
	// Synced of Scopes scopes are synchronised since the connection was made.
	// Scopes of models that are not declared are not counted.
	Synced, Scopes int
	// SyncedRows of TotalRows rows have come of the scopes that are told from the beginning;
	// 0 of 0 when none is, and where the server does not say how many there are.
	SyncedRows, TotalRows int
	// Pending is how many writes the server has not confirmed. Where several clients work on one
	// store, in several processes, each counts those that it knows of: the others' once it writes
	// or pushes itself, and what the others have pushed once it is opened again, or online.
	Pending int
	// Rejected is how many rejections are stored, see Client.Rejections.
	Rejected int
	// Skew is how far the server's clock is ahead of this device's, negative when it is
	// behind; 0 when they agree within a second, and while it is unknown. Writes are stamped with
	// corrected time: a program may show it, since dates that it takes of the device are not.
	Skew time.Duration
	// LastError is why the last attempt to connect, push or synchronise failed,
	// or why the connection ended; nil once the state is Synced again, and after GoOffline.
	LastError error
	// Since is when State began.
	Since time.Time
	// DisconnectedAt is when the last connection ended, also in an earlier run;
	// zero if there was none.
	DisconnectedAt time.Time
}

// line is the part of the client's state that only Status shows. Client.mu protects it.
type line struct {
	connected    bool
	failed       bool // an attempt to connect failed since the client is online
	err          error
	since        time.Time
	last         State
	disconnected time.Time
	pushed       int64         // no mutation up to this number is in the outbox
	changed      chan struct{} // closed at the next change, then replaced
}

func (l *line) init(now time.Time) {
	l.since, l.changed = now, make(chan struct{})
}

// Status returns the current status.
func (c *Client) Status() Status {
	s, _ := c.status()
	return s
}

// equal compares without comparing errors of unknown types, which could panic.
func (s Status) equal(t Status) bool {
	same := (s.LastError == nil) == (t.LastError == nil) &&
		(s.LastError == nil || s.LastError.Error() == t.LastError.Error())
	s.LastError, t.LastError = nil, nil
	return same && s == t
}

// status returns the status, and a channel that is closed when it may have changed.
func (c *Client) status() (Status, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.currentStatus(), c.line.changed
}

func (c *Client) currentStatus() Status {
	s := Status{
		State:          Offline,
		Scopes:         len(c.scopes),
		Pending:        int(max(c.pending.Load(), 0)),
		Rejected:       int(max(c.rejected.Load(), 0)),
		Skew:           time.Duration(c.skew.Load()),
		LastError:      c.line.err,
		Since:          c.line.since,
		DisconnectedAt: c.line.disconnected,
	}
	for _, sc := range c.scopes {
		if sc.synced() {
			s.Synced++
		}
		s.SyncedRows += sc.told
		s.TotalRows += sc.total
	}
	switch {
	case c.online == nil || c.ctx.Err() != nil:
	case !c.line.connected:
		s.State = Connecting
	case s.Synced < s.Scopes || s.Pending > 0:
		s.State = Syncing
	default:
		s.State = Synced
	}
	return s
}

// changed is called with mu held after anything that Status shows has changed.
func (c *Client) changed() {
	if s := c.currentStatus(); s.State != c.line.last {
		c.line.last, c.line.since = s.State, c.opts.Now()
	}
	close(c.line.changed)
	c.line.changed = make(chan struct{})
}

// touch is changed for callers that do not hold mu.
func (c *Client) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed()
}

// wellNow reports whether all is synchronised, and then forgets the last error.
func (c *Client) wellNow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.currentStatus().State != Synced {
		return false
	}
	if c.line.err != nil {
		c.line.err = nil
		c.changed()
	}
	return true
}

// fault shows err as the last error, unless it is shown already.
func (c *Client) fault(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was := c.line.err; was != nil && was.Error() == err.Error() {
		return
	}
	c.line.err = err
	c.changed()
}

// WatchStatus yields the current status, then a fresh one after each burst of
// changes; only the latest counts. It ends with ctx, with the loop, or after Close.
func (c *Client) WatchStatus(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		var last Status
		for first := true; ; first = false {
			s, next := c.status()
			if (first || !s.equal(last)) && !yield(s) {
				return
			}
			last = s
			select {
			case <-next:
			case <-ctx.Done():
				return
			case <-c.ctx.Done():
				return
			}
		}
	}
}

// GoOnline lets the client connect, and cuts short the wait before its next
// attempt. Without a dialer, or after Close, it does nothing.
func (c *Client) GoOnline() {
	if c.dialer == nil || c.closed() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.online == nil {
		c.online, c.offline = context.WithCancel(c.ctx)
		c.line.failed = false
		close(c.turned)
		c.turned = make(chan struct{})
		c.changed()
	}
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// GoOffline ends the connection, and keeps the client from connecting until
// GoOnline. Reads and writes go on; nothing that is pending is lost.
func (c *Client) GoOffline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.online == nil {
		return
	}
	c.offline()
	c.online, c.line.err = nil, nil
	c.changed()
}
