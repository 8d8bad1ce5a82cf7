package bundriver

import (
	"context"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Remembering = (*Driver)(nil)

// Newest returns the newest stamp that the metadata had when the driver was made or last migrated.
func (d *Driver) Newest() tidemark.Stamp { return tidemark.Stamp(d.newest.Load()) }

// remember reads the newest stamp, once through the whole table, which has no index by time.
func (d *Driver) remember(ctx context.Context) error {
	bound := d.now().Add(tidemark.MaxRemembered)
	cl := &clause{d: d.dialect}
	var columns []string
	for _, c := range metaTimes {
		columns = append(columns, d.dialect.newest(cl, "m."+c.sql, bound.UnixMicro()))
	}
	rd := newReader(nil, len(columns))
	return d.query(ctx, rd, nil, func() error {
		for _, v := range rd.values {
			if s := stampOf(v); s <= tidemark.StampOf(bound) && s > d.Newest() {
				d.newest.Store(int64(s))
			}
		}
		return nil
	}, "SELECT "+strings.Join(columns, ", ")+" FROM "+d.metadata+" m", cl.args...)
}

// rememberIfAny is remember for a database that may not have been migrated.
func (d *Driver) rememberIfAny(ctx context.Context) {
	var exists bool
	statement, arg := d.dialect.exists(d.metadata)
	err := d.db.QueryRowContext(ctx, statement, d.args([]any{arg})...).Scan(&exists)
	if err == nil && exists {
		err = d.remember(ctx)
	}
	if err != nil { // Migrate will say what is wrong with it
		d.log.Warn("the stamps in the metadata cannot be read yet", "error", err)
	}
}
