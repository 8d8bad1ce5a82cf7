// Package logstore is a [tidemark.Store] written from nothing, to show what a
// store has to do: everything is in maps in memory, and every update is one
// line at the end of a file. Read store.go, then state.go, tx.go and log.go;
// ../README.md says in which order one writes such a thing.
package logstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Store = (*Store)(nil)

// Store keeps rows in memory and in a log file. It is safe for concurrent use.
//
// What it promises hangs on two fields. state is what readers see, and never
// changes: an update makes a new one. turn is a token, and who holds it may update.
type Store struct {
	state atomic.Pointer[state]
	turn  chan *log // holds the log; who has taken it may update

	mu     sync.Mutex     // protects calls.Add against Close
	closed chan struct{}  // is closed by Close
	calls  sync.WaitGroup // methods that run
	end    func() error   // closes the log, once
}

// Open reads the log at path, which it creates when there is none. Only one store
// at a time may work on a log. Errors: [tidemark.ErrDamaged] and
// [tidemark.ErrNewerFile], and the file is left as it was.
func Open(path string) (*Store, error) {
	l, st, err := openLog(path)
	if err != nil {
		return nil, err
	}
	s := &Store{turn: make(chan *log, 1), closed: make(chan struct{}), end: sync.OnceValue(l.file.Close)}
	s.state.Store(st)
	s.turn <- l
	return s, nil
}

// Declare makes the model known. There is no index to prepare: Find looks at every row.
func (s *Store) Declare(ctx context.Context, schema *tidemark.Schema) error {
	return s.update(ctx, func(t *tx) error {
		if _, known := t.state.models[schema.Name()]; !known {
			t.do(change{Declare: schema.Name()})
		}
		return nil
	})
}

// Find asks the predicate about every visible row: what a where means is never
// decided anywhere else, so a store without indexes cannot be wrong about it.
func (s *Store) Find(ctx context.Context, p *tidemark.Predicate) (found []tidemark.Row, err error) {
	err = s.view(ctx, func(t *tx) error {
		rows, err := t.rows(p.Schema().Name())
		for _, uid := range sortedKeys(rows) {
			if r := rows[uid].Row; p.Match(r) {
				found = append(found, slices.Clone(r))
			}
		}
		return err
	})
	return found, err
}

// Get returns the visible row, nil when there is none.
func (s *Store) Get(ctx context.Context, model, uid string) (row tidemark.Row, err error) {
	err = s.view(ctx, func(t *tx) error {
		rows, err := t.rows(model)
		row = slices.Clone(rows[uid].Row)
		return err
	})
	return row, err
}

// View runs fn on the state as it is now; updates go on meanwhile.
func (s *Store) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.view(ctx, func(t *tx) error { return fn(t) })
}

// Update runs fn on a copy of the state. When fn returns nil the changes go to
// the log, and when they are on the disk the copy becomes the state.
func (s *Store) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.update(ctx, func(t *tx) error { return fn(t) })
}

func (s *Store) view(ctx context.Context, fn func(*tx) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	t := &tx{state: *s.state.Load()}
	defer t.end()
	return fn(t)
}

func (s *Store) update(ctx context.Context, fn func(*tx) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	var l *log
	select { // a mutex could not be left when ctx ends
	case l = <-s.turn:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return tidemark.ErrClosed
	}
	defer func() { s.turn <- l }() // also when fn panics: then nothing has happened
	t := &tx{state: s.state.Load().own(), writable: true}
	defer t.end()
	if err := fn(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(t.changes) == 0 {
		return nil
	}
	if err := l.append(t.changes); err != nil {
		return tidemark.Wrap(err, tidemark.CodeUnavailable, "the log cannot be written")
	}
	s.state.Store(&t.state)
	return nil
}

// enter counts a call in, so that Close can wait for it.
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
	}
	s.calls.Add(1)
	return nil
}

// Close waits for running calls and closes the log. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	s.mu.Unlock()
	s.calls.Wait()
	return s.end()
}
