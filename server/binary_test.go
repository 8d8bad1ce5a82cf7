package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/server"
)

// binary makes the methods that take and give binary values.
func binary(t *testing.T, b *bench) {
	svc, err := b.server.Handle("util", server.Methods{
		"echo": func(_ context.Context, c *server.Call) (any, error) {
			c.ResultAttachments = c.Attachments
			return c.Args, nil
		},
		"reverse": func(_ context.Context, c *server.Call) (any, error) {
			from, err := c.Bytes(0)
			if err != nil || from == nil {
				return nil, err
			}
			to := bytes.Clone(from)
			for i, x := range from {
				to[len(to)-1-i] = x
			}
			return map[string]any{"reversed": c.Attach(to), "length": len(to)}, nil
		},
		"many": func(_ context.Context, c *server.Call) (any, error) {
			var row json.RawMessage
			if err := c.Arg(0, &row); err != nil {
				return nil, err
			}
			return []any{c.Attach([]byte{1}), row}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	svc.Publish(server.To("all"))
}

// callBinary sends a call with attachments and returns its answer.
func (c *client) callBinary(action, args string, attachments ...[]byte) *tidemark.Message {
	c.t.Helper()
	m := &tidemark.Message{Event: tidemark.EventRequest, Attachments: attachments,
		Args: []json.RawMessage{json.RawMessage(`{"name":"util","action":"` + action + `","args":` + args + `}`)}}
	c.mu.Lock()
	id := c.next
	c.next++
	c.mu.Unlock()
	if err := c.conn.Send(m.NewCall(id)); err != nil {
		c.t.Fatal(err)
	}
	var answer *tidemark.Message
	c.until("the answer", func() bool {
		for _, g := range c.got {
			if g.Kind == tidemark.AnswerMessage && g.ID == id {
				answer = g
			}
		}
		return answer != nil
	})
	return answer
}

func TestBinaryArgumentsAndResults(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	binary(t, b)
	c, other := b.dial(), b.dial()
	const first, second = `{"_placeholder":true,"num":0}`, `{"_placeholder":true,"num":1}`
	a := c.callBinary("echo", `[`+second+`,{"deep":[`+first+`]}]`, []byte{1, 2}, []byte{})
	equal(t, string(a.Args[0]), `{"result":[`+second+`,{"deep":[`+first+`]}]}`)
	if len(a.Attachments) != 2 || !bytes.Equal(a.Attachments[0], []byte{1, 2}) || len(a.Attachments[1]) != 0 {
		t.Errorf("attachments %v", a.Attachments)
	}
	e := other.event(1)
	equal(t, string(e.Args[0]), `{"name":"util","action":"echo","result":[`+second+`,{"deep":[`+first+`]}]}`)
	if len(e.Attachments) != 2 {
		t.Errorf("the event has attachments %v", e.Attachments)
	}
	a = c.callBinary("reverse", `[`+first+`]`, []byte{1, 2, 3})
	equal(t, string(a.Args[0]), `{"result":{"length":3,"reversed":`+first+`}}`)
	if len(a.Attachments) != 1 || !bytes.Equal(a.Attachments[0], []byte{3, 2, 1}) {
		t.Errorf("attachments %v", a.Attachments)
	}
	equal(t, string(c.callBinary("reverse", `[null]`).Args[0]), `{}`)
	for _, args := range []string{`["x"]`, `[1]`, `[{}]`, `[` + second + `]`, `[[` + first + `]]`} {
		if code := codeOf(t, c.callBinary("reverse", args, []byte{1})); code != tidemark.CodeInvalidRequest {
			t.Errorf("%s: %s", args, code)
		}
	}
}

// What a row says must not look like a binary value that is not there: other clients would break off.
func TestForgedPlaceholders(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	binary(t, b)
	c := b.dial()
	if code := codeOf(t, c.callBinary("many", `[{"_placeholder":true,"num":7}]`)); code != tidemark.CodeInvalidData {
		t.Errorf("got %q", code)
	}
	if n := len(c.events()); n != 0 {
		t.Errorf("%d events", n)
	}
	a := c.callBinary("many", `[{"num":7}]`)
	equal(t, string(a.Args[0]), `{"result":[{"_placeholder":true,"num":0},{"num":7}]}`)
}

func codeOf(t *testing.T, m *tidemark.Message) tidemark.Code {
	t.Helper()
	var a tidemark.Answer
	if err := a.UnmarshalJSON(m.Args[0]); err != nil {
		t.Error(err)
	}
	if a.Err == nil {
		return ""
	}
	return a.Err.Code
}
