package bundriver_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

type (
	untabled struct {
		UID string `bun:"uid,pk"`
	}
	untagged struct {
		bun.BaseModel `bun:"alias:x"`
		UID           string `bun:"uid,pk"`
	}
	intKey struct {
		bun.BaseModel `bun:"table:t"`
		UID           int64 `bun:"uid,pk"`
	}
	otherKey struct {
		bun.BaseModel `bun:"table:t"`
		ID            string `bun:"id,pk"`
	}
	twoKeys struct {
		bun.BaseModel `bun:"table:t"`
		UID           string `bun:"uid,pk"`
		B             string `bun:"b,pk"`
	}
	softDeleted struct {
		bun.BaseModel `bun:"table:t"`
		UID           string    `bun:"uid,pk"`
		DeletedAt     time.Time `bun:"deleted_at,soft_delete"`
	}
	withC struct {
		bun.BaseModel `bun:"table:t"`
		UID           string `bun:"uid,pk"`
		C             string `bun:"c"`
	}
	withComplex struct {
		bun.BaseModel `bun:"table:t"`
		UID           string   `bun:"uid,pk"`
		C             [3]int64 `bun:"c,type:point"`
	}
	inSchema struct {
		bun.BaseModel `bun:"table:app.thing"`
		UID           string `bun:"uid,pk"`
		C             string `bun:"c"`
		Total         int64  `bun:"total,scanonly"` // which is not in the table
	}
)

func TestNewRefusesByName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, engine, tables string
		model                any
		want                 string
	}{
		{"no struct", "", "", 5, "not a bun model"},
		{"nothing", "", "", nil, "not a bun model"},
		{"no base model", "", "", untabled{}, "name the table"},
		{"no table tag", "", "", untagged{}, "name the table"},
		{"key is no string", "", "CREATE TABLE t (uid bigint PRIMARY KEY)", intKey{}, "string column uid"},
		{"key of another name", "", "CREATE TABLE t (id text PRIMARY KEY)", otherKey{}, "string column uid"},
		{"two keys", "", "CREATE TABLE t (uid text, b text, PRIMARY KEY (uid, b))", twoKeys{}, "string column uid"},
		{"soft deletion", "", "CREATE TABLE t (uid text PRIMARY KEY, deleted_at timestamp)", softDeleted{}, "soft_delete"},
		{"no table", "", "", withC{}, "no such table"},
		{"no column", "", "CREATE TABLE t (uid text PRIMARY KEY)", withC{}, "there is no column c"},
		{"key without an index", "", "CREATE TABLE t (uid text, c text)", withC{}, "unique index"},
		{"unknown type", "postgres", "CREATE TABLE t (uid text PRIMARY KEY, c interval)", withC{}, "column c: values of type interval"},
		{"composite", "postgres", "CREATE TYPE pair AS (a int, b int);\nCREATE TABLE t (uid text PRIMARY KEY, c pair)", withC{}, "column c: values of type pair"},
		{"time with zone", "postgres", "CREATE TABLE t (uid text PRIMARY KEY, c timetz)", withC{}, "column c"},
		{"array of timestamps", "postgres", "CREATE TABLE t (uid text PRIMARY KEY, c timestamp[])", withC{}, "arrays of timestamp"},
		{"nondeterministic collation", "postgres", "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);\n" +
			"CREATE TABLE t (uid text PRIMARY KEY, c text COLLATE ci)", withC{}, "column c: its collation"},
		{"key is a uuid", "postgres", "CREATE TABLE t (uid uuid PRIMARY KEY, c text)", withC{}, "primary key uid"},
		{"unknown type in SQLite", "sqlite", "CREATE TABLE t (uid TEXT PRIMARY KEY, c POINT)", withComplex{}, `"point"`},
		{"text that becomes a number", "sqlite", "CREATE TABLE t (uid TEXT PRIMARY KEY, c STRING)", withC{}, "column c: it is declared STRING"},
		{"key without case", "sqlite", "CREATE TABLE t (uid TEXT COLLATE NOCASE PRIMARY KEY, c TEXT)", withC{}, "compared by bytes"},
	} {
		for _, e := range engines {
			if c.engine != "" && c.engine != e.name {
				continue
			}
			t.Run(c.name+"/"+e.name, func(t *testing.T) {
				t.Parallel()
				db := e.open(t)
				if c.tables != "" {
					mustExec(t, db, c.tables)
				}
				_, err := bundriver.New(context.Background(), db, []any{c.model}, nil)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want an error with %q", err, c.want)
				}
			})
		}
	}
}

func TestNewRefusesDatabasesThatChangeValues(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	var name string
	if err := db.QueryRowContext(context.Background(), "SELECT current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ setting, good, want string }{{"standard_conforming_strings = off", "standard_conforming_strings = on", "standard_conforming_strings"},
		{"extra_float_digits = 0", "extra_float_digits = 1", "extra_float_digits"}} {
		mustExec(t, db, "ALTER DATABASE "+name+" SET "+c.setting)
		db.SetMaxIdleConns(0) // so that new connections see the setting
		fresh := db
		if _, err := bundriver.New(context.Background(), fresh, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.setting, err)
		}
		mustExec(t, db, "ALTER DATABASE "+name+" SET "+c.good)
	}
	sqlite := openSQLite(t)
	mustExec(t, sqlite, "PRAGMA encoding = 'UTF-16'")
	mustExec(t, sqlite, "CREATE TABLE t (uid TEXT)")
	if _, err := bundriver.New(context.Background(), sqlite, nil, nil); err == nil || !strings.Contains(err.Error(), "encoding") {
		t.Errorf("UTF-16: %v", err)
	}
}

func TestSchemasAndScanonly(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	mustExec(t, db, "CREATE SCHEMA app;\nCREATE TABLE app.thing (uid text PRIMARY KEY, c text NOT NULL, d text);\nCREATE INDEX ON app.thing (c, d)")
	d := engines[0].driver(t, db, []any{inSchema{}})
	s := d.Models()[0]
	if s.Name() != "thing" || len(s.Fields()) != 2 { // the scanonly field is none
		t.Fatalf("got %s %+v", s.Name(), s.Fields())
	}
	if f, _ := s.Field("c"); !f.Required || !f.Indexed || f.Kind != tidemark.Text {
		t.Errorf("got %+v", f)
	}
	outs, err := d.Write(context.Background(), []tidemark.Mutation{{Model: "thing", UID: "a", Op: tidemark.Create, Data: tidemark.Row(`{"c":"x"}`), Stamp: 5}})
	if err != nil || string(outs[0].Row) != `{"uid":"a","c":"x"}` {
		t.Errorf("got %+v, %v", outs, err)
	}
	if _, err := bundriver.New(context.Background(), db, []any{inSchema{}, inSchema{}}, nil); err == nil {
		t.Error("a model stands twice")
	}
}
