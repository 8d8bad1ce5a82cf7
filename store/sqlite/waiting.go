package sqlite

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// The mutations of a row are found by their numbers, which its record has
// (waiting, as in "17,18"): an index on the outbox would be one more page to write
// with every local write, another one each time. Enqueue and Dequeue remember
// what has to be changed there, and the Put that follows them writes it with the
// rest of the record. A mutation is loose, which an index has, where its row has no
// record, and where the record has the numbers of many: else each write of a row
// would write those of all the writes before it.

// maxWaiting is how many numbers a record has; more mutations of its row are loose.
const maxWaiting = 16

// rowName names a row of a model.
type rowName struct{ model, uid string }

// moves are the numbers that came to a row's mutations and went from them, and that its record does not know of yet.
type moves struct{ came, went []int64 }

func (t *tx) move(model, uid string) *moves {
	if t.moves == nil {
		t.moves = make(map[rowName]*moves)
	}
	name := rowName{model, uid}
	v := t.moves[name]
	if v == nil {
		v = &moves{}
		t.moves[name] = v
	}
	return v
}

func (v *moves) none() bool { return len(v.came)+len(v.went) == 0 }

func (v *moves) come(n int64) { v.came = append(v.came, n) }

func (v *moves) leave(n int64) {
	if i := slices.Index(v.came, n); i >= 0 {
		v.came = slices.Delete(v.came, i, i+1)
		return
	}
	v.went = append(v.went, n)
}

// numbers are what a record's waiting becomes: text in the place of what it was,
// or behind it.
type numbers struct {
	behind int64 // 1 for behind
	text   string
}

// limit keeps of what came no more than there is room for in a record that has
// so many numbers, and returns the others.
func (v *moves) limit(has int) (rest []int64) {
	room := min(max(maxWaiting-has, 0), len(v.came))
	v.came, rest = v.came[:room], v.came[room:]
	return rest
}

// after returns what waiting becomes; was is what it is, which matters only when something went.
func (v *moves) after(was string) numbers {
	if len(v.went) == 0 {
		return numbers{behind: 1, text: joined(v.came)}
	}
	return numbers{text: joined(append(v.left(was), v.came...))}
}

// left returns the numbers in was that have not gone.
func (v *moves) left(was string) []int64 {
	return slices.DeleteFunc(split(was), func(n int64) bool { return slices.Contains(v.went, n) })
}

func joined(ns []int64) string {
	var b []byte
	for i, n := range ns {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// split is the inverse of joined.
func split(text string) (ns []int64) {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

// waiting returns what the records of those uids have as waiting, where they have any.
func (t *tx) waiting(m *model, uids []string) (map[string]string, error) {
	if len(uids) == 0 {
		return nil, nil
	}
	found := make(map[string]string)
	err := t.c.query(t.quiet, func(r *result) error {
		found[r.text(0)] = r.text(1)
		return nil
	}, m.waiting, listOf(uids))
	return found, err
}

// loosen makes mutations loose, since the record of their row goes or was never there.
func (t *tx) loosen(numbers string) error {
	if numbers == "" {
		return nil
	}
	_, err := t.exec("UPDATE tidemark_mutations SET loose = 1 WHERE n IN (SELECT value FROM json_each(?))", "["+numbers+"]")
	return err
}

// settle writes the numbers that no Put has taken with it.
func (t *tx) settle() error {
	for name, v := range t.moves {
		if err := t.settleRow(name, v); err != nil {
			return err
		}
		delete(t.moves, name)
	}
	return nil
}

func (t *tx) settleRow(name rowName, v *moves) error {
	if v.none() {
		return nil
	}
	err := t.on(name.model, func(m *model) error {
		was, err := t.waiting(m, []string{name.uid})
		if err != nil {
			return err
		}
		if err := t.loosen(joined(v.limit(len(v.left(was[name.uid]))))); err != nil || v.none() {
			return err
		}
		ns := v.after(was[name.uid])
		res, err := t.c.exec(t.quiet, m.wait, ns.behind, ns.text, name.uid)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return t.loosen(joined(v.came))
	})
	if tidemark.CodeOf(err) == tidemark.CodeUnknownModel {
		return t.loosen(joined(v.came))
	}
	return err
}
