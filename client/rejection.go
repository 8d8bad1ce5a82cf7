package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	// Mutation is the write as it was attempted.
	Mutation tidemark.Mutation
	// Code, Message and Field are the server's reason; empty for Superseded.
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
	err := c.store.View(ctx, func(tx tidemark.StoreTx) error {
		entries, err := tx.Entries(keyRejections)
		if err != nil {
			return err
		}
		out = make([]Rejection, len(entries))
		for i, e := range entries {
			if err := json.Unmarshal(e.Value, &out[i]); err != nil {
				return fmt.Errorf("%w: rejection %s: %w", tidemark.ErrDamaged, strings.TrimPrefix(e.Key, keyRejections), err)
			}
		}
		return nil
	})
	return out, err
}

// Retry makes the write of a rejection again, with a new stamp, behind what is
// already pending, and removes the rejection. [tidemark.ErrNotFound] when there
// is none of that id.
func (c *Client) Retry(ctx context.Context, id string) error {
	return c.commit(ctx, func(w *work) error {
		r, err := w.takeRejection(id)
		if err != nil {
			return err
		}
		m := r.Mutation
		return w.write(m.Model, m.UID, func(_ tidemark.Row, now tidemark.Stamp) (tidemark.Mutation, error) {
			return tidemark.Mutation{Model: m.Model, UID: m.UID, Op: m.Op, Data: m.Data, Stamp: now}, nil
		})
	})
}

// Discard removes a rejection. [tidemark.ErrNotFound] when there is none of that id.
func (c *Client) Discard(ctx context.Context, id string) error {
	return c.commit(ctx, func(w *work) error {
		_, err := w.takeRejection(id)
		return err
	})
}

func (w *work) takeRejection(id string) (Rejection, error) {
	var r Rejection
	if id == "" {
		return r, tidemark.ErrNotFound
	}
	raw, err := w.tx.Load(rejectionKey(id))
	if err != nil {
		return r, err
	}
	if raw == nil {
		return r, tidemark.ErrNotFound
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%w: rejection %s: %w", tidemark.ErrDamaged, id, err)
	}
	w.dismissed++
	return r, w.tx.Save(rejectionKey(id), nil)
}
