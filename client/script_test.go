package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Item is the model of the tests.
type Item struct {
	UID   string `json:"uid"`
	Label string `json:"label"`
	Score *int64 `json:"score"`
}

// Part is a second model.
type Part struct {
	UID  string `json:"uid"`
	Item string `json:"item"`
}

// script is a server that answers as the test says. Requests that no rule
// answers wait for the test in calls.
type script struct {
	t     *testing.T
	calls chan *call

	answers atomic.Int64 // to the script's own calls

	mu      sync.Mutex
	rules   map[string]func(*call) // by service.method, or method
	conn    tidemark.Conn          // the latest
	log     []string               // the requests, short
	hellos  []tidemark.Hello
	refusal *tidemark.Error
}

// call is one request, to be answered.
type call struct {
	tidemark.Request
	msg  *tidemark.Message
	conn tidemark.Conn
}

// side receives for one connection of the script.
type side struct {
	s    *script
	conn chan tidemark.Conn
	c    tidemark.Conn
}

func (s *script) Offer(_ context.Context, o tidemark.Offer) {
	s.mu.Lock()
	s.hellos = append(s.hellos, o.Hello())
	refusal := s.refusal
	s.mu.Unlock()
	if refusal != nil {
		o.Refuse(refusal)
		return
	}
	sd := &side{s: s, conn: make(chan tidemark.Conn, 1)}
	c, err := o.Accept(tidemark.Welcome{ID: "script"}, sd)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	sd.conn <- c
}

func (sd *side) Receive(m *tidemark.Message) {
	if sd.c == nil {
		sd.c = <-sd.conn
	}
	if m.Kind == tidemark.AnswerMessage {
		sd.s.answers.Add(1)
		return
	}
	req, err := tidemark.ParseRequest(m.Args[0])
	if err != nil {
		sd.s.t.Errorf("client sent a bad request: %v", err)
		return
	}
	c := &call{Request: req, msg: m, conn: sd.c}
	s := sd.s
	s.mu.Lock()
	if c.Action != tidemark.MethodOpen {
		s.log = append(s.log, c.String())
	}
	rule := s.rules[req.Name+"."+req.Action]
	if rule == nil {
		rule = s.rules[req.Action]
	}
	s.mu.Unlock()
	if rule == nil {
		s.calls <- c
		return
	}
	rule(c)
}

func (sd *side) Closed(tidemark.CloseReason) {}

// String is the request without stamps and dictionaries.
func (c *call) String() string {
	uid := func() string { return c.text(0) }
	switch c.Action {
	case tidemark.MethodSyncGo:
		return fmt.Sprintf("sync %s %s", c.text(0), c.Args[1])
	case tidemark.MethodCreate, tidemark.MethodUpdate:
		return fmt.Sprintf("%s %s %s", strings.TrimSuffix(c.Action, "WithMeta"), uid(), c.Args[1])
	case tidemark.MethodDelete:
		return "delete " + uid()
	}
	return c.Name + "." + c.Action
}

func (c *call) text(i int) string {
	s, _ := tidemark.DecodeString(c.Args[i])
	return s
}

// stamp is the last argument.
func (c *call) stamp() tidemark.Stamp {
	var s tidemark.Stamp
	_ = s.UnmarshalJSON(c.Args[len(c.Args)-1])
	return s
}

// dict is the dictionary of a sync.
func (c *call) dict() map[string]json.RawMessage {
	var d map[string]json.RawMessage
	_ = json.Unmarshal(c.Args[2], &d)
	return d
}

func (c *call) answer(a tidemark.Answer) {
	raw, _ := a.MarshalJSON()
	_ = c.conn.Send(c.msg.NewAnswer(raw))
}

func (c *call) raw(result string) { c.answer(tidemark.Answer{Result: json.RawMessage(result)}) }

func (c *call) reply(t tidemark.RowMeta) { raw, _ := t.MarshalJSON(); c.raw(string(raw)) }

func (c *call) synced(r tidemark.SyncResult) { raw, _ := r.MarshalJSON(); c.raw(string(raw)) }

func (c *call) fail(code tidemark.Code) {
	c.answer(tidemark.Answer{Err: tidemark.NewError(code, "as the script says")})
}

