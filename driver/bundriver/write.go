package bundriver

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// run is a part of a batch that takes one set of statements: consecutive
// mutations of one model, operation and set of columns, each of another row.
type run struct {
	model   *model
	op      tidemark.Op
	columns []*column
	undated bool // updates without a stamp, which never win
	items   []item
}

// item is a mutation of a run.
type item struct {
	at     int // its place in the batch
	uid    string
	stamp  tidemark.Stamp
	values []json.RawMessage // one a column of the run

	// What is decided about it: see work.
	refused  *tidemark.Error
	decision tidemark.Decision
	present  bool // whether there was a row
}

// maxAttempts is how often a transaction is tried that meets with deadlocks or with
// writers that do not use this library.
const maxAttempts = 5

// Write makes the mutations in one transaction. Runs of like mutations take a
// constant number of statements each. When the database refuses a row, the
// transaction begins anew with savepoints, and the run is halved until the row is
// found.
//
// Where a deferred constraint fails only at the commit, as it can in SQLite, the
// mutations are written one by one, each in a transaction of its own.
func (d *Driver) Write(ctx context.Context, ms []tidemark.Mutation) ([]tidemark.Outcome, error) {
	return d.WriteTx(ctx, ms, nobody{})
}

// nobody is a witness that does not care.
type nobody struct{}

func (nobody) Decided(int, []tidemark.Outcome) {}
func (nobody) Ended(bool)                      {}

// WriteTx is Write with a witness. In a transaction of [Driver.RunInTx] a batch has savepoints
// instead of new beginnings, and constraints that are deferred fail at the commit.
func (d *Driver) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	j, err := d.joined(ctx)
	switch {
	case err != nil:
		return nil, err
	case j != nil:
		return j.write(ctx, ms, w)
	}
	return d.write(ctx, ms, 0, w)
}

// heard reports whether somebody hears of what is made with the witness w.
func heard(w tidemark.Witness) bool {
	_, silent := w.(nobody)
	return w != nil && !silent
}

// write makes the mutations, which stand at from in what the witness knows.
func (d *Driver) write(ctx context.Context, ms []tidemark.Mutation, from int, w tidemark.Witness) ([]tidemark.Outcome, error) {
	outs := make([]tidemark.Outcome, len(ms))
	runs := d.plan(ms, outs)
	err := repeat(runs, outs, func(a attempt) error {
		return d.transact(ctx, runs, outs, a, from, w)
	})
	if refusal(err) != nil {
		return d.writeEach(ctx, ms, from, w)
	}
	if err != nil {
		return nil, err
	}
	return outs, nil
}

func (d *Driver) writeEach(ctx context.Context, ms []tidemark.Mutation, from int, w tidemark.Witness) ([]tidemark.Outcome, error) {
	outs := make([]tidemark.Outcome, 0, len(ms))
	for i := range ms {
		o, err := d.write(ctx, ms[i:i+1], from+i, w)
		if err != nil {
			return nil, err
		}
		outs = append(outs, o...)
	}
	return outs, nil
}

// attempt is how a transaction is tried.
type attempt struct {
	n       int  // from 1
	careful bool // with savepoints, to find what the database refuses
	claims  bool // the uids of all rows are claimed, also of those that are only changed
}

// repeat has once make the runs, again when it met with somebody else's writes, and
// carefully when the database refuses a row. The error is a refusal if even that did not help.
func repeat(runs []*run, outs []tidemark.Outcome, once func(attempt) error) error {
	for a := (attempt{n: 1}); len(runs) > 0; a.n++ {
		err := once(a)
		refused := refusal(err)
		again, race := errors.AsType[*retryError](err)
		switch {
		case err == nil:
			return nil
		case err == errUnclaimed:
			a.n, a.claims = a.n-1, true
		case race && a.n < maxAttempts:
		case race:
			return unavailable(again.cause)
		case refused == nil:
			return err
		case len(runs) == 1 && len(runs[0].items) == 1:
			outs[runs[0].items[0].at] = tidemark.Outcome{Err: refused}
			return nil
		case a.careful:
			return refused
		default:
			a.careful = true
		}
	}
	return nil
}

