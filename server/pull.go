package server

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// maxPageRows is how many rows a page has at most, however short they are, and firstRows where
// it is not known how many fit.
const (
	maxPageRows = 4096
	firstRows   = 1024
)

// room is how many rows are asked of the database for a page of the scope: as many as fitted the last
// one, and some more. What does not fit was read and sent in vain.
func (sc *scope) room() int {
	if n := int(sc.fits.Load()); n > 0 {
		return n
	}
	return firstRows
}

// filled notes how many of the rows that were asked for a page had room for.
func (sc *scope) filled(asked int, page *tidemark.Page) {
	if !page.More {
		return
	}
	n := len(page.Rows) + len(page.Gone)
	if n >= asked { // there may have been room for more
		n *= 2
	} else {
		n += n/8 + 1
	}
	sc.fits.Store(int64(min(n, maxPageRows)))
}

// pull is sync.pull(PullRequest): the next page of a scope that the session holds.
func (s *Server) pull(ctx context.Context, c *Call) (any, error) {
	session, done, err := sessionOf(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	req, err := parsePull(c.arg(0))
	if err != nil {
		return nil, err
	}
	sc, err := s.live.scopes.held(session, req.Scope)
	if err != nil {
		return nil, err
	}
	if err := checkAfter(req.After); err != nil {
		return nil, err
	}
	from, err := tidemark.ParseCursor(req.Cursor)
	if err != nil {
		return nil, err
	}
	svc, ok := s.Lookup(sc.where.Schema().Name())
	if !ok {
		return nil, errUnknownScope
	}
	r := svc.newReading(ctx, c, json.RawMessage(sc.where.Key()))
	page, err := s.page(&r, session, sc, pass{from: from, after: req.After, bytes: s.opts.PageBytes})
	if refused, ok := err.(*refusal); ok {
		return nil, refused.err
	}
	if err != nil {
		return nil, err
	}
	if req.Deflate {
		return deflated(c, page)
	}
	return page, nil
}

// minDeflated is how long a page is at least that is deflated, in bytes.
const minDeflated = 1 << 10

// deflated returns the page deflated, as an attachment of the call's result, where that is worth it.
func deflated(c *Call, page *tidemark.ScopePage) (any, error) {
	raw := page.AppendJSON(nil)
	if len(raw) < minDeflated {
		return json.RawMessage(raw), nil
	}
	d := tidemark.Deflate(raw)
	return json.RawMessage(d.AppendJSON(nil, c.Attach(d.Data))), nil
}

// pass is where a client stands in a series of pages.
type pass struct {
	from  tidemark.Cursor // as of its beginning
	after string          // the uid that it has come to
	bytes int             // about how long the page may be
	rows  int             // how many rows it may have

	befores bool // it is asked how rows were
}

// refusal is an error of a hook, which decides what a client may read.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// page reads a page of a scope for a session. An error of a hook is a *refusal.
func (s *Server) page(r *reading, session *Session, sc *scope, at pass) (*tidemark.ScopePage, error) {
	at.rows = sc.room()
	at.befores = r.setup.filters() && !at.from.IsZero()
	page, err := s.read(r.ctx, sc.where, at)
	if err != nil {
		return nil, err
	}
	sc.filled(at.rows, page)
	out := &tidemark.ScopePage{Cursor: page.Horizon.String(), Total: page.Total}
	if page.More {
		out.After = page.Last
	}
	others := s.live.scopes.others(session, sc)
	rows := page.Rows
	var gone []tidemark.RowMeta
	for _, rm := range page.Gone {
		if selected(rm.Row, others) { // it is still the client's, by another scope
			rows = append(rows, rm)
		} else {
			gone = append(gone, rm)
		}
	}
	left, err := r.after(rows)
	if err != nil {
		return nil, &refusal{err}
	}
	if left == nil {
		out.Rows = rows
	} else if gone, err = r.keep(out, rows, left, gone, page.Befores); err != nil {
		return nil, &refusal{err}
	}
	for _, rm := range gone {
		if d, ok := departure(rm); ok {
			out.Gone = append(out.Gone, d)
		}
	}
	return out, nil
}

// keep puts those of the rows on the page that hooks have left, as they left them. The others, and those that
// are gone, it returns as far as the session may have seen them: as in live delivery, of a row of which the
// hooks leave no version since the cursor it is told nothing.
func (r *reading) keep(out *tidemark.ScopePage, rows []tidemark.RowMeta, left map[string]tidemark.Row, gone []tidemark.RowMeta, befores map[string][]tidemark.Row) ([]tidemark.RowMeta, error) {
	for _, rm := range rows {
		if row := left[rm.Row.UID()]; len(row) > 0 {
			out.Rows = append(out.Rows, tidemark.RowMeta{Row: row, Meta: rm.Meta})
		} else {
			gone = append(gone, rm)
		}
	}
	var were []tidemark.RowMeta
	for _, rm := range gone {
		for _, row := range befores[uidOf(rm)] {
			were = append(were, tidemark.RowMeta{Row: row})
		}
	}
	seen, err := r.filtered(were)
	return slices.DeleteFunc(gone, func(rm tidemark.RowMeta) bool { return len(seen[uidOf(rm)]) == 0 }), err
}

func selected(row tidemark.Row, wheres []*tidemark.Predicate) bool {
	for _, p := range wheres {
		if p.Match(row) {
			return true
		}
	}
	return false
}

// departure tells of a row that left the client's scopes.
func departure(rm tidemark.RowMeta) (tidemark.Departure, bool) {
	d := tidemark.Departure{UID: uidOf(rm), At: rm.Meta.T(), Deleted: len(rm.Row) == 0}
	return d, d.UID != ""
}

func uidOf(rm tidemark.RowMeta) string {
	if rm.Meta.UID != "" {
		return rm.Meta.UID
	}
	return rm.Row.UID()
}

// lengthOf is about how long a page is on the wire.
func lengthOf(p *tidemark.ScopePage) int {
	const usual = 64 // bytes around a row, or of a departure
	n := usual * (1 + len(p.Rows) + len(p.Gone))
	for i := range p.Rows {
		n += len(p.Rows[i].Row)
	}
	return n
}

// read reads a page. Rows that have no metadata, since another program inserted them, are given some
// first, and everybody hears of that; then the page is read again.
func (s *Server) read(ctx context.Context, where *tidemark.Predicate, at pass) (*tidemark.Page, error) {
	q := tidemark.Pull{Scope: where, From: at.from, After: at.after, Limit: at.rows, Bytes: at.bytes, Befores: at.befores,
		Count: at.from.IsZero() && at.after == ""}
	const attempts = 3 // others may go on inserting
	for i := 1; ; i++ {
		page, err := s.logs.Pull(ctx, q)
		if err != nil {
			return nil, driverError(err)
		}
		var bare []string
		for j := range page.Rows {
			if page.Rows[j].Meta.UID == "" {
				bare = append(bare, page.Rows[j].Row.UID())
			}
		}
		if len(bare) == 0 || i == attempts {
			return page, nil
		}
		adopted := false
		outcomes, err := s.adopt(ctx, where.Schema().Name(), bare)
		if err != nil {
			return nil, err
		}
		for i := range outcomes {
			adopted = adopted || outcomes[i].Err == nil
		}
		if !adopted { // their uids are taken
			return page, nil
		}
	}
}

const maxAdopt = 1000

// adopt gives metadata to rows that have none.
func (s *Server) adopt(ctx context.Context, model string, uids []string) ([]tidemark.Outcome, error) {
	now := tidemark.StampOf(s.opts.Now())
	ms := make([]tidemark.Mutation, len(uids))
	for i, uid := range uids {
		ms[i] = tidemark.Mutation{Model: model, UID: uid, Op: tidemark.Adopt, Stamp: now}
	}
	all := make([]tidemark.Outcome, 0, len(ms))
	for start := 0; start < len(ms); start += maxAdopt {
		part := ms[start:min(start+maxAdopt, len(ms))]
		d, err := s.decide(ctx, part, nil, func(d *deciding) (int, error) {
			outcomes, err := s.writeTx(ctx, part, d)
			all = append(all, outcomes...)
			return len(outcomes), err
		})
		if err != nil {
			return nil, err
		}
		for _, slot := range d.slots {
			if slot != nil {
				slot.fill(nil) // no method was called, so no channel hears of it
			}
		}
	}
	return all, nil
}
