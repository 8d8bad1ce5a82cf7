package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.StoreTx = (*tx)(nil)

// tx is a transaction on a session.
type tx struct {
	ctx      context.Context // interrupts what may take long
	quiet    context.Context // without an end, for what takes microseconds
	s        *Store
	c        *session
	models   *catalog
	moves    map[rowName]*moves
	stored   int      // records that were put
	bytes    int      // of what was put and enqueued
	made     []*model // whose indexes were made at its end
	writable bool
	over     bool
	failed   error // what the database said first; the transaction cannot be saved then
}

// check reports whether the transaction may go on, to write or to read.
func (t *tx) check(write bool) error {
	switch {
	case t.over:
		return tidemark.ErrClosed
	case t.failed != nil:
		return t.failed
	case write && !t.writable:
		return errReadOnly
	}
	return t.ctx.Err()
}

// ready is check for what looks at rows by the numbers that wait for them.
func (t *tx) ready(write bool) error {
	if err := t.check(write); err != nil {
		return err
	}
	return t.settle()
}

// seal remembers an error of the database: SQLite may have rolled back, and what
// was written after that would stand alone.
func (t *tx) seal(err error) error {
	if err != nil && t.failed == nil {
		t.failed = err
	}
	return err
}

// on calls fn with a model that is declared; once more when another store has
// changed the model's table since this one last looked, which the first statement
// of a transaction on that table meets.
func (t *tx) on(name string, fn func(*model) error) error {
	try := func() error {
		m, err := t.models.model(name)
		if err != nil {
			return err
		}
		return fn(m)
	}
	err := try()
	if isStale(err) || errors.Is(err, errUndeclared) {
		var models *catalog
		if models, err = t.s.refresh(t.quiet, t.c); err == nil {
			t.models = models
			err = try()
		}
	}
	if errors.Is(err, errUndeclared) {
		return err
	}
	return t.seal(err)
}

func (t *tx) exec(text string, args ...any) (driver.Result, error) {
	res, err := t.c.exec(t.quiet, text, args...)
	return res, t.seal(err)
}

func (t *tx) query(scan func(*result) error, text string, args ...any) error {
	return t.seal(t.c.query(t.quiet, scan, text, args...))
}

func (t *tx) Records(name string, uids []string) ([]tidemark.Record, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	recs := make([]tidemark.Record, len(uids))
	for i, uid := range uids {
		recs[i].UID = uid
	}
	scan := func(r *result) error {
		i, rec, err := scanRecord(r, readBase)
		if err == nil && rec.UID == uids[i] { // not where a uid that is no text was made one
			recs[i] = rec
		}
		return err
	}
	err := t.on(name, func(m *model) error {
		switch len(uids) {
		case 0:
			return nil
		case 1:
			return t.c.query(t.quiet, scan, m.one, uids[0])
		}
		return t.c.query(t.quiet, scan, m.many, listOf(uids))
	})
	return recs, err
}

// listOf returns the texts as a JSON array, for json_each.
func listOf(texts []string) string {
	b := make([]byte, 0, 40*len(texts)+2)
	for i, s := range texts {
		b = append(b, "[,"[min(i, 1)])
		b = tidemark.AppendString(b, s)
	}
	if len(texts) == 0 {
		b = append(b, '[')
	}
	return string(append(b, ']'))
}

// scanRecord reads a record and its place in the list that was asked for.
func scanRecord(r *result, readBase func(tidemark.Row, []byte) (tidemark.Row, error)) (place int, rec tidemark.Record, err error) {
	rec = tidemark.Record{UID: r.text(1), Row: r.row(2), Pending: int(r.number(7)), Seen: r.number(8)}
	rec.Meta = r.meta(4, rec.UID, false)
	rec.Base, err = readBase(rec.Row, r.peek(3))
	return int(r.number(0)), rec, err
}

func (t *tx) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	var metas []tidemark.Meta
	err := t.held(p, func(meta tidemark.Meta, _ int64) { metas = append(metas, meta) })
	if !slices.IsSortedFunc(metas, byUID) { // those that differ came last
		slices.SortFunc(metas, byUID)
	}
	return metas, err
}

func byUID(a, b tidemark.Meta) int { return strings.Compare(a.UID, b.UID) }

func (t *tx) Unseen(p *tidemark.Predicate, pass int64) ([]string, error) {
	var uids []string
	err := t.held(p, func(meta tidemark.Meta, seen int64) {
		if seen < pass {
			uids = append(uids, meta.UID)
		}
	})
	slices.Sort(uids)
	return uids, err
}

func (t *tx) held(p *tidemark.Predicate, each func(meta tidemark.Meta, seen int64)) error {
	if err := t.ready(false); err != nil {
		return err
	}
	return t.on(p.Schema().Name(), func(m *model) error {
		if !m.late.made.Load() && m.late.rows.Load() && m.usesIndex(p) {
			m.late.wanted.Store(true)
		}
		return m.held(t.ctx, t.c, p, each)
	})
}

func (t *tx) Prune(name string, before tidemark.Stamp) error {
	if err := t.ready(true); err != nil {
		return err
	}
	return t.on(name, func(m *model) error {
		_, err := t.c.exec(t.quiet, m.prune, int64(before))
		return err
	})
}

func (t *tx) Load(key string) (value []byte, err error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	err = t.query(func(r *result) error {
		value = r.bytes(0)
		return present(&value)
	}, "SELECT value FROM tidemark_entries WHERE key = ?", key)
	return value, err
}

// present makes the empty value of an entry that exists not nil, which some drivers return.
func present(value *[]byte) error {
	if *value == nil {
		*value = []byte{}
	}
	return nil
}

func (t *tx) Save(key string, value []byte) error {
	err := t.check(true)
	if err == nil {
		err = tidemark.CheckKey(key)
	}
	switch {
	case err != nil:
	case value == nil:
		_, err = t.exec("DELETE FROM tidemark_entries WHERE key = ?", key)
	default:
		_, err = t.exec("INSERT INTO tidemark_entries (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	}
	return err
}

func (t *tx) Entries(prefix string) ([]tidemark.Entry, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	var found []tidemark.Entry
	err := t.query(func(r *result) error {
		e := tidemark.Entry{Key: r.text(0), Value: r.bytes(1)}
		found = append(found, e)
		return present(&e.Value)
	}, "SELECT key, value FROM tidemark_entries WHERE key >= ? AND key < ? ORDER BY key",
		prefix, prefix+"\xff") // no text has the byte ff
	return found, err
}
