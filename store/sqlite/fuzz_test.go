package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// FuzzFile opens files that are not what a store has written: noise, and files of ours with
// damage at some places. Either the file is refused, or it can be used; nothing panics, and
// what is met later is called damage too.
func FuzzFile(f *testing.F) {
	whole := written(f)
	f.Add([]byte("SQLite format 3\x00"), uint16(0), true)
	f.Add([]byte{}, uint16(0), true)
	f.Add(whole[:4096], uint16(0), true)
	f.Add([]byte{0xff}, uint16(100), false)
	for page := 0; page < len(whole)/256; page += 9 {
		f.Add([]byte{0xd7, byte(page), 0xff}, uint16(page), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16, alone bool) {
		content := b
		if !alone {
			content = append([]byte(nil), whole...)
			for i := range b { // some bytes, a few apart
				content[(int(at)*16+i*7)%len(content)] ^= b[i]
			}
		}
		path := filepath.Join(t.TempDir(), "test.db")
		writeFile(t, path, content)
		err := use(t, path)
		switch {
		case err == nil, errors.Is(err, tidemark.ErrDamaged), errors.Is(err, tidemark.ErrNewerFile), tidemark.CodeOf(err) == tidemark.CodeUnavailable, renamed(err):
		default:
			t.Fatal(err)
		}
	})
}

// renamed reports that the tables are not declared as a store does it. That need not be damage (another
// process may be changing a table), and who is told of damage may give up the file.
func renamed(err error) bool {
	for _, text := range []string{"no such column", "no such table", "has no column named", "ON CONFLICT clause does not match", "constraint failed"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// written returns a file with something of everything.
func written(t testing.TB) []byte {
	t.Helper()
	dir, err := os.MkdirTemp("", "tidemark-fuzz-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "test.db")
	if err := use(t, path); err != nil {
		t.Fatal(err)
	}
	return bytesOf(t, path)
}

// use reads all that the file has, and writes some more.
func use(t testing.TB, path string) (err error) {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSNNormal(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := sqlite.Open(t.Context(), db, &sqlite.Options{AllowNormal: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	item := itemSchema(t, true)
	if err := s.Declare(t.Context(), item); err != nil {
		return err
	}
	all, err := tidemark.Where{}.Compile(item)
	if err != nil {
		t.Fatal(err)
	}
	some, err := tidemark.Where{"qty": tidemark.Range{GTE: 2}}.Compile(item)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*tidemark.Predicate{all, some} {
		if _, err := s.Find(t.Context(), p); err != nil {
			return err
		}
	}
	if _, err := s.Get(t.Context(), "item", "r3"); err != nil {
		return err
	}
	if err := s.View(t.Context(), func(tx tidemark.StoreTx) error { return readAll(tx, all) }); err != nil {
		return err
	}
	if err := s.Update(t.Context(), func(tx tidemark.StoreTx) error { return writeSome(tx) }); err != nil {
		return err
	}
	return s.Check(t.Context())
}

func readAll(tx tidemark.StoreTx, all *tidemark.Predicate) error {
	metas, err := tx.Held(all)
	if err != nil {
		return err
	}
	uids := []string{"r1", "r2"}
	for _, m := range metas {
		uids = append(uids, m.UID)
	}
	_, errRecords := tx.Records("item", uids)
	_, errUnseen := tx.Unseen(all, 5)
	_, errOutbox := tx.Outbox(0, 0)
	_, errPending := tx.Pending("item", uids)
	_, errEntries := tx.Entries("")
	_, errLoad := tx.Load("k1")
	return errors.Join(errRecords, errUnseen, errOutbox, errPending, errEntries, errLoad)
}

func writeSome(tx tidemark.StoreTx) error {
	var recs []tidemark.Record
	var ms []tidemark.Mutation
	for i := range 12 {
		uid := fmt.Sprint("r", i)
		row := tidemark.Row(fmt.Sprintf(`{"uid":%q,"name":"a name","qty":%d,"due":"2026-01-01T00:00:00.%03dZ"}`, uid, i, i))
		r := tidemark.Record{UID: uid, Row: row, Base: row, Meta: tidemark.Meta{UID: uid, CreatedAt: 1000, UpdatedAt: tidemark.Stamp(i)}, Seen: int64(i)}
		if i%3 == 0 {
			r.Row, r.Pending = row.With("qty", []byte("77")), 1
			ms = append(ms, tidemark.Mutation{Model: "item", UID: uid, Op: tidemark.Update, Data: tidemark.Row(`{"qty":77}`), Stamp: 2000})
		}
		recs = append(recs, r)
	}
	if err := tx.Enqueue(ms); err != nil {
		return err
	}
	ms[0].Stamp++
	return errors.Join(tx.Put("item", recs), tx.Amend(ms[:1]), tx.Save("k1", []byte("v")), tx.Prune("item", 5), tx.Dequeue([]int64{ms[1].N}))
}

// TestValuesThatCannotBe are in a file whose pages are sound: SQLite does not notice, so what cannot
// be read is damage too.
func TestValuesThatCannotBe(t *testing.T) {
	t.Parallel()
	table := modelTable(t)
	for _, spoil := range []string{
		"UPDATE tidemark_mutations SET op = -41", "UPDATE tidemark_mutations SET op = 'create'", "UPDATE tidemark_mutations SET stamp = x'00'", "UPDATE tidemark_mutations SET unit = 1.5",
		"UPDATE " + table + " SET created_at = 'x'", "UPDATE " + table + " SET deleted_at = 1e300", "UPDATE " + table + " SET pending = 'x'", "UPDATE " + table + " SET seen = x'ff'",
		"UPDATE " + table + " SET waiting = 'x'", "UPDATE " + table + " SET base = x'ffffff'", "UPDATE " + table + " SET row = '{'",
	} {
		t.Run(spoil, func(t *testing.T) {
			t.Parallel()
			path := file(t)
			writeFile(t, path, written(t))
			raw(t, path, spoil)
			if err := use(t, path); !errors.Is(err, tidemark.ErrDamaged) {
				t.Errorf("got %v, want ErrDamaged", err)
			}
		})
	}
}

// modelTable returns the name of the table of item.
func modelTable(t *testing.T) (name string) {
	t.Helper()
	path := file(t)
	writeFile(t, path, written(t))
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRow("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%waiting%'").Scan(&name); err != nil {
		t.Fatal(err)
	}
	return `"` + name + `"`
}
