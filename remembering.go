package tidemark

import "time"

// MaxRemembered is how far ahead of the wall clock a stored stamp may be for [Remembering] to tell it: one that
// is further ahead is a mistake, which must not carry a server's clock away.
const MaxRemembered = 24 * time.Hour

// Remembering is what a [Driver] implements besides when it knows the stamps that its database has
// from before. A server's clock begins behind them: else its own writes would lose, until the wall clock has
// caught up, to those of a device or of a former server whose clock was ahead.
type Remembering interface {
	// Newest returns the newest stamp in the metadata that is at most [MaxRemembered] ahead of the
	// driver's clock, as of when the driver was made or migrated, or later; 0 when there is none. It does not wait
	// for the database.
	Newest() Stamp
}
