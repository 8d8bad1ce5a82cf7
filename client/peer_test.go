package client_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
)

// peer makes a script speak the second protocol as far as pushing goes, over a real
// driver. A test may have it decide less, or otherwise, than a server does.
type peer struct {
	*bench
	db     *drivermemory.Driver
	limits tidemark.ServerLimits
	now    func() time.Time
	clock  *tidemark.Clock

	refuse func(m *tidemark.Mutation) *tidemark.Error // nil for what is not refused

	mu      sync.Mutex       // protects what follows while calls are answered
	names   []string         // under which clients opened
	batches []tidemark.Batch // as they came
	fresh   map[string]int   // how often each write was decided, by its text, repetitions not counted
}

// inBatches runs fn in a bubble, with a client that is not opened yet.
func inBatches(t *testing.T, fn func(t *testing.T, p *peer)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newPeer(t)) })
}

func itemSchema(t testing.TB) *tidemark.Schema {
	t.Helper()
	s, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text, Required: true}, {Name: "score", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newPeer(t *testing.T) *peer {
	p := &peer{bench: newBench(t), db: drivermemory.New(itemSchema(t)), now: time.Now, fresh: map[string]int{},
		limits: tidemark.ServerLimits{Scopes: 128, Mutations: 500, Bytes: 1 << 18, MaxDrift: int64(tidemark.DefaultMaxDrift / time.Microsecond)}}
	p.clock = tidemark.NewClock(func() time.Time { return p.now() })
	p.script.on(tidemark.MethodOpen, p.open2)
	p.script.on(tidemark.MethodPush, p.decide)
	return p
}

// open2 answers sync.open.
func (p *peer) open2(c *call) {
	var req tidemark.OpenRequest
	_ = json.Unmarshal(c.Args[0], &req)
	p.mu.Lock()
	p.names = append(p.names, req.Client)
	p.mu.Unlock()
	highest, err := p.db.Known(p.t.Context(), req.Client)
	if err != nil || len(req.Scopes) > 0 {
		p.t.Errorf("open: %v, %d scopes", err, len(req.Scopes))
	}
	c.result(tidemark.OpenAnswer{Protocol: 1, Now: tidemark.StampOf(p.now()), Epoch: "e", Highest: highest, Limits: p.limits})
}

func (c *call) result(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	c.raw(string(raw))
}

// batch reads the batch of a push, and notes it.
func (p *peer) batch(c *call) *tidemark.Batch {
	p.t.Helper()
	b, err := tidemark.ParseBatch(c.Args[0], p.limits.Mutations)
	if err != nil {
		p.t.Errorf("a bad batch: %v", err)
		return &tidemark.Batch{}
	}
	came := *b
	came.Mutations = slices.Clone(b.Mutations) // since deciding clamps their stamps
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches = append(p.batches, came)
	return b
}

// judge decides a batch as a server does.
func (p *peer) judge(b *tidemark.Batch) ([]tidemark.Verdict, error) {
	sent := slices.Clone(b.Mutations)
	for i := range b.Mutations {
		m := &b.Mutations[i]
		m.Stamp = p.clock.Clamp(m.Stamp, time.Duration(p.limits.MaxDrift)*time.Microsecond)
		var e *tidemark.Error
		if p.refuse != nil {
			e = p.refuse(m)
		}
		b.Refused = append(b.Refused, e)
	}
	vs, err := p.db.Push(p.t.Context(), b, nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range vs {
		if !vs[i].Repeated {
			p.fresh[writeOf(&sent[i])]++
		}
	}
	return vs, err
}

func writeOf(m *tidemark.Mutation) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", m.Op, m.UID, m.Data))
}

// decide answers a push.
func (p *peer) decide(c *call) { p.tell(c, 1<<30) }

// tell decides a batch, and answers the first verdicts.
func (p *peer) tell(c *call, most int) {
	b := p.batch(c)
	if len(b.Mutations) == 0 {
		c.fail(tidemark.CodeInvalidRequest)
		return
	}
	if len(b.Mutations) > most {
		b = b.Part(0, most)
	}
	vs, err := p.judge(b)
	if err != nil {
		c.answer(tidemark.Answer{Err: tidemark.WireError(err)})
		return
	}
	c.verdicts(&tidemark.PushAnswer{Now: tidemark.StampOf(p.now()), Verdicts: vs})
}

func (c *call) verdicts(a *tidemark.PushAnswer) {
	raw, _ := a.MarshalJSON()
	c.raw(string(raw))
}

// has checks the labels of the server's rows.
func (p *peer) has(want ...string) {
	p.t.Helper()
	synctest.Wait()
	if got := labels(p.t, p.db); !slices.Equal(got, want) {
		p.t.Fatalf("the server has %q, want %q", got, want)
	}
}

func labels(t testing.TB, db *drivermemory.Driver) []string {
	t.Helper()
	all, err := tidemark.Where{}.Compile(db.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.Find(t.Context(), all, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range rows {
		s, _ := tidemark.DecodeString(r.Get("label"))
		out = append(out, s)
	}
	return out
}

// numbers are those of the batches that came, first to last.
func (p *peer) numbers() []string {
	synctest.Wait()
	var out []string
	for _, b := range p.batches {
		out = append(out, fmt.Sprintf("%d-%d", b.Mutations[0].N, b.Mutations[len(b.Mutations)-1].N))
	}
	p.batches = nil
	return out
}

func (p *peer) came(want ...string) {
	p.t.Helper()
	if got := p.numbers(); !slices.Equal(got, want) {
		p.t.Fatalf("the batches were %q, want %q", got, want)
	}
}

// once checks that each of n writes was decided exactly once.
func (p *peer) once(n int) {
	p.t.Helper()
	synctest.Wait()
	if len(p.fresh) != n {
		p.t.Errorf("%d writes were decided, want %d", len(p.fresh), n)
	}
	for w, times := range p.fresh {
		if times != 1 {
			p.t.Errorf("%s was decided %d times", w, times)
		}
	}
}

func (p *peer) offline() *peer {
	p.opts.Offline = true
	p.open()
	return p
}

// known makes the client known to the server, by the row "known", and takes it offline.
func (p *peer) known() *peer {
	p.t.Helper()
	p.script.on(tidemark.MethodPush, p.decide)
	p.open()
	p.create("known", "known")
	p.pending(0)
	p.client.GoOffline()
	p.script.on(tidemark.MethodPush, nil)
	p.batches, p.fresh = nil, map[string]int{}
	return p
}

// queue makes n rows, u001 and on, one write each.
func (p *peer) queue(n int) {
	p.t.Helper()
	for i := range n {
		p.create(fmt.Sprintf("u%03d", i+1), fmt.Sprintf("l%03d", i+1))
	}
}
