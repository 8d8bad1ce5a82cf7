package scenarios

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/internal/jsclient"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// local is what a device has of one row before a scenario: a value unless label
// is empty, metadata unless all stamps are zero.
type local struct {
	label                     string
	created, updated, deleted tidemark.Stamp
	dirty                     bool
}

func (l local) meta(uid string) tidemark.Meta {
	m := tidemark.Meta{UID: uid, CreatedAt: l.created, UpdatedAt: l.updated, DeletedAt: l.deleted}
	if m.T() == 0 {
		return tidemark.Meta{}
	}
	return m
}

// device is a client of either kind, with a store of its own.
type device interface {
	// arrange puts a row into the store, before connect.
	arrange(uid string, l local)
	connect()
	disconnect()
	// scope registers a clause, and waits until it is synchronised if there is a connection.
	scope(where tidemark.Where)
	forget(where tidemark.Where)
	// sync synchronises all scopes again.
	sync()
	// create makes a row and returns its uid.
	create(label string) string
	// update and remove report whether there was such a row.
	update(uid string, patch map[string]any) bool
	remove(uid string) bool
	// label is what the application sees of the row, "" for no row.
	label(uid string) string
	find(where tidemark.Where) int
	pending() int
	// leftovers is what else the store has of a row that is gone.
	leftovers(uid string) string
}

// item is the model on a Go device.
type item struct {
	UID     string     `json:"uid"`
	Label   string     `json:"label"`
	Score   *int64     `json:"score"`
	Active  *bool      `json:"active"`
	Start   *time.Time `json:"start"`
	UserUID *string    `json:"user_uid"`
}

// goDevice is our client on a file of its own. It is opened when it is first
// needed, behind what a test arranges in its file.
type goDevice struct {
	t      testing.TB
	store  *sqlite.Store
	link   *breakable
	opts   client.Options
	client *client.Client
	items  *client.Model[item]
	scopes map[string]*client.Scope
}

func (w *world) goDevice(t testing.TB, opts *client.Options) *goDevice {
	t.Helper()
	return newDevice(t, w.dialer(), opts)
}

