package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// formatOne are the statements with which the first version of this package made
// a file, with what its client would have put there.
const formatOne = `
PRAGMA journal_mode = WAL;
CREATE TABLE tidemark_models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, fields TEXT NOT NULL);
CREATE TABLE tidemark_outbox (n INTEGER PRIMARY KEY, model TEXT NOT NULL, uid TEXT NOT NULL,
	op INTEGER NOT NULL, data TEXT, stamp INTEGER NOT NULL);
CREATE INDEX tidemark_outbox_row ON tidemark_outbox (model, uid);
CREATE TABLE tidemark_entries (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
PRAGMA application_id = 1414087749;
PRAGMA user_version = 1;
CREATE TABLE tidemark_rows_2 (uid TEXT NOT NULL PRIMARY KEY, row TEXT, base TEXT,
	created_at INTEGER, updated_at INTEGER, deleted_at INTEGER, pending INTEGER NOT NULL, x1) WITHOUT ROWID;
CREATE INDEX tidemark_rows_2_own ON tidemark_rows_2 (uid) WHERE base > '';
CREATE INDEX tidemark_rows_2_gone ON tidemark_rows_2 (deleted_at) WHERE deleted_at <> 0;
CREATE INDEX tidemark_rows_2_x1 ON tidemark_rows_2 (x1, uid);
INSERT INTO tidemark_models VALUES (2, 'item', '[{"name":"name","kind":"text"},{"name":"qty","kind":"integer","indexed":true},{"name":"due","kind":"timestamp"}]');
CREATE VIEW "item" (uid, "name", "qty", "due") AS SELECT uid, json_extract(row, '$."name"'), json_extract(row, '$."qty"'), json_extract(row, '$."due"') FROM tidemark_rows_2 WHERE row IS NOT NULL;
CREATE VIEW mine AS SELECT uid, name FROM item;
INSERT INTO tidemark_rows_2 VALUES
	('clean', '{"uid":"clean","name":"a","qty":1}', NULL, 10, 20, 0, 0, 1),
	('changed', '{"uid":"changed","name":"new","qty":2}', '{"uid":"changed","name":"old","qty":1}', 10, 0, 0, 2, 2),
	('created', '{"uid":"created","name":"c"}', '', NULL, NULL, NULL, 1, NULL),
	('hidden', NULL, '{"uid":"hidden","qty":1}', 10, 0, 0, 1, NULL),
	('same', '{"uid":"same","qty":1}', NULL, 10, 0, 0, 1, 1),
	('gone', NULL, NULL, 10, 0, 30, 0, NULL);
INSERT INTO tidemark_outbox VALUES
	(3, 'item', 'changed', 2, '{"name":"newer"}', 40), (4, 'item', 'created', 1, '{"name":"c"}', 41),
	(5, 'item', 'hidden', 3, NULL, 42), (6, 'item', 'changed', 2, '{"name":"new","qty":2}', 43),
	(7, 'item', 'same', 2, '{"qty":1}', 44), (8, 'item', 'nobody', 2, '{"qty":1}', 45), (9, 'never declared', 'x', 2, '{}', 46), (12, '', '', 0, NULL, 47);
INSERT INTO tidemark_entries VALUES ('k', x'00ff'), ('none', x'');`

