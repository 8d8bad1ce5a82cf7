package torture_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/torture"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

var kills = flag.Int("kills", 60, "how many processes to kill")

const (
	envFile = "TORTURE_FILE" // the child's file
	envSeed = "TORTURE_SEED"
	// envPrefix begins the uids of the child's rows.
	envPrefix = "TORTURE_PREFIX"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(envFile); path != "" {
		if err := child(context.Background(), path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		return
	}
	os.Exit(m.Run())
}

// child writes to the file until it is killed, and says before each write what it is about
// to do, and after it that it is done.
func child(ctx context.Context, path string) error {
	d, err := torture.Open(ctx, sqlite.DSN(path), false, nil)
	if err != nil {
		return err
	}
	var seed uint64
	fmt.Sscan(os.Getenv(envSeed), &seed)
	r := rand.New(rand.NewPCG(seed, 3))
	out := json.NewEncoder(os.Stdout)
	texts := map[string]string{}
	rows, err := d.Notes.FindWhere(ctx, nil)
	if err != nil {
		return err
	}
	for _, n := range rows {
		texts[n.UID] = n.Text
	}
	for i := 0; ; i++ {
		h := torture.History{Texts: texts, Writes: i, Prefix: os.Getenv(envPrefix)}
		h.Before = func(w torture.Write) { _ = out.Encode(line{Write: &w}) }
		if err := h.Do(ctx, d, r); err != nil {
			return err
		}
		if err := out.Encode(line{Done: true}); err != nil {
			return err
		}
	}
}

// line is what the child says.
type line struct {
	Write *torture.Write
	Done  bool
}

// TestAKilledProcessLosesNothingAcknowledged kills a writing process, again and again.
func TestAKilledProcessLosesNothingAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	h := torture.History{Texts: map[string]string{}}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range *kills {
		if err := untilKilled(t, path, uint64(i), "", time.Duration(r.IntN(30_000))*time.Microsecond, &h); err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if err := checkFile(t, path, &h); err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
	}
	t.Logf("%d kills, %d writes acknowledged, none lost", *kills, h.Writes)
}

// untilKilled runs a child, kills it some time after its first write, and notes what it said.
func untilKilled(t *testing.T, path string, seed uint64, prefix string, after time.Duration, h *torture.History) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), envFile+"="+path, envSeed+"="+fmt.Sprint(seed), envPrefix+"="+prefix)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	var timer *time.Timer
	var pending *torture.Write
	for lines.Scan() {
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			break // cut off by the kill
		}
		if l.Write != nil {
			pending = l.Write
		} else if l.Done && pending != nil {
			h.Note(*pending)
			pending = nil
		}
	}
	err = cmd.Wait()
	if timer == nil {
		return fmt.Errorf("the child wrote nothing: %w", err)
	}
	timer.Stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return err // its own error
	}
	h.Doubtful = pending
	return nil
}

func checkFile(t *testing.T, path string, h *torture.History) error {
	t.Helper()
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		return err
	}
	defer d.Close()
	return h.Check(t.Context(), d)
}

// TestALogThatIsCutShortIsAnEarlierState cuts the write-ahead log at every boundary of a
// frame, and some bytes around it: what remains is the state after some number of writes.
func TestALogThatIsCutShortIsAnEarlierState(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := rand.New(rand.NewPCG(4, 4))
	var h torture.History
	states := map[int]map[string]string{0: {}}
	const writes = 40
	for range writes {
		if err := h.Do(t.Context(), d, r); err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{}
		for k, v := range h.Texts {
			texts[k] = v
		}
		states[h.Writes] = texts
	}
	file, log := read(t, path), read(t, path+"-wal")
	const header, frame = 32, 24 + 4096
	last, checked := 0, 0
	for at := header; at <= len(log); at += frame {
		for _, off := range []int{-1, 0, 1, 24, 600} {
			n := at + off
			if n < 0 || n > len(log) {
				continue
			}
			checked++
			got := cutAt(t, filepath.Join(dir, fmt.Sprintf("cut-%d", n)), file, log[:n], states)
			if off == 0 {
				if got < last {
					t.Errorf("cut at %d: %d writes, after %d at an earlier cut", n, got, last)
				}
				last = got
			}
		}
	}
	if last != writes {
		t.Errorf("with the whole log there are %d writes, want %d", last, writes)
	}
	t.Logf("%d cuts", checked)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cutAt opens a file with a part of its log, and returns how many writes it has.
func cutAt(t *testing.T, path string, file, log []byte, states map[int]map[string]string) int {
	t.Helper()
	for name, b := range map[string][]byte{path: file, path + "-wal": log} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Remove(path)
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		t.Fatalf("a log of %d bytes: %v", len(log), err)
	}
	defer d.Close()
	n := d.Client.Status().Pending
	h := torture.History{Texts: states[n], Writes: n}
	if err := h.Check(t.Context(), d); err != nil {
		t.Errorf("a log of %d bytes: %v", len(log), err)
	}
	return n
}

// TestADamagedFileIsRefused overwrites pages, and pieces of pages.
func TestADamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	var h torture.History
	for range 200 {
		if err := h.Do(t.Context(), d, r); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	whole := read(t, path)
	refused := 0
	for i := range 200 {
		damaged := append([]byte(nil), whole...)
		at := r.IntN(len(damaged) - 64)
		for k := range 64 {
			damaged[at+k] ^= byte(1 + r.IntN(255))
		}
		name := filepath.Join(dir, fmt.Sprintf("damaged-%d", i))
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := torture.Open(t.Context(), sqlite.DSN(name), false, nil)
		if err != nil {
			if !errors.Is(err, tidemark.ErrDamaged) && !errors.Is(err, tidemark.ErrNewerFile) {
				t.Errorf("damage at %d: %v", at, err)
			}
			refused++
			continue
		}
		// What a page holds is not protected by SQLite; nothing may panic or hang on it.
		_, _ = d.Notes.FindWhere(t.Context(), nil)
		_ = d.Store.Check(t.Context())
		d.Close()
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	t.Logf("%d of 200 damaged files were refused at opening", refused)
}

// TestAReadOnlyFileIsRefusedWithAnError opens a file that may not be written.
func TestAReadOnlyFileIsRefusedWithAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var h torture.History
	if err := h.Do(t.Context(), d, rand.New(rand.NewPCG(6, 6))); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if d, err = torture.Open(t.Context(), sqlite.DSN(path)+"&mode=ro", false, nil); err == nil {
		defer d.Close()
		if err := h.Do(t.Context(), d, rand.New(rand.NewPCG(6, 7))); err == nil {
			t.Fatal("a read-only file was written")
		}
		h.Doubtful = nil
		if err := h.Check(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
}

// TestTwoProcessesShareAFile has two children write to one file at once; each sees its own
// writes and those of the other, and no write is lost.
func TestTwoProcessesShareAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	done := make(chan int, 2)
	for i := range 2 {
		go func() {
			h := torture.History{Texts: map[string]string{}}
			_ = untilKilled(t, path, uint64(100+i), fmt.Sprint(i, "-"), 700*time.Millisecond, &h)
			done <- h.Writes
		}()
	}
	total := <-done + <-done
	d, err := torture.Open(t.Context(), sqlite.DSN(path), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if n := d.Client.Status().Pending; n < total || n > total+2 {
		t.Errorf("%d writes are queued, %d were acknowledged", n, total)
	}
	if err := d.Store.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
