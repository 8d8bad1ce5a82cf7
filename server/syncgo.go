package server

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/tidemark-sync/tidemark"
)

// newSync returns the shared service sync.
func (s *Server) newSync() *Service {
	svc := newService(s, tidemark.ServiceSync)
	svc.methods[tidemark.MethodSyncGo] = &method{name: tidemark.MethodSyncGo, call: s.syncGo, read: true}
	if s.logs != nil {
		s.scopeMethods(svc)
		svc.methods[tidemark.MethodPush] = &method{name: tidemark.MethodPush, call: s.push, read: true, turn: true}
	}
	return svc
}

// reconciliation is one sync.go under way: one model, one where, one client.
type reconciliation struct {
	reading
	server  *Server
	call    *Call // of sync.go itself
	entries []tidemark.ClientEntry
	index   map[string]int // of entries, by uid

	asked   *tidemark.Predicate // the where
	selects *tidemark.Predicate // the same, as the hooks narrowed it

	result    tidemark.SyncResult
	outside   []tidemark.RowMeta // rows that are told, though the where does not select them
	deletions []deletion
}

// deletion is a row to delete on the server.
type deletion struct {
	uid   string
	stamp tidemark.Stamp
	told  int // index in result.DeleteClient, -1 when the client is not told
}

// syncGo is sync.go(model, where, dictionary): it compares what the client holds of
// a where with what there is, and answers what each side has to do. Everything
// is checked before anything is done.
func (s *Server) syncGo(ctx context.Context, c *Call) (any, error) {
	if tidemark.TxOf(ctx) != nil { // those that it would wait for may wait for the transaction
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "a sync cannot be part of a transaction")
	}
	r, err := s.newReconciliation(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := r.narrow(); err != nil {
		return nil, err
	}
	release, err := s.syncs.hold(ctx, r.selects)
	if err != nil {
		return nil, driverError(err)
	}
	defer release()
	snap, err := r.snapshot()
	if err != nil {
		return nil, err
	}
	if err := r.compare(snap); err != nil {
		return nil, err
	}
	if err := r.delete(); err != nil {
		return nil, err
	}
	if err := r.tellOutside(); err != nil {
		return nil, err
	}
	r.texts()
	return &r.result, nil
}

func (s *Server) newReconciliation(ctx context.Context, c *Call) (*reconciliation, error) {
	name, err := tidemark.DecodeString(c.arg(0))
	if err != nil {
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "the model's name is not text")
	}
	svc, ok := s.Lookup(name)
	if !ok || svc.model == nil {
		return nil, tidemark.NewError(tidemark.CodeUnknownModel, "there is no model named '%s'", short(name))
	}
	if isNull(c.arg(1)) {
		return nil, tidemark.NewError(tidemark.CodeInvalidRequest, "the where is missing")
	}
	r := &reconciliation{reading: svc.newReading(ctx, c, c.Args[1]), server: s, call: c}
	return r, r.parse(c.arg(2))
}

func isNull(raw []byte) bool { return string(bytes.TrimSpace(raw)) == "null" }

// parse reads the client's metadata, the dictionary: an object of entries by uid.
func (r *reconciliation) parse(raw []byte) error {
	if isNull(raw) {
		return tidemark.NewError(tidemark.CodeInvalidRequest, "the dictionary is missing")
	}
	const usual = 100 // bytes of an entry
	r.index = make(map[string]int, len(raw)/usual)
	err := tidemark.EachMember(raw, func(uid string, value []byte) error {
		if err := tidemark.CheckUID(uid); err != nil {
			return err
		}
		if _, twice := r.index[uid]; twice {
			return tidemark.NewError(tidemark.CodeInvalidRequest, "an entry stands twice")
		}
		e, err := tidemark.ParseClientEntry(uid, value)
		r.index[uid] = len(r.entries)
		r.entries = append(r.entries, e)
		return err
	})
	if err != nil {
		return tidemark.Wrap(err, tidemark.CodeInvalidRequest, "the dictionary is not an object of metadata by uid: %s", tidemark.WireError(err).Message)
	}
	return nil
}

// narrow finds out what the client may sync.
func (r *reconciliation) narrow() (err error) {
	r.asked, r.selects, err = r.reading.narrow()
	return err
}

// readable returns what a row outside the where must satisfy to be the client's to read: what the hooks added. Where they
// left a member as it came, it may be theirs as well, if the client asked for the very same; what they make of a where without
// members tells. Where they refuse that one, nothing outside is the client's.
func (r *reconciliation) readable() (wheres []*tidemark.Predicate, err error) {
	more, same, err := added(r.asked, r.selects)
	if err != nil || !same || !r.setup.narrows() {
		return []*tidemark.Predicate{more}, err
	}
	all := r.svc.newReading(r.ctx, r.call, json.RawMessage("{}"))
	_, theirs, err := all.narrow()
	if err != nil {
		if err = outward(err); tidemark.Temporary(err) {
			return nil, err
		}
		return []*tidemark.Predicate{r.selects}, nil
	}
	return []*tidemark.Predicate{more, theirs}, nil
}

