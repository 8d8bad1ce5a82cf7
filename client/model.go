package client

import (
	"context"
	"iter"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
)

// ModelOptions of [NewModel]. The zero value, and nil, are usable; there are none yet.
type ModelOptions struct{}

// Model is a typed view of the rows of one model. Its methods may be called
// concurrently, and take no network time. Where a clause is wrong they return
// CodeUnknownField or CodeInvalidWhere; after Client.Close, [tidemark.ErrClosed].
type Model[T any] struct {
	c      *Client
	codec  *codec
	schema *tidemark.Schema
}

// Patch has the new values of some columns, by name; nil is null. A value is of
// the type of T's field, or of one that becomes the same JSON.
type Patch map[string]any

// NewModel declares the model name, whose rows have the columns of T, a struct.
//
// A field's json tag names its column, else the field's name does; "-" leaves it
// out, and omitempty or omitzero leaves an empty value to the database's default when a row is created.
// There must be a column uid of type string. Strings are text, integers and
// floats numbers, time.Time a timestamp, []byte bytes; slices, maps, structs and
// json.RawMessage are JSON. A pointer may be null; in other fields null is the
// zero value. The tag tidemark has options, separated by commas: index, for a
// column that clauses name; readonly, for one that only the database writes; and
// for strings numeric, uuid, date, time or enum, where the column is of that type.
//
// The columns must be of the kinds that the server's have: a value of another kind
// keeps a scope from being synchronised, see Status.LastError. What is written
// to a column that the server's model lacks is lost there without a rejection, and then on the device,
// unless server.Options.RefuseUnknownFields is set.
//
// Writes of the model from an earlier run wait in the outbox, and all those
// behind them, until the model is declared.
func NewModel[T any](ctx context.Context, c *Client, name string, opts *ModelOptions) (*Model[T], error) {
	codec, err := compile[T](name)
	if err != nil {
		return nil, err
	}
	schema, err := tidemark.NewSchema(name, codec.columns())
	if err != nil {
		return nil, err
	}
	codec.schema = schema
	if err := c.declare(ctx, schema); err != nil {
		return nil, err
	}
	return &Model[T]{c: c, codec: codec, schema: schema}, nil
}

// Schema returns the model's schema.
func (m *Model[T]) Schema() *tidemark.Schema { return m.schema }

// Create stores a new row and returns it as it is stored. An empty uid is
// replaced by a new UUID of version 7. It returns when the write is durable on
// the device.
//
// Errors: CodeInvalidData; CodeUIDTaken when there is a row of that uid.
func (m *Model[T]) Create(ctx context.Context, row T) (T, error) {
	return m.write(ctx, func() (local, error) { return m.creation(&row) })
}

// Update changes columns of a row and returns the row as it then is.
//
// Errors: [tidemark.ErrNotFound] when there is no such row on the device;
// CodeUnknownField; CodeInvalidData.
func (m *Model[T]) Update(ctx context.Context, uid string, patch Patch) (T, error) {
	return m.write(ctx, func() (local, error) { return m.change(uid, patch) })
}

// Remove deletes a row. [tidemark.ErrNotFound] when there is none on the device.
func (m *Model[T]) Remove(ctx context.Context, uid string) error {
	return m.c.commit(ctx, func(w *work) error {
		_, err := w.write(m.removal(uid))
		return err
	})
}

func (m *Model[T]) creation(row *T) (local, error) {
	l := local{model: m.schema.Name(), uid: m.codec.uidOf(row), op: tidemark.Create, may: free}
	if l.uid == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return l, err
		}
		l.uid = id.String()
	}
	err := tidemark.CheckUID(l.uid)
	if err == nil {
		l.data, err = m.codec.encode(l.uid, row)
	}
	return l, err
}

func (m *Model[T]) change(uid string, patch Patch) (local, error) {
	data, err := m.codec.patch(uid, patch)
	return local{model: m.schema.Name(), uid: uid, op: tidemark.Update, data: data, may: there}, err
}

func (m *Model[T]) removal(uid string) local {
	return local{model: m.schema.Name(), uid: uid, op: tidemark.Delete, may: there}
}

