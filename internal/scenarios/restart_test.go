package scenarios

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
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
			becomes(t, "connected", false, func() bool { c, _ := d.connected(); return c })
			uid := d.create("written meanwhile")
			w.start()
			becomes(t, "connected", true, func() bool { c, _ := d.connected(); return c })
			if _, synced := d.connected(); synced {
				t.Error("the device is synchronised while its sync hangs")
			}
			gate.Store(nil)
			close(shut)
			becomes(t, "synchronised", true, func() bool { _, s := d.connected(); return s })
			label, _ := w.get(uid)
			equal(t, "the server's row", label, "written meanwhile")
			equal(t, "how often it was pushed", creates.Load(), 1)
			equal(t, "pending", d.pending(), 0)
			d.disconnect()
		}
	})
}

// counted is a transport that looks at the sizes of what a client sends.
type counted struct {
	tidemark.Dialer
	messages, largest atomic.Int64
}

type countedConn struct {
	tidemark.Conn
	c *counted
}

func (c *counted) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := c.Dialer.Dial(ctx, hello, h)
	return &countedConn{conn, c}, w, err
}

func (c *countedConn) Send(m *tidemark.Message) error {
	n := int64(0)
	for _, a := range m.Args {
		n += int64(len(a))
	}
	c.c.messages.Add(1)
	for old := c.c.largest.Load(); n > old && !c.c.largest.CompareAndSwap(old, n); old = c.c.largest.Load() {
	}
	return c.Conn.Send(m)
}

// Our client with very many rows synchronises again with a server that takes
// messages of a megabyte only: it asks by ranges of uids. Fault 18
func TestOurClientOfManyRowsSyncsByPieces(t *testing.T) {
	t.Parallel()
	onSQLite(t, func(t *testing.T, w *world) { // it is the client that is tested
		w.opts = &socketio.Options{MaxMessageBytes: 1_000_000, QueueBytes: 64 << 20}
		w.open()
		w.fill(manyRows)
		link := &counted{Dialer: w.dialer()}
		d := newDevice(t, link, nil)
		d.scope(nil)
		d.connect()
		if got := d.find(nil); got != manyRows {
			t.Fatalf("%d rows came, want %d", got, manyRows)
		}
		d.disconnect()
		w.peer(t).tuple(tidemark.MethodUpdate, "row-050000", map[string]any{"label": "changed"}, T1)
		w.peer(t).tuple(tidemark.MethodDelete, "row-099999", T1)
		w.peer(t).tuple(tidemark.MethodCreate, "row-050000-a", map[string]any{"label": "new"}, T1)
		link.messages.Store(0)
		d.connect()
		for uid, want := range map[string]string{"row-050000": "changed", "row-099999": "", "row-050000-a": "new", "row-000001": "label"} {
			equal(t, fmt.Sprint("the row ", uid), d.label(uid), want)
		}
		equal(t, "how many rows there are", d.find(nil), manyRows)
		if n, size := link.messages.Load(), link.largest.Load(); n < 10 || size > 1_000_000 {
			t.Errorf("%d messages, of at most %d bytes", n, size)
		}
	})
}
