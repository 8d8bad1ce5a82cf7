package tidemark

import (
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
)

// ProtocolVersion is that of the second protocol, in which cost follows what
// changed and not what is held. docs/protocol.md specifies it.
const ProtocolVersion = 1

// OpenRequest is the first thing that a client of the second protocol says on a connection.
type OpenRequest struct {
	Protocol int            `json:"protocol"`         // the highest version that it speaks
	Client   string         `json:"client"`           // its name, under which it pushes
	Scopes   []ScopeRequest `json:"scopes,omitempty"` // as of subscribe
}

// OpenAnswer is the answer to an OpenRequest: what the server has.
type OpenAnswer struct {
	Protocol int                    `json:"protocol"` // the version that is spoken from now on
	Now      Stamp                  `json:"now"`      // the server's time
	Epoch    string                 `json:"epoch"`    // names the history of its database
	Highest  int64                  `json:"highest"`  // the number of the client's last mutation that has a verdict; 0 for an unknown client
	Limits   ServerLimits           `json:"limits"`
	Models   map[string]ServerModel `json:"models"`
	Scopes   []ScopeAnswer          `json:"scopes,omitempty"` // one for each of the request, in its order
}

// ServerLimits are the bounds that a server sets to a session.
type ServerLimits struct {
	Scopes    int   `json:"scopes"`    // how many it may hold
	Mutations int   `json:"mutations"` // how many one push may have
	Bytes     int   `json:"bytes"`     // about how large a page is
	MaxDrift  int64 `json:"maxDrift"`  // microseconds that a stamp may be ahead of Now before it is clamped
}

// ServerModel describes a model of the server's.
type ServerModel struct {
	Hash   string            `json:"hash"`   // changes when the fields do
	Fields map[string]string `json:"fields"` // the name of the kind of each
}

// ServerModelOf describes s to a client.
func ServerModelOf(s *Schema) ServerModel {
	o := ServerModel{Hash: s.Hash(), Fields: make(map[string]string, len(s.fields))}
	for _, f := range s.fields {
		o.Fields[f.Name] = f.Kind.String()
	}
	return o
}

// Hash names the model's fields and their kinds, whatever their order.
func (s *Schema) Hash() string {
	var sum uint64
	for _, f := range s.fields {
		h := fnv.New64a()
		_, _ = h.Write([]byte(f.Name + "\x00" + f.Kind.String()))
		sum += h.Sum64()
	}
	return hex.EncodeToString([]byte{byte(sum >> 56), byte(sum >> 48), byte(sum >> 40), byte(sum >> 32), byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// Tag names what p selects and the fields of its model: a cursor is good only for the tag
// under which it was made.
func (p *Predicate) Tag() string {
	h := fnv.New128a()
	_, _ = h.Write([]byte(p.schema.name + "\x00" + p.schema.Hash() + "\x00" + p.key))
	return hex.EncodeToString(h.Sum(nil))
}

// ScopeRequest asks for a scope, live from now on, and for the first page of what the
// client lacks of it.
type ScopeRequest struct {
	Model  string          `json:"model"`            // the name of the model
	Where  json.RawMessage `json:"where"`            // the clause that selects the scope's rows
	Cursor string          `json:"cursor,omitempty"` // where the client's copy stands; "" when it has none
	Tag    string          `json:"tag,omitempty"`    // under which the cursor was made
	After  string          `json:"after,omitempty"`  // where a pass goes on, as of PullRequest
}

// ScopeAnswer is the answer to a ScopeRequest.
type ScopeAnswer struct {
	Scope int64  // by which events and pulls name it; 0 when it was refused
	Tag   string // to go with the cursors of its pages
	Page  *ScopePage
	// Err is why there is no page. With Scope set the scope is live none the less, and waits to be pulled without a cursor.
	Err *Error
}

// PullRequest asks for the next page of a scope. A pass is a series of pages with the
// same Cursor, each with the After of the page before. When it is over, what the first page
// said as its cursor is the copy's.
type PullRequest struct {
	Scope  int64  `json:"scope"`            // the number that the server gave it
	Cursor string `json:"cursor,omitempty"` // changes since it are asked for; "" for all rows
	After  string `json:"after,omitempty"`  // where the former page ended; "" for the first one
	// Deflate asks for the page as a [DeflatedPage]. A server may send it plain none the less.
	Deflate bool `json:"deflate,omitempty"`
}

// MarshalJSON gives the object, without what is absent.
func (a ScopeAnswer) MarshalJSON() ([]byte, error) {
	size := 200
	if a.Page != nil {
		size += a.Page.size()
	}
	b := appendInt(append(make([]byte, 0, size), `{"scope":`...), a.Scope)
	if a.Tag != "" {
		b = AppendString(append(b, `,"tag":`...), a.Tag)
	}
	if a.Page != nil {
		b = a.Page.AppendJSON(append(b, `,"page":`...))
	}
	if a.Err != nil {
		b = a.Err.appendJSON(append(b, `,"error":`...))
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads the object.
func (a *ScopeAnswer) UnmarshalJSON(raw []byte) error {
	*a = ScopeAnswer{}
	return EachMember(raw, func(key string, value []byte) (err error) {
		switch key {
		case "scope":
			a.Scope, err = parseInteger(value)
		case "tag":
			a.Tag, err = DecodeString(value)
		case "page":
			a.Page = &ScopePage{}
			err = a.Page.UnmarshalJSON(value)
		case "error":
			a.Err = parseWireError(value)
		}
		return err
	})
}
