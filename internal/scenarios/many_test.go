package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// These tests have the machine to themselves: they do not run beside the others.

// Above this many rows the original's clients could never synchronise again.
const manyRows = 100_000

// fill puts many rows into the table, by one statement.
func (w *world) fill(n int) {
	w.t.Helper()
	numbers := fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) ", n)
	uid := "'row-' || substr('000000' || CAST(i AS text), length(CAST(i AS text)) + 1)"
	for _, s := range []string{
		"INSERT INTO item (uid, label) " + numbers + "SELECT " + uid + ", 'label' FROM n",
		"INSERT INTO metadata (uid, created_at) " + numbers + "SELECT " + uid + ", ? FROM n",
		"INSERT INTO " + w.uids + " (uid, model) " + numbers + "SELECT " + uid + ", 'item' FROM n",
	} {
		args := []any{}
		if strings.Contains(s, "?") {
			args = append(args, T0.Time())
		}
		if _, err := w.db.ExecContext(context.Background(), s, args...); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A client with very many rows synchronises again, in one message. Fault 18
func TestAClientOfManyRowsSyncsAgain(t *testing.T) {
	engines(t, func(t *testing.T, w *world) {
		w.open()
		w.fill(manyRows)
		p := w.peer(t)
		dict := []byte{'{'}
		for i := range manyRows {
			if i > 0 {
				dict = append(dict, ',')
			}
			meta := tidemark.Meta{UID: fmt.Sprintf("row-%06d", i+1), CreatedAt: T0}
			dict = append(tidemark.AppendString(dict, meta.UID), ':')
			dict = meta.AppendJSON(dict)
		}
		dict = append(dict, '}')
		p.tuple(tidemark.MethodUpdate, "row-050000", map[string]any{"label": "changed"}, T1)
		r := p.sync(map[string]any{}, json.RawMessage(dict))
		if len(r.AddClient)+len(r.DeleteClient)+len(r.AddDatabase)+len(r.UpdateDatabase) != 0 || len(r.UpdateClient) != 1 {
			t.Errorf("a message of %d bytes is answered by %d, %d, %d, %d and %d rows", len(dict), len(r.AddClient), len(r.UpdateClient), len(r.DeleteClient), len(r.AddDatabase), len(r.UpdateDatabase))
		}
	})
}

// counted is a transport that looks at the sizes of what a client sends.
type counted struct {
	tidemark.Dialer
	messages, largest atomic.Int64
}

type countedConn struct {
	tidemark.Conn
	c *counted
}

func (c *counted) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := c.Dialer.Dial(ctx, hello, h)
	return &countedConn{conn, c}, w, err
}

func (c *countedConn) Send(m *tidemark.Message) error {
	n := int64(0)
	for _, a := range m.Args {
		n += int64(len(a))
	}
	c.c.messages.Add(1)
	for old := c.c.largest.Load(); n > old && !c.c.largest.CompareAndSwap(old, n); old = c.c.largest.Load() {
	}
	return c.Conn.Send(m)
}

// Our client with very many rows synchronises again with a server that takes
// messages of a megabyte only: it asks by ranges of uids. Fault 18
func TestOurClientOfManyRowsSyncsByPieces(t *testing.T) {
	onSQLite(t, func(t *testing.T, w *world) { // it is the client that is tested
		w.opts = &socketio.Options{MaxMessageBytes: 1_000_000, QueueBytes: 64 << 20}
		w.guideOnly = true
		w.open()
		w.fill(manyRows)
		link := &counted{Dialer: w.dialer()}
		d := newDevice(t, link, nil)
		d.scope(nil)
		d.connect()
		if got := d.find(nil); got != manyRows {
			t.Fatalf("%d rows came, want %d", got, manyRows)
		}
		d.disconnect()
		w.peer(t).tuple(tidemark.MethodUpdate, "row-050000", map[string]any{"label": "changed"}, T1)
		w.peer(t).tuple(tidemark.MethodDelete, "row-099999", T1)
		w.peer(t).tuple(tidemark.MethodCreate, "row-050000-a", map[string]any{"label": "new"}, T1)
		link.messages.Store(0)
		d.connect()
		for uid, want := range map[string]string{"row-050000": "changed", "row-099999": "", "row-050000-a": "new", "row-000001": "label"} {
			expect.Equal(t, fmt.Sprint("the row ", uid), d.label(uid), want)
		}
		expect.Equal(t, "how many rows there are", d.find(nil), manyRows)
		if n, size := link.messages.Load(), link.largest.Load(); n < 10 || size > 1_000_000 {
			t.Errorf("%d messages, of at most %d bytes", n, size)
		}
	})
}
