package client_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// shadow is what a device should have, kept as simply as can be: the server's last
// word about each row, and the writes without a verdict.
type shadow struct {
	base    map[string]tidemark.RowMeta
	pending []tidemark.Mutation
	listed  []int64
}

// told is that a verdict was stored.
func (s *shadow) told(v *tidemark.Verdict) {
	at := slices.IndexFunc(s.pending, func(m tidemark.Mutation) bool { return m.N == v.N })
	m := s.pending[at]
	s.pending = slices.Delete(s.pending, at, at+1)
	if v.Err != nil {
		s.listed = append(s.listed, v.N)
		return
	}
	if v.Meta.T() >= s.base[m.UID].Meta.T() {
		t := tidemark.RowMeta{Row: v.Row, Meta: v.Meta}
		if t.Meta.Deleted() {
			t.Row = nil
		}
		s.base[m.UID] = t
	}
	if !v.Applied && !s.replaced(m, v.Meta) {
		s.listed = append(s.listed, v.N)
	}
}

// replaced says that nothing of m is missed: the row is deleted, as m wanted it, or a later write
// will win that leaves nothing of m. All writes here have a label, some also a score.
func (s *shadow) replaced(m tidemark.Mutation, meta tidemark.Meta) bool {
	if m.Op == tidemark.Delete && meta.Deleted() {
		return true
	}
	return slices.ContainsFunc(s.pending, func(l tidemark.Mutation) bool {
		covers := m.Op != tidemark.Delete && l.Op != tidemark.Delete && (l.Data.Get("score") != nil || m.Data.Get("score") == nil)
		return l.UID == m.UID && l.N > m.N && l.Stamp > meta.T() && (l.Op == tidemark.Delete || covers)
	})
}

func (s *shadow) visible(uid string) tidemark.Row {
	var mine []tidemark.Mutation
	for _, m := range s.pending {
		if m.UID == uid {
			mine = append(mine, m)
		}
	}
	row, _ := tidemark.Rebase(s.base[uid].Row, s.base[uid].Meta, mine)
	return row
}

var uidsOfHistory = []string{"a", "b", "c"}

// Whatever is written, decided, cut and started anew, in whatever order, a device shows
// the server's last word with its own pending writes on top, and lists what was lost.
func TestVisibleRowsAreTheServersWithThePendingWrites(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), uint64(*seeds)*2
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		t.Run(fmt.Sprint("seed ", s), func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				(&rebasing{peer: p, r: rand.New(rand.NewPCG(s, 7)), s: &shadow{base: map[string]tidemark.RowMeta{}}}).run()
			})
		})
	}
}

// rebasing is one random history.
type rebasing struct {
	*peer
	r     *rand.Rand
	s     *shadow
	steps []string
	n     int
}

func (h *rebasing) run() {
	h.limits.Mutations = 3 + h.r.IntN(4) // a unit has up to three
	h.script.on(tidemark.MethodPush, nil)
	h.open()
	h.s.pending = nil
	for range 60 {
		h.step()
		h.check()
	}
	h.refuse = nil
	for deadline := 0; h.client.Status().Pending > 0; deadline++ {
		if deadline > 1000 {
			h.fail("it does not end")
		}
		if synctest.Wait(); len(h.script.calls) > 0 {
			h.answer(true)
		} else {
			pass(time.Second)
		}
	}
	h.check()
	if h.logs.has("takes a new name") {
		h.fail("the client has lost its name")
	}
	for _, uid := range uidsOfHistory {
		if got, want := h.record(uid).Row, h.db.Get("item", uid); !h.same(got, want.Row) && h.s.base[uid].Meta == want.Meta {
			h.fail("in the end %s is %s, on the server %s", uid, got, want.Row)
		}
	}
}

func (h *rebasing) fail(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(h.steps, "\n"))
}

func (h *rebasing) step() {
	synctest.Wait()
	uid := uidsOfHistory[h.r.IntN(len(uidsOfHistory))]
	switch k := h.r.IntN(20); {
	case k < 8:
		h.note("write %s", uid)
		h.write(uid)
	case k < 10:
		h.note("unit of %s", uid)
		h.unit(h.label(), uidsOfHistory[:2+h.r.IntN(2)]...)
		h.queued()
	case k < 15 && len(h.script.calls) > 0:
		h.answer(h.r.IntN(4) > 0)
	case k < 16:
		h.note("another device writes %s", uid)
		at := tidemark.StampOf(time.Now().Add(time.Duration(h.r.IntN(200)-100) * time.Millisecond))
		if _, err := h.db.Write(h.t.Context(), []tidemark.Mutation{{Model: "item", UID: uid, Op: tidemark.Op(1 + h.r.IntN(3)), Data: tidemark.Row(`{"label":"theirs","score":1}`), Stamp: at}}); err != nil {
			h.t.Fatal(err)
		}
	case k < 17:
		h.note("cut")
		h.pipe.Cut()
		h.drop()
	case k < 18:
		h.note("crash")
		h.drop()
		h.crash()
	default:
		pass(time.Duration(h.r.IntN(1000)) * time.Millisecond)
	}
}

