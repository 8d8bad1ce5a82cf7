package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// RejectionKind says why a write did not become the server's state.
type RejectionKind uint8

const (
	// Rejected: the server refused the write, with a code and a message.
	Rejected RejectionKind = iota + 1
	// Superseded: a newer write of somebody else's won.
	Superseded
)

// String returns the kind's name in lower case.
func (k RejectionKind) String() string {
	if k == Superseded {
		return "superseded"
	}
	return "rejected"
}

// Rejection is a write of this client's that did not become the server's state.
// It is kept in the store until [Client.Retry] or [Client.Discard].
type Rejection struct {
	// ID names the rejection. IDs sort as text in the order of the writes.
	ID   string
	Kind RejectionKind
	// Mutation is the write as it was attempted. Those of a unit have the same Unit.
	Mutation tidemark.Mutation
	// Code, Message and Field are the server's reason; empty for Superseded. CodeUnit says
	// that the reason is another write of the unit.
	Code    tidemark.Code
	Message string
	Field   string
	// Row and Meta are the server's state of the row as far as it is known.
	Row  tidemark.Row
	Meta tidemark.Meta
	// At is when the verdict came, by this device's clock.
	At time.Time
}

func rejectionKey(id string) string { return keyRejections + id }

// reject stores that m was rejected for e, or superseded when e is nil.
func (w *work) reject(m tidemark.Mutation, e *tidemark.Error, row tidemark.Row, meta tidemark.Meta) error {
	r := Rejection{
		ID: fmt.Sprintf("%020d", m.N), Kind: Superseded, Mutation: m,
		Row: row, Meta: meta, At: w.c.opts.Now().UTC(),
	}
	if e != nil {
		r.Kind, r.Code, r.Message, r.Field = Rejected, e.Code, e.Message, e.Field
	}
	raw, err := encodePlain(r)
	if err != nil {
		return err
	}
	w.rejections = append(w.rejections, r)
	return w.tx.Save(rejectionKey(r.ID), raw)
}

// encodePlain is json.Marshal without the escapes for HTML, so that rows stay as they are.
func encodePlain(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// Rejections returns the stored rejections, in the order of the writes.
func (c *Client) Rejections(ctx context.Context) ([]Rejection, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	var out []Rejection
	err := c.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
		out, err = rejections(tx)
		return err
	})
	return out, err
}

func rejections(tx tidemark.StoreTx) ([]Rejection, error) {
	entries, err := tx.Entries(keyRejections)
	if err != nil {
		return nil, err
	}
	out := make([]Rejection, len(entries))
	for i, e := range entries {
		if out[i], err = rejectionOf(e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func rejectionOf(e tidemark.Entry) (r Rejection, err error) {
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return r, fmt.Errorf("%w: rejection %s: %w", tidemark.ErrDamaged, strings.TrimPrefix(e.Key, keyRejections), err)
	}
	return r, nil
}

// Retry makes the write of a rejection again, with a new stamp, behind what is
// already pending, and removes the rejection. Of a unit (see [Client.Tx]) that was
// rejected it makes all writes again, in their order and as one unit: they belonged together. Those
// that were superseded did not reject their unit, and are retried one by one.
// [tidemark.ErrNotFound] when there is none of that id.
func (c *Client) Retry(ctx context.Context, id string) error {
	return c.commit(ctx, func(w *work) error {
		rs, err := w.takeRejections(id)
		if err != nil {
			return err
		}
		for _, r := range rs {
			m := r.Mutation
			if _, err := w.write(local{model: m.Model, uid: m.UID, op: m.Op, data: m.Data}); err != nil {
				return err
			}
		}
		return w.unite()
	})
}

// Discard removes a rejection; of a unit that was rejected, those of all its writes.
// [tidemark.ErrNotFound] when there is none of that id.
func (c *Client) Discard(ctx context.Context, id string) error {
	return c.commit(ctx, func(w *work) error {
		_, err := w.takeRejections(id)
		return err
	})
}

// takeRejections removes a rejection, and those that go with it.
func (w *work) takeRejections(id string) ([]Rejection, error) {
	if id == "" {
		return nil, tidemark.ErrNotFound
	}
	raw, err := w.tx.Load(rejectionKey(id))
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, tidemark.ErrNotFound
	}
	r, err := rejectionOf(tidemark.Entry{Key: rejectionKey(id), Value: raw})
	if err != nil {
		return nil, err
	}
	rs := []Rejection{r}
	if r.Mutation.Unit != 0 && r.Kind == Rejected {
		if rs, err = w.rejectedUnit(r.Mutation.Unit); err != nil {
			return nil, err
		}
	}
	for _, r := range rs {
		if err := w.tx.Save(rejectionKey(r.ID), nil); err != nil {
			return nil, err
		}
	}
	w.dismissed += len(rs)
	return rs, nil
}

// rejectedUnit returns the rejections of a unit's writes, in their order.
func (w *work) rejectedUnit(unit int64) ([]Rejection, error) {
	all, err := rejections(w.tx)
	return slices.DeleteFunc(all, func(r Rejection) bool { return r.Mutation.Unit != unit || r.Kind != Rejected }), err
}
