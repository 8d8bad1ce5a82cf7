package client_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// world is a real server, which publishes items to everybody, and its devices.
type world struct {
	t      *testing.T
	schema *tidemark.Schema
	db     *drivermemory.Driver
	server *server.Server
	guide  bool           // the server has the guide's protocol only
	opts   server.Options // of the server

	mu   sync.Mutex // protects pipe against the devices' dials
	pipe *pipe.Pipe
}

func (w *world) dial(ctx context.Context, h tidemark.Hello, r tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	w.mu.Lock()
	p := w.pipe
	w.mu.Unlock()
	return p.Dial(ctx, h, r)
}

// inWorld runs fn with a server of the guide's protocol, and with one that has the second as well.
func inWorld(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	t.Run("guide", func(t *testing.T) { inGuideWorld(t, fn) })
	t.Run("second", func(t *testing.T) { inSecondWorld(t, nil, fn) })
}

func inGuideWorld(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newWorld(t, true, nil)) })
}

func inSecondWorld(t *testing.T, opts *server.Options, fn func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { fn(t, newWorld(t, false, opts)) })
}

func newWorld(t *testing.T, guide bool, opts *server.Options) *world {
	schema, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text, Required: true}, {Name: "score", Kind: tidemark.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, schema: schema, db: drivermemory.New(schema), guide: guide}
	if opts != nil {
		w.opts = *opts
	}
	w.start()
	t.Cleanup(w.stop)
	return w
}

// guideDriver is a driver that keeps no log, so that its server has the guide's protocol only.
type guideDriver struct{ tidemark.TxDriver }

