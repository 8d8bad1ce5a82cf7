package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
)

func TestBackoffGrowsIsSpreadAndStartsAgainAfterSuccess(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		var mu sync.Mutex // protects dials
		var dials []time.Time
		dialer := dialerFunc(func(ctx context.Context, h tidemark.Hello, r tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
			mu.Lock()
			defer mu.Unlock()
			dials = append(dials, time.Now())
			return b.pipe.Dial(ctx, h, r)
		})
		waits := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			var out []time.Duration
			for i := 1; i < len(dials); i++ {
				out = append(out, dials[i].Sub(dials[i-1]))
			}
			dials = nil
			return out
		}
		b.pipe.Block()
		c, err := client.Open(t.Context(), b.store, dialer, &client.Options{
			MinBackoff: time.Second, MaxBackoff: 10 * time.Second, Rand: func() float64 { return 0.5 }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		pass(time.Minute)
		want := []time.Duration{750 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 6 * time.Second, 7500 * time.Millisecond}
		if got := waits(); len(got) < 6 || !slices.Equal(got[:5], want) || got[5] != want[4] {
			t.Errorf("waited %v, want %v and no longer", got, want)
		}
		b.pipe.Unblock()
		pass(10 * time.Second)
		if got := c.Status().State; got != client.Synced {
			t.Fatalf("the client is %v", got)
		}
		b.pipe.Block()
		mu.Lock()
		dials = []time.Time{time.Now()}
		mu.Unlock()
		b.pipe.Cut()
		pass(time.Second)
		if got := waits(); len(got) == 0 || got[0] != want[0] {
			t.Errorf("after a success the first waits are %v", got)
		}
	})
}

type dialerFunc func(context.Context, tidemark.Hello, tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error)

func (f dialerFunc) Dial(ctx context.Context, h tidemark.Hello, r tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	return f(ctx, h, r)
}

func TestServerThatAcceptsAndHangsUpIsNotHammered(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Rand = func() float64 { return 0 }
		b.script.on(tidemark.MethodSyncGo, func(c *call) { c.conn.Close(tidemark.ClosedTooLarge) })
		b.open()
		b.register(nil)
		pass(10 * time.Minute)
		if n := len(b.script.requests()); n > 40 {
			t.Errorf("%d connections in 10 minutes", n)
		}
		if b.client.Status().LastError == nil {
			t.Error("the status shows no error")
		}
	})
}

func TestConnectionReturnsAfterEveryCut(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.register(nil)
		for range 20 {
			b.pipe.Cut()
			pass(time.Second)
			b.state(client.Synced)
		}
		if n := len(b.script.requests()); n != 21 {
			t.Errorf("%d syncs, want one a connection", n)
		}
	})
}

func TestOfflineAndOnlineAreTheUsersSwitch(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		b.client.GoOffline()
		b.state(client.Offline)
		b.create("u", "mine")
		pass(time.Hour)
		b.pending(1)
		b.client.GoOffline()
		b.client.GoOnline()
		b.client.GoOnline()
		b.state(client.Synced)
		b.pending(0)
		b.client.GoOffline()
		b.client.GoOnline()
		b.client.GoOffline()
		b.state(client.Offline)
	})
}

func TestNothingIsSentAfterGoOffline(t *testing.T) {
	for range 50 { // the session may be anywhere
		t.Run("", func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.open()
				b.client.GoOffline()
				b.create("u", "mine")
				_, err := b.client.Call(t.Context(), "greet", "hello")
				wantIs(t, err, tidemark.ErrOffline)
				b.sent()
				b.pending(1)
			})
		})
	}
}

func TestGoOnlineCutsTheWaitShort(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.pipe.Block()
		b.open()
		pass(5 * time.Minute)
		b.state(client.Connecting)
		b.pipe.Unblock()
		b.client.GoOnline()
		b.state(client.Synced)
	})
}

