// Command tidemark-chaos shows that nothing is lost between real processes: it starts clients,
// a server and PostgreSQL, has the clients write, and kills, freezes and partitions all of them
// for a given time. Then it lets them come to rest, and compares.
//
//	go run ./cmd/tidemark-chaos -for 2m -clients 12
//
// It needs PostgreSQL's binaries (see internal/pgserver), and a Unix for the freezing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tidemark-chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "serve" {
		return serve(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "client" {
		return device(ctx, args[1:])
	}
	flags := flag.NewFlagSet("tidemark-chaos", flag.ContinueOnError)
	c := &chaos{}
	flags.DurationVar(&c.length, "for", 2*time.Minute, "how long to break things")
	flags.IntVar(&c.clients, "clients", 12, "how many client processes there are")
	flags.Uint64Var(&c.seed, "seed", 0, "of the dice; 0 takes one from the clock. Processes run freely, so a seed does not repeat a run")
	flags.BoolVar(&c.verbose, "v", false, "say what is broken, and when")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return c.run(ctx)
}
