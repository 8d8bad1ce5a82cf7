package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// emit sends an event that wants no answer.
func (c *client) emit(event string, args ...any) {
	c.t.Helper()
	m, err := tidemark.NewEvent(event, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Send(m); err != nil {
		c.t.Fatal(err)
	}
}

// transferred returns the answers to requests for a transfer so far: "ack" or "error".
func (c *client) transferred() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.got {
		if how, ok := strings.CutPrefix(m.Event, tidemark.EventTransfer+"-"); ok {
			out = append(out, how)
		}
	}
	return out
}

// holds returns the channels of c's session but the one of its own name, and what it keeps as "user".
func (b *bench) holds(c *client) string {
	s, ok := b.server.Session(c.id)
	if !ok {
		return "nothing"
	}
	var names []string
	for _, name := range s.Channels() {
		if name != c.id {
			names = append(names, name)
		}
	}
	return fmt.Sprint(names, " ", s.Get("user"))
}

// loaded returns a client in the channels "room" and "all" as alice, with a token unless it is "".
func (b *bench) loaded(token string) *client {
	c := b.dial()
	s, _ := b.server.Session(c.id)
	s.Join("room")
	s.Set("user", "alice")
	if token != "" {
		c.emit(tidemark.EventTransferToken, token)
	}
	synctest.Wait()
	return c
}

const secret = "2b9c1cf0-1c5a-4f6e-9c3e-0a1b2c3d4e5f"

func transferring(t *testing.T, opts server.Transfer, test func(t *testing.T, b *bench)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opts.On = true
		test(t, setup(t, &server.Options{Transfer: opts}).shared())
	})
}

func TestPageThatIsLoadedAnew(t *testing.T) {
	transferring(t, server.Transfer{}, func(t *testing.T, b *bench) {
		old := b.loaded(secret)
		old.conn.Close(tidemark.ClosedByClient)
		synctest.Wait()
		c := b.dial()
		equal(t, b.holds(c), "[all] <nil>")
		c.emit(tidemark.EventTransfer, old.id, "somebody else", secret) // not about c
		c.emit(tidemark.EventTransfer, old.id, c.id, secret)
		synctest.Wait()
		equal(t, b.holds(c), "[all room] alice")
		c.emit(tidemark.EventTransfer, old.id, c.id, secret) // once only
		synctest.Wait()
		equalList(t, c.transferred(), []string{"ack", "error"})
		m := c.event(1)
		equal(t, string(m.Args[0])+string(m.Args[1]), `"`+old.id+`""`+c.id+`"`)
		b.notify("room", 1)
		synctest.Wait()
		equalList(t, c.heard(), []string{"connected", "n1"})
		// The successor's own successor.
		c.emit(tidemark.EventTransferToken, "another")
		synctest.Wait()
		b.breakOff()
		d := b.dial()
		d.emit(tidemark.EventTransfer, c.id, d.id, "another")
		synctest.Wait()
		equal(t, b.holds(d), "[all room] alice")
		if e := b.dialWith(c.hello()); e.id == c.id {
			t.Error("a session that was taken over was resumed too")
		}
	})
}

// To know the name of a session is not enough to take over what it had.
func TestTransferNeedsTheToken(t *testing.T) {
	transferring(t, server.Transfer{}, func(t *testing.T, b *bench) {
		silent, old := b.loaded(""), b.loaded(secret)
		named := b.loaded("")
		named.emit(tidemark.EventTransferToken, named.id) // no secret
		synctest.Wait()
		b.breakOff()
		c := b.dial()
		for _, args := range [][]any{
			{silent.id, c.id}, {silent.id, c.id, ""}, {silent.id, c.id, nil}, {named.id, c.id, named.id},
			{"unknown", c.id, secret}, {c.id, c.id, secret}, {old.id, c.id}, {old.id, c.id, old.id},
		} {
			c.emit(tidemark.EventTransfer, args...)
			synctest.Wait()
		}
		equalList(t, c.transferred(), strings.Fields(strings.Repeat("error ", 8)))
		equal(t, b.holds(c), "[all] <nil>")
		c.emit(tidemark.EventTransfer, old.id, c.id, secret)
		synctest.Wait()
		equal(t, b.holds(c), "[all room] alice")
	})
}

func TestTokensCannotBeTriedForLong(t *testing.T) {
	transferring(t, server.Transfer{}, func(t *testing.T, b *bench) {
		old := b.loaded(secret)
		b.breakOff()
		c := b.dial()
		for _, token := range []string{"a", "b", "c", secret} {
			c.emit(tidemark.EventTransfer, old.id, c.id, token)
			synctest.Wait()
		}
		equalList(t, c.transferred(), []string{"error", "error", "error", "error"})
	})
}

