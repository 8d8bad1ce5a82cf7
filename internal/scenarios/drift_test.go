package scenarios

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

// drifted is one row that a device and the server have differently, and what
// becomes of it when they meet. The numbers are those of docs/scenarios.md.
type drifted struct {
	name    string
	server  local // label and dates; no dates for no metadata
	local   local
	where   tidemark.Where // nil for all
	before  func(t *testing.T, d device)
	row     string // the server's label afterwards, "" for none
	meta    string // the server's dates afterwards: created, updated, deleted
	shown   string // what the device shows afterwards, "" for nothing
	pending int    // how many writes stay pending

	// ours is where our client does better than one that is not ours: its row and meta.
	ours *[2]string
}

func update(label string) func(*testing.T, device) {
	return func(t *testing.T, d device) {
		if !d.update("u", map[string]any{"label": label}) {
			t.Error("there was nothing to update")
		}
	}
}

func remove(t *testing.T, d device) {
	if !d.remove("u") {
		t.Error("there was nothing to remove")
	}
}

var open = tidemark.Where{"label": "open"}

var meetings = []drifted{
	{name: "a row of the server arrives" /*4*/, server: local{label: "theirs", created: T0}, row: "theirs", meta: "T0 - -", shown: "theirs"},
	{name: "a row of the device's arrives at the server" /*5*/, local: local{label: "mine", created: T1}, row: "mine", meta: "T1 - -", shown: "mine"},
	{name: "a row that was created and removed offline is never the server's" /*6, 9*/, local: local{label: "mine", created: T0, deleted: T1, dirty: true},
		meta: "- - -", ours: &[2]string{"", "- - T1"}},
	{name: "a later deletion of what the server deleted counts" /*7*/, server: local{created: T0, deleted: T1}, local: local{created: T0, deleted: T2, dirty: true}, meta: "T0 - T2"},
	{name: "the server's newer update replaces the device's" /*10*/, server: local{label: "theirs", created: T0, updated: T2}, local: local{label: "mine", created: T0, updated: T1},
		row: "theirs", meta: "T0 T2 -", shown: "theirs"},
	{name: "the server's newer creation replaces the device's" /*11*/, server: local{label: "theirs", created: T2}, local: local{label: "mine", created: T1},
		row: "theirs", meta: "T2 - -", shown: "theirs"},
	{name: "the device's newer update replaces the server's" /*13*/, server: local{label: "theirs", created: T0, updated: T1}, local: local{label: "mine", created: T0, updated: T2, dirty: true},
		row: "mine", meta: "T0 T2 -", shown: "mine"},
	{name: "a deletion on the server removes the device's copy" /*14*/, server: local{created: T0, deleted: T1}, local: local{label: "mine", created: T0}, meta: "T0 - T1"},
	{name: "a row that stayed under a tombstone goes, and so does the copy" /*15*/, server: local{label: "stale", created: T0, deleted: T1}, local: local{label: "mine", created: T0}, meta: "T0 - T1"},
	{name: "a row that stayed under a tombstone goes, and is not pulled" /*16*/, server: local{label: "stale", created: T0, deleted: T1}, meta: "T0 - T1"},
	{name: "metadata whose row is gone becomes a tombstone" /*17*/, server: local{created: T2}, local: local{label: "mine", created: T1}, meta: "T2 - T2"},
	{name: "metadata whose row is gone, and a newer deletion on the device" /*18*/, server: local{created: T1}, local: local{created: T0, deleted: T2, dirty: true}, meta: "T1 - T2"},
	{name: "an update after a deletion brings the row back for good" /*19*/, server: local{created: T0, deleted: T1}, local: local{label: "old", created: T0},
		before: update("mine"), row: "mine", meta: "T0 now -", shown: "mine"},
	{name: "an update of a row that only the device has makes it" /*20*/, local: local{label: "old", created: T0}, before: update("mine"), row: "mine", meta: "- now -", shown: "mine"},
	{name: "an older update does not make a row that is gone" /*24*/, server: local{created: T2}, local: local{label: "mine", created: T0, updated: T1, dirty: true}, meta: "T2 - T2"},
	{name: "a removal of a row that is gone, under metadata of the future" /*28*/, server: local{created: T0, updated: future}, local: local{label: "mine", created: T0},
		before: remove, meta: "T0 future future"},
	{name: "a removal that is older than the server's row gives that back" /*30*/, server: local{label: "theirs", created: T0, updated: future}, local: local{label: "mine", created: T0},
		before: remove, row: "theirs", meta: "T0 future -", shown: "theirs"},
	{name: "an older creation does not make a row that is gone" /*32*/, server: local{created: T2}, local: local{label: "mine", created: T1, dirty: true}, meta: "T2 - T2"},
	{name: "a row without metadata gets the device's" /*56*/, server: local{label: "theirs"}, local: local{label: "mine", created: T0}, row: "mine", meta: "T0 - -", shown: "mine"},
	{name: "a row without metadata, unknown to the device, gets some" /*added*/, server: local{label: "theirs"}, row: "theirs", meta: "now - -", shown: "theirs"},
	{name: "a value without metadata is removed" /*57*/, local: local{label: "mine"}, before: remove, meta: "- - now"},
	{name: "a value without metadata is updated" /*58*/, local: local{label: "old"}, before: update("mine"), row: "mine", meta: "- now -", shown: "mine"},
	{name: "a value without metadata is pushed" /*59*/, local: local{label: "mine"}, row: "mine", meta: "now - -", shown: "mine"},
	{name: "an update of what is not there does nothing" /*60*/, before: func(t *testing.T, d device) {
		if d.update("u", map[string]any{"label": "x"}) {
			t.Error("something was updated")
		}
	}, meta: "- - -"},
	{name: "a removal of what only the server has does nothing" /*61*/, server: local{label: "theirs", created: T0}, before: func(t *testing.T, d device) {
		if d.remove("u") {
			t.Error("something was removed")
		}
	}, row: "theirs", meta: "T0 - -", shown: "theirs"},
	{name: "a new row outside the scope" /*73*/, local: local{label: "closed", created: T1, dirty: true}, where: open, meta: "- - -", shown: "closed", pending: 1,
		ours: &[2]string{"closed", "T1 - -"}},
	{name: "a removed row outside the scope" /*74*/, server: local{label: "closed", created: T0}, local: local{label: "closed", created: T0, deleted: T1, dirty: true}, where: open,
		row: "closed", meta: "T0 - -", pending: 1, ours: &[2]string{"", "T0 - T1"}},
	{name: "an offline update that leaves the scope" /*77*/, server: local{label: "open", created: T0}, local: local{label: "closed", created: T0, updated: T1, dirty: true}, where: open,
		row: "closed", meta: "T0 T1 -", shown: "closed"},
	{name: "a tombstone without value, and a newer row" /*94*/, server: local{label: "theirs", created: T2}, local: local{created: T0, deleted: T1}, row: "theirs", meta: "T2 - -", shown: "theirs"},

	{name: "a clean copy of a row that left the scope deletes nothing" /*fault 1*/, server: local{label: "closed", created: T0, updated: T1}, local: local{label: "open", created: T0, updated: T1}, where: open,
		row: "closed", meta: "T0 T1 -", shown: "closed"},
	{name: "an older copy of a row that left the scope deletes nothing" /*fault 1*/, server: local{label: "closed", created: T0, updated: T2}, local: local{label: "open", created: T0, updated: T1}, where: open,
		row: "closed", meta: "T0 T2 -", shown: "closed"},
	{name: "an edited copy of a row that left the scope is the newer" /*fault 1*/, server: local{label: "closed", created: T0, updated: T1}, local: local{label: "open", created: T0, updated: T2, dirty: true}, where: open,
		row: "open", meta: "T0 T2 -", shown: "open"},
	{name: "an offline update that is newer than a deletion wins" /*fault 6*/, server: local{created: T0, deleted: T1}, local: local{label: "mine", created: T0, updated: T2, dirty: true},
		row: "mine", meta: "T0 T2 -", shown: "mine"},
	{name: "a row created and updated offline keeps the date of its update" /*fault 6*/, local: local{label: "mine", created: T0, updated: T1, dirty: true}, row: "mine", meta: "- T1 -", shown: "mine"},
	{name: "of two writes in one millisecond both devices keep the server's" /*departure*/, server: local{label: "theirs", created: T0, updated: T1}, local: local{label: "mine", created: T0, updated: T1, dirty: true},
		row: "theirs", meta: "T0 T1 -", shown: "theirs"},
}

