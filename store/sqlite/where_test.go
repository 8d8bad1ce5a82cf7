package sqlite_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// itemSchema is the model of testdata/where.json.
func itemSchema(t testing.TB, indexed bool) *tidemark.Schema {
	t.Helper()
	fields := []tidemark.Field{
		{Name: "name", Kind: tidemark.Text},
		{Name: "qty", Kind: tidemark.Integer},
		{Name: "price", Kind: tidemark.Double},
		{Name: "done", Kind: tidemark.Bool},
		{Name: "due", Kind: tidemark.Timestamp},
	}
	for i := range fields {
		fields[i].Indexed = indexed
	}
	s, err := tidemark.NewSchema("item", fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFindSelectsWhatPostgreSQLSelects: the clauses of the vectors select the
// same rows here, with and without indexes, in Find and in Held.
func TestFindSelectsWhatPostgreSQLSelects(t *testing.T) {
	t.Parallel()
	var v struct {
		Rows  []tidemark.Row
		Cases []struct {
			Where json.RawMessage
			UIDs  []string
		}
	}
	raw, err := os.ReadFile("../../testdata/where.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) != 1201 {
		t.Fatalf("%d cases, want 1201", len(v.Cases))
	}
	for _, indexed := range []bool{false, true} {
		t.Run(map[bool]string{false: "without indexes", true: "with indexes"}[indexed], func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, file(t), nil)
			schema := itemSchema(t, indexed)
			if err := s.Declare(t.Context(), schema); err != nil {
				t.Fatal(err)
			}
			put(t, s, v.Rows...)
			for _, c := range v.Cases {
				p, err := tidemark.ParseWhere(schema, c.Where)
				if err != nil {
					t.Fatal(err)
				}
				rows, err := s.Find(t.Context(), p)
				if err != nil {
					t.Fatalf("where %s: %v", c.Where, err)
				}
				got := []string{}
				for _, r := range rows {
					got = append(got, r.UID())
				}
				if !slices.Equal(got, c.UIDs) {
					t.Errorf("where %s:\n got %v\nwant %v", c.Where, got, c.UIDs)
				}
				if got := held(t, s, p); !slices.Equal(got, c.UIDs) {
					t.Errorf("held where %s:\n got %v\nwant %v", c.Where, got, c.UIDs)
				}
			}
		})
	}
}

// TestTheLongestClauses: as many lists as a clause may have, each as long as it may be.
func TestTheLongestClauses(t *testing.T) {
	t.Parallel()
	s, _ := open(t, file(t), nil)
	schema := itemSchema(t, true)
	if err := s.Declare(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]string{"name": `"999"`, "qty": `999`, "price": `999`, "due": `"1970-01-01T00:00:00.999Z"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			uid := "u-" + name
			put(t, s, tidemark.Row(`{"uid":"`+uid+`","`+name+`":`+row+`}`))
			var uids tidemark.In
			for i := range tidemark.MaxValues {
				uids = append(uids, fmt.Sprint("x", i))
			}
			uids[7] = uid
			alternatives := make([]tidemark.Where, tidemark.MaxTerms-1)
			for k := range alternatives {
				list := make(tidemark.In, tidemark.MaxValues)
				for i := range list {
					switch n := k*tidemark.MaxValues + i; name {
					case "name":
						list[i] = fmt.Sprint(n)
					case "due":
						list[i] = time.UnixMilli(int64(n))
					default:
						list[i] = n
					}
				}
				alternatives[k] = tidemark.Where{name: list}
			}
			p, err := tidemark.Where{"uid": uids, "$or": alternatives}.Compile(schema)
			if err != nil {
				t.Fatal(err)
			}
			rows, err := s.Find(t.Context(), p)
			if err != nil || len(rows) != 1 || rows[0].UID() != uid {
				t.Errorf("got %s, %v", rows, err)
			}
		})
	}
}

// put stores rows of item as the server's.
func put(t testing.TB, s tidemark.Store, rows ...tidemark.Row) {
	t.Helper()
	recs := make([]tidemark.Record, len(rows))
	for i, r := range rows {
		recs[i] = tidemark.Record{UID: r.UID(), Row: r, Base: r, Meta: tidemark.Meta{UID: r.UID(), CreatedAt: tidemark.Stamp(i + 1)}}
	}
	if err := s.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Put("item", recs) }); err != nil {
		t.Fatal(err)
	}
}

func held(t testing.TB, s tidemark.Store, p *tidemark.Predicate) []string {
	t.Helper()
	uids := []string{}
	err := s.View(t.Context(), func(tx tidemark.StoreTx) error {
		metas, err := tx.Held(p)
		for _, m := range metas {
			uids = append(uids, m.UID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return uids
}
