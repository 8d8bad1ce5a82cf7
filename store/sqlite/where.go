package sqlite

import (
	"context"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// condition is what an SQL WHERE can say of a predicate.
type condition struct {
	text   string // " AND ..." for each term, and for the alternatives
	args   []any
	exact  bool // the SQL says all of it; otherwise Match has the last word
	sorted bool // SQLite finds the rows in the order of their uids by itself
}

// condition turns the terms that are on uid or on indexed fields into SQL. Without the
// others a conjunction holds for more rows, and so do alternatives.
func (m *model) condition(p *tidemark.Predicate) condition {
	w := condition{exact: true, sorted: true}
	ranges, equals := len(p.Any()) > 0, false
	for i := range p.Terms() {
		t := &p.Terms()[i]
		if text := w.term(m, t); text != "" {
			w.text += " AND " + text
		}
		if _, indexed := m.column(t.Field.Name); indexed {
			ranges = ranges || t.Op == tidemark.Between || t.Op == tidemark.OneOf
			equals = equals || t.Op == tidemark.Equal || t.Op == tidemark.IsNull
		}
	}
	w.any(m, p.Any())
	w.sorted = equals || !ranges
	return w
}

// any adds the alternatives, unless one of them has no term on which there is an index.
func (w *condition) any(m *model, alternatives [][]tidemark.Term) {
	texts, bound := make([]string, len(alternatives)), len(w.args)
	for i, terms := range alternatives {
		var parts []string
		for k := range terms {
			if text := w.term(m, &terms[k]); text != "" {
				parts = append(parts, text)
			}
		}
		if len(parts) == 0 {
			w.args = w.args[:bound]
			return
		}
		texts[i] = strings.Join(parts, " AND ")
	}
	if len(texts) > 0 {
		w.text += " AND (" + strings.Join(texts, " OR ") + ")"
	}
}

// term returns t as SQL, "" when it is on a field without an index.
func (w *condition) term(m *model, t *tidemark.Term) string {
	name := "uid"
	if t.Field.Name != name {
		c, indexed := m.column(t.Field.Name)
		if !indexed || c.kind != t.Field.Kind {
			w.exact = false
			return ""
		}
		name = c.name
	}
	switch t.Op {
	case tidemark.IsNull:
		return name + " IS NULL"
	case tidemark.Equal:
		return w.compare(name+" = ", t.Value)
	case tidemark.OneOf:
		return w.oneOf(name, t.Values)
	case tidemark.Between:
		var ends []string
		if b := t.Low; b != nil {
			ends = append(ends, w.compare(name+operator(" >", b.Inclusive), b.Value))
		}
		if b := t.High; b != nil {
			ends = append(ends, w.compare(name+operator(" <", b.Inclusive), b.Value))
		}
		return strings.Join(ends, " AND ")
	}
	return "0" // Never
}

// oneOf binds as many values as a power of two, the last one again: each form is another statement to prepare and to keep.
func (w *condition) oneOf(name string, values []tidemark.Value) string {
	if values[0].IsNull() {
		return "(" + name + " IS NULL OR " + w.oneOf(name, values[1:]) + ")"
	}
	n := 1
	for n < len(values) {
		n *= 2
	}
	n = min(n, tidemark.MaxValues) // so that 32 lists are within what a statement can bind
	for i := range n {
		w.args = append(w.args, native(values[min(i, len(values)-1)]))
	}
	return name + " IN (?" + strings.Repeat(", ?", n-1) + ")"
}

func operator(op string, inclusive bool) string {
	if inclusive {
		op += "="
	}
	return op + " "
}

func (w *condition) compare(text string, v tidemark.Value) string {
	w.args = append(w.args, native(v))
	return text + "?"
}

// order returns the ORDER BY for the condition. Where ranges, lists or alternatives are all that
// narrow the search, the + keeps SQLite from walking the whole table in the
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
	err := c.query(ctx, func(r *result) error {
		if row := r.row(0); w.exact || p.Match(row) {
			found = append(found, row)
		}
		return nil
	}, m.findText(&w), w.args...)
	return found, err
}

// held calls each for the rows whose Base p selects, in two parts: where Base is
// what is visible, the indexes serve; the few others are looked at one by one.
func (m *model) held(ctx context.Context, c *session, p *tidemark.Predicate, each func(meta tidemark.Meta, seen int64)) error {
	w := m.condition(p)
	scan := func(exact bool) func(*result) error {
		return func(r *result) error {
			meta, seen := r.meta(1, r.text(0), true), r.number(4)
			if !exact {
				told, err := readBase(r.peek(5), r.peek(6))
				if err != nil || !p.Match(told) {
					return err
				}
			}
			each(meta, seen)
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
