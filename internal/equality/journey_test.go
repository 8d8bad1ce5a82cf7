package equality_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"pgregory.net/rapid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// Colour and Place are types of an application's own.
type (
	Colour string
	Place  struct {
		Name  string    `json:"name"`
		At    []float64 `json:"at"`
		Notes *string   `json:"notes,omitempty"`
	}
)

// Everything is a device's model with a field of each Go type that a column may have.
type Everything struct {
	UID       string            `json:"uid"`
	Text      string            `json:"text" tidemark:"index"`
	MaybeText *string           `json:"maybe_text"`
	Colour    Colour            `json:"colour"`
	Address   netip.Addr        `json:"address"`
	Int       int               `json:"int"`
	I8        int8              `json:"i8"`
	I16       int16             `json:"i16"`
	I32       int32             `json:"i32"`
	I64       int64             `json:"i64" tidemark:"index"`
	U8        uint8             `json:"u8"`
	U64       uint64            `json:"u64"`
	MaybeInt  *int64            `json:"maybe_int"`
	F32       float32           `json:"f32"`
	F64       float64           `json:"f64"`
	MaybeF64  *float64          `json:"maybe_f64" tidemark:"index"`
	Bool      bool              `json:"bool"`
	MaybeBool *bool             `json:"maybe_bool"`
	At        time.Time         `json:"at"`
	MaybeAt   *time.Time        `json:"maybe_at" tidemark:"index"`
	Raw       []byte            `json:"raw"`
	Doc       json.RawMessage   `json:"doc"`
	List      []string          `json:"list"`
	Map       map[string]string `json:"map"`
	Place     Place             `json:"place"`
	Dec       string            `json:"dec" tidemark:"numeric"`
	MaybeDec  *string           `json:"maybe_dec" tidemark:"numeric"`
	ID        uuid.UUID         `json:"id"`
	MaybeID   *string           `json:"maybe_id" tidemark:"uuid"`
	Day       time.Time         `json:"day" tidemark:"date"`
	MaybeDay  *string           `json:"maybe_day" tidemark:"date"`
	Tod       *string           `json:"tod" tidemark:"time"`
	Mood      *string           `json:"mood" tidemark:"enum"`
}

// serverEverything is the application's bun model of the same table.
type serverEverything struct {
	bun.BaseModel `bun:"table:everything"`
	UID           string          `bun:"uid,pk"`
	Text          *string         `bun:"text,type:text"`
	MaybeText     *string         `bun:"maybe_text,type:text"`
	Colour        *string         `bun:"colour,type:text"`
	Address       *string         `bun:"address,type:text"`
	Int           *int64          `bun:"int"`
	I8            *int64          `bun:"i8"`
	I16           *int16          `bun:"i16"`
	I32           *int32          `bun:"i32"`
	I64           *int64          `bun:"i64"`
	U8            *int64          `bun:"u8"`
	U64           *int64          `bun:"u64"`
	MaybeInt      *int64          `bun:"maybe_int"`
	F32           *float64        `bun:"f32"`
	F64           *float64        `bun:"f64"`
	MaybeF64      *float64        `bun:"maybe_f64"`
	Bool          *bool           `bun:"bool"`
	MaybeBool     *bool           `bun:"maybe_bool"`
	At            *time.Time      `bun:"at"`
	MaybeAt       *time.Time      `bun:"maybe_at,type:timestamp"`
	Raw           []byte          `bun:"raw"`
	Doc           json.RawMessage `bun:"doc,type:jsonb"`
	List          json.RawMessage `bun:"list,type:json"`
	Map           json.RawMessage `bun:"map,type:jsonb"`
	Place         json.RawMessage `bun:"place,type:json"`
	Dec           *string         `bun:"dec,type:numeric"`
	MaybeDec      *string         `bun:"maybe_dec,type:numeric"`
	ID            *string         `bun:"id,type:uuid"`
	MaybeID       *string         `bun:"maybe_id,type:uuid"`
	Day           *time.Time      `bun:"day,type:date"`
	MaybeDay      *string         `bun:"maybe_day,type:date"`
	Tod           *string         `bun:"tod,type:time"`
	Mood          *string         `bun:"mood"`
}

const everythingTable = `CREATE TABLE everything (uid text NOT NULL PRIMARY KEY, text text, maybe_text text, colour text, address text,
	int bigint, i8 bigint, i16 smallint, i32 integer, i64 bigint, u8 bigint, u64 bigint, maybe_int bigint,
	f32 double precision, f64 double precision, maybe_f64 double precision, bool boolean, maybe_bool boolean, at timestamptz, maybe_at timestamp,
	raw bytea, doc jsonb, list json, map jsonb, place json, dec numeric, maybe_dec numeric, id uuid, maybe_id uuid, day date, maybe_day date, tod time, mood mood)`

