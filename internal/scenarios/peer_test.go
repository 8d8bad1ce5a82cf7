package scenarios

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// peer is a bare client of the wire: it sends requests and keeps the events.
type peer struct {
	t    testing.TB
	conn tidemark.Conn

	mu      sync.Mutex // protects the rest
	next    uint64
	answers map[uint64]chan tidemark.Answer
	heard   []tidemark.ServiceEvent
	closed  tidemark.CloseReason
}

func (w *world) peer(t testing.TB) *peer {
	t.Helper()
	p := &peer{t: t, answers: map[uint64]chan tidemark.Answer{}}
	conn, _, err := socketio.NewDialer(w.url(), &socketio.DialOptions{QueueBytes: 64 << 20}).Dial(t.Context(), tidemark.Hello{}, p)
	if err != nil {
		t.Fatal(err)
	}
	p.conn = conn
	t.Cleanup(func() { conn.Close(tidemark.ClosedByClient) })
	return p
}

func (p *peer) Receive(m *tidemark.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.Kind == tidemark.AnswerMessage:
		var a tidemark.Answer
		if err := a.UnmarshalJSON(m.Args[0]); err != nil {
			p.t.Errorf("answer %s: %v", m.Args[0], err)
		}
		p.answers[m.ID] <- a
		delete(p.answers, m.ID)
	case m.Event == tidemark.EventService:
		var e tidemark.ServiceEvent
		if err := json.Unmarshal(m.Args[0], &e); err != nil {
			p.t.Errorf("event %s: %v", m.Args[0], err)
		}
		p.heard = append(p.heard, e)
	}
}

func (p *peer) Closed(reason tidemark.CloseReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = reason
	for id, ch := range p.answers {
		ch <- tidemark.Answer{Err: tidemark.NewError(tidemark.CodeUnavailable, "the connection ended: %s", reason)}
		delete(p.answers, id)
	}
}

// send sends a request; the answer comes on the channel.
func (p *peer) send(service, method string, args ...any) <-chan tidemark.Answer {
	p.t.Helper()
	if args == nil {
		args = []any{}
	}
	m, err := tidemark.NewEvent(tidemark.EventRequest, map[string]any{"name": service, "action": method, "args": args})
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	id := p.next
	p.next++
	ch := make(chan tidemark.Answer, 1)
	p.answers[id] = ch
	err = p.conn.Send(m.NewCall(id))
	p.mu.Unlock()
	if err != nil {
		p.t.Fatal(err)
	}
	return ch
}

func (p *peer) wait(ch <-chan tidemark.Answer) tidemark.Answer {
	p.t.Helper()
	select {
	case a := <-ch:
		return a
	case <-time.After(expect.Patience()):
		p.t.Fatal("no answer came")
		return tidemark.Answer{}
	}
}

func (p *peer) ask(service, method string, args ...any) tidemark.Answer {
	p.t.Helper()
	return p.wait(p.send(service, method, args...))
}

// tuple is ask for a write that must succeed.
func (p *peer) tuple(method string, args ...any) tidemark.RowMeta {
	p.t.Helper()
	return p.told(p.ask("item", method, args...))
}

func (p *peer) told(a tidemark.Answer) (rm tidemark.RowMeta) {
	p.t.Helper()
	if a.Err != nil {
		p.t.Fatal(a.Err)
	}
	if err := rm.UnmarshalJSON(a.Result); err != nil {
		p.t.Fatal(err)
	}
	return rm
}

// sync calls sync.go for the items.
func (p *peer) sync(where, dict any) (r tidemark.SyncResult) {
	p.t.Helper()
	a := p.ask("sync", "go", "item", where, dict)
	if a.Err != nil {
		p.t.Fatal(a.Err)
	}
	if err := r.UnmarshalJSON(a.Result); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// events returns what was heard, as "method uid", "method" where there is no uid.
func (p *peer) events() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, e := range p.heard {
		var rm tidemark.RowMeta
		_ = rm.UnmarshalJSON(e.Result)
		out = append(out, e.Action+" "+rm.Meta.UID)
	}
	return out
}

func labelOf(r tidemark.Row) string {
	if r == nil {
		return ""
	}
	s, _ := tidemark.DecodeString(r.Get("label"))
	return s
}
