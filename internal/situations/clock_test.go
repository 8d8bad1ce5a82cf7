package situations_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

// at is the clock of a device that is so far ahead.
func at(ahead time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(ahead) }
}

const day = 24 * time.Hour

// One device removed a row weeks ago and another one edited it, both offline since. The later of the two
// counts, whichever comes back first, and who lost is told.
func TestRemovedHereAndEditedThereWeeksAgo(t *testing.T) {
	for _, tc := range []struct {
		name            string
		removed, edited time.Duration
		want            string
	}{
		{"edited later", -20 * day, -6 * day, "edited"},
		{"removed later", -6 * day, -20 * day, ""},
	} {
		for _, removerFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/remover first %v", tc.name, removerFirst), func(t *testing.T) {
				protocols(t, func(t *testing.T, w *world) {
					w.open()
					w.write(created("u", "old", daysAgo(40)))
					remover, editor := w.device(nil), w.device(nil)
					w.agree(remover, editor)
					for d, when := range map[*device]time.Duration{remover: tc.removed, editor: tc.edited} {
						d.opts.Now, d.opts.Offline = at(when), true
						d.reopen()
					}
					remover.remove("u")
					editor.label("u", "edited")
					order := []*device{remover, editor}
					if !removerFirst {
						order[0], order[1] = editor, remover
					}
					for _, d := range order {
						d.opts.Now, d.opts.Offline = nil, false
						d.reopen()
						w.agree(d)
					}
					w.agree(remover, editor, w.device(nil))
					expect.Equal(t, "the row", w.rows()["u"], tc.want)
					loser := remover
					if tc.want == "" {
						loser = editor
					}
					// Who came first has won at the time.
					if loser == order[1] {
						loser.lists("superseded u ")
					}
				})
			})
		}
	}
}

// The clock of a device is a day wrong. It works as any other: what it wrote offline arrives, and of edits
// made with a connection the last one counts, whoever makes it; and so it is when the clock has been set right.
func TestAClockThatIsADayWrong(t *testing.T) {
	for _, ahead := range []time.Duration{day, -day} {
		t.Run(ahead.String(), func(t *testing.T) {
			protocols(t, func(t *testing.T, w *world) {
				w.open()
				w.write(created("held", "old", daysAgo(3)))
				honest := w.device(nil)
				d := w.device(&client.Options{Now: at(ahead)})
				w.agree(d, honest)
				d.offline()
				d.create("made", "one")
				d.label("made", "two")
				d.label("held", "offline")
				d.create("gone", "one")
				d.remove("gone")
				d.online()
				want := map[string]string{"made": "two", "held": "offline"}
				w.agree(d, honest)
				w.has(want)
				d.lists()
				if n := w.number("SELECT count(*) FROM metadata WHERE coalesce(updated_at, created_at) > ?", time.Now().Add(2*time.Minute).UTC()); n > 0 {
					t.Errorf("%d rows are of the future", n)
				}
				for i := range 4 { // with the clock wrong, and then right
					if i == 2 {
						d.opts.Now = nil
						d.reopen()
					}
					for _, writer := range []*device{honest, d, honest, d, d, honest} {
						label := fmt.Sprint("edit ", i, writer == d)
						for _, uid := range []string{"made", "held"} {
							writer.label(uid, label)
						}
						w.agree(writer, d, honest)
						for _, uid := range []string{"made", "held"} {
							expect.Equal(t, "the last edit", w.rows()[uid], label)
						}
					}
				}
				d.lists()
				honest.lists()
			})
		})
	}
}

// A row that a device whose clock was a day ahead removed, or edited, offline and before it ever met the server's
// time, can be written by others at once.
func TestNothingIsOfTheFuture(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		for _, uid := range []string{"edited", "removed"} {
			w.write(created(uid, "old", daysAgo(3)))
		}
		honest := w.device(nil)
		d := w.device(nil)
		w.agree(d)
		d.opts.Now, d.opts.Offline = at(day), true
		d.reopen()
		d.label("edited", "a day ahead")
		d.remove("removed")
		d.online()
		w.agree(d, honest)
		w.has(map[string]string{"edited": "a day ahead"})
		honest.label("edited", "honest")
		honest.create("removed", "honest")
		w.agree(honest, d)
		w.has(map[string]string{"edited": "honest", "removed": "honest"})
		d.lists()
		honest.lists()
	})
}
