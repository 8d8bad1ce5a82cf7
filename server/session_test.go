package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

func TestChannels(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	a, c := b.dial(), b.dial()
	sa, ok := b.server.Session(a.id)
	if !ok {
		t.Fatal("no session")
	}
	sc, _ := b.server.Session(c.id)
	sa.Join("x")
	sa.Join("y")
	sa.Join("y")
	sc.Join("y")
	if want := []string{"x", "y", a.id}; !slices.Equal(sorted(sa.Channels()), sorted(want)) {
		t.Errorf("channels %q, want %q", sa.Channels(), want)
	}
	b.server.Service("post").Publish(server.To("x", "y", "x", "nobody", c.id))
	c.result("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0))
	a.event(1)
	for _, cl := range []*client{a, c} {
		if n := len(cl.events()); n != 1 {
			t.Errorf("%d events: the union of the channels has each session once", n)
		}
	}
	sa.Leave("x")
	if err := b.server.Notify("x", "ping", 1); err != nil {
		t.Fatal(err)
	}
	if err := b.server.Notify("y", "ping", map[string]any{"n": 1}); err != nil {
		t.Fatal(err)
	}
	equal(t, string(a.event(2).Args[0]), `{"type":"ping","value":{"n":1}}`)
	if err := b.server.Notify(a.id, "mine", nil); err != nil {
		t.Fatal(err)
	}
	equal(t, string(a.event(3).Args[0]), `{"type":"mine","value":null}`)
	if err := b.server.Emit("y", "custom", 1, "two"); err != nil {
		t.Fatal(err)
	}
	if m := c.event(3); m.Event != "custom" || string(m.Args[1]) != `"two"` {
		t.Errorf("got %+v", m)
	}
	if err := b.server.Notify("y", "x", func() {}); err == nil {
		t.Error("a function was sent")
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func TestConnectListenersRunBeforeConnectedAndCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testConnectListeners)
}

func testConnectListeners(t *testing.T) {
	b := setup(t, nil)
	gate := make(chan struct{})
	var tr trace
	b.server.OnConnect(func(_ context.Context, s *server.Session) error {
		tr.add("one")
		s.Set("user", string(s.Hello().Auth))
		return nil
	})
	b.server.OnConnect(func(ctx context.Context, s *server.Session) error {
		<-gate
		tr.add("two")
		answer, err := s.Call(ctx, "who", 1, "x") // a listener may ask its client
		if err != nil || len(answer) != 1 || string(answer[0]) != `"me"` {
			t.Errorf("got %s %v", answer, err)
		}
		return err
	})
	if _, err := b.server.Handle("util", server.Methods{"me": func(_ context.Context, c *server.Call) (any, error) {
		tr.add("call")
		return c.Session.Get("user"), nil
	}}); err != nil {
		t.Fatal(err)
	}
	c := b.dialWith(tidemark.Hello{Auth: json.RawMessage(`{"token":"t"}`)})
	id := c.send("util", "me")
	write := c.send("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0))
	wrong := c.send("nope", "x")
	if a := c.answer(wrong); a.Err == nil {
		t.Error("no error")
	}
	synctest.Wait() // whatever does not wait for the listeners has happened
	close(gate)
	ask := c.event(0)
	if ask.Event != "who" || ask.Kind != tidemark.CallMessage {
		t.Fatalf("got %+v", ask)
	}
	if err := c.conn.Send(ask.NewAnswer(json.RawMessage(`"me"`))); err != nil {
		t.Fatal(err)
	}
	equal(t, string(c.answer(id).Result), `"{\"token\":\"t\"}"`)
	if a := c.answer(write); a.Err != nil {
		t.Error(a.Err)
	}
	equalList(t, tr.take(), []string{"one", "two", "call"})
	if m := c.event(1); m.Event != tidemark.EventConnected || string(m.Args[0]) != `"`+c.id+`"` {
		t.Errorf("got %+v", m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if m.Event == tidemark.EventConnected {
			break
		}
		if m.Kind == tidemark.AnswerMessage && m.ID != wrong {
			t.Error("a call was answered before the session was connected")
		}
	}
}

func TestListenerThatFailsClosesItsSessionOnly(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.OnConnect(func(_ context.Context, s *server.Session) error {
		switch string(s.Hello().Auth) {
		case `"panic"`:
			panic("in a listener")
		case `"error"`:
			return errors.New("no")
		}
		return nil
	})
	b.server.OnDisconnecting(func(*server.Session, tidemark.CloseReason) { panic("in a listener") })
	good := b.dial()
	for _, how := range []string{`"panic"`, `"error"`} {
		c := b.dialWith(tidemark.Hello{Auth: json.RawMessage(how)})
		c.waitClosed()
		c.mu.Lock()
		if n := len(c.got); n != 0 {
			t.Errorf("%s: %d messages", how, n)
		}
		c.mu.Unlock()
		poll(t, "the session's end", func() bool { _, ok := b.server.Session(c.id); return !ok })
	}
	good.result("post", "findMany", map[string]any{})
}

func TestDisconnectListeners(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	done := make(chan string, 4)
	b.server.OnDisconnecting(func(s *server.Session, r tidemark.CloseReason) {
		done <- fmt.Sprint("disconnecting ", len(s.Channels()), " ", r)
	})
	b.server.OnDisconnect(func(s *server.Session, r tidemark.CloseReason) {
		done <- fmt.Sprint("disconnect ", len(s.Channels()), " ", r)
		s.Join("late") // has no effect
		if len(s.Channels()) != 0 {
			t.Error("a session that ended joined a channel")
		}
	})
	c := b.dial()
	c.conn.Close(tidemark.ClosedByClient)
	equal(t, <-done, "disconnecting 2 client namespace disconnect")
	equal(t, <-done, "disconnect 0 client namespace disconnect")
	d := b.dial()
	s, _ := b.server.Session(d.id)
	s.Close()
	equal(t, string(d.waitClosed()), string(tidemark.ClosedByServer))
	equal(t, <-done, "disconnecting 2 server namespace disconnect")
	<-done
	if err := s.Emit("x"); !errors.Is(err, tidemark.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Call(t.Context(), "x"); !errors.Is(err, tidemark.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A write that was taken is made, though its session ends; the context of everything else ends.
func TestWhatRunsWhenASessionEnds(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	inside, ended, gate := make(chan struct{}), make(chan struct{}), make(chan struct{})
	if _, err := b.server.Handle("util", server.Methods{"hang": func(ctx context.Context, _ *server.Call) (any, error) {
		close(inside)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}, "last": func(context.Context, *server.Call) (any, error) { return nil, nil }}); err != nil {
		t.Fatal(err)
	}
	b.server.Service("post").Before(func(ctx context.Context, _ *server.Call) error { <-gate; return ctx.Err() }, "createWithMeta")
	c := b.dial()
	c.send("util", "hang")
	c.send("post", "createWithMeta", "a", map[string]any{"title": "x"}, at(0))
	c.send("post", "updateWithMeta", "a", map[string]any{"title": "y"}, at(1))
	<-inside
	c.result("util", "last") // so all that came before has been taken
	b.pipe.Cut()
	<-ended
	close(gate)
	poll(t, "the writes", func() bool { return titleOf(b.db.Get("post", "a").Row) == `"y"` })
}

func TestClientThatNeverAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c := b.dial()
	s, _ := b.server.Session(c.id)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Call(ctx, "who"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	ask := c.event(1)
	for range 2 { // an answer too late, an answer twice, an answer to nothing
		_ = c.conn.Send(ask.NewAnswer(json.RawMessage(`1`)))
	}
	_ = c.conn.Send(&tidemark.Message{Kind: tidemark.AnswerMessage, ID: 999})
	c.result("post", "findMany", map[string]any{})
}

// A client of the guide's reload plugin is told that its former session is gone; nobody takes over another's.
func TestTransferIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	old, c := b.dial(), b.dial()
	session, _ := b.server.Session(old.id)
	session.Join("secret")
	for _, to := range []string{old.id, "x", c.id} {
		m, _ := tidemark.NewEvent(tidemark.EventTransfer, old.id, to)
		if err := c.conn.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	m := c.event(1)
	equal(t, m.Event+" "+string(m.Args[0])+" "+string(m.Args[1]), `cnx-transfer-error "`+old.id+`" "`+c.id+`"`)
	mine, _ := b.server.Session(c.id)
	equalList(t, mine.Channels(), sorted([]string{"all", c.id}))
}

// Fault 14 of the original, and the like: whatever comes, the session goes on.
func TestMalformedMessagesLeaveTheSessionWorking(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	c := b.dial()
	for _, envelope := range []string{
		`null`, `1`, `"x"`, `[]`, `{}`, `{"name":"post"}`, `{"name":1,"action":"x","args":[]}`, `{"name":"post","action":null,"args":[]}`,
		`{"name":"post","action":"findMany","args":{}}`, `{"name":"post","action":"findMany","args":null}`, `{"name":"post","action":"findMany"}`,
		`{"NAME":"post","action":"findMany","args":[]}`, `{`, ``, `{"name":"post","action":"findMany","args":[{]}`, `{"name":"\ud800","action":"x","args":[]}`,
		`{"name":"post","action":"findMany","args":[` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `]}`,
	} {
		m := &tidemark.Message{Kind: tidemark.CallMessage, ID: 1000, Event: tidemark.EventRequest, Args: []json.RawMessage{json.RawMessage(envelope)}}
		c.mu.Lock()
		c.got = nil
		c.mu.Unlock()
		if err := c.conn.Send(m); err != nil {
			t.Fatal(err)
		}
		if a := c.answer(1000); a.Err == nil || a.Err.Code != tidemark.CodeInvalidRequest {
			t.Errorf("%.60s: got %v", envelope, a.Err)
		}
	}
	for _, m := range []*tidemark.Message{
		{Event: tidemark.EventRequest}, {Event: ""}, {Event: "unknown", Args: []json.RawMessage{nil}},
		{Kind: tidemark.CallMessage, ID: 1 << 62, Event: "unknown"}, {Kind: 9, ID: 3}, {Kind: tidemark.CallMessage, Event: tidemark.EventRequest, ID: 1001},
		{Event: tidemark.EventTransfer, Args: []json.RawMessage{[]byte(`"a"`)}}, {Event: tidemark.EventConnected},
	} {
		if err := c.conn.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if a := c.answer(1001); a.Err == nil {
		t.Error("a request without an envelope was answered without an error")
	}
	// A request without an id is executed and not answered.
	m, _ := tidemark.NewEvent(tidemark.EventRequest, map[string]any{"name": "post", "action": "createWithMeta", "args": []any{"a", map[string]any{"title": "x"}, at(0)}})
	if err := c.conn.Send(m); err != nil {
		t.Fatal(err)
	}
	c.until("the event", func() bool { return len(c.got) > 0 && c.got[len(c.got)-1].Event == tidemark.EventService })
	if b.db.Get("post", "a").Row == nil {
		t.Error("not written")
	}
	c.result("post", "findMany", map[string]any{})
}