// plan cuts a batch into runs. Mutations that can be refused without the database get their outcome;
// those that have an error already are left out.
func (d *Driver) plan(ms []tidemark.Mutation, outs []tidemark.Outcome) []*run {
	var runs []*run
	var last *run
	seen := make(map[string]bool, len(ms))
	for i := range ms {
		if outs[i].Err != nil {
			continue
		}
		r, err := d.parse(&ms[i])
		if err != nil {
			e, _ := errors.AsType[*tidemark.Error](err)
			outs[i] = tidemark.Outcome{Err: e}
			continue
		}
		r.items[0].at = i
		if last != nil && last.like(r) && !seen[ms[i].UID] {
			last.items = append(last.items, r.items[0])
		} else {
			last = r
			runs = append(runs, r)
			clear(seen)
		}
		seen[ms[i].UID] = true
	}
	return runs
}

// parse makes a run of one mutation.
func (d *Driver) parse(m *tidemark.Mutation) (*run, error) {
	model := d.models[m.Model]
	if model == nil {
		return nil, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model %s", m.Model)
	}
	if err := tidemark.CheckUID(m.UID); err != nil {
		return nil, err
	}
	if m.Op < tidemark.Create || m.Op > tidemark.Adopt {
		return nil, tidemark.NewError(tidemark.CodeInvalidData, "unknown operation")
	}
	r := &run{model: model, op: m.Op, undated: m.Stamp == 0, items: []item{{uid: m.UID, stamp: m.Stamp}}}
	if y := time.UnixMicro(int64(m.Stamp)).UTC().Year(); y < 0 || y > 9999 {
		return nil, tidemark.NewError(tidemark.CodeInvalidStamp, "the write's date is out of range")
	}
	if r.undated && m.Op != tidemark.Update {
		_, err := tidemark.Decide(m.Op, m.UID, 0, tidemark.Meta{}, false)
		return nil, err
	}
	if m.Op == tidemark.Delete || m.Op == tidemark.Adopt || len(m.Data) == 0 {
		return r, nil
	}
	return r, r.take(m.Data)
}

// take adds the columns that data has. A duplicate or a value of another kind
// cannot come here: Schema.Patch has made the data.
func (r *run) take(data tidemark.Row) error {
	err := tidemark.EachMember(data, func(key string, value []byte) error {
		c := r.model.byName[key]
		if c == nil || c.readOnly || key == "uid" {
			return tidemark.NewError(tidemark.CodeInvalidData, "the column cannot be written").OnField(key)
		}
		r.columns = append(r.columns, c)
		r.items[0].values = append(r.items[0].values, value)
		return nil
	})
	if err != nil && tidemark.CodeOf(err) != tidemark.CodeInvalidData {
		err = tidemark.NewError(tidemark.CodeInvalidData, "the data is not an object")
	}
	return err
}

func (r *run) like(o *run) bool {
	if r.model != o.model || r.op != o.op || r.undated != o.undated || len(r.columns) != len(o.columns) {
		return false
	}
	for i := range r.columns {
		if r.columns[i] != o.columns[i] {
			return false
		}
	}
	return true
}

// halves cuts a run of two or more in two.
func (r *run) halves() [2]*run {
	a, b := *r, *r
	n := len(r.items) / 2
	a.items, b.items = r.items[:n:n], r.items[n:]
	return [2]*run{&a, &b}
}

// transact makes the runs in one transaction and fills in their outcomes. When
// careful, refused rows get an outcome; otherwise the first one is the error.
func (d *Driver) transact(ctx context.Context, runs []*run, outs []tidemark.Outcome, a attempt, from int, w tidemark.Witness) error {
	t, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer t.end(ctx)
	t.attempt, t.witnessed = a, heard(w)
	if err := t.applyAll(ctx, runs, outs); err != nil {
		return err
	}
	w.Decided(from, outs)
	err = t.commit(ctx)
	w.Ended(err == nil)
	return err
}

// applyAll makes the runs and logs what they change.
func (t *tx) applyAll(ctx context.Context, runs []*run, outs []tidemark.Outcome) error {
	all := t.work(runs, outs)
	careful := t.attempt.careful
	// What one run's triggers do to another's rows, only a reading for each of them sees.
	if careful || all.mixed || t.attempt.n > 1 && len(runs) > 1 {
		if err := t.do(ctx, append(all.claim(true), all.metas())...); err != nil {
			return err
		}
		for _, r := range runs {
			if err := t.applyRun(ctx, r, outs, careful); err != nil {
				return err
			}
		}
		return t.do(ctx, t.finish(runs, outs, "")...)
	}
	if err := t.do(ctx, append(all.claim(false), all.read()...)...); err != nil {
		return err
	}
	if err := all.secured(); err != nil {
		return err
	}
	all.decide()
	return all.carryOut(ctx, "")
}

