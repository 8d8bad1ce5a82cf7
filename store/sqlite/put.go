package sqlite

import (
	"context"
	"unsafe"

	"github.com/tidemark-sync/tidemark"
)

func (t *tx) Put(name string, recs []tidemark.Record) error {
	if err := t.check(true); err != nil {
		return err
	}
	for i := range recs {
		if err := recs[i].Check(); err != nil {
			return err
		}
		t.bytes += len(recs[i].Row) + len(recs[i].Base)
	}
	err := t.on(name, func(m *model) error {
		moved, err := t.carry(m, recs)
		if err != nil {
			return err
		}
		if !m.late.made.Load() {
			m.late.rows.Store(true)
		}
		return m.store(t.quiet, t.c, recs, moved)
	})
	t.stored += len(recs)
	if err == nil && len(t.moves) > 0 {
		for i := range recs {
			delete(t.moves, rowName{name, recs[i].UID})
		}
	}
	return err
}

// carry returns, by their places, what becomes of the numbers that wait for those
// of the records where they move, and makes loose those that a removed record leaves.
func (t *tx) carry(m *model, recs []tidemark.Record) (moved map[int]numbers, err error) {
	var ask []string
	for i := range recs {
		if v := t.moves[rowName{m.name, recs[i].UID}]; recs[i].IsZero() || v != nil && len(v.went) > 0 {
			ask = append(ask, recs[i].UID)
		}
	}
	if len(ask) == 0 && len(t.moves) == 0 {
		return nil, nil
	}
	was, err := t.waiting(m, ask)
	if err != nil {
		return nil, err
	}
	moved = make(map[int]numbers)
	if len(recs) == 1 && len(ask) == 0 { // a local write
		return moved, t.carryOne(moved, t.moves[rowName{m.name, recs[0].UID}], &recs[0])
	}
	if was == nil {
		was = make(map[string]string)
	}
	done := make(map[string]bool) // a uid may stand twice
	for i := range recs {
		uid := recs[i].UID
		v := t.moves[rowName{m.name, uid}]
		if v == nil || done[uid] {
			v = &moves{}
		}
		left := v.left(was[uid])
		has := len(left)
		if len(v.went) == 0 {
			has = recs[i].Pending - len(v.came) // waiting was not read, and may have fewer
		}
		if err := t.loosen(joined(v.limit(has))); err != nil {
			return nil, err
		}
		whole := joined(append(left, v.came...))
		switch {
		case recs[i].IsZero():
			if err := t.loosen(whole); err != nil {
				return nil, err
			}
			whole = ""
		case v.none():
			continue
		default:
			moved[i] = v.after(was[uid])
		}
		was[uid], done[uid] = whole, true
	}
	return moved, nil
}

// carryOne is carry for a record that keeps the numbers it has.
func (t *tx) carryOne(moved map[int]numbers, v *moves, r *tidemark.Record) error {
	if v == nil {
		return nil
	}
	err := t.loosen(joined(v.limit(r.Pending - len(v.came))))
	if !v.none() {
		moved[0] = v.after("")
	}
	return err
}

// lookAgain is how many records of many are stored as new, or as there, before one
// looks again which of the two the next ones are.
const lookAgain = 16 * putChunk

// store writes records that were checked. Of many that are new, some go with one
// statement; those that are there are changed one by one, which leaves the indexes alone.
// moved has, by their places, what becomes of waiting.
func (m *model) store(ctx context.Context, c *session, recs []tidemark.Record, moved map[int]numbers) (err error) {
	var args []any
	known, look := m.change != "", 0
	for i := 0; i < len(recs); {
		if look <= 0 && m.change != "" && len(recs)-i >= putChunk {
			if known, err = m.has(ctx, c, recs[i].UID); err != nil {
				return err
			}
			look = lookAgain
		}
		n := 1
		if !known {
			n = chunk(recs[i:], moved, i)
		}
		if n > 1 {
			args = args[:0]
			for k := range n {
				args = m.args(args, &recs[i+k])
			}
			_, err = c.exec(ctx, m.putMany, args...)
		} else {
			err = m.storeOne(ctx, c, &recs[i], known, moved, i)
		}
		if err != nil {
			return err
		}
		i, look = i+n, look-n
	}
	return nil
}

func (m *model) has(ctx context.Context, c *session, uid string) (bool, error) {
	n, err := c.number(ctx, m.exists, uid)
	return n != 0, err
}

// chunk returns how many of the first records, whose places begin at from, go with
// the next statement: putChunk or one.
func chunk(recs []tidemark.Record, moved map[int]numbers, from int) int {
	if len(recs) < putChunk {
		return 1
	}
	for i := range recs[:putChunk] {
		if recs[i].IsZero() {
			return 1
		}
		if len(moved) > 0 {
			if _, moves := moved[from+i]; moves {
				return 1
			}
		}
	}
	return putChunk
}

// storeOne stores the record at a place; known says that it is there, most likely.
func (m *model) storeOne(ctx context.Context, c *session, r *tidemark.Record, known bool, moved map[int]numbers, place int) error {
	if r.IsZero() {
		_, err := c.exec(ctx, m.remove, r.UID)
		return err
	}
	args, put, change := m.args(nil, r), m.put, m.change
	if ns, moves := moved[place]; moves {
		args, put, change = append(args, ns.text, ns.behind), m.putMoved, m.changeMoved
	}
	if r.Meta.IsZero() && r.Pending <= 1 {
		known = false // a row of the device's own, just created
	}
	if change != "" && known {
		res, err := c.exec(ctx, change, args...)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err == nil && n == 1 {
			return nil
		}
	}
	_, err := c.exec(ctx, put, args...)
	return err
}

func (m *model) args(args []any, r *tidemark.Record) []any {
	args = append(args, r.UID, textOf(r.Row), baseOf(r.Row, r.Base))
	if r.Meta.IsZero() {
		args = append(args, nil, nil, nil)
	} else {
		args = append(args, int64(r.Meta.CreatedAt), int64(r.Meta.UpdatedAt), int64(r.Meta.DeletedAt))
	}
	return m.values(append(args, int64(r.Pending), r.Seen), r.Row)
}

func textOf(r tidemark.Row) any {
	if len(r) == 0 {
		return nil
	}
	return unsafe.String(&r[0], len(r)) // a row is not modified once made, and a first sync has many
}
