package sim

import (
	"context"
	"encoding/json"

	"github.com/tidemark-sync/tidemark"
)

// oldDialer makes of a client one that speaks the guide's protocol only: it answers
// sync.open as a server does that knows nothing of it.
type oldDialer struct{ tidemark.Dialer }

func (o oldDialer) Dial(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
	conn, w, err := o.Dialer.Dial(ctx, hello, h)
	return oldConn{conn, h}, w, err
}

type oldConn struct {
	tidemark.Conn
	handler tidemark.Handler
}

func (c oldConn) Send(m *tidemark.Message) error {
	if m.Kind == tidemark.CallMessage && len(m.Args) > 0 {
		var r tidemark.Request
		if json.Unmarshal(m.Args[0], &r) == nil && r.Name == tidemark.ServiceSync && r.Action == tidemark.MethodOpen {
			raw, err := tidemark.Answer{Err: tidemark.NewError(tidemark.CodeMissingMethod, "there is no such method")}.MarshalJSON()
			if err != nil {
				return err
			}
			c.handler.Receive(m.NewAnswer(raw))
			return nil
		}
	}
	return c.Conn.Send(m)
}
