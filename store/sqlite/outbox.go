package sqlite

import (
	"errors"

	"github.com/tidemark-sync/tidemark"
)

// SQLite numbers a new mutation one above the highest there is. So that no number
// is given twice, the highest is not removed but blanked, and goes when there is
// a higher one. AUTOINCREMENT would promise the same, and write one more page of
// the file with each Enqueue.
const (
	selectMutations = "SELECT n, model, uid, op, data, stamp, unit FROM tidemark_mutations WHERE op <> 0 AND "
	selectLoose     = "SELECT n FROM tidemark_mutations WHERE loose = 1 AND model = ?2 AND uid IN (SELECT value FROM json_each(?1))"
	newestLoose     = "SELECT max(n) FROM tidemark_mutations WHERE loose = 1 AND model = ?2 AND uid = ?1"
	insertMutation  = "INSERT INTO tidemark_mutations (model, uid, op, data, stamp, unit, loose) VALUES (?, ?, ?, ?, ?, ?, 0)"
	amendMutation   = "UPDATE tidemark_mutations SET stamp = ?, unit = ? WHERE n = ? AND op <> 0"
	countMutations  = "SELECT count(*), (SELECT coalesce(max(n), 0) FROM tidemark_mutations) FROM tidemark_mutations WHERE op <> 0"
	selectRows      = "SELECT n, model, uid FROM tidemark_mutations WHERE op <> 0 AND loose = 0 AND n IN (SELECT value FROM json_each(?))"
	blankHighest    = `UPDATE tidemark_mutations SET model = '', uid = '', op = 0, data = NULL, loose = 0
		WHERE n = (SELECT max(n) FROM tidemark_mutations) AND n IN (SELECT value FROM json_each(?))`
	deleteOthers = `DELETE FROM tidemark_mutations WHERE n < (SELECT max(n) FROM tidemark_mutations)
		AND n IN (SELECT value FROM json_each(?) UNION ALL SELECT n FROM tidemark_mutations WHERE op = 0)`
)

func (t *tx) Enqueue(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		m := &ms[i]
		res, err := t.exec(insertMutation, m.Model, m.UID, int64(m.Op), textOf(m.Data), int64(m.Stamp), m.Unit)
		if err != nil {
			return err
		}
		if m.N, err = res.LastInsertId(); err != nil {
			return t.seal(err)
		}
		t.bytes += len(m.Data)
		t.move(m.Model, m.UID).come(m.N)
	}
	return nil
}

func (t *tx) Outbox(after int64, limit int) ([]tidemark.Mutation, error) {
	if limit <= 0 {
		limit = -1 // SQLite's word for all
	}
	if err := t.check(false); err != nil {
		return nil, err
	}
	ms, err := t.mutations("n > ? ORDER BY n LIMIT ?", after, int64(limit))
	return ms, t.seal(err)
}

func (t *tx) Queued() (count int, highest int64, err error) {
	if err := t.check(false); err != nil {
		return 0, 0, err
	}
	err = t.query(func(r *result) error {
		count, highest = int(r.number(0)), r.number(1)
		return nil
	}, countMutations)
	return count, highest, err
}

func (t *tx) Pending(name string, uids []string) (ms []tidemark.Mutation, err error) {
	if err := t.ready(false); err != nil {
		return nil, err
	}
	list := listOf(uids)
	err = t.on(name, func(m *model) error {
		ms, err = t.mutations(m.pending+" ORDER BY n", list, name)
		return err
	})
	if errors.Is(err, errUndeclared) {
		ms, err = t.mutations("n IN ("+selectLoose+") ORDER BY n", list, name)
		err = t.seal(err)
	}
	return ms, err
}

func (t *tx) Newest(name, uid string) (stamp tidemark.Stamp, err error) {
	if err := t.ready(false); err != nil {
		return 0, err
	}
	read := func(text string) error {
		n, err := t.c.number(t.quiet, text, uid, name)
		stamp = tidemark.Stamp(n)
		return err
	}
	err = t.on(name, func(m *model) error { return read(m.newest) })
	if errors.Is(err, errUndeclared) {
		err = t.seal(read("SELECT stamp FROM tidemark_mutations WHERE n = (" + newestLoose + ")"))
	}
	return stamp, err
}

func (t *tx) mutations(where string, args ...any) ([]tidemark.Mutation, error) {
	var ms []tidemark.Mutation
	err := t.c.query(t.quiet, func(r *result) error {
		ms = append(ms, tidemark.Mutation{N: r.number(0), Model: r.text(1), UID: r.text(2), Op: r.op(3),
			Data: r.row(4), Stamp: tidemark.Stamp(r.number(5)), Unit: r.number(6)})
		return nil
	}, selectMutations+where, args...)
	return ms, err
}

func (t *tx) Amend(ms []tidemark.Mutation) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range ms {
		if _, err := t.exec(amendMutation, int64(ms[i].Stamp), ms[i].Unit, ms[i].N); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) Dequeue(ns []int64) error {
	if err := t.check(true); err != nil {
		return err
	}
	list := "[" + joined(ns) + "]"
	err := t.query(func(r *result) error {
		t.move(r.text(1), r.text(2)).leave(r.number(0))
		return nil
	}, selectRows, list)
	if err != nil {
		return err
	}
	if _, err := t.exec(blankHighest, list); err != nil {
		return err
	}
	_, err = t.exec(deleteOthers, list)
	return err
}