// added returns what the hooks have added to the where that was asked for, and whether there is a member that they
// have left as it was.
func added(asked, narrowed *tidemark.Predicate) (more *tidemark.Predicate, same bool, err error) {
	rest := tidemark.Row(narrowed.Key())
	mine := tidemark.Row(asked.Key())
	_ = tidemark.EachMember(tidemark.Row(narrowed.Key()), func(member string, value []byte) error { // the alternatives are one
		if bytes.Equal(value, mine.Get(member)) {
			rest, same = rest.Without(member), true
		}
		return nil
	})
	more, err = tidemark.ParseWhere(narrowed.Schema(), rest)
	return more, same, err
}

// snapshot reads the rows and all metadata as of one moment, and gives metadata to
// rows that have none and that the client does not know.
func (r *reconciliation) snapshot() (*tidemark.Snapshot, error) {
	uids := make([]string, len(r.entries))
	for i := range r.entries {
		uids[i] = r.entries[i].Meta.UID
	}
	snap, err := r.server.driver.Snapshot(r.ctx, r.selects, uids)
	if err != nil {
		return nil, driverError(err)
	}
	var bare []int
	for i := range snap.Selected {
		if snap.Selected[i].Meta.UID == "" {
			bare = append(bare, i)
		}
	}
	if len(bare) == 0 {
		return snap, nil
	}
	return snap, r.adopt(snap, bare)
}

// adopt gives metadata to the selected rows of the given indexes, but for those of which the
// client has an entry: that is newer than nothing. Rows that changed meanwhile are taken as they now are.
func (r *reconciliation) adopt(snap *tidemark.Snapshot, bare []int) error {
	var uids []string
	var at []int
	for _, i := range bare {
		uid := snap.Selected[i].Row.UID()
		if _, known := r.index[uid]; !known {
			uids, at = append(uids, uid), append(at, i)
		}
	}
	outcomes, err := r.server.adopt(r.ctx, r.svc.name, uids)
	if err != nil {
		return err
	}
	for i := range outcomes {
		if o := &outcomes[i]; o.Err == nil {
			snap.Selected[at[i]] = tidemark.RowMeta{Row: o.Row, Meta: o.Meta}
		}
	}
	snap.Selected = slices.DeleteFunc(snap.Selected, func(rm tidemark.RowMeta) bool { return !r.selects.Match(rm.Row) })
	return nil
}

// compare decides for each row, in the order in which they are met: those that
// the where selects, then the client's others.
func (r *reconciliation) compare(snap *tidemark.Snapshot) error {
	left, err := r.after(snap.Selected)
	if err != nil {
		return err
	}
	if len(r.entries) == 0 { // a first sync: all go to the client
		r.result.AddClient = make([]tidemark.RowMeta, 0, len(snap.Selected))
	}
	met := make([]bool, len(r.entries))
	for _, rm := range snap.Selected {
		uid := rm.Row.UID()
		d := tidemark.Drifted{Selected: true, Present: true, Server: rm.Meta}
		if i, ok := r.index[uid]; ok {
			d.Client, met[i] = &r.entries[i], true
		}
		if left != nil {
			row, visible := left[uid]
			if d.Selected = visible; visible {
				rm.Row = row
			}
		}
		r.decide(uid, d, rm)
	}
	others := make(map[string]tidemark.RowMeta, len(snap.Others))
	for _, rm := range snap.Others {
		uid := rm.Meta.UID
		if uid == "" {
			uid = rm.Row.UID()
		}
		others[uid] = rm
	}
	for i := range r.entries {
		if met[i] {
			continue
		}
		uid := r.entries[i].Meta.UID
		rm := others[uid]
		r.decide(uid, tidemark.Drifted{Present: rm.Row != nil, Server: rm.Meta, Client: &r.entries[i]}, rm)
	}
	return nil
}

