package server_test

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// known is one row as one side of a sync has it; times in seconds, 0 for none.
type known struct {
	uid                       string
	created, updated, deleted int
	norow                     bool // metadata without a row
}

func (k known) meta() tidemark.Meta {
	date := func(s int) tidemark.Stamp {
		if s == 0 {
			return 0
		}
		return stamp(s)
	}
	return tidemark.Meta{UID: k.uid, CreatedAt: date(k.created), UpdatedAt: date(k.updated), DeletedAt: date(k.deleted)}
}

// What a sync of everything answers, and deletes on the server, told by example:
// the situations s1 to s19 of docs/scenarios.md. Times: -30 before -20 before -10.
func TestSyncByExample(t *testing.T) {
	t.Parallel()
	const T0, T1, T2 = -30, -20, -10
	for _, s := range []struct {
		name   string
		server []known
		client []known
		want   string
		gone   string // rows and tombstones of the server afterwards: "uid deleted_at"
	}{
		{"nothing on either side" /*s1*/, nil, nil, "", ""},
		{"a row of the server's" /*s2*/, []known{{uid: "a", created: T0}}, nil, `add a"a" -30 - -`, ""},
		{"a row of the client's" /*s3*/, nil, []known{{uid: "b", created: T0}}, "push b", ""},
		{"a row that only the client knew, and deleted" /*s4*/, nil, []known{{uid: "c", deleted: T1}}, "delete c -20", ""},
		{"a row that the server deleted" /*s5*/, []known{{uid: "x", created: T0, deleted: T1, norow: true}}, []known{{uid: "x", created: T0}}, "delete x -20", "x -20"},
		{"both deleted, the client later" /*s6*/, []known{{uid: "x2", created: T0, deleted: T1, norow: true}}, []known{{uid: "x2", created: T0, deleted: T2}}, "delete x2 -10", "x2 -10"},
		{"a stale row under a tombstone" /*s7*/, []known{{uid: "y", created: T0, deleted: T1}}, nil, "", "y -20"},
		{"an update of the client's after the deletion" /*s8 departs: an update, since it has updated_at*/, []known{{uid: "y2", created: T0, deleted: T1, norow: true}},
			[]known{{uid: "y2", created: T0, updated: T2}}, "push update y2", "y2 -20"},
		{"metadata without a row, newer than the client's" /*s9*/, []known{{uid: "m", created: T2, norow: true}}, []known{{uid: "m", created: T1}}, "delete m -10", "m -10"},
		{"metadata without a row, older than the client's deletion" /*s10*/, []known{{uid: "n", created: T1, norow: true}}, []known{{uid: "n", created: T0, deleted: T2}}, "delete n -10", "n -10"},
		{"a stale row under a tombstone, and a copy" /*s11*/, []known{{uid: "z", created: T0, deleted: T1}}, []known{{uid: "z", created: T0}}, "delete z -20", "z -20"},
		{"the client's update is newer" /*s12*/, []known{{uid: "d", created: T0, updated: T1}}, []known{{uid: "d", created: T0, updated: T2}}, "push update d", ""},
		{"the server's update is newer" /*s13*/, []known{{uid: "e", created: T0, updated: T2}}, []known{{uid: "e", created: T0, updated: T1}}, `update e"e" -30 -10 -`, ""},
		{"equal" /*s15*/, []known{{uid: "f", created: T0, updated: T1}}, []known{{uid: "f", created: T0, updated: T1}}, "", ""},
		{"the client's deletion is newer" /*s16*/, []known{{uid: "g", created: T0}}, []known{{uid: "g", created: T0, deleted: T1}}, "delete g -20", "g -20"},
		{"the client's deletion is newer than an update" /*s17*/, []known{{uid: "h", created: T0, updated: T1}}, []known{{uid: "h", created: T0, deleted: T2}}, "delete h -10", "h -10"},
		{"the client's deletion is older than an update" /*s18*/, []known{{uid: "i", created: T0, updated: T2}}, []known{{uid: "i", created: T0, deleted: T1}}, `update i"i" -30 -10 -`, ""},
		{"three rows at once" /*s19*/, []known{{uid: "p", created: T0}, {uid: "r", created: T0, updated: T1}},
			[]known{{uid: "q", created: T0}, {uid: "r", created: T0, updated: T2}}, `add p"p" -30 - -; push q; push update r`, ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			for _, k := range s.server {
				if k.norow {
					b.db.Put("post", nil, k.meta())
				} else {
					b.db.Put("post", row(k.uid, k.uid, "o"), k.meta())
				}
			}
			entries := map[string]tidemark.Meta{}
			for _, k := range s.client {
				entries[k.uid] = k.meta()
			}
			equal(t, lists(b.dial().sync("post", map[string]any{}, entries)), s.want)
			equal(t, b.tombstones(s.server, s.client), s.gone)
		})
	}
}

// tombstones are the rows that the server has deleted; none of them may be there.
func (b *bench) tombstones(sides ...[]known) string {
	found := map[string]bool{}
	for _, side := range sides {
		for _, k := range side {
			stored := b.db.Get("post", k.uid)
			if !stored.Meta.Deleted() {
				continue
			}
			if stored.Row != nil {
				b.t.Errorf("%s is there under its tombstone", k.uid)
			}
			found[fmt.Sprint(k.uid, " ", stored.Meta.DeletedAt.Time().Sub(noon).Seconds())] = true
		}
	}
	var out []string
	for s := range found {
		out = append(out, s)
	}
	sort.Strings(out)
	return strings.Join(out, "; ")
}

// Dates are compared as instants, whatever zone they are written in. s14
func TestSyncComparesInstants(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.db.Put("post", row("a", "x", "o"), created("a", -6*3600)) // 06:00 in UTC
	c := b.dial()
	for _, date := range []string{"2026-01-01T06:00:00.000Z", "2026-01-01T06:00:00Z", "2026-01-01T08:00:00+02:00", "2025-12-31T23:30:00.000000-06:30"} {
		entry := json.RawMessage(fmt.Sprintf(`{"a":{"uid":"a","created_at":%q}}`, date))
		equal(t, lists(c.sync("post", map[string]any{}, entry)), "")
	}
}
