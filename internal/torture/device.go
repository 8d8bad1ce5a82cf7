package torture

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// Note is the model of the tests.
type Note struct {
	UID  string `json:"uid"`
	Text string `json:"text"`
	List string `json:"list" tidemark:"index"`
}

// Device is a client that is offline, on a file.
type Device struct {
	DB     *sql.DB
	Store  *sqlite.Store
	Client *client.Client
	Notes  *client.Model[Note]
}

// Open opens a device on the database that dsn names.
func Open(ctx context.Context, dsn string, one bool, opts *sqlite.Options) (*Device, error) {
	db, err := sql.Open("sqlite3", dsn)
	if err != nil {
		return nil, err
	}
	if one {
		db.SetMaxOpenConns(1)
	}
	d := &Device{DB: db}
	if d.Store, err = sqlite.Open(ctx, db, opts); err == nil {
		if d.Client, err = client.Open(ctx, d.Store, nil, nil); err == nil {
			d.Notes, err = client.NewModel[Note](ctx, d.Client, "note", nil)
		}
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close ends the device.
func (d *Device) Close() {
	if d.Client != nil {
		_ = d.Client.Close()
	}
	if d.Store != nil {
		_ = d.Store.Close()
	}
	_ = d.DB.Close()
}

// History is what a device has acknowledged: the text of each note, in the order of the
// writes, and how many writes were queued.
type History struct {
	Texts  map[string]string // by uid; a removed note is absent
	Writes int
	// Prefix begins the uids, for devices that share a file.
	Prefix string
	// Before is called with each write that is about to be made. May be nil.
	Before func(Write)
	// Doubtful is the write during which the device died: it may be there or not.
	Doubtful *Write
}

// Write is one write: a new text, or a removal when Text is empty.
type Write struct{ UID, Text string }

// Do makes one write by the dice and notes it, as doubtful when it failed.
func (h *History) Do(ctx context.Context, d *Device, r *rand.Rand) error {
	if h.Texts == nil {
		h.Texts = map[string]string{}
	}
	w := Write{UID: fmt.Sprintf("%snote-%02d", h.Prefix, r.IntN(20)), Text: fmt.Sprintf("text %d %s", h.Writes, padding[:r.IntN(len(padding))])}
	_, exists := h.Texts[w.UID]
	if exists && r.IntN(5) == 0 {
		w.Text = ""
	}
	if h.Before != nil {
		h.Before(w)
	}
	var err error
	switch {
	case !exists:
		_, err = d.Notes.Create(ctx, Note{UID: w.UID, Text: w.Text, List: fmt.Sprint(r.IntN(3))})
	case w.Text == "":
		err = d.Notes.Remove(ctx, w.UID)
	default:
		_, err = d.Notes.Update(ctx, w.UID, client.Patch{"text": w.Text})
	}
	if err != nil {
		h.Doubtful = &w
		return err
	}
	h.Note(w)
	return nil
}

// Note notes a write that was acknowledged.
func (h *History) Note(w Write) {
	h.Writes++
	if w.Text == "" {
		delete(h.Texts, w.UID)
	} else {
		h.Texts[w.UID] = w.Text
	}
}

const padding = "................................................................................................................................"

// Check compares what the device has with the history. A doubtful write that is there becomes part of it.
func (h *History) Check(ctx context.Context, d *Device) error {
	if err := d.Store.Check(ctx); err != nil {
		return err
	}
	queued := d.Client.Status().Pending
	if h.Doubtful != nil && queued == h.Writes+1 {
		h.Note(*h.Doubtful)
	}
	h.Doubtful = nil
	if queued != h.Writes {
		return fmt.Errorf("%d writes were acknowledged and %d are queued", h.Writes, queued)
	}
	rows, err := d.Notes.FindWhere(ctx, tidemark.Where{})
	if err != nil {
		return err
	}
	if len(rows) != len(h.Texts) {
		return fmt.Errorf("%d rows, want %d", len(rows), len(h.Texts))
	}
	for _, n := range rows {
		if h.Texts[n.UID] != n.Text {
			return fmt.Errorf("%s is %q, want %q", n.UID, n.Text, h.Texts[n.UID])
		}
	}
	return nil
}
