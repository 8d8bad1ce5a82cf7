package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// offset returns what a client remembers: the last argument of the last event.
func (c *client) offset() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.got) - 1; i >= 0; i-- {
		if m := c.got[i]; m.Kind == tidemark.EventMessage {
			s, err := tidemark.DecodeString(m.Args[len(m.Args)-1])
			if err != nil {
				c.t.Fatalf("%s has no offset: %s", m.Event, m.Args)
			}
			return s
		}
	}
	return ""
}

// hello is what c says to resume its session.
func (c *client) hello() tidemark.Hello {
	return tidemark.Hello{Session: c.pid, Offset: c.offset()}
}

// heard returns the application's events so far, and "connected", without their offsets.
func (c *client) heard() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.got {
		switch m.Event {
		case tidemark.EventConnected:
			out = append(out, "connected")
		case tidemark.EventApplication:
			var e tidemark.ApplicationEvent
			if err := json.Unmarshal(m.Args[0], &e); err != nil || len(m.Args) > 2 {
				c.t.Errorf("event %s: %v", m.Args, err)
			}
			out = append(out, e.Type+string(e.Value))
		}
	}
	return out
}

func (b *bench) notify(channel string, n int) {
	b.t.Helper()
	if err := b.server.Notify(channel, "n", n); err != nil {
		b.t.Error(err)
	}
}

// breakOff cuts all lines, in a bubble, and waits until the server has noticed.
func (b *bench) breakOff() {
	b.pipe.Cut()
	synctest.Wait()
}

func TestBrokenSessionGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		var tr trace
		b.server.OnConnect(func(_ context.Context, s *server.Session) error {
			tr.add(fmt.Sprintf("connect %t %v", s.Recovered(), s.Get("user")))
			if !s.Recovered() {
				s.Join("all")
				s.Set("user", "alice")
			}
			return nil
		})
		b.server.OnDisconnect(func(_ *server.Session, r tidemark.CloseReason) { tr.add("disconnect " + string(r)) })
		c := b.dial()
		b.notify("all", 1)
		b.notify(c.id, 2)
		synctest.Wait()
		b.breakOff()
		b.notify("all", 3)
		b.notify("nobody", 4)
		b.notify(c.id, 5)
		d := b.dialWith(c.hello())
		b.notify("all", 6)
		synctest.Wait()
		if d.id != c.id || d.pid != c.pid {
			t.Errorf("resumed as %s %s, was %s %s", d.id, d.pid, c.id, c.pid)
		}
		equalList(t, c.heard(), []string{"connected", "n1", "n2"})
		if got := strings.Join(d.heard(), " "); got != "n3 n5 connected n6" && got != "n3 n5 n6 connected" {
			t.Errorf("after the break: %s", got)
		}
		equalList(t, tr.take(), []string{"connect false <nil>", "disconnect transport close", "connect true alice"})
		s, _ := b.server.Session(d.id)
		equalList(t, s.Channels(), sorted([]string{"all", c.id}))
		equal(t, d.result("post", "findMany", map[string]any{}), "[]")
		if n := len(d.got[len(d.got)-1].Args); n != 1 {
			t.Errorf("an answer has %d arguments", n)
		}
	})
}

// Whatever the moment of a break, each event comes once, and those of one writer in order.
func TestNothingIsMissedOrDoubledAroundBreaks(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const rounds, burst, writers = 300, 30, 4
	var wg sync.WaitGroup
	round := make(chan struct{})
	for w := range writers {
		wg.Go(func() {
			for n := 0; n < rounds*burst; n++ {
				if n%burst == 0 {
					<-round
				}
				_ = b.server.Notify("all", fmt.Sprint("w", w, "n"), n)
			}
		})
	}
	var seen []string
	c := b.dial()
	for range rounds {
		for range writers {
			round <- struct{}{}
		}
		want := random.IntN(burst)
		c.until("events", func() bool { return len(c.got) > want })
		b.pipe.Cut()
		c.waitClosed()
		seen = append(seen, c.heard()...)
		d := b.dialWith(c.hello())
		if d.id != c.id {
			t.Fatal("not resumed")
		}
		c = d
	}
	wg.Wait()
	b.notify("all", 1)
	c.until("the last event", func() bool {
		return slices.ContainsFunc(c.got, func(m *tidemark.Message) bool { return string(m.Args[0]) == `{"type":"n","value":1}` })
	})
	seen = append(seen, c.heard()...)
	next := make([]int, writers)
	for _, e := range seen {
		var w, n int
		if _, err := fmt.Sscanf(e, "w%dn%d", &w, &n); err != nil {
			continue
		}
		if n != next[w] {
			t.Fatalf("got %s, want number %d", e, next[w])
		}
		next[w]++
	}
	for w, n := range next {
		if n != rounds*burst {
			t.Errorf("%d events of writer %d, want %d", n, w, rounds*burst)
		}
	}
}

