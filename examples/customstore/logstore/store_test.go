package logstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/examples/customstore/logstore"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStore is the test that every store needs. It has no more rules than this
// for a store that keeps them all.
func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		path := filepath.Join(t.TempDir(), "test.log")
		return storetest.Harness{
			Open:   func() (tidemark.Store, error) { return logstore.Open(path) },
			Reopen: true,
		}
	})
}

func open(t *testing.T, path string) *logstore.Store {
	t.Helper()
	s, err := logstore.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func save(t *testing.T, s *logstore.Store, key string) {
	t.Helper()
	err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
		return errors.Join(tx.Save(key, []byte("first")), tx.Save(key, []byte("v")), tx.Enqueue([]tidemark.Mutation{{Model: "m", UID: key, Op: tidemark.Delete, Stamp: 1}}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// keys are the entries of the store; each has its mutation, and its last value.
func keys(t *testing.T, s *logstore.Store) (found []string) {
	t.Helper()
	err := s.View(t.Context(), func(tx tidemark.StoreTx) error {
		es, err := tx.Entries("")
		ms, err2 := tx.Outbox(0, 0)
		for i, e := range es {
			if len(ms) != len(es) || ms[i].UID != e.Key || string(e.Value) != "v" {
				t.Errorf("half an update: %q and %v", es, ms)
			}
			found = append(found, e.Key)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWhatACrashCutShortIsGone cuts the log within its last updates, above all around
// their ends, as a crash may, and fills the end with zeros, as some file systems do. What
// remains is some number of whole updates, and the store goes on from there.
func TestWhatACrashCutShortIsGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "test.log")
	s := open(t, path)
	size := func() int {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Size())
	}
	ends := []int{size()} // where the log ends after each update
	for i := range 3 {
		save(t, s, fmt.Sprint("k", i))
		ends = append(ends, size())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := ends[0]; n <= len(whole); n++ {
		if n%13 != 0 && !slices.ContainsFunc(ends, func(end int) bool { return n >= end-2 && n <= end+12 }) {
			continue
		}
		want := 0
		for want < 3 && ends[want+1] <= n {
			want++
		}
		for _, zeros := range []int{0, 1, 100} {
			cut := filepath.Join(t.TempDir(), "cut.log")
			if err := os.WriteFile(cut, append(whole[:n:n], make([]byte, zeros)...), 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, cut)
			if got := keys(t, s); len(got) != want {
				t.Fatalf("cut at %d of %d: found %v, want %d updates", n, len(whole), got, want)
			}
			save(t, s, "more")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got := keys(t, open(t, cut)); len(got) != want+1 {
				t.Fatalf("cut at %d and written again: found %v", n, got)
			}
		}
	}
}

// TestDamageIsNotACrash: a byte that changed in the middle is an error, and the file stays as it is.
func TestDamageIsNotACrash(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"a byte":   {func(b []byte) []byte { b[bytes.Index(b, []byte("save"))]++; return b }, tidemark.ErrDamaged},
		"another":  {func([]byte) []byte { return []byte("hello\n") }, tidemark.ErrDamaged},
		"no line":  {func([]byte) []byte { return []byte("tidemark") }, tidemark.ErrDamaged},
		"newer":    {func([]byte) []byte { return []byte("tidemark log 2\nwhatever") }, tidemark.ErrNewerFile},
		"much so":  {func([]byte) []byte { return []byte("tidemark log 12\n") }, tidemark.ErrNewerFile},
		"an image": {func([]byte) []byte { return []byte{0x89, 'P', 'N', 'G', '\n', 0} }, tidemark.ErrDamaged},
	} {
		path := filepath.Join(t.TempDir(), "test.log")
		s := open(t, path)
		save(t, s, "k1")
		save(t, s, "k2")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b = c.change(b)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := logstore.Open(path); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, b) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// TestTheLogShrinksWhenItIsOpened: what was undone since takes no room.
func TestTheLogShrinksWhenItIsOpened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "test.log")
	s := open(t, path)
	for range 50 {
		err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
			return errors.Join(tx.Save("k", bytes.Repeat([]byte("x"), 1000)), tx.Enqueue(make([]tidemark.Mutation, 1)), tx.Dequeue([]int64{1, 2, 3}))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if after, err := os.Stat(path); err != nil || after.Size() > before.Size()/5 {
		t.Errorf("%v: %d bytes before, %d after", err, before.Size(), after.Size())
	}
	err = s.Update(t.Context(), func(tx tidemark.StoreTx) error {
		ms := make([]tidemark.Mutation, 1)
		err := tx.Enqueue(ms)
		if ms[0].N != 51 {
			t.Errorf("the next number is %d, want 51", ms[0].N)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
