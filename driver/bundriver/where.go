package bundriver

import (
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// clause is a condition under construction, with the values that it binds.
type clause struct {
	d    dialect
	args []any
}

// bind adds a value and returns its placeholder.
func (cl *clause) bind(v any) string {
	cl.args = append(cl.args, v)
	return cl.d.placeholder(len(cl.args))
}

// where turns p into a condition on table t, which holds for a row exactly where p.Match does.
// Other conditions may follow it after AND.
func (cl *clause) where(m *model, p *tidemark.Predicate) string {
	all := cl.terms(m, p.Terms())
	if len(p.Any()) == 0 {
		return all
	}
	alternatives := make([]string, len(p.Any()))
	for i, terms := range p.Any() {
		alternatives[i] = cl.terms(m, terms)
	}
	return all + " AND (" + strings.Join(alternatives, " OR ") + ")"
}

func (cl *clause) terms(m *model, terms []tidemark.Term) string {
	parts := make([]string, 0, len(terms))
	for i := range terms {
		c := m.byName[terms[i].Field.Name]
		if c == nil || c.kind != terms[i].Field.Kind { // a predicate made for another schema of that name
			return "1=0"
		}
		parts = append(parts, cl.term(c, &terms[i]))
	}
	if len(parts) == 0 {
		return "1=1"
	}
	return strings.Join(parts, " AND ")
}

func (cl *clause) term(c *column, t *tidemark.Term) string {
	switch t.Op {
	case tidemark.IsNull:
		return cl.d.isNull(c)
	case tidemark.Equal:
		return cl.d.compare(cl, c, "=", t.Value)
	case tidemark.Between:
		low, high := cl.d.limits(c)
		if t.Low != nil {
			low = t.Low
		}
		if t.High != nil {
			high = t.High
		}
		return cl.between(c, low, high)
	case tidemark.OneOf:
		if t.Values[0].IsNull() {
			return "(" + cl.d.isNull(c) + " OR " + cl.d.oneOf(cl, c, t.Values[1:]) + ")"
		}
		return cl.d.oneOf(cl, c, t.Values)
	}
	return "1=0" // Never
}

func (cl *clause) between(c *column, low, high *tidemark.Bound) string {
	var parts []string
	for _, end := range []struct {
		bound    *tidemark.Bound
		operator string
	}{{low, ">"}, {high, "<"}} {
		if end.bound == nil {
			continue
		}
		operator := end.operator
		if end.bound.Inclusive {
			operator += "="
		}
		parts = append(parts, cl.d.compare(cl, c, operator, end.bound.Value))
	}
	return strings.Join(parts, " AND ")
}

// limit is an inclusive bound; a text that is no value of its kind is a programmer's error.
func limit(k tidemark.Kind, raw string) *tidemark.Bound {
	v, err := tidemark.ValueOf(k, []byte(raw))
	if err != nil {
		panic(err)
	}
	return &tidemark.Bound{Value: v, Inclusive: true}
}

var (
	lowestDouble, highestDouble   = limit(tidemark.Double, "-1.7976931348623157e308"), limit(tidemark.Double, "1.7976931348623157e308")
	lowestInstant, highestInstant = limit(tidemark.Timestamp, `"0000-01-01T00:00:00Z"`), limit(tidemark.Timestamp, `"9999-12-31T23:59:59.999999Z"`)
	lowestDate, highestDate       = limit(tidemark.Date, `"0000-01-01"`), limit(tidemark.Date, `"9999-12-31"`)
)