// carryOut writes what is decided, with the log and whatever else is to be written.
func (w *work) carryOut(ctx context.Context, origin string, more ...request) error {
	requests := w.write()
	if w.again { // the log needs rows that are not written yet
		if err := w.t.do(ctx, requests...); err != nil {
			return err
		}
		w.conclude()
		requests = nil
	}
	requests = append(requests, w.t.finish(w.runs, w.outs, origin)...)
	if err := w.t.do(ctx, append(requests, more...)...); err != nil {
		return err
	}
	if !w.again {
		w.conclude()
	}
	return nil
}

// claim takes uids for their models, in one order, where several transactions
// may write at once. With the metadata, which is locked next, that keeps everybody else from the
// rows, also from those that do not exist yet; and batches that touch the same rows
// in different orders wait instead of dying of deadlock. What comes to nothing is given back.
//
// For a row that has metadata already, its lock is enough. Those that are to be created are claimed; the
// others, unless all are asked for, are left to secured.
func (w *work) claim(all bool) []request {
	t := w.t
	d := t.d.dialect
	if d.forUpdate() == "" {
		return nil
	}
	all = all || t.attempt.claims
	entries := make([]entry, 0, len(w.states))
	models := make(map[*model][]json.RawMessage)
	for _, uid := range w.uids(nil) {
		s := w.states[uid]
		m := s.model
		if m == nil || !all && !s.created { // of two models, which one gets it is not known yet
			continue
		}
		s.claimed = true
		if models[m] == nil {
			models[m] = []json.RawMessage{m.quoted}
		}
		entries = append(entries, entry{uid, models[m]})
	}
	if len(entries) == 0 {
		return nil
	}
	if t.taken == nil {
		t.taken = make(map[string]bool, len(entries))
	}
	src, args := d.batch(modelColumn, entries)
	rd := newReader(nil, 1)
	return []request{{statement: "INSERT INTO " + d.table("uids") + " (uid, model) SELECT " + src.uid + ", " + src.columns[0] + " FROM " + src.from +
		" ORDER BY 1 ON CONFLICT (uid) DO NOTHING RETURNING uid", args: args, reads: rd, each: func() error {
		t.taken[rd.text(0)] = true
		return nil
	}}}
}

// errUnclaimed says that a row was not there that was to be changed: nothing keeps others from it.
var errUnclaimed = errors.New("bundriver: a row is neither claimed nor locked")

// secured checks that others are kept from all rows that were read.
func (w *work) secured() error {
	if w.t.d.dialect.forUpdate() == "" {
		return nil
	}
	for _, s := range w.states {
		if !s.claimed && (s.owner == "" || s.meta.IsZero()) {
			return errUnclaimed
		}
	}
	return nil
}

// finish writes the log of the outcomes, and gives the uids back of which there is no metadata after all.
func (t *tx) finish(runs []*run, outs []tidemark.Outcome, origin string) []request {
	for _, r := range runs {
		for i := range r.items {
			if o := &outs[r.items[i].at]; o.Err == nil && !o.Meta.IsZero() {
				delete(t.taken, r.items[i].uid)
			}
		}
	}
	requests := t.logged(runs, outs, origin)
	if len(t.taken) > 0 {
		among, list := t.d.dialect.among("uid", 1, slices.Collect(maps.Keys(t.taken)))
		requests = append(requests, request{statement: "DELETE FROM " + t.d.dialect.table("uids") + " WHERE " + among, args: []any{list}})
	}
	return requests
}

// applyRun makes one run; when careful, with the refused rows picked out.
func (t *tx) applyRun(ctx context.Context, r *run, outs []tidemark.Outcome, careful bool) error {
	if !careful {
		return t.apply(ctx, []*run{r}, outs)
	}
	err := t.atomically(ctx, func() error { return t.apply(ctx, []*run{r}, outs) })
	refused := refusal(err)
	if refused == nil {
		return err
	}
	if len(r.items) == 1 {
		outs[r.items[0].at] = tidemark.Outcome{Err: refused}
		return nil
	}
	for _, half := range r.halves() {
		if err := t.applyRun(ctx, half, outs, careful); err != nil {
			return err
		}
	}
	return nil
}
