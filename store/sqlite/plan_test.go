package sqlite

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark"
)

// TestIndexesAreUsed: what a clause on an indexed field looks at, as SQLite plans it.
func TestIndexesAreUsed(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite3", DSN(filepath.Join(t.TempDir(), "test.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := Open(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	schema, err := tidemark.NewSchema("item", []tidemark.Field{
		{Name: "tag", Kind: tidemark.Text, Indexed: true}, {Name: "qty", Kind: tidemark.Integer, Indexed: true}, {Name: "name", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Declare(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx tidemark.StoreTx) error { // makes the indexes
		return tx.Put("item", []tidemark.Record{{UID: "a", Row: tidemark.Row(`{"uid":"a"}`), Pending: 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		where     tidemark.Where
		uses, not string
	}{
		{tidemark.Where{"tag": "x"}, "_x0 (x0=?)", "B-TREE"},
		{tidemark.Where{"tag": nil}, "_x0 (x0=?)", "B-TREE"},
		{tidemark.Where{"tag": "x", "name": "y"}, "_x0 (x0=?)", "B-TREE"},
		{tidemark.Where{"qty": tidemark.Range{GTE: 1, LT: 5}}, "_x1 (x1>? AND x1<?)", "SCAN"},
		{tidemark.Where{"qty": tidemark.Range{GT: 1}}, "_x1 (x1>?)", "SCAN"},
		{tidemark.Where{"tag": "x", "qty": tidemark.Range{GT: 1}}, "_x0 (x0=?)", "SCAN"},
		{tidemark.Where{"uid": "x"}, "PRIMARY KEY (uid=?)", "SCAN"},
		{tidemark.Where{"uid": tidemark.Range{GT: "x"}}, "PRIMARY KEY (uid>?)", "B-TREE"},
		{tidemark.Where{"tag": tidemark.In{"x", "y", "z"}}, "_x0 (x0=?)", "SCAN"},
		{tidemark.Where{"tag": tidemark.In{"x", nil}}, "_x0 (x0=?)", "SCAN"},
		{tidemark.Where{"uid": tidemark.In{"x", "y"}}, "PRIMARY KEY (uid=?)", "B-TREE"},
		{tidemark.Where{"tag": "x", "qty": tidemark.In{1, 2}}, "(x0=?)", "SCAN"},
		{tidemark.Where{"$or": []tidemark.Where{{"tag": "x"}, {"qty": tidemark.Range{GT: 1}, "name": "y"}}}, "MULTI-INDEX OR", "SCAN"},
		{tidemark.Where{"$or": []tidemark.Where{{"uid": "x"}, {"qty": tidemark.In{1, 2}}}}, "MULTI-INDEX OR", "SCAN"},
		{tidemark.Where{"tag": "x", "$or": []tidemark.Where{{"qty": 1}, {"name": "y"}}}, "_x0 (x0=?)", "B-TREE"},
		{tidemark.Where{"$or": []tidemark.Where{{"qty": 1}, {"name": "y"}}}, "SCAN", "MULTI-INDEX OR"},
		{tidemark.Where{}, "SCAN", "B-TREE"},
	} {
		p, err := c.where.Compile(schema)
		if err != nil {
			t.Fatal(err)
		}
		m := s.models.Load().models["item"]
		w := m.condition(p)
		for _, text := range []string{m.findText(&w), m.heldSame + w.text + w.order()} {
			if plan := planOf(t, db, text, w.args...); !strings.Contains(plan, c.uses) || strings.Contains(plan, c.not) {
				t.Errorf("%s: planned as %s, want %s", p, plan, c.uses)
			}
		}
	}
	m := s.models.Load().models["item"]
	for text, uses := range map[string]string{
		m.heldOwn: "_own", m.prune: "_gone", m.many: "PRIMARY KEY (uid=?)", m.one: "PRIMARY KEY (uid=?)",
		selectMutations + m.pending + " ORDER BY n":    "INTEGER PRIMARY KEY (rowid=?)",
		selectMutations + "n IN (" + selectLoose + ")": "tidemark_mutations_loose (model=? AND uid=?)",
		selectMutations + "n > ? ORDER BY n LIMIT ?":   "INTEGER PRIMARY KEY (rowid>?)",
		m.newest:     "tidemark_mutations_loose (model=? AND uid=?)",
		deleteOthers: "INTEGER PRIMARY KEY (rowid=?)",
		blankHighest: "INTEGER PRIMARY KEY (rowid=?)",
	} {
		args := make([]any, strings.Count(text, "?"))
		if plan := planOf(t, db, text, args...); !strings.Contains(plan, uses) {
			t.Errorf("%s: planned as %s, want %s", text, plan, uses)
		}
	}
}

func planOf(t *testing.T, db *sql.DB, text string, args ...any) (plan string) {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var a, b, c int
		var step string
		if err := rows.Scan(&a, &b, &c, &step); err != nil {
			t.Fatal(err)
		}
		plan += step + "; "
	}
	return plan
}
