package situations_test

import (
	"fmt"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
)

// The database refuses a row, and an edit of another. Neither stops what is queued behind it, nor what
// others write, nor the next start of the program.
func TestARefusedRowStopsNothing(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		w.write(created("edited", "old", daysAgo(3)))
		other := w.device(nil)
		d := w.device(nil)
		d.offline()
		d.create("before", "good")
		_, err := d.items.Create(t.Context(), Item{UID: "bad", Label: "bad", Score: -1})
		d.must(err)
		d.update("edited", client.Patch{"score": -1, "label": "bad"})
		d.create("behind", "good")
		other.create("theirs", "good")
		d.online()
		want := map[string]string{"before": "good", "behind": "good", "theirs": "good", "edited": "old"}
		w.agree(d, other)
		w.has(want)
		expect.Equal(t, "the score that is back", d.row("edited").Score, 1)
		d.lists("rejected bad constraint", "rejected edited constraint")

		d.reopen()
		w.agree(d)
		d.shows(want)
		d.lists("rejected bad constraint", "rejected edited constraint")
		d.create("later", "good")
		other.label("theirs", "still heard of")
		w.agree(other, d)
		expect.Equal(t, "the row behind", d.row("theirs").Label, "still heard of")
		expect.Equal(t, "the server's", w.rows()["later"], "good")

		list, err := d.client.Rejections(t.Context()) // the user mends one, and gives the other up
		d.must(err)
		d.must(d.client.Discard(t.Context(), list[0].ID))
		d.must(d.client.Discard(t.Context(), list[1].ID))
		d.create("bad", "mended")
		w.agree(d, other)
		d.lists()
		expect.Equal(t, "the mended row", w.rows()["bad"], "mended")
	})
}

// One of a hundred writes that go together is refused: the others are made, each once.
func TestAPushThatRejectsOneOfMany(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		d, other := w.device(nil), w.device(nil)
		d.offline()
		want := map[string]string{}
		for i := range 100 {
			uid, score := fmt.Sprint("u", i), int64(i)
			if i == 37 {
				score = -1
			} else {
				want[uid] = "good"
			}
			_, err := d.items.Create(t.Context(), Item{UID: uid, Label: "good", Score: score})
			d.must(err)
		}
		d.online()
		w.agree(d, other)
		w.has(want)
		d.lists("rejected u37 constraint")
		if n := d.line.calls(tidemark.MethodPush); !w.guide && n != 1 {
			t.Errorf("%d pushes for 100 writes", n)
		}
		if n := w.number("SELECT count(*) FROM tidemark_log"); n != 99 {
			t.Errorf("the log has %d changes, want 99", n)
		}
	})
}

// A unit of which one write is refused is rejected whole, and what is before and behind it is not.
func TestAPushThatRejectsOneUnitOfMany(t *testing.T) {
	second(t, func(t *testing.T, w *world) {
		w.open()
		w.write(created("held", "old", daysAgo(3)))
		d, other := w.device(nil), w.device(nil)
		d.offline()
		for n := range 3 {
			d.must(d.client.Tx(t.Context(), func(tx *client.Tx) error {
				for i := range 3 {
					score := int64(1)
					if n == 1 && i == 2 {
						score = -1
					}
					if _, err := d.items.CreateTx(tx, Item{UID: fmt.Sprintf("unit%d%d", n, i), Label: "good", Score: score}); err != nil {
						return err
					}
				}
				_, err := d.items.UpdateTx(tx, "held", client.Patch{"label": fmt.Sprint("unit ", n)})
				return err
			}))
		}
		d.create("alone", "good")
		d.online()
		w.agree(d, other)
		w.has(map[string]string{"unit00": "good", "unit01": "good", "unit02": "good", "unit20": "good", "unit21": "good", "unit22": "good",
			"held": "unit 2", "alone": "good"})
		d.lists("rejected unit10 unit", "rejected unit11 unit", "rejected unit12 constraint", "rejected held unit")
	})
}

// The server made a write, and its answer was lost. Then both programs end and start again, and the device
// sends the write again. It has no second effect: what others did since stands.
func TestAnAnswerThatIsLostAndThenARestart(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		for _, uid := range []string{"edited", "removed"} {
			w.write(created(uid, "old", daysAgo(3)))
		}
		other, d := w.device(nil), w.device(nil)
		for _, round := range []struct {
			name   string
			mine   func()
			theirs func()
			want   map[string]string
		}{
			{"an edit, edited again", func() { d.label("edited", "mine") }, func() { other.label("edited", "theirs") },
				map[string]string{"edited": "theirs", "removed": "old"}},
			{"a new row, removed since", func() { d.create("new", "mine") }, func() { other.remove("new") },
				map[string]string{"edited": "theirs", "removed": "old"}},
			{"a new row, edited since", func() { d.create("newer", "mine") }, func() { other.label("newer", "theirs") },
				map[string]string{"edited": "theirs", "removed": "old", "newer": "theirs"}},
			{"a removal, made again since", func() { d.remove("removed") }, func() { other.create("removed", "again") },
				map[string]string{"edited": "theirs", "removed": "again", "newer": "theirs"}},
		} {
			d.offline()
			method := tidemark.MethodPush
			round.mine()
			if w.guide {
				method = map[string]string{"an edit, edited again": tidemark.MethodUpdate, "a removal, made again since": tidemark.MethodDelete}[round.name]
				if method == "" {
					method = tidemark.MethodCreate
				}
			}
			lost := d.line.loseAnswer(method)
			d.online()
			<-lost
			d.close()
			w.agree(other)
			round.theirs()
			w.agree(other)
			w.restart()
			d.line.set(false)
			d.open()
			expect.Equal(t, round.name+": pending", d.pending(), 1)
			w.agree(d, other)
			w.has(round.want)
			if !w.guide { // where a write has no number, it seems to have lost against what followed it
				d.lists()
			}
		}
	})
}
