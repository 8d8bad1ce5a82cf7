package sim

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// list and item are the models on a device.
type list struct {
	UID  string `json:"uid"`
	Note string `json:"note"`
}

type item struct {
	UID    string `json:"uid"`
	ListID string `json:"list_id" tidemark:"index"`
	Note   string `json:"note"`
	Score  int64  `json:"score"`
	Canary string `json:"canary"`
}

// device is a machine with a client. Its file outlives the client's processes.
type device struct {
	w          *world
	name       string
	rng        *rand.Rand    // of the scheduler
	dice       *rand.Rand    // of the client's engine
	old        bool          // it speaks the guide's protocol only; such devices bring back what a server lost
	offset     time.Duration // of its clock
	scopes     []tidemark.Where
	db         *sql.DB
	store      tidemark.Store
	file       *file
	client     *client.Client
	lists      *client.Model[list]
	items      *client.Model[item]
	looked     int64 // how many updates of file there were when its rows were looked at
	wants      bool  // the scheduler should crash it
	frozen     bool  // it reads nothing
	writes     int
	allowed    map[string]bool // the lists that its scopes select; nil for all
	mu         sync.Mutex      // protects shown and told
	shown      map[string]int  // by uid, the newest version that a Watch has yielded
	told       map[int64]int   // by number of a write, how often its rejection was told; also under mu
	found      map[int64]bool  // numbers of writes that were listed as rejected when a process began
	done       map[int64]done  // by number, what became of its rejection
	booked     int64           // the number of the last write that is in the books
	introduced int64           // how many updates of file there were when its name was looked at
	watches    sync.WaitGroup
	unwatch    context.CancelFunc
	extra      *client.Scope // a scope that comes and goes; nil for none
	extraWhere tidemark.Where
}

func newDevice(w *world, n int) (*device, error) {
	d := &device{w: w, name: fmt.Sprintf("d%d", n), rng: rand.New(rand.NewPCG(w.seed, uint64(n)+1)), dice: rand.New(rand.NewPCG(w.seed, uint64(n)+1000)), shown: map[string]int{}, told: map[int64]int{}, found: map[int64]bool{}, done: map[int64]done{}, old: n%3 == 2 && (!w.restores() || w.seed%8 == 1)}
	var err error
	if d.db, err = sql.Open("sqlite3", sqlite.DSN(":memory:")); err != nil {
		return nil, err
	}
	d.db.SetMaxOpenConns(1)
	d.scopes = d.choose()
	if _, ok := tidemark.Driver(w.host.driver).(tidemark.LogDriver); !ok {
		d.old = true
	}
	allowed := map[string]bool{}
	for _, where := range d.scopes {
		id, ok := where["list_id"].(string)
		if !ok {
			return d, nil
		}
		allowed[id] = true
	}
	d.allowed = allowed
	return d, nil
}

// choose picks the scopes of a device: everything, or some lists, or a range.
func (d *device) choose() []tidemark.Where {
	switch d.rng.IntN(4) {
	case 0:
		return []tidemark.Where{{}}
	case 1:
		return []tidemark.Where{{"list_id": d.w.lists[0]}, {"score": tidemark.Range{GTE: 5}}}
	case 2:
		return []tidemark.Where{{"list_id": d.w.lists[d.rng.IntN(len(d.w.lists))]}}
	}
	return []tidemark.Where{{"list_id": d.w.lists[0]}, {"list_id": d.w.lists[1]}, {"score": tidemark.Range{GT: 2, LTE: 7}}}
}

func (d *device) now() time.Time { return time.Now().Add(d.offset) }

// boot starts the client's process.
func (d *device) boot(ctx context.Context) error {
	store, err := sqlite.Open(ctx, d.db, nil)
	if err != nil {
		return err
	}
	d.store = store
	d.file = &file{Store: store, die: func() { d.wants = true }}
	d.wants, d.looked, d.introduced = false, -1, -1
	dialer := d.dialer()
	d.client, err = client.Open(ctx, d.file, dialer, &client.Options{
		Now: d.now, Rand: d.dice.Float64, MaxBackoff: 10 * time.Second, CallTimeout: apart(9973, 907),
		OnRejection: d.signalled,
	})
	if err != nil {
		return err
	}
	if err := d.find(ctx); err != nil {
		return err
	}
	if d.lists, err = client.NewModel[list](ctx, d.client, "list", nil); err != nil {
		return err
	}
	if d.items, err = client.NewModel[item](ctx, d.client, "item", nil); err != nil {
		return err
	}
	if _, err := d.lists.Register(ctx, nil); err != nil {
		return err
	}
	for _, where := range d.scopes {
		if _, err := d.items.Register(ctx, where); err != nil {
			return err
		}
	}
	watching, cancel := context.WithCancel(ctx)
	d.unwatch = cancel
	for _, where := range d.scopes {
		d.watches.Go(func() { d.watch(watching, where) })
	}
	return nil
}

