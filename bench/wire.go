package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

// wire is a connection without a client: it hands on the answers.
type wire struct {
	tidemark.Conn
	answers chan *tidemark.Message
	changes chan time.Time // when changes came, of those that somebody waits for
	closed  chan tidemark.CloseReason
}

func (w *wire) Receive(m *tidemark.Message) {
	switch {
	case m.Kind == tidemark.AnswerMessage:
		w.answers <- m
	case m.Event == tidemark.EventChanges:
		select {
		case w.changes <- time.Now():
		default:
		}
	}
}

func (w *wire) Closed(r tidemark.CloseReason) { w.closed <- r }

func dialWire(ctx context.Context, s *process) (w *wire, err error) {
	w = &wire{answers: make(chan *tidemark.Message, 100), changes: make(chan time.Time, 100), closed: make(chan tidemark.CloseReason, 1)}
	w.Conn, _, err = socketio.NewDialer("http://"+s.address, nil).Dial(ctx, tidemark.Hello{}, w)
	return w, err
}

// ask sends a request; its answer comes on answers.
func (w *wire) ask(service, action string, args ...any) error {
	r := map[string]any{"name": service, "action": action, "args": args}
	m, err := tidemark.NewEvent(tidemark.EventRequest, r)
	if err != nil {
		return err
	}
	return w.Send(m.NewCall(1))
}

// answer waits for one answer, which must be a result.
func (w *wire) answer() (json.RawMessage, error) {
	select {
	case m := <-w.answers:
		var a tidemark.Answer
		if err := a.UnmarshalJSON(m.Args[0]); err != nil {
			return nil, err
		}
		if a.Err != nil {
			return nil, a.Err
		}
		return a.Result, nil
	case r := <-w.closed:
		return nil, fmt.Errorf("the connection ended: %s", r)
	}
}

func (w *wire) call(service, action string, args ...any) (json.RawMessage, error) {
	if err := w.ask(service, action, args...); err != nil {
		return nil, err
	}
	return w.answer()
}

// peer is a wire that speaks the second protocol, and has an outbox's name and numbers.
type peer struct {
	*wire
	client string
	next   int64
	opened tidemark.OpenAnswer
}

func openPeer(ctx context.Context, s *process, scopes ...tidemark.ScopeRequest) (*peer, error) {
	w, err := dialWire(ctx, s)
	if err != nil {
		return nil, err
	}
	p := &peer{wire: w, client: uuid.NewString(), next: 1}
	raw, err := w.call(tidemark.ServiceSync, tidemark.MethodOpen, tidemark.OpenRequest{Protocol: tidemark.ProtocolVersion, Client: p.client, Scopes: scopes})
	if err == nil {
		err = json.Unmarshal(raw, &p.opened)
	}
	for _, a := range p.opened.Scopes {
		if err == nil && a.Err != nil {
			err = a.Err
		}
	}
	if err != nil {
		p.end()
	}
	return p, err
}

func (p *peer) end() { p.Close(tidemark.ClosedByClient) }

// push has the server make the mutations, all of which must be applied.
func (p *peer) push(ms []tidemark.Mutation) error {
	for i := range ms {
		ms[i].N = p.next + int64(i)
	}
	raw, err := p.call(tidemark.ServiceSync, tidemark.MethodPush, &tidemark.Batch{Client: p.client, Confirmed: p.next - 1, Mutations: ms})
	if err != nil {
		return err
	}
	p.next += int64(len(ms))
	var a tidemark.PushAnswer
	if err := a.UnmarshalJSON(raw); err != nil {
		return err
	}
	if len(a.Verdicts) != len(ms) {
		return fmt.Errorf("%d verdicts of %d", len(a.Verdicts), len(ms))
	}
	for i := range a.Verdicts {
		if v := &a.Verdicts[i]; !v.Applied {
			return fmt.Errorf("a write was not applied: %v", v.Err)
		}
	}
	return nil
}

// retitle changes the rows' titles, all in one push for each 500.
func (p *peer) retitle(uids []string) error {
	for len(uids) > 0 {
		part := uids[:min(len(uids), 500)]
		uids = uids[len(part):]
		ms := make([]tidemark.Mutation, len(part))
		at := tidemark.StampOf(time.Now())
		for i, uid := range part {
			title := fmt.Sprintf(`{"title":"%020d"}`, int64(at)+int64(i))
			ms[i] = tidemark.Mutation{Model: "item", UID: uid, Op: tidemark.Update, Data: tidemark.Row(title), Stamp: at + tidemark.Stamp(i)}
		}
		if err := p.push(ms); err != nil {
			return err
		}
	}
	return nil
}

// creation is a mutation that makes a row of a list.
func creation(x *item, list string) tidemark.Mutation {
	at := tidemark.StampOf(x.CreatedAt)
	data := fmt.Appendf(nil, `{"title":%q,"content":%q,"list_id":%q,"created_at":%q,"updated_at":%q}`, x.Title, x.Content, list, at, at)
	return tidemark.Mutation{Model: "item", UID: x.UID, Op: tidemark.Create, Data: data, Stamp: at}
}

// listScope asks for the rows of a list.
func listScope(list string) tidemark.ScopeRequest {
	return tidemark.ScopeRequest{Model: "item", Where: fmt.Appendf(nil, `{"list_id":%q}`, list)}
}
