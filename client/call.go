package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidemark-sync/tidemark"
)

// request is one call of a service's method, its arguments as JSON.
type request struct {
	service, method string
	args            []json.RawMessage
}

// size returns about how many bytes the request's message has.
func (r request) size() int {
	n := 100 + len(r.service) + len(r.method)
	for _, a := range r.args {
		n += len(a) + 1
	}
	return n
}

// message returns the request as it travels, under the number id.
func (r request) message(id uint64) *tidemark.Message {
	b := make([]byte, 0, r.size())
	b = tidemark.AppendString(append(b, `{"name":`...), r.service)
	b = tidemark.AppendString(append(b, `,"action":`...), r.method)
	b = append(b, `,"args":[`...)
	for i, a := range r.args {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, a...)
	}
	b = append(b, `]}`...)
	return &tidemark.Message{Kind: tidemark.CallMessage, ID: id, Event: tidemark.EventRequest, Args: []json.RawMessage{b}}
}

// Call calls a method of a service on the server and returns its result, nil when
// it returned nothing. Arguments are marshalled as JSON. Nothing is stored, and a
// call that fails is not repeated.
//
// Errors: [tidemark.ErrOffline] when there is no connection, or when it broke
// before the answer came (whether the method has run is then unknown);
// [tidemark.CodeTimeout] after Options.CallTimeout; CodeTooLarge beyond
// Options.MaxMessage; else the server's *[tidemark.Error].
func (c *Client) Call(ctx context.Context, service, method string, args ...any) (json.RawMessage, error) {
	req := request{service: service, method: method, args: make([]json.RawMessage, len(args))}
	for i, a := range args {
		raw, err := encodePlain(a)
		if err != nil {
			return nil, tidemark.Wrap(err, tidemark.CodeInvalidData, "argument %d cannot be JSON", i)
		}
		req.args[i] = raw
	}
	l, err := c.connected()
	if err != nil {
		return nil, err
	}
	if n, most := req.size(), c.opts.mostBytes(l); n > most {
		return nil, tidemark.NewError(tidemark.CodeTooLarge, "the call has %d bytes, more than %d", n, most)
	}
	type reply struct {
		answer tidemark.Answer
		err    error
	}
	replies := make(chan reply, 1)
	id, err := l.call(req, func(a tidemark.Answer, err error) { replies <- reply{a, err} })
	if err != nil {
		return nil, err
	}
	defer l.forget(id)
	timed, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	select {
	case r := <-replies:
		if r.err == nil && r.answer.Err != nil {
			r.err = r.answer.Err
		}
		return r.answer.Result, r.err
	case <-timed.Done():
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, timedOut(req)
	}
}

func (c *Client) connected() (*link, error) {
	if err := c.closed(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil || c.online == nil {
		return nil, tidemark.ErrOffline
	}
	return c.link, nil
}

func timedOut(r request) error {
	return tidemark.NewError(tidemark.CodeTimeout, "no answer to %s.%s in time", r.service, r.method)
}

// broken is the error of a call whose connection ended before its answer.
func broken(reason tidemark.CloseReason) error {
	return fmt.Errorf("%w: the connection ended: %s", tidemark.ErrOffline, reason)
}
