package scenarios

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

var (
	histories = flag.Int("histories", 4, "how many random histories TestDevicesOfBothKindsConverge plays on each database")
	history   = flag.Uint64("history", 0, "play only the history of this seed")
)

// Two devices of ours and one that is not write what they like, online and
// offline, over links that break: in the end all three have what the server has.
func TestDevicesOfBothKindsConverge(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(*histories)
	if *history != 0 {
		first, last = *history, *history
	}
	engines(t, func(t *testing.T, w *world) {
		w.open()
		for seed := first; seed <= last; seed++ {
			t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { play(t, w, rand.New(rand.NewPCG(seed, 0))) })
		}
	})
}

// all returns what a device shows of a clause, by uid.
func (d *goDevice) all(where tidemark.Where) map[string]string {
	d.t.Helper()
	items, err := d.items.FindWhere(d.t.Context(), where)
	if err != nil {
		d.t.Fatal(err)
	}
	return byUID(items)
}

func (d *jsDevice) all(where tidemark.Where) map[string]string {
	return byUID(decode[[]item](d.t, d.js.Do("find", "item", clause(where))))
}

// cut breaks the connection, as a network does; the device makes another by itself.
func (d *goDevice) cut() { d.link.cut() }

func (d *jsDevice) cut() { d.js.Do("cut") }

// breakable is a link that a test breaks.
type breakable struct {
	tidemark.Dialer
	conn atomic.Pointer[tidemark.Conn]
}

func (b *breakable) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := b.Dialer.Dial(ctx, hello, h)
	if err == nil {
		b.conn.Store(&conn)
	}
	return conn, w, err
}

func (b *breakable) cut() {
	if c := b.conn.Load(); c != nil {
		(*c).Close(tidemark.ClosedTransport)
	}
}

func byUID(items []item) map[string]string {
	out := map[string]string{}
	for _, i := range items {
		out[i.UID] = i.Label
	}
	return out
}

// player is a device of a history, with the scope that it has.
type player struct {
	actor
	where  tidemark.Where
	online bool
}

type actor interface {
	device
	all(where tidemark.Where) map[string]string
	cut()
}

func play(t *testing.T, w *world, r *rand.Rand) {
	w.empty()
	wheres := []tidemark.Where{nil, {"score": tidemark.Range{GTE: 3}}, {"score": tidemark.Range{LT: 7}}, {"score": nil}}
	players := []*player{{actor: w.goDevice(t, nil)}, {actor: w.goDevice(t, nil)}, {actor: w.jsDevice(t)}}
	for _, p := range players {
		p.where = wheres[r.IntN(len(wheres))]
		p.scope(p.where)
		p.connect()
		p.online = true
	}
	for n := range 120 {
		players[r.IntN(len(players))].act(r, n)
	}
	for _, p := range players {
		if !p.online {
			p.connect()
		}
	}
	server := w.peer(t)
	expect.Soon(t, func() error {
		for _, p := range players {
			p.sync()
		}
		for i, p := range players {
			if err := p.agrees(server); err != nil {
				return fmt.Errorf("device %d: %w", i, err)
			}
		}
		return nil
	})
}

// act does one thing that users, and networks, do.
func (p *player) act(r *rand.Rand, n int) {
	uids := slices.Sorted(maps.Keys(p.all(nil)))
	switch k := r.IntN(14); {
	case k < 3 || len(uids) == 0:
		p.create(fmt.Sprint("created ", n))
	case k < 6:
		p.update(uids[r.IntN(len(uids))], map[string]any{"label": fmt.Sprint("updated ", n)})
	case k < 9:
		p.update(uids[r.IntN(len(uids))], map[string]any{"label": fmt.Sprint("moved ", n), "score": r.IntN(10)})
	case k < 10:
		p.remove(uids[r.IntN(len(uids))])
	case k < 11:
		if p.online {
			p.disconnect()
		} else {
			p.connect()
		}
		p.online = !p.online
	case k < 12 && p.online:
		p.cut()
	case k < 13 && p.online:
		p.sync()
	}
}

// agrees compares what the device shows of its scope with what the server has of it.
func (p *player) agrees(server *peer) error {
	if _, ours := p.actor.(*goDevice); ours && p.pending() != 0 {
		return fmt.Errorf("%d writes are pending", p.pending())
	}
	rows := server.ask("item", tidemark.MethodFindMany, clause(p.where))
	want := byUID(decode[[]item](server.t, rows.Result))
	if got := p.all(p.where); !maps.Equal(got, want) {
		return fmt.Errorf("shows of %v\n  %v\nthe server\n  %v", p.where, got, want)
	}
	return nil
}
