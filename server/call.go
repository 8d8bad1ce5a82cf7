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
	// ResultAttachments are the binary values that placeholders in the result stand for; see
	// Attach. They go with the answer to a session, and with the event when the call is published.
	ResultAttachments [][]byte
	// Result is what the method returned; after-hooks may assign it. The methods of
	// models return: findUnique a tidemark.Row, findMany a []tidemark.Row, the writes a
	// *tidemark.RowMeta. sync.go returns a *tidemark.SyncResult.
	Result any
	// Event is what is published: what the method returned, which after-hooks may assign
	// as well. For a write of a model it is the same *tidemark.RowMeta as Result.
	Event  any
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

// Bytes returns argument i, which must be binary: an ArrayBuffer or a Buffer in
// JavaScript. null, and an argument that was not given, is nil. Anything else is CodeInvalidRequest.
// The bytes must not be changed.
func (c *Call) Bytes(i int) ([]byte, error) {
	raw := c.arg(i)
	if string(raw) == "null" {
		return nil, nil
	}
	num, ok := tidemark.ParsePlaceholder(raw)
	if !ok || num < 0 || num >= len(c.Attachments) {
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "argument %d is not binary", i)
	}
	return c.Attachments[num], nil
}

// Attach adds b to ResultAttachments and returns what stands for it in the result, where a
// session receives it as binary. b must not be changed afterwards.
func (c *Call) Attach(b []byte) json.RawMessage {
	c.ResultAttachments = append(c.ResultAttachments, b)
	return tidemark.Placeholder(len(c.ResultAttachments) - 1)
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
