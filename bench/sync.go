package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
)

// sync is W0: the guide's protocol.
func (b *bench) sync(ctx context.Context) error {
	for _, rows := range b.rows {
		err := b.each(ctx, guided, rows, func(engine string, s *process) error {
			for range b.n {
				if err := b.syncOnce(ctx, engine, rows, s); err != nil {
					return err
				}
			}
			if rows != b.rows[len(b.rows)-1] {
				return nil
			}
			return b.creates(ctx, engine, s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// grouped writes a number of rows with commas, as the tables of the documentation have it.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

// coldName is the line that the limit is compared with.
func coldName(rows int, engine string) string {
	return "first sync, " + grouped(rows) + " rows, " + engine
}

func (b *bench) syncOnce(ctx context.Context, engine string, rows int, s *process) error {
	var cold, unchanged, memory goal
	if rows == 10_000 {
		cold, unchanged, memory = ratioAtMost(1.5), atMost(150), atMost(64)
		if engine != "postgres" {
			cold = goal{}
		}
	}
	what := grouped(rows) + " rows, " + engine
	line := func(name, unit string, g goal) *line { return b.report.line("W0", name+", "+what, unit, g) }
	path, err := b.file("device")
	if err != nil {
		return err
	}
	defer removeFile(path)
	if _, err := s.memory(); err != nil {
		return err
	}
	took, bytes, err := b.syncFile(ctx, path, s, rows)
	if err != nil {
		return err
	}
	m, err := s.memory()
	if err != nil {
		return err
	}
	b.report.line("W0", coldName(rows, engine), "s", cold).add(took.Seconds())
	line("  bytes down", "MB", goal{}).add(float64(bytes) / 1e6)
	line("  server's peak memory", "MiB", memory).add(mebibytes(m.Peak))
	line("  above its idle memory", "MiB", goal{}).add(mebibytes(m.Peak - m.Resident))
	if took, err = syncAtWire(ctx, s); err != nil {
		return err
	}
	line("  at the wire, without a store", "s", goal{}).add(took.Seconds())
	took, _, err = b.syncFile(ctx, path, s, rows)
	line("nothing changed", "ms", unchanged).addMillis(took)
	return err
}

// syncFile synchronises a device's file and checks that it has all rows.
func (b *bench) syncFile(ctx context.Context, path string, s *process, rows int) (took time.Duration, bytes int64, err error) {
	runtime.GC()
	d, err := openDevice(ctx, path, "NORMAL", s.address)
	if err != nil {
		return 0, 0, err
	}
	defer d.close()
	if took, err = d.synchronised(ctx); err != nil {
		return 0, 0, err
	}
	return took, d.bytes.Load(), d.holds(ctx, rows)
}

func syncAtWire(ctx context.Context, s *process) (time.Duration, error) {
	w, err := dialWire(ctx, s)
	if err != nil {
		return 0, err
	}
	defer w.Close(tidemark.ClosedByClient)
	began := time.Now()
	_, err = w.call(tidemark.ServiceSync, tidemark.MethodSyncGo, "item", map[string]any{}, map[string]any{})
	return time.Since(began), err
}

// creates measures single writes of one client: one after another, and with 50 in flight.
func (b *bench) creates(ctx context.Context, engine string, s *process) error {
	const writes, inFlight = 1000, 50
	w, err := dialWire(ctx, s)
	if err != nil {
		return err
	}
	defer w.Close(tidemark.ClosedByClient)
	for range b.n {
		latencies := make([]float64, writes/5)
		for i := range latencies {
			began := time.Now()
			if err := w.create(); err != nil {
				return err
			}
			if _, err := w.answer(); err != nil {
				return err
			}
			latencies[i] = millis(time.Since(began))
		}
		b.report.line("W0", "create at the wire, p50, "+engine, "ms", goal{}).add(median(latencies))
		began := time.Now()
		for i := range writes + inFlight {
			if i < writes {
				if err := w.create(); err != nil {
					return err
				}
			}
			if i >= inFlight {
				if _, err := w.answer(); err != nil {
					return err
				}
			}
		}
		b.report.line("W0", "creates with 50 in flight, "+engine, "/s", goal{}).add(writes / time.Since(began).Seconds())
	}
	return nil
}

func (w *wire) create() error {
	x := makeItems(1)[0]
	data, err := json.Marshal(x)
	if err != nil {
		return err
	}
	row := tidemark.Row(data).Without("uid")
	return w.ask("item", tidemark.MethodCreate, uuid.Must(uuid.NewV7()).String(), row, tidemark.StampOf(time.Now()))
}