func free(visible tidemark.Row) error {
	if visible != nil {
		return tidemark.NewError(tidemark.CodeUIDTaken, "there is a row of that uid").OnField("uid")
	}
	return nil
}

func there(visible tidemark.Row) error {
	if visible == nil {
		return tidemark.ErrNotFound
	}
	return nil
}

// write commits the local write that prepare returns, and returns the row that is
// then visible.
func (m *Model[T]) write(ctx context.Context, prepare func() (local, error)) (T, error) {
	var out T
	l, err := prepare()
	if err != nil {
		return out, err
	}
	err = m.c.commit(ctx, func(w *work) error {
		after, err := w.write(l)
		if err == nil {
			err = m.codec.decode(after, &out) // here, since nothing is written where there is an error
		}
		return err
	})
	return out, err
}

// FindByUID returns the row. [tidemark.ErrNotFound] when there is none on the device.
func (m *Model[T]) FindByUID(ctx context.Context, uid string) (T, error) {
	var out T
	if err := m.c.closed(); err != nil {
		return out, err
	}
	row, err := m.c.store.Get(ctx, m.schema.Name(), uid)
	if err != nil {
		return out, err
	}
	if row == nil {
		return out, tidemark.ErrNotFound
	}
	return out, m.codec.decode(row, &out)
}

// FindWhere returns the rows that where selects among those on the device,
// sorted by uid. nil selects all.
func (m *Model[T]) FindWhere(ctx context.Context, where tidemark.Where) ([]T, error) {
	p, err := where.Compile(m.schema)
	if err != nil {
		return nil, err
	}
	rows, err := m.c.find(ctx, p)
	if err != nil {
		return nil, err
	}
	return decodeAll[T](m.codec, rows)
}

// Watch registers where as a scope and yields the rows that it selects, sorted
// by uid: those on the device at once, then a fresh result after each burst of
// changes, by this program or by others; only the latest counts. Nothing is held
// while the loop's body runs. It ends with ctx or with the loop, and yields
// ErrClosed as the last error when the client is closed. When the loop ends so
// does the scope, unless it is held elsewhere; the rows stay. nil selects all.
func (m *Model[T]) Watch(ctx context.Context, where tidemark.Where, opts *WatchOptions) iter.Seq2[[]T, error] {
	var o WatchOptions
	if opts != nil {
		o = *opts
	}
	return func(yield func([]T, error) bool) {
		p, err := where.Compile(m.schema)
		if err != nil {
			yield(nil, err)
			return
		}
		for rows, err := range m.c.watch(ctx, p, o) {
			var list []T
			if err == nil {
				list, err = decodeAll[T](m.codec, rows)
			}
			if !yield(list, err) {
				return
			}
		}
	}
}

// Register makes where a scope, kept in step from the next moment with a
// connection until Release, and returns when the store remembers it: a client
// that is opened on the same store synchronises it even before it is registered again.
// nil selects all.
func (m *Model[T]) Register(ctx context.Context, where tidemark.Where) (*Scope, error) {
	p, err := where.Compile(m.schema)
	if err != nil {
		return nil, err
	}
	return m.c.register(ctx, p)
}

// ResetOptions of [Model.Reset]. The zero value, and nil, are usable.
type ResetOptions struct {
	// Discard throws away writes of the model that the server has not confirmed.
	Discard bool
}

// Reset removes all rows of the model from the device, and synchronises its
// scopes afresh; rejections stay. [tidemark.ErrPending], with nothing removed,
// while writes of the model are pending, unless told to discard them.
func (m *Model[T]) Reset(ctx context.Context, opts *ResetOptions) error {
	return m.c.reset(ctx, m.schema, opts != nil && opts.Discard)
}

// Evict removes from the device the rows that where selects, but for those that
// a scope selects and those with pending writes, and returns how many it removed.
// It deletes nothing on the server: a later Watch or Register that selects them brings them back.
// nil selects all.
func (m *Model[T]) Evict(ctx context.Context, where tidemark.Where) (int, error) {
	p, err := where.Compile(m.schema)
	if err != nil {
		return 0, err
	}
	return m.c.evict(ctx, p)
}