func (w *world) start() {
	var driver tidemark.Driver = w.db
	if w.guide {
		driver = guideDriver{w.db}
	}
	srv, err := server.New(driver, &w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	srv.Service("item").Publish(server.To("all"))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server, w.pipe = srv, pipe.New(srv, nil)
}

func (w *world) stop() {
	w.pipe.Close()
	w.server.Close()
}

// restart stops the server and starts another one.
func (w *world) restart() {
	w.stop()
	w.start()
}

// device opens a client; its dials go to whatever pipe the world has then.
func (w *world) device(opts *client.Options) *bench {
	return w.deviceOver(w.dial, opts)
}

func (w *world) deviceOver(dial dialerFunc, opts *client.Options) *bench {
	b := &bench{t: w.t, dial: dial, store: memory.New(), opts: opts, logs: &logged{}}
	b.reopen(w)
	w.t.Cleanup(func() { b.client.Close(); b.store.Close() })
	return b
}

func (b *bench) reopen(w *world) {
	b.t.Helper()
	c, err := client.Open(b.t.Context(), b.store, b.dial, b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.client = c
	if b.items, err = client.NewModel[Item](b.t.Context(), c, "item", nil); err != nil {
		b.t.Fatal(err)
	}
}

// rows are the labels of the server's rows.
func (w *world) rows() []string {
	w.t.Helper()
	synctest.Wait()
	p, err := tidemark.Where{}.Compile(w.schema)
	if err != nil {
		w.t.Fatal(err)
	}
	rows, err := w.db.Find(w.t.Context(), p, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(rows, func(a, b tidemark.Row) int { return cmp.Compare(a.UID(), b.UID()) })
	var out []string
	for _, r := range rows {
		s, _ := tidemark.DecodeString(r.Get("label"))
		out = append(out, s)
	}
	return out
}

func (w *world) has(want ...string) {
	w.t.Helper()
	if got := w.rows(); !slices.Equal(got, want) {
		w.t.Fatalf("the server has %q, want %q", got, want)
	}
}

func (w *world) write(ms ...tidemark.Mutation) {
	w.t.Helper()
	if _, err := w.db.Write(w.t.Context(), ms); err != nil {
		w.t.Fatal(err)
	}
}

func TestServerStopsAndReturnsOnTheSameAddress(t *testing.T) { // 46
	inWorld(t, func(t *testing.T, w *world) {
		a := w.device(nil)
		a.register(nil)
		a.state(client.Synced)
		w.pipe.Close()
		w.server.Close()
		pass(time.Minute)
		a.state(client.Connecting)
		a.create("u", "offline")
		w.start()
		pass(time.Minute)
		a.state(client.Synced)
		w.has("offline")
	})
}

func TestRowThatOnlyTheServerHasIsPulledNotDeleted(t *testing.T) { // 61
	inWorld(t, func(t *testing.T, w *world) {
		w.write(tidemark.Mutation{Model: "item", UID: "u", Op: tidemark.Create, Data: tidemark.Row(`{"label":"theirs"}`), Stamp: T1})
		a := w.device(nil)
		wantIs(t, a.items.Remove(t.Context(), "u"), tidemark.ErrNotFound)
		a.register(nil)
		a.sees("theirs")
	})
}

func TestRangesPullOnlyWhatTheySelect(t *testing.T) { // 68 and 69
	inWorld(t, func(t *testing.T, w *world) {
		for i, score := range []int{0, 5, 15} {
			w.write(tidemark.Mutation{Model: "item", UID: fmt.Sprint(i), Op: tidemark.Create, Data: tidemark.Row(fmt.Sprintf(`{"label":"s%d","score":%d}`, score, score)), Stamp: T1})
		}
		a, b := w.device(nil), w.device(nil)
		a.register(tidemark.Where{"score": tidemark.Range{GTE: 1, LTE: 10}})
		a.sees("s5")
		b.register(tidemark.Where{"score": tidemark.Range{GTE: 5}})
		b.sees("s5", "s15")
	})
}

func TestRowOfTheDevicesOwnOutsideItsScopeIsPushed(t *testing.T) { // 73 departs: pending writes need no scope
	inWorld(t, func(t *testing.T, w *world) {
		a := w.device(nil)
		a.register(tidemark.Where{"label": "open"})
		a.create("u", "closed")
		w.has("closed")
		a.sees("closed")
	})
}

func TestRowEditedOutOfItsScopeWhileOffline(t *testing.T) { // 77
	inWorld(t, func(t *testing.T, w *world) {
		a := w.device(nil)
		a.register(tidemark.Where{"label": "open"})
		a.create("u", "open")
		a.state(client.Synced)
		a.client.GoOffline()
		a.update("u", "closed")
		a.client.GoOnline()
		w.has("closed")
		a.sees("closed")
		a.pending(0)
	})
}

func TestOneDevicesWriteReachesTheOther(t *testing.T) { // 100
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.device(nil), w.device(nil)
		b.register(nil)
		a.create("u", "hello")
		b.sees("hello")
		a.update("u", "changed")
		b.sees("changed")
		a.remove("u")
		b.sees()
		w.has()
	})
}

func TestUpdateAfterTheRowWasDeletedElsewhereBringsItBack(t *testing.T) { // 19
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.device(nil), w.device(nil)
		a.register(nil)
		a.create("u", "first")
		b.register(nil)
		b.sees("first")
		b.client.GoOffline()
		a.remove("u")
		w.has()
		pass(time.Second)
		b.update("u", "newer")
		b.client.GoOnline()
		w.has("newer")
		a.sees("newer")
	})
}

func TestOlderEditLosesAgainstTheDeletionAndIsListed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.device(nil), w.device(nil)
		a.register(nil)
		a.create("u", "first")
		b.register(nil)
		b.sees("first")
		b.client.GoOffline()
		b.update("u", "older")
		pass(time.Second)
		a.remove("u")
		w.has() // before the older edit arrives
		b.client.GoOnline()
		w.has()
		a.sees()
		b.sees()
		b.rejections(client.Superseded)
	})
}

func TestServerThatForgotItsRowsGetsThemBack(t *testing.T) { // 5, 59
	inGuideWorld(t, func(t *testing.T, w *world) {
		a := w.device(nil)
		a.register(nil)
		a.create("u", "first")
		pass(time.Second)
		a.create("v", "second")
		a.update("u", "edited")
		a.state(client.Synced)
		w.db = drivermemory.New(w.schema)
		w.restart()
		pass(time.Minute)
		w.has("edited", "second")
		a.sees("edited", "second")
		a.pending(0)
		a.rejections()
	})
}

