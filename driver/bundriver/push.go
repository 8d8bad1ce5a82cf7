package bundriver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

// ledgerColumn is a client's ledger, as the text of its JSON form.
var ledgerColumn = []*column{{name: "ledger", kind: tidemark.JSON, base: "text"}}

func ledgerEntry(client string, l *tidemark.Ledger) entry {
	return entry{client, []json.RawMessage{l.AppendJSON(nil)}}
}

// Push makes a client's mutations in one transaction with their verdicts. As in Write, it begins
// anew with savepoints when a mutation is refused, here one for each unit. Where a deferred constraint
// fails only at the commit, as it can in SQLite, each unit gets a transaction of its own, with its
// verdicts. A context that carries a transaction is refused.
func (d *Driver) Push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	if w == nil {
		w = nobody{}
	}
	p := &pushing{d: d, b: b, witness: w}
	return p.push(ctx)
}

// pushing is a batch, or a part of one, on its way into the database.
type pushing struct {
	d       *Driver
	b       *tidemark.Batch
	from    int // its place in what the witness knows
	witness tidemark.Witness

	verdicts []tidemark.Verdict
}

func (p *pushing) push(ctx context.Context) ([]tidemark.Verdict, error) {
	for a := (attempt{n: 1}); ; a.n++ {
		err := p.once(ctx, a)
		again, race := errors.AsType[*retryError](err)
		switch {
		case err == nil:
			return p.verdicts, nil
		case err == errUnclaimed:
			a.n, a.claims = a.n-1, true
		case race && a.n < maxAttempts:
		case race:
			return nil, unavailable(again.cause)
		case refusal(err) == nil:
			return nil, err
		case a.careful:
			return p.byUnits(ctx, refusal(err))
		default:
			a.careful = true
		}
	}
}

// byUnits pushes each unit by itself, since the commit of all together is refused: one of them is
// the cause. Of a single unit its last mutation is.
func (p *pushing) byUnits(ctx context.Context, refused *tidemark.Error) (verdicts []tidemark.Verdict, err error) {
	units := 0
	_ = tidemark.EachUnit(p.b.Mutations, func(int, int) error { units++; return nil })
	if units == 1 {
		b := p.b.Part(0, len(p.b.Mutations))
		b.Refused = make([]*tidemark.Error, len(b.Mutations))
		b.Refused[len(b.Mutations)-1] = refused
		part := &pushing{d: p.d, b: b, from: p.from, witness: p.witness}
		return part.push(ctx)
	}
	err = tidemark.EachUnit(p.b.Mutations, func(from, to int) error {
		part := &pushing{d: p.d, b: p.b.Part(from, to), from: p.from + from, witness: p.witness}
		vs, err := part.push(ctx)
		verdicts = append(verdicts, vs...)
		return err
	})
	return verdicts, err
}

// once pushes in one transaction. The client's row is locked first, so that what comes
// twice at once is made once. As a rule all of the batch is new: what that needs is read in the
// same round trip.
func (p *pushing) once(ctx context.Context, a attempt) error {
	t, err := p.d.begin(ctx)
	if err != nil {
		return err
	}
	defer t.end(ctx)
	t.attempt, t.witnessed = a, heard(p.witness)
	f := t.fresh(p.b)
	var text string
	if err := t.do(ctx, append([]request{t.askLedger(p.b.Client, &text)}, f.read()...)...); err != nil {
		return err
	}
	l, err := t.openLedger(ctx, p.b, text)
	if err != nil {
		return err
	}
	repeated, err := l.Admit(p.b)
	if err != nil {
		return err
	}
	receipts := l.Receipts[:0:0]
	for i := range p.b.Mutations[:repeated] {
		receipts = append(receipts, *l.Receipt(p.b.Mutations[i].N))
	}
	if repeated > 0 {
		f = t.fresh(p.b.Part(repeated, len(p.b.Mutations)))
		if err := t.do(ctx, f.read()...); err != nil {
			return err
		}
	}
	err = f.make(ctx, func() request {
		l.Record(p.b, f.outs)
		return t.putLedger(p.b.Client, l)
	})
	if err != nil {
		return err
	}
	outs, err := t.repetitions(ctx, p.b.Mutations[:repeated], receipts)
	if err != nil {
		return err
	}
	p.verdicts = make([]tidemark.Verdict, len(p.b.Mutations))
	for i, o := range append(outs, f.outs...) {
		p.verdicts[i] = tidemark.Verdict{N: p.b.Mutations[i].N, Outcome: o, Repeated: i < repeated}
	}
	return p.commit(ctx, t, repeated, f.outs)
}

