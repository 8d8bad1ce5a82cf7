package tidemark

import (
	"encoding/json"
)

// ClientEntry is what a client of the guide's protocol says about one row that
// it holds: an entry of sync.go's dictionary.
type ClientEntry struct {
	// Meta is the client's metadata of the row.
	Meta Meta
	// Dirty says that the client has a change that the server has not confirmed.
	Dirty bool
	// Raw is the entry's text, echoed when the server asks for the row.
	Raw json.RawMessage
}

// ParseClientEntry reads one entry of the dictionary, under the key uid:
//
//	{"uid": "...", "created_at": "...", "updated_at": null, "deleted_at": null, "__dirty__": true}
//
// Errors, all [CodeInvalidRequest]: no object, another uid, an unreadable stamp, no stamp at all.
func ParseClientEntry(uid string, raw []byte) (ClientEntry, error) {
	e := ClientEntry{Raw: raw, Meta: Meta{UID: uid}}
	err := EachField(raw, func(key, value []byte) error {
		switch string(key) {
		case "uid":
			if !isText(value, uid) {
				return NewError(CodeInvalidRequest, "metadata of another uid")
			}
		case "created_at":
			return e.Meta.CreatedAt.UnmarshalJSON(value)
		case "updated_at":
			return e.Meta.UpdatedAt.UnmarshalJSON(value)
		case "deleted_at":
			return e.Meta.DeletedAt.UnmarshalJSON(value)
		case "__dirty__":
			e.Dirty = string(value) == "true"
		}
		return nil
	})
	if err == nil && e.Meta.T() == 0 {
		err = NewError(CodeInvalidRequest, "metadata without a date")
	}
	if err != nil {
		return e, NewError(CodeInvalidRequest, "entry %s: %s", quoteShort([]byte(uid)), messageOf(err))
	}
	return e, nil
}

// Drifted is one row of a sync, as the client and the server have it.
type Drifted struct {
	// Selected says that the server's row is selected by the where; Present, that
	// the server has the row, selected or not.
	Selected, Present bool
	// Server is the server's metadata, the zero Meta when it has none.
	Server Meta
	// Client is the client's entry, nil when it holds nothing of the row.
	Client *ClientEntry
}

// ClientStep is what a sync tells the client to do with a row.
type ClientStep uint8

const (
	ClientNothing ClientStep = iota // leave it
	ClientAdd                       // store the server's row, which the client lacks
	ClientUpdate                    // take the server's row
	ClientDelete                    // drop the row; Steps.Deleted says when it was deleted
)

// DatabaseStep is what a sync does with the server's row.
type DatabaseStep uint8

const (
	DatabaseNothing DatabaseStep = iota // leave it
	DatabaseAdd                         // ask the client to push the row as created
	DatabaseUpdate                      // ask the client to push the row as updated
	DatabaseDelete                      // delete the row, with the stamp Steps.DeleteAt
)

// Steps is what [Reconcile] decides for one row.
type Steps struct {
	Client   ClientStep   // what the client does
	Database DatabaseStep // what happens to the server's row
	// Deleted is the stamp of ClientDelete, DeleteAt that of DatabaseDelete.
	Deleted, DeleteAt Stamp
}

// Reconcile decides what a sync of the guide's protocol does with one row. It
// never deletes a live row that merely lies outside the where, and it asks for an
// update exactly where the client's entry has updated_at. docs/protocol.md has it
// as a table.
func Reconcile(d Drifted) Steps {
	c := d.Client
	if c == nil {
		return serverOnly(d)
	}
	tc, ts := c.Meta.T(), d.Server.T()
	buried := d.Server.Deleted()
	if !d.Present && d.Server.UID == "" {
		if c.Meta.Deleted() {
			return Steps{Client: ClientDelete, Deleted: tc}
		}
		return push(c)
	}
	if !d.Present || buried {
		switch {
		case ts >= tc:
			s := Steps{Client: ClientDelete, Deleted: ts}
			if d.Present || !buried {
				s.Database, s.DeleteAt = DatabaseDelete, deletionStamp(d)
			}
			return s
		case c.Meta.Deleted():
			return deleteBoth(d)
		}
		return push(c)
	}
	switch {
	case c.Meta.Deleted() && tc >= ts:
		return deleteBoth(d)
	case tc > ts:
		return push(c)
	case tc < ts, c.Dirty, !d.Selected:
		return Steps{Client: ClientUpdate}
	}
	return Steps{}
}

