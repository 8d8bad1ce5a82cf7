package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

const synced = client.Synced

// stimulus is one thing that the scheduler can do.
type stimulus struct {
	name   string
	weight int
	do     func(*world, context.Context) string
}

var stimuli = []stimulus{
	{"deliver", 60, (*world).deliver},
	{"edit", 16, (*world).edit},
	{"wait", 8, (*world).wait},
	{"cut", 2, (*world).cut},
	{"server writes", 3, (*world).serverWrites},
	{"database fault", 2, (*world).databaseFault},
	{"store fault", 1, (*world).storeFault},
	{"device restarts", 2, (*world).restartDevice},
	{"server restarts", 1, (*world).restartServer},
	{"network", 1, (*world).network},
	{"switch", 1, (*world).toggle},
	{"freeze", 1, (*world).freeze},
	{"clock", 1, (*world).clock},
	{"retry", 1, (*world).retry},
	{"scope", 2, (*world).changeScope},
	{"evict", 1, (*world).evict},
	{"purge", 1, (*world).purge},
}

// step does one thing, by the dice. What is down comes up again soon, and what has been
// sent arrives soon: otherwise little would happen.
func (w *world) step(ctx context.Context) {
	if w.host.up == nil && w.rng.IntN(8) == 0 {
		w.note("server: %s", w.restartServer(ctx))
		return
	}
	for _, d := range w.devices {
		if d.client == nil && w.rng.IntN(8) == 0 {
			w.note("device: %s", d.restart(ctx))
			return
		}
	}
	if w.net.refuses() && w.rng.IntN(12) == 0 {
		w.note("network: %s", w.network(ctx))
		return
	}
	for _, d := range w.devices {
		if d.frozen && w.rng.IntN(20) == 0 {
			d.frozen = false
			w.note("%s reads again", d.name)
			return
		}
		if d.client != nil && d.client.Status().State == client.Offline && w.rng.IntN(20) == 0 {
			d.client.GoOnline()
			w.note("%s goes online", d.name)
			return
		}
	}
	list, total := stimuli, 0
	if w.restores() {
		list = slices.Concat(stimuli, restoring)
	}
	for _, s := range list {
		total += s.weight
	}
	k := w.rng.IntN(total)
	for _, s := range list {
		if k -= s.weight; k < 0 {
			w.note("%s: %s", s.name, s.do(w, ctx))
			return
		}
	}
}

func (w *world) deliver(context.Context) string {
	waiting := w.net.waiting(w.isFrozen)
	if len(waiting) == 0 {
		d := time.Duration(1+w.rng.IntN(400)) * time.Millisecond
		time.Sleep(d)
		return "nothing, for " + d.String()
	}
	s := waiting[w.rng.IntN(len(waiting))]
	cut := 0
	if w.rng.IntN(8) == 0 {
		cut = w.rng.IntN(s.size() + 1)
	}
	w.counts.Packets++
	w.inspect(s)
	s.deliver(cut)
	return s.name
}

// isFrozen reports whether the device at the end of s reads nothing.
func (w *world) isFrozen(s *stream) bool {
	for _, d := range w.devices {
		if d.frozen && len(s.name) > len(d.name) && s.name[:len(d.name)+1] == d.name+"#" && s.name[len(s.name)-1] == '<' {
			return true
		}
	}
	return false
}

func (w *world) device() *device { return w.devices[w.rng.IntN(len(w.devices))] }

func (w *world) edit(ctx context.Context) string {
	d := w.device()
	w.counts.Writes++
	return d.name + " " + d.edit(ctx)
}

func (w *world) wait(context.Context) string {
	for _, most := range []int{5, 50, 2000, 12000} {
		if w.rng.IntN(2) == 0 || most == 12000 {
			d := time.Duration(1+w.rng.IntN(most)) * time.Millisecond
			time.Sleep(d)
			return d.String()
		}
	}
	return ""
}

func (w *world) cut(context.Context) string {
	open := w.net.open()
	if len(open) == 0 {
		return "nothing"
	}
	pair := open[w.rng.IntN(len(open))]
	w.counts.Cuts++
	switch w.rng.IntN(3) {
	case 0: // both hear of it at once, what was on its way is lost
		pair[0].fail(errReset)
		pair[1].fail(errReset)
		return "reset " + pair[0].name
	case 1: // one side hears of it, and what it had sent still arrives, late
		pair[0].finish()
		pair[1].fail(errReset)
		return "closed " + pair[0].name
	}
	pair[0].deafen()
	pair[1].deafen()
	return "half open " + pair[0].name
}

func (w *world) serverWrites(ctx context.Context) string {
	if w.host.up == nil {
		return "server is down"
	}
	rows, err := w.host.rows(ctx, "item", nil)
	if err != nil || len(rows) == 0 {
		return "no rows"
	}
	uids := sorted(rows)
	uid := uids[w.rng.IntN(len(uids))]
	token := fmt.Sprintf("s-%d", w.steps)
	svc := w.host.up.server.Service("item")
	if w.rng.IntN(4) == 0 {
		_, err = svc.Call(ctx, tidemark.MethodDelete, uid, w.host.up.server.Now())
		return fmt.Sprint("deletes ", w.short(uid), " ", err)
	}
	of := w.lists[w.rng.IntN(len(w.lists))]
	_, err = svc.Call(ctx, tidemark.MethodUpdate, uid, map[string]any{"note": token, "list_id": of, "canary": canary(of), "score": w.rng.IntN(10)}, w.host.up.server.Now())
	return fmt.Sprint("updates ", w.short(uid), " as ", token, " ", err)
}

