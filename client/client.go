// Package client is the device's half of Tidemark: rows in a local store, an
// outbox of writes that the server has not confirmed, live queries, and the loop
// that keeps both sides in step whenever there is a connection.
//
//	c, err := client.Open(ctx, store, dialer, nil)
//	posts, err := client.NewModel[Post](ctx, c, "post", nil)
//	post, err := posts.Create(ctx, Post{Title: "Hello"})
//	for list, err := range posts.Watch(ctx, tidemark.Where{"title": "Hello"}, nil) {
//
// A write returns when it is durable on the device; no read or write waits for
// the network. What an application sees of a row is always the server's last
// known state with its own unconfirmed writes on top (see [tidemark.Rebase]).
//
// With a server that keeps a change log the client speaks the second protocol: what it
// costs to come back, or to stay in step, follows what has changed and not what is held; a
// connection that breaks, or a process that ends, begins nothing anew. Otherwise it speaks
// the guide's (sync.go, createWithMeta and their events), so that it also works
// with a server in another language. One store may meet both by turns.
package client

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// Options of [Open]. The zero value, and nil, are usable.
type Options struct {
	// Logger receives what goes wrong; never values of rows. Defaults to discarding.
	Logger *slog.Logger

	// Now is the device's clock, for stamps and dates. Defaults to time.Now.
	Now func() time.Time
	// Rand gives numbers in [0, 1) that spread reconnections over time. It is
	// called by one goroutine at a time. Defaults to math/rand/v2.
	Rand func() float64

	// MinBackoff and MaxBackoff bound the wait before a connection or a request
	// is tried again; it doubles from one to the other, less up to a half at
	// random. Default to 200 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// CallTimeout is how long an answer of the server may take, and how long
	// connecting may. Defaults to 20 s.
	CallTimeout time.Duration
	// MaxMessage is the size in bytes that a message to the server should not
	// exceed: a larger sync is split, and a larger write is rejected as
	// CodeTooLarge. Defaults to nine tenths of what the server announces; where it
	// announces nothing, to 900,000, below the 1,000,000 that servers of the guide's
	// protocol accept.
	MaxMessage int
	// Deflate asks the server to deflate the pages of first syncs and long catch-ups: little more
	// than half the bytes, for more of both processors' time. For slow or metered networks.
	Deflate bool
	// ScopeAge is how long a scope that no Watch and no Register has asked for
	// since the client was opened is still synchronised, counted from its last
	// use, and how long it is known of a released one where its rows stand. With a released one go
	// the rows that no other scope selects and of which nothing is pending, when its model
	// is next declared. Defaults to 30 days.
	ScopeAge time.Duration

	// Auth returns the payload for the server's authentication, a JSON object. It
	// is called before each attempt to connect. nil means none.
	Auth func(ctx context.Context) (json.RawMessage, error)
	// Offline opens the client as after GoOffline.
	Offline bool
	// OnRejection is called for each new rejection, after it is stored. Like all
	// callbacks it runs on one goroutine of the client's, in order, and may use
	// the client, but for Close.
	OnRejection func(Rejection)
}

func (o *Options) withDefaults() Options {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Float64
	}
	opts.MinBackoff = positive(opts.MinBackoff, 200*time.Millisecond)
	opts.MaxBackoff = max(positive(opts.MaxBackoff, 30*time.Second), opts.MinBackoff)
	opts.CallTimeout = positive(opts.CallTimeout, 20*time.Second)
	opts.ScopeAge = positive(opts.ScopeAge, 30*24*time.Hour)
	return opts
}

func positive[N ~int | ~int64](n, otherwise N) N {
	if n > 0 {
		return n
	}
	return otherwise
}

// Client is the engine over one store. Its methods may be called concurrently.
// After Close they return [tidemark.ErrClosed].
type Client struct {
	store  tidemark.Store
	dialer tidemark.Dialer
	opts   Options
	log    *slog.Logger
	speak  protocol

	clock     atomic.Pointer[tidemark.Clock] // replaced when the server says that it is fast
	skew      atomic.Int64                   // nanoseconds to add to the device's clock
	drift     atomic.Int64                   // how far ahead of the server a stamp may be, nanoseconds; 0 while it has not said
	lease     atomic.Int64                   // the stamp up to which the stored clock reaches
	pending   atomic.Int64                   // mutations in the outbox
	recount   atomic.Bool                    // pending may be wrong, since another client has written to the store
	given     atomic.Int64                   // the highest mutation number that this client has seen given
	rejected  atomic.Int64                   // stored rejections
	highest   atomic.Int64                   // the highest mutation number known
	pass      atomic.Int64                   // the number of the last pass from the beginning
	loss      atomic.Int64                   // what was told before the pass of this number, the server may have lost
	callbacks *queue

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   sync.WaitGroup // the connection loop and the callbacks
	wake   chan struct{}  // something to push or to synchronise

	mu       sync.Mutex // protects what follows; never held across I/O
	models   map[string]*tidemark.Schema
	scopes   map[scopeID]*scope
	watchers map[string]map[*watcher]struct{} // by model
	line     line                             // what Status is made of
	link     *link                            // nil while not connected
	online   context.Context                  // ends when the user goes offline; nil while offline
	offline  context.CancelFunc
	turned   chan struct{} // closed when online changes
	kick     chan struct{} // ends a wait before the next attempt
	syncs    map[*syncing]struct{}
	round    int64 // counts calls of Sync
	handlers handlers
	puts     map[string]int64 // how often records of a model were settled; by model
}

