package server

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tidemark-sync/tidemark"
)

// Caller says where a call came from.
type Caller string

const (
	CallerClient Caller = "client" // a session called
	CallerServer Caller = "server" // the server's own code called
)

// Call is one call of a method, as its hooks and the method see it. It is used by
// one goroutine at a time.
type Call struct {
	// Service and Method are what is called.
	Service string
	Method  string
	// Args are the arguments, as JSON. Before-hooks may assign them.
	Args []json.RawMessage
	// Attachments are the binary arguments that placeholders in Args stand for.
	Attachments [][]byte
	// Result is what the method returned; after-hooks may assign it. The methods of
	// models return: findUnique a tidemark.Row, findMany a []tidemark.Row, the writes a
	// *tidemark.RowMeta. sync.go returns a *tidemark.SyncResult.
	Result any
	Caller Caller
	// Session is the session that called; nil for the server's own code.
	Session *Session
	Server  *Server
}

// Arg decodes argument i into the value that into points to. An argument that
// was not given counts as null. What does not fit is CodeInvalidRequest.
func (c *Call) Arg(i int, into any) error {
	err := json.Unmarshal(c.arg(i), into)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*tidemark.Error](err); ok {
		return e
	}
	return tidemark.Wrap(err, tidemark.CodeInvalidRequest, "argument %d has not the type that the method takes", i)
}

// arg returns the text of argument i, null when it was not given.
func (c *Call) arg(i int) json.RawMessage {
	if i >= len(c.Args) || len(c.Args[i]) == 0 {
		return json.RawMessage("null")
	}
	return c.Args[i]
}

type originKey struct{}

func withOrigin(ctx context.Context, o *origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// originOf returns the call from outside for which ctx was made, nil when there is none.
func originOf(ctx context.Context) *origin {
	o, _ := ctx.Value(originKey{}).(*origin)
	return o
}
