package client

import (
	"encoding/json"
	"strconv"

	"github.com/tidemark-sync/tidemark"
)

// savedScope is what the store remembers of a scope.
type savedScope struct {
	Model string          `json:"model"`
	Where json.RawMessage `json:"where"`
	At    tidemark.Stamp  `json:"at"` // when it was last asked for
	// Released says that nobody keeps it in step any more. It is remembered for its progress.
	Released bool `json:"released,omitempty"`
	progress
}

// progress is where the device's copy of a scope stands in the server's changes. It is
// stored in one transaction with the rows that it speaks of.
type progress struct {
	// Cursor is the server's: the copy has all changes below it. "" for none.
	Cursor string `json:"cursor,omitempty"`
	// Tag is what Cursor and Pass were made under.
	Tag string `json:"tag,omitempty"`
	// Marks is the number of the last entry of marks that Cursor has passed; see mark.
	Marks int64 `json:"marks,omitempty"`
	// Pass is under way; nil for none.
	Pass *pass `json:"pass,omitempty"`
}

// pass is a series of pages: what has changed since a cursor, or all rows.
type pass struct {
	// From is the cursor since which changes are told; "" in a pass from the beginning.
	From string `json:"from,omitempty"`
	// Number orders passes from the beginning; rows that the server told of since one began
	// have its number or a greater one. 0 in others.
	Number int64 `json:"number,omitempty"`
	// Upto is the copy's cursor when the pass is over: that of its first page, "" before it came.
	Upto string `json:"upto,omitempty"`
	// After is where the next page begins.
	After string `json:"after,omitempty"`
	// Marks is the number of the last entry of marks when it was asked for.
	Marks int64 `json:"marks,omitempty"`
	// Told counts rows that have come, of Total; for the status.
	Told  int `json:"told,omitempty"`
	Total int `json:"total,omitempty"`
}

// fresh says that the pass tells all rows, so that what it does not tell goes at its end.
func (p *pass) fresh() bool { return p.From == "" }

// begun says that its first page is stored.
func (p *pass) begun() bool { return p.Upto != "" }

// continues reports whether a page asked for by p belongs to what is stored: nobody
// has forgotten the copy meanwhile.
func (s *savedScope) continues(p *pass) bool {
	if s.Pass == nil { // a pass from a cursor is stored with its first page
		return !p.begun() && !p.fresh() && s.Cursor != ""
	}
	return *s.Pass == *p
}

// next returns the pass to go on with: the one that was under way, or one from the
// cursor. It reports false when there must be one from the beginning.
func (s *savedScope) next() (*pass, bool) {
	switch {
	case s.Pass != nil:
		p := *s.Pass
		return &p, true
	case s.Cursor != "":
		return &pass{From: s.Cursor}, true
	}
	return nil, false
}

// loadScope reads what is remembered of a scope; a damaged entry counts as none.
func loadScope(tx tidemark.StoreTx, id scopeID) (*savedScope, error) {
	fresh := &savedScope{Model: id.model, Where: json.RawMessage(id.key)}
	raw, err := tx.Load(id.entry())
	if err != nil || raw == nil {
		return fresh, err
	}
	saved := &savedScope{}
	if json.Unmarshal(raw, saved) != nil || saved.Model != id.model || string(saved.Where) != id.key {
		return fresh, nil
	}
	return saved, nil
}

func (s *savedScope) save(tx tidemark.StoreTx, key string) error {
	raw, err := encodePlain(s)
	if err != nil {
		return err
	}
	return tx.Save(key, raw)
}

// nextPass gives the number of a pass from the beginning that starts now. The caller
// makes it known to Client.pass when the transaction is durable.
func (w *work) nextPass() (int64, error) {
	n, err := loadNumber(w.tx, keyPass)
	if err != nil {
		return 0, err
	}
	n = max(n, w.c.pass.Load()) + 1
	return n, w.tx.Save(keyPass, strconv.AppendInt(nil, n, 10))
}

// lose notes that the server no longer has all that it had told. What it tells from now on of a row that
// is known in a newer version, told before, is what it has: see word. A pass from the beginning finds that
// out for the rows of its scope; for those that no scope selects, where a write of this device took them, only
// this does.
func (w *work) lose() (err error) {
	if w.loss, err = w.nextPass(); err != nil {
		return err
	}
	return w.tx.Save(keyLoss, strconv.AppendInt(nil, w.loss, 10))
}

// forget drops the progress of a model's scopes that concern selects, so that they are
// told from the beginning. Those that are released are not remembered any longer.
func (w *work) forget(schema *tidemark.Schema, concern func(id scopeID, p *tidemark.Predicate) bool) error {
	entries, err := w.tx.Entries(keyScopes + schema.Name() + "/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var saved savedScope
		if json.Unmarshal(e.Value, &saved) != nil || saved.Model != schema.Name() {
			continue
		}
		p, err := tidemark.ParseWhere(schema, saved.Where)
		if err == nil && !concern(scopeID{saved.Model, p.Key()}, p) {
			continue
		}
		if err := w.restart(e.Key, &saved); err != nil {
			return err
		}
	}
	return nil
}

// restart drops the progress of a scope.
func (w *work) restart(key string, saved *savedScope) error {
	if saved.progress = (progress{}); saved.Released {
		return w.tx.Save(key, nil)
	}
	return saved.save(w.tx, key)
}

// forgetAll drops the progress of all scopes, also of models that are not declared.
func (w *work) forgetAll() error {
	entries, err := w.tx.Entries(keyScopes)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var saved savedScope
		if json.Unmarshal(e.Value, &saved) != nil {
			continue
		}
		if err := w.restart(e.Key, &saved); err != nil {
			return err
		}
	}
	return nil
}
