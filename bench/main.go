// Command bench measures how fast Tidemark is, on the machine that it runs on:
//
//	go run ./bench                      every workload
//	go run ./bench -only W0,W5 -n 3     some of them, three times each
//	go run ./bench -limits DIR          beside a program of bare limits
//	go run ./bench -load -soak 10m      many connections, storms, slow readers, and a long time
//	go run ./bench -only W1 -profile .  with a CPU profile of each process
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if isChild(os.Args) {
		if err := child(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench", os.Args[1]+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := parent(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of the command.
type bench struct {
	n        int
	rows     []int     // that W0 synchronises
	first    int       // rows that W1 synchronises
	held     []int     // rows that a device of W2 has
	sessions []int     // of W4
	queued   int       // writes of W6
	upserted int       // rows of W8
	crowds   []company // of growth
	load     load
	engines  []string
	dir      string // for SQLite files
	postgres *postgres
	report   report
}

func parent(ctx context.Context) error {
	only := flag.String("only", "W0,W1,W2,W3,W4,W5,W6,W7,W8,growth", "the `workloads` to run")
	under := flag.Bool("load", false, "run the server under load in place of the workloads")
	n := flag.Int("n", 5, "how often to repeat each")
	rows := flag.String("rows", "1000,10000", "how many `rows` W0 synchronises")
	first := flag.Int("first", 100_000, "how many `rows` W1 synchronises")
	held := flag.String("held", "1000,10000,100000", "how many `rows` a device of W2 has")
	sessions := flag.String("sessions", "500,1000,5000", "how many `sessions` W4 has")
	idle := flag.String("idle", "1000,5000,10000", "with -load, how many `sessions` are idle")
	soak := flag.Duration("soak", time.Minute, "with -load, how long devices write, come and go")
	engines := flag.String("db", "postgres,sqlite", "the server's `databases`")
	dsn := flag.String("pg", "", "the `DSN` of a PostgreSQL to use: databases are created in it and dropped (default: one is started)")
	limits := flag.String("limits", "", "a `directory` with a program of bare limits, to be built and run as well")
	profile := flag.String("profile", "", "a `directory` in which each process leaves a CPU profile")
	flag.Parse()
	b := &bench{n: *n, first: *first, queued: 10_000, upserted: 20_000, engines: strings.Split(*engines, ","),
		crowds: []company{{10, 1}, {100, 1}, {1000, 1}, {100, 100}},
		load:   load{storm: 1000, slow: 100, changes: 1000, devices: 20, soak: *soak}}
	for list, into := range map[*string]*[]int{rows: &b.rows, held: &b.held, sessions: &b.sessions, idle: &b.load.idle} {
		var err error
		if *into, err = numbers(*list); err != nil {
			return err
		}
	}
	workloads := strings.Split(*only, ",")
	if *under {
		workloads = []string{"load"}
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "tidemark-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if slices.Contains(b.engines, "postgres") || *limits != "" {
		if b.postgres, err = openPostgres(*dsn); err != nil {
			return err
		}
		defer b.postgres.close()
	}
	if *profile != "" {
		if err := os.Setenv(profileTo, *profile); err != nil { // for the processes that this one starts
			return err
		}
		stop, err := profiled("bench")
		if err != nil {
			return err
		}
		defer stop()
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
	}{{"W0", b.sync}, {"W1", b.cold}, {"W2", b.catchUp}, {"W3", b.live}, {"W4", b.fanOut}, {"W5", b.local}, {"W6", b.queue}, {"W7", b.index}, {"W8", b.upserts},
		{"growth", b.growth}, {"load", b.underLoad}}
	for _, w := range all {
		if !slices.Contains(workloads, w.name) {
			continue
		}
		began := time.Now()
		fmt.Fprint(os.Stderr, "running ", w.name)
		if err := w.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Fprintln(os.Stderr, ",", time.Since(began).Round(time.Second))
	}
	return nil
}

// each calls fn for each of the server's databases, with a server of that kind over a fresh one of so many rows.
func (b *bench) each(ctx context.Context, kind string, rows int, fn func(engine string, s *process) error) error {
	for _, engine := range b.engines {
		err := b.serving(ctx, engine, func(dsn string) error {
			s, err := start(kind, dsn, strconv.Itoa(rows))
			if err != nil {
				return err
			}
			defer s.stop()
			return fn(engine, s)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

// serving calls fn with a fresh database.
func (b *bench) serving(ctx context.Context, engine string, fn func(dsn string) error) error {
	dsn, drop, err := b.database(ctx, engine)
	if err != nil {
		return err
	}
	defer drop()
	return fn(dsn)
}
