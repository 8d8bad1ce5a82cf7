package bundriver

import "context"

// warnOfCascades says which foreign keys between the models have the database delete or change rows by itself, of
// which neither the log nor a device hears.
func (d *Driver) warnOfCascades(ctx context.Context) error {
	var tables []string
	names := make(map[string]string, len(d.models))
	for _, s := range d.schemas {
		m := d.models[s.Name()]
		tables = append(tables, d.dialect.tableOf(m))
		names[d.dialect.tableOf(m)] = m.name
	}
	if len(tables) == 0 {
		return nil
	}
	statement, arg := d.dialect.cascades(tables)
	rows, err := d.db.QueryContext(ctx, statement, d.args([]any{arg})...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key, child, parent, action string
		if err := rows.Scan(&key, &child, &parent, &action); err != nil {
			return err
		}
		d.log.Warn("a foreign key changes rows by itself, of which devices do not hear: delete or change the children in the hook or the unit that deletes the parent",
			"model", names[child], "key", key, "parent", names[parent], "on_delete", action)
	}
	return rows.Err()
}

func (postgres) tableOf(m *model) string { return m.from }
func (sqlite) tableOf(m *model) string   { return m.name }

func (p postgres) cascades(tables []string) (string, any) {
	return `SELECT c.conname, child.t, parent.t, CASE c.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'SET DEFAULT' END
		FROM unnest(` + p.array(1) + `) AS child(t) JOIN pg_constraint c ON c.conrelid = to_regclass(child.t)
		JOIN unnest(` + p.array(1) + `) AS parent(t) ON c.confrelid = to_regclass(parent.t)
		WHERE c.contype = 'f' AND c.confdeltype IN ('c', 'n', 'd') ORDER BY 1`, bindAll(tables)
}

func (sqlite) cascades(tables []string) (string, any) {
	return `SELECT f."from", child.value, parent.value, f.on_delete FROM json_each(?1) child, pragma_foreign_key_list(child.value) f, json_each(?1) parent
		WHERE lower(parent.value) = lower(f."table") AND f.seq = 0 AND f.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT') ORDER BY 1`, string(appendTexts(nil, tables))
}