// journey is a server over one database, with two devices.
type journey struct {
	db   *bun.DB
	url  string
	a, b *device
}

// device is a client with a file of its own.
type device struct {
	client *client.Client
	rows   *client.Model[Everything]
}

func newJourney(t *testing.T, db *bun.DB, tables ...string) *journey {
	t.Helper()
	for _, s := range tables {
		if _, err := db.DB.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	d, err := bundriver.New(t.Context(), db, []any{(*serverEverything)(nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(d, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	srv.Service("everything").Publish(server.To("all"))
	handler := socketio.NewHandler(srv, nil)
	web := httptest.NewServer(handler)
	t.Cleanup(func() { _ = srv.Close(); _ = handler.Close(); web.Close() })
	j := &journey{db: db, url: web.URL}
	j.a, j.b = j.device(t), j.device(t)
	return j
}

func (j *journey) device(t *testing.T) *device {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSNNormal(filepath.Join(t.TempDir(), "device.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	store, err := sqlite.Open(t.Context(), db, &sqlite.Options{AllowNormal: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	d := &device{}
	if d.client, err = client.Open(t.Context(), store, socketio.NewDialer(j.url, nil), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.client.Close() })
	if d.rows, err = client.NewModel[Everything](t.Context(), d.client, "everything", nil); err != nil {
		t.Fatal(err)
	}
	if _, err = d.rows.Register(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := d.sync(); err != nil {
		t.Fatal(err)
	}
	return d
}

// sync is the client's Sync, which would wait for ever for a server that cannot be reached.
func (d *device) sync() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.client.Sync(ctx); err != nil {
		return fmt.Errorf("%w; the client says %+v", err, d.client.Status())
	}
	return nil
}

// onPostgres has columns that are narrower than their kinds.
func onPostgres(t *testing.T) *journey {
	return newJourney(t, pgtest.Open(t), `CREATE TYPE mood AS ENUM (`+enumLabels+`)`, everythingTable)
}

// onSQLite has decimals and JSON in columns of text. In others SQLite makes
// numbers of what looks like one: decimals then keep 15 digits, and bun cannot
// read JSON that is a number.
func onSQLite(t *testing.T) *journey {
	table := strings.NewReplacer("numeric", "text", "jsonb", "text", "json", "text", "mood mood", "mood text", "bytea", "blob").Replace(everythingTable)
	return newJourney(t, openSQLite(t, "server.db"), table)
}

// TestValuesArriveAsTheyWereWritten: what one device creates, and then changes, is what
// another is told of at once, and what a third finds when it comes later.
func TestValuesArriveAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for engine, start := range map[string]func(*testing.T) *journey{"postgres": onPostgres, "sqlite": onSQLite} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			arrive(t, start(t))
		})
	}
}

func arrive(t *testing.T, j *journey) {
	rapid.Check(t, func(t *rapid.T) {
		row := drawEverything(t)
		created, err := j.a.rows.Create(context.Background(), row)
		must(t, err)
		row.UID = created.UID
		same(t, "after Create", created, row)
		same(t, "at the other device", j.b.waitFor(t, row), row)
		same(t, "after the verdict", j.a.confirmed(t, row.UID), row)

		changed := drawEverything(t)
		changed.UID = row.UID
		updated, err := j.a.rows.Update(context.Background(), row.UID, patchOf(changed))
		must(t, err)
		same(t, "after Update", updated, changed)
		same(t, "changed, at the other device", j.b.waitFor(t, changed), changed)
		same(t, "changed, after the verdict", j.a.confirmed(t, row.UID), changed)
	})
	want, err := j.a.rows.FindWhere(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	late, err := j.device(t).rows.FindWhere(t.Context(), nil)
	if err != nil || len(late) != len(want) {
		t.Fatalf("the late device has %d rows, want %d; %v", len(late), len(want), err)
	}
	for i := range late {
		if d := differs(late[i], want[i]); d != "" {
			t.Errorf("row %s at the late device: %s", want[i].UID, d)
		}
	}
}

// TestTheApplicationsRowsArriveToo: the application reads with bun what a device
// wrote, stores a copy, and another device finds the copy to be the same.
func TestTheApplicationsRowsArriveToo(t *testing.T) {
	t.Parallel()
	for engine, start := range map[string]func(*testing.T) *journey{"postgres": onPostgres, "sqlite": onSQLite} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			j := start(t)
			rapid.Check(t, func(t *rapid.T) { j.copyOne(t) })
			late, err := j.device(t).rows.FindWhere(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			rows := map[string]Everything{}
			for _, r := range late {
				rows[r.UID] = r
			}
			copies := 0
			for uid, original := range rows {
				if copied, ok := rows["copy of "+uid]; ok {
					copies++
					original.UID = copied.UID
					if d := differs(copied, original); d != "" {
						t.Errorf("the copy of %s: %s", uid, d)
					}
				}
			}
			if copies < 20 {
				t.Errorf("only %d copies among %d rows", copies, len(late))
			}
		})
	}
}

// copyOne has a device write a row and the application copy it.
func (j *journey) copyOne(t *rapid.T) {
	ctx := context.Background()
	row := drawEverything(t)
	if row.At.UTC().Year() == 0 || row.MaybeAt != nil && row.MaybeAt.UTC().Year() == 0 || row.Day.Year() == 0 || row.MaybeDay != nil && strings.HasPrefix(*row.MaybeDay, "0000") {
		return // bun writes the year 0 in a form that PostgreSQL refuses
	}
	created, err := j.a.rows.Create(ctx, row)
	must(t, err)
	j.a.confirmed(t, created.UID)
	var theirs serverEverything
	must(t, j.db.NewSelect().Model(&theirs).Where("uid = ?", created.UID).Scan(ctx))
	theirs.UID = "copy of " + created.UID
	_, err = j.db.NewInsert().Model(&theirs).Exec(ctx)
	must(t, err)
}

// waitFor returns the row of the device once it is like want, or as it is after ten seconds.
func (d *device) waitFor(t *rapid.T, want Everything) (got Everything) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var err error
		got, err = d.rows.FindByUID(context.Background(), want.UID)
		if !errors.Is(err, tidemark.ErrNotFound) {
			must(t, err)
			if differs(got, want) == "" {
				return got
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return got
		}
	}
}

