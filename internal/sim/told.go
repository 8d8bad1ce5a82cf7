package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// numbered names a write by its device and its number in the outbox there, which no other write has and which stays:
// so removals have a name, and writes that are made again with the token of the first.
func numbered(device string, n int64) string { return fmt.Sprintf("%s-#%d", device, n) }

func isNumbered(name string) bool { return strings.Contains(name, "-#") }

// book notes in the books what a call that has returned has put into the outbox, so many writes at least. Nothing
// leaves the outbox before the scheduler delivers something.
func (d *device) book(ctx context.Context, what string, writes int) {
	var ms []tidemark.Mutation
	err := d.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
		ms, err = tx.Outbox(d.booked, 0)
		return err
	})
	if err != nil || len(ms) < writes {
		d.w.books.breach("nothing acknowledged is lost", "%s: a %s of %d writes has returned, and %d are in the outbox (%v)", d.name, what, writes, len(ms), err)
		return
	}
	for i := range ms {
		m := &ms[i]
		d.booked = m.N
		if !d.old || m.Op == tidemark.Delete { // in the guide's protocol writes have no numbers
			d.w.books.queued(d, m)
		}
	}
}

// queued notes that a write with a number has returned.
func (b *books) queued(d *device, m *tidemark.Mutation) {
	name := numbered(d.name, m.N)
	b.acknowledge(written{token: name, device: d.name, uid: m.UID, op: m.Op})
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.old {
		b.removals[m.UID] = append(b.removals[m.UID], removal{name, m.Stamp})
	}
	b.last[d.name+" "+m.UID] = max(b.last[d.name+" "+m.UID], m.N)
}

// removal is one by a device of the guide's protocol.
type removal struct {
	name string
	at   tidemark.Stamp
}

// removed notes that a delete without a number was decided: which one it was, its milliseconds say, unless
// the server gave it an earlier time than the device did.
func (b *books) removed(m *tidemark.Mutation) {
	for _, r := range b.removals[m.UID] {
		if m.Stamp/1000 <= r.at/1000 {
			b.seen[r.name]++
		}
	}
}

// verdict is what the server has decided about a write with a number.
type verdict struct {
	device, uid string
	n           int64
	refused     bool
	missed      bool // each time it was decided, it was refused, or superseded by what is not itself
}

// judged notes the verdicts of a batch that are committed.
func (b *books) judged(batch *tidemark.Batch, verdicts []tidemark.Verdict, forgets bool) {
	b.mu.Lock()
	device := b.names[batch.Client]
	twice := ""
	for i := range verdicts {
		v, m := &verdicts[i], &batch.Mutations[i]
		name, row := numbered(device, v.N), device+" "+m.UID
		b.seen[name]++
		b.last[row] = max(b.last[row], v.N)
		missed := v.Err != nil || !v.Applied && !itself(m, v)
		if known := b.verdicts[name]; known != nil {
			known.missed, known.refused = known.missed && missed, known.refused && v.Err != nil
		} else {
			b.verdicts[name] = &verdict{device: device, uid: m.UID, n: v.N, refused: v.Err != nil, missed: missed}
		}
		if m.Op == tidemark.Delete && v.Applied && !v.Repeated {
			if b.applied[name]++; b.applied[name] > 1 && !forgets {
				twice = name
			}
		}
	}
	b.mu.Unlock()
	if twice != "" {
		b.breach("exactly once", "the removal %s was applied again", twice)
	}
}

// itself reports whether a write was superseded by what it wanted: by itself, under an
// earlier name of the device, or as a removal by another one.
func itself(m *tidemark.Mutation, v *tidemark.Verdict) bool {
	if m.Op == tidemark.Delete {
		return v.Meta.Deleted()
	}
	return !v.Meta.Deleted() && (v.Row == nil || tokenOf(&tidemark.Mutation{Data: v.Row}) == tokenOf(m))
}

// call notes the name under which a device pushes.
func (b *books) call(name, device string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names[name] = device
}

// introduce notes the names under which the devices push, before anything that they sent under a new one arrives.
func (w *world) introduce() {
	for _, d := range w.devices {
		if d.client == nil || d.introduced == d.file.updates.Load() {
			continue
		}
		d.introduced = d.file.updates.Load()
		_ = d.store.View(context.Background(), func(tx tidemark.StoreTx) error {
			name, err := tx.Load("client")
			d.w.books.call(string(name), d.name)
			return err
		})
	}
}

// done says what the user has done with a rejection.
type done uint8

const (
	untouched done = iota
	removed        // it was discarded, or tried again
	perhaps        // nobody knows: the call failed
)

