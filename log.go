package tidemark

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"time"
)

// LogDriver is what a [Driver] implements besides when it keeps a change log: each
// committed change of a model's row that was made through it, with the row before. A
// server over such a driver offers clients cursors, batches and live scopes.
//
// Entries of the log are read in an order in which nothing can appear behind a reader:
// a [Cursor] stands below every change of a transaction that is still open.
type LogDriver interface {
	TxDriver

	// Horizon returns the cursor below which the log is complete.
	Horizon(ctx context.Context) (Cursor, error)

	// Own reports whether all changes between two cursors were made through this very driver, by calls
	// that had a [Witness]: who hears of them as they are made has then heard of all. It is false for
	// those of another process on the same database, and where the log no longer has all that followed from.
	Own(ctx context.Context, from, to Cursor) (bool, error)

	// Pull reads, as of one moment, a page of rows that have changed since q.From; all rows
	// that q.Scope selects where that is zero. In a constant number of statements.
	//
	// Errors: [CodeCursorTooOld] when From is of another history, beyond the log, or below what is kept.
	Pull(ctx context.Context, q Pull) (*Page, error)

	// Push makes a client's mutations in their order, in one transaction with their
	// verdicts: what was decided before is told again and not done again. See [Ledger].
	// An error means that nothing was done, or, for CodeUnavailable, that it is unknown:
	// the caller may push the same again. A mutation that is refused disturbs only its unit.
	// w, which may be nil, hears of those that are not repetitions. It takes part in no transaction that ctx carries.
	//
	// Errors: those of [Ledger.Admit]; as of Write.
	Push(ctx context.Context, b *Batch, w Witness) ([]Verdict, error)

	// Known returns what Push remembers of a client's mutations, the highest number, and 0 for an
	// unknown client.
	Known(ctx context.Context, client string) (highest int64, err error)

	// Purge forgets changes that are older than before, and the verdicts of clients that have
	// not pushed since. Cursors below what remains are [CodeCursorTooOld]. It keeps metadata, tombstones
	// included, and each client's highest number. It returns how many changes it removed.
	Purge(ctx context.Context, before time.Time) (int64, error)
}

// Pull asks a [LogDriver] for a page.
type Pull struct {
	Scope *Predicate // which rows
	From  Cursor     // since when; the zero Cursor for all rows as they are
	After string     // the uid after which the page begins, in the database's order; "" for the first page
	// Limit is how many changed rows the page has at most, Bytes about how many bytes of
	// rows; at least one row is on a page. Both above 0.
	Limit, Bytes int
	// Count asks for the number of rows that Scope selects.
	Count bool
	// Befores asks for Page.Befores.
	Befores bool
}

// MaxBefores is how many versions of a row Page.Befores has at least, if there were so many.
const MaxBefores = 16

// Page is a part of what changed in a scope, each row once, as it now is.
type Page struct {
	// Rows are those that the scope selects, in the database's order of uids. A row whose metadata says that it
	// is deleted, since another program put it back, is none: here, in Gone and in Total. Their metadata
	// may be the zero Meta: rows that another program inserted.
	Rows []RowMeta
	// Gone are rows that the scope selected at some time since From and no longer does: with
	// the row as it now is, or none and a tombstone.
	Gone []RowMeta
	// Befores has, where Pull.Befores asked for it, by uid the versions of the page's rows, of Rows and Gone
	// alike, that the scope selected, from the one at From on, without those that are now: in their order the first
	// MaxBefores, or more. A row that the scope has not selected before is not in it.
	Befores map[string][]Row
	// Last is the uid of the last row that was looked at: where the next page begins.
	// More says that there is one.
	Last string
	More bool
	// Horizon is the log's, as of the page's moment.
	Horizon Cursor
	// Total is the number of rows that the scope selects, when Pull.Count asked for it.
	Total int
}

// Cursor is a position in a server's order of changes. The zero Cursor is before everything.
type Cursor struct {
	// Epoch names the history: another one after a restore, or in another database.
	Epoch string
	// At is the position: changes below it have been seen.
	At int64
	// Nonce is that of the last change below At, 0 when there is none: two histories that
	// share an epoch and part later differ in it.
	Nonce uint64
}

// IsZero reports whether c is before everything.
func (c Cursor) IsZero() bool { return c == Cursor{} }

const cursorVersion = 1

// String returns the form in which a cursor travels, opaque to clients; "" for the zero Cursor.
func (c Cursor) String() string {
	if c.IsZero() {
		return ""
	}
	b := []byte{cursorVersion}
	b = binary.AppendVarint(b, c.At)
	b = binary.BigEndian.AppendUint64(b, c.Nonce)
	b = append(b, c.Epoch...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what String gives. Anything else is [CodeInvalidRequest].
func ParseCursor(s string) (Cursor, error) {
	bad := NewError(CodeInvalidRequest, "the cursor is malformed")
	if s == "" {
		return Cursor{}, nil
	}
	if len(s) > 512 {
		return Cursor{}, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 1+1+8+4 || b[0] != cursorVersion {
		return Cursor{}, bad
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	at, n := binary.Varint(body[1:])
	if crc32.ChecksumIEEE(body) != sum || n <= 0 || len(body) < 1+n+8 {
		return Cursor{}, bad
	}
	rest := body[1+n:]
	c := Cursor{At: at, Nonce: binary.BigEndian.Uint64(rest), Epoch: string(rest[8:])}
	if c.String() != s { // another spelling of the same
		return Cursor{}, bad
	}
	return c, nil
}