// A device and the server meet: afterwards both have the same, a second sync
// changes nothing, and nothing is pending.
func TestDeviceAndServerMeet(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		for _, s := range meetings {
			t.Run(s.name, func(t *testing.T) { meet(t, w, fresh(t), s) })
		}
	})
}

func meet(t *testing.T, w *world, d device, s drifted) {
	w.empty()
	var row *itemRow
	if s.server.label != "" {
		row = &itemRow{UID: "u", Label: s.server.label}
	}
	w.put(row, s.server.meta("u"))
	if s.local != (local{}) {
		d.arrange("u", s.local)
	}
	if _, ok := d.(*goDevice); ok && s.ours != nil {
		s.row, s.meta, s.pending = s.ours[0], s.ours[1], 0
	}
	if s.before != nil {
		d.connect()
		s.before(t, d)
		expect.Becomes(t, "pending", 0, d.pending)
		d.scope(s.where)
	} else {
		d.scope(s.where)
		d.connect()
	}
	for range 2 {
		d.sync()
		expect.Soon(t, func() error { return s.holds(w, d) })
	}
}

func (s *drifted) holds(w *world, d device) error {
	if row, meta := w.get("u"); row != s.row || days(meta) != s.meta {
		return fmt.Errorf("the server has %q of %s, want %q of %s", row, days(meta), s.row, s.meta)
	}
	if got := d.label("u"); got != s.shown {
		return fmt.Errorf("the device shows %q, want %q", got, s.shown)
	}
	if n := d.pending(); n != s.pending {
		return fmt.Errorf("%d writes are pending, want %d", n, s.pending)
	}
	if s.shown == "" && s.pending == 0 {
		if left := d.leftovers("u"); left != "" {
			return fmt.Errorf("the device keeps %s", left)
		}
	}
	return nil
}

