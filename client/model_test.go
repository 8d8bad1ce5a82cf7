package client_test

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
)

type Base struct {
	UID string `json:"uid"`
}

type tone string

// Everything has a column of each kind.
type Everything struct {
	Base
	Text    string             `json:"text" tidemark:"index"`
	Named   tone               `json:"named"`
	Int     int                `json:"int"`
	Small   int8               `json:"small"`
	Big     uint64             `json:"big"`
	Float   float64            `json:"float"`
	Single  float32            `json:"single"`
	Bool    bool               `json:"bool"`
	At      time.Time          `json:"at"`
	Day     time.Time          `json:"day" tidemark:"date"`
	Clock   string             `json:"clock" tidemark:"time"`
	Money   string             `json:"money" tidemark:"numeric"`
	Ref     string             `json:"ref" tidemark:"uuid"`
	ID      uuid.UUID          `json:"id"`
	Mood    tone               `json:"mood" tidemark:"enum"`
	Data    []byte             `json:"data"`
	Raw     json.RawMessage    `json:"raw"`
	Tags    []string           `json:"tags"`
	Map     map[string]int     `json:"map"`
	Nested  struct{ A, B int } `json:"nested"`
	PText   *string            `json:"p_text"`
	PAt     *time.Time         `json:"p_at"`
	PInt    *int64             `json:"p_int"`
	Default string             `json:"default,omitempty"`
	Made    string             `json:"made" tidemark:"readonly"`
	Ignored func()             `json:"-"`
	hidden  int                //lint:ignore U1000 a field that is not exported is no column
}

