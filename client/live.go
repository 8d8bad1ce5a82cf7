package client

import (
	"context"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// heard is a change of the live scopes, not yet stored.
type heard struct {
	model   string
	word    word
	in, out []int64 // the scopes that select the row, and those that did
	at      int     // which of the model's words it is
}

// How many bytes of changes are collected for one transaction, and how many may wait
// while the protocol is not agreed upon.
const (
	maxBurst   = 1 << 20
	maxWaiting = 16 << 20
)

// changesEvent takes the changes of one commit. What is malformed ends the connection:
// without it the copy would have a gap, and the next connection tells it again.
func (s *session) changesEvent(ctx context.Context, raw []byte) error {
	if s.ready && s.opened == nil {
		return nil
	}
	var cs tidemark.Changes
	if err := cs.UnmarshalJSON(raw); err != nil {
		return malformed(err)
	}
	var c cleaner
	for i := range cs {
		ch := &cs[i]
		schema := s.c.schema(ch.Model)
		if schema == nil {
			s.c.log.Warn("change of an unknown model", "model", ch.Model)
			continue
		}
		h := heard{model: ch.Model, in: ch.In, out: ch.Out, word: word{uid: ch.Gone.UID, gone: ch.Gone}}
		if len(ch.Row) > 0 {
			h.word = word{uid: ch.Meta.UID, state: tidemark.RowMeta{Row: ch.Row, Meta: ch.Meta}}
			if err := c.clean(schema, &h.word.state); err != nil {
				return malformed(err)
			}
		} else if err := tidemark.CheckUID(ch.Gone.UID); err != nil {
			return malformed(err)
		}
		s.heard = append(s.heard, h)
	}
	s.weight += len(raw)
	switch {
	case s.weight <= maxBurst:
	case s.ready:
		return s.applyEvents(ctx)
	case s.weight > maxWaiting:
		return malformed(nil)
	}
	return nil
}

// cursorEvent takes the position up to which everything was sent.
func (s *session) cursorEvent(raw []byte) error {
	return tidemark.EachMember(raw, func(key string, value []byte) error {
		if key != "cursor" {
			return nil
		}
		cursor, err := tidemark.DecodeString(value)
		if err != nil || cursor == "" || len(cursor) > 1024 {
			return malformed(err)
		}
		s.cursor, s.early = cursor, len(s.heard)
		return nil
	})
}

// applyHeard stores the collected changes, in their order, and the cursor with them.
func (s *session) applyHeard(ctx context.Context) error {
	if len(s.heard) == 0 && s.cursor == "" {
		return nil
	}
	changes, cursor, early := s.heard, s.cursor, s.early
	s.heard, s.cursor, s.early, s.weight = nil, "", 0, 0
	byModel := map[string][]word{}
	var models []string
	for i := range changes {
		h := &changes[i]
		if byModel[h.model] == nil {
			models = append(models, h.model)
		}
		h.word.wanted, h.at = s.selects(h.in), len(byModel[h.model])
		byModel[h.model] = append(byModel[h.model], h.word)
	}
	passing, marked, anew := s.passing(), 0, false
	err := s.c.commit(ctx, func(w *work) error {
		for _, model := range models {
			if err := w.hear(model, byModel[model], passing); err != nil {
				return err
			}
		}
		moved, err := s.saveCursor(w, cursor)
		if err != nil {
			return err
		}
		var m marks
		m, marked = s.marksOf(changes, byModel, early, moved)
		anew = len(moved) > 0
		return w.mark(m)
	})
	if err == nil {
		s.renew(marked, anew)
	}
	return err
}

// selects reports whether one of the numbers is a scope of this session's. While it
// subscribes, numbers are not yet known: live changes may come before the answer.
func (s *session) selects(numbers []int64) bool {
	if s.joining != nil {
		return len(numbers) > 0
	}
	for _, sub := range s.subs {
		if slices.Contains(numbers, sub.number) {
			return true
		}
	}
	return false
}

// passing reports whether a page may be on its way.
func (s *session) passing() bool {
	if s.joining != nil {
		return true
	}
	for _, sub := range s.subs {
		if sub.flight != nil || sub.pass != nil || !sub.complete {
			return true
		}
	}
	return false
}

// saveCursor makes the cursor that of all scopes that are complete, but for those whose
// copy was forgotten, perhaps by another client over the store: these are to be told anew. It
// returns those that had another one.
func (s *session) saveCursor(w *work, cursor string) (moved map[scopeID]bool, err error) {
	if cursor == "" {
		return nil, nil
	}
	marked, err := w.marked()
	if err != nil {
		return nil, err
	}
	moved = map[scopeID]bool{}
	for _, sub := range s.subs {
		if !sub.complete {
			continue
		}
		saved, err := loadScope(w.tx, sub.id)
		if err != nil {
			return nil, err
		}
		if sub.complete = saved.Cursor != ""; !sub.complete || saved.Cursor == cursor {
			continue
		}
		saved.Cursor, saved.Marks = cursor, marked
		s.c.inUse(sub.scope, saved)
		if err := saved.save(w.tx, sub.id.entry()); err != nil {
			return nil, err
		}
		moved[sub.id] = true
	}
	if len(moved) == 0 {
		return nil, nil
	}
	return moved, w.passed(moved)
}
