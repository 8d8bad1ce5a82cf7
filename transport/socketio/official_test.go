package socketio_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// officialCases are what the test suites of the Engine.IO 4 and Socket.IO 5
// specifications ask of a server, as far as it concerns the websocket transport and the main
// namespace: long polling, the upgrade from it and other namespaces are not served.
// Cases that only look at the request are in TestOfficialHandshakes.
// See transcript_test.go for the steps; where the suites want a close and no more, X * takes a cut
// line for one. P waits for a ping and answers it.
var officialCases = []struct{ suite, name, steps string }{
	{"engine.io", "opens a session",
		`S 0{"sid":"*","upgrades":[],"pingInterval":300,"pingTimeout":200,"maxPayload":1000000}`},
	{"engine.io", "sends pings and takes pongs", `
		S 0*
		C 40
		S 40*
		S 42*
		P
		P
		P
		P
		C 42["message","alive"]
		S 42["message-back","alive"]`},
	{"engine.io", "closes the session of a client that sends no pong", `
		S 0*
		C 40
		S 40*
		S 42*
		S 2
		X *`},
	{"engine.io", "closes the session upon an invalid packet", `
		S 0*
		C abc
		X 1005`},
	{"engine.io", "closes the session upon a binary packet that nothing announced", `
		S 0*
		C 40
		S 40*
		S 42*
		D 01020304
		X 1005`},
	{"engine.io", "closes the session when the client says so", `
		S 0*
		C 1
		X 1005`},
	// More than that is in the transcripts oversize-*.
	{"engine.io", "takes maxPayload", `
		S 0*
		C 40
		S 40*
		S 42*
		L 1000000
		S 42["big"]`},
	{"socket.io", "connects to the main namespace", `
		S 0*
		C 40
		S 40{"sid":"*"}
		S 42["auth",{}]`},
	{"socket.io", "connects with a payload", `
		S 0*
		C 40{"token":"123"}
		S 40{"sid":"*"}
		S 42["auth",{"token":"123"}]`},
	{"socket.io", "refuses an unknown namespace", `
		S 0*
		C 40/random
		S 44/random,{"message":"Invalid namespace"}`},
	{"socket.io", "refuses an unknown namespace and goes on", `
		S 0*
		C 40
		S 40{"sid":"*"}
		S 42["auth",{}]
		C 40/random,{"token":"abc"}
		S 44/random,{"message":"Invalid namespace"}
		C 42["message","message to main namespace"]
		S 42["message-back","message to main namespace"]`},
	{"socket.io", "refuses an invalid handshake", `
		S 0*
		C 4abc
		X 1005`},
	{"socket.io", "closes when no handshake comes", `
		S 0*
		P
		P
		P
		X *`},
	{"socket.io", "disconnects from the main namespace", `
		S 0*
		C 40
		S 40*
		S 42*
		C 41
		X 1005`},
	{"socket.io", "sends text", `
		S 0*
		C 40
		S 40*
		S 42*
		C 42["message",1,"2",{"3":[true]}]
		S 42["message-back",1,"2",{"3":[true]}]`},
	{"socket.io", "sends attachments", `
		S 0*
		C 40
		S 40*
		S 42*
		C 452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]
		D 010203
		D 040506
		S 452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]
		B 010203
		B 040506`},
	{"socket.io", "acknowledges text", `
		S 0*
		C 40
		S 40*
		S 42*
		C 42456["message-with-ack",1,"2",{"3":[false]}]
		S 43456[1,"2",{"3":[false]}]`},
	{"socket.io", "acknowledges attachments", `
		S 0*
		C 40
		S 40*
		S 42*
		C 452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]
		D 010203
		D 040506
		S 462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]
		B 010203
		B 040506`},
	{"socket.io", "closes upon an unknown kind of packet", `
		S 0*
		C 40
		S 40*
		S 42*
		C 4abc
		X 1005`},
	{"socket.io", "closes upon a payload that is no list", `
		S 0*
		C 40
		S 40*
		S 42*
		C 42{}
		X 1005`},
	{"socket.io", "closes upon an invalid number of an ack", `
		S 0*
		C 40
		S 40*
		S 42*
		C 42abc["message-with-ack",1,"2",{"3":[false]}]
		X 1005`},
}

// The suites' server: pings after 300 ms, pongs within 200 ms, at most 1,000,000 bytes.
func officialOptions() *socketio.Options {
	return &socketio.Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond,
		ConnectTimeout: time.Second, MaxHelloBytes: 1_000_000, MaxMessageBytes: 1_000_000}
}

func TestOfficialCases(t *testing.T) {
	t.Parallel()
	for _, c := range officialCases {
		t.Run(c.suite+" "+c.name, func(t *testing.T) {
			bubble(t, socketio.NewHandler(officialApp{}, officialOptions()), func(t *testing.T, p *pipes) {
				client := rawClient{rawDial(t, p)}
				for line := range strings.Lines(c.steps) {
					if line = strings.TrimSpace(line); line == "" {
						continue
					}
					if err := client.official(line); err != nil {
						t.Errorf("%s: %v", line, err)
						break
					}
				}
				_ = client.Close()
			})
		})
	}
}

// official is step with a step for pings, which come when they come.
func (c rawClient) official(line string) error {
	if line != "P" {
		return c.step(line[0], line[2:])
	}
	if err := c.step('S', "2"); err != nil {
		return err
	}
	return c.step('C', "3")
}

// TestOfficialHandshakes: requests that the suites want refused.
func TestOfficialHandshakes(t *testing.T) {
	t.Parallel()
	s := serve(t, officialApp{}, officialOptions())
	for _, query := range []string{"transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc", "EIO=4&transport=websocket&sid=unknown"} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			c, _, err := websocket.DefaultDialer.Dial(websocketURL(s, query), nil)
			if err != nil {
				return // refused
			}
			defer c.Close()
			if _, b, err := c.ReadMessage(); err == nil {
				t.Errorf("got %s", b)
			}
		})
	}
}

// officialApp is the application that the suites of Socket.IO talk to.
type officialApp struct{}

func (officialApp) Offer(_ context.Context, o tidemark.Offer) {
	auth := o.Hello().Auth
	s := &officialSession{ready: make(chan struct{})}
	defer close(s.ready)
	c, err := o.Accept(tidemark.Welcome{ID: "id"}, s)
	if err != nil {
		return
	}
	s.conn = c
	if auth == nil {
		auth = json.RawMessage("{}")
	}
	m, _ := tidemark.NewEvent("auth", auth)
	_ = c.Send(m)
}

type officialSession struct {
	ready chan struct{}
	conn  tidemark.Conn
}

func (s *officialSession) Closed(tidemark.CloseReason) {}

func (s *officialSession) Receive(m *tidemark.Message) {
	<-s.ready
	switch m.Event {
	case "message":
		_ = s.conn.Send(&tidemark.Message{Event: "message-back", Args: m.Args, Attachments: m.Attachments})
	case "x": // something big
		_ = s.conn.Send(&tidemark.Message{Event: "big"})
	case "message-with-ack":
		a := m.NewAnswer(m.Args...)
		a.Attachments = m.Attachments
		_ = s.conn.Send(a)
	}
}