func serverOnly(d Drifted) Steps {
	switch {
	case !d.Selected:
		return Steps{}
	case d.Server.Deleted():
		return Steps{Database: DatabaseDelete, DeleteAt: deletionStamp(d)}
	}
	return Steps{Client: ClientAdd}
}

func push(c *ClientEntry) Steps {
	if c.Meta.UpdatedAt != 0 {
		return Steps{Database: DatabaseUpdate}
	}
	return Steps{Database: DatabaseAdd}
}

func deleteBoth(d Drifted) Steps {
	return Steps{Client: ClientDelete, Deleted: d.Client.Meta.T(), Database: DatabaseDelete, DeleteAt: deletionStamp(d)}
}

func deletionStamp(d Drifted) Stamp {
	if d.Client != nil && d.Client.Meta.Deleted() {
		return d.Client.Meta.DeletedAt
	}
	return d.Server.T()
}

// SyncResult is the answer of sync.go: five lists, in the order in which the rows
// were met.
type SyncResult struct {
	AddClient      []RowMeta         // rows that the client lacks
	UpdateClient   []RowMeta         // rows of which the server has a newer state
	DeleteClient   []Deletion        // rows to drop
	AddDatabase    []json.RawMessage // the client's own entries, echoed: to be pushed as created
	UpdateDatabase []json.RawMessage // the same: to be pushed as updated
}

// RowMeta is a row with its metadata, on the wire the tuple [row, meta]. Row is
// nil, null on the wire, when there is none.
type RowMeta struct {
	Row  Row  // nil when there is none
	Meta Meta // the zero Meta when there is none
}

// Deletion names a row to drop and when it was deleted, on the wire the tuple
// [uid, date].
type Deletion struct {
	UID string // the row
	At  Stamp  // when it was deleted
}

// AppendJSON appends the tuple to b.
func (t RowMeta) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	if len(t.Row) == 0 {
		b = append(b, "null"...)
	} else {
		b = append(b, t.Row...)
	}
	b = append(b, ',')
	b = t.Meta.AppendJSON(b)
	return append(b, ']')
}

// MarshalJSON gives the tuple.
func (t RowMeta) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil), nil }

// UnmarshalJSON reads the tuple. A row and a meta that name different rows are
// refused as [CodeInvalidData]; so is metadata without a uid, but for null, which gives the zero Meta.
func (t *RowMeta) UnmarshalJSON(b []byte) error {
	row, meta, _, err := pair(b)
	if err != nil {
		return NewError(CodeInvalidData, "not a tuple of row and metadata")
	}
	*t = RowMeta{}
	if len(row) > 0 { // trailing undefineds are dropped by some clients
		if err := t.Row.UnmarshalJSON(row); err != nil {
			return err
		}
	}
	if len(meta) > 0 && string(meta) != "null" {
		if t.Meta, err = ParseMeta(meta); err != nil {
			return err
		}
	}
	if t.Row != nil && t.Meta.UID != "" && !isText(t.Row.Get("uid"), t.Meta.UID) {
		return NewError(CodeInvalidData, "row and metadata name different uids")
	}
	return nil
}

// pair returns the first two elements of the JSON array b, and how many it has.
func pair(b []byte) (first, second []byte, n int, err error) {
	err = EachElement(b, func(i int, v []byte) error {
		switch n++; i {
		case 0:
			first = v
		case 1:
			second = v
		}
		return nil
	})
	return first, second, n, err
}

