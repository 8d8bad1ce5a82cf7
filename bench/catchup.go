package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const missed = 100 // rows that change while a device of W2 is away

// catchUp is W2, and how its cost and that of live delivery grow with the rows that are held.
func (b *bench) catchUp(ctx context.Context) error {
	for _, rows := range b.held {
		err := b.each(ctx, scoped, rows, func(engine string, s *process) error {
			if err := b.catchUpOver(ctx, engine, rows, s); err != nil {
				return err
			}
			return b.deliveries(ctx, engine, "a device hears of a change, "+grouped(rows)+" rows held, "+engine, s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func catchUpName(rows int, engine string) string {
	return fmt.Sprintf("%d of %s rows, %s", missed, grouped(rows), engine)
}

func catchUpBytesName(rows int, engine string) string {
	return "  bytes down, " + catchUpName(rows, engine)
}

func (b *bench) catchUpOver(ctx context.Context, engine string, rows int, s *process) error {
	a, err := b.newAbsentee(ctx, s, "NORMAL")
	if err != nil {
		return err
	}
	defer a.forget()
	writer, err := openPeer(ctx, s)
	if err != nil {
		return err
	}
	defer writer.end()
	var took, down, trips goal
	if rows == 100_000 && engine == "postgres" {
		took, down = ratioAtMost(2.5), ratioAtMost(1.1)
	}
	trips = atMost(1)
	nothing := "nothing of " + grouped(rows) + " rows, " + engine
	for range b.n {
		if err := writer.retitle(a.some(missed)); err != nil {
			return err
		}
		v, err := a.visit(ctx)
		if err != nil {
			return err
		}
		b.report.line("W2", catchUpName(rows, engine), "ms", took).addMillis(v.took)
		b.report.line("W2", catchUpBytesName(rows, engine), "kB", down).add(float64(v.bytes) / 1e3)
		if v, err = a.visit(ctx); err != nil {
			return err
		}
		b.report.line("W2", nothing, "ms", goal{}).addMillis(v.took)
		b.report.line("W2", "  bytes down, "+nothing, "kB", goal{}).add(float64(v.bytes) / 1e3)
		b.report.line("W2", "  round trips, "+nothing, "", trips).add(float64(v.calls))
	}
	return nil
}

// absentee is a device that has all rows, and is away most of the time.
type absentee struct {
	server            *process
	path, synchronous string
	uids              []string
}

func (b *bench) newAbsentee(ctx context.Context, s *process, synchronous string) (*absentee, error) {
	path, err := b.file("absentee")
	if err != nil {
		return nil, err
	}
	a := &absentee{server: s, path: path, synchronous: synchronous}
	d, err := openDevice(ctx, path, synchronous, s.address)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if _, err := d.synchronised(ctx); err != nil {
		return nil, err
	}
	all, err := d.items.FindWhere(ctx, nil)
	for i := range all {
		a.uids = append(a.uids, all[i].UID)
	}
	return a, err
}

func (a *absentee) forget() { removeFile(a.path) }

// some returns n of the rows.
func (a *absentee) some(n int) []string {
	uids := make([]string, 0, n)
	for _, i := range rand.Perm(len(a.uids))[:min(n, len(a.uids))] {
		uids = append(uids, a.uids[i])
	}
	return uids
}

// visit is one time that the device is there.
type visit struct {
	took         time.Duration // from opening the file until it is the server's
	bytes, calls int64
}

func (a *absentee) visit(ctx context.Context) (v visit, err error) {
	began := time.Now()
	d, err := openDevice(ctx, a.path, a.synchronous, a.server.address)
	if err != nil {
		return v, err
	}
	defer d.close()
	if _, err = d.synchronised(ctx); err != nil {
		return v, err
	}
	return visit{time.Since(began), d.bytes.Load(), d.calls.Load()}, nil
}

// deliveries measures at the wire how long after a write is sent another session hears of it.
func (b *bench) deliveries(ctx context.Context, engine, name string, s *process) error {
	const writes, warm = 100, 10
	list := fmt.Sprint("delivered-", rand.Uint64())
	reader, err := openPeer(ctx, s, listScope(list))
	if err != nil {
		return err
	}
	defer reader.end()
	writer, err := openPeer(ctx, s)
	if err != nil {
		return err
	}
	defer writer.end()
	var latencies []float64
	for i := range writes + warm {
		began := time.Now()
		if err := writer.push(creations(1, list)); err != nil {
			return err
		}
		select {
		case at := <-reader.changes:
			if i >= warm {
				latencies = append(latencies, millis(at.Sub(began)))
			}
		case r := <-reader.closed:
			return fmt.Errorf("the reader's connection ended: %s", r)
		case <-time.After(30 * time.Second):
			return fmt.Errorf("the reader does not hear of a change")
		}
	}
	l := b.report.line("growth", name, "ms", goal{})
	for _, x := range latencies {
		l.add(x)
	}
	return nil
}
