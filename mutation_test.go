package tidemark_test

import (
	"testing"

	"github.com/tidemark-sync/tidemark"
	"pgregory.net/rapid"
)

// The three tables of docs/protocol.md, cell by cell. T is 20; a stamp of 10 is
// older, 20 the tie, 30 newer.
func TestDecideFollowsTheTables(t *testing.T) {
	t.Parallel()
	const uid = "u"
	none := tidemark.Meta{}
	live := tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 20}
	tomb := tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 7, DeletedAt: 20}
	blank := tidemark.Meta{UID: uid}
	created := func(s tidemark.Stamp) tidemark.Meta { return tidemark.Meta{UID: uid, CreatedAt: s} }
	buried := live
	buried.DeletedAt = 20

	const (
		create = tidemark.Create
		update = tidemark.Update
		remove = tidemark.Delete
		adopt  = tidemark.Adopt
	)
	for _, c := range []struct {
		name    string
		op      tidemark.Op
		meta    tidemark.Meta
		stamp   tidemark.Stamp
		present bool
		applied bool
		effect  tidemark.Effect
		after   tidemark.Meta
	}{
		{"create, no metadata, no row", create, none, 10, false, true, tidemark.Upsert, created(10)},
		{"create, no metadata, row", create, none, 10, true, true, tidemark.Upsert, created(10)},
		{"create over blank metadata", create, blank, 10, true, true, tidemark.Upsert, created(10)},
		{"create newer than live", create, live, 30, true, true, tidemark.Upsert, created(30)},
		{"create newer than orphan", create, live, 30, false, true, tidemark.Upsert, created(30)},
		{"create ties live", create, live, 20, true, false, tidemark.Leave, live},
		{"create older than live", create, live, 10, true, false, tidemark.Leave, live},
		{"create older than orphan", create, live, 10, false, false, tidemark.Leave, buried},
		{"create newer than tombstone", create, tomb, 30, false, true, tidemark.Upsert, created(30)},
		{"create ties tombstone", create, tomb, 20, false, false, tidemark.Remove, tomb},
		{"create older than tombstone, stale row", create, tomb, 10, true, false, tidemark.Remove, tomb},

		{"update, no metadata", update, none, 10, false, true, tidemark.Upsert, tidemark.Meta{UID: uid, UpdatedAt: 10}},
		{"update newer than live", update, live, 30, true, true, tidemark.Upsert, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 30}},
		{"update newer than orphan", update, live, 30, false, true, tidemark.Upsert, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 30}},
		{"update ties live", update, live, 20, true, false, tidemark.Leave, live},
		{"update older than live", update, live, 10, true, false, tidemark.Leave, live},
		{"update without a stamp over live", update, live, 0, true, false, tidemark.Leave, live},
		{"update without a stamp over orphan", update, live, 0, false, false, tidemark.Leave, buried},
		{"update older than orphan", update, live, 10, false, false, tidemark.Leave, buried},
		{"update newer than tombstone", update, tomb, 30, false, true, tidemark.Upsert, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 30}},
		{"update ties tombstone", update, tomb, 20, true, false, tidemark.Remove, tomb},
		{"update older than tombstone", update, tomb, 10, false, false, tidemark.Remove, tomb},

		{"delete, no metadata", remove, none, 10, true, true, tidemark.Remove, tidemark.Meta{UID: uid, DeletedAt: 10}},
		{"delete newer than live", remove, live, 30, true, true, tidemark.Remove, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 20, DeletedAt: 30}},
		{"delete ties live", remove, live, 20, true, true, tidemark.Remove, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 20, DeletedAt: 20}},
		{"delete older than live", remove, live, 10, true, false, tidemark.Leave, live},
		{"delete older than orphan", remove, live, 10, false, false, tidemark.Leave, buried},
		{"delete newer than tombstone", remove, tomb, 30, false, true, tidemark.Remove, tidemark.Meta{UID: uid, CreatedAt: 5, UpdatedAt: 7, DeletedAt: 30}},
		{"delete ties tombstone", remove, tomb, 20, true, true, tidemark.Remove, tomb},
		{"delete older than tombstone", remove, tomb, 10, true, false, tidemark.Remove, tomb},

		{"adopt, no metadata", adopt, none, 10, true, true, tidemark.Leave, created(10)},
		{"adopt, no metadata, no row", adopt, none, 10, false, false, tidemark.Leave, none},
		{"adopt over live", adopt, live, 30, true, false, tidemark.Leave, live},
		{"adopt over orphan", adopt, live, 30, false, false, tidemark.Leave, live},
		{"adopt over tombstone", adopt, tomb, 30, true, false, tidemark.Leave, tomb},
	} {
		got, err := tidemark.Decide(c.op, uid, c.stamp, c.meta, c.present)
		want := tidemark.Decision{Applied: c.applied, Effect: c.effect, Meta: c.after}
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, want)
		}
	}
	for _, m := range []tidemark.Meta{none, tomb} {
		if _, err := tidemark.Decide(update, uid, 0, m, false); tidemark.CodeOf(err) != tidemark.CodeInvalidStamp {
			t.Errorf("update without a stamp over %+v: got %v, want invalid-stamp", m, err)
		}
	}
	for _, op := range []tidemark.Op{create, remove} {
		if _, err := tidemark.Decide(op, uid, 0, live, true); tidemark.CodeOf(err) != tidemark.CodeInvalidStamp {
			t.Errorf("%v without a stamp: got %v, want invalid-stamp", op, err)
		}
	}
}

