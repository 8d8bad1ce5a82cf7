package bundriver

import (
	"context"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// Find reads the rows that p selects in one statement.
func (d *Driver) Find(ctx context.Context, p *tidemark.Predicate, limit int) ([]tidemark.Row, error) {
	m, err := d.model(ctx, p)
	if err != nil {
		return nil, err
	}
	cl := &clause{d: d.dialect}
	statement := "SELECT " + m.selected + " FROM " + m.from + " t WHERE " + cl.where(m, p)
	if limit > 0 {
		statement += " LIMIT " + strconv.Itoa(limit)
	}
	var found []tidemark.Row
	rd := newReader(m, 0)
	err = d.query(ctx, rd, m, func() error {
		found = append(found, rd.row())
		return nil
	}, statement, cl.args...)
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Snapshot reads in one statement, which is its moment.
func (d *Driver) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	m, err := d.model(ctx, p)
	if err != nil {
		return nil, err
	}
	statement, args := d.snapshotStatement(m, p, uids)
	snap := &tidemark.Snapshot{}
	rd := newReader(m, 5)
	err = d.query(ctx, rd, m, func() error {
		rm := tidemark.RowMeta{Row: rd.row(), Meta: rd.meta(1)}
		if n, _ := rd.values[0].(int64); n == 1 {
			snap.Selected = append(snap.Selected, rm)
		} else {
			snap.Others = append(snap.Others, rm)
		}
		return nil
	}, statement, args...)
	if err != nil {
		return nil, err
	}
	return snap, nil
}

func (d *Driver) snapshotStatement(m *model, p *tidemark.Predicate, uids []string) (string, []any) {
	di := d.dialect
	cl := &clause{d: di}
	// Metadata whose uid belongs to another model is none of this one's.
	name := cl.bind(m.name)
	meta := func(uid string) string {
		return " LEFT JOIN " + di.table("uids") + " o ON o.uid = " + uid + " LEFT JOIN " + d.metadata + " m ON m.uid = " + uid + " AND (o.model IS NULL OR o.model = " + name + ")"
	}
	columns := "m.uid, " + di.readMeta("created_at") + ", " + di.readMeta("updated_at") + ", " + di.readMeta("deleted_at") + ", " + m.selected
	where := cl.where(m, p)
	statement := "SELECT 1, " + columns + " FROM " + m.from + " t" + meta(`t."uid"`) + " WHERE " + where
	if len(uids) == 0 {
		return statement, cl.args
	}
	from, list := di.list(len(cl.args)+1, uids)
	cl.bind(list)
	return statement + " UNION ALL SELECT 2, " + columns + " FROM (SELECT DISTINCT x.u FROM " + from + ") AS x LEFT JOIN " + m.from + ` t ON t."uid" = x.u` + meta("x.u") +
		` WHERE (t."uid" IS NOT NULL OR m.uid IS NOT NULL) AND (t."uid" IS NULL OR (` + where + ") IS NOT TRUE)", cl.args
}

func (d *Driver) query(ctx context.Context, r *reader, m *model, each func() error, statement string, args ...any) error {
	j, err := d.joined(ctx)
	if err != nil {
		return err
	}
	if j != nil {
		return j.query(ctx, r, m, each, statement, args...)
	}
	if err := acquire(ctx, d.reading); err != nil {
		return err
	}
	defer yield(d.reading)
	rows, err := d.db.QueryContext(ctx, statement, d.args(args)...)
	if err != nil {
		return d.failed(ctx, err, m)
	}
	return d.each(ctx, rows, r, m, each)
}
