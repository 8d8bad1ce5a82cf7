//go:build race

package sim

// Raced is whether the race detector is on. Then the runtime chooses among goroutines by chance, so runs
// do not repeat; and what parts keep cannot be counted, since the detector does not know that they are at rest.
const Raced = true
