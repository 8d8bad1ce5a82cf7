package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"unsafe"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.StoreTx = (*tx)(nil)

// tx is a transaction on a session.
type tx struct {
	ctx      context.Context // interrupts what may take long
	quiet    context.Context // without an end, for what takes microseconds
	c        *session
	models   *catalog
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

// seal remembers an error of the database: SQLite may have rolled back, and what
// was written after that would stand alone.
func (t *tx) seal(err error) error {
	if err != nil && t.failed == nil {
		t.failed = err
	}
	return err
}

func (t *tx) model(name string, write bool) (*model, error) {
	if err := t.check(write); err != nil {
		return nil, err
	}
	return t.models.model(name)
}

func (t *tx) exec(text string, args ...any) (sql.Result, error) {
	res, err := t.c.exec(t.quiet, text, args...)
	return res, t.seal(err)
}

func (t *tx) query(scan func(*sql.Rows) error, text string, args ...any) error {
	return t.seal(t.c.query(t.quiet, scan, text, args...))
}

func (t *tx) Records(model string, uids []string) ([]tidemark.Record, error) {
	m, err := t.model(model, false)
	if err != nil {
		return nil, err
	}
	recs := make([]tidemark.Record, len(uids))
	for i, uid := range uids {
		recs[i].UID = uid
	}
	scan := func(r *sql.Rows) error {
		i, rec, err := scanRecord(r)
		if err == nil && rec.UID == uids[i] { // not where a uid that is no text was made one
			recs[i] = rec
		}
		return err
	}
	switch len(uids) {
	case 0:
	case 1:
		err = t.query(scan, m.one, uids[0])
	default:
		err = t.query(scan, m.many, listOf(uids))
	}
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

// metaColumns are the columns of a record's metadata; created is NULL when there is none.
type metaColumns struct {
	uid                       string
	created, updated, deleted sql.NullInt64
}

// meta returns the metadata; where there is none, nothing but the uid when named.
func (c *metaColumns) meta(named bool) tidemark.Meta {
	if !c.created.Valid && !named {
		return tidemark.Meta{}
	}
	return tidemark.Meta{UID: c.uid, CreatedAt: tidemark.Stamp(c.created.Int64),
		UpdatedAt: tidemark.Stamp(c.updated.Int64), DeletedAt: tidemark.Stamp(c.deleted.Int64)}
}

// scanRecord reads a record and its place in the list that was asked for.
func scanRecord(r *sql.Rows) (place int, rec tidemark.Record, err error) {
	var meta metaColumns
	var base []byte
	err = r.Scan(&place, &meta.uid, (*[]byte)(&rec.Row), &base, &meta.created, &meta.updated, &meta.deleted, &rec.Pending, &rec.Seen)
	rec.UID, rec.Meta = meta.uid, meta.meta(false)
	switch {
	case base == nil:
		rec.Base = bytes.Clone(rec.Row)
	case len(base) > 0:
		rec.Base = base
	}
	return place, rec, err
}

func (t *tx) Put(model string, recs []tidemark.Record) error {
	m, err := t.model(model, true)
	if err != nil {
		return err
	}
	for i := range recs {
		if err := recs[i].Check(); err != nil {
			return err
		}
	}
	return t.seal(m.store(t.quiet, t.c, recs))
}

// store writes records that were checked, many with one statement where none is to be removed.
func (m *model) store(ctx context.Context, c *session, recs []tidemark.Record) error {
	var args []any
	for len(recs) > 0 {
		n := chunk(recs)
		if n == 1 {
			if err := m.storeOne(ctx, c, &recs[0]); err != nil {
				return err
			}
			recs = recs[1:]
			continue
		}
		args = args[:0]
		for i := range recs[:n] {
			args = m.args(args, &recs[i])
		}
		if _, err := c.exec(ctx, m.putMany, args...); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

func (m *model) storeOne(ctx context.Context, c *session, r *tidemark.Record) error {
	if r.IsZero() {
		_, err := c.exec(ctx, m.remove, r.UID)
		return err
	}
	args := m.args(nil, r)
	isNew := r.Meta.IsZero() && r.Pending <= 1 // most likely; only speed depends on it
	if m.change != "" && !isNew {
		res, err := c.exec(ctx, m.change, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err == nil && n == 1 {
			return nil
		}
	}
	_, err := c.exec(ctx, m.put, args...)
	return err
}

// chunk returns how many of the first records go with the next statement: putChunk or one.
func chunk(recs []tidemark.Record) int {
	if len(recs) < putChunk {
		return 1
	}
	for i := range recs[:putChunk] {
		if recs[i].IsZero() {
			return 1
		}
	}
	return putChunk
}

func (m *model) args(args []any, r *tidemark.Record) []any {
	args = append(args, r.UID, textOf(r.Row), nil)
	if !bytes.Equal(r.Row, r.Base) {
		args[len(args)-1] = string(r.Base)
	}
	if r.Meta.IsZero() {
		args = append(args, nil, nil, nil)
	} else {
		args = append(args, int64(r.Meta.CreatedAt), int64(r.Meta.UpdatedAt), int64(r.Meta.DeletedAt))
	}
	return m.values(append(args, int64(r.Pending), r.Seen), r.Row)
}

func textOf(r tidemark.Row) any {
	if len(r) == 0 {
		return nil
	}
	return unsafe.String(&r[0], len(r)) // a row is not modified once made, and a first sync has many
}

func (t *tx) Held(p *tidemark.Predicate) ([]tidemark.Meta, error) {
	m, err := t.model(p.Schema().Name(), false)
	if err != nil {
		return nil, err
	}
	var metas []tidemark.Meta
	err = m.held(t.ctx, t.c, p, func(meta tidemark.Meta, _ int64) { metas = append(metas, meta) })
	if !slices.IsSortedFunc(metas, byUID) { // those that differ came last
		slices.SortFunc(metas, byUID)
	}
	return metas, t.seal(err)
}

func byUID(a, b tidemark.Meta) int { return strings.Compare(a.UID, b.UID) }

func (t *tx) Unseen(p *tidemark.Predicate, pass int64) ([]string, error) {
	m, err := t.model(p.Schema().Name(), false)
	if err != nil {
		return nil, err
	}
	var uids []string
	err = m.held(t.ctx, t.c, p, func(meta tidemark.Meta, seen int64) {
		if seen < pass {
			uids = append(uids, meta.UID)
		}
	})
	slices.Sort(uids)
	return uids, t.seal(err)
}

func (t *tx) Prune(model string, before tidemark.Stamp) error {
	m, err := t.model(model, true)
	if err != nil {
		return err
	}
	_, err = t.exec(m.prune, int64(before))
	return err
}

func (t *tx) Load(key string) (value []byte, err error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	err = t.query(func(r *sql.Rows) error {
		err := r.Scan(&value)
		return errors.Join(err, present(&value))
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
	err := t.query(func(r *sql.Rows) error {
		var e tidemark.Entry
		err := r.Scan(&e.Key, &e.Value)
		_ = present(&e.Value)
		found = append(found, e)
		return err
	}, "SELECT key, value FROM tidemark_entries WHERE key >= ? AND key < ? ORDER BY key",
		prefix, prefix+"\xff") // no text has the byte ff
	return found, err
}
