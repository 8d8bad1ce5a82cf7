package client

import (
	"context"

	"github.com/tidemark-sync/tidemark"
)

// MaxUnit is how many writes one [Client.Tx] may make: 500.
const MaxUnit = pushMost

// Tx is several writes that belong together: see [Client.Tx]. It must not be used
// concurrently, nor after the function that it was given to has returned.
type Tx struct {
	w    *work
	over bool
	err  error // nothing can be committed any more: of the store, or of a row that T cannot hold
}

// Tx runs fn, whose writes by [Model.CreateTx], [Model.UpdateTx] and
// [Model.RemoveTx] are one unit: durable on the device together when Tx returns nil, and
// none of them made when fn returns an error, which Tx returns. On the server a unit is applied whole or
// rejected whole; then each of its writes is listed as a [Rejection], those that are not to blame with
// CodeUnit. A write that is only superseded does not reject its unit. To other devices a unit becomes visible at once.
// A server that speaks the guide's protocol only has no units: it gets the writes one by one.
//
// While fn runs, other writes of the device wait: it should not take long, and it
// must not use other methods of the client or its models that write, which would wait for themselves; on a store
// with a single connection those that read do too, but for [Model.FindTx]. A write in fn that
// fails with an error of its own, such as ErrNotFound, has done nothing, and fn may go on.
//
// Errors: those of fn; CodeTooLarge, of the write that is more than [MaxUnit] in one unit.
func (c *Client) Tx(ctx context.Context, fn func(*Tx) error) error {
	return c.commit(ctx, func(w *work) error {
		tx := &Tx{w: w}
		defer func() { tx.over = true }()
		if err := fn(tx); err != nil {
			return err
		}
		if tx.err != nil {
			return tx.err
		}
		return w.unite()
	})
}

// use reports whether the model of c can take part.
func (tx *Tx) use(c *Client) error {
	switch {
	case tx.over:
		return tidemark.ErrClosed
	case tx.w.c != c:
		return tidemark.NewError(tidemark.CodeInvalidRequest, "the model is of another client")
	}
	return tx.err
}

// write makes a write of the unit.
func (tx *Tx) write(c *Client, l local) (tidemark.Row, error) {
	if err := tx.use(c); err != nil {
		return nil, err
	}
	if len(tx.w.local) == MaxUnit {
		return nil, tidemark.NewError(tidemark.CodeTooLarge, "a unit has at most %d writes", MaxUnit)
	}
	may, refused := l.may, false
	l.may = func(visible tidemark.Row) error {
		err := may(visible)
		refused = err != nil
		return err
	}
	row, err := tx.w.write(l)
	if err != nil && !refused {
		tx.err = err
	}
	return row, err
}

// CreateTx is [Model.Create] as a part of tx.
func (m *Model[T]) CreateTx(tx *Tx, row T) (T, error) {
	l, err := m.creation(&row)
	return m.writeTx(tx, l, err)
}

// UpdateTx is [Model.Update] as a part of tx.
func (m *Model[T]) UpdateTx(tx *Tx, uid string, patch Patch) (T, error) {
	l, err := m.change(uid, patch)
	return m.writeTx(tx, l, err)
}

// RemoveTx is [Model.Remove] as a part of tx.
func (m *Model[T]) RemoveTx(tx *Tx, uid string) error {
	_, err := tx.write(m.c, m.removal(uid))
	return err
}

func (m *Model[T]) writeTx(tx *Tx, l local, err error) (out T, _ error) {
	if err != nil {
		return out, err
	}
	row, err := tx.write(m.c, l)
	if err != nil {
		return out, err
	}
	tx.err = m.codec.decode(row, &out) // the write is made, and cannot be undone alone
	return out, tx.err
}

// FindTx is [Model.FindByUID] in tx: it sees what tx has written.
func (m *Model[T]) FindTx(tx *Tx, uid string) (out T, err error) {
	if err := tx.use(m.c); err != nil {
		return out, err
	}
	recs, err := tx.w.tx.Records(m.schema.Name(), []string{uid})
	if err != nil {
		return out, err
	}
	if recs[0].Row == nil {
		return out, tidemark.ErrNotFound
	}
	return out, m.codec.decode(recs[0].Row, &out)
}
