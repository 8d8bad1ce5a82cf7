package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/tidemark-sync/tidemark"
)

// run is the way of one call through hooks, method and publication.
type run struct {
	ctx    context.Context
	origin *origin
	svc    *Service
	setup  *setup // as it was when the call began
	method *method
	call   *Call

	commit *commit         // of a write that the driver has seen
	answer json.RawMessage // the result as the caller gets it, nil for nothing
	err    error
}

func (svc *Service) newRun(ctx context.Context, o *origin, m *method, c *Call) *run {
	return &run{ctx: withOrigin(ctx, o), origin: o, svc: svc, setup: svc.setup.Load(), method: m, call: c}
}

// do makes the whole call; afterwards answer or err is set.
func (r *run) do() {
	if r.before(); r.err == nil {
		r.perform()
	}
	r.finish()
}

func (r *run) before() {
	r.hooks(r.setup.beforeAll)
	r.hooks(r.setup.before[r.method.name])
}

func (r *run) perform() {
	if r.method.call == nil {
		r.svc.server.write(r.ctx, []*run{r})
		return
	}
	r.guard(func() (err error) {
		r.call.Result, err = r.method.call(r.ctx, r.call)
		return err
	})
	r.call.Event = r.call.Result
}

// finish runs the after-hooks and the publication, and makes the answer.
func (r *run) finish() {
	if r.tell(); r.err == nil {
		r.guard(func() (err error) {
			r.answer, err = r.svc.encode(r.call.Result, r.call.Caller)
			return errors.Join(err, checkAttachments(r.answer, r.call.ResultAttachments))
		})
	}
}

// tell runs the after-hooks and the publication.
func (r *run) tell() {
	defer r.fillSlot(nil) // unless the publication did; nothing may hold up the row's events
	r.hooks(r.setup.after[r.method.name])
	r.hooks(r.setup.afterAll)
	if r.err == nil {
		r.guard(r.publish)
	}
}

// hooks runs the hooks, until one fails.
func (r *run) hooks(hooks []Hook) {
	for _, h := range hooks {
		if r.err != nil {
			return
		}
		r.guard(func() error { return h(r.ctx, r.call) })
	}
}

// guard runs fn and keeps its error. A panic becomes an error: it ends this call only.
func (r *run) guard(fn func() error) {
	defer func() {
		if p := recover(); p != nil {
			r.err = panicked(p)
		}
	}()
	if err := fn(); err != nil {
		r.err = err
	}
}

func panicked(p any) error {
	return tidemark.Wrap(fmt.Errorf("panic: %v\n%s", p, debug.Stack()), tidemark.CodeInternal, "internal error")
}

// publish sends the event of the call to the channels that the application names.
func (r *run) publish() error {
	if !r.setup.publishes(r.method) {
		return nil
	}
	channels, err := r.setup.publisher(r.ctx, r.call)
	if err != nil || len(channels) == 0 {
		return err
	}
	m, err := r.event()
	if err != nil {
		return err
	}
	about := other
	if r.svc.model != nil {
		about = models
	}
	send := func() { r.svc.server.channels.send(channels, m, about) }
	if r.commit == nil {
		return r.svc.server.afterTx(r.ctx, send)
	}
	r.fillSlot(send)
	return nil
}

// afterTx sends when the transaction that ctx carries is committed, at once when there is none.
func (s *Server) afterTx(ctx context.Context, send func()) error {
	if tidemark.TxOf(ctx) == nil {
		send()
		return nil
	}
	if s.txs == nil {
		return errForeignTx
	}
	_, err := s.txs.WriteTx(ctx, nil, sending(send))
	return err
}

// sending is the witness that publishes what was no write.
type sending func()

func (sending) Decided(int, []tidemark.Outcome) {}

func (s sending) Ended(committed bool) {
	if committed {
		s()
	}
}

func (r *run) fillSlot(send func()) {
	if r.commit != nil {
		r.commit.slot.fill(send)
	}
}

