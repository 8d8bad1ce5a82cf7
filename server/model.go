package server

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/tidemark-sync/tidemark"
)

// newModel returns the service of a model.
func (s *Server) newModel(schema *tidemark.Schema) *Service {
	svc := newService(s, schema.Name())
	svc.model = schema
	for _, m := range []*method{
		{name: tidemark.MethodFindUnique, call: svc.findUnique, read: true},
		{name: tidemark.MethodFindMany, call: svc.findMany, read: true},
		{name: tidemark.MethodCreate, op: tidemark.Create},
		{name: tidemark.MethodUpdate, op: tidemark.Update},
		{name: tidemark.MethodDelete, op: tidemark.Delete},
	} {
		svc.methods[m.name] = m
	}
	return svc
}

func (svc *Service) findUnique(ctx context.Context, c *Call) (any, error) {
	rows, err := svc.find(ctx, c, 1)
	if err != nil || len(rows) == 0 {
		return tidemark.Row(nil), err
	}
	return rows[0], nil
}

func (svc *Service) findMany(ctx context.Context, c *Call) (any, error) {
	return svc.find(ctx, c, 0)
}

func (svc *Service) find(ctx context.Context, c *Call, limit int) ([]tidemark.Row, error) {
	p, err := svc.where(c.arg(0))
	if err != nil {
		return nil, err
	}
	rows, err := svc.server.driver.Find(ctx, p, limit)
	if err != nil {
		return nil, driverError(err)
	}
	return rows, nil
}

func (svc *Service) where(raw []byte) (*tidemark.Predicate, error) {
	if svc.server.opts.IntegersAsText {
		raw = integersOfText(svc.model, raw)
	}
	return tidemark.ParseWhere(svc.model, raw)
}

// commit is a write that the driver has decided.
type commit struct {
	slot    *slot
	result  *tidemark.RowMeta // what the method returned
	refused bool
}

// event returns under which name, and with what result, a write is told of: as it
// came, but for two that would harm the copies of clients. A delete that was refused
// tells of the row that lives, as an update; a delete that found no row names it nevertheless.
func (c *commit) event(action string, result any) (string, any) {
	t, ok := result.(*tidemark.RowMeta)
	if action != tidemark.MethodDelete || !ok || t == nil {
		return action, result
	}
	if c.refused && t.Row != nil && !t.Meta.Deleted() {
		return tidemark.MethodUpdate, t
	}
	if t.Row == nil {
		row := append(tidemark.AppendString(tidemark.Row(`{"uid":`), t.Meta.UID), '}')
		return action, &tidemark.RowMeta{Row: row, Meta: t.Meta}
	}
	return action, t
}

// write has the driver make the writes of all runs at once. Each is left with its
// result and a slot among the events of its row, or with an error.
func (s *Server) write(ctx context.Context, runs []*run) {
	var ms []tidemark.Mutation
	var good []*run
	for _, r := range runs {
		if r.err != nil {
			continue
		}
		m, err := r.svc.mutation(r)
		if err != nil {
			r.err = err
			continue
		}
		ms, good = append(ms, m), append(good, r)
	}
	if len(good) == 0 {
		return
	}
	err := s.commit(ctx, ms, good)
	if err == nil {
		return
	}
	if len(good) > 1 && !tidemark.Temporary(err) { // one of them may be to blame
		for i, r := range good {
			r.err = s.commit(ctx, ms[i:i+1], good[i:i+1])
		}
		return
	}
	for _, r := range good {
		r.err = err
	}
}

// commit has the driver make the writes of the runs.
func (s *Server) commit(ctx context.Context, ms []tidemark.Mutation, runs []*run) error {
	var outcomes []tidemark.Outcome
	d, err := s.decide(ctx, ms, nil, func(d *deciding) (n int, err error) {
		outcomes, err = s.writeTx(ctx, ms, d)
		return len(outcomes), err
	})
	if err != nil {
		s.afterwards(d, runs, err)
		return err
	}
	for i, r := range runs {
		r.committed(&outcomes[i], d.slots[i])
	}
	return nil
}

// decide holds the rows of ms while write has the driver decide about them, with what it
// is given as the witness, and reserves the slots of their events. write returns how many were
// decided. With an error of write it returns what is known of the transactions.
// Live delivery leaves out the session except, which hears by its answer; it may be nil.
func (s *Server) decide(ctx context.Context, ms []tidemark.Mutation, except *Session, write func(*deciding) (int, error)) (_ *deciding, err error) {
	d := &deciding{order: &s.order, live: s.live, except: except, ms: ms, keys: make([]rowKey, len(ms)), slots: make([]*slot, len(ms))}
	for i := range ms {
		d.keys[i] = rowKey{ms[i].Model, ms[i].UID}
	}
	if tidemark.TxOf(ctx) == nil {
		held := slices.Clone(d.keys)
		slices.SortFunc(held, func(a, b rowKey) int { return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.uid, b.uid)) })
		held = slices.Compact(held)
		if err := s.order.hold(ctx, held); err != nil {
			return nil, driverError(err)
		}
		defer s.order.release(held)
	}
	if s.live != nil {
		d.tx, d.flight = txKey(tidemark.TxOf(ctx)), s.live.takeOff()
		defer s.live.touchDown(d.flight)
	}
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
		if err != nil {
			d.drop()
		}
	}()
	n, err := write(d)
	if err != nil {
		return d, driverError(err)
	}
	if n != len(ms) {
		return d, tidemark.NewError(tidemark.CodeInternal, "the driver decided %d of %d writes", n, len(ms))
	}
	return d, nil
}

