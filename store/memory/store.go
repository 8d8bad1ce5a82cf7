// Package memory is a store that lives in the process's memory: for tests, for
// simulations, and for clients that may forget everything when they end.
package memory

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Store = (*Store)(nil)

// Store is a [tidemark.Store] in memory. It is safe for concurrent use. Readers
// work on a state that does not change and never wait; updates wait for one
// another, on a channel, so that a store works in a testing/synctest bubble
// (make it there).
//
// The function given to Update may read through the store, which shows it the
// state before; calling Update or Close there waits for itself.
type Store struct {
	turn   chan struct{} // holds one token: who has it may update
	closed chan struct{} // is closed by Close
	calls  sync.WaitGroup

	mu    sync.Mutex // protects what follows and the closing of closed; never held while anything runs
	state *state
	dead  bool // by Reopen: what runs still must not commit
}

// state is everything that a store keeps. It is not changed once it is the store's.
type state struct {
	models  *tree[string, *tree[string, tidemark.Record]]
	outbox  *tree[int64, tidemark.Mutation]
	queued  int
	pending *tree[row, int64] // the numbers in outbox by their rows, see numbered
	last    int64             // the highest number ever given
	entries *tree[string, []byte]
}

// row names a row of a model: the model's name, a NUL, and the uid. Neither has
// a NUL in it.
type row string

func rowOf(model, uid string) row { return row(model + "\x00" + uid) }

// numbered names a mutation of a row: those of one row follow one another, by number.
func (r row) numbered(n int64) row {
	return row(binary.BigEndian.AppendUint64(append([]byte(r), 0), uint64(n)))
}

// New returns an empty store.
func New() *Store { return open(&state{}) }

func open(st *state) *Store {
	s := &Store{turn: make(chan struct{}, 1), closed: make(chan struct{}), state: st}
	s.turn <- struct{}{}
	return s
}

// Reopen is a crash of the process that had the store, and its next start: s is
// closed at once, without waiting (updates that are running will fail with
// ErrClosed), and the store that is returned has what was durable.
func (s *Store) Reopen() *Store { return open(s.shut(true)) }

// Declare makes room for the model's rows. It keeps no index.
func (s *Store) Declare(ctx context.Context, schema *tidemark.Schema) error {
	return s.update(ctx, func(tx *tx) error {
		if _, known := tx.state.models.get(schema.Name()); !known {
			tx.state.models = tx.state.models.set(schema.Name(), nil)
		}
		return nil
	})
}

// Find looks at every row of the model.
func (s *Store) Find(ctx context.Context, p *tidemark.Predicate) ([]tidemark.Row, error) {
	var found []tidemark.Row
	err := s.view(ctx, func(tx *tx) error {
		rows, err := tx.rows(p.Schema().Name())
		for _, r := range rows.all() {
			if p.Match(r.Row) {
				found = append(found, slices.Clone(r.Row))
			}
		}
		return err
	})
	return found, err
}

// Get returns the visible row, nil when there is none.
func (s *Store) Get(ctx context.Context, model, uid string) (tidemark.Row, error) {
	var row tidemark.Row
	err := s.view(ctx, func(tx *tx) error {
		rows, err := tx.rows(model)
		r, _ := rows.get(uid)
		row = slices.Clone(r.Row)
		return err
	})
	return row, err
}

// View runs fn on the state as it is now. Later updates do not wait for it and it does not see them.
func (s *Store) View(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.view(ctx, func(tx *tx) error { return fn(tx) })
}

// Update runs fn on a copy of the state, which it makes the store's when fn returns nil and ctx has not ended.
func (s *Store) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return s.update(ctx, func(tx *tx) error { return fn(tx) })
}

// Close waits for running calls. It is idempotent.
func (s *Store) Close() error {
	s.shut(false)
	s.calls.Wait()
	return nil
}

// shut lets no further call in and returns the last state.
func (s *Store) shut(dead bool) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = s.dead || dead
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return s.state
}

func (s *Store) view(ctx context.Context, fn func(*tx) error) error {
	st, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer s.calls.Done()
	tx := &tx{state: *st}
	defer tx.end()
	return fn(tx)
}

func (s *Store) update(ctx context.Context, fn func(*tx) error) error {
	if _, err := s.enter(ctx); err != nil {
		return err
	}
	defer s.calls.Done()
	select {
	case <-s.turn:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return tidemark.ErrClosed
	}
	defer func() { s.turn <- struct{}{} }()
	tx := &tx{state: *s.current(), writable: true}
	defer tx.end()
	if err := fn(tx); err != nil {
		return err
	}
	return s.commit(ctx, tx.state)
}

// enter counts a call in, and returns the state as of now.
func (s *Store) enter(ctx context.Context) (*state, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil, tidemark.ErrClosed
	default:
	}
	s.calls.Add(1)
	return s.state, nil
}

func (s *Store) current() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Store) commit(ctx context.Context, st state) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return tidemark.ErrClosed
	}
	s.state = &st
	return nil
}
