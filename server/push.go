package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// push is sync.push(Batch): the client's mutations, each made as a call of its
// model's method makes it, with verdicts that are told again to who sends it again. The
// answer may be a prefix of the verdicts, when what follows could not be looked at.
func (s *Server) push(ctx context.Context, c *Call) (any, error) {
	if tidemark.TxOf(ctx) != nil { // the verdicts are committed, whatever becomes of that one
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "a push cannot be part of a transaction")
	}
	batch, err := tidemark.ParseBatch(c.arg(0), s.opts.MaxPush)
	if err != nil {
		return nil, err
	}
	p := &pushing{server: s, ctx: ctx, call: c, batch: batch}
	err = p.run()
	switch {
	case err != nil && len(p.verdicts) == 0:
		return nil, err
	case err != nil:
		_ = s.wireError(ctx, err, c) // it logs
	}
	return &tidemark.PushAnswer{Now: tidemark.StampOf(s.opts.Now()), Verdicts: p.verdicts}, nil
}

// pushing is one push under way.
type pushing struct {
	server *Server
	ctx    context.Context
	call   *Call // of sync.push itself
	batch  *tidemark.Batch
	ways   []*way // of each mutation, nil for one that has none
	runs   []*run // of each mutation, nil for one that nobody but the driver has to do with
	known  int64  // mutations up to this number were decided before; 0 when it is not known

	verdicts []tidemark.Verdict // so far
}

// way is how mutations of one model and one op are made.
type way struct {
	svc       *Service
	setup     *setup
	method    *method
	hooked    bool // hooks run around them
	published bool
	// guarded says that hooks decide what of a row may leave the server. Where they do not
	// run, the row stays.
	guarded bool
}

func (p *pushing) run() error {
	ms := p.batch.Mutations
	p.batch.Digests = make([]uint64, len(ms)) // before anything changes them
	for i := range ms {
		p.batch.Digests[i] = ms[i].Digest()
	}
	p.resolve()
	// One push of a client at a time, so that hooks run once for what comes by two connections.
	client := []rowKey{{uid: p.batch.Client}} // no model has that name
	if err := p.server.order.hold(p.ctx, client); err != nil {
		return driverError(err)
	}
	defer p.server.order.release(client)
	if err := p.look(); err != nil {
		return err
	}
	group := 0 // where those begin that can be made together
	err := tidemark.EachUnit(ms, func(from, to int) error {
		if !p.alone(from, to) {
			return nil
		}
		if err := p.make(group, from); err != nil {
			return err
		}
		group = to
		return p.make(from, to)
	})
	if err != nil {
		return err
	}
	return p.make(group, len(ms))
}

// resolve finds the ways of the mutations.
func (p *pushing) resolve() {
	type kind struct {
		model string
		op    tidemark.Op
	}
	ways := make(map[kind]*way)
	p.ways = make([]*way, len(p.batch.Mutations))
	for i := range p.batch.Mutations {
		k := kind{p.batch.Mutations[i].Model, p.batch.Mutations[i].Op}
		w, ok := ways[k]
		if !ok {
			w = p.server.way(k.model, k.op)
			ways[k] = w
		}
		if p.ways[i] = w; w != nil && (w.hooked || w.published) && p.runs == nil {
			p.runs = make([]*run, len(p.ways))
		}
	}
}

var writeMethods = [...]string{tidemark.Create: tidemark.MethodCreate, tidemark.Update: tidemark.MethodUpdate, tidemark.Delete: tidemark.MethodDelete}

// way returns nil when there is no such model, or no such op of clients.
func (s *Server) way(model string, op tidemark.Op) *way {
	svc, ok := s.Lookup(model)
	if !ok || svc.model == nil || op == 0 || int(op) >= len(writeMethods) {
		return nil
	}
	w := &way{svc: svc, setup: svc.setup.Load(), method: svc.methods[writeMethods[op]]}
	w.hooked, w.published = w.setup.hooked(w.method.name), w.setup.publishes(w.method)
	w.guarded = w.hooked || w.setup.hooked(tidemark.MethodFindMany)
	return w
}

