package situations_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

// seen notes what a program shows of one row while it watches all of them.
type seen struct {
	mu     sync.Mutex // protects labels
	labels []string   // each once in a row; "" while there is no row
	done   sync.WaitGroup
}

func (d *device) watch(uid string) *seen {
	s := &seen{}
	ctx, cancel := context.WithCancel(d.t.Context())
	s.done.Go(func() {
		for items, err := range d.items.Watch(ctx, nil, nil) {
			if err != nil {
				continue
			}
			label := ""
			for _, i := range items {
				if i.UID == uid {
					label = i.Label
				}
			}
			s.mu.Lock()
			if len(s.labels) == 0 || s.labels[len(s.labels)-1] != label {
				s.labels = append(s.labels, label)
			}
			s.mu.Unlock()
		}
	})
	d.w.t.Cleanup(func() { cancel(); s.done.Wait() })
	return s
}

func (s *seen) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.labels)
}

// never fails when a label, having been followed by another one, was shown again.
func (s *seen) neverBack(t testing.TB) {
	t.Helper()
	shown := s.all()
	for i, l := range shown {
		if l != "" && slices.Contains(shown[:i], l) {
			t.Errorf("the row was shown as %q: it went back", shown)
		}
	}
}

// A row is on its way to a device, as it was read a moment ago, and meanwhile somebody edits
// or removes it. The user never sees the old row come back.
func TestEditOfARowThatIsOnItsWay(t *testing.T) {
	edits := []struct {
		name, want string
		here       bool // the device itself writes, so it must hold the row
		do         func(d, other *device)
	}{
		{"edited elsewhere", "newest", false, func(_, other *device) { other.label("b", "newest") }},
		{"removed elsewhere", "", false, func(_, other *device) { other.remove("b") }},
		{"edited here", "mine", true, func(d, _ *device) { d.label("b", "mine") }},
		{"removed here", "", true, func(d, _ *device) { d.remove("b") }},
		{"edited there and then here", "mine", true, func(d, other *device) {
			other.label("b", "newest")
			expect.Becomes(d.t, "the device's row", "newest", func() string { return d.row("b").Label })
			d.label("b", "mine")
		}},
		{"edited here and then removed there", "", true, func(d, other *device) {
			d.label("b", "mine")
			expect.Becomes(d.t, "the other's row", "mine", func() string { return other.row("b").Label })
			other.remove("b")
		}},
	}
	protocols(t, func(t *testing.T, _ *world) {
		guide := t.Name()[len(t.Name())-5:] == "guide"
		for _, first := range []bool{true, false} {
			for _, edit := range edits {
				if first && edit.here {
					continue
				}
				t.Run(fmt.Sprintf("first %v/%s", first, edit.name), func(t *testing.T) {
					t.Parallel()
					w := (&world{t: t, guide: guide}).pages()
					for _, uid := range []string{"a", "b", "c"} {
						w.write(created(uid, "old", daysAgo(3)))
					}
					other := w.device(nil)
					d := w.device(&client.Options{Offline: true})
					if !first {
						d.online()
						w.agree(d)
						d.offline()
						for _, uid := range []string{"a", "b", "c"} {
							other.label(uid, "theirs")
						}
						w.agree(other)
					}
					held := w.reads.holdAfter("b")
					watch := d.watch("b")
					d.online()
					held.wait(t)
					edit.do(d, other)
					w.agreeOn(other, "b", edit.want)
					if !guide { // in the guide's protocol an event about an unknown row waits for the sync
						other.create("behind", "what came before it has been heard of")
						expect.Becomes(t, "the row behind", "behind", func() string { return d.row("behind").UID })
						expect.Equal(t, "the device's row before the page", d.row("b").Label, edit.want)
					}
					held.open()
					w.agree(d, other)
					expect.Equal(t, "the device's row", d.row("b").Label, edit.want)
					watch.neverBack(t)
					if shown := watch.all(); first && !guide && slices.Contains(shown, "old") {
						t.Errorf("the row was shown as %q though it was known to be old", shown)
					}
					d.lists()
				})
			}
		}
	})
}

