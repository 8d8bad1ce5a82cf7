// Command bench measures how fast Tidemark is, on the machine that it runs on:
//
//	go run ./bench                      every workload
//	go run ./bench -only W0,W5 -n 3     some of them, three times each
//	go run ./bench -limits DIR          beside a program of bare limits
//
// The workloads are those of docs/performance.md. The server runs in a process of
// its own, over websockets on loopback; PostgreSQL is a throw-away one, unless -pg
// names another; SQLite files are on disk, under TMPDIR. What it prints is a
// table in Markdown: medians over -n repetitions, from the least to the greatest.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "serve" || os.Args[1] == "melody") {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench", os.Args[1]+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := parent(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the command.
type bench struct {
	n        int
	rows     []int
	sessions []int
	engines  []string
	dir      string // for SQLite files
	postgres *postgres
	report   report
}

func parent(ctx context.Context) error {
	only := flag.String("only", "W0,W3,W4,W5", "the `workloads` to run")
	n := flag.Int("n", 5, "how often to repeat each")
	rows := flag.String("rows", "1000,10000", "how many `rows` W0 synchronises")
	sessions := flag.String("sessions", "500,1000,5000", "how many `sessions` W4 has")
	engines := flag.String("db", "postgres,sqlite", "the server's `databases`")
	dsn := flag.String("pg", "", "the `DSN` of a PostgreSQL to use: databases are created in it and dropped (default: one is started)")
	limits := flag.String("limits", "", "a `directory` with a program of bare limits, to be built and run as well")
	profile := flag.String("profile", "", "a `file` for a CPU profile of the clients; the server has /debug/pprof/")
	flag.Parse()
	b := &bench{n: *n, engines: strings.Split(*engines, ",")}
	var err error
	if b.rows, err = numbers(*rows); err != nil {
		return err
	}
	if b.sessions, err = numbers(*sessions); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "tidemark-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	workloads := strings.Split(*only, ",")
	if slices.Contains(b.engines, "postgres") || *limits != "" {
		if b.postgres, err = openPostgres(*dsn); err != nil {
			return err
		}
		defer b.postgres.close()
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	err = b.run(ctx, workloads)
	if err == nil && *limits != "" {
		err = b.runLimits(ctx, *limits, workloads)
	}
	b.report.print(os.Stdout)
	return err
}

func numbers(list string) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a number above 0", s)
		}
		out = append(out, n)
	}
	return out, nil
}

func (b *bench) run(ctx context.Context, workloads []string) error {
	all := []struct {
		name string
		run  func(context.Context) error
	}{{"W0", b.sync}, {"W3", b.live}, {"W4", b.fanOut}, {"W5", b.local}}
	for _, w := range all {
		if !slices.Contains(workloads, w.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "running", w.name)
		if err := w.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// each calls fn for each of the server's databases, with a server over a fresh one of so many rows.
func (b *bench) each(ctx context.Context, rows int, fn func(engine string, s *process) error) error {
	for _, engine := range b.engines {
		if err := b.serving(ctx, engine, rows, func(s *process) error { return fn(engine, s) }); err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

func (b *bench) serving(ctx context.Context, engine string, rows int, fn func(*process) error) error {
	dsn, drop, err := b.database(ctx, engine)
	if err != nil {
		return err
	}
	defer drop()
	s, err := start("serve", dsn, strconv.Itoa(rows))
	if err != nil {
		return err
	}
	defer s.stop()
	return fn(s)
}
