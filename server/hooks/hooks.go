// Package hooks makes the hooks that many servers need. They are attached to
// services of models and to others, and work on what those return: rows, lists of rows,
// rows with metadata, and anything else that is an object in JSON, or an array of them.
//
//	user := srv.Service("user")
//	user.Before(hooks.HashPassword("password", nil), tidemark.MethodCreate, tidemark.MethodUpdate)
//	user.After(hooks.Protect("password"))
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"golang.org/x/crypto/bcrypt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// AddTimestamp returns an after-hook that sets the member field of the result, or
// of each of its elements, to the server's time, in the answer and in what is
// published. It writes nothing to the database.
func AddTimestamp(field string) server.Hook {
	return func(_ context.Context, c *server.Call) error {
		now := c.Server.Now().AppendJSON(nil)
		change(c, func(row tidemark.Row) tidemark.Row { return row.With(field, now) })
		return nil
	}
}

// Protect returns an after-hook by which fields never leave the server: they are
// taken out of the result, or of each of its elements, in the answer and in what is
// published, whoever calls. sync.go, and scopes with their live changes, heed it as well when it is
// attached to all methods of the model's service, or to findMany. A client whose where names such a field is
// refused with CodeUnknownField: it could guess the value from what it selects.
//
// Attach it without naming methods. Server code that needs the values reads them from the database.
func Protect(fields ...string) server.Hook {
	fields = slices.Clone(fields)
	return func(_ context.Context, c *server.Call) error {
		if err := checkWhere(c, fields); err != nil {
			return err
		}
		change(c, func(row tidemark.Row) tidemark.Row {
			for _, f := range fields {
				if row.Get(f) != nil {
					row = row.Without(f)
				}
			}
			return row
		})
		return nil
	}
}

func checkWhere(c *server.Call, fields []string) error {
	finds := c.Method == tidemark.MethodFindMany || c.Method == tidemark.MethodFindUnique
	if c.Caller != server.CallerClient || !finds || len(c.Args) == 0 {
		return nil
	}
	for _, f := range fields {
		if names(tidemark.Row(c.Args[0]), f) {
			return tidemark.NewError(tidemark.CodeUnknownField, "model %s has no field %q", c.Service, f).OnField(f)
		}
	}
	return nil
}

// names reports whether a where, or one of its alternatives, has a member of the field.
func names(where tidemark.Row, field string) bool {
	found := where.Get(field) != nil
	_ = tidemark.EachElement(where.Get("$or"), func(_ int, alternative []byte) error {
		found = found || tidemark.Row(alternative).Get(field) != nil
		return nil
	})
	return found
}

// PasswordOptions are the settings of [HashPassword].
type PasswordOptions struct {
	// Cost is bcrypt's: each step doubles the time, about 60 ms at 10. From 4 to 31.
	// Defaults to 10.
	Cost int
}

// HashPassword returns a before-hook that replaces the text in the member field, of the
// first argument that is an object and has it, by its bcrypt hash. null stays, for no
// password. A value that is no text, or of more than bcrypt's 72 bytes, is refused with
// CodeInvalidData. Use it with [Protect]: a client that is told the hash may send it
// back with the rest of the row, and it would be hashed again. opts may be nil; it panics for a cost out of range.
func HashPassword(field string, opts *PasswordOptions) server.Hook {
	cost := bcrypt.DefaultCost
	if opts != nil && opts.Cost != 0 {
		cost = opts.Cost
	}
	if cost < bcrypt.MinCost || cost > bcrypt.MaxCost {
		panic("hooks: bcrypt's cost is from 4 to 31")
	}
	return func(_ context.Context, c *server.Call) error {
		for i, arg := range c.Args {
			value := tidemark.Row(arg).Get(field)
			if value == nil || string(value) == "null" {
				continue
			}
			hash, err := hashed(value, cost)
			if err != nil {
				return tidemark.NewError(tidemark.CodeInvalidData, "a password is a text of at most 72 bytes").OnField(field)
			}
			c.Args[i] = json.RawMessage(tidemark.Row(arg).With(field, hash))
			return nil
		}
		return nil
	}
}

func hashed(value []byte, cost int) (json.RawMessage, error) {
	password, err := tidemark.DecodeString(value)
	if err != nil {
		return nil, err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return nil, err
	}
	return tidemark.AppendString(nil, string(hash)), nil
}

// change has fn change the objects in the answer and in what is published.
func change(c *server.Call, fn func(tidemark.Row) tidemark.Row) {
	c.Result = changed(c.Result, fn)
	c.Event = changed(c.Event, fn)
}

// changed returns v with fn applied to the object that it is, or to its elements. The
// type stays where it is one of a model's results, or nothing changes; otherwise it is JSON.
func changed(v any, fn func(tidemark.Row) tidemark.Row) any {
	switch v := v.(type) {
	case nil:
		return nil
	case *tidemark.RowMeta: // in place: the same is answered, published and told by sync.go
		if v != nil && v.Row != nil {
			v.Row = fn(v.Row)
		}
		return v
	case tidemark.Row:
		if v == nil {
			return v
		}
		return fn(v)
	case []tidemark.Row:
		rows := make([]tidemark.Row, len(v))
		for i, row := range v {
			if rows[i] = row; row != nil {
				rows[i] = fn(row)
			}
		}
		return rows
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return v // the server says so
	}
	if out := changedJSON(raw, fn); !bytes.Equal(out, raw) {
		return out
	}
	return v
}

func changedJSON(raw json.RawMessage, fn func(tidemark.Row) tidemark.Row) json.RawMessage {
	switch raw[0] {
	case '{':
		return json.RawMessage(fn(tidemark.Row(raw)))
	case '[':
		out := json.RawMessage{'['}
		_ = tidemark.EachElement(raw, func(i int, element []byte) error {
			if i > 0 {
				out = append(out, ',')
			}
			if element[0] == '{' {
				element = fn(tidemark.Row(element))
			}
			out = append(out, element...)
			return nil
		})
		return append(out, ']')
	}
	return raw
}