func everything(t *testing.T) *client.Model[Everything] {
	t.Helper()
	c, err := client.Open(t.Context(), memory.New(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := client.NewModel[Everything](t.Context(), c, "everything", nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestStructsGoThroughTheStoreUnchanged(t *testing.T) {
	t.Parallel()
	m := everything(t)
	text, at, n := "p\u2028<>&\"\\", time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC), int64(math.MinInt64)
	in := Everything{
		Text: "héllo 🌍\n", Named: "n", Int: math.MaxInt64, Small: -128, Big: math.MaxInt64, Float: 0.1, Single: 0.1,
		Bool: true, At: at, Day: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Clock: "01:02:03.5", Money: "12.5",
		Ref: "0190a5e0-0000-7000-8000-000000000001", ID: uuid.MustParse("0190a5e0-0000-7000-8000-000000000002"),
		Mood: "glad", Data: []byte{0, 255}, Raw: json.RawMessage(`{"a":[1,null]}`), Tags: []string{"a", "b"},
		Map: map[string]int{"k": 1}, PText: &text, PAt: &at, PInt: &n,
	}
	in.Nested.A = 1
	out, err := m.Create(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := uuid.Parse(out.UID); err != nil || id.Version() != 7 {
		t.Errorf("the uid is %q", out.UID)
	}
	in.UID = out.UID
	found, err := m.FindByUID(t.Context(), out.UID)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []Everything{out, found} {
		if !reflect.DeepEqual(got, in) {
			t.Errorf("got  %+v\nwant %+v", got, in)
		}
	}
}

func TestZeroValuesAndNulls(t *testing.T) {
	t.Parallel()
	m := everything(t)
	in := Everything{At: time.Unix(0, 0).UTC(), Day: time.Unix(0, 0).UTC(), Clock: "00:00:00", Money: "0", Ref: uuid.Nil.String()}
	in.UID = "my-own"
	out, err := m.Create(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	in.Raw = json.RawMessage("null")
	if !reflect.DeepEqual(out, in) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
	text := "x"
	if out, err = m.Update(t.Context(), "my-own", client.Patch{"p_text": &text, "text": nil, "p_int": 7}); err != nil {
		t.Fatal(err)
	}
	if out.PText == nil || *out.PText != "x" || out.PInt == nil || *out.PInt != 7 {
		t.Errorf("got %+v", out)
	}
	if out, err = m.Update(t.Context(), "my-own", client.Patch{"p_text": nil, "p_int": (*int64)(nil)}); err != nil || out.PText != nil || out.PInt != nil {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestPatchTakesValuesOfTheFieldsTypeAndTheLike(t *testing.T) {
	t.Parallel()
	m := everything(t)
	e := Everything{Clock: "00:00:00", Money: "0", Ref: uuid.Nil.String(), Day: time.Unix(0, 0)}
	e.UID = "u"
	if _, err := m.Create(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	out, err := m.Update(t.Context(), "u", client.Patch{
		"text": "t", "named": "plain string", "int": int16(5), "float": 3, "at": at, "day": at, "money": "1.50",
		"data": []byte("x"), "tags": []string{"z"}, "raw": map[string]any{"a": 1}, "p_at": at, "id": uuid.Max, "mood": tone("sad"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.Text != "t" || out.Named != "plain string" || out.Int != 5 || out.Float != 3 || !out.At.Equal(at) || out.Day.Day() != 1 ||
		out.Money != "1.5" || string(out.Data) != "x" || !slices.Equal(out.Tags, []string{"z"}) || string(out.Raw) != `{"a":1}` ||
		out.PAt == nil || !out.PAt.Equal(at) || out.ID != uuid.Max || out.Mood != "sad" {
		t.Errorf("got %+v", out)
	}
	for name, bad := range map[string]client.Patch{
		"a string for an integer": {"int": "5"}, "a fraction for an integer": {"int": 1.5}, "a number for text": {"text": 5},
		"text with NUL": {"text": "a\x00"}, "invalid UTF-8": {"text": "\xff"}, "infinity": {"float": math.Inf(1)},
		"another uid": {"uid": "v"}, "no UUID": {"ref": "x"}, "no date": {"day": "tomorrow"}, "no number": {"money": "1,5"},
		"a channel": {"raw": make(chan int)}, "read-only": {"made": "x"}, "not base64": {"data": "?"}, "a bad member": {"bool": 1},
	} {
		_, err := m.Update(t.Context(), "u", bad)
		if tidemark.CodeOf(err) != tidemark.CodeInvalidData {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"nope", "Text", "__deleted__", ""} {
		_, err := m.Update(t.Context(), "u", client.Patch{name: 1})
		wantCode(t, err, tidemark.CodeUnknownField)
	}
	if again, err := m.FindByUID(t.Context(), "u"); err != nil || !reflect.DeepEqual(again, out) {
		t.Errorf("a refused patch changed the row: %+v, %v", again, err)
	}
}

func TestColumnsFollowTheTags(t *testing.T) {
	t.Parallel()
	s := everything(t).Schema()
	for name, want := range map[string]tidemark.Kind{
		"uid": tidemark.Text, "text": tidemark.Text, "named": tidemark.Text, "int": tidemark.Integer, "small": tidemark.Integer, "big": tidemark.Integer,
		"float": tidemark.Double, "bool": tidemark.Bool, "at": tidemark.Timestamp, "day": tidemark.Date, "clock": tidemark.TimeOfDay,
		"money": tidemark.Numeric, "ref": tidemark.UUID, "id": tidemark.UUID, "mood": tidemark.Enum, "data": tidemark.Bytes,
		"raw": tidemark.JSON, "tags": tidemark.JSON, "map": tidemark.JSON, "nested": tidemark.JSON, "p_text": tidemark.Text, "p_at": tidemark.Timestamp,
	} {
		if f, ok := s.Field(name); !ok || f.Kind != want {
			t.Errorf("%s is %v, want %v", name, f.Kind, want)
		}
	}
	if f, _ := s.Field("text"); !f.Indexed {
		t.Error("text is not indexed")
	}
	if _, ok := s.Field("Ignored"); ok {
		t.Error("an ignored field is a column")
	}
}

func TestStructsThatAreNoModel(t *testing.T) {
	t.Parallel()
	c, err := client.Open(t.Context(), memory.New(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	try := func(name string, err error) {
		t.Helper()
		if tidemark.CodeOf(err) != tidemark.CodeInvalidData && tidemark.CodeOf(err) != tidemark.CodeUnknownField {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = client.NewModel[int](t.Context(), c, "m", nil)
	try("no struct", err)
	_, err = client.NewModel[struct{ A int }](t.Context(), c, "m", nil)
	try("no uid", err)
	_, err = client.NewModel[struct {
		UID int `json:"uid"`
	}](t.Context(), c, "m", nil)
	try("uid is no string", err)
	_, err = client.NewModel[struct {
		Base
		C chan int
	}](t.Context(), c, "m", nil)
	try("a channel", err)
	_, err = client.NewModel[struct {
		Base
		N int `tidemark:"uuid"`
	}](t.Context(), c, "m", nil)
	try("an int as uuid", err)
	_, err = client.NewModel[struct {
		Base
		N int `tidemark:"indexed"`
	}](t.Context(), c, "m", nil)
	try("an unknown option", err)
	_, err = client.NewModel[struct {
		Base
		A  int    `json:"x"`
		ID string `json:"uid"`
	}](t.Context(), c, "m", nil)
	try("a column twice", err)
	_, err = client.NewModel[struct {
		Base
		A int `json:"__x"`
	}](t.Context(), c, "m", nil)
	try("a reserved name", err)
}

func TestWritesOfRowsThatAreNotThere(t *testing.T) { // 60 and 61
	run(t, func(t *testing.T, b *bench) {
		b.open()
		_, err := b.items.Update(t.Context(), "missing", client.Patch{"label": "x"})
		wantIs(t, err, tidemark.ErrNotFound)
		wantIs(t, b.items.Remove(t.Context(), "missing"), tidemark.ErrNotFound)
		_, err = b.items.FindByUID(t.Context(), "missing")
		wantIs(t, err, tidemark.ErrNotFound)
		b.create("u", "x")
		b.remove("u")
		_, err = b.items.FindByUID(t.Context(), "u")
		wantIs(t, err, tidemark.ErrNotFound)
		wantIs(t, b.items.Remove(t.Context(), "u"), tidemark.ErrNotFound)
		b.pending(0)
		b.sent(`create u {"label":"x","score":null}`, `delete u`)
	})
}

func TestRemovedRowIsHiddenAtOnce(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.hold(live("u", "x", T1)).open()
		b.remove("u")
		b.sees()
		_, err := b.items.FindByUID(t.Context(), "u")
		wantIs(t, err, tidemark.ErrNotFound)
		b.create("u", "again")
		b.sees("again")
	})
}

func TestCreateWithAUIDThatIsTakenOrCannotBe(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		b.create("u", "x")
		_, err := b.items.Create(t.Context(), Item{UID: "u", Label: "y"})
		wantCode(t, err, tidemark.CodeUIDTaken)
		_, err = b.items.Create(t.Context(), Item{UID: "a\nb"})
		wantCode(t, err, tidemark.CodeInvalidData)
		for _, uid := range []string{"__proto__", "constructor", "ünï"} {
			b.create(uid, uid)
		}
		b.pending(4)
	})
}

func TestFindWhere(t *testing.T) { // 65, 66, 95, 96 and 99
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		for i, score := range []int64{5, -3, 0, 15} {
			if _, err := b.items.Create(t.Context(), Item{UID: string(rune('a' + i)), Score: &score}); err != nil {
				t.Fatal(err)
			}
		}
		b.create("n", "null")
		for _, tc := range []struct {
			where tidemark.Where
			want  []string
		}{
			{nil, []string{"a", "b", "c", "d", "n"}},
			{tidemark.Where{"score": 5}, []string{"a"}},
			{tidemark.Where{"score": nil}, []string{"n"}},
			{tidemark.Where{"score": tidemark.Range{LTE: 10}}, []string{"a", "b", "c"}},
			{tidemark.Where{"score": tidemark.Range{GTE: 1}}, []string{"a", "d"}},
			{tidemark.Where{"score": tidemark.Range{LT: 1}}, []string{"b", "c"}},
			{tidemark.Where{"score": map[string]any{"gt": 0, "lt": 10}}, []string{"a"}},
			{tidemark.Where{"uid": "d", "score": 15}, []string{"d"}},
			{tidemark.Where{"label": "null"}, []string{"n"}},
		} {
			items, err := b.items.FindWhere(t.Context(), tc.where)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, i := range items {
				got = append(got, i.UID)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%v selects %v, want %v", tc.where, got, tc.want)
			}
		}
		_, err := b.items.FindWhere(t.Context(), tidemark.Where{"score": "5"})
		wantCode(t, err, tidemark.CodeInvalidWhere)
		_, err = b.items.Register(t.Context(), tidemark.Where{"score": math.NaN()})
		wantCode(t, err, tidemark.CodeInvalidWhere)
	})
}

func TestResetKeepsScopesAndRefusesToLoseWrites(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			c.synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("s", "server's", T1)}})
		})
		b.open()
		b.register(nil)
		b.sees("server's")
		b.client.GoOffline()
		b.create("u", "mine")
		wantIs(t, b.items.Reset(t.Context(), nil), tidemark.ErrPending)
		b.sees("server's", "mine")
		w := b.watch(nil, nil)
		w.got(t, []string{"server's", "mine"})
		if err := b.items.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
			t.Fatal(err)
		}
		w.got(t, []string{})
		b.pending(0)
		b.script.requests()
		b.client.GoOnline()
		b.sees("server's")
		b.sent("sync item {}")
	})
}

func TestResetWhileAWriteIsOnItsWay(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, nil)
		b.open()
		b.create("u", "mine")
		c := b.script.next()
		if err := b.items.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
			t.Fatal(err)
		}
		c.fail("no")
		b.sees()
		b.rejections()
		b.create("v", "next")
		b.script.next().accept()
		b.sees("next")
		b.state(client.Synced)
	})
}

// The server makes a write that was discarded on its way. A sync that was read before does not tell of it.
func TestResetWhileAWriteIsOnItsWayThatIsMade(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(nil)
		b.state(client.Synced)
		b.script.on(tidemark.MethodCreate, nil)
		b.create("u", "mine")
		push := b.script.next()
		b.script.on(tidemark.MethodSyncGo, nil)
		if err := b.items.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
			t.Fatal(err)
		}
		syncs := func(rows ...tidemark.RowMeta) {
			for synctest.Wait(); len(b.script.calls) > 0; synctest.Wait() {
				b.script.next().synced(tidemark.SyncResult{AddClient: rows})
			}
		}
		syncs()
		push.accept()
		syncs(live("u", "mine", push.stamp()))
		b.sees("mine")
		b.state(client.Synced)
	})
}

func TestResetWhileASyncIsUnderWaySynchronisesAgain(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "x", T1)).script.on(tidemark.MethodSyncGo, nil)
		b.open()
		b.register(nil)
		first := b.script.next() // tells that u is held
		if err := b.items.Reset(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		first.synced(tidemark.SyncResult{})
		again := b.script.next()
		if len(again.dict()) != 0 {
			t.Errorf("the second dictionary is %s", again.Args[2])
		}
		again.synced(tidemark.SyncResult{AddClient: []tidemark.RowMeta{live("u", "x", T1)}})
		b.sees("x")
		b.state(client.Synced)
	})
}

