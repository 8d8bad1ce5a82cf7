// Package sqlite keeps a client's rows in an SQLite file on its device.
//
// It works on a *sql.DB that the application has opened, so that the choice of
// the driver stays the application's. With mattn/go-sqlite3:
//
//	err := sqlite.Create(path) // only the owner may read it
//	db, err := sql.Open("sqlite3", sqlite.DSN(path))
//	store, err := sqlite.Open(ctx, db, nil)
//
// Every declared model is also a view of that name in the file, with the
// visible rows and a column for each field (bools as 0 and 1, timestamps as
// text that SQLite's date functions read), for joins and aggregates in SQL
// through db. What begins with tidemark_ is the store's own.
//
// Several stores, in one process or in several, may work on one file.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Store = (*Store)(nil)

// Options of [Open]. The zero value, and nil, are usable.
type Options struct {
	// AllowNormal accepts a handle with synchronous=NORMAL: commits are about
	// three times as fast, and a power failure (not a crash of the process) may lose the last of them.
	AllowNormal bool

	// CheckLimit is the size in bytes up to which Open reads the whole file to
	// find damaged pages; a larger file is checked by [Store.Check] only, and
	// damage is reported when it is met. Zero means 8 MiB, some 10 ms; negative never.
	CheckLimit int64

	// Readers is how many connections the store keeps for reading, beside one
	// for writing. Defaults to 4. With db.SetMaxOpenConns(n) it is at most n-2,
	// so that one is left to the application; when n is 1 or 2 the store keeps
	// none, and reads and writes wait for one another.
	Readers int

	// Logger is told when a table is written anew for other indexes. nil discards.
	Logger *slog.Logger
}

func (o *Options) orDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.CheckLimit == 0 {
		c.CheckLimit = 8 << 20
	}
	if c.Readers <= 0 {
		c.Readers = 4
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Store is a [tidemark.Store] in an SQLite file. It is safe for concurrent use.
// Reads go on while an update runs, each on one state of the file. Within the
// function given to View or Update, other calls of the store's methods may wait
// for that function, and Update and Close do so for ever: use the transaction.
type Store struct {
	db     *sql.DB
	log    *slog.Logger
	shared bool // the handle has few connections: take the one when it is needed
	memory bool // there is no file, and so no other process

	writer  *pool // of one; who has it may write
	readers *pool // nil when shared
	models  atomic.Pointer[catalog]
	growth  growth

	calls  sync.WaitGroup
	mu     sync.Mutex // protects the closing of closed
	closed chan struct{}
}

// Open makes a store of the database behind db, which stays the caller's and must
// be closed after the store. An empty file is made a store's. Errors:
// [tidemark.ErrDamaged] for a file that is damaged or something else,
// [tidemark.ErrNewerFile] for one that a newer version has written; neither is
// changed. A handle that is not set up as [DSN] does is refused with an error that says what to set.
func Open(ctx context.Context, db *sql.DB, options *Options) (*Store, error) {
	o := options.orDefaults()
	most := db.Stats().MaxOpenConnections
	s := &Store{db: db, log: o.Logger, closed: make(chan struct{}), shared: most == 1 || most == 2}
	w, err := newSession(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, w, &o); err != nil {
		w.close()
		return nil, err
	}
	s.writer = newPool(1)
	if s.shared {
		w.close()
		return s, nil
	}
	if err := w.set(ctx, writerSettings); err != nil {
		w.close()
		return nil, err
	}
	s.writer.idle = append(s.writer.idle, w)
	if most > 0 {
		o.Readers = min(o.Readers, most-2)
	}
	s.readers = newPool(o.Readers)
	return s, nil
}

func (s *Store) start(ctx context.Context, w *session, o *Options) error {
	memory, err := openFile(ctx, w, o, s.db.Stats().MaxOpenConnections)
	if err != nil {
		return err
	}
	s.memory = memory
	_, err = s.refresh(ctx, w)
	return err
}

// writerSettings are for the connection that only the store uses. It waits for
// other writers by waitBusy, which ctx interrupts, and not in SQLite, which
// nothing does. A first sync writes the same index pages with every page of
// rows: a longer log between checkpoints and room in the cache write them to the
// file once (measured: 100,000 rows in half the time).
var writerSettings = [][2]string{
	{"busy_timeout", "0"},
	{"wal_autocheckpoint", "8000"}, // pages of mostly 4 KiB
	{"cache_size", "-16384"},       // KiB
}

// Close waits for running calls and gives the connections back to the handle,
// which it does not close. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	s.mu.Unlock()
	s.calls.Wait()
	s.writer.drain()
	s.readers.drain()
	return nil
}