func TestWhichSessionsCanBeTakenOver(t *testing.T) {
	transferring(t, server.Transfer{MaxAge: time.Minute, MaxSessions: 2}, func(t *testing.T, b *bench) {
		ask := func(old *client) string {
			synctest.Wait()
			c := b.dial()
			c.emit(tidemark.EventTransfer, old.id, c.id, secret)
			synctest.Wait()
			return c.transferred()[0]
		}
		old := b.loaded(secret)
		equal(t, ask(old), "error") // it lives
		s, _ := b.server.Session(old.id)
		s.Close()
		equal(t, ask(old), "error") // it was sent off
		old = b.loaded(secret)
		b.breakOff()
		<-time.After(time.Minute)
		equal(t, ask(old), "error") // too long ago
		first, second, third := b.loaded(secret), b.loaded(secret), b.loaded(secret)
		for _, c := range []*client{first, second, third} {
			c.conn.Close(tidemark.ClosedTransport)
			synctest.Wait()
		}
		equal(t, ask(first), "error") // too many came after
		equal(t, ask(second), "ack")
		equal(t, ask(third), "ack")
	})
}

// A page asks while its former session's listeners still run, and before its own have.
func TestTransferWaitsForListeners(t *testing.T) {
	transferring(t, server.Transfer{}, func(t *testing.T, b *bench) {
		b.server.OnDisconnecting(func(*server.Session, tidemark.CloseReason) { <-time.After(time.Second) })
		old := b.loaded(secret)
		b.server.OnConnect(func(_ context.Context, s *server.Session) error {
			<-time.After(2 * time.Second)
			s.Set("user", "nobody")
			return nil
		})
		b.pipe.Cut()
		c := b.dialWith(tidemark.Hello{})
		c.emit(tidemark.EventTransfer, old.id, c.id, secret)
		<-time.After(3 * time.Second)
		equalList(t, c.transferred(), []string{"ack"})
		equal(t, b.holds(c), "[all room] alice")
	})
}

func TestAuthorizeTransfer(t *testing.T) {
	authorize := func(_ context.Context, from *server.Former, to *server.Session) error {
		switch to.Get("as") {
		case "eve":
			return errors.New("not yours")
		case "crash":
			panic("in a hook")
		}
		if from.ID == to.ID() || fmt.Sprint(from.Channels) != "[all room]" {
			t.Errorf("from %+v", from)
		}
		from.Channels = nil
		from.Data["user"] = "bob"
		return nil
	}
	transferring(t, server.Transfer{Authorize: authorize}, func(t *testing.T, b *bench) {
		for as, want := range map[string]string{"eve": "error [all] <nil>", "crash": "error [all] <nil>", "alice": "ack [all] bob"} {
			old := b.loaded(secret)
			b.breakOff()
			c := b.dial()
			s, _ := b.server.Session(c.id)
			s.Set("as", as)
			c.emit(tidemark.EventTransfer, old.id, c.id, secret)
			synctest.Wait()
			equal(t, c.transferred()[0]+" "+b.holds(c), want)
		}
	})
}

// The guide's first plugin has no tokens; who has one is protected by it all the same.
func TestTransferWithoutTokens(t *testing.T) {
	transferring(t, server.Transfer{InsecureWithoutToken: true}, func(t *testing.T, b *bench) {
		old, protected := b.loaded(""), b.loaded(secret)
		b.breakOff()
		c := b.dial()
		c.emit(tidemark.EventTransfer, protected.id, c.id)
		c.emit(tidemark.EventTransfer, old.id, c.id)
		synctest.Wait()
		equalList(t, sorted(c.transferred()), []string{"ack", "error"})
		equal(t, b.holds(c), "[all room] alice")
	})
}

// Names and tokens beyond any that there are do not wait in memory until the session is open.
func TestTransferIsRefusedForItsLength(t *testing.T) {
	transferring(t, server.Transfer{}, func(t *testing.T, b *bench) {
		gate := make(chan struct{})
		b.server.OnConnect(func(ctx context.Context, _ *server.Session) error {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return nil
		})
		c := b.dialWith(tidemark.Hello{})
		long := strings.Repeat("x", 10_000)
		c.emit(tidemark.EventTransfer, long, c.id, secret)
		c.emit(tidemark.EventTransfer, "gone", c.id, long)
		c.emit(tidemark.EventTransfer, "gone", c.id, secret)
		synctest.Wait()
		equalList(t, c.transferred(), []string{"error", "error"})
		close(gate)
		synctest.Wait()
		equalList(t, c.transferred(), []string{"error", "error", "error"})
	})
}
