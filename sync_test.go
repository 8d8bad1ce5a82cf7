package tidemark_test

// The story of the library, told as tests: one server, two devices, in memory and
// in virtual time.

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	drivermemory "github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	storememory "github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

type Note struct {
	UID  string `json:"uid"`
	List string `json:"list"`
	Text string `json:"text"`
}

// world is a server that publishes notes to everybody.
type world struct {
	t      *testing.T
	server *server.Server
	pipe   *pipe.Pipe
}

func newWorld(t *testing.T) *world {
	t.Helper()
	notes, err := tidemark.NewSchema("note", []tidemark.Field{
		{Name: "list", Kind: tidemark.Text}, {Name: "text", Kind: tidemark.Text, Required: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(drivermemory.New(notes), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error {
		s.Join("all")
		return nil
	})
	srv.Service("note").Publish(server.To("all"))
	srv.Service("note").Before(func(_ context.Context, c *server.Call) error {
		var data struct{ Text string }
		if err := c.Arg(1, &data); err == nil && data.Text == "forbidden" {
			return tidemark.NewError("rude", "not that word")
		}
		return nil
	}, tidemark.MethodCreate, tidemark.MethodUpdate)
	p := pipe.New(srv, nil)
	t.Cleanup(func() { p.Close(); srv.Close() })
	return &world{t: t, server: srv, pipe: p}
}

// phone is one device.
type phone struct {
	t      *testing.T
	client *client.Client
	notes  *client.Model[Note]
}

func (w *world) phone() *phone {
	w.t.Helper()
	c, err := client.Open(w.t.Context(), storememory.New(), w.pipe, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	notes, err := client.NewModel[Note](w.t.Context(), c, "note", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &phone{t: w.t, client: c, notes: notes}
}

func (p *phone) watchAll() *phone { return p.register(tidemark.Where{}) }

func (p *phone) register(where tidemark.Where) *phone {
	p.t.Helper()
	if _, err := p.notes.Register(p.t.Context(), where); err != nil {
		p.t.Fatal(err)
	}
	return p
}

func (p *phone) write(list, text string) Note {
	p.t.Helper()
	n, err := p.notes.Create(p.t.Context(), Note{List: list, Text: text})
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *phone) edit(uid string, patch client.Patch) {
	p.t.Helper()
	if _, err := p.notes.Update(p.t.Context(), uid, patch); err != nil {
		p.t.Fatal(err)
	}
}

func (p *phone) sees(where tidemark.Where, want ...string) {
	p.t.Helper()
	notes, err := p.notes.FindWhere(p.t.Context(), where)
	if err != nil {
		p.t.Fatal(err)
	}
	var got []string
	for _, n := range notes {
		got = append(got, n.Text)
	}
	if len(got) != len(want) {
		p.t.Fatalf("sees %q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			p.t.Fatalf("sees %q, want %q", got, want)
		}
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) { <-time.After(d) }

// settle lets everything that is going to happen within a minute happen.
func settle() {
	pass(time.Minute)
	synctest.Wait()
}

// A device works without a connection, and its work arrives when there is one.
func TestOfflineEditsArrive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.phone().watchAll(), w.phone().watchAll()
		a.client.GoOffline()
		n := a.write("home", "milk")
		a.edit(n.UID, client.Patch{"text": "oat milk"})
		a.sees(nil, "oat milk")
		settle()
		b.sees(nil)
		if got := a.client.Status(); got.State != client.Offline || got.Pending != 2 {
			t.Errorf("status is %+v, want offline with 2 pending", got)
		}
		a.client.GoOnline()
		settle()
		b.sees(nil, "oat milk")
		if got := a.client.Status(); got.State != client.Synced || got.Pending != 0 {
			t.Errorf("status is %+v, want synced with nothing pending", got)
		}
	})
}

// Two devices edit one row while apart: the later edit wins on both, and the
// device that lost is told.
func TestTheLaterEditWins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.phone().watchAll(), w.phone().watchAll()
		n := a.write("home", "milk")
		settle()
		a.client.GoOffline()
		b.client.GoOffline()
		a.edit(n.UID, client.Patch{"text": "earlier"})
		pass(time.Second)
		b.edit(n.UID, client.Patch{"text": "later"})
		b.client.GoOnline()
		settle()
		a.client.GoOnline()
		settle()
		a.sees(nil, "later")
		b.sees(nil, "later")
		lost, err := a.client.Rejections(t.Context())
		if err != nil || len(lost) != 1 || lost[0].Kind != client.Superseded {
			t.Errorf("the loser was told %+v, %v", lost, err)
		}
	})
}

