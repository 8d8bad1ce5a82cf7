package situations_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/internal/expect"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

// A transaction that began first commits last, after devices have moved on past everything
// that others committed meanwhile. What it wrote is not passed over: neither by a device that is connected
// nor by one that comes back, whether or not the programs start again in between.
func TestTransactionsThatCommitOutOfOrder(t *testing.T) {
	for _, guide := range []bool{false, true} {
		t.Run(fmt.Sprintf("guide %v", guide), func(t *testing.T) {
			t.Parallel()
			w := (&world{t: t, guide: guide, db: pgtest.Open(t)}).open()
			connected, back, restarted := w.device(nil), w.device(nil), w.device(nil)
			began, commit, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			go func() {
				ended <- w.driver.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
					_, err := w.server.Service("item").Call(ctx, tidemark.MethodCreate, "slow", map[string]any{"label": "began first"}, w.server.Now())
					close(began)
					<-commit
					return err
				})
			}()
			<-began
			writer := w.device(nil)
			for i := range 5 {
				writer.create(fmt.Sprint("fast", i), "committed first")
				w.agree(writer, connected, back, restarted) // and the cursors are told
			}
			back.offline()
			restarted.close()
			close(commit)
			w.must(<-ended)
			back.online()
			restarted.open()
			w.agree(writer, connected, back, restarted)
			expect.Equal(t, "rows", len(back.rows()), 6)
			expect.Equal(t, "the row of the slow transaction", restarted.row("slow").Label, "began first")
		})
	}
}

// file returns the database as it is now, whole, and restore puts such a copy in its place.
func (w *world) file() []byte {
	w.t.Helper()
	w.stop()
	w.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	copied, err := os.ReadFile(w.path)
	w.must(err)
	w.start()
	return copied
}

func (w *world) restore(copied []byte) {
	w.t.Helper()
	w.stop()
	w.must(w.db.Close())
	for _, companion := range []string{"-wal", "-shm"} {
		if err := os.Remove(w.path + companion); err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
	}
	w.must(os.WriteFile(w.path, copied, 0o600))
	w.connect()
	w.start()
}

// marked waits until the device's copy has the log's present position as its cursor: until then it may
// have been told, live, more than its cursor says.
func (d *device) marked() {
	d.t.Helper()
	expect.Soon(d.t, func() error {
		at, err := d.w.driver.Horizon(d.t.Context())
		if err == nil {
			err = d.store.View(d.t.Context(), func(tx tidemark.StoreTx) error {
				raw, err := tx.Load("scope/item/{}")
				var saved struct{ Cursor string }
				if err == nil {
					err = json.Unmarshal(raw, &saved)
				}
				if err == nil && saved.Cursor != at.String() {
					err = fmt.Errorf("the cursor is %s, want %s", saved.Cursor, at)
				}
				return err
			})
		}
		return err
	})
}

// The server's database breaks, and yesterday's copy is put in its place. What was written since is gone on the
// server. Devices come to what the server has now, whether or not it has gone on before they
// come back; a row that was removed before the copy was made does not return; and what was waiting in an outbox arrives, once.
func TestARestoredServerDatabase(t *testing.T) { restored(t, false) }

// The copy is of a moment between the devices' cursors and what they were told since: a disk, or a file,
// that was put back to a second ago.
func TestAServerDatabaseRestoredToAMomentBehindTheCursors(t *testing.T) { restored(t, true) }

