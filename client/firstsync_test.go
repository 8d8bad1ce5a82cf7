package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// player is a server that plays the pages of one scope from a record, so that a
// benchmark has the client's part alone.
type player struct {
	pages map[string]json.RawMessage // by after
}

func (p *player) Offer(_ context.Context, o tidemark.Offer) {
	conn := make(chan tidemark.Conn, 1)
	c, err := o.Accept(tidemark.Welcome{ID: "player"}, &played{p: p, conn: conn})
	if err == nil {
		conn <- c
	}
}

type played struct {
	p    *player
	conn chan tidemark.Conn
	c    tidemark.Conn
}

func (s *played) Closed(tidemark.CloseReason) {}

func (s *played) Receive(m *tidemark.Message) {
	if s.c == nil {
		s.c = <-s.conn
	}
	req, err := tidemark.ParseRequest(m.Args[0])
	if err != nil {
		return
	}
	var result json.RawMessage
	switch req.Action {
	case tidemark.MethodOpen:
		result = json.RawMessage(`{"protocol":1,"now":"2026-01-01T00:00:00Z","limits":{"bytes":262144},"scopes":[{"scope":1,"tag":"t"}]}`)
	case tidemark.MethodPull:
		var r tidemark.PullRequest
		_ = json.Unmarshal(req.Args[0], &r)
		result = s.p.pages[r.After]
	}
	raw, _ := tidemark.Answer{Result: result}.MarshalJSON()
	_ = s.c.Send(m.NewAnswer(raw))
}

type bigItem struct {
	UID       string    `json:"uid"`
	Title     string    `json:"title"`
	Content   string    `json:"content"`
	ListID    string    `json:"list_id" tidemark:"index"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// record makes the pages of n rows of docs/performance.md, of about 256 KiB each.
func record(n int) *player {
	p := &player{pages: map[string]json.RawMessage{}}
	const perPage = 700
	after := ""
	for from := 0; from < n; from += perPage {
		page := tidemark.ScopePage{Cursor: "c", Total: n}
		for i := from; i < min(from+perPage, n); i++ {
			uid := fmt.Sprintf("01890a5d-ac96-774b-bcce-%012x", i)
			page.Rows = append(page.Rows, tidemark.RowMeta{
				Row: tidemark.Row(fmt.Sprintf(`{"uid":"%s","title":"Twenty characters %02d","content":"%s","list_id":"list-%06d","created_at":"2026-01-01T00:00:00.123Z","updated_at":"2026-01-01T00:00:00.123456Z"}`,
					uid, i%100, strings.Repeat("0123456789", 20), i/100)),
				Meta: tidemark.Meta{UID: uid, CreatedAt: tidemark.Stamp(1767225600123456 + i)},
			})
			if i == min(from+perPage, n)-1 && i < n-1 {
				page.After = uid
			}
		}
		raw, _ := page.MarshalJSON()
		p.pages[after] = raw
		after = page.After
	}
	return p
}

// BenchmarkFirstSync is a first sync of 100,000 rows into a file, without a server's work.
func BenchmarkFirstSync(b *testing.B) {
	const rows = 100_000
	rec := record(rows)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		store := openFile(b, filepath.Join(b.TempDir(), "device.db"))
		p := pipe.New(rec, &pipe.Options{QueueBytes: 64 << 20})
		b.StartTimer()
		c, err := client.Open(b.Context(), store, p, &client.Options{Offline: true})
		if err != nil {
			b.Fatal(err)
		}
		items, err := client.NewModel[bigItem](b.Context(), c, "item", nil)
		if err != nil {
			b.Fatal(err)
		}
		s, err := items.Register(b.Context(), nil)
		c.GoOnline()
		if err == nil {
			err = s.Synced(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.Close()
		p.Close()
		b.StartTimer()
	}
}
