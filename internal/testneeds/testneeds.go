// Package testneeds says in one place what a test does when the machine lacks a
// program that it needs.
package testneeds

import (
	"os"
	"testing"
)

// Missing ends the test because the machine has no such program: the test is
// skipped, or fails where the environment has TIDEMARK_REQUIRE=all, so that a
// build that must prove everything cannot pass by leaving things out.
func Missing(t testing.TB, program, why string) {
	t.Helper()
	if os.Getenv("TIDEMARK_REQUIRE") == "all" {
		t.Fatalf("TIDEMARK_REQUIRE=all, but there is no %s: %s", program, why)
	}
	t.Skipf("no %s: %s", program, why)
}