func restored(t *testing.T, behind bool) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("server went on %v", busy), func(t *testing.T) {
			second(t, func(t *testing.T, w *world) {
				if behind {
					w.opts.CursorInterval = time.Hour
				}
				w.open()
				for _, uid := range []string{"edited", "removed", "away", "long gone", "untouched", "twice"} {
					w.write(created(uid, "old", daysAgo(9)))
				}
				writer, sleeper := w.device(nil), w.device(nil)
				w.agree(writer, sleeper)
				sleeper.offline()
				sleeper.label("away", "the sleeper's")
				sleeper.create("slept", "the sleeper's")
				writer.remove("long gone")
				writer.label("twice", "before the copy")
				w.agree(writer)
				copied := w.file()
				witness := w.device(nil)

				w.agree(writer, witness)
				writer.label("edited", "lost")
				writer.label("twice", "lost")
				writer.create("made", "lost")
				writer.remove("removed")
				w.agree(writer, witness)
				if !behind {
					writer.marked()
					witness.marked()
				}
				writer.offline()
				witness.offline()
				writer.create("queued", "the writer's")
				writer.label("untouched", "the writer's")

				w.restore(copied)
				want := map[string]string{"edited": "old", "removed": "old", "away": "old", "untouched": "old", "twice": "before the copy"}
				w.has(want)
				if busy { // as many changes as were lost, so that positions in the log mean something again
					other := w.device(nil)
					for i := range 12 {
						other.create(fmt.Sprint("since", i), "since")
						want[fmt.Sprint("since", i)] = "since"
					}
					w.agree(other)
				}
				for _, d := range []*device{writer, sleeper, witness} {
					d.online()
					w.agree(d)
				}
				want["queued"], want["untouched"], want["away"], want["slept"] = "the writer's", "the writer's", "the sleeper's", "the sleeper's"
				w.agree(writer, sleeper, witness)
				w.has(want)
				for _, d := range []*device{writer, sleeper, witness} {
					d.lists()
				}
				for i, d := range []*device{writer, sleeper, witness} { // and on it goes
					for _, uid := range []string{"edited", "twice", "removed"} {
						d.label(uid, fmt.Sprint("later ", i))
					}
					w.agree(writer, sleeper, witness)
					expect.Equal(t, "the edited row", w.rows()["edited"], fmt.Sprint("later ", i))
					expect.Equal(t, "the row removed since", w.rows()["removed"], fmt.Sprint("later ", i))
				}
			})
		})
	}
}

// In the guide's protocol devices hand back what the server has lost and they still hold. All come to the same.
func TestARestoredServerDatabaseInTheGuidesProtocol(t *testing.T) {
	t.Parallel()
	w := (&world{t: t, guide: true}).open()
	for _, uid := range []string{"edited", "long gone", "untouched"} {
		w.write(created(uid, "old", daysAgo(9)))
	}
	writer, sleeper := w.device(nil), w.device(nil)
	w.agree(writer, sleeper)
	sleeper.offline()
	sleeper.create("slept", "the sleeper's")
	writer.remove("long gone")
	w.agree(writer)
	copied := w.file()
	w.agree(writer)
	writer.label("edited", "after the copy")
	writer.create("made", "after the copy")
	w.agree(writer)
	writer.offline()
	writer.label("untouched", "the writer's")
	w.restore(copied)
	w.has(map[string]string{"edited": "old", "untouched": "old"})
	sleeper.online()
	w.agree(sleeper)
	writer.online()
	w.agree(writer, sleeper)
	w.has(map[string]string{"edited": "after the copy", "made": "after the copy", "untouched": "the writer's", "slept": "the sleeper's"})
	writer.lists()
	sleeper.lists()
}

// itemRow2 and tagRow are the models after the server was migrated.
type (
	itemRow2 struct {
		bun.BaseModel `bun:"table:item"`
		UID           string  `bun:"uid,pk,type:text"`
		Label         string  `bun:"label,type:text,notnull"`
		Score         *int64  `bun:"score,type:bigint"`
		Owner         *string `bun:"owner,type:text"`
		Note          *string `bun:"note,type:text"`
	}
	tagRow struct {
		bun.BaseModel `bun:"table:tag"`
		UID           string `bun:"uid,pk,type:text"`
		Name          string `bun:"name,type:text,notnull"`
	}
)

// Item2 and Tag are the models of the application's next version.
type Item2 struct {
	UID   string  `json:"uid"`
	Label string  `json:"label"`
	Score int64   `json:"score"`
	Owner string  `json:"owner"`
	Note  *string `json:"note"`
}

type Tag struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

// migrate gives the server one more column and one more model.
func (w *world) migrate() {
	w.t.Helper()
	w.stop()
	w.exec("ALTER TABLE item ADD COLUMN note text")
	w.exec("CREATE TABLE tag (uid text PRIMARY KEY, name text NOT NULL)")
	w.models = []any{(*itemRow2)(nil), (*tagRow)(nil)}
	w.start()
}

// next is the application's next version on a device.
type next struct {
	*device
	items *client.Model[Item2]
	tags  *client.Model[Tag]
}

