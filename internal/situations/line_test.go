package situations_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

// gates hold reads of scopes on the server, between the database and the client.
type gates struct {
	mu     sync.Mutex // protects what follows
	before *gate
	after  *gate
	rows   int // that pages have brought so far
	most   int // on one of them
}

// told returns how many rows the pages had that were sent.
func (g *gates) told() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rows
}

// page returns how many the largest had.
func (g *gates) page() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most
}

// gate holds one read.
type gate struct {
	uid     string // of a row that must have been read; "" for any read
	reached chan struct{}
	opened  chan struct{}
}

func newGate(uid string) *gate {
	return &gate{uid: uid, reached: make(chan struct{}), opened: make(chan struct{})}
}

func (g *gate) wait(t testing.TB) {
	t.Helper()
	select {
	case <-g.reached:
	case <-time.After(expect.Patience()):
		t.Fatal("nothing was read")
	}
}

func (g *gate) open() { close(g.opened) }

// holdBefore holds the next read before it begins, and holdAfter the next one that brings uid after it.
func (g *gates) holdBefore() *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.before = newGate("")
	return g.before
}

func (g *gates) holdAfter(uid string) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.after = newGate(uid)
	return g.after
}

func (g *gates) pass(ctx context.Context, place **gate, rows ...[]tidemark.RowMeta) {
	g.mu.Lock()
	held := *place
	if held != nil && held.uid != "" && !slices.ContainsFunc(slices.Concat(rows...), func(r tidemark.RowMeta) bool { return r.Meta.UID == held.uid }) {
		held = nil
	}
	if held != nil {
		*place = nil
	}
	g.mu.Unlock()
	if held == nil {
		return
	}
	close(held.reached)
	select {
	case <-held.opened:
	case <-ctx.Done():
	}
}

// gated is the driver with gates.
type gated struct {
	*bundriver.Driver
	gates *gates
}

func (g gated) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	g.gates.pass(ctx, &g.gates.before)
	page, err := g.Driver.Pull(ctx, q)
	if err == nil {
		g.gates.mu.Lock()
		g.gates.rows += len(page.Rows)
		g.gates.most = max(g.gates.most, len(page.Rows))
		g.gates.mu.Unlock()
		g.gates.pass(ctx, &g.gates.after, page.Rows, page.Gone)
	}
	return page, err
}

func (g gated) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	g.gates.pass(ctx, &g.gates.before)
	snapshot, err := g.Driver.Snapshot(ctx, p, uids)
	if err == nil {
		g.gates.pass(ctx, &g.gates.after, snapshot.Selected)
	}
	return snapshot, err
}

// line is how a device reaches its server.
type line struct {
	tidemark.Dialer
	guide bool

	mu    sync.Mutex // protects what follows
	down  bool       // no connection can be made
	frail bool       // each breaks at once
	lose  string     // the method of whose next answer the line breaks
	lost  chan struct{}
	conn  tidemark.Conn
	sent  map[string]int // by method, how often it was called
	dials []time.Time
}

var errDown = errors.New("the line is down")

func (l *line) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	l.mu.Lock()
	down := l.down
	l.dials = append(l.dials, time.Now())
	l.mu.Unlock()
	if down {
		return nil, tidemark.Welcome{}, errDown
	}
	end := &lineEnd{Handler: h, line: l, calls: map[uint64]string{}}
	conn, w, err := l.Dialer.Dial(ctx, hello, end)
	if err != nil {
		return nil, w, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end.Conn, l.conn = conn, conn
	if l.frail {
		conn.Close(tidemark.ClosedTransport)
	}
	return end, w, nil
}

// loseAnswer breaks the line instead of the next answer to a method; the channel is closed then.
func (l *line) loseAnswer(method string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose, l.lost = method, make(chan struct{})
	return l.lost
}

func (l *line) calls(method string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent[method]
}

// set switches the line on or off; switching it off breaks the connection.
func (l *line) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down = down; down && l.conn != nil {
		l.conn.Close(tidemark.ClosedTransport)
	}
}

// lineEnd is one connection of a line.
type lineEnd struct {
	tidemark.Conn
	tidemark.Handler
	line  *line
	calls map[uint64]string // the methods that were called
	dead  bool
}

func (e *lineEnd) Send(m *tidemark.Message) error {
	var r tidemark.Request
	if m.Kind == tidemark.CallMessage && len(m.Args) > 0 && json.Unmarshal(m.Args[0], &r) == nil {
		e.line.mu.Lock()
		e.calls[m.ID] = r.Action
		e.line.sent[r.Action]++
		e.line.mu.Unlock()
	}
	if e.line.guide && r.Action == tidemark.MethodOpen { // a server of the guide's protocol says so
		raw, err := tidemark.Answer{Err: tidemark.NewError(tidemark.CodeMissingMethod, "there is no such method")}.MarshalJSON()
		if err == nil {
			e.Handler.Receive(m.NewAnswer(raw))
		}
		return err
	}
	return e.Conn.Send(m)
}

func (e *lineEnd) Receive(m *tidemark.Message) {
	l := e.line
	l.mu.Lock()
	if !e.dead && m.Kind == tidemark.AnswerMessage && l.lose != "" && e.calls[m.ID] == l.lose {
		e.dead, l.lose, l.down = true, "", true
		close(l.lost)
		l.conn.Close(tidemark.ClosedTransport)
	}
	dead := e.dead
	l.mu.Unlock()
	if !dead {
		e.Handler.Receive(m)
	}
}