// watch checks that no row goes back to an older version.
func (d *device) watch(ctx context.Context, where tidemark.Where) {
	for rows, err := range d.items.Watch(ctx, where, nil) {
		if err != nil {
			continue
		}
		d.mu.Lock()
		for _, r := range rows {
			v := d.w.books.versionOf(r.Note)
			if was := d.shown[r.UID]; v > 0 && v < was {
				d.w.books.breach("monotonic watches", "%s showed version %d of %s and then %d (%s)", d.name, was, d.w.short(r.UID), v, r.Note)
			}
			d.shown[r.UID] = max(d.shown[r.UID], v)
		}
		d.mu.Unlock()
	}
}

func (d *device) dialer() tidemark.Dialer {
	dialer := socketio.NewDialer("http://server", &socketio.DialOptions{
		HandshakeTimeout: apart(19_997, 153), WriteTimeout: apart(9907, 357), CloseTimeout: apart(2003, 559),
		NetDial: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.w.net.dial(ctx, d.name) },
	})
	if d.old {
		return oldDialer{dialer}
	}
	return dialer
}

// halt ends the process, as a crash when its store is dead.
func (d *device) halt() {
	if d.client == nil {
		return
	}
	d.unwatch()
	_ = d.client.Close()
	d.watches.Wait()
	_ = d.store.Close()
	d.client, d.wants, d.extra = nil, false, nil
}

func (d *device) crash() {
	if d.file != nil {
		d.file.dead.Store(true)
	}
	d.halt()
}

// token returns a value that no other write has.
func (d *device) token() string {
	d.writes++
	return fmt.Sprintf("%s-%d", d.name, d.writes)
}

// uid returns the name of a new row. It is not left to chance: of what is random in the bubble
// it depends on which goroutine comes first.
func (d *device) uid() string { return fmt.Sprintf("row-%s-%03d", d.name, d.writes) }

// edit makes one local write, and checks at once that it can be read.
func (d *device) edit(ctx context.Context) string {
	if d.client == nil {
		return "is down"
	}
	visible, err := d.items.FindWhere(ctx, nil)
	if err != nil {
		return d.failed("find", err)
	}
	pick := func() *item {
		if len(visible) == 0 {
			return nil
		}
		return &visible[d.rng.IntN(len(visible))]
	}
	switch k := d.rng.IntN(12); {
	case k >= 10 && len(visible) > 0:
		return d.unit(ctx, pick().UID)
	case k < 3 || len(visible) == 0:
		return d.create(ctx)
	case k < 5 && len(visible) > 0:
		return d.remove(ctx, pick().UID)
	default:
		return d.update(ctx, pick().UID)
	}
}

func (d *device) listID() string { return d.w.lists[d.rng.IntN(len(d.w.lists))] }

// score is now and then one that the server's database refuses.
func (d *device) score() int64 {
	if d.rng.IntN(12) == 0 {
		return -1
	}
	return int64(d.rng.IntN(10))
}

func (d *device) create(ctx context.Context) string {
	token, of := d.token(), d.listID()
	row, err := d.items.Create(ctx, item{UID: d.uid(), ListID: of, Note: token, Score: d.score(), Canary: canary(of)})
	if err != nil {
		return d.failed("create", err)
	}
	d.w.books.acknowledge(written{token: token, device: d.name, uid: row.UID, op: tidemark.Create})
	d.book(ctx, "create", 1)
	d.w.known(row.UID)
	d.readBack(ctx, row.UID, token)
	return "created " + d.w.short(row.UID) + " as " + token
}

