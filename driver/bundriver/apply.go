package bundriver

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// state is what the database has of an item's row, and what is decided about it.
type state struct {
	owner string // the model that the uid belongs to, "" when that is not known
	meta  tidemark.Meta
	row   tidemark.Row

	won      bool // the claim has written the metadata
	refused  *tidemark.Error
	decision tidemark.Decision
}

// apply makes the mutations of a run in a constant number of statements. A refusal
// by the database is the error, and then nothing of the run may be kept.
func (t *tx) apply(ctx context.Context, r *run, outs []tidemark.Outcome) error {
	won, err := t.claim(ctx, r)
	if err != nil {
		return err
	}
	states, err := t.read(ctx, r)
	if err != nil {
		return err
	}
	if err := decide(r, states, won); err != nil {
		return err
	}
	if err := t.settle(ctx, r, states); err != nil {
		return err
	}
	after, err := t.put(ctx, r, states)
	if err != nil {
		return err
	}
	for i := range r.items {
		outs[r.items[i].at] = states[i].outcome(r.op, after[r.items[i].uid])
	}
	return nil
}

// claim lets the database decide, where several transactions may write at once: it
// writes the metadata of the mutations that win, returns it by uid, and locks that
// of the others. nil means that nothing is decided yet.
func (t *tx) claim(ctx context.Context, r *run) (map[string]tidemark.Meta, error) {
	statement := t.d.dialect.claim(t.d.metadata, r.op, len(r.items))
	if statement == "" {
		return nil, nil
	}
	if r.undated || r.op == tidemark.Adopt {
		return nil, t.lock(ctx, r.uids())
	}
	stamp := metaTimes[:1]
	entries := make([]entry, len(r.items))
	for i, it := range r.items {
		entries[i] = entry{it.uid, []json.RawMessage{it.stamp.AppendJSON(nil)}}
	}
	batch := appendBatch(nil, t.d.dialect, t.d.dialect.batch(stamp, len(entries)), stamp, entries)
	won := make(map[string]tidemark.Meta, len(r.items))
	rd := newReader(nil, 4)
	err := t.query(ctx, rd, r.model, func() error {
		m := rd.meta(0)
		won[m.UID] = m
		return nil
	}, statement, string(batch), r.model.name)
	if err != nil || len(won) == len(r.items) {
		return won, err
	}
	// Those that lost are locked as well, but for one whose uid came into being
	// while the statement ran: it cannot see to which model.
	var lost []string
	for i := range r.items {
		if _, ok := won[r.items[i].uid]; !ok {
			lost = append(lost, r.items[i].uid)
		}
	}
	return won, t.lock(ctx, lost)
}

// read returns the states of a run's items, in their order.
func (t *tx) read(ctx context.Context, r *run) ([]state, error) {
	d := t.d.dialect
	statement := "SELECT x.u, o.model, m.uid, " + d.readMeta("created_at") + ", " + d.readMeta("updated_at") + ", " + d.readMeta("deleted_at") + ", " + r.model.selected +
		" FROM " + d.list(1, len(r.items)) + " LEFT JOIN " + d.uids() + " o ON o.uid = x.u LEFT JOIN " + t.d.metadata + " m ON m.uid = x.u LEFT JOIN " + r.model.from + ` t ON t."uid" = x.u`
	at := make(map[string]int, len(r.items))
	for i := range r.items {
		at[r.items[i].uid] = i
	}
	states := make([]state, len(r.items))
	rd := newReader(r.model, 6)
	err := t.query(ctx, rd, r.model, func() error {
		states[at[rd.text(0)]] = state{owner: rd.text(1), meta: rd.meta(2), row: rd.row()}
		return nil
	}, statement, string(appendList(nil, r.uids())))
	return states, err
}

var effects = [...]tidemark.Effect{tidemark.Create: tidemark.Upsert, tidemark.Update: tidemark.Upsert, tidemark.Delete: tidemark.Remove}

// decide fills in the decisions: those of a claim that won are made, all others
// are Decide's. Where a claim was made and did not win, Decide must not think that
// it should have: then somebody came in between.
func decide(r *run, states []state, won map[string]tidemark.Meta) error {
	for i := range states {
		s, it := &states[i], &r.items[i]
		if s.owner != "" && s.owner != r.model.name {
			s.refused = tidemark.NewError(tidemark.CodeUIDTaken, "the uid belongs to another model").OnField("uid")
			continue
		}
		if m, ok := won[it.uid]; ok {
			s.won, s.decision = true, tidemark.Decision{Applied: true, Effect: effects[r.op], Meta: m}
			continue
		}
		dec, err := tidemark.Decide(r.op, it.uid, it.stamp, s.meta, s.row != nil)
		if err != nil {
			s.refused = tidemark.NewError(tidemark.CodeOf(err), "the write has no date")
			continue
		}
		if won != nil && dec.Applied {
			return errRaced
		}
		s.decision = dec
	}
	return nil
}