// confirmed returns the row of the device when the server has confirmed all writes and refused none.
func (d *device) confirmed(t *rapid.T, uid string) Everything {
	must(t, d.sync())
	if rs, err := d.client.Rejections(context.Background()); err != nil || len(rs) != 0 {
		t.Fatalf("%v, rejected: %+v", err, rs)
	}
	got, err := d.rows.FindByUID(context.Background(), uid)
	must(t, err)
	return got
}

func same(t *rapid.T, where string, got, want Everything) {
	t.Helper()
	if d := differs(got, want); d != "" {
		t.Fatalf("%s: %s", where, d)
	}
}

// differs names the fields in which got is not what want becomes when it is stored.
func differs(got, want Everything) string {
	var b strings.Builder
	g, w := reflect.ValueOf(stored(got)), reflect.ValueOf(stored(want))
	for i := range g.NumField() {
		if x, y := g.Field(i).Interface(), w.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			x, _ := json.Marshal(x)
			y, _ := json.Marshal(y)
			b.WriteString(g.Type().Field(i).Name + " is " + string(x) + ", want " + string(y) + "; ")
		}
	}
	return b.String()
}

// stored is what the documentation says becomes of a value: times to the
// microsecond in UTC, dates without their time, one form for each decimal, UUID and
// JSON value.
func stored(e Everything) Everything {
	e.At = time.UnixMicro(e.At.UnixMicro()).UTC()
	if e.MaybeAt != nil {
		at := time.UnixMicro(e.MaybeAt.UnixMicro()).UTC()
		e.MaybeAt = &at
	}
	y, m, d := e.Day.Date()
	e.Day = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	e.Dec = *canonical(tidemark.Numeric, &e.Dec)
	e.MaybeDec, e.MaybeID, e.Tod = canonical(tidemark.Numeric, e.MaybeDec), canonical(tidemark.UUID, e.MaybeID), canonical(tidemark.TimeOfDay, e.Tod)
	e.Doc, _ = json.Marshal(exactly(e.Doc))
	return e
}

func canonical(k tidemark.Kind, s *string) *string {
	if s == nil {
		return nil
	}
	v, err := tidemark.ValueOf(k, []byte(quoted(*s)))
	if err != nil {
		panic(err)
	}
	text := v.Text()
	return &text
}

// patchOf has all columns of the row, as values of the struct's own types.
func patchOf(e Everything) client.Patch {
	p := client.Patch{}
	v := reflect.ValueOf(e)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("json"); name != "uid" {
			p[name] = v.Field(i).Interface()
		}
	}
	return p
}

