package scenarios

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/server"
)

// connected says whether a device has a connection, and whether it is synchronised
// since the last break.
func (d *goDevice) connected() (connected, synced bool) {
	s := d.client.Status()
	return s.State >= client.Syncing, s.State == client.Synced
}

func (d *jsDevice) connected() (connected, synced bool) {
	s := decode[struct {
		IsConnected      bool
		DisconnectedDate *string
	}](d.t, d.js.Do("status"))
	return s.IsConnected, s.IsConnected && s.DisconnectedDate == nil
}

// The server goes, a row is written meanwhile, and another server comes on the
// same address: the device connects by itself, and pushes the row once. While its sync
// hangs the device says that it is not synchronised yet. 46, 47
func TestAServerGoesAndAnotherComes(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, w *world) {
		var gate atomic.Pointer[chan struct{}] // nil when it is open
		var creates atomic.Int64
		w.prepare = func(srv *server.Server) {
			item := srv.Service("item")
			item.Before(func(ctx context.Context, _ *server.Call) error {
				shut := gate.Load()
				if shut == nil {
					return nil
				}
				select {
				case <-*shut:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}, tidemark.MethodFindMany)
			item.Before(func(context.Context, *server.Call) error { creates.Add(1); return nil }, tidemark.MethodCreate)
		}
		w.open()
		for _, d := range []interface {
			device
			connected() (bool, bool)
		}{w.jsDevice(t), w.goDevice(t, nil)} {
			d.connect()
			d.scope(nil)
			shut := make(chan struct{})
			gate.Store(&shut)
			creates.Store(0)
			w.stop()
			expect.Becomes(t, "connected", false, func() bool { c, _ := d.connected(); return c })
			uid := d.create("written meanwhile")
			w.start()
			expect.Becomes(t, "connected", true, func() bool { c, _ := d.connected(); return c })
			if _, synced := d.connected(); synced {
				t.Error("the device is synchronised while its sync hangs")
			}
			gate.Store(nil)
			close(shut)
			expect.Becomes(t, "synchronised", true, func() bool { _, s := d.connected(); return s })
			label, _ := w.get(uid)
			expect.Equal(t, "the server's row", label, "written meanwhile")
			expect.Equal(t, "how often it was pushed", creates.Load(), 1)
			expect.Equal(t, "pending", d.pending(), 0)
			d.disconnect()
		}
	})
}
