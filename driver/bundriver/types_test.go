package bundriver_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

const wideTables = `CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
CREATE DOMAIN even AS integer CHECK (VALUE % 2 = 0);
CREATE TABLE wide (uid text PRIMARY KEY, local timestamp, small smallint, single real, mood mood, tags text[], grid bigint[], short varchar(3), code char(4),
	price numeric(8,2), even even, plain json, double bigint GENERATED ALWAYS AS (small * 2) STORED, odd text)`

// wide has the types that only PostgreSQL has, or has in several widths.
type wide struct {
	bun.BaseModel `bun:"table:wide"`
	UID           string          `bun:"uid,pk"`
	Local         *time.Time      `bun:"local,type:timestamp"`
	Small         *int16          `bun:"small"`
	Single        *float32        `bun:"single"`
	Mood          *string         `bun:"mood,type:mood"`
	Tags          []string        `bun:"tags,array"`
	Grid          json.RawMessage `bun:"grid,type:bigint[]"`
	Short         *string         `bun:"short,type:varchar(3)"`
	Code          *string         `bun:"code,type:char(4)"`
	Price         *string         `bun:"price,type:numeric(8,2)"`
	Even          *int64          `bun:"even,type:even"`
	Plain         json.RawMessage `bun:"plain,type:json"`
	Double        *int64          `bun:"double"`
	Odd           *string         `bun:"odd,alt:strange"`
}

func TestTypesOfPostgreSQL(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	mustExec(t, db, wideTables)
	d := engines[0].driver(t, db, []any{wide{}})
	s := d.Models()[0]
	for name, want := range map[string]tidemark.Kind{"local": tidemark.Timestamp, "small": tidemark.Integer, "single": tidemark.Double, "mood": tidemark.Enum,
		"tags": tidemark.JSON, "grid": tidemark.JSON, "code": tidemark.Text, "price": tidemark.Numeric, "even": tidemark.Integer, "plain": tidemark.JSON} {
		if f, _ := s.Field(name); f.Kind != want || f.ReadOnly {
			t.Errorf("%s: %+v, want %s", name, f, want)
		}
	}
	if f, _ := s.Field("double"); !f.ReadOnly {
		t.Errorf("double: %+v, want read-only", f)
	}
	if _, ok := s.Field("strange"); ok {
		t.Error("another name of a column passes for one")
	}
	for _, c := range []struct{ field, value, want string }{
		{"local", `"2026-07-01T12:00:00.123456Z"`, ""}, {"local", `"0000-01-01T00:00:00.000Z"`, ""}, {"small", "-32768", ""}, {"small", "40000", "invalid-data"},
		{"single", "0.5", ""}, {"single", "0.1", ""}, {"single", "-3.4028235e38", ""}, {"single", "1e-45", ""}, {"single", "1e300", "invalid-data"},
		{"mood", `"it's ok"`, ""}, {"mood", `"happy"`, "invalid-data"},
		{"tags", `["a","b'\"{},","",null]`, ""}, {"tags", `[]`, ""}, {"tags", `{"a":1}`, "invalid-data"}, {"tags", `"x"`, "invalid-data"}, {"grid", `[[1,2],[3,4]]`, ""}, {"grid", `["x"]`, "invalid-data"},
		{"short", `"日本語"`, ""}, {"short", `"four"`, "invalid-data"}, {"code", `"ab"`, ""}, {"code", `"abcde"`, "invalid-data"},
		{"price", `"123456.7"`, ""}, {"price", `"1.005"`, `"1.01"`}, {"price", `"1234567"`, "invalid-data"},
		{"even", "4", ""}, {"even", "5", "constraint"}, {"plain", `{"a": [1, 2]}`, ""},
	} {
		uid := c.field + c.value
		want := c.want
		if want == "" {
			want = c.value
		}
		o := write(t, d, create("wide", uid, `{"`+c.field+`":`+c.value+`}`, 5))[0]
		got := ""
		if o.Err != nil {
			got = string(o.Err.Code)
		} else {
			got = string(o.Row.Get(c.field))
		}
		var a, b any
		if got != want && (json.Unmarshal([]byte(got), &a) != nil || json.Unmarshal([]byte(want), &b) != nil || string(mustJSON(a)) != string(mustJSON(b))) {
			t.Errorf("%s %s: got %s, want %s", c.field, c.value, got, want)
		}
	}
	for _, c := range []struct {
		where string
		want  int
	}{
		{`{"local":"2026-07-01T14:00:00.123456+02:00"}`, 1}, {`{"local":{"lt":"0001-01-01T00:00:00Z"}}`, 1}, {`{"mood":"it's ok"}`, 1}, {`{"mood":"happy"}`, 0},
		{`{"code":"ab"}`, 1}, {`{"code":{"gte":"ab","lte":"ab"}}`, 1}, {`{"price":"1.01"}`, 1}, {`{"single":0.1}`, 1}, {`{"single":0.10000000149011612}`, 0}, {`{"single":{"gt":0.1,"lt":0.2}}`, 0}, {`{"single":{"gte":0.1,"lt":0.2}}`, 1},
		{`{"single":{"in":[0.1,0.5,1e300]}}`, 2}, {`{"single":{"in":[0.10000000149011612]}}`, 0}, {`{"single":1e300}`, 0}, {`{"single":{"lt":1e300}}`, 4}, {`{"single":{"gt":-1e300,"lte":1e-300}}`, 1},
		{`{"single":{"lt":0.10000000149011612,"gt":0.09999}}`, 1},
		{`{"even":4}`, 1}, {`{"double":-65536}`, 1}, {`{"short":{"gt":"a"}}`, 1},
	} {
		p, err := tidemark.ParseWhere(s, []byte(c.where))
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := d.Find(context.Background(), p, 0); err != nil || len(rows) != c.want {
			t.Errorf("%s: %s, %v; want %d rows", c.where, rows, err, c.want)
		}
	}
}

