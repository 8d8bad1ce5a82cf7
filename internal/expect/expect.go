// Package expect waits in tests for what must become true of parts that run by themselves.
package expect

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var patience = flag.Duration("patience", 2*time.Minute, "how long tests wait for what must happen")

// Patience returns how long a test waits for what must happen: two minutes, or what the flag
// -patience says. In a synctest bubble the time is virtual.
func Patience() time.Duration { return *patience }

// Soon asks check until it returns nil. Where it does not within Patience, the test ends with
// the last error.
func Soon(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.After(*patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// Becomes waits as Soon does until got returns want.
func Becomes[T comparable](t testing.TB, what string, want T, got func() T) {
	t.Helper()
	Soon(t, func() error {
		if g := got(); g != want {
			return fmt.Errorf("%s is %v, want %v", what, g, want)
		}
		return nil
	})
}

// Equal checks that got is want, and lets the test go on.
func Equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
