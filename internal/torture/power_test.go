package torture_test

import (
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/psanford/sqlite3vfs"

	"github.com/tidemark-sync/tidemark/internal/torture"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

var cuts = flag.Int("cuts", 300, "how many power cuts to make")

var slot = &torture.Slot{}

func init() { // of a test: a VFS is registered once a process
	if err := sqlite3vfs.RegisterVFS("torture", slot); err != nil {
		panic(err)
	}
}

// onDisk is the DSN of a file of the slot's disk. Without shared memory WAL needs the lock for good.
func onDisk(dsn string) string { return dsn + "&vfs=torture&_locking_mode=EXCLUSIVE" }

// TestAPowerCutLosesNothingAcknowledged cuts the power at a random moment of a device's
// writes, again and again on the same file.
func TestAPowerCutLosesNothingAcknowledged(t *testing.T) {
	acknowledged, lost := powerCuts(t, *cuts, sqlite.DSN("a.db"), nil)
	if lost != nil {
		t.Fatal(lost)
	}
	t.Logf("%d power cuts, %d writes acknowledged, none lost", *cuts, acknowledged)
}

// TestNormalLosesWritesInAPowerCut shows that the disk finds what it is for.
func TestNormalLosesWritesInAPowerCut(t *testing.T) {
	if _, lost := powerCuts(t, 60, sqlite.DSNNormal("b.db"), &sqlite.Options{AllowNormal: true}); lost == nil {
		t.Error("with synchronous=NORMAL nothing was lost: the disk is no test")
	}
}

func powerCuts(t *testing.T, n int, dsn string, opts *sqlite.Options) (acknowledged int, lost error) {
	const perFile = 25 // cuts
	for file := 0; file*perFile < n; file++ {
		r := rand.New(rand.NewPCG(uint64(file), 7))
		disk := torture.NewDisk()
		slot.Put(disk)
		var h torture.History
		for range min(perFile, n-file*perFile) {
			if err := untilPowerCut(t, disk, r, &h, onDisk(dsn), opts); err != nil {
				t.Logf("file %d (seed %d)", file, file)
				return acknowledged, err
			}
		}
		acknowledged += h.Writes
	}
	return acknowledged, nil
}

// untilPowerCut opens a device, checks it against its history, and writes until the power goes.
func untilPowerCut(t *testing.T, disk *torture.Disk, r *rand.Rand, h *torture.History, dsn string, opts *sqlite.Options) error {
	t.Helper()
	defer disk.CutPower(r)
	d, err := torture.Open(t.Context(), dsn, true, opts)
	if err != nil {
		return err
	}
	defer func() { // the process is dead: nothing that closing writes may reach the disk
		disk.FailAfter(0)
		d.Close()
	}()
	if err := h.Check(t.Context(), d); err != nil {
		return err
	}
	disk.FailAfter(1 + r.IntN(120))
	for range 200 {
		if err := h.Do(t.Context(), d, r); err != nil {
			return nil
		}
	}
	return nil
}

// TestAFullDiskRefusesWritesAndLosesNothing fills the disk in the middle.
func TestAFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	disk := torture.NewDisk()
	slot.Put(disk)
	r := rand.New(rand.NewPCG(1, 1))
	d, err := torture.Open(t.Context(), onDisk(sqlite.DSN("c.db")), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var h torture.History
	for i := range 300 {
		disk.Fill(i%7 == 3)
		err := h.Do(t.Context(), d, r)
		if err != nil && i%7 != 3 {
			t.Fatalf("write %d: %v", i, err)
		}
		if err != nil && h.Doubtful != nil {
			h.Doubtful = nil // a failed write of a living process did not happen
		}
	}
	disk.Fill(false)
	if err := h.Check(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if h.Writes < 200 {
		t.Errorf("only %d writes were made", h.Writes)
	}
}

// TestAnOlderCopyOfTheFileIsAFileOfItsTime puts back a copy of the disk.
func TestAnOlderCopyOfTheFileIsAFileOfItsTime(t *testing.T) {
	disk := torture.NewDisk()
	slot.Put(disk)
	r := rand.New(rand.NewPCG(2, 2))
	d, err := torture.Open(t.Context(), onDisk(sqlite.DSN("d.db")), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	var then torture.History
	for range 50 {
		if err := then.Do(t.Context(), d, r); err != nil {
			t.Fatal(err)
		}
	}
	older := disk.Copy()
	now := torture.History{Texts: map[string]string{}, Writes: then.Writes}
	for k, v := range then.Texts {
		now.Texts[k] = v
	}
	for range 50 {
		if err := now.Do(t.Context(), d, r); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	slot.Put(older)
	if d, err = torture.Open(t.Context(), onDisk(sqlite.DSN("d.db")), true, nil); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := then.Check(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}