// unit creates a row and updates another one, together.
func (d *device) unit(ctx context.Context, uid string) string {
	tokens := [2]string{d.token(), d.token()}
	of, uidOfNew := d.listID(), d.uid()
	var created item
	err := d.client.Tx(ctx, func(tx *client.Tx) (err error) {
		if created, err = d.items.CreateTx(tx, item{UID: uidOfNew, ListID: of, Note: tokens[0], Score: d.score(), Canary: canary(of)}); err != nil {
			return err
		}
		_, err = d.items.UpdateTx(tx, uid, client.Patch{"note": tokens[1], "score": d.score()})
		return err
	})
	if err != nil {
		if _, found := d.items.FindByUID(ctx, created.UID); created.UID != "" && found == nil {
			d.w.books.breach("units", "%s: a unit failed, and its row %s is there", d.name, created.UID)
		}
		return d.failed("unit", err)
	}
	for i, row := range []string{created.UID, uid} {
		d.w.books.acknowledge(written{token: tokens[i], device: d.name, uid: row, op: tidemark.Update})
		d.readBack(ctx, row, tokens[i])
	}
	d.book(ctx, "unit", 2)
	if !d.old {
		d.w.books.unit(tokens)
	}
	return fmt.Sprintf("made a unit of %s as %s and %s as %s", d.w.short(created.UID), tokens[0], d.w.short(uid), tokens[1])
}

func (d *device) update(ctx context.Context, uid string) string {
	token := d.token()
	patch := client.Patch{"note": token}
	if d.rng.IntN(3) == 0 {
		of := d.listID()
		patch["list_id"], patch["canary"] = of, canary(of)
	}
	if d.rng.IntN(2) == 0 {
		patch["score"] = d.score()
	}
	if _, err := d.items.Update(ctx, uid, patch); err != nil {
		return d.failed("update", err)
	}
	d.w.books.acknowledge(written{token: token, device: d.name, uid: uid, op: tidemark.Update})
	d.book(ctx, "update", 1)
	d.readBack(ctx, uid, token)
	return "updated " + d.w.short(uid) + " as " + token
}

func (d *device) remove(ctx context.Context, uid string) string {
	if err := d.items.Remove(ctx, uid); err != nil {
		return d.failed("remove", err)
	}
	d.book(ctx, "removal", 1)
	if _, err := d.items.FindByUID(ctx, uid); !errors.Is(err, tidemark.ErrNotFound) && err == nil {
		d.w.books.breach("read your writes", "%s removed %s and finds it", d.name, uid)
	}
	return "removed " + d.w.short(uid)
}

// readBack checks that a device reads what it wrote.
func (d *device) readBack(ctx context.Context, uid, token string) {
	got, err := d.items.FindByUID(ctx, uid)
	if err == nil && got.Note != token {
		d.w.books.breach("read your writes", "%s wrote %s and reads %s", d.name, token, got.Note)
	}
	if errors.Is(err, tidemark.ErrNotFound) {
		d.w.books.breach("read your writes", "%s wrote %s and finds nothing", d.name, token)
	}
}

func (d *device) failed(what string, err error) string {
	if errors.Is(err, errDead) || errors.Is(err, errFull) || errors.Is(err, tidemark.ErrClosed) || errors.Is(err, tidemark.ErrNotFound) {
		return what + " failed: " + err.Error()
	}
	d.w.books.breach("local availability", "%s: %s: %v", d.name, what, err)
	return what + " failed unexpectedly: " + err.Error()
}

func canary(list string) string { return "canary<" + list + ">" }

// differs compares what the device shows with the server's rows; "" when they agree.
func (d *device) differs(ctx context.Context, schema *tidemark.Schema, where tidemark.Where, want map[string]tidemark.Row) (string, error) {
	p, err := where.Compile(schema)
	if err != nil {
		return "", err
	}
	rows, err := d.store.Find(ctx, p)
	if err != nil {
		return "", err
	}
	got := map[string]bool{}
	for _, r := range rows {
		uid := r.UID()
		got[uid] = true
		switch server, there := want[uid]; {
		case !there:
			return fmt.Sprintf("%s shows %s, which the server does not select: %s", d.name, d.w.short(uid), r), nil
		case !bytes.Equal(r, server):
			return fmt.Sprintf("%s shows %s, the server has %s", d.name, r, server), nil
		}
	}
	for _, uid := range slices.Sorted(keys(want)) {
		if !got[uid] {
			if d.old && d.w.restores() { // it does not notice a loss, and holds on to what it had outside its scopes
				held, err := d.store.Get(ctx, schema.Name(), uid)
				if err != nil {
					return "", err
				}
				if held != nil {
					continue
				}
			}
			return fmt.Sprintf("%s lacks %s: %s", d.name, d.w.short(uid), want[uid]), nil
		}
	}
	return "", nil
}
