package tidemark_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// whereVectors are rows, and clauses with the uids that PostgreSQL selects.
type whereVectors struct {
	Rows  []tidemark.Row
	Cases []struct {
		Where json.RawMessage
		UIDs  []string
	}
}

func readVectors(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func itemSchema(t *testing.T) *tidemark.Schema {
	t.Helper()
	s, err := tidemark.NewSchema("item", []tidemark.Field{
		{Name: "name", Kind: tidemark.Text},
		{Name: "qty", Kind: tidemark.Integer},
		{Name: "price", Kind: tidemark.Double},
		{Name: "done", Kind: tidemark.Bool},
		{Name: "due", Kind: tidemark.Timestamp},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatcherSelectsWhatPostgreSQLSelects(t *testing.T) {
	t.Parallel()
	var v whereVectors
	readVectors(t, "where.json", &v)
	if len(v.Cases) != 1201 {
		t.Fatalf("%d cases, want 1201", len(v.Cases))
	}
	s := itemSchema(t)
	for _, c := range v.Cases {
		p, err := tidemark.ParseWhere(s, c.Where)
		if err != nil {
			t.Fatalf("where %s: %v", c.Where, err)
		}
		got := []string{}
		for _, r := range v.Rows {
			if p.Match(r) {
				got = append(got, r.UID())
			}
		}
		if !slices.Equal(got, c.UIDs) {
			t.Errorf("where %s:\n got %v\nwant %v", c.Where, got, c.UIDs)
		}
	}
}

func TestScopeAlgebraAgreesWithTheRows(t *testing.T) {
	t.Parallel()
	var v whereVectors
	readVectors(t, "where.json", &v)
	s := itemSchema(t)
	ps := make([]*tidemark.Predicate, len(v.Cases))
	for i, c := range v.Cases {
		p, err := tidemark.ParseWhere(s, c.Where)
		if err != nil {
			t.Fatal(err)
		}
		ps[i] = p
		again, err := tidemark.ParseWhere(s, []byte(p.Key()))
		if err != nil || again.Key() != p.Key() {
			t.Fatalf("key %s of %s reads back as %v, %v", p.Key(), c.Where, again, err)
		}
	}
	covered, disjoint := 0, 0
	for i, p := range ps {
		for j, q := range ps {
			common := slices.ContainsFunc(v.Cases[j].UIDs, func(u string) bool { return slices.Contains(v.Cases[i].UIDs, u) })
			if p.Overlaps(q) != q.Overlaps(p) {
				t.Fatalf("overlap of %s and %s depends on their order", p, q)
			}
			if !p.Overlaps(q) {
				disjoint++
				if common {
					t.Fatalf("%s and %s do not overlap, but share rows", p, q)
				}
			}
			if p.Covers(q) {
				covered++
				for _, u := range v.Cases[j].UIDs {
					if !slices.Contains(v.Cases[i].UIDs, u) {
						t.Fatalf("%s covers %s, but not its row %s", p, q, u)
					}
				}
			}
		}
		if !p.Covers(p) {
			t.Fatalf("%s does not cover itself", p)
		}
	}
	if covered < len(ps)*2 || disjoint < len(ps)*20 {
		t.Errorf("the algebra proves next to nothing: %d covers, %d disjoint of %d pairs", covered, disjoint, len(ps)*len(ps))
	}
}

type reconcileCase struct {
	ServerRow  json.RawMessage `json:"server_row"`
	ServerMeta json.RawMessage `json:"server_meta"`
	ClientMeta json.RawMessage `json:"client_meta"`
	Want       struct {
		AddClient, UpdateClient []json.RawMessage
		DeleteClient            [][2]string
		AddDatabase             []json.RawMessage
		UpdateDatabase          []json.RawMessage
		DeleteDatabase          []string
	}
}

// TestReconcileAgreesWithTheOriginal covers all cases but the two families in
// which we differ on purpose: the original asks for a push as created of an
// entry that has updated_at, and as updated of one that has none.
func TestReconcileAgreesWithTheOriginal(t *testing.T) {
	t.Parallel()
	var cases []reconcileCase
	readVectors(t, "reconcile.json", &cases)
	if len(cases) != 2850 {
		t.Fatalf("%d cases, want 2850", len(cases))
	}
	asUpdate, asCreate := 0, 0
	for i, c := range cases {
		d := tidemark.Drifted{Selected: isObject(c.ServerRow), Present: isObject(c.ServerRow)}
		if isObject(c.ServerMeta) {
			m, err := tidemark.ParseMeta(c.ServerMeta)
			if err != nil {
				t.Fatal(err)
			}
			d.Server = m
		}
		updated := false
		if isObject(c.ClientMeta) {
			m, err := tidemark.ParseMeta(c.ClientMeta)
			if err != nil {
				t.Fatal(err)
			}
			d.Client = &tidemark.ClientEntry{Meta: m}
			updated = m.UpdatedAt != 0
		}
		got := tidemark.Reconcile(d)
		var want tidemark.Steps
		switch {
		case len(c.Want.AddClient) > 0:
			want.Client = tidemark.ClientAdd
		case len(c.Want.UpdateClient) > 0:
			want.Client = tidemark.ClientUpdate
		case len(c.Want.DeleteClient) > 0:
			want.Client = tidemark.ClientDelete
			want.Deleted, _ = tidemark.ParseStamp(c.Want.DeleteClient[0][1])
		}
		switch {
		case len(c.Want.AddDatabase) > 0 && updated:
			want.Database = tidemark.DatabaseUpdate
			asUpdate++
		case len(c.Want.UpdateDatabase) > 0 && !updated:
			want.Database = tidemark.DatabaseAdd
			asCreate++
		case len(c.Want.AddDatabase) > 0:
			want.Database = tidemark.DatabaseAdd
		case len(c.Want.UpdateDatabase) > 0:
			want.Database = tidemark.DatabaseUpdate
		case len(c.Want.DeleteDatabase) > 0:
			want.Database = tidemark.DatabaseDelete
			want.DeleteAt = got.DeleteAt // the vectors do not say when
		}
		if got != want {
			t.Errorf("case %d: server %s %s, client %s: got %+v, want %+v", i, c.ServerRow, c.ServerMeta, c.ClientMeta, got, want)
		}
	}
	if asUpdate != 106 || asCreate != 29 {
		t.Errorf("departures: %d pushed as updated, %d as created; want 106 and 29", asUpdate, asCreate)
	}
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }
