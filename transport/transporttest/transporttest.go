// Package transporttest has what every transport must pass: a table of rules,
// each checked on fresh connections. A transport's own tests call [Run].
package transporttest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
)

// Harness is one server of the transport under test, for one rule. What it needs
// is released by t.Cleanup of the t that it was made with.
type Harness struct {
	// Serve starts a server that offers its connections to a, and returns a dialer
	// to it. It is called once.
	Serve func(a tidemark.Acceptor) tidemark.Dialer
	// QueueBytes is what the server lets wait for a client, in bytes.
	QueueBytes int
	// Cut breaks all present connections without a farewell. nil when the
	// transport has no such means; the rules about it are then left out.
	Cut func()
	// Shutdown closes the server and waits. nil likewise.
	Shutdown func()
}

// rule is one promise and how to see whether it is kept.
type rule struct {
	name  string
	words string
	check func(ctx context.Context, b *bench) error
}

var rules = concat(deliveryRules, connectRules, closeRules)

func concat(topics ...[]rule) (all []rule) {
	for _, t := range topics {
		all = append(all, t...)
	}
	return all
}

// patience is how long a rule may take. It is no measure of speed: it only ends what hangs.
const patience = 20 * time.Second

// Run checks every rule on a harness of its own, and that no goroutine is left
// in the end. The calling test must not be parallel, so that other tests'
// goroutines are not mistaken for the transport's.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Run("rules", func(t *testing.T) {
		for _, r := range rules {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				if err := r.run(t, newHarness(t)); err != nil {
					t.Errorf("rule broken: %s\n%v", r.words, err)
				}
			})
		}
	})
	t.Run("no goroutine left", func(t *testing.T) {
		if err := goleak.Find(before); err != nil {
			t.Errorf("rule broken: when both ends are closed, nothing of a transport is left\n%v", err)
		}
	})
}

func (r rule) run(t *testing.T, h Harness) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b := newBench(h)
	defer b.close()
	if err := r.check(ctx, b); err != errLeftOut {
		return err
	}
	t.Skip("the harness has no means for it")
	return nil
}

// errLeftOut is returned by a check for which the harness has no means.
var errLeftOut = fmt.Errorf("left out")
