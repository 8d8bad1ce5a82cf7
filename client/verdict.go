package client

import (
	"bytes"
	"maps"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// decision is what became of one write of the outbox, in either protocol.
type decision struct {
	n          int64 // the write's number
	model, uid string
	err        *tidemark.Error  // why it was refused, nil when it was not
	applied    bool             // it is, or was for a time, the server's state
	state      tidemark.RowMeta // the server's state after it; the zero Meta where it was not told
}

func decisionOf(m *tidemark.Mutation) decision {
	return decision{n: m.N, model: m.Model, uid: m.UID}
}

// conclude takes decided writes out of the outbox: what the server told of their
// rows becomes the base, what was refused or superseded is listed. A write that is
// no longer in the outbox (its model was reset) is left alone. The number of
// statements does not depend on that of decisions, but for what is listed.
func (w *work) conclude(ds []decision) error {
	byModel := map[string]*rows{}
	for i := range ds {
		rowsOf(byModel, ds[i].model).add(ds[i].uid)
	}
	models := slices.Sorted(maps.Keys(byModel))
	for _, model := range models {
		if err := byModel[model].load(w, model); err != nil {
			return err
		}
	}
	var ns []int64
	for i := range ds {
		d := &ds[i]
		m, later, queued := byModel[d.model].next(d.uid, d.n)
		if !queued {
			continue
		}
		if err := w.decide(d, m, byModel[d.model].byUID[d.uid], later); err != nil {
			return err
		}
		ns = append(ns, d.n)
	}
	if err := w.dequeue(ns); err != nil {
		return err
	}
	for _, model := range models {
		if err := w.settle(model, byModel[model].recs, byModel[model].pending); err != nil {
			return err
		}
	}
	return nil
}

// decide changes the record of m's row by what was decided about m, and lists m
// when it did not become the server's state and the user would miss it.
func (w *work) decide(d *decision, m tidemark.Mutation, r *tidemark.Record, later []tidemark.Mutation) error {
	t := d.state
	if d.applied && (t.Meta.UID == "" || t.Row == nil && m.Op != tidemark.Delete) {
		// The server told no row: it is the former one with this write.
		base, meta := tidemark.Rebase(r.Base, r.Meta, []tidemark.Mutation{m})
		if meta.T() == m.Stamp {
			t.Row = base
		}
		if t.Meta.UID == "" {
			t.Meta = meta
		}
	}
	if t.Meta.UID != "" {
		w.told(r, t, true)
	} else {
		t = known(r)
	}
	switch {
	case d.err != nil:
		t = known(r)
		return w.reject(m, d.err, t.Row, t.Meta)
	case d.applied, overwritten(m, t.Meta, later):
		return nil
	}
	return w.reject(m, nil, t.Row, t.Meta)
}

// known is the server's state as last told: of a row that left the device has the former version only.
func known(r *tidemark.Record) tidemark.RowMeta {
	t := tidemark.RowMeta{Row: r.Base, Meta: r.Meta}
	if r.Meta.Deleted() {
		t.Row = nil
	}
	if t.Meta.CreatedAt == untold {
		t.Meta.CreatedAt = 0
	}
	return t
}

// rows are the records of some rows of a model, with their pending writes.
type rows struct {
	uids    []string
	byUID   map[string]*tidemark.Record
	recs    []tidemark.Record
	pending pendings
}

// rowsOf returns those of a model, which it makes when there are none.
func rowsOf(byModel map[string]*rows, model string) *rows {
	r := byModel[model]
	if r == nil {
		r = &rows{byUID: map[string]*tidemark.Record{}}
		byModel[model] = r
	}
	return r
}

func (r *rows) add(uid string) {
	if _, twice := r.byUID[uid]; !twice {
		r.byUID[uid] = nil
		r.uids = append(r.uids, uid)
	}
}

func (r *rows) load(w *work, model string) (err error) {
	if r.byUID, r.recs, err = w.records(model, r.uids); err != nil {
		return err
	}
	r.pending, err = w.pendingOf(model, r.recs)
	return err
}

// next takes the write n of a row out of its pending ones, and returns it with those behind it.
func (r *rows) next(uid string, n int64) (m tidemark.Mutation, later []tidemark.Mutation, queued bool) {
	ms := r.pending[uid]
	at := slices.IndexFunc(ms, func(p tidemark.Mutation) bool { return p.N == n })
	if at < 0 {
		return m, nil, false
	}
	m = ms[at]
	if at == 0 { // nearly always: of many writes of one row, none is moved
		r.pending[uid] = ms[1:]
	} else {
		r.pending[uid] = slices.Delete(ms, at, at+1)
	}
	return m, r.pending[uid][at:], true
}

// applied reports whether the state t is what m wanted: it has m's stamp, or an
// earlier one that the server clamped it to. In the second case a state with
// other values than m's is somebody else's. A row that is deleted is deleted,
// whoever did it.
func applied(m tidemark.Mutation, t tidemark.RowMeta) bool {
	if t.Meta.Deleted() || m.Op == tidemark.Delete {
		return t.Meta.Deleted() && m.Op == tidemark.Delete
	}
	switch at := t.Meta.T(); {
	case at > m.Stamp:
		return false
	case at == m.Stamp, t.Row == nil:
		return true
	}
	return contains(t.Row, m.Data)
}

// contains reports whether row has no value that differs from the patch's.
func contains(row, patch tidemark.Row) bool {
	same := true
	_ = tidemark.EachMember(patch, func(key string, value []byte) error {
		if got := row.Get(key); got != nil && !bytes.Equal(got, value) {
			same = false
		}
		return nil
	})
	return same
}

// overwritten reports whether a later write of the row, which will win over meta,
// replaces all that m wrote: then nothing of the user's is lost with m.
func overwritten(m tidemark.Mutation, meta tidemark.Meta, later []tidemark.Mutation) bool {
	for _, l := range later {
		if l.Stamp <= meta.T() {
			continue
		}
		if l.Op == tidemark.Delete {
			return true
		}
		covered := true
		_ = tidemark.EachMember(m.Data, func(key string, _ []byte) error {
			covered = covered && l.Data.Get(key) != nil
			return nil
		})
		if covered && m.Op != tidemark.Delete {
			return true
		}
	}
	return false
}
