package server

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// request is a call that came from a client.
type request struct {
	session *Session
	message *tidemark.Message
	svc     *Service
	method  *method
	call    *Call
}

// request takes a call: it is refused at once, or begun, or kept until the session is open.
func (s *Session) request(m *tidemark.Message) {
	r := &request{session: s, message: m, call: &Call{Caller: CallerClient, Session: s, Server: s.server, Attachments: m.Attachments}}
	if err := r.resolve(); err != nil {
		r.refuse(err)
		return
	}
	if err := r.enter(); err != nil {
		r.refuse(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case opening:
		s.early = append(s.early, r)
	case open:
		r.begin()
	default:
		r.drop()
	}
}

// enter counts the call among those that wait for their answers, unless there are too many, or their bytes.
func (r *request) enter() (err error) {
	s, o := r.session, &r.session.server.opts
	n, bytes := s.outstanding.Add(1), s.waiting.Add(r.size())
	switch {
	case n > int64(o.MaxOutstanding):
		err = tidemark.NewError(tidemark.CodeLimit, "more than %d calls wait for their answers", o.MaxOutstanding)
	case n > 1 && bytes > int64(o.MaxOutstandingBytes):
		err = tidemark.NewError(tidemark.CodeLimit, "calls of more than %d bytes wait for their answers", o.MaxOutstandingBytes)
	case !s.server.work.begin(calls):
		err = errShutdown
	}
	if err != nil {
		r.leave()
	}
	return err
}

// leave takes the call from those that wait. It comes before the answer, by which the client knows that it may send the next.
func (r *request) leave() {
	r.session.waiting.Add(-r.size())
	r.session.outstanding.Add(-1)
}

// size is how much memory the call holds while it waits, roughly.
func (r *request) size() int64 {
	n := 0
	for _, b := range r.message.Args {
		n += len(b)
	}
	for _, b := range r.message.Attachments {
		n += len(b)
	}
	return int64(n)
}

// resolve reads the envelope and finds the service and its method.
func (r *request) resolve() error {
	var envelope []byte
	if len(r.message.Args) > 0 {
		envelope = r.message.Args[0]
	}
	req, err := tidemark.ParseRequest(envelope)
	if err != nil {
		return err
	}
	r.call.Service, r.call.Method, r.call.Args = req.Name, req.Action, req.Args
	svc, ok := r.session.server.Lookup(req.Name)
	if !ok {
		return tidemark.NewError(tidemark.CodeMissingService, "there is no service named '%s'", short(req.Name))
	}
	r.svc = svc
	r.method, err = svc.method(req.Action)
	return err
}

// begin starts the call: a write, and a push, in its turn, anything else at once. It does not wait.
func (r *request) begin() {
	if r.method.op != 0 || r.method.turn {
		r.session.lane.add(r)
		return
	}
	r.session.server.spawn(func() {
		// The caller of a read, or of a method of the application, is gone when its session is.
		ctx, cancel := r.session.server.bound(r.session.ctx)
		defer cancel()
		run := r.newRun(ctx)
		run.do()
		r.finish(run)
	})
}

func (r *request) newRun(ctx context.Context) *run {
	return r.svc.newRun(ctx, &origin{session: r.session}, r.method, r.call)
}

// finish answers when the events of the call have left.
func (r *request) finish(run *run) {
	run.origin.wait(r.session.ctx)
	r.leave()
	if run.err != nil {
		r.refuse(run.err)
	} else {
		err := r.reply(tidemark.Answer{Result: run.answer}, run.call.ResultAttachments)
		if tidemark.CodeOf(err) == tidemark.CodeTooLarge { // more attachments than the transport takes
			r.refuse(err)
		}
	}
	r.session.server.work.end(calls)
}

// drop is the end of a request that is not begun.
func (r *request) drop() {
	r.leave()
	r.session.server.work.end(calls)
}

func (r *request) refuse(err error) {
	_ = r.reply(tidemark.Answer{Err: r.session.server.wireError(r.session.ctx, err, r.call)}, nil)
}

// reply sends the answer, if one is wanted. When the session has ended meanwhile, nobody is there to hear.
func (r *request) reply(a tidemark.Answer, attachments [][]byte) error {
	if r.message.Kind != tidemark.CallMessage {
		return nil
	}
	raw, _ := a.MarshalJSON() // of texts that are JSON already
	m := r.message.NewAnswer(json.RawMessage(raw))
	m.Attachments = attachments
	return r.session.send(m)
}

// bound returns ctx with the time that one call may take.
func (s *Server) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.opts.CallTimeout < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.opts.CallTimeout)
}

// maxBatch is how many writes go to the driver at once.
const maxBatch = 256

// lane makes the writes of one session in the order in which they came, so that a
// row exists before it is changed or referred to. It has a goroutine while there is something to do.
type lane struct {
	session *Session

	mu      sync.Mutex // protects queue and running
	queue   []*request
	running bool
}

func (l *lane) add(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, r)
	if !l.running {
		l.running = true
		l.session.server.spawn(l.run)
	}
}

func (l *lane) run() {
	for {
		batch := l.take()
		if batch == nil {
			return
		}
		l.write(batch)
	}
}

// take returns the writes that come next and may be made together, nil when there
// are none. A write with hooks is made alone: its hooks may look for what those before it
// did. So is a push.
func (l *lane) take() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.queue) && n < maxBatch && l.queue[n].joinable() {
		n++
	}
	n = min(max(n, 1), len(l.queue))
	if n == 0 {
		l.queue, l.running = nil, false
		return nil
	}
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	return batch
}

// joinable reports whether r is a write that may be made together with others.
func (r *request) joinable() bool {
	return r.method.op != 0 && !r.svc.setup.Load().hooked(r.method.name)
}

// write makes the writes and answers them. They were taken, so they are made
// also when their session has ended.
func (l *lane) write(batch []*request) {
	ctx, cancel := l.session.server.bound(l.session.server.ctx)
	defer cancel()
	runs := make([]*run, len(batch))
	for i, r := range batch {
		runs[i] = r.newRun(ctx)
	}
	writeAll(ctx, runs)
	for i, r := range batch {
		r.finish(runs[i])
	}
}

// writeAll makes several writes together when no hook runs for any of them, else one after another.
func writeAll(ctx context.Context, runs []*run) {
	hooked := func(r *run) bool { return r.setup.hooked(r.method.name) }
	if len(runs) == 1 || slices.ContainsFunc(runs, hooked) {
		for _, r := range runs {
			r.do()
		}
		return
	}
	runs[0].svc.server.write(ctx, runs)
	for _, r := range runs {
		r.finish()
	}
}
