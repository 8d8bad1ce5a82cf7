package client_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/server"
)

// Writes of the real server's: with hooks, and told to others.

func TestUnitIsSeenWholeByOtherDevices(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		a, b := w.device(nil), w.device(nil)
		score := int64(50)
		for _, uid := range []string{"x", "y"} {
			if _, err := a.items.Create(t.Context(), Item{UID: uid, Label: uid, Score: &score}); err != nil {
				t.Fatal(err)
			}
		}
		b.register(nil)
		b.state(client.Synced)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		seen := 0
		go func() {
			for items, err := range b.items.Watch(ctx, nil, nil) {
				sum := int64(0)
				for _, i := range items {
					sum += *i.Score
				}
				if seen++; err != nil || sum != 100 {
					t.Errorf("it sees %d (%v)", sum, err)
				}
			}
		}()
		synctest.Wait()
		for i := range int64(20) {
			err := a.client.Tx(t.Context(), func(tx *client.Tx) error {
				_, err := a.items.UpdateTx(tx, "x", client.Patch{"score": 50 - i})
				if err == nil {
					_, err = a.items.UpdateTx(tx, "y", client.Patch{"score": 50 + i})
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if seen < 20 {
			t.Errorf("it saw %d results", seen)
		}
	})
}

func TestHooksRefuseWritesOfABatch(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		w.server.Service("item").Before(func(_ context.Context, c *server.Call) error {
			var data Item
			if err := c.Arg(1, &data); err == nil && strings.HasPrefix(data.Label, "bad") {
				return tidemark.NewError("bad-label", "not so")
			}
			return nil
		}, tidemark.MethodCreate, tidemark.MethodUpdate)
		a := w.device(&client.Options{Offline: true})
		var want []string
		rejected := 0
		for i := range 700 {
			uid := fmt.Sprintf("u%03d", i)
			switch {
			case i%10 == 3:
				a.create(uid, "bad")
				rejected++
			case i%10 == 7:
				a.create(uid, "good")
				a.update(uid, "bad again")
				want = append(want, "good")
				rejected++
			case i%10 == 9 && i > 0:
				a.unit("bad unit", uid, uid+"-")
				rejected += 2
			default:
				a.create(uid, "fine")
				want = append(want, "fine")
			}
		}
		a.client.GoOnline()
		pass(time.Minute)
		a.pending(0)
		w.has(want...)
		a.sees(want...)
		if rs, err := a.client.Rejections(t.Context()); err != nil || len(rs) != rejected {
			t.Errorf("%d rejections are listed (%v), want %d", len(rs), err, rejected)
		}
	})
}

// Two devices write the same rows, and lose their connection now and then: what one has
// done is not undone by what it sends again.
func TestPushedAgainAfterAnotherDevicesWrite(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		a, b := w.device(nil), w.device(nil)
		a.register(nil)
		b.register(nil)
		for i := range 20 {
			a.unit(fmt.Sprint("a", i), "x", "y")
			if i%3 == 0 {
				w.pipe.Cut()
			}
			pass(10 * time.Second)
			b.unit(fmt.Sprint("b", i), "x", "y")
			if i%4 == 0 {
				w.pipe.Cut()
			}
			pass(10 * time.Second)
			want := fmt.Sprint("b", i)
			w.has(want, want)
			a.sees(want, want)
			b.sees(want, want)
		}
		a.rejections()
		b.rejections()
		a.pending(0)
		b.pending(0)
	})
}
