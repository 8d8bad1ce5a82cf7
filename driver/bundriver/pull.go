package bundriver

import (
	"context"
	"slices"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// Pull reads a page in one transaction that sees the database as of one moment. A page of all rows
// takes two or three statements and goes along the index of uids; one of what has
// changed takes two, and two more when rows no longer match. It takes part in no transaction that ctx
// carries.
func (d *Driver) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	m, err := d.model(ctx, q.Scope)
	if err != nil {
		return nil, err
	}
	var p *pager
	err = d.seeing(ctx, func(t *tx) error {
		p = &pager{m: m, q: q, page: &tidemark.Page{}}
		if q.From.IsZero() {
			return p.all(ctx, t)
		}
		return p.changed(ctx, t)
	})
	if err != nil {
		return nil, err
	}
	p.page.Horizon = p.reach.horizon
	return p.page, nil
}

// pager fills a page.
type pager struct {
	m     *model
	q     tidemark.Pull
	page  *tidemark.Page
	reach reach

	rows  int // looked at
	bytes int
}

// take notes the next row, and reports whether there is room for it.
func (p *pager) take(uid string, size int) bool {
	if p.page.More || p.rows > 0 && (p.rows >= p.q.Limit || p.bytes+size > p.q.Bytes) {
		p.page.More = true
		return false
	}
	p.rows++
	p.bytes += size
	p.page.Last = uid
	return true
}

// limit is for one row more than the page may have: it tells whether there is another page.
func (p *pager) limit() string { return " LIMIT " + strconv.Itoa(max(p.q.Limit, 1)+1) }

// metaOf joins the metadata of uid, which is not that of another model. beyond, which may be "",
// is a condition on both tables' uids that holds for all that are sought.
func (d *Driver) metaOf(cl *clause, m *model, uid, beyond string) string {
	own, meta := "", ""
	if beyond != "" {
		own, meta = " AND o.uid"+beyond, " AND m.uid"+beyond
	}
	return " LEFT JOIN " + d.dialect.table("uids") + " o ON o.uid = " + uid + own + " LEFT JOIN " + d.metadata + " m ON m.uid = " + uid + meta + " AND (o.model IS NULL OR o.model = " + cl.bind(m.name) + ")"
}

func (d *Driver) metaColumns() string {
	di := d.dialect
	return "m.uid, " + di.readMeta("created_at") + ", " + di.readMeta("updated_at") + ", " + di.readMeta("deleted_at")
}

// all reads a page of all rows that the scope selects. Where that is the whole table, the page's metadata
// lies together as its rows do, and the three indexes are read side by side from the uid on.
func (p *pager) all(ctx context.Context, t *tx) error {
	cl := &clause{d: t.d.dialect}
	after := cl.bind(p.q.After)
	found := "SELECT * FROM " + p.m.from + ` t WHERE t."uid" > ` + after + " AND " + cl.where(p.m, p.q.Scope) + ` ORDER BY t."uid"` + p.limit()
	requests := append(p.count(t), t.byIndex(t.reach(tidemark.Cursor{}, &p.reach))...)
	beyond := ""
	if s := t.d.dialect.sideBySide(); s != "" && p.m.sorted && len(p.q.Scope.Terms())+len(p.q.Scope.Any()) == 0 {
		beyond = " > " + after
		requests = append(requests, silent(s))
	}
	rd := newReader(p.m, 4)
	return t.do(ctx, append(requests, request{
		m: p.m, statement: "SELECT " + t.d.metaColumns() + ", " + p.m.selected + " FROM (" + found + ") AS t" + t.d.metaOf(cl, p.m, `t."uid"`, beyond) + ` ORDER BY t."uid"`,
		args: cl.args, reads: rd,
		each: func() error {
			row, meta := rd.row(), rd.meta(0)
			if p.take(rd.uid(), len(row)) && !meta.Deleted() {
				p.page.Rows = append(p.page.Rows, tidemark.RowMeta{Row: row, Meta: meta})
			}
			return nil
		},
	})...)
}

// count counts what the scope selects, without what is deleted, if that was asked for.
func (p *pager) count(t *tx) []request {
	if !p.q.Count {
		return nil
	}
	cl := &clause{d: t.d.dialect}
	where := cl.where(p.m, p.q.Scope) + " AND NOT EXISTS (SELECT 1 FROM " + t.d.metadata + " m LEFT JOIN " + t.d.dialect.table("uids") +
		` o ON o.uid = m.uid WHERE m.uid = t."uid" AND m.deleted_at IS NOT NULL AND (o.model IS NULL OR o.model = ` + cl.bind(p.m.name) + "))"
	rd := newReader(nil, 1)
	return []request{{m: p.m, statement: "SELECT count(*) FROM " + p.m.from + " t WHERE " + where, args: cl.args, reads: rd, each: func() error {
		n, _ := rd.values[0].(int64)
		p.page.Total = int(n)
		return nil
	}}}
}

// byIndex has the requests, and all that follow in the transaction, go by indexes.
func (t *tx) byIndex(requests ...request) []request {
	if s := t.d.dialect.byIndex(); s != "" {
		return append([]request{silent(s)}, requests...)
	}
	return requests
}

