package sqlite

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tidemark-sync/tidemark"
)

// The indexes of a new table are not made before it has rows, since a first sync
// would write them over and over: each page of rows changes nearly every page of
// an index whose order is another one. (100,000 rows with one index, stored by
// thousands: 1.1 s; without it 0.35 s, and the index 0.1 s.) They are made when
// the flood is over, or as soon as something is searched by them.

// flood is how many records an Update stores at least that belongs to a first sync, most likely.
const flood = 256

// late is what becomes of a model's indexes.
type late struct {
	made   atomic.Bool
	rows   atomic.Bool // this store has put rows there, so it is this store's task
	wanted atomic.Bool // something was searched without them
}

// after returns l, of a model that was read once more.
func (l *late) after(read *late) *late {
	if read.made.Load() {
		l.made.Store(true)
	}
	return l
}

// due reports whether an Update that stored so many records should make the indexes at its end.
func (l *late) due(stored int) bool {
	return !l.made.Load() && (l.wanted.Load() || l.rows.Load() && stored < flood)
}

// makeIndexes makes the indexes of those models that are due.
func (t *tx) makeIndexes() error {
	for _, m := range t.models.late {
		if !m.late.due(t.stored) {
			continue
		}
		done, err := m.makeIndexes(t.quiet, t.c)
		if err != nil {
			return t.seal(err)
		}
		if done {
			t.made = append(t.made, m)
		}
	}
	return nil
}

// makeIndexes makes the indexes unless there are no rows yet.
func (m *model) makeIndexes(ctx context.Context, c *session) (bool, error) {
	rows, err := m.hasRows(ctx, c)
	if err != nil || !rows {
		return false, err
	}
	var texts []string
	for _, col := range m.columns {
		texts = append(texts, "CREATE INDEX IF NOT EXISTS "+m.table+"_"+col.name+" ON "+m.table+" ("+col.name+", uid)")
	}
	return true, execAll(ctx, c, texts...)
}

func (m *model) hasRows(ctx context.Context, c *session) (bool, error) {
	n, err := c.number(ctx, "SELECT EXISTS (SELECT 1 FROM "+m.table+")")
	return n != 0, err
}

// search makes the indexes that a search with p would use, if nobody is writing;
// otherwise the next Update does, and this search looks at every row.
func (s *Store) search(ctx context.Context, c *session, m *model, p *tidemark.Predicate) error {
	if m.late.made.Load() || !m.usesIndex(p) {
		return nil
	}
	if rows, err := m.hasRows(ctx, c); err != nil || !rows {
		return err
	}
	m.late.wanted.Store(true)
	if s.shared {
		return nil
	}
	w := s.writer.tryTake()
	if w == nil {
		return nil
	}
	defer s.writer.put(w)
	quiet := context.WithoutCancel(ctx)
	if w.begin(quiet) != nil { // another process writes
		return nil
	}
	return w.finish(quiet, func() error {
		done, err := m.makeIndexes(quiet, w)
		if done && err == nil {
			m.late.made.Store(true)
		}
		return err
	})
}

// usesIndex reports whether a search with p would use an index of the model's.
func (m *model) usesIndex(p *tidemark.Predicate) bool {
	text := m.condition(p).text
	return slices.ContainsFunc(m.columns, func(c column) bool { return strings.Contains(text, c.name) })
}
