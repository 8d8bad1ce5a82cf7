package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// device is one replica: a client with a SQLite file of its own. Every read and
// write is answered from the file, whatever the network does.
type device struct {
	name   string
	db     *sql.DB
	store  *sqlite.Store
	client *client.Client
	lists  *client.Model[List]
	items  *client.Model[Item]

	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	running sync.WaitGroup
	changes chan func(*state)

	mu    sync.Mutex // protects state and stale
	state state
	stale chan struct{} // closed when state is replaced
}

// openDevice opens, or creates, the device that lives in the file at path.
func openDevice(ctx context.Context, name, path string, dialer tidemark.Dialer, log *slog.Logger) (d *device, err error) {
	d = &device{name: name, changes: make(chan func(*state)), stale: make(chan struct{})}
	d.ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err = sqlite.Create(path); err != nil { // readable by its owner only
		return d, err
	}
	if d.db, err = sql.Open("sqlite3", sqlite.DSN(path)); err != nil {
		return d, err
	}
	if d.store, err = sqlite.Open(ctx, d.db, nil); err != nil {
		return d, err
	}
	opts := &client.Options{
		Logger:      log.With("device", name),
		OnRejection: func(client.Rejection) { d.change(func(*state) {}) },
	}
	if d.client, err = client.Open(ctx, d.store, dialer, opts); err != nil {
		return d, err
	}
	if d.lists, err = client.NewModel[List](ctx, d.client, "list", nil); err != nil {
		return d, err
	}
	if d.items, err = client.NewModel[Item](ctx, d.client, "item", nil); err != nil {
		return d, err
	}
	d.running.Go(d.watchLists)
	d.running.Go(d.watchItems)
	d.running.Go(d.watchStatus)
	d.running.Go(d.keepState)
	return d, nil
}

// Close ends everything that openDevice began. What is still in the outbox is
// sent after the next start.
func (d *device) Close() {
	d.stop()
	d.running.Wait()
	if d.client != nil {
		d.client.Close()
	}
	if d.store != nil {
		d.store.Close()
	}
	if d.db != nil {
		d.db.Close()
	}
}

// Three live queries keep the state up to date.

func (d *device) watchLists() {
	for lists, err := range d.lists.Watch(d.ctx, tidemark.Where{}, nil) {
		if err == nil {
			d.change(func(s *state) { s.lists = lists })
		}
	}
}

func (d *device) watchItems() {
	for items, err := range d.items.Watch(d.ctx, tidemark.Where{}, nil) {
		if err == nil {
			d.change(func(s *state) { s.items = items })
		}
	}
}

func (d *device) watchStatus() {
	for status := range d.client.WatchStatus(d.ctx) {
		d.change(func(s *state) { s.status = status })
	}
}

// change asks keepState for a new state.
func (d *device) change(edit func(*state)) {
	select {
	case d.changes <- edit:
	case <-d.ctx.Done():
	}
}

// keepState is the only one to make states. Each also has what the outbox and
// the rejections are at that moment.
func (d *device) keepState() {
	var s state
	for {
		select {
		case edit := <-d.changes:
			edit(&s)
		case <-d.ctx.Done():
			return
		}
		if unsent, err := d.unsent(); err == nil {
			s.unsent = unsent
		}
		if rejections, err := d.client.Rejections(d.ctx); err == nil {
			s.rejections = rejections
		}
		d.mu.Lock()
		d.state = s
		close(d.stale)
		d.stale = make(chan struct{})
		d.mu.Unlock()
	}
}

// unsent returns the rows that have writes in the outbox.
func (d *device) unsent() (map[string]bool, error) {
	uids := map[string]bool{}
	err := d.store.View(d.ctx, func(tx tidemark.StoreTx) error {
		pending, err := tx.Outbox(0, 0)
		for _, m := range pending {
			uids[m.UID] = true
		}
		return err
	})
	return uids, err
}

// look returns the present state, and a channel that is closed when there is a newer one.
func (d *device) look() (state, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.stale
}

// What a user can do. Each returns when the write is in the device's file.

func (d *device) addList(ctx context.Context, name string) error {
	_, err := d.lists.Create(ctx, List{Name: name})
	return err
}

func (d *device) renameList(ctx context.Context, uid, name string) error {
	_, err := d.lists.Update(ctx, uid, client.Patch{"name": name})
	return err
}

// removeList removes the items first: the server refuses to remove a list that has some.
func (d *device) removeList(ctx context.Context, uid string) error {
	items, err := d.items.FindWhere(ctx, tidemark.Where{"list_uid": uid})
	if err != nil {
		return err
	}
	for _, it := range items {
		if err := d.items.Remove(ctx, it.UID); err != nil {
			return err
		}
	}
	return d.lists.Remove(ctx, uid)
}

func (d *device) addItem(ctx context.Context, list, title string) error {
	if _, err := d.lists.FindByUID(ctx, list); err != nil {
		return fmt.Errorf("the list: %w", err)
	}
	_, err := d.items.Create(ctx, Item{ListUID: list, Title: title})
	return err
}

func (d *device) renameItem(ctx context.Context, uid, title string) error {
	_, err := d.items.Update(ctx, uid, client.Patch{"title": title})
	return err
}

func (d *device) tickItem(ctx context.Context, uid string, done bool) error {
	_, err := d.items.Update(ctx, uid, client.Patch{"done": done})
	return err
}

func (d *device) removeItem(ctx context.Context, uid string) error {
	return d.items.Remove(ctx, uid)
}

func (d *device) setOnline(on bool) {
	if on {
		d.client.GoOnline()
	} else {
		d.client.GoOffline()
	}
}