// What is not known, or not young enough, gets an ordinary new session.
func TestOrdinaryNewSessions(t *testing.T) {
	t.Parallel()
	other := setup(t, nil).dial()
	foreign := other.hello()
	for name, hello := range map[string]func(b *bench, c *client) tidemark.Hello{
		"unknown session":  func(b *bench, c *client) tidemark.Hello { b.breakOff(); h := c.hello(); h.Session = "x"; return h },
		"public name":      func(b *bench, c *client) tidemark.Hello { b.breakOff(); h := c.hello(); h.Session = c.id; return h },
		"another server's": func(b *bench, c *client) tidemark.Hello { b.breakOff(); return foreign },
		"no offset":        func(b *bench, c *client) tidemark.Hello { b.breakOff(); return tidemark.Hello{Session: c.pid} },
		"a guessed offset": func(b *bench, c *client) tidemark.Hello {
			b.breakOff()
			return tidemark.Hello{Session: c.pid, Offset: "AAAAAAAAAAAAAAAAAAAAAA"}
		},
		"no base64": func(b *bench, c *client) tidemark.Hello {
			b.breakOff()
			return tidemark.Hello{Session: c.pid, Offset: "!!!!!!!!!!!!!!!!!!!!!!"}
		},
		"a foreign offset": func(b *bench, c *client) tidemark.Hello {
			b.breakOff()
			return tidemark.Hello{Session: c.pid, Offset: foreign.Offset}
		},
		"after a goodbye": func(b *bench, c *client) tidemark.Hello {
			h := c.hello()
			c.conn.Close(tidemark.ClosedByClient)
			synctest.Wait()
			return h
		},
		"after being sent off": func(b *bench, c *client) tidemark.Hello {
			s, _ := b.server.Session(c.id)
			s.Close()
			synctest.Wait()
			return c.hello()
		},
		"too late": func(b *bench, c *client) tidemark.Hello {
			b.breakOff()
			<-time.After(2 * time.Minute)
			return c.hello()
		},
		"a second time": func(b *bench, c *client) tidemark.Hello {
			b.breakOff()
			h := c.hello()
			d := b.dialWith(h)
			synctest.Wait()
			d.conn.Close(tidemark.ClosedByClient)
			synctest.Wait()
			return h
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, nil).shared()
				c := b.dial()
				h := hello(b, c)
				b.notify("all", 1)
				d := b.dialWith(h)
				synctest.Wait()
				if d.id == c.id || d.pid == c.pid || d.pid == "" {
					t.Errorf("resumed as %s %s", d.id, d.pid)
				}
				equalList(t, d.heard(), []string{"connected"})
			})
		})
	}
}

// A client that is back before its old line was found broken ends that, and misses nothing.
func TestComingBackBeforeTheBreakIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil).shared()
		var tr trace
		b.server.OnDisconnect(func(_ *server.Session, r tidemark.CloseReason) {
			<-time.After(time.Second) // the successor waits
			tr.add("disconnect " + string(r))
		})
		b.server.OnConnect(func(_ context.Context, s *server.Session) error {
			tr.add(fmt.Sprint("connect ", s.Recovered()))
			return nil
		})
		c := b.dial()
		h := c.hello()
		b.notify("all", 1) // the old line takes it, and the client never sees it
		d := b.dialWith(h)
		synctest.Wait()
		equal(t, d.id, c.id)
		equalList(t, d.heard(), []string{"n1", "connected"})
		equalList(t, tr.take(), []string{"connect false", "disconnect transport close", "connect true"})
		equal(t, string(c.waitClosed()), string(tidemark.ClosedTransport))
		b.notify("all", 2)
		synctest.Wait()
		equalList(t, d.heard(), []string{"n1", "connected", "n2"})
	})
}

func TestRecoveryThatIsOff(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{Recovery: server.Recovery{Off: true}}).shared()
	c := b.dial()
	b.notify("all", 1)
	c.event(1)
	if c.pid != "" || len(c.event(0).Args) != 1 || len(c.event(1).Args) != 1 {
		t.Errorf("pid %q, arguments %s %s", c.pid, c.event(0).Args, c.event(1).Args)
	}
	b.pipe.Cut()
	c.waitClosed()
	poll(t, "the session's end", func() bool { return b.server.Channels() == 0 })
	if events, marks, broken, unloaded := b.server.Remains(); events+marks+broken+unloaded > 0 {
		t.Errorf("kept: %d events, %d marks, %d and %d sessions", events, marks, broken, unloaded)
	}
}

// What is kept is bounded, and goes with time.
func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, &server.Options{Recovery: server.Recovery{MaxBytes: 100_000, MaxSessions: 3}}).shared()
		for range 10 {
			b.dial()
		}
		for n := range 1000 {
			b.notify("all", n)
			b.notify(fmt.Sprint("channel ", n), n) // nobody is there
		}
		synctest.Wait()
		b.breakOff()
		events, _, broken, _ := b.server.Remains()
		if broken != 3 || events < 20 || events > 250 {
			t.Errorf("%d sessions and %d events are kept", broken, events)
		}
		big := strings.Repeat("x", 200_000)
		if err := b.server.Notify("all", "big", big); err != nil {
			t.Fatal(err)
		}
		if events, _, _, _ := b.server.Remains(); events != 0 {
			t.Errorf("%d events are kept after one that fills all", events)
		}
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if events, marks, broken, unloaded := b.server.Remains(); events+marks+broken+unloaded > 0 {
			t.Errorf("kept: %d events, %d marks, %d and %d sessions", events, marks, broken, unloaded)
		}
	})
}