func (p *pushing) commit(ctx context.Context, t *tx, repeated int, outs []tidemark.Outcome) error {
	if len(outs) == 0 { // the witness hears nothing of repetitions
		return t.commit(ctx)
	}
	p.witness.Decided(p.from+repeated, outs)
	err := t.commit(ctx)
	p.witness.Ended(err == nil)
	return err
}

// askLedger reads a client's ledger and locks it.
func (t *tx) askLedger(client string, text *string) request {
	d := t.d.dialect
	rd := newReader(nil, 1)
	return request{
		statement: "SELECT m.ledger FROM " + d.table("clients") + " m WHERE m.client = " + d.placeholder(1) + d.forUpdate(), args: []any{client},
		reads: rd, each: func() error { *text = rd.text(0); return nil },
	}
}

// openLedger returns what askLedger has read, or begins a ledger for a client that is new. Another
// transaction may just have begun it.
func (t *tx) openLedger(ctx context.Context, b *tidemark.Batch, text string) (*tidemark.Ledger, error) {
	if text == "" {
		d := t.d.dialect
		at, now := d.clock(2, t.d.now())
		begin := request{statement: "INSERT INTO " + d.table("clients") + " (client, ledger, at) VALUES (" + d.placeholder(1) + ", '', " + at + ") ON CONFLICT (client) DO NOTHING", args: append([]any{b.Client}, now...)}
		if err := t.do(ctx, begin, t.askLedger(b.Client, &text)); err != nil {
			return nil, err
		}
	}
	if text == "" {
		return tidemark.NewLedger(b), nil
	}
	return tidemark.ParseLedger([]byte(text))
}

func (t *tx) putLedger(client string, l *tidemark.Ledger) request {
	d := t.d.dialect
	src, args := d.batch(ledgerColumn, []entry{ledgerEntry(client, l)})
	at, now := d.clock(len(args)+1, t.d.now())
	return request{statement: "UPDATE " + d.table("clients") + " AS m SET ledger = " + src.columns[0] + ", at = " + at + " FROM " + src.from + " WHERE m.client = " + src.uid, args: append(args, now...)}
}

// repetitions returns the outcomes of mutations that were decided before, with their rows as
// they are now.
func (t *tx) repetitions(ctx context.Context, ms []tidemark.Mutation, receipts []tidemark.Receipt) ([]tidemark.Outcome, error) {
	outs := make([]tidemark.Outcome, len(ms))
	byModel := make(map[*model][]*run)
	for i, r := range receipts {
		outs[i] = tidemark.Outcome{Applied: r.Applied, Err: r.Err}
	}
	for _, r := range t.d.plan(ms, slices.Clone(outs)) {
		byModel[r.model] = append(byModel[r.model], r)
	}
	for m, runs := range byModel {
		w := t.work(runs, outs)
		if err := t.do(ctx, w.read()...); err != nil {
			return nil, err
		}
		for _, r := range runs {
			for i := range r.items {
				if s := w.states[r.items[i].uid]; s.owner == "" || s.owner == m.name {
					outs[r.items[i].at].Row, outs[r.items[i].at].Meta = s.row, s.meta
				}
			}
		}
	}
	return outs, nil
}

// Known returns the number of the client's last mutation that has a verdict.
func (d *Driver) Known(ctx context.Context, client string) (int64, error) {
	var text string
	err := d.seeing(ctx, func(t *tx) error {
		q := t.askLedger(client, &text)
		q.statement = strings.TrimSuffix(q.statement, d.dialect.forUpdate())
		return t.do(ctx, q)
	})
	if err != nil || text == "" {
		return 0, err
	}
	l, err := tidemark.ParseLedger([]byte(text))
	if err != nil {
		return 0, err
	}
	return l.Highest, nil
}