// accept answers a write as a server does on which it wins.
func (c *call) accept() { c.reply(c.won()) }

func (c *call) won() tidemark.RowMeta {
	uid := c.text(0)
	t := tidemark.RowMeta{Meta: tidemark.Meta{UID: uid, CreatedAt: T0}}
	switch c.Action {
	case tidemark.MethodCreate:
		t.Meta.CreatedAt = c.stamp()
	case tidemark.MethodUpdate:
		t.Meta.UpdatedAt = c.stamp()
	case tidemark.MethodDelete:
		t.Meta.DeletedAt = c.stamp()
		return t
	}
	t.Row = tidemark.Row(fmt.Sprintf(`{"uid":%q}`, uid)).Merge(tidemark.Row(c.Args[1]))
	return t
}

// on makes requests of a method answered by fn; nil gives them back to calls.
func (s *script) on(method string, fn func(*call)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[method] = fn
}

func (s *script) next() *call {
	s.t.Helper()
	select {
	case c := <-s.calls:
		return c
	case <-time.After(10 * time.Minute):
		s.t.Fatal("no request came")
		return nil
	}
}

// requests returns what was asked since the last time.
func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

func (s *script) event(action string, t tidemark.RowMeta) {
	raw, _ := t.MarshalJSON()
	s.emit(tidemark.EventService, tidemark.ServiceEvent{Name: "item", Action: action, Result: raw})
}

func (s *script) emit(event string, arg any) {
	s.t.Helper()
	m, err := tidemark.NewEvent(event, arg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Send(m)
}

// The instants of the scenarios; a bubble's time begins in the year 2000.
var (
	start  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	T0     = tidemark.StampOf(start.AddDate(0, 0, -3))
	T1     = tidemark.StampOf(start.AddDate(0, 0, -2))
	T2     = tidemark.StampOf(start.AddDate(0, 0, -1))
	future = tidemark.StampOf(start.AddDate(0, 0, 1))
)

// bench is one client before a script.
type bench struct {
	t      *testing.T
	script *script
	pipe   *pipe.Pipe
	store  *memory.Store
	opts   *client.Options
	client *client.Client
	items  *client.Model[Item]
	logs   *logged
	dial   dialerFunc // of a device, in place of the world's
}

type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

// run runs fn in a bubble, with a client that is not opened yet, and a script
// that answers each sync of the guide's protocol with nothing to do and accepts each write.
func run(t *testing.T, fn func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newBench(t)) })
}

func newBench(t *testing.T) *bench {
	s := &script{t: t, calls: make(chan *call, 1000), rules: map[string]func(*call){}}
	s.on(tidemark.MethodOpen, func(c *call) { c.fail(tidemark.CodeMissingMethod) }) // it speaks the guide's protocol
	s.on(tidemark.MethodSyncGo, func(c *call) { c.synced(tidemark.SyncResult{}) })
	for _, m := range []string{tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete} {
		s.on(m, (*call).accept)
	}
	logs := &logged{}
	b := &bench{t: t, script: s, pipe: pipe.New(s, nil), store: memory.New(), logs: logs,
		opts: &client.Options{Logger: slog.New(slog.NewTextHandler(logs, nil))}}
	t.Cleanup(func() {
		if b.client != nil {
			b.client.Close()
		}
		b.pipe.Close()
		b.store.Close()
	})
	return b
}

// open opens the client, and waits until nothing more happens.
func (b *bench) open() *bench {
	b.t.Helper()
	c, err := client.Open(b.t.Context(), b.store, b.pipe, b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client = c
	if b.items, err = client.NewModel[Item](b.t.Context(), c, "item", nil); err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return b
}

// crash closes the client and opens it again on what its store had.
func (b *bench) crash() *bench {
	b.t.Helper()
	old := b.store
	b.store = old.Reopen()
	b.client.Close()
	return b.open()
}

func (b *bench) register(where tidemark.Where) *client.Scope {
	b.t.Helper()
	s, err := b.items.Register(b.t.Context(), where)
	if err != nil {
		b.t.Fatal(err)
	}
	synctest.Wait()
	return s
}

// hold puts rows into the store as if they had been synchronised.
func (b *bench) hold(recs ...tidemark.RowMeta) *bench {
	b.t.Helper()
	schema, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text}, {Name: "score", Kind: tidemark.Integer}})
	if err == nil {
		err = b.store.Declare(b.t.Context(), schema)
	}
	if err == nil {
		err = b.store.Update(b.t.Context(), func(tx tidemark.StoreTx) error {
			var out []tidemark.Record
			for _, r := range recs {
				out = append(out, tidemark.Record{UID: r.Meta.UID, Row: r.Row, Base: r.Row, Meta: r.Meta})
			}
			return tx.Put("item", out)
		})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return b
}