func (h *rebasing) note(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf(format, args...))
}

func (h *rebasing) label() string { h.n++; return fmt.Sprint("v", h.n) }

// drop forgets the requests of a connection that is gone.
func (h *rebasing) drop() {
	for len(h.script.calls) > 0 {
		<-h.script.calls
	}
}

// write makes whatever write of the row is possible.
func (h *rebasing) write(uid string) {
	ctx := h.t.Context()
	score := int64(h.n)
	var err error
	switch _, missing := h.items.FindByUID(ctx, uid); {
	case missing != nil:
		_, err = h.items.Create(ctx, Item{UID: uid, Label: h.label(), Score: &score})
	case h.r.IntN(4) == 0:
		err = h.items.Remove(ctx, uid)
	default:
		_, err = h.items.Update(ctx, uid, client.Patch{"label": h.label(), "score": score})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.queued()
}

// queued takes what is new in the outbox.
func (h *rebasing) queued() {
	last := int64(0)
	if n := len(h.s.pending); n > 0 {
		last = h.s.pending[n-1].N
	}
	for _, m := range h.outbox() {
		if m.N > last {
			h.s.pending = append(h.s.pending, m)
			h.note("  %d %s %s %s %v unit %d", m.N, m.Op, m.UID, m.Data, m.Stamp, m.Unit)
		}
	}
}

// answer decides the oldest batch that came, perhaps not all of it, and perhaps its
// answer is lost.
func (h *rebasing) answer(arrives bool) {
	c := <-h.script.calls
	b := h.batch(c)
	if h.r.IntN(3) == 0 { // refused at random, for good
		h.refuse = func(m *tidemark.Mutation) *tidemark.Error {
			if rand.New(rand.NewPCG(uint64(m.N), 3)).IntN(3) == 0 {
				return tidemark.NewError("no", "no")
			}
			return nil
		}
	}
	if n := h.r.IntN(4 * len(b.Mutations)); n > 0 && n < len(b.Mutations) {
		end := 0
		_ = tidemark.EachUnit(b.Mutations, func(_, to int) error {
			if end < n {
				end = to
			}
			return nil
		})
		b = b.Part(0, end)
	}
	vs, err := h.judge(b)
	switch {
	case err != nil:
		h.note("error %v", err)
		c.answer(tidemark.Answer{Err: tidemark.WireError(err)})
		return
	case !arrives:
		h.note("verdicts %d to %d are lost", vs[0].N, vs[len(vs)-1].N)
		h.pipe.Cut()
		h.drop()
		return
	}
	before := h.client.Status().Pending
	c.verdicts(&tidemark.PushAnswer{Now: tidemark.StampOf(time.Now()), Verdicts: vs})
	synctest.Wait()
	if stored := before - h.client.Status().Pending; stored != 0 && stored != len(vs) {
		h.fail("%d of %d verdicts were stored", stored, len(vs))
	} else if stored == 0 {
		h.note("verdicts from %d on were ignored", vs[0].N)
		return
	}
	for i := range vs {
		h.note("verdict %d applied %v err %v: %s %v", vs[i].N, vs[i].Applied, vs[i].Err, vs[i].Row, vs[i].Meta.T())
		h.s.told(&vs[i])
	}
}

func (h *rebasing) same(a, b tidemark.Row) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	for _, f := range []string{"label", "score"} {
		if string(a.Get(f)) != string(b.Get(f)) {
			return false
		}
	}
	return true
}

func (h *rebasing) check() {
	h.t.Helper()
	for _, uid := range uidsOfHistory {
		if got, want := h.record(uid).Row, h.s.visible(uid); !h.same(got, want) {
			h.fail("%s is %s, want %s", uid, got, want)
		}
	}
	rs, err := h.client.Rejections(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	var got []int64
	for _, r := range rs {
		got = append(got, r.Mutation.N)
	}
	slices.Sort(h.s.listed)
	if !slices.Equal(got, h.s.listed) {
		h.fail("listed are %v, want %v", got, h.s.listed)
	}
	if n := h.client.Status().Pending; n != len(h.s.pending) {
		h.fail("%d are pending, want %d", n, len(h.s.pending))
	}
}
