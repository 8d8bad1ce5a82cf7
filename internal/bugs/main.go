// Bugs tests the tests: it plants known mistakes in the code, one at a time, and fails when one
// is not found in time by the test that should.
//
//	go run ./internal/bugs                     # all of them; time to build is not counted
//	go run ./internal/bugs -only tie,normal    # some
//	go run ./internal/bugs -n 3                # three times each, with the median
//	go run ./internal/bugs -sound              # the same tests find nothing where nothing is planted
//
// A bug is a wrong edit of the real code, given to the compiler by go test -overlay: no file
// of the code changes, and none has to be written so that a bug fits in. Where the code has moved on and
// an edit no longer fits, that is an error too.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	only := flag.String("only", "", "the names of the bugs to plant, with commas; all when empty")
	limit := flag.Duration("limit", 60*time.Second, "within which a bug must be found")
	n := flag.Int("n", 1, "how often each is looked for")
	sound := flag.Bool("sound", false, "plant nothing: no test may fail within the limit")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	chosen, err := choose(*only)
	if err == nil {
		err = work(ctx, chosen, &looking{limit: *limit, times: max(*n, 1), sound: *sound})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bugs:", err)
		os.Exit(1)
	}
}

// choose returns the bugs of those names.
func choose(names string) ([]bug, error) {
	all := slices.Concat(clientBugs, serverBugs, databaseBugs)
	if names == "" {
		return all, nil
	}
	var chosen []bug
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(b bug) bool { return b.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no bug named %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// work plants the bugs, one after the other, and prints what became of each.
func work(ctx context.Context, bugs []bug, l *looking) error {
	dir, err := os.MkdirTemp("", "bugs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if l.root, err = moduleRoot(ctx); err != nil {
		return err
	}
	l.dir = dir
	if l.sound {
		bugs = soundly(bugs)
	}
	missed := 0
	for i := range bugs {
		r, err := l.look(ctx, &bugs[i])
		if err != nil {
			return fmt.Errorf("%s: %w", bugs[i].name, err)
		}
		good := r.found == l.times
		if l.sound {
			good = r.found == 0
		}
		if !good {
			missed++
		}
		fmt.Println(r.line(&bugs[i], l))
	}
	switch {
	case missed > 0 && l.sound:
		return fmt.Errorf("%d tests fail, though nothing is planted", missed)
	case missed > 0:
		return fmt.Errorf("%d of %d bugs were not found each time within %v", missed, len(bugs), l.limit)
	}
	return nil
}

// soundly returns one bug without edits for each test.
func soundly(bugs []bug) []bug {
	var out []bug
	for _, b := range bugs {
		b.edits, b.name = nil, b.found.String()
		if !slices.ContainsFunc(out, func(other bug) bool { return other.name == b.name }) {
			out = append(out, b)
		}
	}
	return out
}
