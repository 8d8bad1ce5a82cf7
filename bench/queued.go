package main

import (
	"context"
	"fmt"
	"time"
)

// queue is W6: a device has written much while it was offline.
func (b *bench) queue(ctx context.Context) error {
	return b.each(ctx, scoped, 100, func(engine string, s *process) error {
		for range b.n {
			if err := b.queueOnce(ctx, engine, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func queueName(writes int, engine string) string {
	return "push of " + grouped(writes) + " writes queued offline, " + engine
}

func (b *bench) queueOnce(ctx context.Context, engine string, s *process) error {
	path, err := b.file("queue")
	if err != nil {
		return err
	}
	defer removeFile(path)
	d, err := openDevice(ctx, path, "NORMAL", s.address)
	if err != nil {
		return err
	}
	defer d.close()
	for _, x := range makeItems(b.queued) {
		if _, err := d.items.Create(ctx, x); err != nil {
			return err
		}
	}
	began := time.Now()
	d.GoOnline()
	if err := d.Sync(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	if st := d.Status(); st.Pending != 0 || st.Rejected != 0 {
		return fmt.Errorf("%d writes are pending and %d rejected", st.Pending, st.Rejected)
	}
	var g goal
	if engine == "postgres" {
		g = ratioAtMost(2.5)
	}
	b.report.line("W6", queueName(b.queued, engine), "s", g).add(took.Seconds())
	b.report.line("W6", "  requests, "+queueName(b.queued, engine), "", goal{}).add(float64(d.calls.Load()))
	return nil
}
