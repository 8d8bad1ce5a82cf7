package bundriver

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// work is what a transaction does for runs of mutations. Their rows are locked and read,
// then tidemark.Decide decides all of them, then everything is written. Over pgx each of these
// takes one round trip.
type work struct {
	t      *tx
	runs   []*run
	outs   []tidemark.Outcome
	states map[string]*state
	again  bool // a row stands in two runs
	mixed  bool // and is of two models; then nothing but the metadata can be read for all
}

// state is what the database has of a row, and what the decisions so far make of it.
type state struct {
	model *model
	owner string // the model that the uid belongs to, "" when that is not known
	meta  tidemark.Meta
	row   tidemark.Row

	created bool // the uid may be new: it is claimed before anything is read
	claimed bool

	decided tidemark.Meta
	present bool
	ours    bool           // a decision was made for its model
	written []tidemark.Row // what the database made of it, once for each run that writes it
}

func (t *tx) work(runs []*run, outs []tidemark.Outcome) *work {
	n := 0
	for _, r := range runs {
		n += len(r.items)
	}
	w := &work{t: t, runs: runs, outs: outs, states: make(map[string]*state, n)}
	states := make([]state, 0, n)
	for _, r := range runs {
		created := r.op == tidemark.Create || r.op == tidemark.Adopt
		for i := range r.items {
			if s := w.states[r.items[i].uid]; s != nil {
				w.again = true
				s.created = s.created || created
				if s.model != r.model {
					w.mixed, s.model = true, nil
				}
				continue
			}
			states = append(states, state{model: r.model, created: created})
			w.states[r.items[i].uid] = &states[len(states)-1]
		}
	}
	return w
}

// uids returns those of a model, or all for nil, each once, in the order of the runs.
func (w *work) uids(m *model) []string {
	uids := make([]string, 0, len(w.states))
	seen := make(map[string]bool)
	for _, r := range w.runs {
		for i := range r.items {
			if uid := r.items[i].uid; m == nil || r.model == m {
				if w.again && seen[uid] {
					continue
				}
				seen[uid] = w.again
				uids = append(uids, uid)
			}
		}
	}
	return uids
}

// metas reads the metadata, and locks it.
func (w *work) metas() request {
	d := w.t.d.dialect
	among, list := d.among("m.uid", 1, w.uids(nil))
	rd := newReader(nil, 4)
	return request{
		statement: "SELECT m.uid, " + d.readMeta("created_at") + ", " + d.readMeta("updated_at") + ", " + d.readMeta("deleted_at") +
			" FROM " + w.t.d.metadata + " m WHERE " + among + " ORDER BY m.uid" + d.forUpdate(),
		args: []any{list}, reads: rd,
		each: func() error {
			m := rd.meta(0)
			w.states[m.UID].meta = m
			return nil
		},
	}
}

// read reads the rows, and to which model each uid belongs.
func (w *work) read() []request {
	requests := []request{w.metas()}
	d := w.t.d.dialect
	var done []*model
	for _, r := range w.runs {
		m := r.model
		if contains(done, m) {
			continue
		}
		done = append(done, m)
		from, list := d.list(1, w.uids(m))
		rd := newReader(m, 2)
		requests = append(requests, request{
			m: m, statement: "SELECT x.u, o.model, " + m.selected + " FROM " + from + " LEFT JOIN " + d.table("uids") + " o ON o.uid = x.u LEFT JOIN " + m.from + ` t ON t."uid" = x.u`,
			args: []any{list}, reads: rd,
			each: func() error {
				s := w.states[rd.text(0)]
				s.owner, s.row = rd.text(1), rd.row()
				return nil
			},
		})
	}
	return requests
}

func contains(list []*model, m *model) bool {
	for _, other := range list {
		if other == m {
			return true
		}
	}
	return false
}

// decide fills in the decisions and, of the outcomes, what does not depend on the rows as
// they will be stored.
func (w *work) decide() {
	for _, s := range w.states {
		s.decided, s.present, s.ours = s.meta, s.row != nil, false
	}
	for _, r := range w.runs {
		for i := range r.items {
			it := &r.items[i]
			w.outs[it.at] = it.decide(r, w.states[it.uid])
		}
	}
}