func mustJSON(v any) []byte { b, _ := json.Marshal(v); return b }

// TestValuesWithoutAForm are what another program may store and JSON or the
// kinds cannot say: they read as null, and clauses agree.
func TestValuesWithoutAForm(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	mustExec(t, db, postgresTables)
	d := engines[0].driver(t, db, models)
	mustExec(t, db, `INSERT INTO note (uid, x) VALUES ('x1', 'NaN'), ('x2', 'Infinity'), ('x3', '-Infinity'), ('x4', '-0'), ('x5', 1);
INSERT INTO note (uid, at) VALUES ('a1', 'infinity'), ('a2', '-infinity'), ('a3', '0044-03-15 BC'), ('a4', '12026-01-01'), ('a5', '2026-01-01 00:00:00+00');
INSERT INTO note (uid, day) VALUES ('d1', 'infinity'), ('d2', '0044-03-15 BC'), ('d3', '12026-01-01'), ('d5', '2026-01-01');
INSERT INTO note (uid, dec) VALUES ('n1', 'NaN'), ('n2', 'Infinity'), ('n5', '1.50');
INSERT INTO note (uid, tod) VALUES ('t1', '24:00:00'), ('t5', '12:00:00');
INSERT INTO note (uid, doc) VALUES ('j1', 'null'), ('j5', '1')`)
	s := d.Models()[0]
	find := func(where string) []tidemark.Row {
		p, err := tidemark.ParseWhere(s, []byte(where))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Find(context.Background(), p, 0)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		return rows
	}
	all := find(`{}`)
	if len(all) != 21 {
		t.Fatalf("%d rows", len(all))
	}
	for _, where := range []string{`{"x":null}`, `{"x":{"gt":-5}}`, `{"x":{"lt":5}}`, `{"x":0}`, `{"at":null}`, `{"at":{"gt":"2000-01-01"}}`, `{"at":{"lt":"2030-01-01"}}`,
		`{"day":null}`, `{"day":{"gt":"2000-01-01"}}`, `{"day":{"lt":"2030-01-01"}}`, `{"dec":null}`, `{"dec":"1.5"}`, `{"tod":null}`, `{"tod":{"gt":"00:00:00"}}`, `{"doc":null}`} {
		p, err := tidemark.ParseWhere(s, []byte(where))
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, r := range all {
			if p.Match(r) {
				want++
			}
		}
		if got := len(find(where)); got != want {
			t.Errorf("%s: %d rows, want %d", where, got, want)
		}
	}
}

