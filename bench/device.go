package main

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// device is a client over a SQLite file.
type device struct {
	*client.Client
	items *client.Model[item]
	store *sqlite.Store
	db    *sql.DB
	bytes atomic.Int64 // that came from the server
	calls atomic.Int64 // that the server was asked
}

// openDevice opens a client on the file path, offline, with synchronous=FULL or
// NORMAL; address "" is no server at all.
func openDevice(ctx context.Context, path, synchronous, address string) (*device, error) {
	return openDeviceWith(ctx, path, synchronous, address, client.Options{})
}

// openDeviceWith is openDevice for a client with some options of its own.
func openDeviceWith(ctx context.Context, path, synchronous, address string, opts client.Options) (d *device, err error) {
	d = &device{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	dsn := sqlite.DSN(path)
	if synchronous == "NORMAL" {
		dsn = sqlite.DSNNormal(path)
	}
	if d.db, err = sql.Open("sqlite3", dsn); err != nil {
		return d, err
	}
	if d.store, err = sqlite.Open(ctx, d.db, &sqlite.Options{AllowNormal: synchronous == "NORMAL"}); err != nil {
		return d, err
	}
	opts.Offline, opts.CallTimeout = true, time.Minute
	var dialer tidemark.Dialer
	if address != "" {
		dialer = countedDialer{socketio.NewDialer("http://"+address, &socketio.DialOptions{NetDial: d.dial}), &d.calls}
	}
	if d.Client, err = client.Open(ctx, d.store, dialer, &opts); err != nil {
		return d, err
	}
	d.items, err = client.NewModel[item](ctx, d.Client, "item", nil)
	return d, err
}

func (d *device) close() {
	if d.Client != nil {
		_ = d.Client.Close()
	}
	if d.store != nil {
		_ = d.store.Close()
	}
	if d.db != nil {
		_ = d.db.Close()
	}
}

func (d *device) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return counted{c, &d.bytes}, err
}

// counted counts what is read.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// countedDialer counts what is asked.
type countedDialer struct {
	tidemark.Dialer
	n *atomic.Int64
}

func (d countedDialer) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	c, w, err := d.Dialer.Dial(ctx, hello, h)
	if err != nil {
		return nil, w, err
	}
	return countedConn{c, d.n}, w, nil
}

type countedConn struct {
	tidemark.Conn
	n *atomic.Int64
}

func (c countedConn) Send(m *tidemark.Message) error {
	if m.Kind == tidemark.CallMessage {
		c.n.Add(1)
	}
	return c.Conn.Send(m)
}

// holds checks that the device has so many rows.
func (d *device) holds(ctx context.Context, rows int) error {
	all, err := d.items.FindWhere(ctx, nil)
	if err == nil && len(all) != rows {
		err = fmt.Errorf("%d rows arrived instead of %d", len(all), rows)
	}
	return err
}

// synchronised makes all rows a scope, connects, and returns how long it took until the server's rows were stored.
func (d *device) synchronised(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	d.GoOnline()
	scope, err := d.items.Register(ctx, tidemark.Where{})
	if err == nil {
		err = scope.Synced(ctx)
	}
	return time.Since(began), err
}