// One device deletes a row that another edits later: the edit brings it back.
func TestAnEditAfterADeletionBringsTheRowBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.phone().watchAll(), w.phone().watchAll()
		n := a.write("home", "milk")
		settle()
		b.client.GoOffline()
		if err := a.notes.Remove(t.Context(), n.UID); err != nil {
			t.Fatal(err)
		}
		a.sees(nil)
		settle()
		b.edit(n.UID, client.Patch{"text": "still needed"})
		b.client.GoOnline()
		settle()
		a.sees(nil, "still needed")
		b.sees(nil, "still needed")

		a.client.GoOffline()
		a.edit(n.UID, client.Patch{"text": "edited before the deletion"})
		pass(time.Second)
		if err := b.notes.Remove(t.Context(), n.UID); err != nil {
			t.Fatal(err)
		}
		settle()
		a.client.GoOnline()
		settle()
		a.sees(nil)
		b.sees(nil)
	})
}

// A row leaves the scope of a device while that device is offline: it goes there,
// and only there.
func TestARowThatLeavesAScopeIsNotDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home := tidemark.Where{"list": "home"}
		a, b := w.phone().watchAll(), w.phone().register(home)
		n := a.write("home", "milk")
		settle()
		b.sees(home, "milk")
		b.client.GoOffline()
		a.edit(n.UID, client.Patch{"list": "office"})
		settle()
		b.sees(home, "milk")
		b.client.GoOnline()
		settle()
		b.sees(home)
		a.sees(nil, "milk")
		c := w.phone().watchAll()
		settle()
		c.sees(nil, "milk")
	})
}

// The server refuses a write: it is undone, exactly, and kept as a rejection; what
// came before and after it stands.
func TestARejectedWriteIsUndoneAndKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.phone().watchAll()
		n := a.write("home", "milk")
		settle()
		a.client.GoOffline()
		a.edit(n.UID, client.Patch{"list": "office"})
		a.edit(n.UID, client.Patch{"text": "forbidden"})
		a.write("home", "bread")
		a.sees(nil, "forbidden", "bread")
		a.client.GoOnline()
		settle()
		a.sees(nil, "milk", "bread")
		a.sees(tidemark.Where{"list": "office"}, "milk")
		rs, err := a.client.Rejections(t.Context())
		if err != nil || len(rs) != 1 || rs[0].Kind != client.Rejected || rs[0].Code != "rude" || rs[0].Message != "not that word" {
			t.Fatalf("rejections: %+v, %v", rs, err)
		}
		if err := a.client.Discard(t.Context(), rs[0].ID); err != nil {
			t.Fatal(err)
		}
		if rs, _ := a.client.Rejections(t.Context()); len(rs) != 0 {
			t.Errorf("still there: %+v", rs)
		}
	})
}

// The link breaks again and again while both write: both end with everything.
func TestTwoDevicesConvergeOverABadLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.phone().watchAll(), w.phone().watchAll()
		var uids []string
		for i := range 20 {
			uids = append(uids, a.write("home", "a").UID, b.write("home", "b").UID)
			w.pipe.Cut()
			pass(time.Duration(i) * 37 * time.Millisecond)
			if _, err := b.notes.Update(t.Context(), uids[i], client.Patch{"text": "edited"}); err != nil && !errors.Is(err, tidemark.ErrNotFound) {
				t.Fatal(err)
			}
		}
		settle()
		for _, uid := range uids {
			x, err1 := a.notes.FindByUID(t.Context(), uid)
			y, err2 := b.notes.FindByUID(t.Context(), uid)
			if err1 != nil || err2 != nil || x != y {
				t.Errorf("%s: %+v, %v and %+v, %v", uid, x, err1, y, err2)
			}
		}
	})
}

// A Watch shows the present at once, and then what becomes of it, whoever wrote.
func TestAWatchFollowsBothDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.phone(), w.phone().watchAll()
		a.write("home", "milk")
		settle()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := make(chan int)
		go func() {
			defer close(seen)
			for notes, err := range a.notes.Watch(ctx, tidemark.Where{"list": "home"}, nil) {
				if err != nil {
					return
				}
				seen <- len(notes)
			}
		}()
		if got := <-seen; got != 1 {
			t.Errorf("first %d, want 1", got)
		}
		synctest.Wait()
		b.write("home", "bread")
		if got := <-seen; got != 2 {
			t.Errorf("then %d, want 2", got)
		}
		b.write("office", "paper")
		settle()
		select {
		case n := <-seen:
			t.Errorf("a note of another list made the watch yield %d", n)
		default:
		}
		cancel()
		for range seen {
		}
	})
}