// event is the event that tells of the call: once made, it is encoded once for all who get it.
func (r *run) event() (*tidemark.Message, error) {
	action, result := r.method.name, r.call.Event
	if r.commit != nil {
		action, result = r.commit.event(action, result)
	}
	raw, err := r.svc.encode(result, CallerClient)
	if err == nil {
		err = checkAttachments(raw, r.call.ResultAttachments)
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(raw)+len(r.svc.name)+len(action)+40)
	b = tidemark.AppendString(append(b, `{"name":`...), r.svc.name)
	b = tidemark.AppendString(append(b, `,"action":`...), action)
	if raw != nil {
		b = append(append(b, `,"result":`...), raw...)
	}
	m, err := tidemark.NewEvent(tidemark.EventService, json.RawMessage(append(b, '}')))
	if err == nil {
		m.Attachments = r.call.ResultAttachments
	}
	return m, err
}

// checkAttachments refuses a result with a placeholder, which may have come from a row, for
// no attachment. Where there are no attachments nobody looks for placeholders.
func checkAttachments(raw json.RawMessage, attachments [][]byte) error {
	if len(attachments) == 0 {
		return nil
	}
	return tidemark.CheckPlaceholders(raw, len(attachments))
}

// encode returns the JSON text of a result or an argument, nil for nil.
func encode(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		if !json.Valid(v) {
			return nil, tidemark.NewError(tidemark.CodeInternal, "a json.RawMessage that is not JSON")
		}
		return v, nil
	case []tidemark.Row:
		return appendRows(nil, v), nil
	case *tidemark.RowMeta:
		if v != nil {
			return v.MarshalJSON()
		}
	case *tidemark.SyncResult:
		if v != nil {
			return v.MarshalJSON()
		}
	case *tidemark.PushAnswer:
		if v != nil {
			return v.MarshalJSON()
		}
	case *tidemark.OpenAnswer:
		if v != nil {
			return encodeOpen(v)
		}
	case []tidemark.ScopeAnswer:
		return encodeScopes(v)
	case *tidemark.ScopePage:
		if v != nil {
			return v.MarshalJSON()
		}
	case tidemark.Row:
		return v.MarshalJSON()
	}
	return json.Marshal(v)
}

func appendRows(b []byte, rows []tidemark.Row) []byte {
	n := 2
	for _, row := range rows {
		n += len(row) + 1
	}
	if b == nil {
		b = make([]byte, 0, n)
	}
	b = append(b, '[')
	for i, row := range rows {
		if i > 0 {
			b = append(b, ',')
		}
		if len(row) == 0 {
			b = append(b, "null"...)
			continue
		}
		b = append(b, row...)
	}
	return append(b, ']')
}

// wireError returns err as a client may see it, and logs what is kept back.
func (s *Server) wireError(ctx context.Context, err error, c *Call) *tidemark.Error {
	e := tidemark.WireError(outward(err))
	if e.Code == "" {
		e.Code = tidemark.CodeUnknown
	}
	level := slog.LevelDebug
	switch {
	case ctx.Err() != nil: // nobody waits for the answer
	case e.Code == tidemark.CodeInternal:
		level = slog.LevelError
	case e.Code == tidemark.CodeUnavailable:
		level = slog.LevelWarn
	}
	if s.log.Enabled(ctx, level) {
		s.log.LogAttrs(ctx, level, "call refused", slog.String("service", short(c.Service)),
			slog.String("method", short(c.Method)), slog.String("code", string(e.Code)), slog.Any("error", err))
	}
	return e
}

// outward gives the errors of contexts and of closed things a code.
func outward(err error) error {
	if _, ok := errors.AsType[*tidemark.Error](err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return tidemark.Wrap(err, tidemark.CodeTimeout, "the call took too long")
	case errors.Is(err, context.Canceled), errors.Is(err, tidemark.ErrClosed):
		return tidemark.Wrap(err, tidemark.CodeUnavailable, "the server is not available")
	}
	return err
}

// driverError is what an error of the driver becomes: one without a code is internal.
func driverError(err error) error {
	err = outward(err)
	if _, ok := errors.AsType[*tidemark.Error](err); ok {
		return err
	}
	return tidemark.Wrap(err, tidemark.CodeInternal, "internal error")
}
