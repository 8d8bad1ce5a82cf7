//go:build !race

package sim

// Raced is whether the race detector is on.
const Raced = false
