package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

// sink is a connection that counts what it is sent.
type sink struct {
	handler tidemark.Handler
	sent    chan *tidemark.Message
}

func (s *sink) Hello() tidemark.Hello  { return tidemark.Hello{} }
func (s *sink) Refuse(*tidemark.Error) {}
func (s *sink) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	s.handler = h
	return s, nil
}
func (s *sink) Send(m *tidemark.Message) error {
	s.sent <- m
	return nil
}
func (s *sink) Close(r tidemark.CloseReason) {
	if s.handler != nil {
		s.handler.Closed(r)
		s.handler = nil
	}
}

func benchServer(b *testing.B, sessions int) (*memory.Driver, []*sink) {
	db := memory.New(schemas(b)...)
	srv, err := server.New(db, nil)
	if err != nil {
		b.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	srv.Service("post").Publish(server.To("all"))
	sinks := make([]*sink, sessions)
	for i := range sinks {
		sinks[i] = &sink{sent: make(chan *tidemark.Message, 16)}
		srv.Offer(b.Context(), sinks[i])
		<-sinks[i].sent // connected
	}
	b.Cleanup(func() { srv.Close() })
	return db, sinks
}

func request(name, action, args string) *tidemark.Message {
	raw := fmt.Sprintf(`{"name":%q,"action":%q,"args":%s}`, name, action, args)
	return &tidemark.Message{Kind: tidemark.CallMessage, Event: tidemark.EventRequest, Args: []json.RawMessage{json.RawMessage(raw)}}
}

func BenchmarkSyncGo(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		var d strings.Builder
		for i := range n {
			fmt.Fprintf(&d, `,"u%d":{"uid":"u%d",%s}`, i, i, createdAt(-5))
		}
		db, sinks := benchServer(b, 1)
		for i := range n {
			uid := fmt.Sprint("u", i)
			db.Put("post", row(uid, strings.Repeat("x", 200), "o"), created(uid, -5))
		}
		for name, args := range map[string]string{"cold": `["post",{},{}]`, "unchanged": `["post",{},{` + d.String()[1:] + `}]`} {
			m := request("sync", "go", args)
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					sinks[0].handler.Receive(m)
					b.SetBytes(int64(len((<-sinks[0].sent).Args[0]) + len(args)))
				}
			})
		}
	}
}

// A write and its event to all sessions.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{1, 1_000} {
		b.Run(fmt.Sprint(n, " sessions"), func(b *testing.B) {
			_, sinks := benchServer(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				sinks[0].handler.Receive(request("post", "createWithMeta", fmt.Sprintf(`["u%d",{"title":"x"},%q]`, i, at(0))))
				<-sinks[0].sent
				for _, s := range sinks { // the answer, and the event of each
					<-s.sent
				}
			}
		})
	}
}

// quiet is a connection that drops what it is sent.
type quiet struct{ sink }

func (q *quiet) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	q.handler = h
	return q, nil
}
func (q *quiet) Send(*tidemark.Message) error { return nil }

// An event to many sessions, with and without recovery.
func BenchmarkNotify(b *testing.B) {
	for _, n := range []int{1, 1_000, 10_000} {
		for _, off := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d sessions/off=%t", n, off), func(b *testing.B) {
				srv, err := server.New(memory.New(schemas(b)...), &server.Options{Recovery: server.Recovery{Off: off}})
				if err != nil {
					b.Fatal(err)
				}
				srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
				b.Cleanup(func() { srv.Close() })
				for range n {
					srv.Offer(b.Context(), &quiet{})
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := srv.Notify("all", "n", 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// away is the offer of a client that comes back, and what it is told.
type away struct {
	quiet
	hello   tidemark.Hello
	welcome tidemark.Welcome
	last    chan string // the offsets of what it is sent
}

func (a *away) Hello() tidemark.Hello { return a.hello }
func (a *away) Accept(w tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	a.handler, a.welcome = h, w
	return a, nil
}
func (a *away) Send(m *tidemark.Message) error {
	offset, _ := tidemark.DecodeString(m.Args[len(m.Args)-1])
	select {
	case a.last <- offset:
	default:
	}
	return nil
}

// A session that broke goes on, beside a journal that is full of what others got.
func BenchmarkResume(b *testing.B) {
	srv, err := server.New(memory.New(schemas(b)...), nil)
	if err != nil {
		b.Fatal(err)
	}
	gone := make(chan struct{})
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("mine"); return nil })
	srv.OnDisconnect(func(*server.Session, tidemark.CloseReason) { gone <- struct{}{} })
	b.Cleanup(func() {
		go func() {
			for range gone {
			}
		}()
		srv.Close()
		close(gone)
	})
	a := &away{last: make(chan string, 1)}
	srv.Offer(b.Context(), a)
	a.hello = tidemark.Hello{Session: a.welcome.Session, Offset: <-a.last}
	srv.Offer(b.Context(), &quiet{})
	other, ok := srv.Session(a.welcome.ID)
	if !ok {
		b.Fatal("no session")
	}
	other.Join("noise")
	for range 100_000 {
		_ = srv.Notify("noise", "n", 1)
	}
	other.Leave("noise")
	b.ReportAllocs()
	for b.Loop() {
		a.Close(tidemark.ClosedTransport)
		<-gone
		next := &away{hello: a.hello, last: make(chan string, 1)}
		srv.Offer(b.Context(), next)
		next.hello.Offset = <-next.last
		if next.welcome.ID != a.welcome.ID {
			b.Fatal("not resumed")
		}
		a = next
	}
}

// tally is a connection that counts what it is sent, together with others.
type tally struct {
	sink
	sent *atomic.Int64
}

func (c *tally) Accept(_ tidemark.Welcome, h tidemark.Handler) (tidemark.Conn, error) {
	c.handler = h
	return c, nil
}

func (c *tally) Send(*tidemark.Message) error {
	c.sent.Add(1)
	return nil
}

// A write and its change to all sessions whose scope selects the row, beside as many whose scopes
// do not. What it takes beyond "nobody" is the fan-out.
func BenchmarkLive(b *testing.B) {
	for _, n := range []int{0, 1, 1_000, 5_000} {
		b.Run(fmt.Sprint(n, " sessions"), func(b *testing.B) {
			srv, err := server.New(memory.New(schemas(b)...), &server.Options{CursorInterval: -1})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { srv.Close() })
			var sent atomic.Int64
			for i := range 2 * n {
				c := &tally{sent: &sent}
				srv.Offer(b.Context(), c)
				where := `{"owner":"o"}`
				if i%2 == 1 {
					where = fmt.Sprintf(`{"owner":"o%d"}`, i)
				}
				c.handler.Receive(request("sync", "open", fmt.Sprintf(`[{"protocol":1,"scopes":[{"model":"post","where":%s}]}]`, where)))
			}
			for sent.Load() < int64(4*n) { // each was greeted and has opened
				runtime.Gosched()
			}
			sent.Store(0)
			row := []any{"u", json.RawMessage(`{"title":"12345678901234567890","owner":"o"}`), nil}
			post := srv.Service("post")
			writes := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				row[2] = srv.Now()
				if _, err := post.Call(b.Context(), "updateWithMeta", row...); err != nil {
					b.Fatal(err)
				}
				writes++
			}
			if got := sent.Load(); got != writes*int64(n) {
				b.Errorf("%d messages of %d writes to %d sessions", got, writes, n)
			}
		})
	}
}