// look finds out what was decided before, where hooks must not run for it again.
func (p *pushing) look() (err error) {
	for _, w := range p.ways {
		if w == nil || !w.hooked {
			continue
		}
		if p.known, err = p.server.logs.Known(p.ctx, p.batch.Client); err != nil {
			return driverError(err)
		}
		if first := p.batch.Mutations[0].N; p.known > 0 && first > p.known+1 {
			return tidemark.NewError(tidemark.CodeGap, "the last mutation known is %d", p.known)
		}
		return nil
	}
	return nil
}

// alone reports whether a unit is pushed by itself: hooks run before and after it.
func (p *pushing) alone(from, to int) bool {
	for i := from; i < to; i++ {
		if w := p.ways[i]; w != nil && w.hooked && p.batch.Mutations[i].N > p.known {
			return true
		}
	}
	return false
}

// make makes the mutations from up to to, whole units, and notes their verdicts.
func (p *pushing) make(from, to int) error {
	if from == to {
		return nil
	}
	err := tidemark.EachUnit(p.batch.Mutations[from:to], func(a, b int) error { return p.prepare(from+a, from+b) })
	if err != nil {
		return err
	}
	return p.push(from, to)
}

// prepare checks a unit and runs its before-hooks. The error says that the unit could not be
// looked at: one that is refused is no error.
func (p *pushing) prepare(from, to int) error {
	for i := from; i < to; i++ {
		m := &p.batch.Mutations[i]
		if m.N <= p.known {
			continue
		}
		c, err := p.mutation(i)
		if err == nil {
			c.N, c.Unit = m.N, m.Unit
			*m = c
			continue
		}
		if err = outward(err); tidemark.Temporary(err) {
			return err
		}
		p.refuse(i, i+1, err)
		p.refuse(from, to, errUnit)
		break // the others' hooks need not run
	}
	return nil
}

var errUnit = tidemark.NewError(tidemark.CodeUnit, "another write of the unit was refused")

// refuse notes why mutations are refused, but of those of which it is known already.
func (p *pushing) refuse(from, to int, err error) {
	if p.batch.Refused == nil {
		p.batch.Refused = make([]*tidemark.Error, len(p.batch.Mutations))
	}
	for i := from; i < to; i++ {
		switch {
		case p.batch.Refused[i] != nil:
		case err == error(errUnit):
			p.batch.Refused[i] = errUnit
		default:
			m := &p.batch.Mutations[i]
			p.batch.Refused[i] = p.server.wireError(p.ctx, err, &Call{Service: m.Model, Method: m.Op.String()})
		}
	}
}

// mutation returns mutation i as it is to be made. Where hooks run, they run before it is checked.
func (p *pushing) mutation(i int) (m tidemark.Mutation, err error) {
	m = p.batch.Mutations[i]
	w := p.ways[i]
	if w == nil {
		if m.Op == 0 {
			return m, tidemark.NewError(tidemark.CodeInvalidRequest, "a mutation is create, update or delete")
		}
		return m, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model named '%s'", short(m.Model))
	}
	data := m.Data
	if len(data) == 0 {
		data = tidemark.Row("null")
	}
	if w.hooked || w.published {
		p.runs[i] = p.newRun(w, &m, data)
	}
	if w.hooked {
		if err := p.ctx.Err(); err != nil {
			return m, err
		}
		if p.runs[i].before(); p.runs[i].err != nil {
			return m, p.runs[i].err
		}
		m, err = w.svc.mutation(p.runs[i])
	} else {
		err = w.svc.check(&m, data)
		m.Stamp = p.server.clamp(m.Stamp)
	}
	if err == nil && m.Stamp == 0 {
		err = tidemark.NewError(tidemark.CodeInvalidStamp, "the write has no date")
	}
	return m, err
}

// newRun returns the call of a method that a mutation amounts to.
func (p *pushing) newRun(w *way, m *tidemark.Mutation, data tidemark.Row) *run {
	c := &Call{Service: w.svc.name, Method: w.method.name, Caller: p.call.Caller, Session: p.call.Session, Server: p.server}
	c.Args = append(make([]json.RawMessage, 0, 3), tidemark.AppendString(nil, m.UID))
	if m.Op != tidemark.Delete {
		c.Args = append(c.Args, json.RawMessage(data))
	}
	c.Args = append(c.Args, m.Stamp.AppendJSON(nil))
	r := w.svc.newRun(p.ctx, originOf(p.ctx), w.method, c)
	r.setup = w.setup // the same for all
	return r
}

