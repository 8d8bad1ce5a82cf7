package situations_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

var errDead = errors.New("the program has died")

// life is how long a program runs: it dies at the instant when it has done so many things (what it stores, before and
// after, and what it is told). From then on nothing that it does has an effect.
type life struct {
	mu   sync.Mutex // protects what follows
	left int
}

func newLife(left int) *life { return &life{left: left} }

// step is one thing more, and reports whether the program still lives.
func (l *life) step() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 {
		return false
	}
	l.left--
	return l.left > 0
}

func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = 0
}

func (l *life) lives() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left > 0
}

// mortalStore is a device's file as a program has it that dies.
type mortalStore struct {
	*sqlite.Store
	life *life
}

func (m *mortalStore) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	if !m.life.step() {
		return errDead
	}
	err := m.Store.Update(ctx, func(tx tidemark.StoreTx) error {
		if err := fn(tx); err != nil || m.life.lives() {
			return err
		}
		return errDead
	})
	if err == nil && !m.life.step() {
		return errDead // it is stored, and nobody knows
	}
	return err
}

// mortalLine is its way to the server.
type mortalLine struct {
	tidemark.Dialer
	life *life
}

type mortalEnd struct {
	tidemark.Handler
	life *life
}

func (l mortalLine) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	if !l.life.lives() {
		return nil, tidemark.Welcome{}, errDead
	}
	return l.Dialer.Dial(ctx, hello, &mortalEnd{h, l.life})
}

func (e *mortalEnd) Receive(m *tidemark.Message) {
	if e.life.step() {
		e.Handler.Receive(m)
	}
}

// A program dies again and again during a first sync of 100,000 rows, at any point, while rows change. It loses nothing
// and begins nothing anew: each time it is sent again what was on its way, and no more.
func TestAProgramThatDiesDuringAFirstSyncGoesOn(t *testing.T) {
	const (
		rows   = 100_000
		kills  = 40
		window = 2 // pages: the one that is being stored, and the one that was asked for ahead
	)
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := (&world{t: t, opts: server.Options{PageBytes: 48 << 10}}).open()
	w.exec(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO item SELECT printf('u%06d', i), printf('row %d', i), i, 'ann' FROM n`, rows-1)
	w.restart() // which gives the rows metadata
	path := filepath.Join(t.TempDir(), "device.db")
	var stored, perLife int
	died := 0
	for kill := range kills {
		const start, perPage = 10, 2 // steps: until it is sent rows, and of each page
		pages := (rows - stored) / max(w.reads.page(), 800)
		n := 1 + rng.IntN(2*(start+perPage*pages/(kills-kill))) // what is left, divided among the lives that are left
		l := newLife(n)
		before := w.reads.told()
		d := w.mortal(path, l)
		expect.Soon(t, func() error {
			if s := d.client.Status(); l.lives() && s.State != client.Synced {
				return fmt.Errorf("after %d rows nothing more happens: %+v", stored, s)
			}
			return nil
		})
		if l.lives() { // it has them all
			l.end()
			_ = d.client.Close()
			break
		}
		died++
		_ = d.client.Close() // it ends what it has under way, without any effect; its file is left open
		var now int
		w.must(d.db.QueryRow("SELECT count(*) FROM tidemark_rows_1 WHERE row IS NOT NULL").Scan(&now))
		told, largest := w.reads.told()-before, w.reads.page()
		perLife = max(perLife, told-(now-stored))
		if now < stored-kill || now-stored > told+1 || told-(now-stored) > window*largest+1 {
			t.Errorf("life %d, of %d steps: %d rows were sent, and where %d were stored before are now %d (a page has %d)", kill, n, told, stored, now, largest)
		}
		stored = now
		change := func(method string, args ...any) {
			if _, err := w.server.Service("item").Call(t.Context(), method, append(args, tidemark.StampOf(time.Now()))...); err != nil {
				t.Fatal(err)
			}
		}
		change("updateWithMeta", fmt.Sprintf("u%06d", 2*rng.IntN(rows/2)), map[string]any{"label": fmt.Sprintf("changed after life %d", kill)})
		change("deleteWithMeta", fmt.Sprintf("u%06d", 1+2*kill*rows/2/kills)) // some stored, some not yet
		change("createWithMeta", fmt.Sprintf("u%06d new", rng.IntN(rows)), map[string]any{"label": "new"})
	}
	if died < 25 {
		t.Errorf("it died only %d times", died)
	}
	t.Logf("it died %d times, with %d rows stored the last time; at most %d sent in vain in one life, %d on a page", died, stored, perLife, w.reads.page())
	d := w.deviceOn(path, nil)
	d.register(nil)
	w.agree(d)
	if told, most := w.reads.told(), rows+kills*(window*w.reads.page()+3); told > most {
		t.Errorf("%d rows were sent, want at most %d", told, most)
	}
	if stored < rows/2 {
		t.Errorf("it died for the last time with %d of %d rows", stored, rows)
	}
	if got := d.rows(); !maps.Equal(got, w.rows()) {
		t.Error("the rows differ")
	}
}

// mortal runs the program of a device on a file.
func (w *world) mortal(path string, l *life) *device {
	w.t.Helper()
	d := &device{t: w.t, w: w, path: path, dsn: sqlite.DSNNormal(path)}
	d.openFile()
	w.t.Cleanup(func() { _ = d.store.Close(); _ = d.db.Close() })
	var err error
	d.client, err = client.Open(w.t.Context(), &mortalStore{d.store, l}, mortalLine{w, l}, &client.Options{MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond})
	if err != nil {
		if l.lives() {
			w.t.Fatal(err)
		}
		return d
	}
	if d.items, err = client.NewModel[Item](w.t.Context(), d.client, "item", nil); err == nil {
		_, err = d.items.Register(w.t.Context(), nil)
	}
	if err != nil && l.lives() {
		w.t.Fatal(err)
	}
	return d
}
