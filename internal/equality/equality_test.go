// Package equality_test holds the engines to one meaning: a where selects the same rows in
// Go, in PostgreSQL, in a server's SQLite and in a device's, and a value that went
// through all of them is the value that was written.
package equality_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"pgregory.net/rapid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A check makes one table, and has so many rows and clauses over it.
const (
	rowsPerCheck    = 25
	clausesPerCheck = 40
)

// TestWhereSelectsTheSameRowsEverywhere draws tables, rows and clauses. With
// rapid's 100 checks that makes 100,000 decisions, each taken by four engines;
// -rapid.checks=1000 takes more, and a failure prints its seed.
func TestWhereSelectsTheSameRowsEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var decided, selected atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		table := w.drawTable(t)
		table.fill(t)
		for i := range clausesPerCheck {
			raw := drawWhere(t, table.columns)
			selected.Add(int64(table.compare(t, raw, i%5 == 0)))
			decided.Add(rowsPerCheck)
		}
	})
	want := int64(1000)
	if f := flag.Lookup("rapid.checks"); f != nil {
		want *= int64(f.Value.(flag.Getter).Get().(int))
	}
	if !t.Failed() && decided.Load() < want {
		t.Errorf("%d decisions, want %d", decided.Load(), want)
	}
	if n, all := selected.Load(), decided.Load(); !t.Failed() && (n < all/50 || n > all/2) {
		t.Errorf("%d of %d rows were selected: the clauses ask for next to nothing, or everything", n, all)
	}
	t.Logf("%d decisions, %d rows selected", decided.Load(), selected.Load())
}

// world has the databases in which tables are made.
type world struct {
	postgres, sqlite *bun.DB
	store            *sqlite.Store
	tables           int // made so far
}

