package equality_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func with(change func(*Everything)) Everything {
	e := Everything{Dec: "0"}
	change(&e)
	return e
}

func pointer[V any](v V) *V { return &v }

// unstorable are values that some part of the way could not keep.
var unstorable = map[string]Everything{
	"text":       with(func(e *Everything) { e.Text = "\xff" }),
	"maybe_text": with(func(e *Everything) { e.MaybeText = pointer("a\x00b") }),
	"colour":     with(func(e *Everything) { e.Colour = "\xed\xa0\x80" }), // half a surrogate pair
	"u64":        with(func(e *Everything) { e.U64 = math.MaxInt64 + 1 }),
	"f32":        with(func(e *Everything) { e.F32 = float32(math.Inf(1)) }),
	"f64":        with(func(e *Everything) { e.F64 = math.NaN() }),
	"maybe_f64":  with(func(e *Everything) { e.MaybeF64 = pointer(math.Inf(-1)) }),
	"at":         with(func(e *Everything) { e.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }),
	"maybe_at":   with(func(e *Everything) { e.MaybeAt = pointer(time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)) }),
	"doc":        with(func(e *Everything) { e.Doc = json.RawMessage(`{"a":`) }),
	"list":       with(func(e *Everything) { e.List = []string{"a", "\x00"} }),
	"map":        with(func(e *Everything) { e.Map = map[string]string{"\xff": ""} }),
	"place":      with(func(e *Everything) { e.Place.Notes = pointer("\xff") }),
	"dec":        with(func(e *Everything) { e.Dec = "twelve" }),
	"maybe_dec":  with(func(e *Everything) { e.MaybeDec = pointer("NaN") }),
	"maybe_id":   with(func(e *Everything) { e.MaybeID = pointer("01890a5dac96774bbcceb302099a8057") }),
	"day":        with(func(e *Everything) { e.Day = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }),
	"maybe_day":  with(func(e *Everything) { e.MaybeDay = pointer("2026-02-30") }),
	"tod":        with(func(e *Everything) { e.Tod = pointer("24:00:00") }),
}

// wrapping are times whose microseconds do not fit 64 bits: what is left of them
// would be a date like any other.
var wrapping = []time.Time{time.Unix(math.MaxInt64/1_000_000+1_000_000, 0), time.Unix(1<<44, 0), time.Unix(-1<<50, 0), time.Unix(18446744073710, 0)}

// TestWhatCannotBeStoredIsRefusedAtOnce: with an error that names the field, and nothing is written.
func TestWhatCannotBeStoredIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	j := onSQLite(t)
	ctx := context.Background()
	kept, err := j.a.rows.Create(ctx, Everything{Dec: "1", Text: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(field string, row Everything) {
		t.Helper()
		_, err := j.a.rows.Create(ctx, row)
		if tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%s: Create: got %v", field, err)
		}
		whole := patchOf(row)
		_, err = j.a.rows.Update(ctx, kept.UID, client.Patch{"text": "lost", field: whole[field]})
		if tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%s: Update: got %v", field, err)
		}
	}
	for field, row := range unstorable {
		refused(field, row)
	}
	for _, at := range wrapping {
		refused("at", Everything{Dec: "0", At: at})
		if _, err := j.a.rows.FindWhere(ctx, tidemark.Where{"at": at}); tidemark.CodeOf(err) != tidemark.CodeInvalidWhere {
			t.Errorf("where at = %v: got %v", at, err)
		}
	}
	for _, p := range []client.Patch{
		{"i64": 1.5}, {"i64": "1"}, {"text": 1}, {"bool": 1}, {"bool": "true"}, {"at": 7}, {"at": "soon"}, {"raw": "*"}, {"f64": "1"}, {"id": "x"}, {"day": 1}, {"u64": uint64(math.MaxUint64)}, {"doc": json.RawMessage(`{"a":1,"a":2}`)},
		{"list": func() {}}, {"i8": 200}, {"i32": int64(1) << 40}, {"u64": -1}, {"list": []int{1}}, {"address": "nowhere"}, {"f32": 1e300},
	} {
		if _, err := j.a.rows.Update(ctx, kept.UID, p); tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%v: got %v", p, err)
		}
	}
	all, err := j.a.rows.FindWhere(ctx, nil)
	if err != nil || len(all) != 1 || all[0].Text != "kept" {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestWhatOnlyTheDatabaseRefusesIsAnError: the column is narrower than its kind, so
// the device learns of it from the server, and shows again what was there before.
func TestWhatOnlyTheDatabaseRefusesIsAnError(t *testing.T) {
	t.Parallel()
	j := onPostgres(t)
	ctx := t.Context()
	kept, err := j.a.rows.Create(ctx, Everything{Dec: "1", Mood: pointer("sad"), I32: 7})
	if err != nil {
		t.Fatal(err)
	}
	patches := []client.Patch{{"mood": "happy"}, {"doc": json.RawMessage(`1e200000`)}}
	for _, p := range patches {
		if _, err := j.a.rows.Update(ctx, kept.UID, p); err != nil {
			t.Fatalf("%v: %v", p, err)
		}
	}
	if err := j.a.sync(); err != nil {
		t.Fatal(err)
	}
	rs, err := j.a.client.Rejections(ctx)
	if err != nil || len(rs) != len(patches) {
		t.Fatalf("%+v, %v", rs, err)
	}
	for i, r := range rs {
		if r.Code != tidemark.CodeInvalidData || patches[i][r.Field] == nil && r.Field != "" {
			t.Errorf("%s: %+v", r.Mutation.Data, r)
		}
	}
	for _, d := range []*device{j.a, j.b} {
		if err := d.sync(); err != nil {
			t.Fatal(err)
		}
		got, err := d.rows.FindByUID(ctx, kept.UID)
		if err != nil || differs(got, kept) != "" {
			t.Errorf("%s, %v", differs(got, kept), err)
		}
	}
}
