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
	if slices.Contains(workloads, "W0") {
		for _, rows := range b.rows {
			runs = append(runs, []string{"gen", strconv.Itoa(rows)}, []string{"w1", strconv.Itoa(rows), strconv.Itoa(b.n)})
		}
	}
	if slices.Contains(workloads, "W3") {
		runs = append(runs, []string{"w3", "300"})
	}
	if slices.Contains(workloads, "W5") {
		runs = append(runs, []string{"w5"})
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
		for _, l := range b.report.lines {
			if l.name == counterparts[r.Workload+"|"+r.System+"|"+r.Metric] {
				l.limit = append(l.limit, r.Value)
			}
		}
	}
	return nil
}

// counterparts names the lines of the report by what the limits call the same figure.
func (b *bench) counterparts() map[string]string {
	c := map[string]string{
		"W3|limit: full, in-process relay|p50 ms": liveName("p50", "postgres", "NORMAL"),
		"W3|limit: full, in-process relay|p99 ms": liveName("p99", "postgres", "NORMAL"),
	}
	for _, rows := range b.rows {
		c[fmt.Sprintf("W1/%dk|limit: pgx->JSON->ws->sqlite3|seconds", rows/1000)] = coldName(rows, "postgres")
	}
	metrics := map[string]string{"create": "create ops/s", "update": "update ops/s", "find by uid": "find by id ops/s", "find 100 of 100,000": "find where (100 rows) ops/s"}
	for _, synchronous := range []string{"NORMAL", "FULL"} {
		for name, metric := range metrics {
			c["W5|limit: mattn/go-sqlite3 "+synchronous+"|"+metric] = localName(name, synchronous)
		}
	}
	return c
}
