package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/server"
)

// small makes pages of two rows of the tests.
var small = &server.Options{PageBytes: 120}

// tap listens to a device's connections, and cuts them.
type tap struct {
	w *world

	mu       sync.Mutex // protects what follows
	asked    []string   // the methods called on the service sync, but for push
	told     int        // rows of pages that came
	received int        // messages that came
	bytes    int
	cutAfter int // the next cut, after so many messages; 0 for none
	every    int // and the ones after that
}

func (p *tap) dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := p.w.dial(ctx, hello, &tapped{Handler: h, tap: p})
	if err != nil {
		return nil, w, err
	}
	return &tappedConn{conn, p}, w, nil
}

type tapped struct {
	tidemark.Handler
	tap *tap
}

func (h *tapped) Receive(m *tidemark.Message) {
	p := h.tap
	p.mu.Lock()
	p.received++
	for _, a := range m.Args {
		p.bytes += len(a)
	}
	p.told += rowsOf(m)
	cut := p.cutAfter > 0 && p.received >= p.cutAfter
	if cut {
		p.cutAfter = 0
		if p.every > 0 {
			p.cutAfter = p.received + p.every
		}
	}
	p.mu.Unlock()
	h.Handler.Receive(m)
	if cut {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		p.w.pipe.Cut()
	}
}

// rowsOf counts the rows of the pages in an answer.
func rowsOf(m *tidemark.Message) int {
	if m.Kind != tidemark.AnswerMessage || len(m.Args) == 0 {
		return 0
	}
	var a tidemark.Answer
	if a.UnmarshalJSON(m.Args[0]) != nil || len(a.Result) == 0 {
		return 0
	}
	var open tidemark.OpenAnswer
	var page tidemark.ScopePage
	n := 0
	if json.Unmarshal(a.Result, &open) == nil {
		for _, sc := range open.Scopes {
			if sc.Page != nil {
				n += len(sc.Page.Rows) + len(sc.Page.Gone)
			}
		}
	}
	var list []tidemark.ScopeAnswer
	if json.Unmarshal(a.Result, &list) == nil {
		for _, sc := range list {
			if sc.Page != nil {
				n += len(sc.Page.Rows) + len(sc.Page.Gone)
			}
		}
	}
	if page.UnmarshalJSON(a.Result) == nil {
		n += len(page.Rows) + len(page.Gone)
	}
	return n
}

type tappedConn struct {
	tidemark.Conn
	tap *tap
}

func (c *tappedConn) Send(m *tidemark.Message) error {
	if len(m.Args) > 0 {
		if r, err := tidemark.ParseRequest(m.Args[0]); err == nil && r.Name == tidemark.ServiceSync && r.Action != tidemark.MethodPush {
			c.tap.mu.Lock()
			c.tap.asked = append(c.tap.asked, r.Action)
			c.tap.mu.Unlock()
		}
	}
	return c.Conn.Send(m)
}

// heard returns what was asked and how many rows came since the last time.
func (p *tap) heard() (asked string, told int) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, told = strings.Join(p.asked, " "), p.told
	p.asked, p.told = nil, 0
	return asked, told
}

// call has the server's own code call a method of items.
func (w *world) call(method string, args ...any) {
	w.t.Helper()
	if _, err := w.server.Service("item").Call(w.t.Context(), method, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) put(uid, label string, score int) {
	w.t.Helper()
	w.call(tidemark.MethodUpdate, uid, map[string]any{"label": label, "score": score}, tidemark.StampOf(time.Now()))
}

func (w *world) delete(uid string) {
	w.t.Helper()
	w.call(tidemark.MethodDelete, uid, tidemark.StampOf(time.Now()))
}

// fill puts n rows, whose labels are their uids.
func (w *world) fill(n int) (labels []string) {
	for i := range n {
		uid := fmt.Sprintf("u%03d", i)
		w.put(uid, uid, i)
		labels = append(labels, uid)
	}
	return labels
}

// recalled is a device that was in step with the rows of where, and is not connected.
func (w *world) recalled(p *tap, where tidemark.Where) *bench {
	b := w.deviceOver(p.dial, nil)
	b.register(where)
	b.state(client.Synced)
	pass(10 * time.Second) // the cursor comes
	b.client.GoOffline()
	p.heard()
	pass(time.Second)
	return b
}

func (b *bench) online() {
	b.t.Helper()
	b.client.GoOnline()
	b.state(client.Synced)
}

// equals checks that the device has exactly the server's rows of a clause.
func (b *bench) equals(w *world, where tidemark.Where) {
	b.t.Helper()
	synctest.Wait()
	p, err := where.Compile(w.schema)
	if err != nil {
		b.t.Fatal(err)
	}
	rows, err := w.db.Find(b.t.Context(), p, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	held, err := b.store.Find(b.t.Context(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	text := func(rows []tidemark.Row) []string {
		var out []string
		for _, r := range rows {
			out = append(out, fmt.Sprintf("%s=%s/%s", r.UID(), r.Get("label"), r.Get("score")))
		}
		slices.Sort(out)
		return out
	}
	if got, want := text(held), text(rows); !slices.Equal(got, want) {
		b.t.Errorf("the device has\n  %s\nthe server\n  %s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// again closes the client, and opens it on the same store.
func (b *bench) again(w *world) *bench {
	b.t.Helper()
	b.client.Close()
	b.reopen(w)
	synctest.Wait()
	return b
}

// nth calls fn before the n-th message.
type nth struct {
	tidemark.Handler
	n  int
	fn func()
}

func (h *nth) Receive(m *tidemark.Message) {
	if h.n--; h.n == 0 {
		h.fn()
	}
	h.Handler.Receive(m)
}
