package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/examples/internal/database"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// program is the program with its HTTP server, with Tidemark or as it was before.
type program struct {
	t   *testing.T
	db  *bun.DB
	url string
}

// databases runs a test on each kind of database.
func databases(t *testing.T, run func(t *testing.T, dsn string)) {
	t.Run("SQLite", func(t *testing.T) { t.Parallel(); run(t, filepath.Join(t.TempDir(), "tickets.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { t.Parallel(); run(t, pgtest.DSN(t)) })
}

// start starts the program over a database that has one ticket from before.
func start(t *testing.T, dsn string, withTidemark bool) *program {
	t.Helper()
	db, err := database.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	a := newApp(db)
	if err := a.createTables(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.NewInsert().Model(&Ticket{UID: "from-before", Title: "from before", Status: "open"}).Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	mux := a.routes()
	if withTidemark {
		if err := a.addTidemark(t.Context(), mux); err != nil {
			t.Fatal(err)
		}
	}
	web := httptest.NewServer(mux)
	t.Cleanup(func() {
		for _, stop := range a.stop {
			if err := stop(context.Background()); err != nil {
				t.Error(err)
			}
		}
		web.Close()
		_ = db.Close()
	})
	return &program{t: t, db: db, url: web.URL}
}

// rest makes a request and decodes the answer into v; it returns the status.
func (p *program) rest(method, path, who, body string, v any) int {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("From", who)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && v != nil {
		if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
			p.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

// must is rest for a request that must succeed.
func (p *program) must(method, path, body string) Ticket {
	p.t.Helper()
	var ticket Ticket
	if status := p.rest(method, path, "ann", body, &ticket); status != http.StatusOK {
		p.t.Fatalf("%s %s: status %d", method, path, status)
	}
	return ticket
}

// tickets returns what GET /tickets shows, as "title status".
func (p *program) tickets() map[string]string {
	p.t.Helper()
	var tickets []Ticket
	p.rest("GET", "/tickets", "", "", &tickets)
	out := map[string]string{}
	for _, t := range tickets {
		out[t.UID] = t.Title + " " + t.Status
	}
	return out
}

func (p *program) history() int {
	p.t.Helper()
	var entries []Entry
	p.rest("GET", "/history", "", "", &entries)
	return len(entries)
}

// device is a Go client of the program.
type device struct {
	t       *testing.T
	client  *client.Client
	tickets *client.Model[Ticket]
}

func (p *program) device() *device {
	p.t.Helper()
	ctx := p.t.Context()
	c, err := client.Open(ctx, memory.New(), socketio.NewDialer(p.url, nil), &client.Options{MinBackoff: 20 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	d := &device{t: p.t, client: c}
	if d.tickets, err = client.NewModel[Ticket](ctx, c, "ticket", nil); err != nil {
		p.t.Fatal(err)
	}
	if _, err := d.tickets.Register(ctx, tidemark.Where{}); err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (d *device) shows() map[string]string {
	d.t.Helper()
	tickets, err := d.tickets.FindWhere(d.t.Context(), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	out := map[string]string{}
	for _, t := range tickets {
		out[t.UID] = t.Title + " " + t.Status
	}
	return out
}

// page is a raw Socket.IO client, which sees every frame.
type page struct {
	t      *testing.T
	ws     *websocket.Conn
	frames []string
	calls  int
}

func (p *program) page() *page {
	p.t.Helper()
	ws, _, err := websocket.DefaultDialer.DialContext(p.t.Context(), "ws"+strings.TrimPrefix(p.url, "http")+"/socket.io/?EIO=4&transport=websocket", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = ws.Close() })
	pg := &page{t: p.t, ws: ws}
	pg.until("0{")
	if err := ws.WriteMessage(websocket.TextMessage, []byte("40")); err != nil {
		p.t.Fatal(err)
	}
	pg.until(`42["connected"`)
	return pg
}

// until reads frames until one begins so, and returns it.
func (pg *page) until(prefix string) string {
	pg.t.Helper()
	_ = pg.ws.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		_, frame, err := pg.ws.ReadMessage()
		if err != nil {
			pg.t.Fatalf("waited for %s: %v", prefix, err)
		}
		if string(frame) == "2" {
			_ = pg.ws.WriteMessage(websocket.TextMessage, []byte("3"))
			continue
		}
		pg.frames = append(pg.frames, string(frame))
		if strings.HasPrefix(string(frame), prefix) {
			return string(frame)
		}
	}
}

// call calls a method of the tickets' service and returns the answer's frame.
func (pg *page) call(method string, args ...any) string {
	pg.t.Helper()
	raw, err := json.Marshal([]any{"client-request", map[string]any{"name": "ticket", "action": method, "args": args}})
	if err != nil {
		pg.t.Fatal(err)
	}
	id := pg.calls
	pg.calls++
	if err := pg.ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "42%d%s", id, raw)); err != nil {
		pg.t.Fatal(err)
	}
	return pg.until(fmt.Sprintf("43%d", id))
}

// eventually polls until show gives want, for at most 30 seconds.
func eventually(t *testing.T, what string, want map[string]string, show func() map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		got := show()
		if got != nil && fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: got %v, want %v", what, got, want)
		}
	}
}

func TestRoutesAndDevicesWriteTheSameTickets(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) {
		p := start(t, dsn, true)
		d, pg := p.device(), p.page()
		want := map[string]string{"from-before": "from before open"}
		eventually(t, "rows from before", want, d.shows)

		// A route's write appears on the devices.
		printer := p.must("POST", "/tickets", `{"title":"printer on fire"}`)
		want[printer.UID] = "printer on fire open"
		eventually(t, "the device after POST", want, d.shows)
		if event := pg.until(`42["service-event"`); !strings.Contains(event, `"name":"ticket"`) || !strings.Contains(event, `"title":"printer on fire"`) {
			t.Errorf("the page hears %s", event)
		}
		p.must("PATCH", "/tickets/"+printer.UID, `{"status":"closed"}`)
		p.must("PATCH", "/tickets/from-before", `{"assignee":"bob","status":"waiting"}`)
		want[printer.UID], want["from-before"] = "printer on fire closed", "from before waiting"
		eventually(t, "the device after PATCH", want, d.shows)

		// A device's write appears in the routes, a page's as well.
		mine, err := d.tickets.Create(t.Context(), Ticket{Title: "out of paper", Status: "open"})
		if err != nil {
			t.Fatal(err)
		}
		want[mine.UID] = "out of paper open"
		eventually(t, "GET after the device's write", want, p.tickets)
		pg.call("createWithMeta", "by-page", map[string]any{"title": "no toner", "status": "open"}, time.Now().UTC().Format(time.RFC3339Nano))
		want["by-page"] = "no toner open"
		eventually(t, "GET after the page's write", want, p.tickets)
		eventually(t, "the device after the page's write", want, d.shows)

		// Whoever wrote last has won: the route writes over what the device has just written.
		if _, err := d.tickets.Update(t.Context(), mine.UID, client.Patch{"status": "closed"}); err != nil {
			t.Fatal(err)
		}
		if err := d.client.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.must("PATCH", "/tickets/"+mine.UID, `{"status":"reopened"}`)
		want[mine.UID] = "out of paper reopened"
		eventually(t, "the device after the last write", want, d.shows)
		if got := p.history(); got != 4 {
			t.Errorf("%d lines of history, want those of the routes' four writes", got)
		}
	})
}

// The history refuses a line without a name: the ticket is not written either, and no device hears of it.
func TestARollbackPublishesNothing(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) {
		p := start(t, dsn, true)
		pg := p.page()
		if status := p.rest("POST", "/tickets", "", `{"title":"nobody's"}`, nil); status != http.StatusUnprocessableEntity {
			t.Errorf("POST: status %d", status)
		}
		if status := p.rest("PATCH", "/tickets/from-before", "", `{"title":"nobody's"}`, nil); status != http.StatusUnprocessableEntity {
			t.Errorf("PATCH: status %d", status)
		}
		p.must("PATCH", "/tickets/from-before", `{"title":"ann's"}`)
		pg.call("findMany", map[string]any{})
		events := 0
		for _, frame := range pg.frames {
			if strings.Contains(frame, "nobody's") {
				t.Errorf("the page hears %s", frame)
			}
			if strings.HasPrefix(frame, `42["service-event"`) {
				events++
			}
		}
		if events != 1 {
			t.Errorf("%d events, want that of the write that was committed", events)
		}
		eventually(t, "GET", map[string]string{"from-before": "ann's open"}, p.tickets)
		var metas int
		if err := p.db.NewSelect().Table("metadata").ColumnExpr("count(*)").Scan(t.Context(), &metas); err != nil || metas != 1 {
			t.Errorf("%d rows of metadata, %v", metas, err)
		}
	})
}

// What the README says of rows that are written past the library.
func TestPlainSQLReachesDevicesWithTheRowsNextWrite(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, dsn string) {
		p := start(t, dsn, true)
		d, pg := p.device(), p.page()
		want := map[string]string{"from-before": "from before open"}
		eventually(t, "rows from before", want, d.shows)
		if _, err := p.db.NewInsert().Model(&Ticket{UID: "by-sql", Title: "by SQL", Status: "open"}).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := p.must("POST", "/tickets", `{"title":"by a route"}`)
		want[last.UID] = "by a route open"
		eventually(t, "the device, live", want, d.shows)
		pg.call("findUnique", map[string]any{})
		for _, frame := range pg.frames {
			if strings.HasPrefix(frame, `42["service-event"`) && strings.Contains(frame, "by SQL") {
				t.Errorf("the page hears %s", frame)
			}
		}
		d.client.GoOffline()
		d.client.GoOnline()
		last = p.must("POST", "/tickets", `{"title":"by another"}`)
		want[last.UID] = "by another open"
		eventually(t, "the device after its next sync", want, d.shows)
		p.must("PATCH", "/tickets/by-sql", `{"status":"closed"}`)
		want["by-sql"] = "by SQL closed"
		eventually(t, "the device after the row's next write", want, d.shows)
	})
}

