// Package sim runs the real stack in a bubble of virtual time: the server's handler over
// SQLite, the websocket transport, client engines on SQLite stores, on a network that
// delivers nothing before a seeded scheduler says so. One stimulus at a time, on one processor, and
// then everything comes to rest: so a seed gives the same run again. (Not with -race, which has the runtime
// choose among goroutines by chance.)
//
//	go test ./internal/sim -seeds 300      # seeds 1 to 300
//	go test ./internal/sim -seed 42 -v     # one of them, with its last steps
//
// docs/reliability.md says what is broken on purpose, and what must hold.
package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// Config is the size of a world.
type Config struct {
	Devices int // how many devices there are
	Steps   int // how many stimuli the chaos has
}

// Counters are what happened in a run.
type Counters struct {
	Steps, Packets, Writes, Cuts, DeviceCrashes, ServerCrashes, Faults int
	Restores, Undone                                                   int           // of the server's database, and decisions that were lost
	Pages, Changes, Verdicts, Events                                   int           // packets that have some
	Healing                                                            time.Duration // virtual time until all was well
}

// Add adds what another run gave.
func (c *Counters) Add(o Counters) {
	c.Steps += o.Steps
	c.Packets += o.Packets
	c.Writes += o.Writes
	c.Cuts += o.Cuts
	c.DeviceCrashes += o.DeviceCrashes
	c.ServerCrashes += o.ServerCrashes
	c.Faults += o.Faults
	c.Restores += o.Restores
	c.Undone += o.Undone
	c.Pages += o.Pages
	c.Changes += o.Changes
	c.Verdicts += o.Verdicts
	c.Events += o.Events
	c.Healing = max(c.Healing, o.Healing)
}

// Result is what a run gave.
type Result struct {
	Counters Counters
	Hash     uint64   // of everything that was done and became
	Trace    []string // the last steps
	Err      error    // the promise that was broken, nil for none
}

// world is one run.
type world struct {
	seed    uint64
	rng     *rand.Rand
	net     *network
	host    *host
	devices []*device
	books   *books
	lists   []string
	steps   int
	counts  Counters
	uids    map[string]int
	trace   []string
	hash    uint64
}

var errReset = syscall.ECONNRESET

// Run makes one run in a bubble of its own.
func Run(t *testing.T, seed uint64, cfg Config) (r Result) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // of goroutines that a stimulus wakes the same comes first each time
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), net: &network{}, books: newBooks(), uids: map[string]int{}}
		err := w.run(t.Context(), cfg)
		r = Result{Counters: w.counts, Hash: w.hash, Trace: w.trace, Err: err}
	})
	return r
}

func (w *world) run(ctx context.Context, cfg Config) (err error) {
	for i := range 3 {
		w.lists = append(w.lists, fmt.Sprintf("list-%d", i))
	}
	w.net.highWater = w.limits().highWater
	if w.host, err = newHost(ctx, w); err != nil {
		return err
	}
	defer w.host.close()
	if err := w.host.start(ctx); err != nil {
		return err
	}
	for i, uid := range w.lists {
		if _, err := w.host.up.server.Service("list").Call(ctx, tidemark.MethodCreate, uid, map[string]any{"note": fmt.Sprint("list ", i)}, w.host.up.server.Now()); err != nil {
			return err
		}
	}
	for i := range cfg.Devices {
		d, err := newDevice(w, i)
		if err != nil {
			return err
		}
		defer d.db.Close()
		defer d.halt()
		w.devices = append(w.devices, d)
		if err := d.boot(ctx); err != nil {
			return err
		}
		w.rest()
	}
	for w.steps = 1; w.steps <= cfg.Steps; w.steps++ {
		w.step(ctx)
		w.rest()
		if err := w.aftermath(ctx); err != nil {
			return err
		}
		for _, d := range w.devices {
			if err := d.look(ctx); err != nil {
				return err
			}
		}
		if w.steps%10 == 0 {
			if err := w.within(); err != nil {
				return err
			}
		}
		if err := w.books.breached(); err != nil {
			return err
		}
	}
	w.counts.Steps = cfg.Steps
	if err := w.heal(ctx); err != nil {
		return err
	}
	return w.check(ctx)
}

