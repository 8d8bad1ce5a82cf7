package transporttest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSuiteFindsFaults runs every rule on a sound transport with one fault, in
// virtual time: each fault must be found by the rules that it breaks.
func TestSuiteFindsFaults(t *testing.T) {
	t.Parallel()
	for i, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			var found []string
			for _, r := range rules {
				if err := checkWith(t, i, r); err != nil {
					found = append(found, r.name)
				}
			}
			for _, name := range f.broken {
				if !slices.Contains(found, name) {
					t.Errorf("rule %q did not find it; found by %q", name, found)
				}
			}
			if len(f.broken) == 0 && len(found) > 0 {
				t.Errorf("a sound transport breaks %q", found)
			}
		})
	}
}

// TestEveryRuleFindsSomething: a rule that no fault breaks may be no rule.
func TestEveryRuleFindsSomething(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		if !slices.ContainsFunc(faults(), func(f fault) bool { return slices.Contains(f.broken, r.name) }) {
			t.Errorf("no fault breaks rule %q", r.name)
		}
	}
}

// checkWith checks a rule on a pipe with the i-th fault, made anew: faults have state.
func checkWith(t *testing.T, i int, r rule) (err error) {
	synctest.Test(t, func(t *testing.T) {
		f := faults()[i]
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var p *pipe.Pipe
		h := Harness{QueueBytes: pipe.DefaultQueueBytes}
		h.Serve = func(a tidemark.Acceptor) tidemark.Dialer {
			p = pipe.New(wrappedAcceptor{&f.wrap, a}, f.pipe)
			return wrappedDialer{&f.wrap, p}
		}
		h.Cut = func() { p.Cut() }
		h.Shutdown = func() { _ = p.Close() }
		b := newBench(h)
		b.settle = synctest.Wait
		if f.harness != nil {
			f.harness(&b.Harness, p)
		}
		err = r.check(ctx, b)
		b.close()
		_ = p.Close()
	})
	return err
}