// ParseMeta reads the JSON form of metadata; absent stamps are zero.
func ParseMeta(raw []byte) (Meta, error) {
	var m Meta
	err := EachField(raw, func(key, value []byte) (err error) {
		switch string(key) {
		case "uid":
			m.UID, err = DecodeString(value)
		case "created_at":
			err = m.CreatedAt.UnmarshalJSON(value)
		case "updated_at":
			err = m.UpdatedAt.UnmarshalJSON(value)
		case "deleted_at":
			err = m.DeletedAt.UnmarshalJSON(value)
		}
		return err
	})
	if err == nil && m.UID == "" {
		err = NewError(CodeInvalidData, "metadata without a uid")
	}
	return m, err
}

// MarshalJSON gives the tuple.
func (d Deletion) MarshalJSON() ([]byte, error) { return d.AppendJSON(nil), nil }

// AppendJSON appends the tuple to b.
func (d Deletion) AppendJSON(b []byte) []byte {
	b = append(b, '[')
	b = AppendString(b, d.UID)
	b = append(b, ',')
	b = d.At.AppendJSON(b)
	return append(b, ']')
}

// UnmarshalJSON reads the tuple.
func (d *Deletion) UnmarshalJSON(b []byte) error {
	uid, at, n, err := pair(b)
	if err != nil || n != 2 {
		return NewError(CodeInvalidData, "not a tuple of uid and date")
	}
	if d.UID, err = DecodeString(uid); err != nil {
		return err
	}
	return d.At.UnmarshalJSON(at)
}

// MarshalJSON gives the object with its five lists, all present.
func (r SyncResult) MarshalJSON() ([]byte, error) {
	n := 128
	for _, t := range r.AddClient {
		n += len(t.Row) + 200
	}
	for _, t := range r.UpdateClient {
		n += len(t.Row) + 200
	}
	b := make([]byte, 0, n)
	b = appendList(append(b, `{"addClient":`...), r.AddClient, RowMeta.AppendJSON)
	b = appendList(append(b, `,"updateClient":`...), r.UpdateClient, RowMeta.AppendJSON)
	b = appendList(append(b, `,"deleteClient":`...), r.DeleteClient, Deletion.AppendJSON)
	b = appendList(append(b, `,"addDatabase":`...), r.AddDatabase, appendRaw)
	b = appendList(append(b, `,"updateDatabase":`...), r.UpdateDatabase, appendRaw)
	return append(b, '}'), nil
}

func appendRaw(raw json.RawMessage, b []byte) []byte { return append(b, raw...) }

func appendList[T any](b []byte, list []T, appendJSON func(T, []byte) []byte) []byte {
	b = append(b, '[')
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSON(x, b)
	}
	return append(b, ']')
}

// UnmarshalJSON reads the object; absent lists are empty, other members ignored.
// Any malformed tuple refuses the whole.
func (r *SyncResult) UnmarshalJSON(b []byte) error {
	*r = SyncResult{}
	return EachMember(b, func(key string, value []byte) error {
		switch key {
		case "addClient":
			return parseList(value, &r.AddClient)
		case "updateClient":
			return parseList(value, &r.UpdateClient)
		case "deleteClient":
			return parseList(value, &r.DeleteClient)
		case "addDatabase":
			return parseRaws(value, &r.AddDatabase)
		case "updateDatabase":
			return parseRaws(value, &r.UpdateDatabase)
		}
		return nil
	})
}

func parseList[T any, P interface {
	*T
	UnmarshalJSON([]byte) error
}](raw []byte, out *[]T) error {
	return EachElement(raw, func(_ int, v []byte) error {
		*out = append(*out, *new(T))
		return P(&(*out)[len(*out)-1]).UnmarshalJSON(v)
	})
}

func parseRaws(raw []byte, out *[]json.RawMessage) (err error) {
	*out, err = Elements(raw)
	return err
}
