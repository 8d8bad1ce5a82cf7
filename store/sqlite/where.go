package sqlite

import (
	"bytes"
	"context"
	"database/sql"

	"github.com/tidemark-sync/tidemark"
)

// condition is what an SQL WHERE can say of a predicate.
type condition struct {
	text   string // " AND ..." for each term
	args   []any
	exact  bool // the SQL says all of it; otherwise Match has the last word
	sorted bool // SQLite finds the rows in the order of their uids by itself
}

// condition turns the terms that are on uid or on indexed fields into SQL.
func (m *model) condition(p *tidemark.Predicate) condition {
	w := condition{exact: true, sorted: true}
	ranges, equals := false, false
	for _, t := range p.Terms() {
		name := "uid"
		if t.Field.Name != "uid" {
			c, indexed := m.column(t.Field.Name)
			if !indexed || c.kind != t.Field.Kind {
				w.exact = false
				continue
			}
			name = c.name
			ranges = ranges || t.Op == tidemark.Between
			equals = equals || t.Op != tidemark.Between
		}
		w.term(name, t)
	}
	w.sorted = equals || !ranges
	return w
}

func (w *condition) term(name string, t tidemark.Term) {
	switch t.Op {
	case tidemark.IsNull:
		w.text += " AND " + name + " IS NULL"
	case tidemark.Equal:
		w.compare(name+" = ", t.Value)
	case tidemark.Between:
		if b := t.Low; b != nil {
			w.compare(name+operator(" >", b.Inclusive), b.Value)
		}
		if b := t.High; b != nil {
			w.compare(name+operator(" <", b.Inclusive), b.Value)
		}
	default:
		w.text += " AND 0"
	}
}

func operator(op string, inclusive bool) string {
	if inclusive {
		op += "="
	}
	return op + " "
}

func (w *condition) compare(text string, v tidemark.Value) {
	w.text += " AND " + text + "?"
	w.args = append(w.args, native(v))
}

// order returns the ORDER BY for the condition. Where a range is all that
// narrows the search, the + keeps SQLite from walking the whole table in the
// order of uids rather than sorting the few rows of the range.
func (w *condition) order() string {
	if w.sorted {
		return " ORDER BY uid"
	}
	return " ORDER BY +uid"
}

func (m *model) findText(w *condition) string {
	return "SELECT row FROM " + m.table + " WHERE row IS NOT NULL" + w.text + w.order()
}

func (m *model) find(ctx context.Context, c *session, p *tidemark.Predicate) ([]tidemark.Row, error) {
	w := m.condition(p)
	var found []tidemark.Row
	var raw sql.RawBytes
	err := c.query(ctx, func(r *sql.Rows) error {
		if err := r.Scan(&raw); err != nil {
			return err
		}
		if w.exact || p.Match(tidemark.Row(raw)) {
			found = append(found, bytes.Clone(raw))
		}
		return nil
	}, m.findText(&w), w.args...)
	return found, err
}

// held calls each for the rows whose Base p selects, in two parts: where Base is
// what is visible, the indexes serve; the few others are looked at one by one.
func (m *model) held(ctx context.Context, c *session, p *tidemark.Predicate, each func(meta tidemark.Meta, seen int64)) error {
	w := m.condition(p)
	var seen int64
	scan := func(exact bool) func(*sql.Rows) error {
		return func(r *sql.Rows) error {
			var meta metaColumns
			var row, base sql.RawBytes
			if err := r.Scan(&meta.uid, &meta.created, &meta.updated, &meta.deleted, &seen, &row, &base); err != nil {
				return err
			}
			if exact {
				each(meta.meta(true), seen)
				return nil
			}
			told := tidemark.Row(row)
			if base != nil {
				var err error
				if told, err = readBase(told, base); err != nil {
					return err
				}
			}
			if p.Match(told) {
				each(meta.meta(true), seen)
			}
			return nil
		}
	}
	same := m.heldSame
	if w.exact {
		same = m.heldExact
	}
	if err := c.query(ctx, scan(w.exact), same+w.text+w.order(), w.args...); err != nil {
		return err
	}
	return c.query(ctx, scan(false), m.heldOwn, m.name)
}
