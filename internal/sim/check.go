package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// check looks at the world when it has come to rest.
func (w *world) check(ctx context.Context) error {
	for _, c := range []struct {
		promise string
		check   func(*world, context.Context) error
	}{
		{"convergence", (*world).agreed},
		{"nothing acknowledged is lost", (*world).nothingLost},
		{"units", (*world).unitsWhole},
		{"order", (*world).newestStands},
		{"rejections", (*world).allTold},
		{"store integrity", (*world).storesSound},
		{"bounded", (*world).bounded},           // it starts everything anew
		{"rejections, later", (*world).allTold}, // by processes that were told nothing
	} {
		if err := c.check(w, ctx); err != nil {
			return fmt.Errorf("%s: %w", c.promise, err)
		}
	}
	return nil
}

// agreed is converged, with a note for each device.
func (w *world) agreed(ctx context.Context) error {
	for _, d := range w.devices {
		for _, where := range d.scopes {
			rows, err := w.host.rows(ctx, "item", where)
			if err != nil {
				return err
			}
			w.note("%s agrees on %d rows of %v", d.name, len(rows), where)
		}
	}
	return w.converged(ctx)
}

// converged: what a device shows of its scopes is what the server has of them.
func (w *world) converged(ctx context.Context) error {
	for _, d := range w.devices {
		scopes := d.scopes
		if d.extra != nil {
			scopes = append(slices.Clip(scopes), d.extraWhere)
		}
		for _, where := range scopes {
			want, err := w.host.rows(ctx, "item", where)
			if err != nil {
				return err
			}
			if diff, err := d.differs(ctx, d.items.Schema(), where, want); diff != "" || err != nil {
				return fmt.Errorf("convergence: %v: %s %w", where, diff, orNone(err))
			}
		}
	}
	return nil
}

type none struct{}

func (none) Error() string { return "" }

func orNone(err error) error {
	if err == nil {
		return none{}
	}
	return err
}

// nothingLost: each write that a device acknowledged was decided by the server, or is
// listed as rejected on the device.
func (w *world) nothingLost(ctx context.Context) error {
	listed := map[string]bool{}
	for _, d := range w.devices {
		list, err := d.client.Rejections(ctx)
		if err != nil {
			return err
		}
		for _, r := range list {
			listed[tokenOf(&r.Mutation)], listed[numbered(d.name, r.Mutation.N)] = true, true
		}
	}
	for _, token := range w.books.order {
		if w.books.seen[token] == 0 && w.books.told[token] == 0 && !listed[token] {
			return fmt.Errorf("%s was never decided: %+v", token, *w.books.writes[token])
		}
	}
	return nil
}

// unitsWhole: no write of a unit was applied of which another one was refused. Both may have been applied and then
// refused, where a device whose clock was ahead sends them again after a purge, and a write that the server lost
// comes back without its unit, as a row, from a device of the guide's protocol. One that was superseded may be tried again alone.
func (w *world) unitsWhole(context.Context) error {
	b := w.books
	for _, u := range b.units {
		if b.undone[u[0]] || b.undone[u[1]] || b.retried[u[0]] || b.retried[u[1]] {
			continue
		}
		for i := range u {
			if b.refused[u[i]] > 0 && b.applied[u[i]] == 0 && b.applied[u[1-i]] > 0 {
				return fmt.Errorf("%s was refused, and %s of its unit was applied", u[i], u[1-i])
			}
		}
	}
	return nil
}

// newestStands: each row is as the last write that was applied to it made it, and gone when that removed it.
func (w *world) newestStands(ctx context.Context) error {
	rows, err := w.host.rows(ctx, "item", nil)
	if err != nil {
		return err
	}
	for uid, row := range rows {
		token := tokenOf(&tidemark.Mutation{Data: row})
		if v, last := w.books.version[token], w.books.count[uid]; v != last {
			return fmt.Errorf("row %s stands at version %d (%s) of %d", uid, v, token, last)
		}
	}
	for _, uid := range sorted(w.books.gone) {
		if _, there := rows[uid]; there == w.books.gone[uid] {
			return fmt.Errorf("row %s: that it was deleted last is %t, that it is there too", uid, there)
		}
	}
	return nil
}

