package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// restores reports whether this world's server is put back to older copies of its database: what it told since then is
// no more. Devices must notice, and come to what it has now.
func (w *world) restores() bool { return w.seed%4 == 1 }

// restoring are the stimuli of worlds whose server is put back.
var restoring = []stimulus{
	{"copy", 3, (*world).copyDatabase},
	{"restore", 1, (*world).restore},
}

// backup is a copy of the server's database, and of what the books had then.
type backup struct {
	step   int
	db     *bun.DB
	ledger ledger
}

// copyDatabase copies the database as it is between two transactions.
func (w *world) copyDatabase(ctx context.Context) string {
	db, err := copyOf(ctx, w.host.db)
	if err != nil {
		w.books.breach("server", "its database cannot be copied: %v", err)
		return err.Error()
	}
	w.host.forget()
	w.host.backup = &backup{w.steps, db, w.books.copied()}
	return "taken"
}

// restore puts the copy in the place of the database. Whatever the server had sent is lost with it: what a device has
// not taken by now it will not hear of.
func (w *world) restore(ctx context.Context) string {
	b := w.host.backup
	if b == nil {
		return "no copy"
	}
	w.host.stop(true)
	w.net.sever()
	w.rest()
	waiting, err := w.waiting(ctx)
	if err == nil {
		err = w.host.replace(ctx, b.db)
	}
	if err != nil {
		w.books.breach("server", "its database cannot be put back: %v", err)
		return err.Error()
	}
	undone := w.books.restored(b.ledger, waiting)
	for _, d := range w.devices {
		d.mu.Lock()
		clear(d.shown) // its rows may go back as well
		d.mu.Unlock()
	}
	w.counts.Restores++
	w.counts.Undone += undone
	return fmt.Sprintf("to step %d, %d writes are undone, %d are waiting", b.step, undone, len(waiting))
}

// waiting returns the tokens of what is in the outboxes, also of devices that are down.
func (w *world) waiting(ctx context.Context) (map[string]bool, error) {
	tokens := map[string]bool{}
	for _, d := range w.devices {
		ms, err := d.outbox(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		for i := range ms {
			tokens[tokenOf(&ms[i])], tokens[numbered(d.name, ms[i].N)] = true, true
		}
	}
	return tokens, nil
}

func (d *device) outbox(ctx context.Context) (ms []tidemark.Mutation, err error) {
	store := d.store
	if d.client == nil {
		if store, err = sqlite.Open(ctx, d.db, nil); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
	}
	err = store.View(ctx, func(tx tidemark.StoreTx) error {
		ms, err = tx.Outbox(0, 0)
		return err
	})
	return ms, err
}

// openDatabase opens an empty database in memory: what its one connection has.
func openDatabase() (*bun.DB, error) {
	handle, err := sql.Open("sqlite3", "file::memory:?_foreign_keys=1&_busy_timeout=5000")
	if err != nil {
		return nil, err
	}
	handle.SetMaxOpenConns(1)
	return bun.NewDB(handle, sqlitedialect.New()), nil
}

// copyOf returns a copy of a database.
func copyOf(ctx context.Context, from *bun.DB) (to *bun.DB, err error) {
	if to, err = openDatabase(); err != nil {
		return nil, err
	}
	err = raw(ctx, from, func(from *sqlite3.SQLiteConn) error {
		return raw(ctx, to, func(to *sqlite3.SQLiteConn) error {
			b, err := to.Backup("main", from, "main")
			if err != nil {
				return err
			}
			_, err = b.Step(-1)
			return errors.Join(err, b.Finish())
		})
	})
	return to, err
}

// raw hands out the connection of a database.
func raw(ctx context.Context, db *bun.DB, fn func(*sqlite3.SQLiteConn) error) error {
	conn, err := db.DB.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error { return fn(c.(*sqlite3.SQLiteConn)) })
}

// replace ends the database, and makes one of a copy. No process may be up.
func (h *host) replace(ctx context.Context, from *bun.DB) error {
	db, err := copyOf(ctx, from)
	if err != nil {
		return err
	}
	driver, err := bundriver.New(ctx, db, models(), nil)
	if err != nil {
		return err
	}
	err = errors.Join(h.driver.Close(), h.db.Close())
	h.db, h.driver = db, driver
	return err
}

// forget drops the copy.
func (h *host) forget() {
	if h.backup != nil {
		_ = h.backup.db.Close()
		h.backup = nil
	}
}

// sever breaks all connections, those too that one side has closed: nothing that was sent arrives any more.
func (n *network) sever() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.streams {
		s.fail(errReset)
	}
}

// ledger is what the server's database decided, by token and by uid.
type ledger struct {
	applied, version, count, seen map[string]int
	newest                        map[string]tidemark.Stamp
	gone                          map[string]bool
}

func (b *books) copied() ledger {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ledger{maps.Clone(b.applied), maps.Clone(b.version), maps.Clone(b.count), maps.Clone(b.seen), maps.Clone(b.newest), maps.Clone(b.gone)}
}

// restored notes that what was decided since the copy is undone. What still waits on a device must be decided
// anew; of the rest the devices had their verdict, and are excused.
func (b *books) restored(l ledger, waiting map[string]bool) (undone int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for token, n := range b.seen {
		if n == l.seen[token] {
			continue
		}
		if !isNumbered(token) {
			undone++
		}
		b.undone[token] = true
		if waiting[token] {
			b.seen[token] = l.seen[token]
		}
	}
	b.applied, b.version, b.count, b.newest, b.gone = maps.Clone(l.applied), maps.Clone(l.version), maps.Clone(l.count), maps.Clone(l.newest), maps.Clone(l.gone)
	return undone
}