func TestEvictDropsOnlyWhatNoScopeSelectsAndNothingPends(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.hold(live("a", "kept", T1), live("b", "free", T1), live("c", "free", T1)).open()
		b.register(tidemark.Where{"label": "kept"})
		b.update("c", "edited")
		n, err := b.items.Evict(t.Context(), nil)
		if err != nil || n != 1 {
			t.Errorf("evicted %d: %v", n, err)
		}
		b.sees("kept", "edited")
		b.pending(1)
	})
}

// A row with a value that the struct cannot hold: a write that fails for that has not been made.
func TestWriteOfARowThatCannotBeReadIsNotMade(t *testing.T) {
	type small struct {
		UID   string `json:"uid"`
		Label string `json:"label"`
		Score int8   `json:"score"`
	}
	run(t, func(t *testing.T, b *bench) {
		large := live("u", "old", T0)
		large.Row = large.Row.With("score", []byte("1000"))
		b.opts.Offline = true
		b.hold(large).open()
		items, err := client.NewModel[small](t.Context(), b.client, "item", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = items.Update(t.Context(), "u", client.Patch{"label": "new"})
		wantCode(t, err, tidemark.CodeInvalidData)
		err = b.client.Tx(t.Context(), func(tx *client.Tx) error {
			_, err := items.UpdateTx(tx, "u", client.Patch{"label": "new"})
			wantCode(t, err, tidemark.CodeInvalidData)
			return nil
		})
		wantCode(t, err, tidemark.CodeInvalidData)
		b.sees("old")
		b.pending(0)
		if _, err := items.Update(t.Context(), "u", client.Patch{"score": 1}); err != nil {
			t.Error(err)
		}
		b.pending(1)
	})
}
