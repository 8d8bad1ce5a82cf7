package tidemark_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// What a sync decides, told one situation at a time. Stamps: 10 < 20 < 30.
func TestReconcileSituations(t *testing.T) {
	t.Parallel()
	type steps = tidemark.Steps
	entry := func(m tidemark.Meta, dirty ...bool) *tidemark.ClientEntry {
		m.UID = "u"
		return &tidemark.ClientEntry{Meta: m, Dirty: len(dirty) > 0}
	}
	server := func(m tidemark.Meta) tidemark.Meta { m.UID = "u"; return m }
	type meta = tidemark.Meta
	for _, c := range []struct {
		name string
		d    tidemark.Drifted
		want steps
	}{
		{"only the server has it", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10})}, steps{Client: tidemark.ClientAdd}},
		{"only the server has it, outside the where", tidemark.Drifted{Present: true, Server: server(meta{CreatedAt: 10})}, steps{}},
		{"only the client has it", tidemark.Drifted{Client: entry(meta{CreatedAt: 10})}, steps{Database: tidemark.DatabaseAdd}},
		{"only the client has it, updated offline", tidemark.Drifted{Client: entry(meta{CreatedAt: 10, UpdatedAt: 20})}, steps{Database: tidemark.DatabaseUpdate}},
		{"only the client knew it, and deleted it", tidemark.Drifted{Client: entry(meta{DeletedAt: 20})}, steps{Client: tidemark.ClientDelete, Deleted: 20}},
		{"deleted on the server later", tidemark.Drifted{Server: server(meta{DeletedAt: 20}), Client: entry(meta{CreatedAt: 10})}, steps{Client: tidemark.ClientDelete, Deleted: 20}},
		{"updated offline after the deletion", tidemark.Drifted{Server: server(meta{DeletedAt: 20}), Client: entry(meta{CreatedAt: 10, UpdatedAt: 30})}, steps{Database: tidemark.DatabaseUpdate}},
		{"stale row under a tombstone, client empty", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{DeletedAt: 20})}, steps{Database: tidemark.DatabaseDelete, DeleteAt: 20}},
		{"stale row under a tombstone, client older", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{DeletedAt: 20}), Client: entry(meta{CreatedAt: 10})},
			steps{Client: tidemark.ClientDelete, Deleted: 20, Database: tidemark.DatabaseDelete, DeleteAt: 20}},
		{"metadata without a row", tidemark.Drifted{Server: server(meta{CreatedAt: 20}), Client: entry(meta{CreatedAt: 10})},
			steps{Client: tidemark.ClientDelete, Deleted: 20, Database: tidemark.DatabaseDelete, DeleteAt: 20}},
		{"client newer", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10}), Client: entry(meta{CreatedAt: 10, UpdatedAt: 20})}, steps{Database: tidemark.DatabaseUpdate}},
		{"client newer, created there", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10}), Client: entry(meta{CreatedAt: 20})}, steps{Database: tidemark.DatabaseAdd}},
		{"server newer", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{UpdatedAt: 20}), Client: entry(meta{CreatedAt: 10})}, steps{Client: tidemark.ClientUpdate}},
		{"equal", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10}), Client: entry(meta{CreatedAt: 10})}, steps{}},
		{"equal, but the client has an unconfirmed change", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10}), Client: entry(meta{CreatedAt: 10}, true)}, steps{Client: tidemark.ClientUpdate}},
		{"deleted offline", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{CreatedAt: 10}), Client: entry(meta{CreatedAt: 10, DeletedAt: 20})},
			steps{Client: tidemark.ClientDelete, Deleted: 20, Database: tidemark.DatabaseDelete, DeleteAt: 20}},
		{"deleted offline before a newer update", tidemark.Drifted{Selected: true, Present: true, Server: server(meta{UpdatedAt: 30}), Client: entry(meta{DeletedAt: 20})}, steps{Client: tidemark.ClientUpdate}},
		{"left the where, equal", tidemark.Drifted{Present: true, Server: server(meta{UpdatedAt: 20}), Client: entry(meta{UpdatedAt: 20})}, steps{Client: tidemark.ClientUpdate}},
		{"left the where, server newer", tidemark.Drifted{Present: true, Server: server(meta{UpdatedAt: 30}), Client: entry(meta{UpdatedAt: 20})}, steps{Client: tidemark.ClientUpdate}},
		{"left the where, client newer", tidemark.Drifted{Present: true, Server: server(meta{UpdatedAt: 20}), Client: entry(meta{UpdatedAt: 30})}, steps{Database: tidemark.DatabaseUpdate}},
		{"left the where, deleted by the client at the same time", tidemark.Drifted{Present: true, Server: server(meta{UpdatedAt: 20}), Client: entry(meta{DeletedAt: 20})},
			steps{Client: tidemark.ClientDelete, Deleted: 20, Database: tidemark.DatabaseDelete, DeleteAt: 20}},
		{"left the where, deleted by the client before", tidemark.Drifted{Present: true, Server: server(meta{UpdatedAt: 20}), Client: entry(meta{DeletedAt: 10})}, steps{Client: tidemark.ClientUpdate}},
		{"no metadata on the server", tidemark.Drifted{Selected: true, Present: true, Client: entry(meta{CreatedAt: 10})}, steps{Database: tidemark.DatabaseAdd}},
	} {
		if got := tidemark.Reconcile(c.d); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestReconcileNeverDeletesALiveRowBecauseItLeftTheWhere(t *testing.T) {
	t.Parallel()
	stamps := []tidemark.Stamp{0, 10, 20, 30}
	for _, created := range stamps {
		for _, updated := range stamps {
			for _, mine := range stamps[1:] {
				d := tidemark.Drifted{
					Present: true,
					Server:  tidemark.Meta{UID: "u", CreatedAt: created, UpdatedAt: updated},
					Client:  &tidemark.ClientEntry{Meta: tidemark.Meta{UID: "u", UpdatedAt: mine}},
				}
				if got := tidemark.Reconcile(d); got.Database == tidemark.DatabaseDelete || got.Client == tidemark.ClientDelete {
					t.Errorf("%+v, client at %d: got %+v", d.Server, mine, got)
				}
			}
		}
	}
}

func TestSyncResultSurvivesTheWire(t *testing.T) {
	t.Parallel()
	r := tidemark.SyncResult{
		AddClient:    []tidemark.RowMeta{{Row: tidemark.Row(`{"uid":"a","t":"<&>"}`), Meta: tidemark.Meta{UID: "a", CreatedAt: 1_000_000}}},
		UpdateClient: []tidemark.RowMeta{{Meta: tidemark.Meta{UID: "b", DeletedAt: 1_000_001}}},
		DeleteClient: []tidemark.Deletion{{UID: "c", At: 2_000_000}},
		AddDatabase:  []json.RawMessage{json.RawMessage(`{"uid":"d"}`)},
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"updateDatabase":[]`, `["c","1970-01-01T00:00:02.000Z"]`,
		`[null,{"uid":"b","created_at":null,"updated_at":null,"deleted_at":"1970-01-01T00:00:01.000001Z"}]`,
	} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("%s lacks %s", raw, part)
		}
	}
	var back tidemark.SyncResult
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(back)
	if string(again) != string(raw) {
		t.Errorf("got %s, want %s", again, raw)
	}
}

func TestTuplesThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`[{"uid":"a"},{"uid":"b","created_at":null}]`, `[{"uid":"a"},{"created_at":null}]`,
		`{}`, `null`, `["a"]`, `[{"uid":"a"},{"uid":"a","created_at":"yesterday"}]`, `[{"uid":"a"},7]`, `[`,
	} {
		var t2 tidemark.RowMeta
		if err := t2.UnmarshalJSON([]byte(raw)); err == nil {
			t.Errorf("%s was read as %+v", raw, t2)
		}
	}
}

func TestClientEntriesAreChecked(t *testing.T) {
	t.Parallel()
	e, err := tidemark.ParseClientEntry("u", []byte(`{"uid":"u","created_at":"2026-11-22T12:06:18.604+02:00","__dirty__":true,"extra":[1]}`))
	if err != nil || !e.Dirty || e.Meta.CreatedAt.String() != "2026-11-22T10:06:18.604Z" {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, raw := range []string{
		`{"uid":"v","created_at":"2026-01-01"}`, `{"uid":"u"}`, `{"uid":"u","created_at":null}`,
		`{"uid":"u","created_at":"soon"}`, `{"uid":"u","created_at":[]}`, `7`, `null`, `{"uid":`, ``,
	} {
		if _, err := tidemark.ParseClientEntry("u", []byte(raw)); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
			t.Errorf("%s: got %v, want invalid-request", raw, err)
		}
	}
}