func (it *item) decide(r *run, s *state) tidemark.Outcome {
	it.refused, it.present = nil, s.present
	if s.owner != "" && s.owner != r.model.name {
		it.refused = tidemark.NewError(tidemark.CodeUIDTaken, "the uid belongs to another model").OnField("uid")
		return tidemark.Outcome{Err: it.refused}
	}
	dec, err := tidemark.Decide(r.op, it.uid, it.stamp, s.decided, s.present)
	if err != nil {
		it.refused = tidemark.NewError(tidemark.CodeOf(err), "the write has no date")
		return tidemark.Outcome{Err: it.refused}
	}
	it.decision = dec
	o := tidemark.Outcome{Applied: dec.Applied, Meta: dec.Meta, Changed: dec.Changes(s.decided, s.present)}
	if o.Changed {
		o.Before = s.row
	}
	s.decided, s.ours = dec.Meta, true
	s.present = dec.Effect == tidemark.Upsert || dec.Effect == tidemark.Leave && s.present
	return o
}

// write changes rows and metadata as decided.
func (w *work) write() []request {
	var requests []request
	for _, r := range w.runs {
		requests = append(requests, w.put(r)...)
	}
	return append(requests, w.settle()...)
}

// put changes the rows of a run.
func (w *work) put(r *run) (requests []request) {
	var update, insert []entry
	var remove []string
	for i := range r.items {
		it := &r.items[i]
		switch {
		case it.refused != nil:
		case it.decision.Effect == tidemark.Remove && it.present:
			remove = append(remove, it.uid)
		case it.decision.Effect != tidemark.Upsert:
		case !it.present:
			insert = append(insert, entry{it.uid, it.values})
		case len(r.columns) > 0: // otherwise nothing but the stamp moves
			update = append(update, entry{it.uid, it.values})
		}
	}
	if len(update) > 0 {
		requests = append(requests, w.store(r, updateStatement, update))
	}
	if len(insert) > 0 {
		requests = append(requests, w.store(r, insertStatement, insert))
	}
	if len(remove) > 0 {
		among, list := w.t.d.dialect.among(`"uid"`, 1, remove)
		requests = append(requests, request{m: r.model, statement: "DELETE FROM " + r.model.from + " WHERE " + among, args: []any{list}})
	}
	return requests
}

// store runs a statement over a batch of rows, and collects the rows as they have become.
func (w *work) store(r *run, statement func(*run, source) string, entries []entry) request {
	src, args := w.t.d.dialect.batch(r.columns, entries)
	rd := newReader(r.model, 0)
	return request{
		m: r.model, statement: statement(r, src), args: args, reads: rd,
		each: func() error {
			s := w.states[rd.uid()]
			if s == nil { // a trigger gave the row another uid
				return constraint(nil, tidemark.ConstraintCheck, "uid")
			}
			s.written = append(s.written, rd.row())
			return nil
		},
		done: func(n int) error {
			if n == len(entries) {
				return nil
			}
			// Somebody else removed a row in between, or a trigger or a policy does not
			// let the row be written: which of them, only another attempt can tell.
			if w.t.attempt.n < 3 {
				return errRaced
			}
			return constraint(errRaced.cause, tidemark.ConstraintCheck, "")
		},
	}
}

func updateStatement(r *run, src source) string {
	sets := make([]string, len(r.columns))
	for i, c := range r.columns {
		sets[i] = c.sql + " = " + src.columns[i]
	}
	return "UPDATE " + r.model.from + " AS t SET " + strings.Join(sets, ", ") + " FROM " + src.from + ` WHERE t."uid" = ` + src.uid + " RETURNING " + r.model.returned
}

func insertStatement(r *run, src source) string {
	names, values := []string{`"uid"`}, []string{src.uid}
	for i, c := range r.columns {
		names, values = append(names, c.sql), append(values, src.columns[i])
	}
	return "INSERT INTO " + r.model.from + " AS t (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") + " FROM " + src.from + " WHERE true RETURNING " + r.model.returned
}

// settle writes the metadata, and remembers the models of new uids.
func (w *work) settle() (requests []request) {
	var fresh, known, owned []entry
	for _, uid := range w.uids(nil) {
		s := w.states[uid]
		if s.decided != s.meta {
			list := &known
			if s.meta.IsZero() {
				list = &fresh
			}
			*list = append(*list, metaEntry(s.decided))
		}
		if s.owner == "" && s.ours && !s.decided.IsZero() {
			owned = append(owned, entry{uid, []json.RawMessage{s.model.quoted}})
		}
	}
	if len(owned) > 0 {
		requests = append(requests, w.t.own(owned))
	}
	if len(fresh) > 0 {
		requests = append(requests, w.t.newMeta(fresh))
	}
	if len(known) > 0 {
		requests = append(requests, w.t.setMeta(known))
	}
	return requests
}

func metaEntry(m tidemark.Meta) entry {
	return entry{m.UID, []json.RawMessage{stampText(m.CreatedAt), stampText(m.UpdatedAt), stampText(m.DeletedAt)}}
}

var null = json.RawMessage("null")

func stampText(s tidemark.Stamp) json.RawMessage {
	if s == 0 {
		return null
	}
	return s.AppendJSON(make([]byte, 0, 32))
}

var modelColumn = []*column{{name: "model", kind: tidemark.Text, base: "text"}}

// own remembers to which models uids belong.
func (t *tx) own(entries []entry) request {
	src, args := t.d.dialect.batch(modelColumn, entries)
	return request{statement: "INSERT INTO " + t.d.dialect.table("uids") + " (uid, model) SELECT " + src.uid + ", " + src.columns[0] + " FROM " + src.from +
		" WHERE true ON CONFLICT (uid) DO NOTHING", args: args, done: exactly(len(entries))}
}

// newMeta stores metadata where there was none.
func (t *tx) newMeta(entries []entry) request {
	columns, entries := given(entries)
	src, args := t.d.dialect.batch(columns, entries)
	names, values := []string{"uid"}, []string{src.uid}
	for i, c := range columns {
		names, values = append(names, c.name), append(values, src.columns[i])
	}
	return request{statement: "INSERT INTO " + t.d.metadata + " (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") + " FROM " + src.from, args: args, races: true}
}

// setMeta overwrites metadata that is locked.
func (t *tx) setMeta(entries []entry) request {
	columns, entries := given(entries)
	src, args := t.d.dialect.batch(columns, entries)
	sets := make([]string, len(metaTimes))
	for i, c := range metaTimes {
		sets[i] = c.name + " = NULL"
		for k := range columns {
			if columns[k] == c {
				sets[i] = c.name + " = " + src.columns[k]
			}
		}
	}
	return request{statement: "UPDATE " + t.d.metadata + " AS m SET " + strings.Join(sets, ", ") + " FROM " + src.from + " WHERE m.uid = " + src.uid, args: args, done: exactly(len(entries))}
}

// given returns the columns of metadata that are not null in all entries, and the entries with
// these columns: the fewer values a statement binds, the faster it is.
func given(entries []entry) ([]*column, []entry) {
	var has [3]bool
	n := 0
	for i := range entries {
		for k, v := range entries[i].values {
			if !has[k] && string(v) != "null" {
				has[k] = true
				n++
			}
		}
	}
	if n == len(metaTimes) {
		return metaTimes, entries
	}
	var columns []*column
	for k, c := range metaTimes {
		if has[k] {
			columns = append(columns, c)
		}
	}
	cut := make([]entry, len(entries))
	for i, e := range entries {
		values := make([]json.RawMessage, 0, len(columns))
		for k, v := range e.values {
			if has[k] {
				values = append(values, v)
			}
		}
		cut[i] = entry{e.uid, values}
	}
	return columns, cut
}

// exactly checks that a statement concerned n rows. Otherwise somebody came in between.
func exactly(n int) func(int) error {
	return func(got int) error {
		if got < n {
			return errRaced
		}
		return nil
	}
}

// conclude fills in the outcomes what the database made of the rows.
func (w *work) conclude() {
	for _, r := range w.runs {
		for i := range r.items {
			it := &r.items[i]
			o, s := &w.outs[it.at], w.states[it.uid]
			if it.refused != nil {
				continue
			}
			before := s.row
			switch {
			case it.decision.Effect == tidemark.Remove:
				s.row = nil
			case it.decision.Effect == tidemark.Upsert && (len(r.columns) > 0 || !it.present):
				s.row, s.written = s.written[0], s.written[1:]
			}
			o.Row = s.row
			if o.Applied && r.op == tidemark.Delete {
				o.Row = before
			}
			if o.Changed {
				o.Before = before
			}
		}
	}
}

// apply makes runs in a transaction in which their uids are taken. A refusal by the database
// is the error, and then nothing of them may be kept. The log is the caller's.
func (t *tx) apply(ctx context.Context, runs []*run, outs []tidemark.Outcome) error {
	w := t.work(runs, outs)
	if err := t.do(ctx, w.read()...); err != nil {
		return err
	}
	w.decide()
	if err := t.do(ctx, w.write()...); err != nil {
		return err
	}
	w.conclude()
	return nil
}