// replay makes writes of one row in order, by Decide alone.
func replay(writes []tidemark.Mutation) (tidemark.Row, tidemark.Meta) {
	var row tidemark.Row
	var meta tidemark.Meta
	for _, w := range writes {
		d, err := tidemark.Decide(w.Op, "u", w.Stamp, meta, row != nil)
		if err != nil {
			panic(err)
		}
		meta = d.Meta
		switch d.Effect {
		case tidemark.Upsert:
			row = w.Data
		case tidemark.Remove:
			row = nil
		}
	}
	return row, meta
}

func TestOutcomeDoesNotDependOnTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		stamps := rapid.SliceOfNDistinct(rapid.Int64Range(1, 1000), 1, 8, rapid.ID).Draw(t, "stamps")
		writes := make([]tidemark.Mutation, len(stamps))
		for i, s := range stamps {
			op := rapid.SampledFrom([]tidemark.Op{tidemark.Create, tidemark.Update, tidemark.Delete}).Draw(t, "op")
			writes[i] = tidemark.Mutation{UID: "u", Op: op, Stamp: tidemark.Stamp(s)}
			if op != tidemark.Delete {
				writes[i].Data = tidemark.Row(`{"uid":"u","by":` + tidemark.Stamp(s).String()[20:23] + `}`)
			}
		}
		row, meta := replay(writes)
		other, otherMeta := replay(rapid.Permutation(writes).Draw(t, "order"))
		if string(row) != string(other) || meta.T() != otherMeta.T() || meta.Deleted() != otherMeta.Deleted() {
			t.Fatalf("one order ends with %s %+v, another with %s %+v", row, meta, other, otherMeta)
		}
	})
}

func TestRebaseShowsPendingWritesOverTheServersState(t *testing.T) {
	t.Parallel()
	base := tidemark.Row(`{"uid":"u","title":"server","n":1}`)
	meta := tidemark.Meta{UID: "u", CreatedAt: 10}
	write := func(op tidemark.Op, s tidemark.Stamp, data string) tidemark.Mutation {
		return tidemark.Mutation{UID: "u", Op: op, Stamp: s, Data: tidemark.Row(data)}
	}
	for _, c := range []struct {
		name    string
		base    tidemark.Row
		meta    tidemark.Meta
		pending []tidemark.Mutation
		want    string
		wantT   tidemark.Stamp
	}{
		{"nothing pending", base, meta, nil, string(base), 10},
		{"a patch", base, meta, []tidemark.Mutation{write(tidemark.Update, 20, `{"title":"mine"}`)}, `{"uid":"u","title":"mine","n":1}`, 20},
		{"two patches", base, meta, []tidemark.Mutation{write(tidemark.Update, 20, `{"title":"a"}`), write(tidemark.Update, 21, `{"n":2}`)}, `{"uid":"u","title":"a","n":2}`, 21},
		{"a patch that is not newer", base, meta, []tidemark.Mutation{write(tidemark.Update, 10, `{"title":"mine"}`)}, string(base), 10},
		{"a create", nil, tidemark.Meta{}, []tidemark.Mutation{write(tidemark.Create, 20, `{"title":"new"}`)}, `{"uid":"u","title":"new"}`, 20},
		{"create, update, delete", nil, tidemark.Meta{}, []tidemark.Mutation{write(tidemark.Create, 20, `{"n":1}`), write(tidemark.Update, 21, `{"n":2}`), write(tidemark.Delete, 22, "")}, "", 22},
		{"delete of the base", base, meta, []tidemark.Mutation{write(tidemark.Delete, 20, "")}, "", 20},
		{"an update newer than the server's deletion", nil, tidemark.Meta{UID: "u", DeletedAt: 15}, []tidemark.Mutation{write(tidemark.Update, 20, `{"n":3}`)}, `{"uid":"u","n":3}`, 20},
		{"an update of a row that left", base, tidemark.Departure{UID: "u", At: 15}.Meta(), []tidemark.Mutation{write(tidemark.Update, 20, `{"n":3}`)}, `{"uid":"u","title":"server","n":3}`, 20},
		{"an older update of a row that left", base, tidemark.Departure{UID: "u", At: 25}.Meta(), []tidemark.Mutation{write(tidemark.Update, 20, `{"n":3}`)}, "", 25},
		{"a row that left", base, tidemark.Departure{UID: "u", At: 15}.Meta(), nil, "", 15},
		{"a row that left, deleted and created", base, tidemark.Departure{UID: "u", At: 15}.Meta(), []tidemark.Mutation{write(tidemark.Delete, 20, ""), write(tidemark.Create, 21, `{"n":3}`)}, `{"uid":"u","n":3}`, 21},
		{"a row that left, created", base, tidemark.Departure{UID: "u", At: 15}.Meta(), []tidemark.Mutation{write(tidemark.Create, 21, `{"n":3}`)}, `{"uid":"u","n":3}`, 21},
		{"an update older than the server's deletion", nil, tidemark.Meta{UID: "u", DeletedAt: 25}, []tidemark.Mutation{write(tidemark.Update, 20, `{"n":3}`)}, "", 25},
	} {
		row, m := tidemark.Rebase(c.base, c.meta, c.pending)
		if string(row) != c.want || m.T() != c.wantT {
			t.Errorf("%s: got %s at %d, want %s at %d", c.name, row, m.T(), c.want, c.wantT)
		}
	}
}