// The routes do the same without Tidemark.
func TestTheProgramAsItWas(t *testing.T) {
	t.Parallel()
	for _, withTidemark := range []bool{false, true} {
		t.Run(fmt.Sprint("with Tidemark ", withTidemark), func(t *testing.T) {
			t.Parallel()
			databases(t, func(t *testing.T, dsn string) {
				p := start(t, dsn, withTidemark)
				ticket := p.must("POST", "/tickets", `{"title":"x","assignee":"bob"}`)
				if ticket.UID == "" || ticket.Title != "x" || ticket.Status != "open" || ticket.Assignee == nil || *ticket.Assignee != "bob" {
					t.Errorf("POST answers %+v", ticket)
				}
				if ticket = p.must("PATCH", "/tickets/"+ticket.UID, `{"assignee":null,"status":"closed"}`); ticket.Assignee != nil || ticket.Status != "closed" || ticket.Title != "x" {
					t.Errorf("PATCH answers %+v", ticket)
				}
				for _, c := range []struct {
					path, who, body string
					want            int
				}{
					{"/tickets/none", "ann", `{"title":"x"}`, http.StatusNotFound},
					{"/tickets/from-before", "ann", `{"uid":"x"}`, http.StatusBadRequest},
					{"/tickets/from-before", "ann", `x`, http.StatusBadRequest},
					{"/tickets/from-before", "ann", `{"title":null}`, http.StatusUnprocessableEntity},
					{"/tickets/from-before", "", `{"title":"x"}`, http.StatusUnprocessableEntity},
				} {
					if got := p.rest("PATCH", c.path, c.who, c.body, nil); got != c.want {
						t.Errorf("PATCH %s %s as %q: status %d, want %d", c.path, c.body, c.who, got, c.want)
					}
				}
				if got := p.rest("POST", "/tickets", "ann", `null`, nil); got != http.StatusBadRequest {
					t.Errorf("POST null: status %d", got)
				}
				eventually(t, "GET", map[string]string{"from-before": "from before open", ticket.UID: "x closed"}, p.tickets)
				if got := p.history(); got != 2 {
					t.Errorf("%d lines of history", got)
				}
			})
		})
	}
}

func TestTidemarkIsAddedInUnder25Lines(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("tidemark.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(raw), "\n)\n") // after the imports
	n := 0
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	if n >= 25 {
		t.Errorf("tidemark.go has %d lines of code after its imports", n)
	}
	before, err := os.ReadFile("server.go")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(before), "addTidemark("); got != 1 {
		t.Errorf("server.go mentions it %d times, want one call", got)
	}
	for _, name := range []string{"tidemark/server", "tidemark/driver", "tidemark/transport"} {
		if strings.Contains(string(before), name) {
			t.Errorf("server.go imports %s", name)
		}
	}
}

func TestRunServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, addr, filepath.Join(t.TempDir(), "tickets.db")) }()
	p := &program{t: t, url: "http://" + addr}
	eventually(t, "the program", map[string]string{}, func() map[string]string {
		resp, err := http.Get(p.url + "/tickets")
		if err != nil {
			return nil
		}
		_ = resp.Body.Close()
		return map[string]string{}
	})
	page := p.page()
	p.must("POST", "/tickets", `{"title":"x"}`)
	page.until(`42["service-event"`)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v", err)
	}
}