func TestGoOfflineEndsAnAttemptUnderWay(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		dialing := make(chan struct{})
		c, err := client.Open(t.Context(), b.store, dialerFunc(func(ctx context.Context, _ tidemark.Hello, _ tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
			close(dialing)
			<-ctx.Done()
			return nil, tidemark.Welcome{}, ctx.Err()
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		<-dialing
		c.GoOffline()
		began := time.Now()
		if err := c.Close(); err != nil || time.Since(began) > 0 {
			t.Errorf("Close took %v: %v", time.Since(began), err)
		}
	})
}

func TestAttemptToConnectTimesOut(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		attempts := 0
		c, err := client.Open(t.Context(), b.store, dialerFunc(func(ctx context.Context, _ tidemark.Hello, _ tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
			attempts++
			<-ctx.Done()
			return nil, tidemark.Welcome{}, ctx.Err()
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		pass(time.Minute)
		if attempts < 2 {
			t.Errorf("%d attempts in a minute", attempts)
		}
		wantIs(t, c.Status().LastError, context.DeadlineExceeded)
	})
}

func TestAuthIsAskedForEachAttemptAndRefusalIsShown(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		n := 0
		b.opts.Auth = func(context.Context) (json.RawMessage, error) {
			n++
			if n == 1 {
				return nil, errors.New("no token yet")
			}
			return json.Marshal(map[string]int{"token": n})
		}
		b.script.refusal = tidemark.NewError(tidemark.CodeUnauthenticated, "who are you?")
		b.open()
		if b.client.Status().LastError == nil {
			t.Error("the first failure is not shown")
		}
		b.create("u", "mine")
		pass(2 * time.Second)
		wantCode(t, b.client.Status().LastError, tidemark.CodeUnauthenticated)
		b.script.mu.Lock()
		b.script.refusal = nil
		b.script.mu.Unlock()
		pass(time.Minute)
		b.state(client.Synced)
		b.pending(0)
		if got := string(b.script.hellos[0].Auth); got != `{"token":2}` {
			t.Errorf("the first hello had %s", got)
		}
	})
}

func TestExpiredIdentityConnectsAnew(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		asked := 0
		b.opts.Auth = func(context.Context) (json.RawMessage, error) { asked++; return json.RawMessage(`{}`), nil }
		b.open()
		b.register(nil)
		b.script.on(tidemark.MethodCreate, func(c *call) {
			if asked == 1 {
				c.fail(tidemark.CodeExpired)
				return
			}
			c.accept()
		})
		b.create("u", "mine")
		pass(time.Second)
		b.pending(0)
		b.script.on(tidemark.MethodSyncGo, func(c *call) {
			if asked == 2 {
				c.fail(tidemark.CodeUnauthenticated)
				return
			}
			c.synced(tidemark.SyncResult{})
		})
		if err := b.client.Sync(t.Context()); err != nil || asked != 3 {
			t.Errorf("asked for a payload %d times, %v", asked, err)
		}
		b.rejections()
	})
}

func TestStatusTellsTheWholeStory(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodSyncGo, nil)
		b.opts.Offline = true
		b.open()
		b.register(tidemark.Where{"label": "x"})
		b.register(tidemark.Where{"label": "y"})
		var states []client.Status
		ctx, cancel := context.WithCancel(t.Context())
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			for s := range b.client.WatchStatus(ctx) {
				states = append(states, s)
			}
		}()
		synctest.Wait()
		b.client.GoOnline()
		synctest.Wait()
		b.script.next().synced(tidemark.SyncResult{})
		synctest.Wait()
		pass(time.Minute / 6)
		b.script.next().synced(tidemark.SyncResult{})
		synctest.Wait()
		b.client.GoOffline()
		synctest.Wait()
		cancel()
		<-finished
		type short struct {
			state  client.State
			synced int
		}
		var got []short
		for _, s := range states {
			if k := (short{s.State, s.Synced}); len(got) == 0 || got[len(got)-1] != k {
				got = append(got, k)
			}
		}
		want := []short{{client.Offline, 0}, {client.Syncing, 0}, {client.Syncing, 1}, {client.Synced, 2}, {client.Offline, 0}}
		got = slices.DeleteFunc(got, func(s short) bool { return s.state == client.Connecting || s == short{client.Offline, 2} })
		if !slices.Equal(got, want) {
			t.Errorf("the states were %v, want %v", got, want)
		}
		if at := b.client.Status().DisconnectedAt; !at.Equal(time.Now()) {
			t.Errorf("disconnected at %v", at)
		}
	})
}

func TestDateOfDisconnectionSurvivesARestart(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		if at := b.client.Status().DisconnectedAt; !at.IsZero() {
			t.Errorf("disconnected at %v before there was a connection", at)
		}
		b.client.GoOffline()
		synctest.Wait()
		then := time.Now()
		pass(time.Hour)
		b.opts.Offline = true
		b.crash()
		if at := b.client.Status().DisconnectedAt; !at.Equal(then) {
			t.Errorf("disconnected at %v, want %v", at, then)
		}
	})
}

