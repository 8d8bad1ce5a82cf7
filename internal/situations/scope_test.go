package situations_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/server"
)

// rights say whose rows each user may read.
type rights struct {
	mu sync.Mutex // protects of
	of map[string][]string
}

func (r *rights) set(user string, owners ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[user] = owners
}

func (r *rights) may(c *server.Call) ([]string, error) {
	var who struct{ User string }
	if err := json.Unmarshal(c.Session.Hello().Auth, &who); err != nil {
		return nil, tidemark.NewError(tidemark.CodeDenied, "who are you?")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[who.User], nil
}

// enforce narrows what a session reads to what its user may, and refuses edits of other rows.
func (r *rights) enforce(w *world, srv *server.Server) {
	item := srv.Service("item")
	item.Before(func(_ context.Context, c *server.Call) error {
		owners, err := r.may(c)
		if err != nil {
			return err
		}
		allowed, err := json.Marshal(map[string]any{"in": owners})
		if err == nil {
			c.Args[0] = json.RawMessage(tidemark.Row(c.Args[0]).With("owner", allowed))
		}
		return err
	}, tidemark.MethodFindMany)
	item.Before(func(ctx context.Context, c *server.Call) error {
		owners, err := r.may(c)
		var uid, owner string
		if err == nil {
			err = c.Arg(0, &uid)
		}
		if err == nil {
			err = w.db.NewSelect().Table("item").Column("owner").Where("uid = ?", uid).Scan(ctx, &owner)
		}
		if err == nil && !slices.Contains(owners, owner) {
			err = tidemark.NewError(tidemark.CodeDenied, "the row is not yours")
		}
		return err
	}, tidemark.MethodUpdate)
}

// While a user was offline, an administrator took the right to read some rows from her, and
// gave her others. The former leave her device, though nobody changed them, and the latter come. What she
// wrote meanwhile arrives, or is listed as refused, and the rows stay on the server.
func TestARightThatWasRevokedWhileOffline(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		r := &rights{of: map[string][]string{"eve": {"ann", "bob"}}}
		w.prepare = func(srv *server.Server) { r.enforce(w, srv) }
		w.open()
		insert := func(uid, owner string) {
			m := created(uid, "old", daysAgo(3))
			m.Data = m.Data.With("owner", json.RawMessage(fmt.Sprintf("%q", owner)))
			w.write(m)
		}
		insert("a1", "ann")
		insert("b1", "bob")
		insert("b2", "bob")
		insert("c1", "cid")
		d := w.device(&client.Options{Auth: func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{"user":"eve"}`), nil }})
		d.shows(map[string]string{"a1": "old", "b1": "old", "b2": "old"})

		d.offline()
		d.label("a1", "mine")
		d.label("b2", "mine")
		d.create("a2", "mine")
		r.set("eve", "ann", "cid")
		d.shows(map[string]string{"a1": "mine", "b1": "old", "b2": "mine", "a2": "mine"})
		d.online()
		want := map[string]string{"a1": "mine", "a2": "mine", "c1": "old"}
		expect.Soon(t, func() error {
			d.sync()
			if got := d.rows(); !maps.Equal(got, want) {
				return fmt.Errorf("the device shows %v, want %v", got, want)
			}
			return nil
		})
		expect.Equal(t, "pending", d.pending(), 0)
		w.has(map[string]string{"a1": "mine", "a2": "mine", "b1": "old", "b2": "old", "c1": "old"})
		d.lists("rejected b2 denied")

		d.offline()
		r.set("eve", "ann", "bob")
		d.reopen()
		want = map[string]string{"a1": "mine", "a2": "mine", "b1": "old", "b2": "old"}
		expect.Soon(t, func() error {
			d.sync()
			if got := d.rows(); !maps.Equal(got, want) {
				return fmt.Errorf("with the right given back the device shows %v, want %v", got, want)
			}
			return nil
		})
	})
}

// Money goes from one account to another, in units of two writes. A program that watches both never shows a
// sum that is wrong, neither where it is written nor where it is told live.
func TestUnitsAreSeenWhole(t *testing.T) {
	second(t, func(t *testing.T, w *world) {
		w.open()
		const accounts, total = 4, 400
		for i := range accounts {
			m := created(fmt.Sprint("account", i), "account", daysAgo(3))
			m.Data = m.Data.With("score", json.RawMessage("100"))
			w.write(m)
		}
		writer, other, watcher := w.device(nil), w.device(nil), w.device(nil)
		w.agree(writer, other, watcher)
		ctx, cancel := context.WithCancel(t.Context())
		var watches sync.WaitGroup
		for name, d := range map[string]*device{"the writer": writer, "the watcher": watcher} {
			watches.Go(func() {
				for items, err := range d.items.Watch(ctx, nil, nil) {
					sum := int64(0)
					for _, i := range items {
						sum += i.Score
					}
					if err == nil && sum != total {
						t.Errorf("%s shows a sum of %d", name, sum)
					}
				}
			})
		}
		for n := range 60 {
			d, from, to := []*device{writer, other}[n%2], fmt.Sprint("account", n%accounts), fmt.Sprint("account", (n*3+1)%accounts)
			if from == to {
				continue
			}
			d.must(d.client.Tx(t.Context(), func(tx *client.Tx) error {
				f, err1 := d.items.FindTx(tx, from)
				g, err2 := d.items.FindTx(tx, to)
				_, err3 := d.items.UpdateTx(tx, from, client.Patch{"score": f.Score - 1})
				_, err4 := d.items.UpdateTx(tx, to, client.Patch{"score": g.Score + 1})
				return errors.Join(err1, err2, err3, err4)
			}))
			if n%10 == 9 {
				watcher.line.set(true) // what is told after the line broke is whole as well
				watcher.line.set(false)
			}
			if n%2 == 1 || n%3 == 0 { // the two do not write at the same time: that would lose one of two edits
				w.agree(writer, other)
			}
		}
		w.agree(writer, other, watcher)
		cancel()
		watches.Wait()
		expect.Equal(t, "the sum on the server", w.number("SELECT sum(score) FROM item"), total)
	})
}

// A user gives a row away, to somebody whose rows she may not read. It leaves her other device; the one that wrote it keeps
// it as she left it, since what a device itself wrote stays outside its scopes too, and hears no more of it. It goes when she says
// so: Evict removes what no scope of the device selects, Reset everything that the server does not tell again.
func TestARowThatWasGivenAwayStaysWhereItWas(t *testing.T) {
	second(t, func(t *testing.T, w *world) {
		r := &rights{of: map[string][]string{"eve": {"ann"}}}
		w.prepare = func(srv *server.Server) { r.enforce(w, srv) }
		w.open()
		for _, uid := range []string{"given", "kept"} {
			w.write(created(uid, "old", daysAgo(3)))
		}
		auth := &client.Options{Auth: func(context.Context) (json.RawMessage, error) { return json.RawMessage(`{"user":"eve"}`), nil }}
		all, other := w.device(auth), w.device(auth)
		hers := w.deviceOn(filepath.Join(t.TempDir(), "hers.db"), auth) // whose scope says what she may read
		hers.register(tidemark.Where{"owner": "ann"})
		hers.sync()
		all.update("given", client.Patch{"label": "given away", "owner": "bob"})
		all.sync()
		other.comesToShow(map[string]string{"kept": "old"})
		hers.comesToShow(map[string]string{"kept": "old"})
		_, err := hers.items.Create(t.Context(), Item{UID: "made", Label: "for bob", Owner: "bob"})
		w.must(err)
		hers.sync()
		change := func(uid string) {
			w.write(tidemark.Mutation{Model: "item", UID: uid, Op: tidemark.Update, Data: tidemark.Row(`{"label":"edited by bob"}`), Stamp: w.server.Now() + 1})
		}
		for i := range 3 {
			for _, d := range []*device{all, hers, other} {
				d.offline()
				d.online()
				d.sync()
			}
			if i == 0 { // the cursors have passed her writes
				change("given")
				change("made")
			}
			all.shows(map[string]string{"given": "given away", "kept": "old"})
			hers.shows(map[string]string{"made": "for bob", "kept": "old"})
			other.shows(map[string]string{"kept": "old"})
		}
		n, err := hers.items.Evict(t.Context(), nil)
		w.must(err)
		expect.Equal(t, "rows evicted where the scope does not select them", n, 1)
		n, err = all.items.Evict(t.Context(), nil)
		w.must(err)
		expect.Equal(t, "rows evicted where a scope of all rows selects them", n, 0)
		w.must(all.items.Reset(t.Context(), nil))
		for _, d := range []*device{all, hers, other} {
			d.sync()
			d.comesToShow(map[string]string{"kept": "old"})
		}
		w.has(map[string]string{"given": "edited by bob", "made": "edited by bob", "kept": "old"})
	})
}

// Of a row that hooks hid in very many versions a server looks at the first only, and may not know that a device was told a
// later one. The device notices that it is not told of that again.
func TestARowThatHooksShowedOnceAmongManyVersions(t *testing.T) {
	second(t, func(t *testing.T, w *world) {
		w.opts.CursorInterval = time.Hour // no cursor passes what is told live
		w.prepare = func(srv *server.Server) {
			srv.Service("item").After(func(_ context.Context, c *server.Call) error {
				if rows, ok := c.Result.([]tidemark.Row); ok {
					c.Result = slices.DeleteFunc(rows, func(r tidemark.Row) bool { return string(r.Get("label")) == `"secret"` })
				}
				return nil
			}, tidemark.MethodFindMany)
		}
		w.open()
		w.write(created("x", "secret", daysAgo(3)), created("y", "open", daysAgo(3)))
		d := w.device(nil)
		d.shows(map[string]string{"y": "open"})
		label := func(label string) {
			_, err := w.server.Service("item").Call(t.Context(), tidemark.MethodUpdate, "x", map[string]any{"label": label}, w.server.Now())
			w.must(err)
		}
		for range tidemark.MaxBefores + 4 {
			label("secret")
		}
		label("shown")
		d.comesToShow(map[string]string{"x": "shown", "y": "open"})
		d.offline()
		label("secret")
		before := w.reads.told()
		d.online()
		d.sync()
		d.comesToShow(map[string]string{"y": "open"})
		if n := w.reads.told() - before; n != 1+2 { // x, which changed, and then both
			t.Error("the scope was not told from the beginning, which this test is about")
		}
	})
}
