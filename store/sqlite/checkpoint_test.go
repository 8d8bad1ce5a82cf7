package sqlite_test

import (
	"os"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// TestTheLogIsMovedBesideTheWrites: no commit has to wait for the disk until the log is in the
// file. The file grows long before the log has the length at which a commit would do it.
func TestTheLogIsMovedBesideTheWrites(t *testing.T) {
	t.Parallel()
	path := file(t)
	s, _ := open(t, path, nil)
	if err := s.Declare(t.Context(), posts); err != nil {
		t.Fatal(err)
	}
	size := func(name string) int64 {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	const page = 4096
	before := size(path)
	deadline := time.Now().Add(time.Minute)
	for i := 0; size(path) < before+20*page; i++ {
		if size(path+"-wal") > 7000*page || time.Now().After(deadline) {
			t.Fatalf("after %d writes the log has %d pages and the file %d", i, size(path+"-wal")/page, size(path)/page)
		}
		rec := makePosts(1)[0].record()
		if err := s.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Put("post", []tidemark.Record{rec}) }); err != nil {
			t.Fatal(err)
		}
	}
}
