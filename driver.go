package tidemark

import "context"

// Driver is the server's database: the application's tables, one a model, and
// the metadata beside them. Implementations are bundriver and memory; package
// drivertest has what every implementation must pass.
//
// All methods may be called concurrently. They return when ctx ends. After Close
// they return [ErrClosed]. Errors of the database that say nothing about the
// request (no connection, a time-out, a full disk) carry [CodeUnavailable]; what
// the driver does not understand carries [CodeInternal]; both keep the native
// error as their cause. Slices and rows that a driver returns belong to the caller.
type Driver interface {
	// Models returns the schemas of the registered models, in the order of
	// registration. The result does not change.
	Models() []*Schema

	// Migrate creates what is the driver's own (metadata table, bookkeeping) where
	// it is absent, gives metadata to rows that have none, and records which model
	// each uid belongs to. It alters nothing of the application's and may be run
	// at every start.
	Migrate(ctx context.Context) error

	// Find returns the rows that p selects, at most limit of them; limit 0 means
	// all. The order is the database's.
	Find(ctx context.Context, p *Predicate, limit int) ([]Row, error)

	// Snapshot returns, as of one moment, the rows that p selects, and what is
	// known of the given uids besides. The number of statements does not depend on the
	// number of rows or uids.
	Snapshot(ctx context.Context, p *Predicate, uids []string) (*Snapshot, error)

	// Write makes the mutations in their order, in one transaction, and returns an
	// outcome for each. A mutation that is refused (Outcome.Err) does not disturb
	// the others. An error of Write itself means that nothing was written, or, for
	// CodeUnavailable, that it is unknown whether all or nothing was: the caller
	// may write the same again.
	//
	// For each mutation, deciding (see Decide) and writing are one atomic step:
	// concurrent writers of one row end with the newest.
	Write(ctx context.Context, ms []Mutation) ([]Outcome, error)

	// Close releases what the driver itself holds, not a database handle that it
	// was given. It is idempotent.
	Close() error
}

// Snapshot is what [Driver.Snapshot] read.
type Snapshot struct {
	// Selected are the rows that the predicate selects. Their metadata may be the zero
	// Meta: rows that another program inserted.
	Selected []RowMeta
	// Others has what is known of those of the given uids that are not among
	// Selected: rows of this model that the predicate does not select, and
	// metadata without a row. Metadata that belongs to another model is left out.
	Others []RowMeta
}