// newDevice makes a device that stays offline until connect.
func newDevice(t testing.TB, dialer tidemark.Dialer, opts *client.Options) *goDevice {
	t.Helper()
	db, err := sql.Open("sqlite3", sqlite.DSNNormal(filepath.Join(t.TempDir(), "device.db")))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), db, &sqlite.Options{AllowNormal: true})
	if err != nil {
		t.Fatal(err)
	}
	d := &goDevice{t: t, store: store, link: &breakable{Dialer: dialer}, scopes: map[string]*client.Scope{}}
	if opts != nil {
		d.opts = *opts
	}
	d.opts.Offline, d.opts.MinBackoff, d.opts.MaxBackoff = true, 20*time.Millisecond, 200*time.Millisecond
	t.Cleanup(func() {
		if d.client != nil {
			d.client.Close()
		}
		store.Close()
		db.Close()
	})
	schema, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text}, {Name: "score", Kind: tidemark.Integer},
		{Name: "active", Kind: tidemark.Bool}, {Name: "start", Kind: tidemark.Timestamp}, {Name: "user_uid", Kind: tidemark.Text}})
	if err == nil {
		err = store.Declare(t.Context(), schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// open opens the client, unless it is open.
func (d *goDevice) open() *goDevice {
	d.t.Helper()
	if d.client != nil {
		return d
	}
	var err error
	if d.client, err = client.Open(d.t.Context(), d.store, d.link, &d.opts); err != nil {
		d.t.Fatal(err)
	}
	if d.items, err = client.NewModel[item](d.t.Context(), d.client, "item", nil); err != nil {
		d.t.Fatal(err)
	}
	return d
}

// arrange makes what is clean a row as the server last told it, and what is dirty pending
// writes over such a row.
func (d *goDevice) arrange(uid string, l local) {
	d.t.Helper()
	rec := tidemark.Record{UID: uid, Meta: l.meta(uid)}
	if l.label != "" {
		rec.Row = tidemark.Row(fmt.Sprintf(`{"uid":%q,"label":%q,"score":null,"active":null,"start":null,"user_uid":null}`, uid, l.label))
		rec.Base = rec.Row
	}
	var ms []tidemark.Mutation
	if l.dirty || l.deleted != 0 && l.label != "" {
		rec, ms = pendingOf(rec)
	}
	err := d.store.Update(context.Background(), func(tx tidemark.StoreTx) error {
		return errors.Join(tx.Put("item", []tidemark.Record{rec}), tx.Enqueue(ms))
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// pendingOf turns the latest date of a record into a pending write.
func pendingOf(rec tidemark.Record) (tidemark.Record, []tidemark.Mutation) {
	m := tidemark.Mutation{Model: "item", UID: rec.UID, Stamp: rec.Meta.T()}
	if rec.Base != nil {
		m.Data = rec.Base.Without("uid")
	}
	switch {
	case rec.Meta.DeletedAt != 0:
		m.Op, m.Data, rec.Row, rec.Meta.DeletedAt = tidemark.Delete, nil, nil, 0
	case rec.Meta.UpdatedAt != 0:
		m.Op, rec.Meta.UpdatedAt = tidemark.Update, 0
	default:
		m.Op, rec.Base, rec.Meta = tidemark.Create, nil, tidemark.Meta{}
	}
	if rec.Meta.T() == 0 {
		rec.Meta = tidemark.Meta{}
	}
	rec.Pending = 1
	return rec, []tidemark.Mutation{m}
}

func (d *goDevice) connect() {
	d.t.Helper()
	d.open().client.GoOnline()
	d.sync()
}

func (d *goDevice) disconnect() {
	d.client.GoOffline()
	expect.Becomes(d.t, "the state", client.Offline, func() client.State { return d.client.Status().State })
}

func (d *goDevice) scope(where tidemark.Where) {
	d.t.Helper()
	s, err := d.open().items.Register(d.t.Context(), where)
	if err != nil {
		d.t.Fatal(err)
	}
	d.scopes[fmt.Sprint(where)] = s
	if d.client.Status().State != client.Offline {
		d.sync()
	}
}

func (d *goDevice) forget(where tidemark.Where) { d.scopes[fmt.Sprint(where)].Release() }

func (d *goDevice) sync() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), expect.Patience())
	defer cancel()
	if err := d.client.Sync(ctx); err != nil {
		d.t.Fatalf("sync: %v (%+v)", err, d.client.Status())
	}
}

func (d *goDevice) create(label string) string {
	d.t.Helper()
	i, err := d.open().items.Create(d.t.Context(), item{Label: label})
	if err != nil {
		d.t.Fatal(err)
	}
	return i.UID
}

func (d *goDevice) update(uid string, patch map[string]any) bool {
	d.t.Helper()
	_, err := d.open().items.Update(d.t.Context(), uid, patch)
	return d.there(err)
}

func (d *goDevice) remove(uid string) bool {
	d.t.Helper()
	return d.there(d.open().items.Remove(d.t.Context(), uid))
}

func (d *goDevice) there(err error) bool {
	d.t.Helper()
	if err != nil && !errors.Is(err, tidemark.ErrNotFound) {
		d.t.Fatal(err)
	}
	return err == nil
}

func (d *goDevice) label(uid string) string {
	d.t.Helper()
	i, err := d.open().items.FindByUID(d.t.Context(), uid)
	d.there(err)
	return i.Label
}

func (d *goDevice) find(where tidemark.Where) int {
	d.t.Helper()
	items, err := d.open().items.FindWhere(d.t.Context(), where)
	if err != nil {
		d.t.Fatal(err)
	}
	return len(items)
}

func (d *goDevice) pending() int { return d.open().client.Status().Pending }

// leftovers is "" for a tombstone too: it is a guard, and goes with the next connection.
func (d *goDevice) leftovers(uid string) string {
	d.t.Helper()
	rec := d.record(uid)
	if rec.Row == nil && rec.Base == nil && rec.Pending == 0 && (rec.Meta.IsZero() || rec.Meta.Deleted()) {
		return ""
	}
	return fmt.Sprintf("%s %+v", rec.Base, rec.Meta)
}

func (d *goDevice) record(uid string) (rec tidemark.Record) {
	d.t.Helper()
	err := d.store.View(context.Background(), func(tx tidemark.StoreTx) error {
		recs, err := tx.Records("item", []string{uid})
		if err == nil {
			rec = recs[0]
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return rec
}

// jsDevice is the model of a JavaScript client, which is not ours.
type jsDevice struct {
	t  testing.TB
	js *jsclient.Client
}

func (w *world) jsDevice(t testing.TB) *jsDevice {
	t.Helper()
	d := &jsDevice{t, jsclient.Start(t, "../../examples/guide/testdata/remote.mjs", w.url())}
	d.js.Do("model", "item")
	return d
}

func (d *jsDevice) arrange(uid string, l local) {
	d.t.Helper()
	var value map[string]any
	if l.label != "" {
		value = map[string]any{"label": l.label, "score": nil, "active": nil, "start": nil, "user_uid": nil}
		if l.deleted != 0 {
			value["__deleted__"] = true
		}
	}
	var meta map[string]any
	if m := l.meta(uid); m.UID != "" {
		meta = map[string]any{"__dirty__": l.dirty}
		for key, s := range map[string]tidemark.Stamp{"created_at": m.CreatedAt, "updated_at": m.UpdatedAt, "deleted_at": m.DeletedAt} {
			if s != 0 {
				meta[key] = s.String()
			}
		}
	}
	d.js.Do("arrange", "item", uid, value, meta)
}

func (d *jsDevice) connect() { d.js.Do("connect") }

func (d *jsDevice) disconnect() { d.js.Do("disconnect") }

func (d *jsDevice) scope(where tidemark.Where) { d.js.Do("scope", "item", clause(where)) }

func (d *jsDevice) forget(where tidemark.Where) { d.js.Do("forget", "item", clause(where)) }

func clause(w tidemark.Where) tidemark.Where {
	if w == nil {
		return tidemark.Where{}
	}
	return w
}

func (d *jsDevice) sync() { d.js.Do("sync") }

func (d *jsDevice) create(label string) string {
	return decode[item](d.t, d.js.Do("create", "item", map[string]any{"label": label})).UID
}

func (d *jsDevice) update(uid string, patch map[string]any) bool {
	return string(d.js.Do("update", "item", uid, patch)) != "null"
}

func (d *jsDevice) remove(uid string) bool {
	there := d.value(uid) != nil
	d.js.Do("remove", "item", uid)
	return there
}

func (d *jsDevice) label(uid string) string {
	v := d.value(uid)
	if v == nil || v["__deleted__"] == true {
		return ""
	}
	s, _ := v["label"].(string)
	return s
}

func (d *jsDevice) value(uid string) map[string]any {
	return decode[map[string]any](d.t, d.js.Do("get", "item", uid))
}

func (d *jsDevice) find(where tidemark.Where) int {
	return len(decode[[]json.RawMessage](d.t, d.js.Do("find", "item", clause(where))))
}

func (d *jsDevice) pending() int { return decode[int](d.t, d.js.Do("pending", "item")) }

// leftovers is "" for a clean tombstone without value too: such a guard is left where
// the event of a deletion arrives before the answer that asks for it (fault 22), and
// harms nobody.
func (d *jsDevice) leftovers(uid string) string {
	value, meta := string(d.js.Do("get", "item", uid)), string(d.js.Do("meta", "item", uid))
	guard := decode[*struct {
		DeletedAt string `json:"deleted_at"`
		Dirty     bool   `json:"__dirty__"`
	}](d.t, []byte(meta))
	if value == "null" && (guard == nil || guard.DeletedAt != "" && !guard.Dirty) {
		return ""
	}
	return value + " " + meta
}

// devices runs a test with a device of each kind, both on worlds of their own, on each kind of database.
func devices(t *testing.T, run func(t *testing.T, w *world, fresh func(testing.TB) device)) {
	engines(t, func(t *testing.T, w *world) {
		w.guideOnly = true // what these scenarios are about
		w.open()
		t.Run("JavaScript", func(t *testing.T) {
			js := w.jsDevice(t)
			run(t, w, func(t testing.TB) device {
				js.js.Do("disconnect")
				js.js.Do("reset", "item")
				return &jsDevice{t, js.js}
			})
		})
		t.Run("Go", func(t *testing.T) {
			run(t, w, func(t testing.TB) device { return w.goDevice(t, nil) })
		})
	})
}
