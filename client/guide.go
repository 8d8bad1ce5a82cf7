package client

import (
	"bytes"
	"encoding/json"

	"github.com/tidemark-sync/tidemark"
)

// protocol is how a session talks about rows. Store, outbox and scopes do not
// depend on it.
type protocol interface {
	// push returns the request that makes the write m.
	push(m tidemark.Mutation) request
	// verdict reads the answer to it: the row's state after the decision.
	verdict(s *tidemark.Schema, m tidemark.Mutation, result json.RawMessage) (tidemark.RowMeta, error)
	// sync returns the requests that synchronise the rows that p selects, of
	// which the client holds those of the metadata, sorted by uid.
	sync(p *tidemark.Predicate, held []tidemark.Meta, maxMessage int) []request
	// synced reads the answer to one of them.
	synced(s *tidemark.Schema, result json.RawMessage) (tidemark.SyncResult, error)
	// event reads a service event about rows of the model; ok is false for an
	// event that says nothing about a row.
	event(s *tidemark.Schema, action string, result json.RawMessage) (t tidemark.RowMeta, ok bool, err error)
}

// guide is the protocol of the ExpressX guide: sync.go with the whole dictionary
// of metadata, and one request a write.
type guide struct{}

func (guide) push(m tidemark.Mutation) request {
	r := request{service: m.Model}
	uid := json.RawMessage(tidemark.AppendString(nil, m.UID))
	stamp := json.RawMessage(m.Stamp.AppendJSON(nil))
	data := json.RawMessage(m.Data)
	if len(data) == 0 {
		data = json.RawMessage("{}")
	}
	switch m.Op {
	case tidemark.Create:
		r.method, r.args = tidemark.MethodCreate, []json.RawMessage{uid, data, stamp}
	case tidemark.Delete:
		r.method, r.args = tidemark.MethodDelete, []json.RawMessage{uid, stamp}
	default:
		r.method, r.args = tidemark.MethodUpdate, []json.RawMessage{uid, data, stamp}
	}
	return r
}

func (guide) verdict(s *tidemark.Schema, m tidemark.Mutation, result json.RawMessage) (tidemark.RowMeta, error) {
	var t tidemark.RowMeta
	if err := t.UnmarshalJSON(result); err != nil {
		return t, err
	}
	if t.Meta.UID != m.UID || t.Meta.T() == 0 {
		return t, tidemark.NewError(tidemark.CodeInvalidData, "the answer has no date, or is about another row")
	}
	return t, clean(s, &t)
}

func (guide) event(s *tidemark.Schema, action string, result json.RawMessage) (t tidemark.RowMeta, ok bool, err error) {
	switch action {
	case tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete:
	default:
		return t, false, nil
	}
	if err := t.UnmarshalJSON(result); err != nil {
		return t, false, err
	}
	if t.Meta.UID == "" {
		return t, false, tidemark.NewError(tidemark.CodeInvalidData, "an event without metadata")
	}
	return t, true, clean(s, &t)
}

func (guide) synced(s *tidemark.Schema, result json.RawMessage) (tidemark.SyncResult, error) {
	var r tidemark.SyncResult
	if err := r.UnmarshalJSON(result); err != nil {
		return r, err
	}
	var c cleaner
	for _, list := range [][]tidemark.RowMeta{r.AddClient, r.UpdateClient} {
		for i := range list {
			if err := c.clean(s, &list[i]); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

func (guide) sync(p *tidemark.Predicate, held []tidemark.Meta, maxMessage int) []request {
	budget := max(maxMessage-len(p.Key())-1024, 1024) // the envelope, and bounds of uids
	var out []request
	var from string // the uid that the piece begins with, "" for the first
	dict := []byte{'{'}
	var entry []byte
	for i, m := range held {
		entry = appendEntry(entry[:0], m)
		if i > 0 && len(dict)+len(entry) > budget {
			out = append(out, syncRequest(p, from, m.UID, dict))
			from, dict = m.UID, []byte{'{'}
		}
		if len(dict) > 1 {
			dict = append(dict, ',')
		}
		dict = append(dict, entry...)
	}
	return append(out, syncRequest(p, from, "", dict))
}

func appendEntry(b []byte, m tidemark.Meta) []byte {
	if m.T() == 0 { // a row whose date the server did not tell: older than anything
		m.CreatedAt = 1
	}
	b = append(tidemark.AppendString(b, m.UID), ':')
	return m.AppendJSON(b)
}

func syncRequest(p *tidemark.Predicate, from, to string, dict []byte) request {
	return request{service: tidemark.ServiceSync, method: tidemark.MethodSyncGo, args: []json.RawMessage{
		tidemark.AppendString(nil, p.Schema().Name()), uidRange(p, from, to), append(dict, '}'),
	}}
}

// uidRange returns the clause of p, narrowed to the uids from one bound up to but
// not including the other; "" means no bound.
func uidRange(p *tidemark.Predicate, from, to string) json.RawMessage {
	if from == "" && to == "" {
		return json.RawMessage(p.Key())
	}
	bounds := tidemark.Row("{}")
	for _, t := range p.Terms() {
		switch {
		case t.Field.Name != "uid":
		case t.Op == tidemark.Between:
			bounds = tidemark.Row(tidemark.Row(p.Key()).Get("uid"))
		case t.Op == tidemark.OneOf:
			return json.RawMessage(tidemark.Row(p.Key()).With("uid", listed(t.Values, from, to)))
		} // uid equal to a value: never more than one row, never split
	}
	// The rows held are within the clause's own bounds, so these are the tighter.
	if from != "" {
		bounds = bounds.Without("gt").With("gte", tidemark.AppendString(nil, from))
	}
	if to != "" {
		bounds = bounds.Without("lte").With("lt", tidemark.AppendString(nil, to))
	}
	return json.RawMessage(tidemark.Row(p.Key()).With("uid", json.RawMessage(bounds)))
}

// listed returns those of a list of uids that are within the bounds, as a clause.
func listed(uids []tidemark.Value, from, to string) json.RawMessage {
	b := []byte(`{"in":[`)
	for _, uid := range uids {
		if text := uid.Text(); text >= from && (to == "" || text < to) {
			b = append(tidemark.AppendString(b, text), ',')
		}
	}
	return append(bytes.TrimSuffix(b, []byte{','}), `]}`...)
}