// Check reads the whole file to find damaged pages ([tidemark.ErrDamaged]).
func (s *Store) Check(ctx context.Context) error {
	return s.read(ctx, func(c *session) error { return quickCheck(ctx, c) })
}

// Find returns the visible rows that p selects, sorted by uid.
func (s *Store) Find(ctx context.Context, p *tidemark.Predicate) (found []tidemark.Row, err error) {
	err = s.lookUp(ctx, func(c *session, models *catalog) error {
		m, err := models.model(p.Schema().Name())
		if err != nil {
			return err
		}
		if err := s.search(ctx, c, m, p); err != nil {
			return err
		}
		found, err = m.find(ctx, c, p)
		return err
	})
	return found, err
}

// Get returns the visible row, nil when there is none.
func (s *Store) Get(ctx context.Context, model, uid string) (row tidemark.Row, err error) {
	quiet := endless(ctx) // it takes microseconds
	err = s.lookUp(ctx, func(c *session, models *catalog) error {
		m, err := models.model(model)
		if err != nil {
			return err
		}
		row = nil
		return c.query(quiet, func(r *result) error {
			row = r.row(0)
			return nil
		}, m.get, uid)
	})
	return row, err
}

// View runs fn on one state of the file. Updates do not wait for it, unless the handle has few connections.
func (s *Store) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.read(ctx, func(c *session) error {
		return c.snapshot(ctx, func() error {
			_, err := s.run(ctx, c, false, fn)
			return err
		})
	})
}

// Update runs fn in a transaction that is durable when Update returns nil. When
// ctx ends before that, or a method of the transaction failed for the
// database's sake, nothing has happened, whatever fn returned.
func (s *Store) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.write(ctx, func(c *session) error {
		var done *tx
		err := c.transaction(ctx, func() (err error) {
			done, err = s.run(ctx, c, true, fn)
			return err
		})
		if err != nil {
			return err
		}
		for _, m := range done.made {
			m.late.made.Store(true)
		}
		s.grown(done.bytes)
		return nil
	})
}

// run runs fn in the transaction that c is in.
func (s *Store) run(ctx context.Context, c *session, writable bool, fn func(tidemark.StoreTx) error) (*tx, error) {
	t := &tx{ctx: ctx, quiet: endless(ctx), s: s, c: c, models: s.models.Load(), writable: writable}
	defer func() { t.over = true }()
	if err := fn(t); err != nil {
		return nil, err
	}
	if t.failed != nil || !writable {
		return t, t.failed
	}
	if err := t.settle(); err != nil {
		return nil, err
	}
	return t, t.makeIndexes()
}

// write calls fn with the connection that may write.
func (s *Store) write(ctx context.Context, fn func(*session) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	return s.with(ctx, s.writer, func(c *session) error {
		if s.shared && !s.memory {
			if err := c.set(ctx, writerSettings[:1]); err != nil {
				return err
			}
		}
		return fn(c)
	})
}

// read calls fn with a connection to read from.
func (s *Store) read(ctx context.Context, fn func(*session) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	if s.shared {
		return s.with(ctx, s.writer, fn)
	}
	return s.with(ctx, s.readers, fn)
}

// lookUp calls fn with the models as last seen, for a single statement; once more
// with fresh ones when another store has changed them since.
func (s *Store) lookUp(ctx context.Context, fn func(*session, *catalog) error) error {
	return s.read(ctx, func(c *session) error {
		err := fn(c, s.models.Load())
		if !isStale(err) && !errors.Is(err, errUndeclared) {
			return err
		}
		models, err := s.refresh(ctx, c)
		if err != nil {
			return err
		}
		return fn(c, models)
	})
}

// readerSettings are for the connections that only the store reads by. The first
// of them serves a program that reads in one goroutine; its cache should hold
// the upper pages of the indexes, and some of the rows.
var readerSettings = [][2]string{
	{"cache_size", "-16384"}, // KiB
}

// with takes a session from the pool, for fn, and puts it back.
func (s *Store) with(ctx context.Context, from *pool, fn func(*session) error) error {
	c, err := from.take(ctx, s.closed)
	if err != nil {
		return err
	}
	defer func() { from.put(c) }()
	if c, err = s.connected(ctx, from, c); err != nil {
		return err
	}
	if s.shared {
		defer func() { c.close(); c = nil }()
	}
	return fn(c)
}

// connected returns c, of that pool, or a new session when it is nil.
func (s *Store) connected(ctx context.Context, of *pool, c *session) (*session, error) {
	if c != nil {
		return c, nil
	}
	c, err := newSession(ctx, s.db)
	if err == nil && of == s.readers {
		if err = c.set(ctx, readerSettings); err != nil {
			c.close()
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// enter counts a call in; Close waits until it is done.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return tidemark.ErrClosed
	default:
		s.calls.Add(1)
		return nil
	}
}