// push has the driver decide. Where that fails for what a mutation is about, that one is
// refused: it would fail each time, and must not block those behind it.
func (p *pushing) push(from, to int) error {
	err := p.decide(from, to)
	if err == nil || tidemark.Temporary(err) || ofBatch(err) {
		return err
	}
	single := true
	again := tidemark.EachUnit(p.batch.Mutations[from:to], func(a, b int) error {
		if single = b-a == to-from; single {
			return nil
		}
		return p.push(from+a, from+b)
	})
	if !single {
		return again
	}
	p.refuse(from, to, err)
	return p.decide(from, to)
}

// ofBatch reports whether err is about the batch, and not about a mutation.
func ofBatch(err error) bool {
	switch tidemark.CodeOf(err) {
	case tidemark.CodeGap, tidemark.CodeRepeated, tidemark.CodeDenied, tidemark.CodeInvalidRequest:
		return true
	}
	return false
}

// decide has the driver decide about a part of the batch, and notes the verdicts.
func (p *pushing) decide(from, to int) error {
	part := p.batch.Part(from, to)
	hearsByAnswer := p.call.Session
	if slices.ContainsFunc(p.ways[from:to], func(w *way) bool { return w != nil && w.guarded }) {
		hearsByAnswer = nil // a verdict may lack the row: it hears as everybody does
	}
	var verdicts []tidemark.Verdict
	d, err := p.server.decide(p.ctx, part.Mutations, hearsByAnswer, func(d *deciding) (n int, err error) {
		verdicts, err = p.server.logs.Push(p.ctx, part, d)
		return len(verdicts), err
	})
	if err != nil {
		if p.runs != nil {
			p.server.afterwards(d, p.runs[from:to], err)
		}
		return err
	}
	for i := range verdicts {
		p.conclude(from+i, &verdicts[i], d.slots[i])
	}
	p.verdicts = append(p.verdicts, verdicts...)
	return nil
}

// conclude runs what follows the commit of a mutation: its after-hooks and its
// publication, and leaves in v what the client may see.
func (p *pushing) conclude(i int, v *tidemark.Verdict, slot *slot) {
	w := p.ways[i]
	switch {
	case slot == nil: // a repetition, or refused: no hook runs
		if w != nil && w.guarded {
			v.Row, v.Meta = nil, tidemark.Meta{}
		}
	case w.hooked || w.published:
		p.tell(p.runs[i], v, slot)
	default:
		slot.fill(nil)
	}
}

// tell runs the rest of a call that was committed. Nothing that fails now changes the verdict,
// but the row is then not told.
func (p *pushing) tell(r *run, v *tidemark.Verdict, slot *slot) {
	r.committed(&v.Outcome, slot)
	was := *r.commit.result
	r.tell()
	err := r.err
	if err == nil {
		v.Row, v.Meta, err = left(r.call, was)
	}
	if err != nil {
		p.server.log.Warn("call failed after its commit", slog.String("service", r.call.Service),
			slog.String("method", r.call.Method), slog.Any("error", err))
		v.Row, v.Meta = nil, tidemark.Meta{}
	}
}

// left returns the row and the metadata that after-hooks have left of was.
func left(c *Call, was tidemark.RowMeta) (tidemark.Row, tidemark.Meta, error) {
	now := was
	switch v := c.Result.(type) {
	case nil:
		now = tidemark.RowMeta{}
	case *tidemark.RowMeta:
		if now = (tidemark.RowMeta{}); v != nil {
			now = *v
		}
	case tidemark.Row:
		now.Row = v
	default:
		raw, err := encode(v)
		if err == nil {
			err = now.UnmarshalJSON(raw)
		}
		if err != nil {
			return nil, tidemark.Meta{}, errLeft
		}
	}
	if len(now.Row) > 0 && len(c.ResultAttachments) > 0 {
		return nil, tidemark.Meta{}, errLeft
	}
	if !same(now.Row, was.Row) && len(now.Row) > 0 && (!json.Valid(now.Row) || now.Row.UID() != was.Meta.UID) {
		return nil, tidemark.Meta{}, errLeft
	}
	return now.Row, now.Meta, nil
}

// same reports whether a and b are the very same bytes, as where no hook put a row of its own.
func same(a, b tidemark.Row) bool { return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0] }

var errLeft = tidemark.NewError(tidemark.CodeInternal, "a hook left something that cannot be a verdict's row")
