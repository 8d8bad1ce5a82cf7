package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark/client"
)

// Two clients over one store, as two processes over one file: what one has queued the
// other pushes, and what is pending is what the store has.
func TestClientsOverOneStoreCountItsWrites(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		a := w.device(&client.Options{Offline: true})
		other, items := openOn(t, a.store, nil, nil)
		write := func(uid string) {
			t.Helper()
			if _, err := items.Create(t.Context(), Item{UID: uid, Label: uid}); err != nil {
				t.Fatal(err)
			}
		}
		a.create("a1", "a1")
		write("b1")
		write("b2")
		a.create("a2", "a2")
		a.client.GoOnline()
		pass(time.Minute)
		w.has("a1", "a2", "b1", "b2")
		a.pending(0)
		a.create("a3", "a3") // in the wake of the other's, which were never counted
		pass(time.Minute)
		w.has("a1", "a2", "a3", "b1", "b2")
		write("b3")
		a.create("a4", "a4")
		pass(time.Minute)
		w.has("a1", "a2", "a3", "a4", "b1", "b2", "b3")
		a.pending(0)
		a.state(client.Synced)
		b := &bench{t: t, client: other, items: items, store: a.store}
		if n := other.Status().Pending; n != 3 {
			t.Fatalf("%d are pending of the other, which was offline", n)
		}
		other.Close()
		b.dial, b.opts = w.dial, &client.Options{Offline: true}
		b.reopen(w)
		defer b.client.Close()
		a.client.GoOffline()
		a.create("a5", "a5")
		b.create("b4", "b4")
		b.client.GoOnline() // pushes both
		pass(time.Minute)
		b.pending(0)
		if n := a.client.Status().Pending; n != 1 {
			t.Fatalf("%d are pending of the first, which is offline", n)
		}
		a.client.GoOnline()
		pass(time.Minute)
		a.pending(0)
		a.state(client.Synced)
	})
}

// What one client throws away comes back where another one, over the same store, keeps it in step.
func TestClientsOverOneStoreKeepWhatTheOtherThrowsAway(t *testing.T) {
	for name, throwAway := range map[string]func(*client.Model[Item]) error{
		"reset": func(items *client.Model[Item]) error { return items.Reset(context.Background(), nil) },
		"evict": func(items *client.Model[Item]) error { _, err := items.Evict(context.Background(), nil); return err },
	} {
		t.Run(name, func(t *testing.T) {
			inSecondWorld(t, nil, func(t *testing.T, w *world) {
				w.fill(5)
				a := w.device(nil)
				other, items := openOn(t, a.store, nil, nil)
				defer other.Close()
				a.register(nil)
				a.state(client.Synced)
				if err := throwAway(items); err != nil {
					t.Fatal(err)
				}
				pass(time.Second)
				w.put("u003", "changed", 3)
				pass(time.Minute) // the cursor comes
				a.equals(w, nil)
				a.state(client.Synced)
			})
		})
	}
}
