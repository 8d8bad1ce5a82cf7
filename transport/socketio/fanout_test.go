package socketio_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/olahol/melody"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

const listeners = 1000

// BenchmarkFanOut sends one message to many connections and waits until the
// last has it; BenchmarkFanOutMelody does the same with bare melody, for comparison.
func BenchmarkFanOut(b *testing.B) {
	var mu sync.Mutex
	var conns []tidemark.Conn
	h := socketio.NewHandler(offerFunc(func(_ context.Context, o tidemark.Offer) {
		if c, err := o.Accept(tidemark.Welcome{ID: "id"}, &lobby{}); err == nil {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}), nil)
	defer h.Close()
	fanOut(b, h, true, func(text string) {
		m, err := tidemark.NewEvent("service-event", text)
		if err != nil {
			b.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			if err := c.Send(m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFanOutMelody(b *testing.B) {
	m := melody.New()
	defer m.Close()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = m.HandleRequest(w, r) })
	fanOut(b, h, false, func(text string) {
		for m.Len() < listeners { // who has shaken hands is registered a moment later
			runtime.Gosched()
		}
		if err := m.Broadcast([]byte(`42["service-event","` + text + `"]`)); err != nil {
			b.Fatal(err)
		}
	})
}

func fanOut(b *testing.B, h http.Handler, handshake bool, send func(text string)) {
	s := httptest.NewServer(h)
	defer s.Close()
	var received, running sync.WaitGroup
	for range listeners {
		c, _, err := websocket.DefaultDialer.Dial(strings.Replace(s.URL, "http", "ws", 1)+"/?EIO=4&transport=websocket", nil)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		if handshake {
			_, _, _ = c.ReadMessage()
			_ = c.WriteMessage(websocket.TextMessage, []byte("40"))
			_, _, _ = c.ReadMessage()
		}
		running.Go(func() {
			for {
				if _, _, err := c.ReadMessage(); err != nil {
					return
				}
				received.Done()
			}
		})
	}
	text := strings.Repeat("x", 300)
	b.ReportAllocs()
	for b.Loop() {
		received.Add(listeners)
		send(text)
		received.Wait()
	}
	b.StopTimer()
	s.CloseClientConnections()
}