func drawEverything(t *rapid.T) Everything {
	small := rapid.OneOf(rapid.SampledFrom([]int64{0, 1, -1, math.MaxInt8, math.MinInt8}), rapid.Int64Range(-128, 127))
	return Everything{
		Text: drawString(t, 300), MaybeText: maybe(t, drawnString), Colour: Colour(drawString(t, 10)), Address: rapid.SampledFrom(addresses).Draw(t, "address"),
		Int: int(drawn[int64](t, drawInteger)), I8: int8(small.Draw(t, "i8")), I16: int16(small.Draw(t, "i16")) * 255, I32: int32(small.Draw(t, "i32")) << 24,
		I64: drawn[int64](t, drawInteger), U8: uint8(small.Draw(t, "u8")), U64: uint64(drawn[int64](t, drawInteger)) >> 1, MaybeInt: maybe(t, drawn[int64], drawInteger),
		F32: rapid.OneOf(rapid.SampledFrom([]float32{0, 0.1, -0.3, math.MaxFloat32, math.SmallestNonzeroFloat32, 16777217}), rapid.Float32().Filter(finite[float32])).Draw(t, "f32"),
		F64: drawn[float64](t, drawDouble), MaybeF64: maybe(t, drawn[float64], drawDouble), Bool: rapid.Bool().Draw(t, "bool"), MaybeBool: maybe(t, drawn[bool], sampled("true", "false")),
		At: drawTime(t, nil), MaybeAt: maybe(t, drawTime), Raw: drawRaw(t), Doc: drawDoc(t),
		List: drawList(t), Map: drawMap(t), Place: Place{Name: drawString(t, 5), At: []float64{drawn[float64](t, drawDouble), 1e-300}, Notes: maybe(t, drawnString)},
		Dec: drawn[string](t, drawLongNumeric), MaybeDec: maybe(t, drawn[string], drawLongNumeric), ID: uuid.MustParse(drawn[string](t, drawUUID)), MaybeID: maybe(t, drawn[string], drawUUID),
		Day: drawDay(t), MaybeDay: maybe(t, drawn[string], drawDate), Tod: maybe(t, drawn[string], drawTimeOfDay), Mood: maybe(t, drawn[string], columnTypes[len(columnTypes)-1].draw),
	}
}

var addresses = []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), {}}

// drawn decodes what a generator of JSON texts draws.
func drawn[V any](t *rapid.T, draw func(*rapid.T) string) (v V) {
	raw := strings.TrimSuffix(draw(t), ".0") // which Go's decoder does not take for an integer's
	must(t, json.Unmarshal([]byte(raw), &v))
	return v
}

func drawnString(t *rapid.T, _ func(*rapid.T) string) string { return drawString(t, 30) }

func maybe[V any](t *rapid.T, draw func(*rapid.T, func(*rapid.T) string) V, from ...func(*rapid.T) string) *V {
	if rapid.IntRange(0, 3).Draw(t, "null") == 0 {
		return nil
	}
	from = append(from, nil)
	v := draw(t, from[0])
	return &v
}

func finite[F float32 | float64](f F) bool { return f-f == 0 }

// drawTime draws times with all nine decimals, in several zones.
func drawTime(t *rapid.T, _ func(*rapid.T) string) time.Time {
	at := drawn[time.Time](t, drawTimestamp)
	return at.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1, 499, 999}).Draw(t, "ns")))
}

func drawDay(t *rapid.T) time.Time {
	day, err := time.Parse(time.DateOnly, drawn[string](t, drawDate))
	must(t, err)
	return day.Add(time.Duration(rapid.IntRange(0, 86399).Draw(t, "second")) * time.Second)
}

func drawRaw(t *rapid.T) []byte {
	if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "raw")
}

func drawDoc(t *rapid.T) json.RawMessage {
	if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		return nil
	}
	return json.RawMessage(drawJSON(t))
}

func drawList(t *rapid.T) []string {
	if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		return nil
	}
	list := make([]string, rapid.IntRange(0, 3).Draw(t, "length"))
	for i := range list {
		list[i] = drawString(t, 10)
	}
	return list
}

func drawMap(t *rapid.T) map[string]string {
	m := map[string]string{}
	for range rapid.IntRange(0, 3).Draw(t, "length") {
		m[drawString(t, 10)] = drawString(t, 10)
	}
	return m
}

func drawLongNumeric(t *rapid.T) string {
	return quoted(either(t, []string{"0", "-0.0", "1.50", "1e20", "-1e-20", "12345678901234567890.123456789012345678901234567890", "1e400", "9007199254740993"},
		rapid.StringMatching(`-?[0-9]{1,40}\.[0-9]{1,40}`)))
}
