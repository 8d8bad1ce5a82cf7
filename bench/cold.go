package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// cold is W1: a device without rows gets all of them, in a process of its own.
func (b *bench) cold(ctx context.Context) error {
	return b.each(ctx, scoped, b.first, func(engine string, s *process) error {
		for range b.n {
			if err := b.coldOnce(ctx, engine, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func scopedName(rows int, engine string) string {
	return "all " + grouped(rows) + " rows, " + engine
}

func scopedBytesName(rows int, engine string) string {
	return "  bytes down, all " + grouped(rows) + " rows, " + engine
}

func (b *bench) coldOnce(ctx context.Context, engine string, s *process) error {
	what := "all " + grouped(b.first) + " rows, " + engine
	line := func(name, unit string, g goal) *line { return b.report.line("W1", "  "+name+", "+what, unit, g) }
	var took, down, server, device goal
	if b.first == 100_000 {
		down, server, device = atMost(35), atMost(32), atMost(64)
		if engine == "postgres" {
			took = ratioAtMost(1.2)
		}
	}
	idle, err := s.memory()
	if err != nil {
		return err
	}
	d, err := b.runDevice(ctx, s, b.first, plain)
	if err != nil {
		return err
	}
	m, err := s.memory()
	if err != nil {
		return err
	}
	b.report.line("W1", scopedName(b.first, engine), "s", took).add(d.Seconds)
	b.report.line("W1", scopedBytesName(b.first, engine), "MB", down).add(float64(d.Bytes) / 1e6)
	line("server's memory above idle", "MiB", server).add(mebibytes(m.Peak - idle.Resident))
	line("client's memory", "MiB", device).add(mebibytes(d.Peak))
	line("of that above idle", "MiB", goal{}).add(mebibytes(d.Peak - d.Idle))
	line("requests", "", goal{}).add(float64(d.Calls))
	if d, err = b.runDevice(ctx, s, b.first, deflated); err != nil {
		return err
	}
	if b.first == 100_000 {
		down = atMost(20)
	}
	line("pages deflated", "s", goal{}).add(d.Seconds)
	line("bytes down, pages deflated", "MB", down).add(float64(d.Bytes) / 1e6)
	line("client's memory, pages deflated", "MiB", device).add(mebibytes(d.Peak))
	atWire, err := pullAll(ctx, s, b.first)
	line("at the wire, without a store", "s", goal{}).add(atWire.Seconds())
	return err
}

// synced is what a device's process says of its first sync.
type synced struct {
	Seconds      float64
	Bytes, Calls int64
	Idle, Peak   int64 // bytes resident: before, and at most
}

// How pages travel to a device.
const (
	plain    = "plain"
	deflated = "deflated"
)

// runDevice synchronises a fresh file in a process of its own.
func (b *bench) runDevice(ctx context.Context, s *process, rows int, pages string) (d synced, err error) {
	path, err := b.file("device")
	if err != nil {
		return d, err
	}
	defer removeFile(path)
	self, err := os.Executable()
	if err != nil {
		return d, err
	}
	cmd := exec.CommandContext(ctx, self, lone, path, s.address, fmt.Sprint(rows), pages)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return d, fmt.Errorf("the device: %w", err)
	}
	return d, json.Unmarshal(out, &d)
}

// deviceProcess is a device: it gets all rows of the server into a file and says how that went. Its
// arguments are the file, the server's address, how many rows there are, and how pages travel.
func deviceProcess(ctx context.Context, args []string) error {
	d, err := openDeviceWith(ctx, args[0], "NORMAL", args[1], client.Options{Deflate: args[3] == deflated})
	if err != nil {
		return err
	}
	defer d.close()
	var r synced
	r.Idle = statusOf("VmRSS:")
	took, err := d.synchronised(ctx)
	if err != nil {
		return err
	}
	r.Seconds, r.Bytes, r.Calls, r.Peak = took.Seconds(), d.bytes.Load(), d.calls.Load(), statusOf("VmHWM:")
	var n int
	if _, err := fmt.Sscan(args[2], &n); err != nil {
		return err
	}
	if err := d.holds(ctx, n); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// pullAll pulls all rows without storing them.
func pullAll(ctx context.Context, s *process, rows int) (time.Duration, error) {
	began := time.Now()
	p, err := openPeer(ctx, s, tidemark.ScopeRequest{Model: "item", Where: []byte("{}")})
	if err != nil {
		return 0, err
	}
	defer p.end()
	page := p.opened.Scopes[0].Page
	for n := 0; ; {
		if page == nil {
			return 0, fmt.Errorf("there is no first page")
		}
		if n += len(page.Rows); page.After == "" {
			if n != rows {
				err = fmt.Errorf("%d rows arrived instead of %d", n, rows)
			}
			return time.Since(began), err
		}
		raw, err := p.call(tidemark.ServiceSync, tidemark.MethodPull, tidemark.PullRequest{Scope: p.opened.Scopes[0].Scope, After: page.After})
		if err != nil {
			return 0, err
		}
		page = &tidemark.ScopePage{}
		if err := page.UnmarshalJSON(raw); err != nil {
			return 0, err
		}
	}
}
