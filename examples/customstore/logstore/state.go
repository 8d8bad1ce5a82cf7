package logstore

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// state is all that a store knows. Its maps are never changed once it is the
// store's; a transaction copies those that it changes.
type state struct {
	models  map[string]map[string]tidemark.Record // by the model's name, then by uid
	outbox  map[int64]tidemark.Mutation           // by number
	last    int64                                 // the highest number ever given
	entries map[string][]byte

	mine map[string]bool // the maps that a transaction has copied already
}

// own returns a copy that may be changed by apply.
func (s *state) own() state {
	c := *s
	c.mine = map[string]bool{}
	return c
}

// change is one change of the state. It is what a transaction does, and what the
// log remembers: reading the log is doing all changes again, in their order, by
// the same function.
type change struct {
	Declare string    `json:"declare,omitempty"`
	Put     *record   `json:"put,omitempty"`
	Enqueue *mutation `json:"enqueue,omitempty"`
	Amend   *mutation `json:"amend,omitempty"`
	Dequeue int64     `json:"dequeue,omitempty"`
	Save    *entry    `json:"save,omitempty"`
	Last    int64     `json:"last,omitempty"` // only in a log's first change list: numbers are never given twice
}

func (s *state) apply(c change) {
	switch {
	case c.Declare != "":
		s.records(c.Declare)
	case c.Put != nil:
		rows, r := s.records(c.Put.Model), c.Put.record()
		if r.IsZero() {
			delete(rows, r.UID)
		} else {
			rows[r.UID] = r
		}
	case c.Enqueue != nil:
		s.last = c.Enqueue.N
		copied(s, "outbox", &s.outbox)[s.last] = c.Enqueue.mutation()
	case c.Amend != nil:
		copied(s, "outbox", &s.outbox)[c.Amend.N] = c.Amend.mutation()
	case c.Dequeue != 0:
		delete(copied(s, "outbox", &s.outbox), c.Dequeue)
	case c.Save != nil && c.Save.Value == nil:
		delete(copied(s, "entries", &s.entries), c.Save.Key)
	case c.Save != nil:
		copied(s, "entries", &s.entries)[c.Save.Key] = c.Save.Value
	case c.Last != 0:
		s.last = c.Last
	}
}

// records returns a model's records, to be changed.
func (s *state) records(model string) map[string]tidemark.Record {
	models := copied(s, "models", &s.models)
	rows := models[model]
	models[model] = copied(s, "model "+model, &rows)
	return models[model]
}

// copied returns the map at m, after it was copied once in this transaction.
func copied[K comparable, V any](s *state, name string, m *map[K]V) map[K]V {
	if !s.mine[name] {
		s.mine[name] = true
		if *m = maps.Clone(*m); *m == nil {
			*m = map[K]V{}
		}
	}
	return *m
}

// changes returns the state as the shortest list of changes that make it.
func (s *state) changes() []change {
	var cs []change
	for _, model := range sortedKeys(s.models) {
		cs = append(cs, change{Declare: model})
		for _, uid := range sortedKeys(s.models[model]) {
			cs = append(cs, change{Put: recordOf(model, s.models[model][uid])})
		}
	}
	for _, n := range sortedKeys(s.outbox) {
		cs = append(cs, change{Enqueue: mutationOf(s.outbox[n])})
	}
	for _, key := range sortedKeys(s.entries) {
		cs = append(cs, change{Save: &entry{key, s.entries[key]}})
	}
	return append(cs, change{Last: s.last})
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// record, mutation and entry are how the log writes things. Rows are bytes, so
// base64 in JSON: they must come back to the last byte, which JSON inside JSON does not promise.
type record struct {
	Model   string    `json:"model"`
	UID     string    `json:"uid"`
	Row     []byte    `json:"row,omitempty"`
	Base    []byte    `json:"base,omitempty"`
	Meta    *[3]int64 `json:"meta,omitempty"` // created, updated, deleted; microseconds
	Pending int       `json:"pending,omitempty"`
	Seen    int64     `json:"seen,omitempty"`
}

func recordOf(model string, r tidemark.Record) *record {
	out := &record{Model: model, UID: r.UID, Row: slices.Clone(r.Row), Base: slices.Clone(r.Base), Pending: r.Pending, Seen: r.Seen}
	if !r.Meta.IsZero() {
		out.Meta = &[3]int64{int64(r.Meta.CreatedAt), int64(r.Meta.UpdatedAt), int64(r.Meta.DeletedAt)}
	}
	return out
}

func (r *record) record() tidemark.Record {
	out := tidemark.Record{UID: r.UID, Row: rowOf(r.Row), Base: rowOf(r.Base), Pending: r.Pending, Seen: r.Seen}
	if m := r.Meta; m != nil {
		out.Meta = tidemark.Meta{UID: r.UID, CreatedAt: tidemark.Stamp(m[0]), UpdatedAt: tidemark.Stamp(m[1]), DeletedAt: tidemark.Stamp(m[2])}
	}
	return out
}

// rowOf gives an empty row as nil, which is what the contract knows.
func rowOf(b []byte) tidemark.Row {
	if len(b) == 0 {
		return nil
	}
	return b
}

type mutation struct {
	N     int64       `json:"n"`
	Unit  int64       `json:"unit,omitempty"`
	Model string      `json:"model"`
	UID   string      `json:"uid"`
	Op    tidemark.Op `json:"op"`
	Data  []byte      `json:"data,omitempty"`
	Stamp int64       `json:"stamp"`
}

func mutationOf(m tidemark.Mutation) *mutation {
	return &mutation{m.N, m.Unit, m.Model, m.UID, m.Op, slices.Clone(m.Data), int64(m.Stamp)}
}

func (m *mutation) mutation() tidemark.Mutation {
	return tidemark.Mutation{N: m.N, Unit: m.Unit, Model: m.Model, UID: m.UID, Op: m.Op, Data: rowOf(m.Data), Stamp: tidemark.Stamp(m.Stamp)}
}

type entry struct {
	Key   string `json:"key"`
	Value []byte `json:"value"` // null removes the entry
}