// settle writes the metadata that the claim has not written, and remembers the model of new uids.
func (t *tx) settle(ctx context.Context, r *run, states []state) error {
	var owned, metas []entry
	for i := range states {
		s := &states[i]
		if s.refused != nil || s.won || s.decision.Meta.IsZero() {
			continue
		}
		if s.owner == "" {
			owned = append(owned, entry{uid: r.items[i].uid})
		}
		if m := s.decision.Meta; m != s.meta {
			metas = append(metas, entry{m.UID, []json.RawMessage{m.CreatedAt.AppendJSON(nil), m.UpdatedAt.AppendJSON(nil), m.DeletedAt.AppendJSON(nil)}})
		}
	}
	if err := t.own(ctx, r.model, owned); err != nil {
		return err
	}
	return t.writeMeta(ctx, metas, r.op == tidemark.Adopt)
}

// own remembers that uids belong to a model.
func (t *tx) own(ctx context.Context, m *model, entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	d := t.d.dialect
	src := d.batch(nil, len(entries))
	n, err := t.affect(ctx, m, "INSERT INTO "+d.uids()+" (uid, model) SELECT "+src.uid+", "+d.placeholder(2)+" FROM "+src.from+
		" WHERE true ON CONFLICT (uid) DO NOTHING", string(appendBatch(nil, d, src, nil, entries)), m.name)
	if err == nil && n < len(entries) {
		err = errRaced
	}
	return err
}

// writeMeta stores metadata as it is; with fresh, metadata that somebody else has
// stored in the meantime is not overwritten.
func (t *tx) writeMeta(ctx context.Context, entries []entry, fresh bool) error {
	if len(entries) == 0 {
		return nil
	}
	d := t.d.dialect
	src := d.batch(metaTimes, len(entries))
	conflict := "DO UPDATE SET created_at = EXCLUDED.created_at, updated_at = EXCLUDED.updated_at, deleted_at = EXCLUDED.deleted_at"
	if fresh {
		conflict = "DO NOTHING"
	}
	n, err := t.affect(ctx, nil, "INSERT INTO "+t.d.metadata+" (uid, created_at, updated_at, deleted_at) SELECT "+src.uid+", "+strings.Join(src.columns, ", ")+
		" FROM "+src.from+" WHERE true ON CONFLICT (uid) "+conflict, string(appendBatch(nil, d, src, metaTimes, entries)))
	if err == nil && n < len(entries) {
		err = errRaced
	}
	return err
}

// put changes the rows as decided and returns those that were upserted, by uid.
func (t *tx) put(ctx context.Context, r *run, states []state) (map[string]tidemark.Row, error) {
	var update, insert []entry
	var remove []string
	after := make(map[string]tidemark.Row)
	for i := range states {
		s, it := &states[i], &r.items[i]
		switch {
		case s.refused != nil:
		case s.decision.Effect == tidemark.Remove && s.row != nil:
			remove = append(remove, it.uid)
		case s.decision.Effect != tidemark.Upsert:
		case s.row == nil:
			insert = append(insert, entry{it.uid, it.values})
		case len(r.columns) == 0: // nothing but the stamp moves
			after[it.uid] = s.row
		default:
			update = append(update, entry{it.uid, it.values})
		}
	}
	if err := t.store(ctx, r, updateStatement, update, after); err != nil {
		return nil, err
	}
	if err := t.store(ctx, r, insertStatement, insert, after); err != nil {
		return nil, err
	}
	if len(remove) == 0 {
		return after, nil
	}
	_, err := t.affect(ctx, r.model, "DELETE FROM "+r.model.from+` WHERE "uid" IN (SELECT x.u FROM `+t.d.dialect.list(1, len(remove))+")", string(appendList(nil, remove)))
	return after, err
}

// store runs a statement over a batch of rows, and collects the rows as they have become.
func (t *tx) store(ctx context.Context, r *run, statement func(*run, source) string, entries []entry, after map[string]tidemark.Row) error {
	if len(entries) == 0 {
		return nil
	}
	d := t.d.dialect
	src := d.batch(r.columns, len(entries))
	n := 0
	rd := newReader(r.model, 0)
	err := t.query(ctx, rd, r.model, func() error {
		n++
		after[rd.uid()] = rd.row()
		return nil
	}, statement(r, src), string(appendBatch(nil, d, src, r.columns, entries)))
	if err != nil || n == len(entries) {
		return err
	}
	// Somebody else removed a row in between, or a trigger or a policy does not
	// let the row be written: which of them, only another attempt can tell.
	if t.attempt < 3 {
		return errRaced
	}
	return constraint(errRaced.cause, tidemark.ConstraintCheck, "")
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
	return "INSERT INTO " + r.model.from + " AS t (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") + " FROM " + src.from + " RETURNING " + r.model.returned
}

// outcome tells what became of an item; after is the row if it was upserted.
func (s *state) outcome(op tidemark.Op, after tidemark.Row) tidemark.Outcome {
	if s.refused != nil {
		return tidemark.Outcome{Err: s.refused}
	}
	o := tidemark.Outcome{Applied: s.decision.Applied, Meta: s.decision.Meta}
	switch {
	case s.decision.Effect == tidemark.Upsert:
		o.Row = after
	case s.decision.Effect == tidemark.Leave || o.Applied && op == tidemark.Delete:
		o.Row = s.row
	}
	if o.Applied {
		o.Before = s.row
	}
	return o
}
