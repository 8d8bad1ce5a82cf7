package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
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
