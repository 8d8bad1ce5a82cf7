package socketio

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
)

var _ tidemark.Dialer = (*Dialer)(nil)

// DialOptions are the settings of a [Dialer]. The zero value of each means its default.
type DialOptions struct {
	// Header is sent with the request that becomes the connection.
	Header http.Header
	// TLS configures https and wss. nil means the system's trust.
	TLS *tls.Config
	// NetDial makes the network connection. nil means a net.Dialer, through the
	// environment's proxy if it names one.
	NetDial func(ctx context.Context, network, address string) (net.Conn, error)

	// HandshakeTimeout bounds Dial as a whole, the server's answer included.
	// Defaults to 20 seconds.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long the server may take none of what it is sent.
	// Defaults to 10 seconds.
	WriteTimeout time.Duration
	// CloseTimeout is how long saying goodbye may take. Defaults to 2 seconds.
	CloseTimeout time.Duration

	// MaxMessageBytes bounds an incoming message with its attachments, in bytes.
	// Defaults to 64 MiB.
	MaxMessageBytes int
	// QueueBytes bounds what may wait for the server behind the message being
	// written, in bytes; one message may exceed it when no other waits. Defaults to 4 MiB.
	QueueBytes int
}

// Dialer connects to a [Handler], or to any server of Socket.IO 5 that allows
// websockets. It is safe for concurrent use.
type Dialer struct {
	url    string
	opts   DialOptions
	urlErr error
}

// NewDialer returns a dialer to rawURL: http, https, ws or wss, with the path
// /socket.io/ unless it has another. What is wrong with the URL is reported by Dial.
// opts may be nil.
func NewDialer(rawURL string, opts *DialOptions) *Dialer {
	d := &Dialer{}
	if opts != nil {
		d.opts = *opts
		d.opts.Header = opts.Header.Clone()
	}
	orDefault(&d.opts.HandshakeTimeout, 20*time.Second)
	orDefault(&d.opts.WriteTimeout, 10*time.Second)
	orDefault(&d.opts.CloseTimeout, 2*time.Second)
	orDefault(&d.opts.MaxMessageBytes, 64<<20)
	orDefault(&d.opts.QueueBytes, 4<<20)
	d.url, d.urlErr = websocketURL(rawURL)
	return d
}

func websocketURL(rawURL string) (string, error) {
	bad := tidemark.NewError(tidemark.CodeInvalidData, "a server's URL begins with http://, https://, ws:// or wss:// and a host")
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" {
		return "", bad
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", bad
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/socket.io/"
	}
	q := u.Query()
	q.Set("EIO", "4")
	q.Set("transport", "websocket")
	u.RawQuery = q.Encode()
	u.Fragment = ""
	return u.String(), nil
}

// Dial implements tidemark.Dialer. A server that cannot be reached, or does not
// answer as it should, gives an error that is [tidemark.ErrOffline].
func (d *Dialer) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	if d.urlErr != nil {
		return nil, tidemark.Welcome{}, d.urlErr
	}
	request, err := encodeHello(hello)
	if err != nil {
		return nil, tidemark.Welcome{}, err
	}
	limited, cancel := context.WithTimeout(ctx, d.opts.HandshakeTimeout)
	defer cancel()
	c, w, err := d.connect(limited, request)
	if err != nil {
		return nil, tidemark.Welcome{}, dialError(ctx, err)
	}
	c.run(h)
	return c, w, nil
}

func dialError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if refused, ok := err.(*tidemark.Error); ok {
		return refused
	}
	return fmt.Errorf("%w: %w", tidemark.ErrOffline, err)
}

// connect opens the websocket and shakes hands. The end of ctx breaks it off.
func (d *Dialer) connect(ctx context.Context, request []byte) (*conn, tidemark.Welcome, error) {
	l := &line{writeTimeout: d.opts.WriteTimeout}
	ws, err := d.upgrade(ctx, l)
	if err != nil {
		return nil, tidemark.Welcome{}, err
	}
	stop := context.AfterFunc(ctx, l.cut)
	c := newConn(ws, l, d.opts)
	w, err := c.shakeHands(request)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = ws.Close()
		return nil, tidemark.Welcome{}, err
	}
	return c, w, nil
}

func (d *Dialer) upgrade(ctx context.Context, l *line) (*websocket.Conn, error) {
	dial, proxy := d.opts.NetDial, (func(*http.Request) (*url.URL, error))(nil)
	if dial == nil {
		dial, proxy = new(net.Dialer).DialContext, http.ProxyFromEnvironment
	}
	stop := func() bool { return true }
	wd := websocket.Dialer{
		Proxy:           proxy,
		TLSClientConfig: d.opts.TLS,
		ReadBufferSize:  4096,
		WriteBufferSize: 4096,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			l.Conn = c
			stop = context.AfterFunc(ctx, l.cut) // the websocket layer heeds a deadline only
			return l, nil
		},
	}
	ws, resp, err := wd.DialContext(ctx, d.url, d.opts.Header)
	stop()
	if err != nil && resp != nil {
		return nil, fmt.Errorf("%w: HTTP status %d", err, resp.StatusCode)
	}
	return ws, err
}