// A client that missed more than is kept gets a new session; one whose own channels
// were quiet does not suffer from the others' noise.
func TestNoiseElsewhereDoesNotMatter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, &server.Options{Recovery: server.Recovery{MaxBytes: 50_000}})
		b.server.OnConnect(func(_ context.Context, s *server.Session) error { s.Join(string(s.Hello().Auth)); return nil })
		quiet := b.dialWith(tidemark.Hello{Auth: json.RawMessage(`"quiet"`)})
		loud := b.dialWith(tidemark.Hello{Auth: json.RawMessage(`"loud"`)})
		b.notify(`"quiet"`, 1)
		synctest.Wait()
		noise := func() {
			for n := range 1000 {
				b.notify(`"loud"`, n)
			}
		}
		noise()
		synctest.Wait()
		<-time.After(time.Hour) // and long ago is no harm either
		h1, h2 := quiet.hello(), loud.hello()
		b.breakOff()
		noise()
		b.notify(`"quiet"`, 2)
		q, l := b.dialWith(h1), b.dialWith(h2)
		synctest.Wait()
		equal(t, q.id, quiet.id)
		equalList(t, q.heard(), []string{"n2", "connected"})
		if l.id == loud.id {
			t.Error("a session was resumed that missed more than was kept")
		}
	})
}

// Events from before a session joined their channel are not its own.
func TestReplayHeedsWhenAChannelWasJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		other := b.dial()
		o, _ := b.server.Session(other.id)
		o.Join("room")
		c := b.dial()
		h := c.hello()
		b.notify("room", 1)
		s, _ := b.server.Session(c.id)
		s.Join("room")
		b.notify("room", 2)
		s.Leave(s.ID())
		if err := s.Emit("mine", 3); err != nil { // also to one who left the channel of its name
			t.Error(err)
		}
		synctest.Wait()
		b.breakOff()
		d := b.dialWith(h)
		synctest.Wait()
		equalList(t, d.heard(), []string{"n2", "connected"})
		equal(t, d.event(1).Event, "mine")
	})
}

// A session that a listener refused is not kept; one that broke again before the
// listeners ran is.
func TestWhichSessionsAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil)
		gate := make(chan struct{})
		var refuse atomic.Bool
		b.server.OnConnect(func(ctx context.Context, s *server.Session) error {
			if refuse.Load() {
				return errors.New("internal") // not its own fault: it may come again, anew
			}
			return nil
		})
		b.server.OnConnect(func(ctx context.Context, s *server.Session) error {
			if s.Recovered() {
				<-gate
			}
			return nil
		})
		c := b.dial()
		h := c.hello()
		b.breakOff()
		d := b.dialWith(h)
		b.breakOff() // while its listeners run
		close(gate)
		synctest.Wait()
		e := b.dialWith(h)
		synctest.Wait()
		equal(t, e.id, c.id)
		equalList(t, e.heard(), []string{"connected"})
		if d.id != c.id {
			t.Error("not resumed")
		}
		h = e.hello()
		b.breakOff()
		refuse.Store(true)
		b.dialWith(h)
		synctest.Wait()
		refuse.Store(false)
		if f := b.dialWith(h); f.id == c.id {
			t.Error("a refused session was kept")
		}
	})
}

// missing is the offer of a client that has left.
type missing struct {
	line
	hello tidemark.Hello
}

func (m *missing) Hello() tidemark.Hello { return m.hello }
func (m *missing) Accept(tidemark.Welcome, tidemark.Handler) (tidemark.Conn, error) {
	return nil, tidemark.ErrClosed
}

func TestClientThatLeavesBeforeItIsRecognised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil).shared()
		c := b.dial()
		h := c.hello()
		b.breakOff()
		b.notify("all", 1)
		b.server.Offer(t.Context(), &missing{hello: h})
		b.notify("all", 2)
		d := b.dialWith(h)
		synctest.Wait()
		equal(t, d.id, c.id)
		equalList(t, d.heard(), []string{"n1", "n2", "connected"})
	})
}

// What is sent between the decision to accept and the connection's existence is not lost.
func TestEventsWhileAccepting(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{NewID: func() string { return "me" }})
	l := &slowLine{accept: func() { b.notify("me", 1) }}
	b.server.Offer(t.Context(), l)
	poll(t, "the events", func() bool { return len(l.noted()) == 2 })
	equalList(t, l.noted(), []string{`send app-event{"type":"n","value":1}`, `send connected"me"`})
}

type slowLine struct {
	line
	accept func()
}

func (l *slowLine) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	l.handler = h
	l.accept()
	return l, nil
}