// TestTheApplicationReadsWhatWeWrite goes both ways: bun's structs through the driver and back.
func TestTheApplicationReadsWhatWeWrite(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		d, db := e.ready(t)
		ctx := context.Background()
		text, n, x, b, dec, id, tod := `it's "x" \ é 😀`, int64(9007199254740993), 0.1, true, "12.5", "01890a5d-ac96-774b-bcce-b302099a8057", "12:30:00.5"
		at, day := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		theirs := Note{UID: "theirs", Text: &text, N: &n, X: &x, B: &b, At: &at, Raw: []byte{0, 255}, Doc: json.RawMessage(`{"a":[1,"x'y"]}`), Dec: &dec, ID: &id, Day: &day, Tod: &tod}
		if _, err := db.NewInsert().Model(&theirs).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		p, err := tidemark.Where{"uid": "theirs"}.Compile(d.Models()[0])
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Find(ctx, p, 0)
		if err != nil || len(rows) != 1 {
			t.Fatalf("%s, %v", rows, err)
		}
		patch, unknown, err := d.Models()[0].Patch("theirs", rows[0])
		if err != nil || unknown != nil || !json.Valid(patch) {
			t.Fatalf("%s: %v", rows[0], err)
		}
		write(t, d, create("note", "ours", string(patch), 5))
		var ours, again Note
		for uid, into := range map[string]*Note{"ours": &ours, "theirs": &again} {
			if err := db.NewSelect().Model(into).Where("uid = ?", uid).Scan(ctx); err != nil {
				t.Fatalf("%s: %v", uid, err)
			}
			into.UID = ""
		}
		if got, want := mustJSON(ours), mustJSON(again); string(got) != string(want) {
			t.Errorf("bun reads ours as\n%s, its own as\n%s", got, want)
		}
		if e.name == "sqlite" { // to the letter
			var same int
			const q = `SELECT count(*) FROM note a, note b WHERE a.uid = 'ours' AND b.uid = 'theirs' AND a.text IS b.text AND a.n IS b.n AND a.x IS b.x AND a.b IS b.b AND typeof(a.b) = typeof(b.b)
				AND CAST(a.at AS TEXT) IS CAST(b.at AS TEXT) AND a.raw IS b.raw AND typeof(a.raw) = typeof(b.raw) AND a.dec IS b.dec AND a.id IS b.id AND CAST(a.day AS TEXT) IS CAST(b.day AS TEXT) AND a.tod IS b.tod AND typeof(a.doc) = typeof(b.doc)`
			if err := db.QueryRowContext(ctx, q).Scan(&same); err != nil || same != 1 {
				t.Errorf("stored differently: %d, %v", same, err)
			}
		}
	})
}

// TestFloat32 takes numbers of 32 bits there and back: by bun, by a device, and by where.
func TestFloat32(t *testing.T) {
	t.Parallel()
	type gauge struct {
		bun.BaseModel `bun:"table:gauge"`
		UID           string   `bun:"uid,pk,type:text"`
		F             *float32 `bun:"f"`
	}
	each(t, func(t *testing.T, e engine) {
		ctx := context.Background()
		db := e.open(t)
		if _, err := db.NewCreateTable().Model((*gauge)(nil)).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		d := e.driver(t, db, []any{gauge{}})
		for _, f := range []float32{0.1, -0.3, 16777216, 1.5, 3.4028235e38, 1.1754944e-38} {
			text := string(mustJSON(f))
			if _, err := db.NewInsert().Model(&gauge{UID: "bun " + text, F: &f}).Exec(ctx); err != nil {
				t.Fatal(err)
			}
			write(t, d, create("gauge", "device "+text, `{"f":`+text+`}`, 5))
			for _, w := range []tidemark.Where{{"f": f}, {"f": tidemark.In{f, float32(7)}}, {"f": tidemark.Range{GTE: f, LTE: f}}} {
				p, err := w.Compile(d.Models()[0])
				if err != nil {
					t.Fatal(err)
				}
				rows, err := d.Find(ctx, p, 0)
				if err != nil || len(rows) != 2 {
					t.Fatalf("%v: %s, %v; want 2 rows", w, rows, err)
				}
				for _, row := range rows {
					var back gauge
					if err := db.NewSelect().Model(&back).Where("uid = ?", row.UID()).Scan(ctx); err != nil || *back.F != f || !p.Match(row) {
						t.Errorf("%s, by bun %v, %v; want %s", row, back.F, err, text)
					}
				}
			}
		}
	})
}
