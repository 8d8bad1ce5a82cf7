package situations_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// device is a machine with a client. Its file outlives the client's runs.
type device struct {
	t      testing.TB
	w      *world
	path   string
	dsn    string
	line   *line
	opts   client.Options
	db     *sql.DB
	store  *sqlite.Store
	client *client.Client
	items  *client.Model[Item]
}

// device makes one, with all rows as its scope, and connects it unless opts say otherwise.
func (w *world) device(opts *client.Options) *device {
	w.t.Helper()
	path := ":memory:"
	if !w.bubble {
		path = filepath.Join(w.t.TempDir(), "device.db")
	}
	d := w.deviceOn(path, opts)
	d.register(nil)
	if !d.opts.Offline {
		d.sync()
	}
	return d
}

// deviceOn opens a client on a file.
func (w *world) deviceOn(path string, opts *client.Options) *device {
	w.t.Helper()
	d := &device{t: w.t, w: w, path: path, dsn: sqlite.DSNNormal(path)}
	d.line = &line{Dialer: w, guide: w.guide, sent: map[string]int{}}
	if opts != nil {
		d.opts = *opts
	}
	d.opts.MinBackoff = cmp.Or(d.opts.MinBackoff, 10*time.Millisecond)
	d.opts.MaxBackoff = cmp.Or(d.opts.MaxBackoff, 100*time.Millisecond)
	d.open()
	w.t.Cleanup(d.close)
	return d
}

// open starts the client's program.
func (d *device) open() {
	d.t.Helper()
	d.boot()
	var err error
	d.items, err = client.NewModel[Item](d.t.Context(), d.client, "item", nil)
	d.must(err)
}

// boot opens the client, and declares nothing.
func (d *device) boot() {
	d.t.Helper()
	d.openFile()
	var err error
	d.client, err = client.Open(d.t.Context(), d.store, d.line, &d.opts)
	d.must(err)
}

func (d *device) openFile() {
	d.t.Helper()
	var err error
	d.db, err = sql.Open("sqlite3", d.dsn)
	d.must(err)
	if d.path == ":memory:" {
		d.db.SetMaxOpenConns(1)
	}
	d.store, err = sqlite.Open(d.t.Context(), d.db, &sqlite.Options{AllowNormal: true})
	d.must(err)
}

// close ends the program.
func (d *device) close() {
	_ = d.client.Close()
	_ = d.store.Close()
	_ = d.db.Close()
}

// reopen ends the program and starts it again.
func (d *device) reopen() {
	d.t.Helper()
	d.close()
	d.open()
}

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) register(where tidemark.Where) {
	d.t.Helper()
	_, err := d.items.Register(d.t.Context(), where)
	d.must(err)
}

func (d *device) online() { d.client.GoOnline() }

func (d *device) offline() {
	d.t.Helper()
	d.client.GoOffline()
	expect.Becomes(d.t, "the state", client.Offline, func() client.State { return d.client.Status().State })
}

func (d *device) sync() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), expect.Patience())
	defer cancel()
	if err := d.client.Sync(ctx); err != nil {
		d.t.Fatalf("sync: %v (%+v)", err, d.client.Status())
	}
}

func (d *device) create(uid, label string) {
	d.t.Helper()
	_, err := d.items.Create(d.t.Context(), Item{UID: uid, Label: label, Score: 1, Owner: "ann"})
	d.must(err)
}

func (d *device) update(uid string, patch client.Patch) {
	d.t.Helper()
	_, err := d.items.Update(d.t.Context(), uid, patch)
	d.must(err)
}

func (d *device) label(uid, label string) {
	d.t.Helper()
	d.update(uid, client.Patch{"label": label})
}

func (d *device) remove(uid string) {
	d.t.Helper()
	d.must(d.items.Remove(d.t.Context(), uid))
}

// row is what the application sees, the zero Item for none.
func (d *device) row(uid string) Item {
	d.t.Helper()
	i, err := d.items.FindByUID(d.t.Context(), uid)
	if !errors.Is(err, tidemark.ErrNotFound) {
		d.must(err)
	}
	return i
}

// rows are the labels that the application sees, by uid.
func (d *device) rows() map[string]string {
	d.t.Helper()
	list, err := d.items.FindWhere(d.t.Context(), nil)
	d.must(err)
	out := map[string]string{}
	for _, i := range list {
		out[i.UID] = i.Label
	}
	return out
}

func (d *device) comesToShow(want map[string]string) {
	d.t.Helper()
	expect.Soon(d.t, func() error {
		if got := d.rows(); !maps.Equal(got, want) {
			return fmt.Errorf("the device shows %v, want %v", got, want)
		}
		return nil
	})
}

func (d *device) shows(want map[string]string) {
	d.t.Helper()
	if got := d.rows(); !maps.Equal(got, want) {
		d.t.Errorf("the device shows %v, want %v", got, want)
	}
}

func (d *device) pending() int { return d.client.Status().Pending }

// listed are the writes that the user is told of: kind, uid and code.
func (d *device) listed() []string {
	d.t.Helper()
	list, err := d.client.Rejections(d.t.Context())
	d.must(err)
	var out []string
	for _, r := range list {
		out = append(out, fmt.Sprintf("%s %s %s", r.Kind, r.Mutation.UID, r.Code))
	}
	return out
}

func (d *device) lists(want ...string) {
	d.t.Helper()
	if got := d.listed(); !slices.Equal(got, want) {
		d.t.Errorf("the device lists %q, want %q", got, want)
	}
}