func TestDeviceWhoseClockIsAheadKeepsTheOrderOfItsWrites(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.device(&client.Options{Offline: true, Now: func() time.Time { return time.Now().Add(10 * time.Minute) }})
		b := w.device(nil)
		b.register(nil)
		a.create("u", "one")
		a.update("u", "two")
		a.update("u", "three")
		a.client.GoOnline()
		w.has("three")
		a.sees("three")
		a.rejections()
		pass(time.Second)
		if !w.guide {
			a.register(nil) // where there are channels a row that is held is enough
		}
		b.update("u", "honest")
		w.has("honest")
		a.sees("honest")
	})
}

var seeds = flag.Int("seeds", 60, "how many random histories TestDevicesConverge plays")
var seed = flag.Uint64("seed", 0, "play only the history of this seed")

// Whatever devices and links do, in the end all have the server's rows, and
// nothing is pending.
func TestDevicesConverge(t *testing.T) {
	first, last := uint64(1), uint64(*seeds)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for n := first; n <= last; n++ {
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) { history(t, w, rand.New(rand.NewPCG(n, 0))) })
		})
	}
}

func history(t *testing.T, w *world, r *rand.Rand) {
	wheres := []tidemark.Where{nil, {"label": "x"}, {"score": tidemark.Range{GTE: 3}}, {"score": nil}}
	var devices []*bench
	for range 3 {
		own := rand.New(rand.NewPCG(r.Uint64(), 0)) // a device draws on a goroutine of its own
		skew := time.Duration(r.IntN(600)-300) * time.Second
		b := w.device(&client.Options{Rand: own.Float64, MaxMessage: 1500, Now: func() time.Time { return time.Now().Add(skew) }})
		b.register(nil)
		devices = append(devices, b)
	}
	for range 150 {
		b := devices[r.IntN(len(devices))]
		act(t, w, b, r, wheres)
		if r.IntN(3) == 0 {
			synctest.Wait()
		}
		if r.IntN(3) == 0 {
			pass(time.Duration(r.IntN(3000)) * time.Millisecond)
		}
	}
	for _, b := range devices {
		b.client.GoOnline()
	}
	pass(2 * time.Minute)
	want := w.full()
	for i, b := range devices {
		b.state(client.Synced)
		b.pending(0)
		items, err := b.items.FindWhere(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := render(items); got != want {
			t.Errorf("device %d has\n  %s\nthe server\n  %s", i, got, want)
		}
	}
}

func act(t *testing.T, w *world, b *bench, r *rand.Rand, wheres []tidemark.Where) {
	ctx := t.Context()
	uid := fmt.Sprintf("u%02d", r.IntN(12))
	score := int64(r.IntN(6))
	switch r.IntN(14) {
	case 0, 1, 2:
		_, _ = b.items.Create(ctx, Item{UID: uid, Label: string("xyz"[r.IntN(3)]), Score: &score})
	case 3, 4, 5:
		_, _ = b.items.Update(ctx, uid, client.Patch{"label": string("xyz"[r.IntN(3)])})
	case 6, 7:
		_, _ = b.items.Update(ctx, uid, client.Patch{"score": score})
	case 8:
		_ = b.items.Remove(ctx, uid)
	case 9:
		b.client.GoOffline()
	case 10:
		b.client.GoOnline()
	case 11:
		w.pipe.Cut()
	case 12:
		old := b.store
		b.store = old.Reopen()
		b.client.Close()
		b.reopen(w)
	case 13:
		s, err := b.items.Register(ctx, wheres[r.IntN(len(wheres))])
		if err != nil {
			t.Error(err)
		} else if r.IntN(2) == 0 && string(s.Where()) != "{}" {
			s.Release()
		}
	}
}

// full is all that the server has, as text.
func (w *world) full() string {
	p, _ := tidemark.Where{}.Compile(w.schema)
	rows, err := w.db.Find(w.t.Context(), p, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(rows, func(a, b tidemark.Row) int { return cmp.Compare(a.UID(), b.UID()) })
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%s=%s/%s ", r.UID(), r.Get("label"), r.Get("score"))
	}
	return b.String()
}

func render(items []Item) string {
	var b strings.Builder
	for _, i := range items {
		score := "null"
		if i.Score != nil {
			score = fmt.Sprint(*i.Score)
		}
		fmt.Fprintf(&b, "%s=%q/%s ", i.UID, i.Label, score)
	}
	return b.String()
}
