package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// cursorTimer tells the sessions, some time after changes were sent, up to where they have
// them all, so that they do not get those again when they come back.
type cursorTimer struct {
	live *live

	mu      sync.Mutex      // protects what follows
	from    tidemark.Cursor // up to it all changes were this server's, or nobody is told cursors who was there before it
	timer   *time.Timer     // nil while there is nothing to tell
	telling bool            // a cursor is on its way
	dirty   bool            // changes were sent since it was read
	doubts  []doubt         // of which a cursor must not pass what lands late
}

// arm has a cursor follow what was just sent.
func (c *cursorTimer) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = true
	c.start()
}

// start starts the timer if it is not running. mu is held.
func (c *cursorTimer) start() {
	s := c.live.server
	if c.timer == nil && !c.telling && s.opts.CursorInterval > 0 && s.ctx.Err() == nil {
		c.timer = time.AfterFunc(s.opts.CursorInterval, c.run)
	}
}

// run tells the cursor. One runs at a time: while it waits for a long transaction
// the next ones would wait as well.
func (c *cursorTimer) run() {
	s := c.live.server
	s.work.begin(routines)
	defer s.work.end(routines)
	c.mu.Lock()
	if c.timer == nil { // stopped
		c.mu.Unlock()
		return
	}
	c.timer, c.telling, c.dirty = nil, true, false
	c.mu.Unlock()
	told := c.tell()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.telling = false; c.dirty || !told {
		c.start()
	}
}

// tell reads the cursor, waits until everything below it has been sent, and sends it.
func (c *cursorTimer) tell() bool {
	s := c.live.server
	ctx, cancel := s.bound(s.ctx)
	defer cancel()
	at, err := s.logs.Horizon(ctx)
	if err != nil {
		if s.ctx.Err() == nil {
			s.log.Warn("the log's cursor could not be read", slog.Any("error", err))
		}
		return false
	}
	if c.revisit(ctx) != nil {
		return false
	}
	own, err := c.extend(ctx, at)
	if err != nil {
		return false
	}
	select {
	case <-c.live.landing():
	case <-s.ctx.Done():
		return false
	}
	if !own {
		s.log.Debug("others write the database: sessions keep their cursors")
		for _, session := range c.live.scopes.everyone() {
			session.missing.Store(true)
		}
		return true
	}
	text := append(tidemark.AppendString([]byte(`{"cursor":`), at.String()), '}')
	messages := []*tidemark.Message{{Event: tidemark.EventCursor, Args: []json.RawMessage{text}}}
	for _, session := range c.live.scopes.everyone() {
		if !session.missing.Load() {
			session.hearing.send(messages)
		}
	}
	return true
}

// doubt has rows looked at again before a cursor is told.
func (c *cursorTimer) doubt(items []item) {
	if len(items) == 0 {
		return
	}
	until := time.Now().Add(doubtful)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.doubts)+len(items) > maxDoubts {
		for _, session := range c.live.scopes.everyone() {
			session.missing.Store(true)
		}
		return
	}
	for _, it := range items {
		c.doubts = append(c.doubts, doubt{it, until})
	}
}

// revisit looks at what is in doubt. The cursor has been read: what lands later is not below it.
func (c *cursorTimer) revisit(ctx context.Context) error {
	c.mu.Lock()
	doubts := c.doubts
	c.doubts = nil
	c.mu.Unlock()
	if len(doubts) == 0 {
		return nil
	}
	rest, err := c.live.reconsider(ctx, doubts)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubts = append(rest, c.doubts...)
	return err
}

// begin notes a cursor at which nobody had a scope yet; the first counts.
func (c *cursorTimer) begin(at tidemark.Cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from.IsZero() {
		c.from = at
	}
}

// extend goes on to a later cursor, and reports whether all changes in between were made through this
// server. Of others' the sessions have not heard: a cursor beyond them would hide them for good.
func (c *cursorTimer) extend(ctx context.Context, at tidemark.Cursor) (own bool, err error) {
	c.mu.Lock()
	from := c.from
	c.mu.Unlock()
	if from.Epoch == at.Epoch {
		own, err = c.live.server.logs.Own(ctx, from, at)
	}
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = at
	return own, nil
}

// stop ends the timer, with the server.
func (c *cursorTimer) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
