package tidemark

import "strconv"

// Op is what a write does to its row.
type Op uint8

const (
	// Create writes a row as new: its metadata starts afresh.
	Create Op = iota + 1
	// Update changes the given columns, and brings an absent row into being.
	Update
	// Delete removes the row and leaves a tombstone.
	Delete
	// Adopt gives a row that another program inserted its metadata, and changes
	// nothing where there is some already, or no row. No client sends it.
	Adopt
)

var opNames = [...]string{"", "create", "update", "delete", "adopt"}

// String returns the op's name in lower case.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return "op(" + strconv.Itoa(int(o)) + ")"
}

// Mutation is one write of one row.
type Mutation struct {
	// N is the write's number in its client's outbox: from 1, without gaps. Zero
	// for a write that comes from no outbox.
	N int64
	// Unit is the number of the last write of the unit that this one belongs to:
	// consecutive writes of one client that are applied together or rejected together.
	// Zero for a write that stands alone.
	Unit int64
	// Model and UID name the row.
	Model string
	UID   string
	Op    Op
	// Data are the columns to write, canonical (see Schema.Patch), without uid. nil for Delete.
	Data Row
	// Stamp is the time of the write. Zero only for an Update without one, which
	// asks for the server's state (see Decide).
	Stamp Stamp
}

// Outcome is what became of a mutation in the server's database.
type Outcome struct {
	// Applied says that the write won and was made. When it is false and Err is
	// nil, it was superseded, by the state in Row and Meta.
	Applied bool
	// Row is the row as it now stands; nil when there is none. For a Delete that
	// was applied it is the row that was deleted, nil when there was none.
	Row Row
	// Meta is the metadata as it now stands.
	Meta Meta
	// Changed says that the row or its metadata is not what it was: by the write, or, where
	// that lost, because metadata of a row that is gone became a tombstone, or a row that its
	// metadata says is deleted went.
	Changed bool
	// Before is the row as it stood before, nil when there was none. Set when Changed.
	Before Row
	// Err says that this one write was refused and had no effect, others of its
	// batch none the less: CodeConstraint, CodeUIDTaken, CodeInvalidData,
	// CodeInvalidStamp, CodeUnknownModel.
	Err *Error
}

// Effect is what a decision means for the row itself.
type Effect uint8

const (
	// Leave the row as it is, present or not.
	Leave Effect = iota
	// Upsert the mutation's columns.
	Upsert
	// Remove the row if it is present.
	Remove
)

// Decision is the answer of [Decide].
type Decision struct {
	// Applied says that the mutation won.
	Applied bool
	// Effect is what to do with the row, whoever won: where the server wins over
	// a row that its own metadata says is deleted, the stale row goes.
	Effect Effect
	// Meta is the metadata afterwards. It may differ from the former though the
	// mutation lost: metadata of a row that is gone becomes a tombstone.
	Meta Meta
}

// Changes reports whether the decision changes anything of a row whose metadata was meta
// and which was present or not: what Outcome.Changed says.
func (d *Decision) Changes(meta Meta, present bool) bool {
	return d.Effect == Upsert || d.Effect == Remove && present || d.Meta != meta
}

// Decide is last writer wins: what the write (op, stamp) of the row uid does when
// the row's metadata is meta (the zero Meta when there is none) and the row is
// present or not. Ties go to the server against Create, Update, and to Delete
// against the server, so that for distinct stamps the outcome does not depend on
// the order of arrival. docs/protocol.md has it as a table.
//
// A zero stamp is a [CodeInvalidStamp] error, but for an Update over live
// metadata, which never wins.
func Decide(op Op, uid string, stamp Stamp, meta Meta, present bool) (Decision, error) {
	live := meta.UID != "" && !meta.Deleted()
	if stamp == 0 && !(op == Update && live) {
		return Decision{}, NewError(CodeInvalidStamp, "the write has no date")
	}
	if !wins(op, stamp, meta) || op == Adopt && !present {
		return lost(op, meta, present), nil
	}
	d := Decision{Applied: true, Meta: Meta{UID: uid}}
	switch op {
	case Create:
		d.Effect, d.Meta.CreatedAt = Upsert, stamp
	case Update:
		d.Effect, d.Meta.CreatedAt, d.Meta.UpdatedAt = Upsert, meta.CreatedAt, stamp
	case Delete:
		d.Effect, d.Meta = Remove, meta
		d.Meta.UID, d.Meta.DeletedAt = uid, stamp
	case Adopt:
		d.Meta.CreatedAt = stamp
	}
	return d, nil
}

func wins(op Op, stamp Stamp, meta Meta) bool {
	switch {
	case meta.UID == "":
		return true
	case op == Adopt:
		return false
	case op == Delete:
		return stamp >= meta.T()
	}
	return stamp > meta.T()
}

func lost(op Op, meta Meta, present bool) Decision {
	d := Decision{Meta: meta}
	switch {
	case op == Adopt:
	case meta.Deleted():
		d.Effect = Remove
	case !present:
		d.Meta.DeletedAt = max(meta.T(), 1)
	}
	return d
}

// Rebase returns the row that a device shows: base, the server's last known state
// with its metadata (nil and zero when it has none), with the device's own
// pending writes on top, in the order of their numbers. A pending write that is
// not newer than what it would change is left out, as the server will decide.
// The result is nil when the row is deleted or does not exist. A base under a tombstone is how the
// row was before it left the device's reach: shown only with an update on top.
func Rebase(base Row, meta Meta, pending []Mutation) (Row, Meta) {
	row, former := base, Row(nil)
	if meta.Deleted() {
		row, former = nil, base
	}
	for _, m := range pending {
		d, err := Decide(m.Op, m.UID, m.Stamp, meta, len(row) > 0)
		if err != nil || !d.Applied {
			continue
		}
		meta = d.Meta
		switch d.Effect {
		case Upsert:
			if len(row) == 0 && m.Op == Update {
				row = former
			}
			if len(row) == 0 {
				row = append(AppendString(Row(`{"uid":`), m.UID), '}')
			}
			row = row.Merge(m.Data)
		case Remove:
			row = nil
		}
		former = nil
	}
	return row, meta
}