// pendingShown: what a device shows of a row with pending writes is what the server said, with these on top. It
// is a whole row, unless the server has deleted it, or the device: then an update that is newer makes one of what it writes.
func (d *device) pendingShown(ctx context.Context) error {
	var halves []string
	err := d.store.View(ctx, func(tx tidemark.StoreTx) error {
		pending := map[string][]tidemark.Mutation{}
		ms, err := tx.Outbox(0, 0)
		for _, m := range ms {
			if m.Model == "item" {
				pending[m.UID] = append(pending[m.UID], m)
			}
		}
		if err != nil || len(pending) == 0 {
			return err
		}
		recs, err := tx.Records("item", sorted(pending))
		for i := range recs {
			r := &recs[i]
			if want, _ := tidemark.Rebase(r.Base, r.Meta, pending[r.UID]); !bytes.Equal(r.Row, want) {
				return fmt.Errorf("rollback: %s shows %s of %s, with %d writes pending it is %s", d.name, r.Row, d.w.short(r.UID), len(pending[r.UID]), want)
			}
			deleted := slices.ContainsFunc(pending[r.UID], func(m tidemark.Mutation) bool { return m.Op == tidemark.Delete })
			if len(r.Row) > 0 && r.Row.Get("list_id") == nil && !deleted {
				halves = append(halves, r.UID)
			}
		}
		return err
	})
	for _, uid := range halves {
		there, e := d.w.host.rows(ctx, "item", tidemark.Where{"uid": uid})
		if err = errors.Join(err, e); len(there) > 0 && !d.w.books.maybePartial(uid) {
			return fmt.Errorf("whole rows: %s shows only what it wrote of %s, which the server has", d.name, d.w.short(uid))
		}
	}
	return err
}

// storesSound: nothing is pending, each visible row is its base, and the file is whole.
func (w *world) storesSound(ctx context.Context) error {
	for _, d := range w.devices {
		if checker, ok := d.store.(interface{ Check(context.Context) error }); ok {
			if err := checker.Check(ctx); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
		err := d.store.View(ctx, func(tx tidemark.StoreTx) error {
			left, err := tx.Outbox(0, 0)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%s: %d writes are left in the outbox", d.name, len(left))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inspect looks at what is about to reach a device: nothing of a list that none of its scopes
// selects, by a page or a change. Verdicts are about its own writes, wherever they went. Devices
// of the guide's protocol hear of everything in their channels.
func (w *world) inspect(s *stream) {
	w.count(s.first())
	for _, d := range w.devices {
		if d.old || d.allowed == nil || !strings.HasPrefix(s.name, d.name+"#") || !strings.HasSuffix(s.name, "<") {
			continue
		}
		chunk := s.first()
		if !bytes.Contains(chunk, []byte(tidemark.EventChanges)) && !bytes.Contains(chunk, []byte(`"blocks":`)) {
			continue
		}
		for _, list := range w.lists {
			if !d.allowed[list] && bytes.Contains(chunk, []byte(canary(list))) {
				w.books.breach("nothing outside a session's scopes", "%s is sent a row of %s: %q", d.name, list, chunk)
			}
		}
	}
}

// count counts what a packet has.
func (w *world) count(chunk []byte) {
	for text, n := range map[string]*int{`"blocks":`: &w.counts.Pages, tidemark.EventChanges: &w.counts.Changes, `"verdicts":`: &w.counts.Verdicts, tidemark.EventService: &w.counts.Events} {
		if bytes.Contains(chunk, []byte(text)) {
			*n++
		}
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(keys(m)) }