func TestConnectAndDisconnectAreSignalled(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.opts.Offline = true
		b.open()
		var log []string
		b.client.OnConnect(func() { log = append(log, "on") })
		b.client.OnDisconnect(func(err error) {
			if err != nil {
				log = append(log, "lost")
				return
			}
			log = append(log, "off")
		})
		b.client.GoOnline()
		synctest.Wait()
		b.pipe.Cut()
		pass(time.Second)
		b.client.GoOffline()
		synctest.Wait()
		b.client.Close()
		if want := []string{"on", "lost", "on", "off"}; !slices.Equal(log, want) {
			t.Errorf("the callbacks were %q, want %q", log, want)
		}
	})
}

func TestClosedClientSaysSo(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.open()
		ctx := t.Context()
		scope := b.register(nil)
		ended := make(chan error, 1)
		go func() {
			var last error
			for _, err := range b.items.Watch(ctx, nil, nil) {
				last = err
			}
			ended <- last
		}()
		synctest.Wait()
		for range 2 {
			if err := b.client.Close(); err != nil {
				t.Fatal(err)
			}
		}
		wantIs(t, <-ended, tidemark.ErrClosed)
		_, err := b.items.Create(ctx, Item{})
		wantIs(t, err, tidemark.ErrClosed)
		_, err = b.items.Update(ctx, "u", nil)
		wantIs(t, err, tidemark.ErrClosed)
		wantIs(t, b.items.Remove(ctx, "u"), tidemark.ErrClosed)
		_, err = b.items.FindByUID(ctx, "u")
		wantIs(t, err, tidemark.ErrClosed)
		_, err = b.items.FindWhere(ctx, nil)
		wantIs(t, err, tidemark.ErrClosed)
		_, err = b.items.Register(ctx, nil)
		wantIs(t, err, tidemark.ErrClosed)
		wantIs(t, b.items.Reset(ctx, nil), tidemark.ErrClosed)
		_, err = b.client.Rejections(ctx)
		wantIs(t, err, tidemark.ErrClosed)
		wantIs(t, b.client.Sync(ctx), tidemark.ErrClosed)
		wantIs(t, scope.Synced(ctx), tidemark.ErrClosed)
		_, err = b.client.Call(ctx, "a", "b")
		wantIs(t, err, tidemark.ErrClosed)
		if _, err := client.NewModel[Part](ctx, b.client, "part", nil); !errors.Is(err, tidemark.ErrClosed) {
			t.Errorf("NewModel: %v", err)
		}
		b.client.GoOnline()
		scope.Release()
		if s := b.client.Status(); s.State != client.Offline {
			t.Errorf("the closed client is %v", s.State)
		}
	})
}

func TestClientWithoutDialerWorksLocally(t *testing.T) {
	t.Parallel()
	c, err := client.Open(t.Context(), memory.New(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	items, err := client.NewModel[Item](t.Context(), c, "item", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := items.Create(t.Context(), Item{Label: "x"}); err != nil {
		t.Fatal(err)
	}
	c.GoOnline()
	if s := c.Status(); s.State != client.Offline || s.Pending != 1 {
		t.Errorf("the status is %+v", s)
	}
}

func TestStoreThatFailsEndsTheConnectionAndNothingIsLost(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		full := &fullDisk{Store: b.store}
		c, err := client.Open(t.Context(), full, b.pipe, b.opts)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b.client = c
		if b.items, err = client.NewModel[Item](t.Context(), c, "item", nil); err != nil {
			t.Fatal(err)
		}
		b.script.on(tidemark.MethodCreate, nil)
		b.register(nil)
		b.create("u", "mine")
		verdict := b.script.next()
		full.set(errors.New("disk full"))
		verdict.accept()
		pass(time.Second)
		if err := c.Status().LastError; err == nil || err.Error() != "disk full" {
			t.Errorf("the last error is %v", err)
		}
		if _, err := b.items.Create(t.Context(), Item{}); err == nil {
			t.Error("a write was accepted that is not durable")
		}
		full.set(nil)
		b.script.on(tidemark.MethodCreate, (*call).accept)
		pass(time.Minute)
		b.sees("mine")
		b.pending(0)
		b.state(client.Synced)
	})
}

// fullDisk is a store whose updates can be made to fail.
type fullDisk struct {
	*memory.Store
	mu  sync.Mutex // protects err
	err error
}

func (f *fullDisk) set(err error) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fullDisk) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fullDisk) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	return f.Store.Update(ctx, func(tx tidemark.StoreTx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return f.failure()
	})
}
