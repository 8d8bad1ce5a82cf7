package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// live is W3: one device writes, and the other's Watch yields it.
func (b *bench) live(ctx context.Context) error {
	err := b.each(ctx, scoped, 1000, func(engine string, s *process) error {
		for _, synchronous := range []string{"NORMAL", "FULL"} {
			if err := b.liveTimes(ctx, engine, synchronous, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.each(ctx, guided, 1000, func(engine string, s *process) error {
		return b.liveTimes(ctx, engine+" by the guide's protocol", "NORMAL", s)
	})
}

func liveName(quantile, engine, synchronous string) string {
	return "write to Watch, " + quantile + ", " + engine + ", synchronous=" + synchronous
}

func (b *bench) liveTimes(ctx context.Context, engine, synchronous string, s *process) error {
	for range b.n {
		if err := b.liveOnce(ctx, engine, synchronous, s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) liveOnce(ctx context.Context, engine, synchronous string, s *process) error {
	const writes, warm = 300, 30
	var devices [2]*device
	for i := range devices {
		path, err := b.file("live")
		if err != nil {
			return err
		}
		defer removeFile(path)
		if devices[i], err = openDevice(ctx, path, synchronous, s.address); err != nil {
			return err
		}
		defer devices[i].close()
		if _, err := devices[i].synchronised(ctx); err != nil {
			return err
		}
	}
	writer, reader := devices[0], devices[1]
	row, err := writer.items.Create(ctx, item{Title: "first", ListID: fmt.Sprint("live-", time.Now().UnixNano()), CreatedAt: time.Now(), UpdatedAt: time.Now()})
	if err != nil {
		return err
	}
	next, stop := iter.Pull2(reader.items.Watch(ctx, tidemark.Where{"list_id": row.ListID}, nil))
	defer stop()
	if err := awaitTitle(next, "first"); err != nil {
		return err
	}
	var latencies []float64
	for i := range writes + warm {
		title := fmt.Sprint("title ", i)
		began := time.Now()
		if _, err := writer.items.Update(ctx, row.UID, client.Patch{"title": title}); err != nil {
			return err
		}
		if err := awaitTitle(next, title); err != nil {
			return err
		}
		if i >= warm {
			latencies = append(latencies, millis(time.Since(began)))
		}
	}
	var p50, p99 goal
	if engine == "postgres" && synchronous == "NORMAL" {
		p50, p99 = atMost(0.6), atMost(3)
	}
	b.report.line("W3", liveName("p50", engine, synchronous), "ms", p50).add(median(latencies))
	b.report.line("W3", liveName("p99", engine, synchronous), "ms", p99).add(quantile(latencies, 0.99))
	return nil
}

func awaitTitle(next func() ([]item, error, bool), title string) error {
	for {
		rows, err, ok := next()
		switch {
		case err != nil:
			return err
		case !ok:
			return errors.New("the Watch ended")
		case len(rows) == 1 && rows[0].Title == title:
			return nil
		}
	}
}
