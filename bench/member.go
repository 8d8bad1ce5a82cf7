package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/tidemark-sync/tidemark"
)

// audienceList is the list whose rows many sessions hear of.
const audienceList = "audience"

// member is one of many connections, as light as can be.
type member struct {
	ws     *websocket.Conn
	frame  func() []byte // what it sends to make a write
	calls  int
	opened []byte // what the server answered to sync.open
}

var frugal = websocket.Dialer{ReadBufferSize: 1024, WriteBufferSize: 1024, WriteBufferPool: new(sync.Pool)}

// idler is frugal with so small a buffer in the kernel that what it does not read is soon noticed. With one
// below the loopback's segments, of 64 KiB, reading what is left would take minutes.
var idler = websocket.Dialer{ReadBufferSize: 1024, WriteBufferSize: 1024, WriteBufferPool: new(sync.Pool), NetDial: func(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	if err == nil {
		err = c.(*net.TCPConn).SetReadBuffer(256 << 10)
	}
	return c, err
}}

func joinMelody(s *process, _ []string) (*member, error) {
	ws, _, err := frugal.Dial("ws://"+s.address+"/socket.io/", nil)
	return &member{ws: ws, frame: func() []byte {
		return []byte(`42["service-event",` + strings.Repeat("x", 600) + `]`)
	}}, err
}

// joinChannel connects as a Socket.IO client does.
func joinChannel(s *process, _ []string) (*member, error) {
	m, err := connect(s, &frugal)
	if err == nil {
		m.frame = createFrame
	}
	return m, err
}

func connect(s *process, dialer *websocket.Dialer) (*member, error) {
	ws, _, err := dialer.Dial("ws://"+s.address+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		return nil, err
	}
	m := &member{ws: ws}
	for _, step := range []string{"0", "40", `42["connected"`} {
		if _, err := m.expect(step); err != nil {
			dismiss([]*member{m})
			return nil, err
		}
		if step != "0" {
			continue
		}
		if err := ws.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
			dismiss([]*member{m})
			return nil, err
		}
	}
	return m, nil
}

// expect reads the next message, which begins so; what others do meanwhile is passed over.
func (m *member) expect(prefix string) ([]byte, error) {
	_, b, err := m.ws.ReadMessage()
	for err == nil && (bytes.HasPrefix(b, []byte(`42["sync-`)) || bytes.HasPrefix(b, []byte(`42["service-event"`))) {
		_, b, err = m.ws.ReadMessage()
	}
	if err == nil && !bytes.HasPrefix(b, []byte(prefix)) {
		err = fmt.Errorf("%.80q instead of %s", b, prefix)
	}
	return b, err
}

func createFrame() []byte {
	x := makeItems(1)[0]
	at := tidemark.StampOf(x.CreatedAt)
	return fmt.Appendf(nil, `421["client-request",{"name":"item","action":"createWithMeta","args":[%q,{"title":%q,"content":%q,"list_id":%q,"created_at":%q,"updated_at":%q},%q]}]`,
		uuid.Must(uuid.NewV7()), x.Title, x.Content, x.ListID, at, at, at)
}

// joinScopes connects and opens the second protocol, with a scope for each list.
func joinScopes(s *process, lists []string) (*member, error) { return joinWith(s, lists, &frugal) }

func joinWith(s *process, lists []string, dialer *websocket.Dialer) (*member, error) {
	m, err := connect(s, dialer)
	if err != nil {
		return nil, err
	}
	name := uuid.NewString()
	req := tidemark.OpenRequest{Protocol: tidemark.ProtocolVersion, Client: name}
	for _, list := range lists {
		req.Scopes = append(req.Scopes, listScope(list))
	}
	raw, err := json.Marshal(req)
	if err == nil {
		err = m.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `420["client-request",{"name":"sync","action":"open","args":[%s]}]`, raw))
	}
	var answer []byte
	if err == nil {
		answer, err = m.expect(`430[{"result":`) // the call has number 0
	}
	if err == nil && (bytes.Contains(answer, []byte(`"error"`)) || bytes.Count(answer, []byte(`"page":`)) != len(lists)) {
		err = fmt.Errorf("the scopes were not opened: %.200s", answer)
	}
	if err != nil {
		dismiss([]*member{m})
		return nil, err
	}
	m.opened = answer[3:]
	m.frame = func() []byte { return m.pushFrame(name) }
	return m, nil
}

// pushFrame makes a row of audienceList by a push.
func (m *member) pushFrame(name string) []byte {
	m.calls++
	ms := creations(1, audienceList)
	ms[0].N = int64(m.calls)
	raw, err := (&tidemark.Batch{Client: name, Confirmed: int64(m.calls - 1), Mutations: ms}).MarshalJSON()
	if err != nil {
		panic(err) // of texts and numbers
	}
	return fmt.Appendf(nil, `42%d["client-request",{"name":"sync","action":"push","args":[%s]}]`, m.calls, raw)
}

// audience counts what arrives at all members.
type audience struct {
	members int64
	got     atomic.Int64
	all     chan time.Time
	failed  chan error
}

func watchAll(members []*member) *audience {
	a := &audience{members: int64(len(members)), all: make(chan time.Time, 1), failed: make(chan error, 1)}
	for _, m := range members {
		go a.watch(m, true) // ends with its connection
	}
	return a
}

// watch reads what comes; an answer that is an error is a failure.
func (a *audience) watch(m *member, counts bool) {
	for {
		_, b, err := m.ws.ReadMessage()
		if err == nil && bytes.HasPrefix(b, []byte("43")) && (bytes.Contains(b, []byte(`[{"error"`)) || bytes.Contains(b, []byte(`["rejected"`))) {
			err = fmt.Errorf("the server answers %.200s", b)
		}
		switch {
		case err != nil:
			select {
			case a.failed <- err:
			default:
			}
			return
		case len(b) == 1: // a ping
			_ = m.ws.WriteMessage(websocket.TextMessage, []byte("3"))
		case counts && (bytes.HasPrefix(b, []byte(`42["service-event"`)) || bytes.HasPrefix(b, []byte(`42["sync-changes"`))):
			if a.got.Add(1) == a.members {
				a.all <- time.Now()
			}
		}
	}
}

// write has one member write, and returns after how many milliseconds all have it.
func (a *audience) write(m *member, frame []byte) (float64, error) {
	a.got.Store(0)
	began := time.Now()
	if err := m.ws.WriteMessage(websocket.TextMessage, frame); err != nil {
		return 0, err
	}
	select {
	case at := <-a.all:
		return millis(at.Sub(began)), nil
	case err := <-a.failed:
		return 0, err
	case <-time.After(30 * time.Second):
		return 0, fmt.Errorf("only %d of %d have it", a.got.Load(), a.members)
	}
}