// decide notes what Reconcile says about one row.
func (r *reconciliation) decide(uid string, d tidemark.Drifted, rm tidemark.RowMeta) {
	steps := tidemark.Reconcile(d)
	rm.Meta.UID = uid
	told := -1
	switch steps.Client {
	case tidemark.ClientAdd:
		r.result.AddClient = append(r.result.AddClient, rm)
	case tidemark.ClientUpdate:
		if d.Selected {
			r.result.UpdateClient = append(r.result.UpdateClient, rm)
		} else {
			r.outside = append(r.outside, rm)
		}
	case tidemark.ClientDelete:
		told = len(r.result.DeleteClient)
		r.result.DeleteClient = append(r.result.DeleteClient, tidemark.Deletion{UID: uid, At: steps.Deleted})
	}
	switch steps.Database {
	case tidemark.DatabaseAdd:
		r.result.AddDatabase = append(r.result.AddDatabase, d.Client.Raw)
	case tidemark.DatabaseUpdate:
		r.result.UpdateDatabase = append(r.result.UpdateDatabase, d.Client.Raw)
	case tidemark.DatabaseDelete:
		r.deletions = append(r.deletions, deletion{uid: uid, stamp: steps.DeleteAt, told: told})
	}
}

// delete makes the deletions, each as a call of deleteWithMeta with its hooks and
// its publication. Each is decided again: a row that lives on is told as it is.
func (r *reconciliation) delete() error {
	m := r.svc.methods[tidemark.MethodDelete]
	for batch := range slices.Chunk(r.deletions, maxBatch) {
		runs := make([]*run, len(batch))
		for i, d := range batch {
			c := &Call{Service: r.svc.name, Method: m.name, Caller: r.call.Caller, Session: r.call.Session, Server: r.server}
			c.Args = append(c.Args, tidemark.AppendString(nil, d.uid), d.stamp.AppendJSON(nil))
			runs[i] = r.svc.newRun(r.ctx, originOf(r.ctx), m, c)
		}
		writeAll(r.ctx, runs)
		for i, run := range runs {
			if err := r.deleted(batch[i], run); err != nil {
				return err
			}
		}
	}
	r.result.DeleteClient = slices.DeleteFunc(r.result.DeleteClient, func(d tidemark.Deletion) bool { return d.UID == "" })
	return nil
}

// deleted looks at what became of a deletion. A row that was not deleted is told to
// the client instead. One that hooks or the database refuse must not stop the others.
func (r *reconciliation) deleted(d deletion, run *run) error {
	if run.err != nil {
		err := outward(run.err)
		if tidemark.Temporary(err) || r.ctx.Err() != nil {
			return err
		}
		_ = r.server.wireError(r.ctx, err, run.call) // it logs
		return r.restore(d)
	}
	if c := run.commit; c.refused && c.result.Row != nil && !c.result.Meta.Deleted() {
		r.alive(d, *c.result)
	}
	return nil
}

// restore reads a row whose deletion failed, and has the client take it back.
func (r *reconciliation) restore(d deletion) error {
	none, err := tidemark.ParseWhere(r.svc.model, append(tidemark.AppendString([]byte(`{"uid":`), d.uid), '}'))
	if err != nil {
		return err
	}
	snap, err := r.server.driver.Snapshot(r.ctx, none, nil)
	if err != nil {
		return driverError(err)
	}
	for _, rm := range snap.Selected {
		r.alive(d, rm)
	}
	return nil
}

func (r *reconciliation) alive(d deletion, rm tidemark.RowMeta) {
	rm.Meta.UID = d.uid
	if d.told >= 0 {
		r.result.DeleteClient[d.told].UID = ""
	}
	r.outside = append(r.outside, rm)
}

// tellOutside has the client take the rows that the where does not select, which its own
// predicate then drops. Those that the hooks keep from it are not told; it drops them.
func (r *reconciliation) tellOutside() error {
	if len(r.outside) == 0 {
		return nil
	}
	left, err := r.after(r.outside)
	if err != nil {
		return err
	}
	readable, err := r.readable()
	if err != nil {
		return err
	}
	for _, rm := range r.outside {
		visible := !slices.ContainsFunc(readable, func(p *tidemark.Predicate) bool { return !p.Match(rm.Row) })
		if left != nil {
			row, there := left[rm.Meta.UID]
			rm.Row, visible = row, visible && there
		}
		if visible {
			r.result.UpdateClient = append(r.result.UpdateClient, rm)
			continue
		}
		at := rm.Meta.T()
		if i, ok := r.index[rm.Meta.UID]; ok {
			at = max(at, r.entries[i].Meta.T())
		}
		r.result.DeleteClient = append(r.result.DeleteClient, tidemark.Deletion{UID: rm.Meta.UID, At: at})
	}
	return nil
}

// texts makes the large integers of the rows text, where that is asked for.
func (r *reconciliation) texts() {
	if !r.server.opts.IntegersAsText || r.call.Caller != CallerClient {
		return
	}
	for _, list := range [][]tidemark.RowMeta{r.result.AddClient, r.result.UpdateClient} {
		for i := range list {
			list[i].Row = textOfIntegers(r.svc.model, list[i].Row)
		}
	}
}
