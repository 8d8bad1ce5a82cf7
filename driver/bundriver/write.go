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

// write makes the mutations, which stand at from in what the witness knows.
func (d *Driver) write(ctx context.Context, ms []tidemark.Mutation, from int, w tidemark.Witness) ([]tidemark.Outcome, error) {
	outs := make([]tidemark.Outcome, len(ms))
	runs := d.plan(ms, outs)
	err := repeat(runs, outs, func(careful bool, attempt int) error {
		return d.transact(ctx, runs, outs, careful, attempt, from, w)
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

// repeat has once make the runs, again when it met with somebody else's writes, and
// carefully when the database refuses a row. The error is a refusal if even that did not help.
func repeat(runs []*run, outs []tidemark.Outcome, once func(careful bool, attempt int) error) error {
	careful := false
	for attempt := 1; len(runs) > 0; attempt++ {
		err := once(careful, attempt)
		refused := refusal(err)
		again, race := errors.AsType[*retryError](err)
		switch {
		case err == nil:
			return nil
		case race && attempt < maxAttempts:
		case race:
			return unavailable(again.cause)
		case refused == nil:
			return err
		case len(runs) == 1 && len(runs[0].items) == 1:
			outs[runs[0].items[0].at] = tidemark.Outcome{Err: refused}
			return nil
		case careful:
			return refused
		default:
			careful = true
		}
	}
	return nil
}

// plan cuts a batch into runs. Mutations that can be refused without the database get their outcome.
func (d *Driver) plan(ms []tidemark.Mutation, outs []tidemark.Outcome) []*run {
	var runs []*run
	var last *run
	seen := make(map[string]bool, len(ms))
	for i := range ms {
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

func (r *run) uids() []string {
	uids := make([]string, len(r.items))
	for i := range r.items {
		uids[i] = r.items[i].uid
	}
	return uids
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
func (d *Driver) transact(ctx context.Context, runs []*run, outs []tidemark.Outcome, careful bool, attempt, from int, w tidemark.Witness) error {
	t, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer t.end(ctx)
	t.attempt = attempt
	if err := t.applyAll(ctx, runs, outs, careful); err != nil {
		return err
	}
	w.Decided(from, outs)
	err = t.commit(ctx)
	w.Ended(err == nil)
	return err
}

func (t *tx) applyAll(ctx context.Context, runs []*run, outs []tidemark.Outcome, careful bool) (err error) {
	if len(runs) > 1 {
		if err := t.lockAll(ctx, runs); err != nil {
			return err
		}
	}
	for _, r := range runs {
		if careful {
			err = t.applyCarefully(ctx, r, outs)
		} else {
			err = t.apply(ctx, r, outs)
		}
		if err != nil {
			return err
		}
	}
	return t.giveBack(ctx, runs, outs)
}

// lockAll locks the uids of all runs in one order, so that batches that touch the
// same rows in different orders wait instead of dying of deadlock: what metadata
// there is, and, where there is none to lock, the table of uids, by taking the
// uid for its model. Those that come to nothing are given back by giveBack.
func (t *tx) lockAll(ctx context.Context, runs []*run) error {
	if t.d.dialect.lock(t.d.metadata, 1) == "" {
		return nil
	}
	models := make(map[string]string)
	for _, r := range runs {
		for i := range r.items {
			if m, ok := models[r.items[i].uid]; ok && m != r.model.name {
				models[r.items[i].uid] = "" // which of the two gets it is not known yet
			} else if !ok {
				models[r.items[i].uid] = r.model.name
			}
		}
	}
	var uids []string
	var entries []entry
	for uid, model := range models {
		uids = append(uids, uid)
		if model != "" {
			entries = append(entries, entry{uid, []json.RawMessage{tidemark.AppendString(nil, model)}})
		}
	}
	if err := t.take(ctx, entries); err != nil {
		return err
	}
	return t.lock(ctx, uids)
}

var modelColumn = []*column{{name: "model", kind: tidemark.Text}}

// take gives the uids that are nobody's to the models that the entries name.
func (t *tx) take(ctx context.Context, entries []entry) error {
	d := t.d.dialect
	src := d.batch(modelColumn, len(entries))
	t.taken = make(map[string]bool)
	rd := newReader(nil, 1)
	return t.query(ctx, rd, nil, func() error {
		t.taken[rd.text(0)] = true
		return nil
	}, "INSERT INTO "+d.uids()+" (uid, model) SELECT "+src.uid+", "+src.columns[0]+" FROM "+src.from+
		" WHERE true ORDER BY 1 ON CONFLICT (uid) DO NOTHING RETURNING uid", string(appendBatch(nil, d, src, modelColumn, entries)))
}

// giveBack undoes take for the uids of which there is no metadata after all.
func (t *tx) giveBack(ctx context.Context, runs []*run, outs []tidemark.Outcome) error {
	for _, r := range runs {
		for i := range r.items {
			if o := &outs[r.items[i].at]; o.Err == nil && !o.Meta.IsZero() {
				delete(t.taken, r.items[i].uid)
			}
		}
	}
	if len(t.taken) == 0 {
		return nil
	}
	d := t.d.dialect
	return t.exec(ctx, "DELETE FROM "+d.uids()+" WHERE uid IN (SELECT x.u FROM "+d.list(1, len(t.taken))+")", string(appendList(nil, slices.Collect(maps.Keys(t.taken)))))
}

func (t *tx) lock(ctx context.Context, uids []string) error {
	statement := t.d.dialect.lock(t.d.metadata, len(uids))
	if statement == "" {
		return nil
	}
	return t.exec(ctx, statement, string(appendList(nil, uids)))
}

// applyCarefully is apply with the refused rows picked out.
func (t *tx) applyCarefully(ctx context.Context, r *run, outs []tidemark.Outcome) error {
	err := t.atomically(ctx, func() error { return t.apply(ctx, r, outs) })
	refused := refusal(err)
	if refused == nil {
		return err
	}
	if len(r.items) == 1 {
		outs[r.items[0].at] = tidemark.Outcome{Err: refused}
		return nil
	}
	for _, half := range r.halves() {
		if err := t.applyCarefully(ctx, half, outs); err != nil {
			return err
		}
	}
	return nil
}
