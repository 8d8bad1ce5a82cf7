package sim

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// List and Item are the world's models: an item refers to its list.
type List struct {
	bun.BaseModel `bun:"table:list"`

	UID  string `bun:"uid,pk,type:text"`
	Note string `bun:"note,type:text,notnull"`
}

// Item is a row that devices edit. Its note is the token of the write that made it so.
type Item struct {
	bun.BaseModel `bun:"table:item"`

	UID    string `bun:"uid,pk,type:text"`
	ListID string `bun:"list_id,type:text,notnull"`
	Note   string `bun:"note,type:text,notnull"`
	Score  int64  `bun:"score"`
	Canary string `bun:"canary,type:text"` // tells of which list the row was when it was written
}

func models() []any { return []any{(*List)(nil), (*Item)(nil)} }

var createTables = []string{
	`CREATE TABLE list (uid TEXT PRIMARY KEY, note TEXT NOT NULL)`,
	`CREATE TABLE item (uid TEXT PRIMARY KEY, list_id TEXT NOT NULL REFERENCES list (uid), note TEXT NOT NULL, score BIGINT CHECK (score >= 0), canary TEXT)`,
}

// host is the server's machine: its database outlives the server's processes.
type host struct {
	w      *world
	db     *bun.DB
	driver *bundriver.Driver
	up     *process
	backup *backup // nil for none
	wants  bool    // the scheduler should crash it
}

// process is one run of the server.
type process struct {
	database *database
	server   *server.Server
	handler  *socketio.Handler
	web      *http.Server
	listener *listener
	served   chan struct{}
}

func newHost(ctx context.Context, w *world) (*host, error) {
	db, err := openDatabase()
	if err != nil {
		return nil, err
	}
	h := &host{w: w, db: db}
	for _, statement := range createTables {
		if _, err := db.DB.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	if h.driver, err = bundriver.New(ctx, h.db, models(), nil); err != nil {
		return nil, err
	}
	return h, h.driver.Migrate(ctx)
}

// apart is a time-out of so many milliseconds, and of microseconds that no other one has. The scheduler waits for
// whole milliseconds: so no two of them end at one instant, at which the bubble would choose by chance.
func apart(ms, us int) time.Duration {
	return time.Duration(ms)*time.Millisecond + time.Duration(us)*time.Microsecond
}

func (h *host) start(ctx context.Context) error {
	p := &process{listener: newListener(), served: make(chan struct{})}
	p.database = newDatabase(h.driver, h.w.books)
	p.database.forgets = h.w.purges()
	p.database.crash = func() { h.wants = true }
	p.database.slow = func(ctx context.Context) {
		select {
		case <-time.After(apart(1+h.w.rng.IntN(1500), 441)):
		case <-ctx.Done():
		}
	}
	ids := 0
	var err error
	page := 0 // the default: all there is
	if h.w.seed%2 == 0 {
		page = 700
	}
	l := h.w.limits()
	p.server, err = server.New(p.database.driver(), &server.Options{PageBytes: page, CursorInterval: apart(4987, 203), CallTimeout: apart(59_999, 637), Recovery: server.Recovery{MaxAge: l.age, MaxBytes: l.journal, MaxSessions: l.sessions}, NewID: func() string {
		ids++
		return fmt.Sprintf("session-%d-%d", h.w.steps, ids)
	}})
	if err != nil {
		return err
	}
	p.server.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	p.server.Service("list").Publish(server.To("all"))
	p.server.Service("item").Publish(server.To("all"))
	p.handler = socketio.NewHandler(p.server, &socketio.Options{
		PingInterval: apart(5003, 101), PingTimeout: apart(5011, 313), ConnectTimeout: apart(4999, 507),
		WriteTimeout: apart(9871, 729), CloseTimeout: apart(1999, 831), QueueBytes: l.queue,
	})
	p.web = &http.Server{Handler: p.handler}
	go func() {
		defer close(p.served)
		_ = p.web.Serve(p.listener)
	}()
	h.up = p
	h.w.net.mu.Lock()
	h.w.net.accept = func(c net.Conn) bool { return p.listener.offer(c) }
	h.w.net.mu.Unlock()
	return nil
}

// stop ends the process: in order, or as a crash, after which nobody hears of it any more.
func (h *host) stop(crash bool) {
	p := h.up
	if p == nil {
		return
	}
	h.up, h.wants = nil, false
	h.w.net.mu.Lock()
	h.w.net.accept = nil
	h.w.net.mu.Unlock()
	if crash {
		p.database.kill()
		for _, pair := range h.w.net.open() {
			pair[0].fail(errReset)
			pair[1].fail(errReset)
		}
	}
	_ = p.listener.Close()
	_ = p.server.Close()
	_ = p.handler.Close()
	_ = p.web.Close()
	<-p.served
}

func (h *host) close() {
	h.stop(false)
	h.forget()
	_ = h.driver.Close()
	_ = h.db.Close()
}

// rows returns the server's rows that where selects, by uid.
func (h *host) rows(ctx context.Context, model string, where tidemark.Where) (map[string]tidemark.Row, error) {
	for _, s := range h.driver.Models() {
		if s.Name() != model {
			continue
		}
		p, err := where.Compile(s)
		if err != nil {
			return nil, err
		}
		list, err := h.driver.Find(ctx, p, 0)
		rows := make(map[string]tidemark.Row, len(list))
		for _, r := range list {
			rows[r.UID()] = r
		}
		return rows, err
	}
	return nil, tidemark.ErrNotFound
}
