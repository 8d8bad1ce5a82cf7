package sqlite

import (
	"database/sql"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// SQLite numbers a new mutation one above the highest there is. So that no number
// is given twice, the highest is not removed but blanked, and goes when there is
// a higher one. AUTOINCREMENT would promise the same, and write one more page of
// the file with each Enqueue.
const (
	selectMutations = "SELECT n, model, uid, op, data, stamp, unit FROM tidemark_outbox WHERE op <> 0 AND "
	blankHighest    = `UPDATE tidemark_outbox SET model = '', uid = '', op = 0, data = NULL
		WHERE n = (SELECT max(n) FROM tidemark_outbox) AND n IN (SELECT value FROM json_each(?))`
	deleteOthers = `DELETE FROM tidemark_outbox WHERE n < (SELECT max(n) FROM tidemark_outbox)
		AND n IN (SELECT value FROM json_each(?) UNION ALL SELECT n FROM tidemark_outbox WHERE model = '' AND op = 0)`
)

func (t *tx) Enqueue(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		m := &ms[i]
		res, err := t.exec("INSERT INTO tidemark_outbox (model, uid, op, data, stamp, unit) VALUES (?, ?, ?, ?, ?, ?)",
			m.Model, m.UID, int64(m.Op), textOf(m.Data), int64(m.Stamp), m.Unit)
		if err != nil {
			return err
		}
		if m.N, err = res.LastInsertId(); err != nil {
			return t.seal(err)
		}
	}
	return nil
}

func (t *tx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	if limit <= 0 {
		limit = -1 // SQLite's word for all
	}
	return t.mutations("n > ? ORDER BY n LIMIT ?", after, int64(limit))
}

func (t *tx) Pending(model string, uids []string) ([]tidemark.Mutation, error) {
	if len(uids) == 1 {
		return t.mutations("model = ? AND uid = ? ORDER BY n", model, uids[0])
	}
	return t.mutations("model = ? AND uid IN (SELECT value FROM json_each(?)) ORDER BY n", model, listOf(uids))
}

func (t *tx) mutations(where string, args ...any) ([]tidemark.Mutation, error) {
	if err := t.check(false); err != nil {
		return nil, err
	}
	var ms []tidemark.Mutation
	err := t.query(func(r *sql.Rows) error {
		var m tidemark.Mutation
		err := r.Scan(&m.N, &m.Model, &m.UID, &m.Op, (*[]byte)(&m.Data), &m.Stamp, &m.Unit)
		ms = append(ms, m)
		return err
	}, selectMutations+where, args...)
	return ms, err
}

func (t *tx) Amend(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		m := &ms[i]
		if _, err := t.exec("UPDATE tidemark_outbox SET stamp = ?, unit = ? WHERE n = ? AND op <> 0", int64(m.Stamp), m.Unit, m.N); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) Dequeue(ns []int64) error {
	if err := t.check(true); err != nil {
		return err
	}
	list := []byte{'['}
	for i, n := range ns {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, n, 10)
	}
	text := string(append(list, ']'))
	if _, err := t.exec(blankHighest, text); err != nil {
		return err
	}
	_, err := t.exec(deleteOthers, text)
	return err
}
