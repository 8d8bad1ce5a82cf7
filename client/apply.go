package client

import (
	"bytes"

	"github.com/tidemark-sync/tidemark"
)

// take applies to a record what the server says about its row, unless the record
// knows better already: the newer stamp wins, and of equals the server's word.
// wanted says that a live row belongs on this device though nothing is held of
// it yet. It reports whether the record has changed.
func take(r *tidemark.Record, t tidemark.RowMeta, wanted bool) bool {
	if r.Meta.UID != "" && r.Meta.T() > t.Meta.T() && (r.Meta.CreatedAt != untold || len(t.Row) == 0) {
		return false
	}
	held := r.Base != nil || r.Pending > 0
	switch {
	case t.Meta.Deleted():
		if !held && r.Meta.UID == "" {
			return false
		}
		r.Base = nil // the metadata stays, and keeps older messages from bringing the row back
	case len(t.Row) == 0:
		if r.Base == nil {
			return false
		}
	case !held && !wanted:
		return false
	default:
		r.Base = t.Row
	}
	r.Meta = t.Meta
	return true
}

// told is take, of what any message of the server says: the record remembers in which
// pass it was told of, so that the end of the pass does not drop it. Of what the record
// knows better it remembers nothing: the pass has yet to tell whether the server does too.
func (w *work) told(r *tidemark.Record, t tidemark.RowMeta, wanted bool) bool {
	changed := take(r, t, wanted)
	if changed {
		w.seen(r)
	}
	return changed
}

// seen notes that the server has told of the row, and reports whether that is news.
func (w *work) seen(r *tidemark.Record) bool {
	pass := w.c.pass.Load()
	news := r.Seen < pass
	r.Seen = max(r.Seen, pass)
	return news
}

// clean makes what the server sent as a row the way it is kept: fields of the
// schema canonical, members that the schema lacks as they are, those beginning
// with __ left out. A value that is not of its field's kind is CodeInvalidData.
func clean(s *tidemark.Schema, t *tidemark.RowMeta) error { return new(cleaner).clean(s, t) }

// cleaner cleans many rows. Nearly all are clean already: they are written anew
// into memory that is used again, and stay as they came when that is the same.
type cleaner struct{ buf tidemark.Row }

func (c *cleaner) clean(s *tidemark.Schema, t *tidemark.RowMeta) error {
	if err := tidemark.CheckUID(t.Meta.UID); err != nil {
		return err
	}
	if len(t.Row) == 0 {
		t.Row = nil
		return nil
	}
	if err := tidemark.CheckJSON(t.Row, tidemark.JSONLimits{}); err != nil {
		return err
	}
	row := append(c.buf[:0], '{')
	err := tidemark.EachField(t.Row, func(key, value []byte) error {
		if bytes.HasPrefix(key, []byte("__")) {
			return nil
		}
		if len(row) > 1 {
			row = append(row, ',')
		}
		row = append(tidemark.AppendString(row, string(key)), ':')
		f, ok := s.Field(string(key))
		if !ok || plain(f.Kind, value) {
			row = append(row, value...)
			return nil
		}
		if f.Kind == tidemark.Integer {
			value = unquoted(value)
		}
		v, err := tidemark.ValueOf(f.Kind, value)
		if err != nil {
			return tidemark.Wrap(err, tidemark.CodeInvalidData, "%s: the server sent what cannot be %s here", f.Name, f.Kind).OnField(f.Name)
		}
		row = v.AppendJSON(row)
		return nil
	})
	c.buf = append(row, '}')
	if err == nil && !bytes.Equal(c.buf, t.Row) {
		t.Row = bytes.Clone(c.buf)
	}
	return err
}

// unquoted returns the digits of an integer that a server sends as text, because
// JavaScript would round it.
func unquoted(value []byte) []byte {
	if n := len(value); n > 2 && value[0] == '"' && value[n-1] == '"' && (value[1] == '-' || value[1] >= '0' && value[1] <= '9') {
		return value[1 : n-1]
	}
	return value
}

// plain reports, cheaply and possibly in vain, that value is canonical as it stands.
func plain(k tidemark.Kind, value []byte) bool {
	switch k {
	case tidemark.Text, tidemark.Enum:
		return len(value) >= 2 && value[0] == '"' && bytes.IndexByte(value, '\\') < 0
	case tidemark.Bool:
		return string(value) == "true" || string(value) == "false"
	case tidemark.Integer:
		if len(value) > 18 || value[0] == '0' && len(value) > 1 {
			return false
		}
		for _, c := range value {
			if c < '0' || c > '9' {
				return false
			}
		}
		return true
	}
	return false
}