// Open returns a client over store, which it does not close, and begins to
// connect through dialer; with a nil dialer it stays offline. ctx bounds the
// opening only. Scopes that the store remembers are synchronised as soon as their
// models are declared by [NewModel].
func Open(ctx context.Context, store tidemark.Store, dialer tidemark.Dialer, opts *Options) (*Client, error) {
	c := &Client{
		store:     store,
		dialer:    dialer,
		opts:      opts.withDefaults(),
		speak:     guide{},
		callbacks: newQueue(),
		wake:      make(chan struct{}, 1),
		kick:      make(chan struct{}, 1),
		turned:    make(chan struct{}),
		models:    map[string]*tidemark.Schema{},
		scopes:    map[scopeID]*scope{},
		watchers:  map[string]map[*watcher]struct{}{},
		syncs:     map[*syncing]struct{}{},
		puts:      map[string]int64{},
		round:     1,
	}
	c.log = c.opts.Logger
	c.clock.Store(tidemark.NewClock(c.wall))
	if err := store.View(ctx, c.recall); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.line.init(c.opts.Now())
	if dialer != nil && !c.opts.Offline {
		c.GoOnline()
	}
	c.done.Go(func() { c.callbacks.run(c.ctx) })
	if dialer != nil {
		c.done.Go(c.connect)
	}
	return c, nil
}

// The keys of the client's entries in the store.
const (
	keyClock        = "clock"
	keyPass         = "pass"
	keyLoss         = "loss"
	keyEpoch        = "epoch"
	keyDisconnected = "disconnected"
	keyScopes       = "scope/"
	keyRejections   = "rejection/"
)

// recall reads from the store what the client keeps in memory: counters, the
// clock, the last date of disconnection. Scopes wait for their model's schema.
func (c *Client) recall(tx tidemark.StoreTx) error {
	queued, highest, err := tx.Queued()
	if err != nil {
		return err
	}
	c.pending.Store(int64(queued))
	c.highest.Store(highest)
	c.given.Store(highest)
	rejections, err := tx.Entries(keyRejections)
	if err != nil {
		return err
	}
	c.rejected.Store(int64(len(rejections)))
	stamp, err := loadStamp(tx, keyClock)
	if err != nil {
		return err
	}
	c.now().Observe(stamp, 0)
	pass, err := loadNumber(tx, keyPass)
	if err != nil {
		return err
	}
	c.pass.Store(pass)
	loss, err := loadNumber(tx, keyLoss)
	if err != nil {
		return err
	}
	c.loss.Store(loss)
	at, err := loadStamp(tx, keyDisconnected)
	c.line.disconnected = at.Time()
	return err
}

// loadStamp reads an entry that holds a stamp; an unreadable one counts as none.
func loadStamp(tx tidemark.StoreTx, key string) (tidemark.Stamp, error) {
	raw, err := tx.Load(key)
	if err != nil || raw == nil {
		return 0, err
	}
	var s tidemark.Stamp
	if s.UnmarshalJSON(raw) != nil {
		return 0, nil
	}
	return s, nil
}

// loadNumber reads an entry that holds a number; an unreadable one counts as none.
func loadNumber(tx tidemark.StoreTx, key string) (int64, error) {
	raw, err := tx.Load(key)
	if err != nil || raw == nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return 0, nil
	}
	return max(n, 0), nil
}

// disturb notes that records of a model are being stored; see blank.
func (c *Client) disturb(model string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts[model]++
}

// Close ends the connection and all live queries, and waits for the client's
// goroutines. The store stays open, and what is pending stays in it. Close is
// idempotent; it must not be called from a callback.
func (c *Client) Close() error {
	c.cancel()
	c.done.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed()
	return nil
}

// closed returns ErrClosed after Close.
func (c *Client) closed() error {
	if c.ctx.Err() != nil {
		return tidemark.ErrClosed
	}
	return nil
}

// poke tells the connection loop that there is something to do.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// schema returns the schema of a declared model, nil for another.
func (c *Client) schema(model string) *tidemark.Schema {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.models[model]
}

// declare makes a model known to the store and the engine, and brings back the
// scopes that the store remembers of it.
func (c *Client) declare(ctx context.Context, s *tidemark.Schema) error {
	if err := c.closed(); err != nil {
		return err
	}
	if err := c.store.Declare(ctx, s); err != nil {
		return err
	}
	c.mu.Lock()
	c.models[s.Name()] = s
	c.mu.Unlock()
	defer c.poke()
	return c.recallScopes(ctx, s)
}
