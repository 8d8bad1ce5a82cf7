package sqlite

import (
	"context"
	"sync/atomic"
)

// SQLite appends what is committed to a log, and moves the log into the file when
// a commit finds it long enough: that one write then waits for the disk twice, for
// some ten times as long as a thousand others take. The store moves the log
// beside its writes, on a connection that nobody reads by at the moment. What is left for a
// commit, when writes follow one another without a pause, is little.

// worthMoving is how many pages the log should have to be moved.
const worthMoving = 4000

// growth is how much the log has grown, about, since it was last moved.
type growth struct {
	pages  atomic.Int64
	moving atomic.Bool
}

// grown notes a commit that stored so many bytes.
func (s *Store) grown(bytes int) {
	const pages, size = 4, 4096 // a write of one row changes some four pages
	if s.growth.pages.Add(int64(pages+bytes/size)) < worthMoving || s.readers == nil || s.memory {
		return
	}
	if !s.growth.moving.CompareAndSwap(false, true) {
		return
	}
	c, free := s.readers.trySpare()
	if !free || s.enter(context.Background()) != nil {
		if free {
			s.readers.putSpare(c)
		}
		s.growth.moving.Store(false)
		return
	}
	s.growth.pages.Store(0)
	go func() { // Close waits for it
		defer s.calls.Done()
		defer s.growth.moving.Store(false)
		s.moveLog(c)
	}()
}

// moveLog moves the log into the file, as far as nobody needs it. When it fails a commit does it.
func (s *Store) moveLog(c *session) {
	ctx := context.Background()
	c, err := s.connected(ctx, s.readers, c)
	defer func() { s.readers.putSpare(c) }()
	if err == nil {
		err = c.query(ctx, func(*result) error { return nil }, "PRAGMA wal_checkpoint(PASSIVE)")
	}
	if err != nil {
		s.log.WarnContext(ctx, "the log could not be moved into the file", "error", err)
	}
}
