package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// held is how many rows a device of W5 has.
const held = 100_000

// local is W5: reads and writes of a device that is offline.
func (b *bench) local(ctx context.Context) error {
	items := makeItems(held + 2000*b.n)
	for _, synchronous := range []string{"NORMAL", "FULL"} {
		if err := b.localAt(ctx, synchronous, items); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) localAt(ctx context.Context, synchronous string, items []item) error {
	path, err := b.file("local")
	if err != nil {
		return err
	}
	defer removeFile(path)
	d, err := openDevice(ctx, path, synchronous, "")
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.fill(ctx, items[:held]); err != nil {
		return err
	}
	for rep := range b.n {
		fresh := items[held+rep*2000:][:2000]
		for i := range fresh {
			fresh[i].ListID = "new" // one list, as in the limit: somebody adds to what he looks at
		}
		for _, w := range d.work(ctx, items, fresh, rep) {
			began := time.Now()
			for i := range w.times {
				if err := w.do(i); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			b.report.line("W5", localName(w.name, synchronous), "/s", ratioAtLeast(w.target)).add(float64(w.times) / time.Since(began).Seconds())
		}
	}
	return nil
}

func localName(what, synchronous string) string { return what + ", synchronous=" + synchronous }

// chore is something that a device does many times.
type chore struct {
	name   string
	times  int
	target float64
	do     func(i int) error
}

func (d *device) work(ctx context.Context, items, fresh []item, rep int) []chore {
	return []chore{
		{"create", len(fresh), 0.4, func(i int) error {
			_, err := d.items.Create(ctx, fresh[i])
			return err
		}},
		{"update", 2000, 0.4, func(i int) error {
			_, err := d.items.Update(ctx, items[(i*37+rep)%held].UID, client.Patch{"title": "changed title 123456"})
			return err
		}},
		{"find by uid", 10_000, 0.5, func(i int) error {
			_, err := d.items.FindByUID(ctx, items[(i*41+rep)%held].UID)
			return err
		}},
		{"find 100 of 100,000", 1000, 0.5, func(i int) error {
			rows, err := d.items.FindWhere(ctx, tidemark.Where{"list_id": listID((i*7 + rep) % (held / 100))})
			if err == nil && len(rows) < 90 {
				err = fmt.Errorf("%d rows", len(rows))
			}
			return err
		}},
	}
}

// fill gives the device rows as a server would.
func (d *device) fill(ctx context.Context, items []item) error {
	for page := range slices.Chunk(items, 10_000) {
		recs := make([]tidemark.Record, len(page))
		for i, x := range page {
			row := fmt.Appendf(nil, `{"uid":%q,"title":%q,"content":%q,"list_id":%q,"created_at":%q,"updated_at":%q}`,
				x.UID, x.Title, x.Content, x.ListID, tidemark.StampOf(x.CreatedAt), tidemark.StampOf(x.UpdatedAt))
			recs[i] = tidemark.Record{UID: x.UID, Row: row, Base: row, Meta: tidemark.Meta{UID: x.UID, CreatedAt: tidemark.StampOf(x.CreatedAt)}}
		}
		if err := d.store.Update(ctx, func(tx tidemark.StoreTx) error { return tx.Put("item", recs) }); err != nil {
			return err
		}
	}
	return nil
}
