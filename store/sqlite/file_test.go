package sqlite_test

import (
	"bytes"
	"crypto/rand"
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

// tryOpen opens a store of the file and closes it again.
func tryOpen(t testing.TB, path string, o *sqlite.Options) error {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSN(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := sqlite.Open(t.Context(), db, o)
	if err != nil {
		return err
	}
	return s.Close()
}

// filled returns the path of a closed file with n rows of item.
func filled(t testing.TB, n int) string {
	t.Helper()
	path := file(t)
	s, db := open(t, path, nil)
	if err := s.Declare(t.Context(), itemSchema(t, true)); err != nil {
		t.Fatal(err)
	}
	rows := make([]tidemark.Row, n)
	for i := range rows {
		rows[i] = tidemark.Row(fmt.Sprintf(`{"uid":"r%06d","name":%q,"qty":%d,"due":"2026-01-01T00:00:00.%03dZ"}`, i, strings.Repeat("x", 200), i, i%1000))
	}
	put(t, s, rows...)
	if err := errors.Join(s.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func raw(t testing.TB, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for _, q := range statements {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
}

func bytesOf(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFilesThatAreNotOursAreRefusedUntouched: each way to spoil a file gives the
// right sentinel, and not one byte changes.
func TestFilesThatAreNotOursAreRefusedUntouched(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 20_000)
	_, _ = rand.Read(noise)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  error
	}{
		"newer":              {func(t *testing.T, p string) { raw(t, p, "PRAGMA user_version = 3") }, tidemark.ErrNewerFile},
		"format zero":        {func(t *testing.T, p string) { raw(t, p, "PRAGMA user_version = 0") }, tidemark.ErrDamaged},
		"another's":          {func(t *testing.T, p string) { raw(t, p, "PRAGMA application_id = 7") }, tidemark.ErrDamaged},
		"nobody's":           {func(t *testing.T, p string) { raw(t, p, "PRAGMA application_id = 0") }, tidemark.ErrDamaged},
		"a table is missing": {func(t *testing.T, p string) { raw(t, p, "DROP TABLE tidemark_entries") }, tidemark.ErrDamaged},
		"another database": {func(t *testing.T, p string) {
			_ = os.Remove(p)
			raw(t, p, "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
		}, tidemark.ErrDamaged},
		"noise":   {func(t *testing.T, p string) { writeFile(t, p, noise) }, tidemark.ErrDamaged},
		"text":    {func(t *testing.T, p string) { writeFile(t, p, []byte("hello")) }, tidemark.ErrDamaged},
		"half":    {func(t *testing.T, p string) { b := bytesOf(t, p); writeFile(t, p, b[:len(b)/2]) }, tidemark.ErrDamaged},
		"a page":  {func(t *testing.T, p string) { writeFile(t, p, bytesOf(t, p)[:4096]) }, tidemark.ErrDamaged},
		"header":  {func(t *testing.T, p string) { b := bytesOf(t, p); copy(b, noise[:100]); writeFile(t, p, b) }, tidemark.ErrDamaged},
		"schema":  {func(t *testing.T, p string) { b := bytesOf(t, p); copy(b[100:4096], noise); writeFile(t, p, b) }, tidemark.ErrDamaged},
		"catalog": {func(t *testing.T, p string) { raw(t, p, "UPDATE tidemark_models SET fields = 'no'") }, tidemark.ErrDamaged},
		"pages": {func(t *testing.T, p string) {
			b := bytesOf(t, p)
			for at := len(b) / 2; at+4096 < len(b); at += 8 * 4096 {
				copy(b[at:], noise[:4096])
			}
			writeFile(t, p, b)
		}, tidemark.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filled(t, 2000)
			c.spoil(t, path)
			before := bytesOf(t, path)
			if err := tryOpen(t, path, nil); !errors.Is(err, c.want) {
				t.Errorf("Open returned %v, want %v", err, c.want)
			}
			if !bytes.Equal(before, bytesOf(t, path)) {
				t.Error("the file has changed")
			}
		})
	}
}

// TestDamageInALargeFile is found when asked for, and when it is met.
func TestDamageInALargeFile(t *testing.T) {
	t.Parallel()
	path := filled(t, 2000)
	b := bytesOf(t, path)
	for at := 20 * 4096; at+4096 < len(b); at += 4096 {
		clear(b[at : at+4096])
	}
	writeFile(t, path, b)
	s, _ := open(t, path, &sqlite.Options{CheckLimit: -1})
	if err := s.Check(t.Context()); !errors.Is(err, tidemark.ErrDamaged) {
		t.Errorf("Check returned %v", err)
	}
	p, err := tidemark.Where{}.Compile(itemSchema(t, true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), p); !errors.Is(err, tidemark.ErrDamaged) {
		t.Errorf("Find returned %v", err)
	}
}

// TestEveryTruncationIsRefused: a file cut anywhere never opens as if whole. (To
// SQLite a file of one byte is empty.)
func TestEveryTruncationIsRefused(t *testing.T) {
	t.Parallel()
	whole := bytesOf(t, filled(t, 100))
	for n := 2; n < len(whole); n += 3001 {
		path := file(t)
		writeFile(t, path, whole[:n])
		if err := tryOpen(t, path, nil); !errors.Is(err, tidemark.ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

// TestEmptyFilesAreMadeOurs: none, one of no bytes, and one that a crash left between WAL and tables.
func TestEmptyFilesAreMadeOurs(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, path string){
		"none":     func(*testing.T, string) {},
		"no bytes": func(t *testing.T, p string) { writeFile(t, p, nil) },
		"created": func(t *testing.T, p string) {
			if err := errors.Join(sqlite.Create(p), sqlite.Create(p)); err != nil {
				t.Fatal(err)
			}
		},
		"half made": func(t *testing.T, p string) { raw(t, p, "PRAGMA journal_mode = WAL") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := file(t)
			prepare(t, path)
			for range 2 {
				if err := tryOpen(t, path, nil); err != nil {
					t.Fatal(err)
				}
			}
			head := bytesOf(t, path)
			if string(head[68:72]) != "TIDE" || head[63] != 2 {
				t.Errorf("application_id %q, user_version %d", head[68:72], head[63])
			}
		})
	}
}

// TestCreatedFilesAreTheOwners: mode 0600, also of what SQLite puts beside the file.
func TestCreatedFilesAreTheOwners(t *testing.T) {
	t.Parallel()
	path := file(t)
	if err := sqlite.Create(path); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, path, nil)
	if err := s.Declare(t.Context(), itemSchema(t, true)); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 3 {
		t.Errorf("files %v, want three", files)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(f), info.Mode())
		}
	}
}

// TestHandlesThatAreNotSetUpAreRefused, each with words on what to set.
func TestHandlesThatAreNotSetUpAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dsn     string
		options *sqlite.Options
		want    string // in the error; "" for none
	}{
		"no settings":     {"%s", nil, "_synchronous=FULL"},
		"normal":          {strings.Replace(sqlite.DSNNormal("PATH"), "PATH", "%s", 1), nil, "AllowNormal"},
		"normal, allowed": {"%s?_synchronous=NORMAL", &sqlite.Options{AllowNormal: true}, ""},
		"off":             {"%s?_synchronous=OFF", &sqlite.Options{AllowNormal: true}, "synchronous is 0"},
		"no waiting":      {"%s?_synchronous=FULL&_busy_timeout=0", nil, "_busy_timeout=5000"},
		"extra":           {"%s?_synchronous=EXTRA&_journal_mode=WAL", nil, ""},
		"own memory each": {"file::memory:?_synchronous=FULL%.0s", nil, "SetMaxOpenConns(1)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := sql.Open("sqlite3", fmt.Sprintf(c.dsn, file(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			s, err := sqlite.Open(t.Context(), db, c.options)
			if err == nil {
				defer func() { _ = s.Close() }()
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

// TestPathsOfAllKinds: the data source name means the file of that path.
func TestPathsOfAllKinds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain.db", "with space.db", "a?b=c&d.db", "100%.db", "a#b.db", "ü 日.db", "a+b.db"} {
		path := filepath.Join(t.TempDir(), name)
		if err := tryOpen(t, path, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: no file there: %v", name, err)
		}
	}
}

// TestSettingsGoBackWithTheConnection: the handle's connections are as they were once the store is closed.
func TestSettingsGoBackWithTheConnection(t *testing.T) {
	t.Parallel()
	path := file(t)
	s, db := open(t, path, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for pragma, want := range map[string]int{"busy_timeout": 5000, "wal_autocheckpoint": 1000, "cache_size": -2000, "synchronous": 2} {
		var got int
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %d, want %d (%v)", pragma, got, want, err)
		}
	}
}
