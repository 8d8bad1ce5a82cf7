package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// indexes is how many of the item table's indexes on fields there are.
func indexes(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name LIKE 'tidemark!_rows!_%!_x%' ESCAPE '!'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// flooded returns a store after a first sync of 1,000 rows.
func flooded(t *testing.T, path string, connections int) (*sqlite.Store, *sql.DB) {
	t.Helper()
	s, db := openWith(t, path, connections, nil)
	if err := s.Declare(t.Context(), itemSchema(t, true)); err != nil {
		t.Fatal(err)
	}
	rows := make([]tidemark.Row, 500)
	for page := range 2 {
		for i := range rows {
			rows[i] = tidemark.Row(fmt.Sprintf(`{"uid":"u%d%03d","qty":%d}`, page, i, i%100))
		}
		put(t, s, rows...)
	}
	if n := indexes(t, db); n != 0 {
		t.Fatalf("%d indexes during a first sync", n)
	}
	return s, db
}

func nothing(tidemark.StoreTx) error { return nil }

// TestIndexesAreMadeWhenTheyAreNeeded, and not before there are rows.
func TestIndexesAreMadeWhenTheyAreNeeded(t *testing.T) {
	t.Parallel()
	schema := itemSchema(t, true)
	tens, err := tidemark.Where{"qty": 10}.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	all, err := tidemark.Where{"uid": tidemark.Range{GT: "u"}}.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	find := func(t *testing.T, s *sqlite.Store, p *tidemark.Predicate, want int) {
		t.Helper()
		if rows, err := s.Find(t.Context(), p); err != nil || len(rows) != want {
			t.Errorf("found %d rows, %v, want %d", len(rows), err, want)
		}
	}
	const made = 5
	for name, c := range map[string]struct {
		connections int
		do          func(t *testing.T, s *sqlite.Store)
		want        int
	}{
		"when the flood is over":  {0, func(t *testing.T, s *sqlite.Store) { put(t, s, tidemark.Row(`{"uid":"a"}`)) }, made},
		"by an update of no rows": {0, func(t *testing.T, s *sqlite.Store) { _ = s.Update(t.Context(), nothing) }, made},
		"on one connection":       {1, func(t *testing.T, s *sqlite.Store) { _ = s.Update(t.Context(), nothing) }, made},
		"not by one that fails": {0, func(t *testing.T, s *sqlite.Store) {
			_ = s.Update(t.Context(), func(tidemark.StoreTx) error { return errors.New("no") })
		}, 0},
		"by a search":                {0, func(t *testing.T, s *sqlite.Store) { find(t, s, tens, 10) }, made},
		"not by one that needs none": {0, func(t *testing.T, s *sqlite.Store) { find(t, s, all, 1000) }, 0},
		"by declaring once more": {0, func(t *testing.T, s *sqlite.Store) {
			if err := s.Declare(t.Context(), schema); err != nil {
				t.Error(err)
			}
		}, made},
		"after a search in an update": {0, func(t *testing.T, s *sqlite.Store) {
			if err := s.Update(t.Context(), func(tidemark.StoreTx) error { find(t, s, tens, 10); return nil }); err != nil {
				t.Error(err)
			}
		}, made},
		"by Held": {0, func(t *testing.T, s *sqlite.Store) {
			for _, run := range []func(tidemark.StoreTx) error{
				func(tx tidemark.StoreTx) error { _, err := tx.Held(tens); return err },
				func(tx tidemark.StoreTx) error { return tx.Put("item", filler(t, 300)) },
			} {
				if err := s.Update(t.Context(), run); err != nil {
					t.Error(err)
				}
			}
		}, made},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := file(t)
			s, db := flooded(t, path, c.connections)
			c.do(t, s)
			if got := indexes(t, db); got != c.want {
				t.Errorf("%d indexes, want %d", got, c.want)
			}
			find(t, s, tens, 10)
			put(t, s, tidemark.Row(`{"uid":"last","qty":10}`))
			find(t, s, tens, 11)
			if err := errors.Join(s.Check(t.Context()), s.Close()); err != nil {
				t.Error(err)
			}
			s, _ = open(t, path, nil) // knows of them without being told
			find(t, s, tens, 11)
		})
	}
}

// filler returns n records of rows whose qty nobody looks for.
func filler(t *testing.T, n int) []tidemark.Record {
	t.Helper()
	recs := make([]tidemark.Record, n)
	for i := range recs {
		uid := fmt.Sprintf("m%03d", i)
		recs[i] = tidemark.Record{UID: uid, Row: tidemark.Row(fmt.Sprintf(`{"uid":%q,"qty":-1}`, uid)), Pending: 1}
	}
	return recs
}

// TestNoIndexWithoutRows: a search in an empty table is no reason to make them.
func TestNoIndexWithoutRows(t *testing.T) {
	t.Parallel()
	s, db := open(t, file(t), nil)
	schema := itemSchema(t, true)
	p, err := tidemark.Where{"qty": 10}.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Declare(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	if rows, err := s.Find(t.Context(), p); err != nil || len(rows) != 0 {
		t.Errorf("%v, %v", rows, err)
	}
	if err := errors.Join(s.Update(t.Context(), nothing), s.Declare(t.Context(), schema)); err != nil {
		t.Error(err)
	}
	if n := indexes(t, db); n != 0 {
		t.Errorf("%d indexes", n)
	}
}