// rest lets everything come to rest. A moment passes, so that no two stimuli fall on one instant, and no
// two timers that they lead to: the bubble fires those in any order.
func (w *world) rest() {
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	w.introduce()
}

// aftermath makes the crashes that the last stimulus led to.
func (w *world) aftermath(ctx context.Context) error {
	if w.host.wants {
		w.note("server dies")
		w.counts.ServerCrashes++
		w.host.stop(true)
		w.rest()
	}
	for _, d := range w.devices {
		if d.wants {
			w.note("%s dies", d.name)
			w.counts.DeviceCrashes++
			d.crash()
			w.rest()
		}
	}
	return nil
}

// note adds a line to the trace.
func (w *world) note(format string, args ...any) {
	const kept = 150
	line := fmt.Sprintf("%5d %s", w.steps, fmt.Sprintf(format, args...))
	h := fnv.New64a()
	fmt.Fprintf(h, "%d%s", w.hash, line)
	w.hash = h.Sum64()
	if w.trace = append(w.trace, line); len(w.trace) > kept {
		w.trace = w.trace[1:]
	}
}

// known gives a uid a short name for the trace.
func (w *world) known(uid string) {
	if _, ok := w.uids[uid]; !ok {
		w.uids[uid] = len(w.uids) + 1
	}
}

func (w *world) short(uid string) string {
	w.known(uid)
	return fmt.Sprintf("row %d", w.uids[uid])
}

// heal ends all faults, and waits until every device says that it is in step.
func (w *world) heal(ctx context.Context) error {
	w.note("healing")
	w.net.refusing = false
	if w.host.up == nil {
		if err := w.host.start(ctx); err != nil {
			return err
		}
	}
	w.host.up.database.next.Store(int32(noFault))
	for _, d := range w.devices {
		d.frozen = false
		if d.client == nil {
			if err := d.boot(ctx); err != nil {
				return err
			}
		}
		d.file.next.Store(int32(soundStore))
		d.client.GoOnline()
		w.rest()
	}
	began := time.Now()
	for quiet := 0; quiet < 3; {
		w.pump()
		if err := w.aftermath(ctx); err != nil {
			return err
		}
		err := w.settled()
		if err == nil { // a device may not have noticed yet that its connection is half open
			err = w.converged(ctx)
		}
		if err == nil {
			quiet++
		} else if quiet = 0; time.Since(began) > promptly {
			return fmt.Errorf("after %v without faults: %w", promptly, err)
		}
		time.Sleep(250 * time.Millisecond)
	}
	w.counts.Healing = max(w.counts.Healing, time.Since(began))
	return w.books.breached()
}

// promptly is within which virtual time everything must be well once faults stop.
const promptly = 60 * time.Second

// pump delivers everything, one chunk after the other.
func (w *world) pump() {
	for {
		w.rest()
		waiting := w.net.waiting(func(*stream) bool { return false })
		if len(waiting) == 0 {
			return
		}
		w.inspect(waiting[0])
		waiting[0].deliver(0)
		w.counts.Packets++
	}
}

// settled: each device says that it is in step.
func (w *world) settled() error {
	for _, d := range w.devices {
		if s := d.client.Status(); s.State != synced || s.Pending > 0 {
			return fmt.Errorf("liveness: %s", w.statuses())
		}
	}
	return nil
}

func (w *world) statuses() string {
	var b strings.Builder
	for _, d := range w.devices {
		fmt.Fprintf(&b, "%s %+v; ", d.name, d.client.Status())
	}
	return b.String()
}

func keys[K comparable, V any](m map[K]V) iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