// changed reads a page of the rows that the log names since the cursor.
func (p *pager) changed(ctx context.Context, t *tx) error {
	var others []string // those that the scope does not select now, or that are deleted
	cl := &clause{d: t.d.dialect}
	since := p.since(t, cl)
	uids := "SELECT l.uid FROM " + since + " AND l.uid > " + cl.bind(p.q.After) + " GROUP BY l.uid ORDER BY l.uid" + p.limit()
	where := cl.where(p.m, p.q.Scope)
	rd := newReader(p.m, 5)
	rows := request{
		m: p.m, statement: "SELECT c.uid, " + t.d.metaColumns() + ", " + p.m.selected + " FROM (" + uids + ") AS c LEFT JOIN " + p.m.from + ` t ON t."uid" = c.uid AND ` + where +
			t.d.metaOf(cl, p.m, "c.uid", "") + " ORDER BY c.uid",
		args: cl.args, reads: rd,
		each: func() error {
			uid, row, meta := rd.text(0), rd.row(), rd.meta(1)
			switch {
			case !p.take(uid, len(row)):
			case row == nil || meta.Deleted():
				others = append(others, uid)
			default:
				p.page.Rows = append(p.page.Rows, tidemark.RowMeta{Row: row, Meta: meta})
			}
			return nil
		},
	}
	if err := t.do(ctx, append(p.count(t), t.byIndex(t.reach(p.q.From, &p.reach), rows)...)...); err != nil {
		return err
	}
	if err := p.reach.check(p.q.From); err != nil {
		return err
	}
	gone, err := p.left(ctx, t, others)
	if err != nil || len(gone) == 0 {
		return err
	}
	return p.gone(ctx, t, gone)
}

// since is the part of the log that the cursor has not seen, of the model.
func (p *pager) since(t *tx, cl *clause) string {
	d := t.d.dialect
	pos := d.positions()
	cl.bind(strconv.FormatInt(max(p.q.From.At, 0), 10))
	return d.table("log") + " l WHERE " + pos.column + " >= " + pos.bound(d, len(cl.args)) + " AND l.model = " + cl.bind(p.m.name)
}

// left returns those of the uids whose rows the scope selected at some time since the cursor. On the way it
// notes the page's Befores.
func (p *pager) left(ctx context.Context, t *tx, others []string) (gone []string, err error) {
	uids := others
	if p.q.Befores {
		p.page.Befores = make(map[string][]tidemark.Row)
		uids = slices.Clip(others)
		for i := range p.page.Rows {
			uids = append(uids, p.page.Rows[i].Row.UID())
		}
	}
	if len(uids) == 0 {
		return nil, nil
	}
	d := t.d.dialect
	cl := &clause{d: d}
	since := p.since(t, cl)
	among, list := d.among("l.uid", len(cl.args)+1, uids)
	matched := make(map[string]bool)
	enough, order := func(uid string) bool { return matched[uid] }, ""
	if p.q.Befores {
		enough = func(uid string) bool { return len(p.page.Befores[uid]) >= tidemark.MaxBefores }
		order = " ORDER BY " + d.positions().order
	}
	rd := newReader(nil, 2)
	err = t.do(ctx, request{
		statement: "SELECT l.uid, l.before FROM " + since + " AND " + among + " AND l.before IS NOT NULL" + order, args: append(cl.args, list), reads: rd,
		each: func() error {
			uid := rd.text(0)
			if enough(uid) {
				return nil
			}
			if row := tidemark.Row(rd.text(1)); p.q.Scope.Match(row) {
				matched[uid] = true
				if p.q.Befores {
					p.page.Befores[uid] = append(p.page.Befores[uid], row)
				}
			}
			return nil
		},
	})
	for _, uid := range others {
		if matched[uid] {
			gone = append(gone, uid)
		}
	}
	return gone, err
}

// gone puts rows on the page that the scope no longer selects.
func (p *pager) gone(ctx context.Context, t *tx, uids []string) error {
	d := t.d.dialect
	from, list := d.list(1, uids)
	cl := &clause{d: d, args: []any{list}}
	found := make(map[string]tidemark.RowMeta, len(uids))
	rd := newReader(p.m, 5)
	err := t.do(ctx, request{
		m: p.m, statement: "SELECT x.u, " + t.d.metaColumns() + ", " + p.m.selected + " FROM " + from + " LEFT JOIN " + p.m.from + ` t ON t."uid" = x.u` + t.d.metaOf(cl, p.m, "x.u", ""),
		args: cl.args, reads: rd,
		each: func() error {
			uid := rd.text(0)
			found[uid] = departed(uid, rd.row(), rd.meta(1))
			return nil
		},
	})
	for _, uid := range uids {
		p.page.Gone = append(p.page.Gone, found[uid])
	}
	return err
}

// departed is a row that left with its metadata, which is a tombstone when there is no row: also
// where another program removed it. A row under a tombstone is none.
func departed(uid string, row tidemark.Row, meta tidemark.Meta) tidemark.RowMeta {
	if meta.Deleted() {
		row = nil
	}
	if row == nil && !meta.Deleted() {
		meta.UID = uid
		if d, err := tidemark.Decide(tidemark.Update, uid, 0, meta, false); err == nil {
			meta = d.Meta
		}
	}
	return tidemark.RowMeta{Row: row, Meta: meta}
}
