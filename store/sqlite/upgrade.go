package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// upgrade writes a file of format 1 anew, in one transaction, with everything that
// it has. Its tables get other names, so that a program of the former version that
// still has the file open fails rather than writes what this one would not find.
// 100,000 rows take some seconds.
func upgrade(ctx context.Context, c *session) error {
	return c.transaction(ctx, func() error {
		version, err := c.number(ctx, "PRAGMA user_version")
		if err != nil || version != 1 { // another store was faster
			return err
		}
		texts := append(slices.Clone(outboxTables),
			"INSERT INTO tidemark_mutations SELECT n, model, uid, op, data, stamp, 0, op <> 0 FROM tidemark_outbox",
			"DROP TABLE tidemark_outbox",
			fmt.Sprintf("PRAGMA user_version = %d", formatVersion))
		if err := execAll(ctx, c, texts...); err != nil {
			return err
		}
		known, err := readCatalog(ctx, c, 0)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(known.models)) {
			if err := upgradeModel(ctx, c, known.models[name]); err != nil {
				return err
			}
		}
		return nil
	})
}

func upgradeModel(ctx context.Context, c *session, old *model) error {
	id, err := nextModel(ctx, c)
	if err != nil {
		return err
	}
	m := newModel(id, old.name, old.fields)
	if err := m.create(ctx, c); err != nil {
		return err
	}
	columns := strings.Replace(recordColumns, "seen", "0", 1)
	if err := m.copyFrom(ctx, c, old.table, columns, wholeBase); err != nil {
		return err
	}
	if _, err := c.exec(ctx, "UPDATE tidemark_mutations SET loose = 0 WHERE model = ? AND uid IN (SELECT uid FROM "+m.table+")", m.name); err != nil {
		return err
	}
	_, err = c.exec(ctx, "UPDATE "+m.table+` SET waiting = w.numbers FROM (SELECT uid, group_concat(n) AS numbers
		FROM tidemark_mutations WHERE model = ? AND op <> 0 GROUP BY uid) AS w WHERE w.uid = `+m.table+".uid", m.name)
	if err != nil {
		return err
	}
	if err := execAll(ctx, c, "DROP TABLE "+old.table); err != nil {
		return err
	}
	return m.remember(ctx, c)
}

// wholeBase is readBase for format 1, which had base whole.
func wholeBase(row tidemark.Row, kept []byte) (tidemark.Row, error) {
	switch {
	case kept == nil:
		return row, nil
	case len(kept) == 0:
		return nil, nil
	}
	return bytes.Clone(kept), nil
}