func (w *world) databaseFault(context.Context) string {
	if w.host.up == nil {
		return "server is down"
	}
	f := dbFault(1 + w.rng.IntN(int(lastFault)-1))
	w.counts.Faults++
	w.host.up.database.next.Store(int32(f))
	return fmt.Sprint(int(f))
}

func (w *world) storeFault(context.Context) string {
	d := w.device()
	if d.client == nil {
		return "is down"
	}
	f := storeFault(1 + w.rng.IntN(int(lastStoreFault)-1))
	w.counts.Faults++
	d.file.next.Store(int32(f))
	return fmt.Sprint(d.name, " ", int(f))
}

func (w *world) restartDevice(ctx context.Context) string {
	return w.device().restart(ctx)
}

func (d *device) restart(ctx context.Context) string {
	w := d.w
	if d.client != nil {
		w.counts.DeviceCrashes++
		if w.rng.IntN(2) == 0 {
			d.crash()
			return d.name + " crashes"
		}
		d.halt()
		return d.name + " ends"
	}
	if err := d.boot(ctx); err != nil {
		w.books.breach("store integrity", "%s does not start: %v", d.name, err)
	}
	return d.name + " starts"
}

func (w *world) restartServer(ctx context.Context) string {
	if w.host.up != nil {
		w.counts.ServerCrashes++
		crash := w.rng.IntN(2) == 0
		w.host.stop(crash)
		return fmt.Sprint("down, crash ", crash)
	}
	if err := w.host.start(ctx); err != nil {
		w.books.breach("server", "does not start: %v", err)
	}
	return "up"
}

func (w *world) network(context.Context) string {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	w.net.refusing = !w.net.refusing && w.rng.IntN(2) == 0
	return fmt.Sprint("refusing ", w.net.refusing)
}

func (w *world) toggle(context.Context) string {
	d := w.device()
	if d.client == nil {
		return "is down"
	}
	if d.client.Status().State == client.Offline {
		d.client.GoOnline()
		return d.name + " online"
	}
	d.client.GoOffline()
	return d.name + " offline"
}

func (w *world) freeze(context.Context) string {
	d := w.device()
	d.frozen = !d.frozen && w.rng.IntN(2) == 0
	return fmt.Sprint(d.name, " frozen ", d.frozen)
}

// clock sets a device's clock: a little or far ahead, or behind.
func (w *world) clock(context.Context) string {
	d := w.device()
	offsets := []time.Duration{0, 3 * time.Millisecond, -2 * time.Second, 30 * time.Second, 10 * time.Minute, -time.Hour, 24 * time.Hour}
	before := d.offset
	d.offset = offsets[w.rng.IntN(len(offsets))]
	// A clock that goes forward is ahead until the device learns the server's time again, even where
	// it becomes right: the device goes on correcting what it was.
	if (d.old || w.purges() || w.restores()) && d.offset > before {
		w.books.mayRepeat(d.name)
	}
	return fmt.Sprint(d.name, " ", d.offset)
}

// changeScope has a device ask for something more, or release that.
func (w *world) changeScope(ctx context.Context) string {
	d := w.device()
	if d.client == nil {
		return "is down"
	}
	if d.extra != nil {
		d.extra.Release()
		where := d.extraWhere
		d.extra = nil
		return fmt.Sprint(d.name, " releases ", where)
	}
	wheres := []tidemark.Where{{"list_id": w.lists[2]}, {"score": tidemark.Range{LT: 3}}, {"note": "s-1"}, {"list_id": w.lists[1], "score": 4}}
	d.allowed = nil // it may see other lists from now on, also where the call fails after it was stored
	d.extraWhere = wheres[w.rng.IntN(len(wheres))]
	var err error
	if d.extra, err = d.items.Register(ctx, d.extraWhere); err != nil {
		d.extra = nil
		return d.failed("register", err)
	}
	return fmt.Sprint(d.name, " asks for ", d.extraWhere)
}

func (w *world) evict(ctx context.Context) string {
	d := w.device()
	if d.client == nil {
		return "is down"
	}
	if w.rng.IntN(4) == 0 {
		err := d.items.Reset(ctx, nil)
		if errors.Is(err, tidemark.ErrPending) {
			return d.name + " has writes pending"
		}
		return fmt.Sprint(d.name, " resets ", err)
	}
	n, err := d.items.Evict(ctx, tidemark.Where{"score": tidemark.Range{LT: w.rng.IntN(10)}})
	return fmt.Sprint(d.name, " evicts ", n, " ", err)
}

// purges reports whether this world's server forgets. It then forgets verdicts too, far sooner
// than any real one: a write whose answer was lost is pushed again under another name, and where the server
// gives it another stamp each time it may be applied twice.
func (w *world) purges() bool { return w.seed%3 == 0 }

// purge makes the server forget what was long ago: clients with an older cursor begin anew.
func (w *world) purge(ctx context.Context) string {
	if !w.purges() {
		return "nothing"
	}
	log, ok := tidemark.Driver(w.host.driver).(tidemark.LogDriver)
	if !ok {
		return "no log"
	}
	n, err := log.Purge(ctx, time.Now().Add(-time.Duration(w.rng.IntN(20))*time.Second))
	return fmt.Sprint(n, " ", err)
}
