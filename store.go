package tidemark

import (
	"bytes"
	"context"
)

// Store is a client's database on its device: the rows that the application asked
// for, what the server last said about each, and the outbox of writes that the
// server has not confirmed. Implementations are sqlite and memory; package
// storetest has what every implementation must pass.
//
// Methods may be called concurrently. They return when ctx ends. After Close they
// return [ErrClosed]. Rows that a store returns belong to the caller.
type Store interface {
	// Declare prepares the store for a model: what is needed to keep its rows, an
	// index for each field that asks for one. It is idempotent. When the schema
	// has changed since the last time, rows keep the members that it lacks.
	Declare(ctx context.Context, s *Schema) error

	// Find returns the visible rows that p selects, sorted by uid (by bytes).
	Find(ctx context.Context, p *Predicate) ([]Row, error)

	// Get returns the visible row, nil when there is none.
	Get(ctx context.Context, model, uid string) (Row, error)

	// View runs fn on one state of the store. fn must only read.
	View(ctx context.Context, fn func(StoreTx) error) error

	// Update runs fn in a transaction: when it returns nil all its effects are
	// durable before Update returns, otherwise there are none and Update returns
	// fn's error. Updates exclude each other, also across processes.
	Update(ctx context.Context, fn func(StoreTx) error) error

	// Close waits for running calls and releases what the store itself holds. It is idempotent.
	Close() error
}

// Record is one row of a store with everything that is known about it.
type Record struct {
	// UID names the row.
	UID string
	// Row is what the application sees: Base with the pending writes on top
	// (see Rebase). nil when the row is deleted, or hidden by a pending Delete.
	Row Row
	// Base and Meta are the server's state as last told. Base is nil when the
	// server has no such row; Meta is zero when it never told of one. A Meta with DeletedAt and a nil
	// Base is a tombstone: it keeps an older message from bringing the row back. With a Base the row
	// left the device's reach, and is kept as it was for the pending writes: see Rebase.
	Base Row
	Meta Meta
	// Pending is how many mutations of the row are in the outbox. When it is 0,
	// Row equals Base.
	Pending int
	// Seen numbers the pass over the server's rows in which the server last told of this
	// one; see StoreTx.Unseen. Not negative; 0 for never.
	Seen int64
}

// Check reports whether a store may keep r: a valid UID, Row and Base each nil or
// a JSON object with that member uid, Meta zero or that uid's, Pending not
// negative. Errors: [CodeInvalidData]. Every implementation's Put calls it, for
// all records before it stores the first.
func (r *Record) Check() error {
	if err := CheckUID(r.UID); err != nil {
		return err
	}
	if !r.Meta.IsZero() && r.Meta.UID != r.UID {
		return NewError(CodeInvalidData, "metadata of another uid").OnField("uid")
	}
	if r.Pending < 0 || r.Seen < 0 {
		return NewError(CodeInvalidData, "a negative number of pending writes, or of a pass")
	}
	if err := checkStored(r.UID, r.Row); err != nil {
		return err
	}
	if bytes.Equal(r.Row, r.Base) {
		return nil
	}
	return checkStored(r.UID, r.Base)
}

func checkStored(uid string, r Row) error {
	if len(r) == 0 {
		return nil
	}
	named := false
	err := EachField(r, func(key, value []byte) error {
		if string(key) == "uid" {
			named = isText(value, uid)
		}
		return nil
	})
	switch {
	case err != nil:
		return NewError(CodeInvalidData, "a row is an object: %s", messageOf(err))
	case !named:
		return NewError(CodeInvalidData, "the row's uid is not its record's").OnField("uid")
	}
	return nil
}

// IsZero reports whether r says nothing but its UID: what Put removes.
func (r *Record) IsZero() bool {
	return len(r.Row) == 0 && len(r.Base) == 0 && r.Meta.IsZero() && r.Pending == 0
}

// StoreTx is one transaction of a [Store]. It must not be used after the function
// that it was given to has returned, nor concurrently.
type StoreTx interface {
	// Records returns one record for each uid, in their order; a zero Record but
	// for its UID where nothing is kept.
	Records(model string, uids []string) ([]Record, error)

	// Put stores the records, whole. A record with neither Row, Base, Meta nor
	// Pending is removed.
	Put(model string, recs []Record) error

	// Held returns the metadata of the rows whose Base p selects, sorted by uid;
	// a Meta with nothing but its UID where the server told of none.
	Held(p *Predicate) ([]Meta, error)

	// Unseen returns the uids of the rows whose Base p selects and whose Seen is
	// below pass, sorted: what the server, when it has told all its rows, no longer has.
	Unseen(p *Predicate, pass int64) ([]string, error)

	// Prune removes the tombstones of a model that are older than before and have
	// nothing pending.
	Prune(model string, before Stamp) error

	// Enqueue appends mutations to the outbox. It numbers them, in their order,
	// from one more than the highest number ever given, and sets their N.
	Enqueue(ms []Mutation) error

	// Outbox returns up to limit mutations with N greater than after, by number;
	// limit 0 means all.
	Outbox(after int64, limit int) ([]Mutation, error)

	// Queued returns how many mutations are in the outbox, without reading them, and the
	// highest number that was ever given, 0 for none.
	Queued() (count int, highest int64, err error)

	// Pending returns the mutations of the given rows, by number.
	Pending(model string, uids []string) ([]Mutation, error)

	// Newest returns the stamp of the row's mutation with the highest number in the outbox, 0 when
	// it has none. It takes no longer where there are thousands.
	Newest(model, uid string) (Stamp, error)

	// Amend gives mutations in the outbox, found by their N, the Stamp and the Unit that ms
	// has; unknown numbers are ignored.
	Amend(ms []Mutation) error

	// Dequeue removes the mutations of the given numbers from the outbox; unknown numbers are ignored.
	Dequeue(ns []int64) error

	// Load returns the entry stored under key, nil when there is none.
	Load(key string) ([]byte, error)

	// Save stores an entry; a nil value removes it. Keys are text, at most 1,024 bytes.
	Save(key string, value []byte) error

	// Entries returns the entries whose key begins with prefix, sorted by key (by bytes).
	Entries(prefix string) ([]Entry, error)
}

// Entry is a key with its value: scopes, rejections and other small things that a
// client keeps in its store.
type Entry struct {
	Key   string // text, at most 1,024 bytes
	Value []byte // any bytes; empty is not the same as none
}

// CheckKey reports whether key can name an entry: at most 1,024 bytes of valid
// UTF-8 without NUL. Errors: [CodeInvalidData].
func CheckKey(key string) error {
	if len(key) > 1024 || !validText(key) {
		return NewError(CodeInvalidData, "%s cannot be the key of an entry", quoteShort([]byte(key)))
	}
	return nil
}
