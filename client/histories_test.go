package client_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/server"
)

// Whatever two devices, the server's own code and the links do, in the end each device has
// the server's rows of its scopes, and nothing is pending. What the scopes hear by
// cursors is compared before anything is told from the beginning.
func TestScopesConverge(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for n := first; n <= last; n++ {
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			inSecondWorld(t, &server.Options{PageBytes: 60 + int(n%5)*60, CursorInterval: time.Duration(1+n%3) * time.Second}, func(t *testing.T, w *world) {
				(&play{t: t, w: w, r: rand.New(rand.NewPCG(n, 1))}).run()
			})
		})
	}
}

// play is one random history.
type play struct {
	t       *testing.T
	w       *world
	r       *rand.Rand
	devices []*follower
}

// follower is a device with the scopes that it holds.
type follower struct {
	*bench
	tap    *tap
	scopes map[string]*client.Scope
	wheres map[string]tidemark.Where
}

func (p *play) run() {
	for range 2 {
		own := rand.New(rand.NewPCG(p.r.Uint64(), 0)) // a device draws on a goroutine of its own
		tap := &tap{w: p.w}
		b := p.w.deviceOver(tap.dial, &client.Options{Rand: own.Float64})
		p.devices = append(p.devices, &follower{bench: b, tap: tap, scopes: map[string]*client.Scope{}, wheres: map[string]tidemark.Where{}})
	}
	for range 250 {
		p.act()
		if p.r.IntN(3) == 0 {
			synctest.Wait()
		}
		if p.r.IntN(3) == 0 {
			pass(time.Duration(1+p.r.IntN(3000)) * time.Millisecond)
		}
	}
	for _, d := range p.devices {
		d.tap.mu.Lock()
		d.tap.cutAfter = 0
		d.tap.mu.Unlock()
		d.client.GoOnline()
	}
	pass(2 * time.Minute)
	for i, d := range p.devices {
		d.state(client.Synced)
		d.pending(0)
		for _, where := range d.wheres {
			d.equals(p.w, where)
		}
		d.register(nil)
		d.equals(p.w, nil)
		if p.t.Failed() {
			p.t.Fatalf("device %d", i)
		}
	}
}

var clauses = []tidemark.Where{nil, {"label": "x"}, {"label": "y"}, {"score": tidemark.Range{GTE: 3}}, {"score": tidemark.Range{LT: 4}}, {"score": nil}, {"label": "x", "score": tidemark.Range{GTE: 2}}}

func (p *play) act() {
	t, r, w := p.t, p.r, p.w
	ctx := t.Context()
	d := p.devices[r.IntN(len(p.devices))]
	uid := fmt.Sprintf("u%02d", r.IntN(15))
	label, score := string("xyz"[r.IntN(3)]), int64(r.IntN(6))
	switch r.IntN(24) {
	case 0, 1:
		_, _ = d.items.Create(ctx, Item{UID: uid, Label: label, Score: &score})
	case 2, 3:
		_, _ = d.items.Update(ctx, uid, client.Patch{"label": label})
	case 4:
		_, _ = d.items.Update(ctx, uid, client.Patch{"score": score})
	case 5:
		_ = d.items.Remove(ctx, uid)
	case 6, 7, 8, 9:
		w.put(uid, label, int(score))
	case 10:
		w.delete(uid)
	case 11:
		d.client.GoOffline()
	case 12, 13, 14:
		d.client.GoOnline()
	case 15:
		w.pipe.Cut()
	case 16, 17:
		d.tap.mu.Lock()
		d.tap.cutAfter = d.tap.received + 1 + r.IntN(8)
		d.tap.mu.Unlock()
	case 18:
		old := d.store
		d.store = old.Reopen()
		d.client.Close()
		d.reopen(w)
		// Scopes that were held stay in step with the next run; they are held again.
		for key, where := range d.wheres {
			d.follow(t, key, where)
		}
	case 19, 20:
		where := clauses[r.IntN(len(clauses))]
		d.follow(t, fmt.Sprint(where), where)
	case 21:
		for key, s := range d.scopes {
			if len(d.scopes) > 1 && key == fmt.Sprint(clauses[r.IntN(len(clauses))]) {
				s.Release()
				delete(d.scopes, key)
				delete(d.wheres, key)
			}
		}
	case 22:
		switch r.IntN(4) {
		case 0:
			_ = d.items.Reset(ctx, nil)
		case 1:
			_, _ = d.items.Evict(ctx, clauses[r.IntN(len(clauses))])
		case 2:
			if _, err := w.db.Purge(ctx, time.Now()); err != nil {
				t.Error(err)
			}
		case 3:
			w.guide = r.IntN(3) == 0
			w.restart()
		}
	case 23:
		c := d.client
		go func() { _ = c.Sync(ctx) }()
	}
}

func (d *follower) follow(t *testing.T, key string, where tidemark.Where) {
	s, err := d.items.Register(t.Context(), where)
	if err != nil {
		t.Error(err)
		return
	}
	if was := d.scopes[key]; was != nil {
		was.Release()
	}
	d.scopes[key], d.wheres[key] = s, where
}