func newWorld(t *testing.T) *world {
	w := &world{postgres: pgtest.Open(t), sqlite: openSQLite(t, "server.db")}
	if _, err := w.postgres.ExecContext(t.Context(), `CREATE TYPE mood AS ENUM (`+enumLabels+`)`); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", sqlite.DSNNormal(filepath.Join(t.TempDir(), "device.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if w.store, err = sqlite.Open(t.Context(), db, &sqlite.Options{AllowNormal: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

func openSQLite(t *testing.T, name string) *bun.DB {
	t.Helper()
	raw, err := sql.Open("sqlite3", "file:"+filepath.Join(t.TempDir(), name)+"?_journal_mode=WAL&_busy_timeout=10000&_foreign_keys=on&_synchronous=OFF")
	if err != nil {
		t.Fatal(err)
	}
	db := bun.NewDB(raw, sqlitedialect.New())
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// table is a drawn model in all engines.
type table struct {
	ctx     context.Context
	name    string
	columns []column // with uid
	uids    []string
	typ     reflect.Type // the application's struct
	servers []serverTable
	store   *sqlite.Store
	schema  *tidemark.Schema // the device's
	rows    []tidemark.Row   // what must be everywhere
}

// serverTable is the table in one of the server's databases.
type serverTable struct {
	engine string
	db     *bun.DB
	driver *bundriver.Driver
}

func (w *world) drawTable(t *rapid.T) *table {
	w.tables++
	tb := &table{ctx: context.Background(), name: fmt.Sprintf("Table %d", w.tables), store: w.store}
	tb.uids = drawUIDs(t, rowsPerCheck)
	tb.columns = append([]column{uidColumn(tb.uids)}, drawColumns(t)...)
	tb.typ = tb.structType()
	collation := rapid.SampledFrom([]string{"", ` COLLATE "en-x-icu"`}).Draw(t, "collation of uid")
	tb.create(t, "postgres", w.postgres, "text"+collation, func(c *column) string { return c.postgres }, "metadata, tidemark.uids")
	tb.create(t, "sqlite", w.sqlite, "TEXT", func(c *column) string { return c.sqlite }, "metadata, tidemark_uids")
	fields := make([]tidemark.Field, len(tb.columns))
	for i, c := range tb.columns {
		fields[i] = tidemark.Field{Name: c.name, Kind: c.kind, Indexed: c.local}
	}
	var err error
	if tb.schema, err = tidemark.NewSchema(tb.name, fields); err == nil {
		err = w.store.Declare(tb.ctx, tb.schema)
	}
	must(t, err)
	return tb
}

func must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// structType is the bun model that the application would have written.
func (tb *table) structType() reflect.Type {
	fields := []reflect.StructField{
		{Name: "BaseModel", Type: reflect.TypeFor[bun.BaseModel](), Anonymous: true, Tag: reflect.StructTag(`bun:"table:` + tb.name + `"`)},
		{Name: "UID", Type: reflect.TypeFor[string](), Tag: `bun:"uid,pk"`},
	}
	for i, c := range tb.columns[1:] {
		tag := c.name
		if c.bun != "" {
			tag += ",type:" + c.bun
		}
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("C%d", i), Type: c.typ, Tag: reflect.StructTag(`bun:"` + tag + `"`)})
	}
	return reflect.StructOf(fields)
}

// create makes the table in one database, with a driver over it alone; the uids of former tables are free again.
func (tb *table) create(t *rapid.T, engine string, db *bun.DB, uid string, declared func(*column) string, own string) {
	statement := fmt.Sprintf(`CREATE TABLE %q (uid %s NOT NULL PRIMARY KEY`, tb.name, uid)
	for _, c := range tb.columns[1:] {
		statement += fmt.Sprintf(", %q %s", c.name, declared(&c))
		if c.required {
			statement += " NOT NULL"
		}
	}
	statements := []string{statement + ")"}
	for i, c := range tb.columns[1:] {
		if c.indexed && c.postgres != "json" {
			statements = append(statements, fmt.Sprintf(`CREATE INDEX "%s_%d" ON %q (%q)`, tb.name, i, tb.name, c.name))
		}
	}
	for _, s := range statements {
		if _, err := db.DB.ExecContext(tb.ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	d, err := bundriver.New(tb.ctx, db, []any{reflect.New(tb.typ).Interface()}, nil)
	must(t, err)
	must(t, d.Migrate(tb.ctx))
	for name := range strings.SplitSeq(own, ", ") {
		_, err := db.DB.ExecContext(tb.ctx, "DELETE FROM "+name)
		must(t, err)
	}
	tb.servers = append(tb.servers, serverTable{engine, db, d})
}

// fill draws rows and writes each to both databases, as a client does or as the
// application with bun, and to the device. Every engine must give it back.
func (tb *table) fill(t *rapid.T) {
	var recs []tidemark.Record
	var theirs []tidemark.Row
	var ours []tidemark.Mutation
	for _, uid := range tb.uids {
		data := []byte(`{`)
		for i, c := range tb.columns[1:] {
			if i > 0 {
				data = append(data, ',')
			}
			data = append(data, quoted(c.name)+":"+c.value(t)...)
		}
		patch, unknown, err := tb.schema.Patch(uid, append(data, '}'))
		if err != nil || unknown != nil {
			t.Fatalf("%s: %v, unknown %v", data, err, unknown)
		}
		row := tidemark.Row(`{"uid":` + quoted(uid) + `}`).Merge(patch)
		tb.rows = append(tb.rows, row)
		recs = append(recs, tidemark.Record{UID: uid, Row: row, Base: row, Meta: tidemark.Meta{UID: uid, CreatedAt: 1}})
		if rapid.Bool().Draw(t, "by the application") && !hasYearZero(row) {
			theirs = append(theirs, row)
		} else {
			ours = append(ours, tidemark.Mutation{Model: tb.name, UID: uid, Op: tidemark.Create, Data: patch, Stamp: 1})
		}
	}
	for _, s := range tb.servers {
		for _, row := range theirs {
			if _, err := s.db.NewInsert().Model(tb.structOf(t, row)).Exec(tb.ctx); err != nil {
				t.Fatalf("%s: %s: %v", s.engine, row, err)
			}
		}
		outcomes, err := s.driver.Write(tb.ctx, ours)
		must(t, err)
		for i, o := range outcomes {
			if o.Err != nil {
				t.Fatalf("%s: %s: %v", s.engine, ours[i].Data, o.Err)
			}
		}
	}
	must(t, tb.store.Update(tb.ctx, func(tx tidemark.StoreTx) error { return tx.Put(tb.name, recs) }))
	tb.readBack(t)
}

// hasYearZero: bun writes the year 0 in a form that PostgreSQL refuses.
func hasYearZero(row tidemark.Row) bool { return strings.Contains(string(row), `"0000-`) }

// structOf returns the application's struct with the values of row.
func (tb *table) structOf(t *rapid.T, row tidemark.Row) any {
	v := reflect.New(tb.typ)
	v.Elem().FieldByName("UID").SetString(row.UID())
	for i, c := range tb.columns[1:] {
		raw := row.Get(c.name)
		if string(raw) == "null" {
			continue
		}
		field := v.Elem().FieldByName(fmt.Sprintf("C%d", i))
		switch {
		case c.kind == tidemark.JSON:
			field.SetBytes(slices.Clone(raw))
		case c.kind == tidemark.Bytes:
			s, err := tidemark.DecodeString(raw)
			must(t, err)
			data, err := base64.StdEncoding.DecodeString(s)
			must(t, err)
			field.SetBytes(data)
		case c.kind == tidemark.Date && c.typ == reflect.TypeFor[*time.Time]():
			day, err := time.Parse(`"2006-01-02"`, string(raw))
			must(t, err)
			field.Set(reflect.ValueOf(&day))
		default:
			must(t, json.Unmarshal(raw, field.Addr().Interface()))
		}
	}
	return v.Interface()
}

// readBack finds all rows in each engine.
func (tb *table) readBack(t *rapid.T) {
	want := map[string]tidemark.Row{}
	for _, r := range tb.rows {
		want[r.UID()] = r
	}
	for _, s := range tb.servers {
		found := s.find(t, tb, `{}`)
		if len(found) != len(want) {
			t.Fatalf("%s: %d rows, want %d", s.engine, len(found), len(want))
		}
		for _, got := range found {
			if d := difference(tb.schema, got, want[got.UID()]); d != "" {
				t.Fatalf("%s: row %q came back with %s", s.engine, got.UID(), d)
			}
		}
	}
}

// difference names a field in which two rows differ; JSON is compared by value.
func difference(s *tidemark.Schema, got, want tidemark.Row) string {
	for _, f := range s.Fields() {
		g, w := got.Get(f.Name), want.Get(f.Name)
		if string(g) == string(w) {
			continue
		}
		if f.Kind != tidemark.JSON || !reflect.DeepEqual(exactly(g), exactly(w)) {
			return fmt.Sprintf("%s %s, want %s", f.Name, g, w)
		}
	}
	return ""
}

// exactly decodes JSON with its numbers as fractions, which have one form each and lose nothing.
func exactly(raw []byte) any {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil
	}
	return fractions(v)
}

func fractions(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, _ := new(big.Rat).SetString(v.String())
		return r.String()
	case []any:
		for i := range v {
			v[i] = fractions(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = fractions(v[k])
		}
	}
	return v
}

func (s *serverTable) find(t *rapid.T, tb *table, raw string) []tidemark.Row {
	t.Helper()
	p, err := tidemark.ParseWhere(s.driver.Models()[0], []byte(raw))
	if err != nil {
		t.Fatalf("%s: %s: %v", s.engine, raw, err)
	}
	rows, err := s.driver.Find(tb.ctx, p, 0)
	if err != nil {
		t.Fatalf("%s: %s: %v", s.engine, raw, err)
	}
	return rows
}

// snapshot asks for the rows of a clause, and for all uids besides.
func (s *serverTable) snapshot(t *rapid.T, tb *table, raw string) (selected, others []string) {
	p, err := tidemark.ParseWhere(s.driver.Models()[0], []byte(raw))
	must(t, err)
	snap, err := s.driver.Snapshot(tb.ctx, p, tb.uids)
	if err != nil {
		t.Fatalf("%s: Snapshot of %s: %v", s.engine, raw, err)
	}
	for _, rm := range snap.Selected {
		selected = append(selected, rm.Row.UID())
	}
	for _, rm := range snap.Others {
		others = append(others, rm.Row.UID())
	}
	slices.Sort(selected)
	return selected, others
}

// compare asks every engine for the rows of one clause and returns how many there
// are; with snapshots, also those methods that are not asked each time, as they are slower.
func (tb *table) compare(t *rapid.T, raw string, snapshots bool) int {
	p, err := tidemark.ParseWhere(tb.schema, []byte(raw))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	var want []string
	for _, r := range tb.rows {
		if p.Match(r) {
			want = append(want, r.UID())
		}
	}
	slices.Sort(want)
	check := func(engine string, got []string) {
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %s\nselects %q,\nGo      %q\nof %s", engine, raw, got, want, tb.rows)
		}
	}
	for _, s := range tb.servers {
		got := uidsOf(s.find(t, tb, raw))
		slices.Sort(got)
		check(s.engine, got)
		if !snapshots {
			continue
		}
		selected, others := s.snapshot(t, tb, raw)
		check(s.engine+"'s Snapshot", selected)
		if len(others) != len(tb.rows)-len(want) || slices.ContainsFunc(others, func(uid string) bool { return slices.Contains(want, uid) }) {
			t.Fatalf("%s: %s: Snapshot has %q besides %q", s.engine, raw, others, selected)
		}
	}
	rows, err := tb.store.Find(tb.ctx, p)
	must(t, err)
	check("device", uidsOf(rows))
	if !snapshots {
		return len(want)
	}
	var held []tidemark.Meta
	must(t, tb.store.View(tb.ctx, func(tx tidemark.StoreTx) (err error) {
		held, err = tx.Held(p)
		return err
	}))
	got := make([]string, len(held))
	for i, m := range held {
		got[i] = m.UID
	}
	check("held by the device", got)
	return len(want)
}

func uidsOf(rows []tidemark.Row) []string {
	uids := make([]string, len(rows))
	for i, r := range rows {
		uids[i] = r.UID()
	}
	return uids
}