// A value without metadata on the device does not bring back what the server
// deleted. (added later; a client that is not ours makes metadata of its own.)
func TestAValueWithoutMetadataStaysDeleted(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		w.put(nil, tidemark.Meta{UID: "u", CreatedAt: T0, DeletedAt: T1})
		d := w.goDevice(t, nil)
		d.arrange("u", local{label: "mine"})
		d.scope(nil)
		d.connect()
		row, meta := w.get("u")
		expect.Equal(t, "the server's row", row, "")
		expect.Equal(t, "its dates", days(meta), "T0 - T1")
		expect.Equal(t, "the device's row", d.label("u"), "")
	})
}

// Wheres of ranges pull what they select, and push nothing that they do not. 68, 69, 97, 98
func TestScopesPullWhatTheySelect(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		yes, no, owner := true, false, "owner"
		at := T1.Time()
		for i, score := range []int64{-3, 0, 3, 5, 7, 15} {
			r := &itemRow{UID: fmt.Sprint("s", score), Label: "x", Score: &score, Active: &no}
			if i == 1 {
				r.Active, r.UserUID, r.Start = &yes, &owner, &at
			}
			w.put(r, tidemark.Meta{UID: r.UID, CreatedAt: T0})
		}
		w.put(&itemRow{UID: "null", Label: "y"}, tidemark.Meta{UID: "null", CreatedAt: T0})
		for _, c := range []struct {
			where tidemark.Where
			want  int
		}{
			{tidemark.Where{"score": tidemark.Range{GTE: 1, LTE: 10}}, 3}, // 68
			{tidemark.Where{"score": tidemark.Range{GTE: 5}}, 3},          // 69
			{tidemark.Where{"score": tidemark.Range{LTE: 10}}, 5},         // 65
			{tidemark.Where{"score": tidemark.Range{LT: 1}}, 2},           // 99
			{tidemark.Where{"active": true}, 1},                           // 95
			{tidemark.Where{"user_uid": nil}, 6},                          // 96
			{tidemark.Where{"start": T1.String()}, 1},                     // 97
			{tidemark.Where{"start": tidemark.Range{GTE: T1.String()}}, 1},
			{tidemark.Where{"start": tidemark.Range{GT: T1.String()}}, 0},
			{tidemark.Where{"label": "y", "score": nil}, 1},
		} {
			d := fresh(t)
			d.connect()
			d.scope(c.where)
			d.scope(c.where) // 67: once more is no error
			if got := d.find(nil); got != c.want {
				t.Errorf("%v pulled %d rows, want %d", c.where, got, c.want)
			}
			if got := d.find(c.where); got != c.want {
				t.Errorf("%v selects %d rows on the device, want %d", c.where, got, c.want)
			}
		}
	})
}