// writeTx has the driver write, with d as the witness.
func (s *Server) writeTx(ctx context.Context, ms []tidemark.Mutation, d *deciding) ([]tidemark.Outcome, error) {
	if s.txs != nil {
		return s.txs.WriteTx(ctx, ms, d)
	}
	if tidemark.TxOf(ctx) != nil {
		return nil, errForeignTx
	}
	outcomes, err := s.driver.Write(ctx, ms)
	if err == nil && len(outcomes) == len(ms) {
		d.Decided(0, outcomes)
		d.Ended(true)
	}
	return outcomes, err
}

var errForeignTx = tidemark.NewError(tidemark.CodeInvalidRequest, "the context carries a transaction that this server's driver cannot take part in")

// deciding hears of the transaction of some writes, and reserves their slots in it, and
// the places of what live scopes hear of it.
type deciding struct {
	order    *order
	live     *live    // nil without a log
	except   *Session // which live delivery leaves out; nil for none
	ms       []tidemark.Mutation
	keys     []rowKey
	slots    []*slot // nil for a write that is refused
	tx       any     // the server code's transaction, nil for none
	flight   *flight
	from, to int   // those of the transaction under way
	part     *part // what it has to tell, nil for nothing

	unanswered [][2]int // from and to of transactions that were not reported as committed
}

func (d *deciding) Decided(from int, outcomes []tidemark.Outcome) {
	d.from, d.to = from, from+len(outcomes)
	for i := range outcomes {
		if outcomes[i].Err == nil {
			d.slots[from+i] = d.order.reserve(d.keys[from+i])
		}
	}
	if d.live != nil {
		d.part = d.live.reserve(d, from, outcomes)
	}
}

func (d *deciding) Ended(committed bool) {
	if !committed {
		d.unanswered = append(d.unanswered, [2]int{d.from, d.to})
	}
	d.endPart(committed)
	for _, slot := range d.slots[d.from:d.to] {
		if slot != nil {
			slot.settle(committed)
		}
	}
}

func (d *deciding) endPart(committed bool) {
	if p := d.part; p != nil {
		d.part = nil
		d.live.end(p, committed)
	}
}

// drop gives up all slots: nothing may hold up the rows' events.
func (d *deciding) drop() {
	d.endPart(false)
	for _, slot := range d.slots {
		if slot != nil {
			slot.settle(false)
		}
	}
}

func (r *run) committed(o *tidemark.Outcome, slot *slot) {
	if o.Err != nil {
		r.err = o.Err
		return
	}
	result := &tidemark.RowMeta{Row: o.Row, Meta: o.Meta}
	r.commit = &commit{slot: slot, result: result, refused: !o.Applied}
	r.origin.add(slot)
	r.call.Result, r.call.Event = result, result
}

// mutation checks the arguments of a write: (uid, data, stamp), and for a delete (uid, stamp).
func (svc *Service) mutation(r *run) (m tidemark.Mutation, err error) {
	m = tidemark.Mutation{Model: svc.name, Op: r.method.op}
	if m.UID, err = tidemark.DecodeString(r.call.arg(0)); err != nil {
		return m, tidemark.NewError(tidemark.CodeInvalidData, "the uid is not text").OnField("uid")
	}
	stamp := r.call.arg(1)
	if m.Op != tidemark.Delete {
		stamp = r.call.arg(2)
	}
	if err = svc.check(&m, r.call.arg(1)); err != nil {
		return m, err
	}
	if err = m.Stamp.UnmarshalJSON(stamp); err != nil {
		return m, err
	}
	m.Stamp = svc.server.clamp(m.Stamp)
	return m, nil
}

// check checks the uid of m, and data, which becomes m's unless that is a delete.
func (svc *Service) check(m *tidemark.Mutation, data []byte) (err error) {
	if err = tidemark.CheckUID(m.UID); err != nil {
		return err
	}
	m.Data = nil
	if m.Op != tidemark.Delete {
		m.Data, err = svc.patch(m.UID, data)
	}
	return err
}

// clamp bounds a stamp by the server's clock. The clock takes note of those that it
// lets pass, so that a clamped one is later than what the same client wrote before.
func (s *Server) clamp(stamp tidemark.Stamp) tidemark.Stamp {
	if stamp == 0 {
		return 0
	}
	s.clock.Observe(stamp, s.opts.MaxDrift)
	return s.clock.Clamp(stamp, s.opts.MaxDrift)
}

func (svc *Service) patch(uid string, data []byte) (tidemark.Row, error) {
	if svc.server.opts.IntegersAsText {
		data = integersOfText(svc.model, data)
	}
	patch, unknown, err := svc.model.Patch(uid, data)
	if err != nil {
		return nil, err
	}
	if len(unknown) == 0 {
		return patch, nil
	}
	if svc.server.opts.RefuseUnknownFields {
		name := short(unknown[0])
		return nil, tidemark.NewError(tidemark.CodeUnknownField, "model %s has no field %q that can be written", svc.name, name).OnField(name)
	}
	for _, field := range unknown {
		if svc.server.fields.first(svc.name, field) {
			svc.server.log.Info("field ignored", slog.String("model", svc.name), slog.String("field", short(field)))
		}
	}
	return patch, nil
}

// unknownFields remembers which fields were logged, up to a bound: their names come from clients.
type unknownFields struct {
	mu   sync.Mutex // protects seen
	seen map[[2]string]struct{}
}

const maxUnknownFields = 1000

func (u *unknownFields) first(model, field string) bool {
	key := [2]string{model, short(field)}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, old := u.seen[key]; old || len(u.seen) >= maxUnknownFields {
		return false
	}
	if u.seen == nil {
		u.seen = make(map[[2]string]struct{})
	}
	u.seen[key] = struct{}{}
	return true
}