// oldFile returns the path of a file of format 1, with n more rows.
func oldFile(t testing.TB, n int) string {
	t.Helper()
	path := file(t)
	more := `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d)
		INSERT INTO tidemark_rows_2 SELECT printf('z%%06d', i), printf('{"uid":"z%%06d","qty":7}', i), NULL, 1, 0, 0, 0, 7 FROM c WHERE %d > 0`
	raw(t, path, formatOne, fmt.Sprintf(more, n, n), "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
	return path
}

// TestAFileOfFormatOneIsUpgraded with everything that it has, once.
func TestAFileOfFormatOneIsUpgraded(t *testing.T) {
	t.Parallel()
	path := oldFile(t, 2500)
	for range 2 {
		s, db := open(t, path, nil)
		checkUpgraded(t, s, db)
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
		if head := bytesOf(t, path); head[63] != 2 {
			t.Fatalf("user_version %d", head[63])
		}
	}
	s, _ := open(t, path, nil)
	err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
		ms := []tidemark.Mutation{{Model: "item", UID: "clean", Op: tidemark.Delete, Stamp: 50}}
		err := tx.Enqueue(ms)
		if ms[0].N != 13 {
			t.Errorf("the next number is %d, want 13", ms[0].N)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func checkUpgraded(t *testing.T, s *sqlite.Store, db *sql.DB) {
	t.Helper()
	meta := func(uid string, created, updated, deleted tidemark.Stamp) tidemark.Meta {
		return tidemark.Meta{UID: uid, CreatedAt: created, UpdatedAt: updated, DeletedAt: deleted}
	}
	want := []tidemark.Record{
		{UID: "clean", Row: tidemark.Row(`{"uid":"clean","name":"a","qty":1}`), Base: tidemark.Row(`{"uid":"clean","name":"a","qty":1}`), Meta: meta("clean", 10, 20, 0)},
		{UID: "changed", Row: tidemark.Row(`{"uid":"changed","name":"new","qty":2}`), Base: tidemark.Row(`{"uid":"changed","name":"old","qty":1}`), Meta: meta("changed", 10, 0, 0), Pending: 2},
		{UID: "created", Row: tidemark.Row(`{"uid":"created","name":"c"}`), Pending: 1},
		{UID: "hidden", Base: tidemark.Row(`{"uid":"hidden","qty":1}`), Meta: meta("hidden", 10, 0, 0), Pending: 1},
		{UID: "same", Row: tidemark.Row(`{"uid":"same","qty":1}`), Base: tidemark.Row(`{"uid":"same","qty":1}`), Meta: meta("same", 10, 0, 0), Pending: 1},
		{UID: "gone", Meta: meta("gone", 10, 0, 30)},
		{UID: "nobody"},
		{UID: "z002500", Row: tidemark.Row(`{"uid":"z002500","qty":7}`), Base: tidemark.Row(`{"uid":"z002500","qty":7}`), Meta: meta("z002500", 1, 0, 0)},
	}
	schema := itemSchema(t, true)
	p, err := tidemark.Where{"qty": 1}.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	var found, held []string
	rows, err := s.Find(t.Context(), p)
	for _, r := range rows {
		found = append(found, r.UID())
	}
	err = errors.Join(err, s.View(t.Context(), func(tx tidemark.StoreTx) error {
		for _, w := range want {
			recs, err := tx.Records("item", []string{w.UID})
			if err != nil || fmt.Sprint(recs[0]) != fmt.Sprint(w) {
				t.Errorf("got  %+v, %v\nwant %+v", recs[0], err, w)
			}
		}
		all, err := tx.Outbox(0, 0)
		got := fmt.Sprint(numbersOf(tx, "item", "changed"), numbersOf(tx, "item", "created", "hidden", "same"), numbersOf(tx, "item", "nobody"), numbersOf(tx, "never declared", "x"))
		if want := "[3 6] [4 5 7] [8] [9]"; got != want || len(all) != 7 || string(all[0].Data) != `{"name":"newer"}` || all[2].Data != nil || all[6].Stamp != 46 {
			t.Errorf("pending %s, want %s, of %+v", got, want, all)
		}
		metas, err2 := tx.Held(p)
		for _, m := range metas {
			held = append(held, m.UID)
		}
		es, err3 := tx.Entries("")
		if len(es) != 2 || string(es[0].Value) != "\x00\xff" || es[1].Value == nil {
			t.Errorf("entries %q", es)
		}
		return errors.Join(err, err2, err3)
	}))
	if got := fmt.Sprint(found, held); err != nil || got != "[clean same] [changed clean hidden same]" {
		t.Errorf("found and held %s, %v", got, err)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM item JOIN mine USING (uid) WHERE item.name = 'new'").Scan(&n); err != nil || n != 1 {
		t.Errorf("the views: %d, %v", n, err)
	}
}

func numbersOf(tx tidemark.StoreTx, model string, uids ...string) (ns []int64) {
	ms, _ := tx.Pending(model, uids)
	for _, m := range ms {
		ns = append(ns, m.N)
	}
	return ns
}

// TestAnUpgradeThatFailsChangesNothing: the file is as the former version left it.
func TestAnUpgradeThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	path := oldFile(t, 100)
	raw(t, path, "CREATE TABLE tidemark_rows_3 (x)", "PRAGMA wal_checkpoint(TRUNCATE)") // where its table was to go
	before := bytesOf(t, path)
	if err := tryOpen(t, path, nil); err == nil || !strings.Contains(fmt.Sprint(errors.Unwrap(err)), "tidemark_rows_3") {
		t.Errorf("Open returned %v", err)
	}
	if after := bytesOf(t, path); !bytes.Equal(before[100:], after[100:]) { // the header has the journal's mode
		t.Error("the file has changed")
	}
	raw(t, path, "DROP TABLE tidemark_rows_3")
	s, db := open(t, path, nil)
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	var n int
	if err := db.QueryRow("SELECT count(*) FROM item").Scan(&n); err != nil || n != 104 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// TestStoresUpgradeAtTheSameTime: one does it, the others find it done.
func TestStoresUpgradeAtTheSameTime(t *testing.T) {
	t.Parallel()
	path := oldFile(t, 2500)
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = tryOpen(t, path, nil) })
	}
	all.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		t.Fatal(errs[i])
	}
	s, db := open(t, path, nil)
	checkUpgraded(t, s, db)
}
