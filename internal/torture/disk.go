// Package torture has what breaks a device's file on purpose: a disk that loses what was not
// synced, a process that is killed, a log that is cut short. Its tests show that a store keeps
// every write that it acknowledged.
package torture

import (
	"io"
	"math/rand/v2"
	"sync"

	"github.com/psanford/sqlite3vfs"
)

// sector is how much of a write reaches the platter whole or not at all.
const sector = 512

// Disk is a disk in memory for SQLite. What is written and not synced is lost at a power
// cut, in parts. It is safe for concurrent use.
type Disk struct {
	mu    sync.Mutex // protects what follows
	files map[string]*image
	ops   int
	limit int // operations beyond it fail; 0 for none
	full  bool
	reset int // counts power cuts, so that files that were open before do nothing more
	// Lies says that the disk reports a sync that it has not made.
	Lies bool
}

// image is a file: as the process sees it, and as the platter has it.
type image struct {
	live, synced []byte
	pending      []change
}

// change is a write, or a truncation when data is nil.
type change struct {
	off  int64
	data []byte
}

func (c change) apply(b []byte) []byte {
	end := c.off + int64(len(c.data))
	if c.data == nil && int64(len(b)) > c.off {
		return b[:c.off]
	}
	if n := end - int64(len(b)); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	copy(b[c.off:], c.data)
	return b
}

// NewDisk returns an empty disk.
func NewDisk() *Disk { return &Disk{files: map[string]*image{}} }

// FailAfter makes operations fail once n more have been made: the power is about to go.
func (d *Disk) FailAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit = d.ops + n
}

// Fill makes the disk full, or no longer so: a file cannot grow.
func (d *Disk) Fill(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// Ops returns how many operations there were that change something.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// CutPower loses what is not synced, but for parts that r chooses, and lets the disk work again.
func (d *Disk) CutPower(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		b := append([]byte(nil), f.synced...)
		for _, c := range f.pending {
			if c.data == nil {
				if r.IntN(2) == 0 {
					b = c.apply(b)
				}
				continue
			}
			for o := 0; o < len(c.data); o += sector {
				if r.IntN(2) == 0 {
					b = change{c.off + int64(o), c.data[o:min(o+sector, len(c.data))]}.apply(b)
				}
			}
		}
		f.live, f.synced, f.pending = b, append([]byte(nil), b...), nil
	}
	d.limit = 0
	d.reset++
}

// Copy returns a disk with the same files.
func (d *Disk) Copy() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewDisk()
	for name, f := range d.files {
		b := append([]byte(nil), f.live...)
		c.files[name] = &image{live: b, synced: append([]byte(nil), b...)}
	}
	return c
}

// step counts an operation; with d.mu held.
func (d *Disk) step() error {
	d.ops++
	if d.limit > 0 && d.ops > d.limit {
		return sqlite3vfs.IOError
	}
	return nil
}

// Slot is where SQLite finds the disk of a test: a VFS cannot be unregistered.
type Slot struct {
	mu   sync.Mutex // protects disk
	disk *Disk
}

// Put makes d the disk behind the slot.
func (s *Slot) Put(d *Disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disk = d
}

func (s *Slot) get() *Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk
}

// Open implements sqlite3vfs.VFS.
func (s *Slot) Open(name string, flags sqlite3vfs.OpenFlag) (sqlite3vfs.File, sqlite3vfs.OpenFlag, error) {
	d := s.get()
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" {
		return &handle{d: d, f: &image{}, reset: d.reset}, flags, nil
	}
	f := d.files[name]
	if f == nil {
		if flags&sqlite3vfs.OpenCreate == 0 {
			return nil, 0, sqlite3vfs.CantOpenError
		}
		f = &image{}
		d.files[name] = f
	}
	return &handle{d: d, f: f, reset: d.reset}, flags, nil
}

// Delete implements sqlite3vfs.VFS.
func (s *Slot) Delete(name string, _ bool) error {
	d := s.get()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	delete(d.files, name)
	return nil
}

// Access implements sqlite3vfs.VFS.
func (s *Slot) Access(name string, _ sqlite3vfs.AccessFlag) (bool, error) {
	d := s.get()
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.files[name]
	return ok, nil
}

// FullPathname implements sqlite3vfs.VFS.
func (s *Slot) FullPathname(name string) string { return name }

// handle is an open file. After a power cut it does nothing more.
type handle struct {
	d     *Disk
	f     *image
	reset int
}

// change makes a change unless the power is gone; with d.mu held.
func (h *handle) change(c change) error {
	if h.reset != h.d.reset {
		return sqlite3vfs.IOError
	}
	if err := h.d.step(); err != nil {
		return err
	}
	if h.d.full && c.off+int64(len(c.data)) > int64(len(h.f.live)) {
		return sqlite3vfs.FullError
	}
	h.f.live = c.apply(h.f.live)
	h.f.pending = append(h.f.pending, c)
	return nil
}

func (h *handle) Close() error { return nil }

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if off >= int64(len(h.f.live)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.live[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.change(change{off, append([]byte{}, p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h *handle) Truncate(n int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return h.change(change{off: n})
}

func (h *handle) Sync(sqlite3vfs.SyncType) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.reset != h.d.reset {
		return sqlite3vfs.IOError
	}
	if err := h.d.step(); err != nil {
		return err
	}
	if h.d.Lies {
		return nil
	}
	for _, c := range h.f.pending {
		h.f.synced = c.apply(h.f.synced)
	}
	h.f.pending = nil
	return nil
}

func (h *handle) FileSize() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.live)), nil
}

func (h *handle) Lock(sqlite3vfs.LockType) error   { return nil }
func (h *handle) Unlock(sqlite3vfs.LockType) error { return nil }
func (h *handle) CheckReservedLock() (bool, error) { return false, nil }
func (h *handle) SectorSize() int64                { return sector }
func (h *handle) DeviceCharacteristics() sqlite3vfs.DeviceCharacteristic {
	return sqlite3vfs.IocapPowersafeOverwrite
}
