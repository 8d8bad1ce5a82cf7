package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// bug is a mistake that somebody could make.
type bug struct {
	name    string
	promise string // of docs/reliability.md, by number
	what    string
	edits   []edit
	found   test
}

// edit replaces text that occurs exactly once in a file.
type edit struct{ file, old, new string }

// test is what should find a bug.
type test struct {
	pkg, run string
	by       int // it takes -seeds, -from, -by and -stop, and each seed that is so far from the last; 0 for a test that takes none
}

// simulator looks for a bug with one seed after the other; restores with those only in which the server's database is put back.
var (
	simulator = test{"internal/sim", "^TestPromisesHold$", 1}
	restores  = test{"internal/sim", "^TestPromisesHold$", 4}
)

func (t test) String() string {
	if t.by > 1 {
		return fmt.Sprintf("%s %s -by %d", t.pkg, plain.Replace(t.run), t.by)
	}
	return t.pkg + " " + plain.Replace(t.run)
}

var plain = strings.NewReplacer("^", "", "$", "", "(", "", ")", "", "|", ", ")

// args are those of the test's i-th run: each begins with other seeds.
func (t test) args(i int) []string {
	args := []string{"-test.run=" + t.run, "-test.failfast"}
	if t.by > 0 {
		args = append(args, "-seeds=1000000", "-stop", "-by="+strconv.Itoa(t.by), "-from="+strconv.Itoa(1+100_000*i))
	}
	return args
}

// looking is how bugs are looked for.
type looking struct {
	root, dir string
	limit     time.Duration
	times     int
	sound     bool
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	return strings.TrimSpace(string(out)), err
}

// result is what became of a bug.
type result struct {
	found int
	took  []time.Duration // of those that found it
	cpu   []time.Duration
	said  string // the first failure
}

func (r *result) line(b *bug, l *looking) string {
	if r.found == 0 {
		return fmt.Sprintf("%-28s nothing found within %v by %s", b.name, l.limit, b.found)
	}
	slices.Sort(r.took)
	slices.Sort(r.cpu)
	said := r.said
	if len(said) > 160 {
		said = said[:160] + "..."
	}
	took, cpu := r.took[len(r.took)/2].Seconds(), r.cpu[len(r.cpu)/2].Seconds()
	return fmt.Sprintf("%-28s %d of %d, median %.1fs (%.1fs of a processor)  %s: %s", b.name, r.found, l.times, took, cpu, b.found, said)
}

// look builds the test with the bug in it, and runs it.
func (l *looking) look(ctx context.Context, b *bug) (*result, error) {
	overlay, err := l.plant(b)
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(l.dir, "found.test")
	build := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-ldflags=-s -w", "-c", "-o", binary, "./"+b.found.pkg)
	build.Dir = l.root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("it does not build: %w\n%s", err, out)
	}
	r := &result{}
	for i := range l.times {
		if err := l.run(ctx, binary, b, i, r); err != nil {
			return nil, err
		}
		if r.found <= i && !l.sound {
			break
		}
	}
	return r, nil
}

// run runs the test once, for as long as it may take.
func (l *looking) run(ctx context.Context, binary string, b *bug, i int, r *result) error {
	limited, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	var out bytes.Buffer
	c := exec.CommandContext(limited, binary, b.found.args(i)...)
	c.Dir, c.Stdout, c.Stderr, c.WaitDelay = filepath.Join(l.root, b.found.pkg), &out, &out, 5*time.Second
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, failed := errors.AsType[*exec.ExitError](err); limited.Err() != nil || err == nil {
		if bytes.Contains(out.Bytes(), []byte("no tests to run")) {
			return fmt.Errorf("there is no test %s", b.found)
		}
		return nil
	} else if !failed {
		return err
	}
	r.found++
	r.took, r.cpu = append(r.took, took), append(r.cpu, c.ProcessState.UserTime()+c.ProcessState.SystemTime())
	if r.said == "" {
		r.said = firstFailure(out.String())
	}
	return nil
}

var failure = regexp.MustCompile(`(?m)^\s*(?:\w+\.go:\d+: |panic: |fatal error: |goleak: )(.*)$`)

func firstFailure(out string) string {
	if m := failure.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return strings.TrimSpace(out)
}

// plant writes the overlay with a bug in it, and returns its name.
func (l *looking) plant(b *bug) (string, error) {
	texts := map[string]string{}
	for _, e := range b.edits {
		text, again := texts[e.file]
		if !again {
			raw, err := os.ReadFile(filepath.Join(l.root, e.file))
			if err != nil {
				return "", err
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return "", fmt.Errorf("it no longer fits: %s has %d times\n%s", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range texts {
		planted := filepath.Join(l.dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(planted, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(l.root, file)] = planted
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(l.dir, "overlay.json")
	return overlay, os.WriteFile(overlay, raw, 0o600)
}