// Clean rows that a scope does not select are neither told nor pushed: dates
// compare as instants. 97, 98
func TestRowsOutsideTheScopeAreNotPushed(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		for _, c := range []struct {
			start tidemark.Stamp
			where tidemark.Where
		}{
			{T2, tidemark.Where{"start": T1.String()}},
			{T0, tidemark.Where{"start": tidemark.Range{GTE: T1.String()}}},
		} {
			w.empty()
			d := fresh(t)
			d.arrange("u", local{label: "x", created: T0})
			d.connect()
			d.update("u", map[string]any{"start": c.start.String()}) // pushed: it is the device's own write
			expect.Becomes(t, "pending", 0, d.pending)
			w.empty()
			d.scope(c.where)
			d.sync()
			if n := d.find(c.where); n != 0 {
				t.Errorf("%v selects %d rows", c.where, n)
			}
			if got := w.labels(); len(got) != 0 {
				t.Errorf("%v: the server has %v", c.where, got)
			}
		}
	})
}

// A row without metadata does not keep another from being pushed. 64
func TestARowWithoutMetadataHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		d := fresh(t)
		d.arrange("a1", local{label: "one"})
		d.arrange("a2", local{label: "two", created: T1, dirty: true})
		d.scope(nil)
		d.connect()
		d.sync()
		expect.Soon(t, func() error {
			if got := w.labels(); got["a1"] != "one" || got["a2"] != "two" {
				return fmt.Errorf("the server has %v", got)
			}
			return nil
		})
	})
}

// A scope goes on when a wider one is given up, and one that was registered
// before there was a connection is served with the first. 72, 76
func TestScopesAreServedOneByOne(t *testing.T) {
	t.Parallel()
	devices(t, func(t *testing.T, w *world, fresh func(testing.TB) device) {
		w.empty()
		d := fresh(t)
		d.scope(nil)
		d.scope(open)
		d.forget(nil)
		w.put(&itemRow{UID: "u", Label: "open"}, tidemark.Meta{UID: "u", CreatedAt: T0})
		w.put(&itemRow{UID: "v", Label: "closed"}, tidemark.Meta{UID: "v", CreatedAt: T0})
		d.connect()
		expect.Equal(t, "the row of the scope", d.label("u"), "open")
		expect.Equal(t, "the other row", d.label("v"), "")
	})
}

// A device's writes reach the other, while both are connected. 100
func TestOneDevicesWritesReachTheOther(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		w.open()
		for _, pair := range [][2]device{{w.jsDevice(t), w.goDevice(t, nil)}, {w.goDevice(t, nil), w.jsDevice(t)}} {
			a, b := pair[0], pair[1]
			a.connect()
			b.connect()
			b.scope(nil)
			uid := a.create("hello")
			expect.Becomes(t, "the other device's row", "hello", func() string { return b.label(uid) })
			expect.Becomes(t, "pending", 0, a.pending)
			// Stamps of a client that is not ours are of milliseconds: the second must be later.
			expect.Soon(t, func() error {
				if _, m := w.get(uid); time.Since(m.T().Time()) < 2*time.Millisecond {
					return fmt.Errorf("the clock stands still")
				}
				return nil
			})
			a.update(uid, map[string]any{"label": "changed"})
			expect.Becomes(t, "the other device's row", "changed", func() string { return b.label(uid) })
			expect.Becomes(t, "pending", 0, a.pending)
			a.remove(uid)
			expect.Becomes(t, "the other device's row", "", func() string { return b.label(uid) })
			expect.Becomes(t, "what the other device keeps", "", func() string { return b.leftovers(uid) })
		}
	})
}