func (d *device) upgraded() *next {
	d.t.Helper()
	var err1, err2, err3, err4 error
	n := &next{device: d}
	n.items, err1 = client.NewModel[Item2](d.t.Context(), d.client, "item", nil)
	n.tags, err2 = client.NewModel[Tag](d.t.Context(), d.client, "tag", nil)
	d.must(err1)
	d.must(err2)
	_, err3 = n.items.Register(d.t.Context(), nil)
	_, err4 = n.tags.Register(d.t.Context(), nil)
	d.must(err3)
	d.must(err4)
	return n
}

func (n *next) note(uid, note string) {
	n.t.Helper()
	_, err := n.items.Update(n.t.Context(), uid, client.Patch{"note": note})
	n.must(err)
}

// noteOf returns what a program of the next version shows as a row's note.
func (n *next) noteOf(uid string) string {
	n.t.Helper()
	i, err := n.items.FindByUID(n.t.Context(), uid)
	n.must(err)
	if i.Note == nil {
		return ""
	}
	return *i.Note
}

// The server gets one more column and one more model while devices of the old version are in use. Both versions
// edit the same rows, and neither takes anything from the other; a device that is upgraded then has it all.
func TestOneMoreColumnAndModelWhileOldClientsRun(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		for _, uid := range []string{"a", "b", "n"} {
			w.write(created(uid, "old", daysAgo(3)))
		}
		old, sleeper := w.device(nil), w.device(nil)
		w.agree(old, sleeper)
		sleeper.offline()
		sleeper.label("b", "written before")
		w.migrate()
		fresh := w.device(&client.Options{Offline: true}).upgraded()
		fresh.online()
		w.agree(old, fresh.device)

		fresh.note("a", "a note")
		fresh.note("n", "another")
		_, err := fresh.tags.Create(t.Context(), Tag{UID: "t", Name: "a tag"})
		w.must(err)
		w.agree(fresh.device, old)
		old.label("a", "by the old version")
		old.create("c", "by the old version")
		w.agree(old, fresh.device)
		sleeper.online()
		w.agree(sleeper, old, fresh.device)
		want := map[string]string{"a": "by the old version", "b": "written before", "c": "by the old version", "n": "old"}
		w.has(want)
		expect.Equal(t, "notes on the server", w.number("SELECT count(*) FROM item WHERE note IS NOT NULL"), 2)
		expect.Equal(t, "the note", fresh.noteOf("a"), "a note")

		for _, d := range []*device{old, sleeper} { // the very file, with the next version's program, at first offline
			d.opts.Offline = true
			d.reopen()
			n := d.upgraded()
			d.shows(want)
			expect.Equal(t, "the upgraded device's note, offline", n.noteOf("a"), "a note")
			d.online()
			w.agree(d)
			expect.Equal(t, "the upgraded device's note", n.noteOf("n"), "another")
			tags, err := n.tags.FindWhere(t.Context(), nil)
			w.must(err)
			expect.Equal(t, "the upgraded device's tags", len(tags), 1)
			d.lists()
		}
	})
}

// A device of the next version meets a server that has not been migrated yet. What that knows works, and what it
// does not know stops nothing: it is listed, and can be written again when the server knows it.
func TestANewClientMeetsAnOldServer(t *testing.T) {
	protocols(t, func(t *testing.T, w *world) {
		w.open()
		w.write(created("a", "old", daysAgo(3)))
		old := w.device(nil)
		d := w.device(&client.Options{Offline: true}).upgraded()
		_, err := d.tags.Create(t.Context(), Tag{UID: "t", Name: "a tag"})
		w.must(err)
		d.create("b", "by the new version")
		d.online()
		w.comesToHave(map[string]string{"a": "old", "b": "by the new version"})
		expect.Becomes(t, "pending", 0, d.pending)
		d.lists("rejected t " + map[bool]string{false: string(tidemark.CodeUnknownModel), true: string(tidemark.CodeMissingService)}[w.guide])
		old.label("a", "by the old version")
		expect.Becomes(t, "the row of the old version", "by the old version", func() string { return d.row("a").Label })

		w.migrate()
		list, err := d.client.Rejections(t.Context())
		w.must(err)
		w.must(d.client.Retry(t.Context(), list[0].ID))
		w.agree(d.device, old)
		expect.Equal(t, "tags on the server", w.number("SELECT count(*) FROM tag"), 1)
		d.lists()
	})
}