// signalled is the device's callback.
func (d *device) signalled(r client.Rejection) {
	refused := r.Kind == client.Rejected
	d.w.books.rejected(tokenOf(&r.Mutation), refused)
	d.w.books.rejected(numbered(d.name, r.Mutation.N), refused)
	d.mu.Lock()
	d.told[r.Mutation.N]++
	n := d.told[r.Mutation.N]
	d.mu.Unlock()
	if n > 1 {
		d.w.books.breach("rejections", "%s was told %d times that its write %d was %s", d.name, n, r.Mutation.N, r.Kind)
	}
}

// find notes the rejections that a process of the device finds when it starts: it may have died before
// it was told.
func (d *device) find(ctx context.Context) error {
	list, err := d.client.Rejections(ctx)
	for i := range list {
		d.found[list[i].Mutation.N] = true
	}
	return err
}

// rejectionsStand: what is listed was told, and what was told or found is listed until the user has done with it.
func (d *device) rejectionsStand(ctx context.Context) error {
	list, err := d.client.Rejections(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	listed := map[int64]bool{}
	for i := range list {
		n := list[i].Mutation.N
		listed[n] = true
		switch {
		case d.told[n] == 0 && !d.found[n]:
			return fmt.Errorf("rejections: %s lists its write %d, and was not told", d.name, n)
		case d.done[n] == removed:
			return fmt.Errorf("rejections: %s lists its write %d again, with which it had done", d.name, n)
		}
	}
	for _, known := range []map[int64]bool{d.found, toldOf(d.told)} {
		for n := range known {
			if !listed[n] && d.done[n] == untouched {
				return fmt.Errorf("rejections: %s no longer lists its write %d", d.name, n)
			}
		}
	}
	return nil
}

func toldOf(told map[int64]int) map[int64]bool {
	m := make(map[int64]bool, len(told))
	for n := range told {
		m[n] = true
	}
	return m
}

// allTold: of each write that was refused, or superseded as the last one of its row on the device, the device was
// told, or found it listed. Where there is a later one, that may have covered it.
func (w *world) allTold(ctx context.Context) error {
	for _, d := range w.devices {
		if err := d.rejectionsStand(ctx); err != nil {
			return err
		}
	}
	b := w.books
	for _, name := range sorted(b.verdicts) {
		v := b.verdicts[name]
		at := slices.IndexFunc(w.devices, func(d *device) bool { return d.name == v.device })
		if at < 0 {
			return fmt.Errorf("nobody knows who made %s of %s", name, v.uid)
		}
		d := w.devices[at]
		if !v.missed || !v.refused && v.n < b.last[v.device+" "+v.uid] {
			continue
		}
		if d.told[v.n] == 0 && !d.found[v.n] {
			return fmt.Errorf("%s never heard that its write %d of %s lost: %+v", d.name, v.n, w.short(v.uid), *v)
		}
	}
	return nil
}

// look compares what a device shows with what its file has, when that has changed.
func (d *device) look(ctx context.Context) error {
	updates := d.file.updates.Load()
	if d.client == nil || d.wants || d.looked == updates {
		return nil
	}
	d.looked = updates
	return errors.Join(d.pendingShown(ctx), d.rejectionsStand(ctx))
}

// retry has a user deal with a rejection: he discards it, tries it again, or leaves it.
func (w *world) retry(ctx context.Context) string {
	d := w.device()
	if d.client == nil {
		return "is down"
	}
	list, err := d.client.Rejections(ctx)
	if err != nil || len(list) == 0 {
		return d.name + " has none"
	}
	r := list[w.rng.IntN(len(list))]
	what := w.rng.IntN(3)
	if what == 0 {
		return fmt.Sprint(d.name, " keeps ", r.Kind)
	}
	var with []client.Rejection // those that go with it
	for _, other := range list {
		if other.ID == r.ID || r.Kind == client.Rejected && r.Mutation.Unit != 0 && other.Kind == r.Kind && other.Mutation.Unit == r.Mutation.Unit {
			with = append(with, other)
		}
	}
	for i := range with {
		m := &with[i].Mutation
		w.books.listed(tokenOf(m)) // the process may have died before its callback ran
		w.books.listed(numbered(d.name, m.N))
		if what == 1 {
			w.books.again(m)
		}
	}
	verb := "discards"
	if what == 1 {
		verb, err = "retries", d.client.Retry(ctx, r.ID)
	} else {
		err = d.client.Discard(ctx, r.ID)
	}
	for i := range with {
		d.done[with[i].Mutation.N] = removed
		if err != nil {
			d.done[with[i].Mutation.N] = perhaps
		}
	}
	if err != nil {
		return d.failed(verb, err)
	}
	if what == 1 {
		d.book(ctx, "retry", len(with))
	}
	return fmt.Sprintf("%s %s %d writes", d.name, verb, len(with))
}

// again notes that a write is made again, with its token. Its row may have left the device since, or the user
// may have removed it: then what it writes is all that there is of it.
func (b *books) again(m *tidemark.Mutation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retried[tokenOf(m)] = true
	b.partial[m.UID] = true
}
