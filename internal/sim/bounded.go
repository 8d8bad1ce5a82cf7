package sim

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// limits are what the options of a world's server allow it to keep. In narrow worlds that is so little
// that it is reached all the time.
type limits struct {
	sessions  int           // that broke
	age       time.Duration // of what is over
	journal   int           // bytes of events
	queue     int           // bytes that wait for a client
	highWater int           // bytes that are on their way in one direction
}

func (w *world) limits() limits {
	if w.seed%4 == 2 {
		return limits{sessions: 2, age: apart(30_000, 61), journal: 6 << 10, queue: 1 << 10, highWater: 512}
	}
	return limits{sessions: 1000, age: apart(30_000, 61), journal: 1 << 20, queue: 1 << 20, highWater: 256 << 10}
}

// within: after any step the server keeps no more than its options allow, whatever its clients do.
func (w *world) within() error {
	if Raced || w.host.up == nil {
		return nil
	}
	l := w.limits()
	server, handler := heldBy(w.host.up.server), heldBy(w.host.up.handler)
	for _, c := range []struct {
		what        string
		held, bound int
	}{
		{"sessions that broke", server["server.shelf.byKey"], l.sessions},
		{"bytes of events", server["tidemark.Message.Args element"], l.journal},
		{"bytes that wait for clients", handler["socketio.frame.data"], handler["socketio.Handler.sessions"] * (l.queue + w.net.largest())},
	} {
		if c.held > c.bound {
			return fmt.Errorf("bounded: the server keeps %d %s, of at most %d", c.held, c.what, c.bound)
		}
	}
	return nil
}

// bounded: once what is over is older than it may become, the server and the devices keep as much, and have
// as many goroutines, as when all of them have just started.
func (w *world) bounded(ctx context.Context) error {
	if Raced {
		return nil
	}
	used, err := w.atRest()
	if err != nil {
		return err
	}
	w.host.stop(false)
	for _, d := range w.devices {
		d.halt()
	}
	if err := w.heal(ctx); err != nil {
		return err
	}
	fresh, err := w.atRest()
	if err != nil {
		return err
	}
	const leeway = 3 // what is under way while we look
	for i := range used {
		for name, n := range used[i].held {
			if most := fresh[i].held[name] + leeway; n > most {
				return fmt.Errorf("%s keeps %d of %s, and %d when it has just started", used[i].of, n, name, fresh[i].held[name])
			}
		}
	}
	for _, d := range w.devices {
		n, err := d.tombstones(ctx)
		if n > leeway && err == nil { // what it was told just now, behind a cursor that was old: not again
			if d.halt(); w.heal(ctx) == nil {
				n, err = d.tombstones(ctx)
			}
		}
		if n > leeway || err != nil {
			return fmt.Errorf("%s keeps %d tombstones after it has begun anew %w", d.name, n, orNone(err))
		}
	}
	return nil
}

// tombstones counts the rows of a device's file that are there only to keep an older message from
// bringing them back. No message of an earlier connection can arrive any more.
func (d *device) tombstones(ctx context.Context) (n int, err error) {
	err = d.store.View(ctx, func(tx tidemark.StoreTx) error {
		recs, err := tx.Records("item", sorted(d.w.uids))
		for i := range recs {
			if r := &recs[i]; r.Base == nil && r.Pending == 0 && r.Meta.UID != "" {
				n++
			}
		}
		return err
	})
	return n, err
}

// part is a part of the world, and what it keeps.
type part struct {
	of   string
	held holdings
}

// atRest returns what all parts keep when nobody has done anything for some time.
func (w *world) atRest() ([]part, error) {
	const ages = 3 // until an event is forgotten, and then that there was one
	for end := time.Now().Add(ages * w.limits().age); time.Now().Before(end); time.Sleep(time.Second) {
		w.pump()
	}
	w.pump()
	parts := []part{
		{"the process", holdings{"goroutines": runtime.NumGoroutine()}},
		{"the server", heldBy(w.host.up.server)},
		{"its transport", heldBy(w.host.up.handler)},
	}
	for _, d := range w.devices {
		parts = append(parts, part{d.name, heldBy(d.client)})
	}
	return parts, w.books.breached()
}