// state is what a server tells of a row.
func state(uid, label string, created, updated, deleted tidemark.Stamp) tidemark.RowMeta {
	t := tidemark.RowMeta{Meta: tidemark.Meta{UID: uid, CreatedAt: created, UpdatedAt: updated, DeletedAt: deleted}}
	if label != "" {
		t.Row = tidemark.Row(fmt.Sprintf(`{"uid":%q,"label":%q,"score":null}`, uid, label))
	}
	return t
}

func live(uid, label string, at tidemark.Stamp) tidemark.RowMeta { return state(uid, label, at, 0, 0) }

func tombstone(uid, label string, at tidemark.Stamp) tidemark.RowMeta {
	return state(uid, label, T0, 0, at)
}

func (b *bench) create(uid, label string) {
	b.t.Helper()
	if _, err := b.items.Create(b.t.Context(), Item{UID: uid, Label: label}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) update(uid, label string) {
	b.t.Helper()
	if _, err := b.items.Update(b.t.Context(), uid, client.Patch{"label": label}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) remove(uid string) {
	b.t.Helper()
	if err := b.items.Remove(b.t.Context(), uid); err != nil {
		b.t.Fatal(err)
	}
}

// sees checks the labels of all visible rows, after what is under way has happened.
func (b *bench) sees(want ...string) {
	b.t.Helper()
	synctest.Wait()
	items, err := b.items.FindWhere(b.t.Context(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	var got []string
	for _, i := range items {
		got = append(got, i.Label)
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("visible rows are %q, want %q", got, want)
	}
}

// record is what the store keeps of a row.
func (b *bench) record(uid string) tidemark.Record {
	b.t.Helper()
	synctest.Wait()
	var r tidemark.Record
	err := b.store.View(b.t.Context(), func(tx tidemark.StoreTx) error {
		recs, err := tx.Records("item", []string{uid})
		r = recs[0]
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// pending checks how many writes are pending, in the status and in the store.
func (b *bench) pending(want int) {
	b.t.Helper()
	synctest.Wait()
	var ms []tidemark.Mutation
	err := b.store.View(b.t.Context(), func(tx tidemark.StoreTx) (err error) {
		ms, err = tx.Outbox(0, 0)
		return err
	})
	if got := b.client.Status().Pending; err != nil || got != want || len(ms) != want {
		b.t.Fatalf("pending: status %d, outbox %d, want %d (%v)", got, len(ms), want, err)
	}
}

// rejections checks the kinds of the stored rejections, and returns them.
func (b *bench) rejections(want ...client.RejectionKind) []client.Rejection {
	b.t.Helper()
	synctest.Wait()
	rs, err := b.client.Rejections(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	var got []client.RejectionKind
	for _, r := range rs {
		got = append(got, r.Kind)
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("rejections are %v, want %v", got, want)
	}
	if n := b.client.Status().Rejected; n != len(want) {
		b.t.Fatalf("status counts %d rejections, want %d", n, len(want))
	}
	return rs
}

func (b *bench) state(want client.State) {
	b.t.Helper()
	synctest.Wait()
	if got := b.client.Status(); got.State != want {
		b.t.Fatalf("the client is %v, want %v (%+v)", got.State, want, got)
	}
}

func (b *bench) sent(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.script.requests(); !slices.Equal(got, want) {
		b.t.Fatalf("the client sent\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func wantCode(t *testing.T, err error, want tidemark.Code) {
	t.Helper()
	if got := tidemark.CodeOf(err); got != want {
		t.Fatalf("error is %v, want code %s", err, want)
	}
}

func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