// pages opens a server whose pages have one row each.
func (w *world) pages() *world {
	w.opts.PageBytes = 1
	return w.open()
}

// agreeOn waits until the server and a device have this label, "" for no row.
func (w *world) agreeOn(d *device, uid, label string) {
	w.t.Helper()
	expect.Becomes(w.t, "the server's row", label, func() string { return w.rows()[uid] })
	expect.Becomes(w.t, "the other device's row", label, func() string { return d.row(uid).Label })
}

// Between the moment at which a device is subscribed and the one at which its first page is read, or
// arrives, rows are made, edited and removed. None of it is missed.
func TestChangesBetweenSubscribingAndTheFirstPage(t *testing.T) {
	for _, read := range []bool{false, true} {
		t.Run(fmt.Sprintf("page already read %v", read), func(t *testing.T) {
			protocols(t, func(t *testing.T, w *world) {
				w.open()
				for _, uid := range []string{"a", "b", "c"} {
					w.write(created(uid, "old", daysAgo(3)))
				}
				other := w.device(nil)
				d := w.device(&client.Options{Offline: true})
				watch := d.watch("a")
				held := w.reads.holdBefore
				if read {
					held = func() *gate { return w.reads.holdAfter("a") }
				}
				gate := held()
				d.online()
				gate.wait(t)
				other.label("a", "new")
				other.remove("b")
				other.create("d", "made meanwhile")
				want := map[string]string{"a": "new", "c": "old", "d": "made meanwhile"}
				w.comesToHave(want) // in the guide's protocol another sync would wait for the one that is held
				gate.open()
				w.agree(d, other)
				d.shows(want)
				watch.neverBack(t)
			})
		})
	}
}

// The server no longer has the changes that a device missed, so its copy is rebuilt from the beginning.
// Whatever the user does meanwhile, with rows that have come again, that have not yet, or that are new, counts,
// also when the program ends in the middle of it.
func TestWritesWhileTheCopyIsRebuilt(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			second(t, func(t *testing.T, w *world) {
				w.pages()
				for i := range 8 {
					w.write(created(fmt.Sprint("r", i), "old", daysAgo(9)))
				}
				other, d := w.device(nil), w.device(nil)
				w.agree(d)
				d.offline()
				d.label("r0", "written offline")
				other.remove("r2")
				other.label("r3", "theirs")
				other.label("r6", "theirs")
				w.agree(other)
				_, err := w.driver.Purge(t.Context(), time.Now().Add(time.Hour))
				w.must(err)

				held := w.reads.holdAfter("r4")
				d.online()
				held.wait(t)
				d.label("r1", "mine") // has come again
				d.label("r6", "mine") // has not
				d.remove("r5")        // has not
				d.remove("r3")        // has come again
				d.create("new", "mine")
				if got := d.row("r7").Label; got != "old" {
					t.Errorf("while the copy is rebuilt r7 is %q", got)
				}
				want := map[string]string{"r0": "written offline", "r1": "mine", "r4": "old", "r6": "mine", "r7": "old", "new": "mine"}
				if restart {
					d.reopen()
				}
				held.open()
				w.agree(d, other)
				w.has(want)
				d.lists()
				if w.guide || d.line.calls(tidemark.MethodPull) < 3 {
					t.Error("the copy was not rebuilt in pages")
				}
			})
		})
	}
}

// A device has been used before it first met a server that has rows already, of which one has the very
// uid of a row of the device's.
func TestOfflineRowsAtTheFirstSync(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		for _, uid := range []string{"s1", "s2", "both"} {
			w.write(created(uid, "the server's", daysAgo(3)))
		}
		d := w.device(&client.Options{Offline: true})
		d.create("d1", "the device's")
		d.create("d2", "the device's")
		d.create("both", "the device's")
		d.create("gone", "the device's")
		d.remove("gone")
		d.online()
		w.agree(d)
		w.has(map[string]string{"s1": "the server's", "s2": "the server's", "d1": "the device's", "d2": "the device's", "both": "the device's"})
		d.lists()
	})
}
