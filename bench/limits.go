package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A program of bare limits does the least work that any such system must do, with
// the same parts and the same rows. It is a Go module of its own; it takes PGDSN and
// TMPDIR, and appends what it measures to the file $RESULTS, an object a line with
// system, workload, metric and value.

// runLimits builds the program in dir and adds what it measures to the report.
func (b *bench) runLimits(ctx context.Context, dir string, workloads []string) error {
	program := filepath.Join(b.dir, "limits")
	if err := buildCopy(ctx, dir, program); err != nil {
		return err
	}
	dsn, drop, err := b.postgres.database(ctx)
	if err != nil {
		return err
	}
	defer drop()
	results := filepath.Join(b.dir, "limits.jsonl")
	for _, args := range b.limitRuns(workloads) {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), "PGDSN="+dsn, "RESULTS="+results, "TMPDIR="+b.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("limits %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return b.readLimits(results)
}

// buildCopy builds the module in a copy of its folder, which may be read-only.
func buildCopy(ctx context.Context, dir, program string) error {
	folder := program + ".src"
	if err := os.CopyFS(folder, os.DirFS(dir)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the limits: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (b *bench) limitRuns(workloads []string) [][]string {
	var runs [][]string
	n := strconv.Itoa(b.n)
	has := func(name string) bool { return slices.Contains(workloads, name) }
	made := map[int]bool{}
	table := func(rows int) {
		if !made[rows] {
			made[rows] = true
			runs = append(runs, []string{"gen", strconv.Itoa(rows)})
		}
	}
	sync := func(rows int) {
		if !made[rows] {
			table(rows)
			runs = append(runs, []string{"w1", strconv.Itoa(rows), n})
		}
	}
	if has("W0") {
		for _, rows := range b.rows {
			sync(rows)
		}
	}
	if has("W1") {
		sync(b.first)
	}
	if has("W2") {
		table(100_000)
		runs = append(runs, []string{"w2", n})
	}
	if has("W3") {
		runs = append(runs, []string{"w3", "300"})
	}
	if has("W5") {
		runs = append(runs, []string{"w5"})
	}
	if has("W6") {
		runs = append(runs, []string{"w6", strconv.Itoa(b.queued), n})
	}
	if has("W8") {
		runs = append(runs, []string{"pgwrite"})
	}
	return runs
}

// readLimits adds each figure that has a counterpart to its line.
func (b *bench) readLimits(results string) error {
	f, err := os.Open(results)
	if err != nil {
		return err
	}
	defer f.Close()
	counterparts := b.counterparts()
	for s := bufio.NewScanner(f); s.Scan(); {
		var r struct {
			System, Workload, Metric string
			Value                    float64
		}
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return fmt.Errorf("limits: %w", err)
		}
		for _, c := range counterparts[r.Workload+"|"+r.System+"|"+r.Metric] {
			if l := b.report.find(c.line); l != nil {
				l.limit = append(l.limit, r.Value*c.scale)
			}
		}
	}
	return nil
}

// counterpart is a line of the report, and by what the limits' figure is multiplied to be in its unit.
type counterpart struct {
	line  string
	scale float64
}

// counterparts names the lines of the report by what the limits call the same figure.
func (b *bench) counterparts() map[string][]counterpart {
	c := make(map[string][]counterpart)
	add := func(figure, line string, scale float64) { c[figure] = append(c[figure], counterpart{line, scale}) }
	add("W3|limit: full, in-process relay|p50 ms", liveName("p50", "postgres", "NORMAL"), 1)
	add("W3|limit: full, in-process relay|p99 ms", liveName("p99", "postgres", "NORMAL"), 1)
	const json = "limit: pgx->JSON->ws->sqlite3"
	for _, rows := range b.rows {
		add(fmt.Sprintf("W1/%dk|%s|seconds", rows/1000, json), coldName(rows, "postgres"), 1)
	}
	add(fmt.Sprintf("W1/%dk|%s|seconds", b.first/1000, json), scopedName(b.first, "postgres"), 1)
	add(fmt.Sprintf("W1/%dk|%s|bytes", b.first/1000, json), scopedBytesName(b.first, "postgres"), 1e-6)
	add("W2|limit: seq cursor over ws|seconds", catchUpName(100_000, "postgres"), 1e3)
	add("W2|limit: seq cursor over ws|bytes", catchUpBytesName(100_000, "postgres"), 1e-3)
	metrics := map[string]string{"create": "create ops/s", "update": "update ops/s", "find by uid": "find by id ops/s", "find 100 of 100,000": "find where (100 rows) ops/s"}
	for _, synchronous := range []string{"NORMAL", "FULL"} {
		for name, metric := range metrics {
			add("W5|limit: mattn/go-sqlite3 "+synchronous+"|"+metric, localName(name, synchronous), 1)
		}
	}
	add("W6|limit: ws push, batches of 1000|seconds", queueName(b.queued, "postgres"), 1)
	for _, what := range []string{"Driver.Write, creates", "Driver.Push, creates"} {
		add("PG|limit: pgx unnest batches of 1000|rows/s", upsertName(what, "postgres"), 1)
	}
	return c
}
