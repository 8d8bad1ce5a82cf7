package tidemark

// Meta is a row's metadata: when it was created, last updated and deleted. A
// deleted row leaves a tombstone, a Meta with DeletedAt. The four columns of the
// metadata table and the four members of its JSON form are the guide's:
//
//	{"uid": "...", "created_at": "...", "updated_at": null, "deleted_at": null}
type Meta struct {
	UID       string `json:"uid"`        // the row's name
	CreatedAt Stamp  `json:"created_at"` // when the row was created; zero when it came into being by an update
	UpdatedAt Stamp  `json:"updated_at"` // when it was last updated; zero for never
	DeletedAt Stamp  `json:"deleted_at"` // when it was deleted; zero for a live row
}

// T returns the stamp that decides conflicts: DeletedAt, else UpdatedAt, else
// CreatedAt, else zero.
func (m Meta) T() Stamp {
	switch {
	case m.DeletedAt != 0:
		return m.DeletedAt
	case m.UpdatedAt != 0:
		return m.UpdatedAt
	}
	return m.CreatedAt
}

// Deleted reports whether m is a tombstone.
func (m Meta) Deleted() bool { return m.DeletedAt != 0 }

// IsZero reports whether m is no metadata at all.
func (m Meta) IsZero() bool { return m == Meta{} }

// AppendJSON appends the wire form of m to b.
func (m Meta) AppendJSON(b []byte) []byte {
	b = append(b, `{"uid":`...)
	b = AppendString(b, m.UID)
	b = append(b, `,"created_at":`...)
	b = m.CreatedAt.AppendJSON(b)
	b = append(b, `,"updated_at":`...)
	b = m.UpdatedAt.AppendJSON(b)
	b = append(b, `,"deleted_at":`...)
	b = m.DeletedAt.AppendJSON(b)
	return append(b, '}')
}

// MarshalJSON gives the wire form of m, stamps that are zero as null.
func (m Meta) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }
