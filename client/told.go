package client

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// What is told live is ahead of the cursors of its scopes. It is marked until a cursor has passed it: a
// catch-up from an older one has to tell it again. When it does not, the server has lost what it had told,
// as one does that was restored to a moment in between; what else of the copy it no longer has only
// a pass from the beginning can tell.

const (
	keyMarked = "told"  // the number of the last entry of marks
	keyMarks  = "told/" // the entries, by their numbers
	maxMarks  = 4096    // so many rows are marked before the client asks for a new cursor
)

// marks are rows that were told live, each with the stamp of the version: by the key of the scope's
// entry, and by uid.
type marks map[string]map[string]tidemark.Stamp

func (m marks) add(scope, uid string, at tidemark.Stamp) {
	if m[scope] == nil {
		m[scope] = map[string]tidemark.Stamp{}
	}
	m[scope][uid] = at
}

// marked returns the number of the last entry of marks, 0 for none.
func (w *work) marked() (int64, error) { return loadNumber(w.tx, keyMarked) }

// mark stores marks under the next number.
func (w *work) mark(m marks) error {
	if len(m) == 0 {
		return nil
	}
	n, err := w.marked()
	if err != nil {
		return err
	}
	n++
	if err := w.tx.Save(keyMarked, strconv.AppendInt(nil, n, 10)); err != nil {
		return err
	}
	return w.saveMarks(fmt.Sprintf("%s%016x", keyMarks, n), m)
}

func (w *work) saveMarks(key string, m marks) error {
	if len(m) == 0 {
		return w.tx.Save(key, nil)
	}
	raw, err := encodePlain(m)
	if err != nil {
		return err
	}
	return w.tx.Save(key, raw)
}

// eachMarks has fn change the entries of marks; it reports whether it did. A damaged entry goes.
func (w *work) eachMarks(fn func(n int64, m marks) (changed bool, err error)) error {
	entries, err := w.tx.Entries(keyMarks)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var m marks
		n, bad := strconv.ParseInt(strings.TrimPrefix(e.Key, keyMarks), 16, 64)
		if bad != nil || json.Unmarshal(e.Value, &m) != nil {
			m = nil
		}
		changed, err := fn(n, m)
		if err == nil && (changed || len(m) == 0) {
			err = w.saveMarks(e.Key, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// retold strikes out what a page tells again. At the end of a pass from a cursor it reports whether
// all was told that was marked before the pass was asked for.
func (w *work) retold(a *arrival, saved *savedScope) (whole bool, err error) {
	if a.asked.fresh() && !a.asked.begun() { // it tells everything
		if saved.Marks, err = w.marked(); err != nil {
			return false, err
		}
	}
	key, told := a.sub.id.entry(), map[string]tidemark.Stamp(nil)
	whole = true
	err = w.eachMarks(func(n int64, m marks) (bool, error) {
		rows := m[key]
		if len(rows) == 0 {
			return false, nil
		}
		if told == nil {
			told = a.told()
		}
		before := len(rows)
		for uid, at := range rows {
			if again, ok := told[uid]; ok && again >= at || n <= saved.Marks {
				delete(rows, uid)
			}
		}
		if a.last && n <= a.asked.Marks {
			whole = whole && (len(rows) == 0 || a.asked.fresh())
			clear(rows)
		}
		if len(rows) == 0 {
			delete(m, key)
		}
		return len(rows) < before, nil
	})
	return whole, err
}

// told returns what the page tells of, with the stamps.
func (a *arrival) told() map[string]tidemark.Stamp {
	out := make(map[string]tidemark.Stamp, len(a.page.Rows)+len(a.page.Gone))
	for i := range a.page.Rows {
		out[a.page.Rows[i].Meta.UID] = a.page.Rows[i].Meta.T()
	}
	for _, d := range a.page.Gone {
		out[d.UID] = d.At
	}
	return out
}

// passed strikes out the marks of scopes that have a new cursor, and of those that nothing is remembered of.
func (w *work) passed(moved map[scopeID]bool) error {
	keys := make(map[string]bool, len(moved)) // whether the marks go
	for id := range moved {
		keys[id.entry()] = true
	}
	return w.eachMarks(func(_ int64, m marks) (changed bool, err error) {
		for key := range m {
			gone, known := keys[key]
			if !known {
				raw, err := w.tx.Load(key)
				if err != nil {
					return changed, err
				}
				gone = raw == nil
				keys[key] = gone
			}
			if gone {
				delete(m, key)
				changed = true
			}
		}
		return changed, nil
	})
}

// marksOf are those of the changes that were news, for the scopes that told them. Those before number early
// came before a cursor, which has passed them in the scopes that it moved.
func (s *session) marksOf(changes []heard, words map[string][]word, early int, moved map[scopeID]bool) (m marks, n int) {
	m = marks{}
	for _, sub := range s.subs {
		key := ""
		for i := range changes {
			h := &changes[i]
			x := &words[h.model][h.at]
			if !x.news || i < early && moved[sub.id] || !slices.Contains(h.in, sub.number) && !slices.Contains(h.out, sub.number) {
				continue
			}
			if key == "" {
				key = sub.id.entry()
			}
			m.add(key, x.uid, max(x.state.Meta.T(), x.gone.At))
			n++
		}
	}
	return m, n
}

// renew has the client ask what changed since its cursors, so that they pass what is marked: a server does
// not tell cursors while others write its database.
func (s *session) renew(marked int, moved bool) {
	if s.marked += marked; moved {
		s.marked = 0
	}
	if s.marked < maxMarks {
		return
	}
	s.marked = 0
	for _, sub := range s.subs {
		sub.renew = sub.complete
	}
}
