package main

// clientBugs are in the client and its stores.
var clientBugs = []bug{
	{
		name: "acknowledged-early", promise: "3", what: "a write returns before its transaction is committed",
		edits: []edit{{"client/work.go", `	err := c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		w.tx = tx
		return fn(w)
	})
`, `	made := make(chan error, 2)
	go func() {
		made <- c.store.Update(ctx, func(tx tidemark.StoreTx) error {
			w.tx = tx
			err := fn(w)
			made <- err
			return err
		})
	}()
	err := <-made
`}},
		found: simulator,
	},
	{
		name: "dequeued-early", promise: "3", what: "a write leaves the outbox before its verdict is stored",
		edits: []edit{{"client/outbox.go", `	return s.c.commit(ctx, func(w *work) error { return w.conclude(ds) })
`, `	ns := make([]int64, len(ds))
	for i := range ds {
		ns[i] = ds[i].n
	}
	if err := s.c.commit(ctx, func(w *work) error { return w.dequeue(ns) }); err != nil {
		return err
	}
	return s.c.commit(ctx, func(w *work) error { return w.conclude(ds) })
`}},
		found: simulator,
	},
	{
		name: "captured-rollback", promise: "5", what: "a rejection puts back the server's row, without the other pending writes",
		edits: []edit{{"client/work.go", `		r.Pending = len(pending[r.UID])
`, `		r.Pending = len(pending[r.UID])
		if len(w.rejections) > 0 {
			r.Row = r.Base
		}
`}},
		found: simulator,
	},
	{
		name: "progress-first", promise: "1", what: "the progress of a pass is stored before the rows, in a transaction of its own",
		edits: []edit{{"client/pull.go", `	return s.c.commit(ctx, func(w *work) error {
		for i := range pages {
			if err := w.storePage(&pages[i]); err != nil {
				return err
			}
		}
		return nil
	})
`, `	err := s.c.commit(ctx, func(w *work) error {
		for i := range pages {
			a := pages[i]
			a.page, a.last = &tidemark.ScopePage{}, a.last && !a.asked.fresh()
			if err := w.storePage(&a); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.c.commit(ctx, func(w *work) error {
		for i := range pages {
			a := pages[i]
			if _, err := w.hearPage(&a); err != nil {
				return err
			}
			if a.asked = a.next; a.last && a.asked.fresh() {
				a.page = &tidemark.ScopePage{}
				if err := w.storePage(&a); err != nil {
					return err
				}
			}
		}
		return nil
	})
`}},
		found: test{"client", "^TestProcessThatDiesAfterAnyTransactionGoesOn$", 0},
	},
	{
		name: "stays", promise: "1", what: "a row that left its scope stays on the device",
		edits: []edit{{"client/pull.go", `	guard := passing || r.Pending > 0
`, `	guard := passing || r.Pending > 0
	if !d.Deleted {
		return false
	}
`}},
		found: simulator,
	},
	{
		name: "half-a-row", promise: "5", what: "of a row that left, what is shown is only what pending writes wrote of it",
		edits: []edit{{"client/pull.go", `	case d.Deleted || r.Pending == 0:
`, `	case true:
`}},
		found: simulator,
	},
	{
		name: "no-stamp-check", promise: "2", what: "what the server says is applied over what is newer",
		edits: []edit{{"client/apply.go", `	if r.Meta.UID != "" && r.Meta.T() > t.Meta.T() && (r.Meta.CreatedAt != untold || len(t.Row) == 0) {
		return false
	}
`, ``}},
		found: test{"client", "^TestOlderPageDoesNotCoverALiveChange$", 0},
	},
	{
		name: "first-page-is-last", promise: "1", what: "a pass is complete after its first page",
		edits: []edit{{"client/pull.go", `sub.pass, &next, page.After == ""`, `sub.pass, &next, true`}},
		found: simulator,
	},
	{
		name: "unseen-stays", promise: "1", what: "what a pass from the beginning did not tell is not dropped at its end",
		edits: []edit{{"client/pull.go", `		if a.asked.fresh() && !filled {
`, `		if a.asked.fresh() && !filled && false {
`}},
		found: simulator,
	},
	{
		name: "cursor-in-a-pass", promise: "1", what: "the session's cursor is taken by a scope whose pass is under way",
		edits: []edit{{"client/live.go", `		if !sub.complete {
			continue
		}
		saved`, `		saved`}},
		found: test{"client", "^TestCursorOfTheSessionIsNotThatOfAScopeWhosePassIsUnderWay$", 0},
	},
	{
		name: "not-dialled-again", promise: "1", what: "after some failures the timer of the next attempt is not armed",
		edits: []edit{{"client/link.go", `		c.pause(online, d)
`, `		if wait.failures > 4 {
			d = 1 << 62
		}
		c.pause(online, d)
`}},
		found: simulator,
	},
	{
		name: "not-pushed-again", promise: "1", what: "nothing wakes the session when the outbox is to be sent again",
		edits: []edit{{"client/session.go", `		earlier(s.pushing.retryAt)
`, `		_ = s.pushing.retryAt
`}},
		found: simulator,
	},
	{
		name: "guardless-leave", promise: "1", what: "a row that left during a pass is not remembered, and an older page brings it back",
		edits: []edit{{"client/pull.go", `	guard := passing || r.Pending > 0
`, `	guard := passing && false
`}},
		found: test{"client", "^TestRowThatLeftWhileAPageIsOnItsWayStaysAway$", 0},
	},
	{
		name: "normal", promise: "3", what: "the file is opened with synchronous=NORMAL, and nobody minds",
		edits: []edit{
			{"store/sqlite/file.go", `return dsn(path, "FULL")`, `return dsn(path, "NORMAL")`},
			{"store/sqlite/file.go", `	wanted := int64(2) // FULL
`, `	wanted := int64(1)
`},
		},
		found: test{"internal/torture", "^TestAPowerCutLosesNothingAcknowledged$", 0},
	},
	{
		name: "normal-accepted", promise: "3", what: "a handle with synchronous=NORMAL is not refused",
		edits: []edit{{"store/sqlite/file.go", `	wanted := int64(2) // FULL
`, `	wanted := int64(1)
`}},
		found: test{"store/sqlite", "^TestHandlesThatAreNotSetUpAreRefused$", 0},
	},
	{
		name: "numbers-again", promise: "3", what: "the outbox gives a number again when it was empty",
		edits: []edit{{"store/sqlite/outbox.go", "`DELETE FROM tidemark_mutations WHERE n < (SELECT max(n) FROM tidemark_mutations)\n		AND n IN", "`DELETE FROM tidemark_mutations WHERE n IN"}},
		found: test{"store/sqlite", "^TestStore$", 0},
	},
	{
		name: "seen-is-lost", promise: "1", what: "a store forgets in which pass a row was told of",
		edits: []edit{{"store/sqlite/put.go", `int64(r.Pending), r.Seen)`, `int64(r.Pending), int64(0))`}},
		found: simulator,
	},
	{
		name: "restore-unnoticed", promise: "1", what: "a catch-up that does not tell again what was told live is taken for whole, after the server was put back",
		edits: []edit{{"client/told.go", `			whole = whole && (len(rows) == 0 || a.asked.fresh())
`, ``}},
		found: restores,
	},
	{
		name: "verdicts-unmissed", promise: "1", what: "a server that knows less than it had decided is not noticed, after it was put back",
		edits: []edit{{"client/identity.go", `d.Name == string(name) && d.N > known`, `d.Name == string(name) && d.N > known && false`}},
		found: restores,
	},
	{
		name: "lost-tombstone", promise: "1", what: "a tombstone of a version that the server has lost keeps the row away when the server has it again",
		edits: []edit{{"client/apply.go", ` && (r.Meta.CreatedAt != untold || len(t.Row) == 0) {`, ` {`}},
		found: test{"client", "^TestRowThatTheServerLostAndHasAgain$", 0},
	},
	{
		name: "lost-outside", promise: "1", what: "of a row that no scope selects, the version that the server has lost counts, when the server has the row again",
		edits: []edit{{"client/pull.go", `max(x.pass, w.c.loss.Load())`, `x.pass`}},
		found: test{"client", "^TestRowOutsideAllScopesThatTheServerLost$", 0},
	},
	{
		name: "tombstones-stay", promise: "7", what: "rows that left, and were to be remembered for a moment, are remembered for ever",
		edits: []edit{{"client/sync.go", `	return w.tx.Prune(model, 1<<62)
`, `	return nil
`}},
		found: simulator,
	},
	{
		name: "deletes-dropped", promise: "3", what: "a client that starts takes the pending deletes out of its outbox",
		edits: []edit{{"client/client.go", `	if err := store.View(ctx, c.recall); err != nil {
`, `	err := store.Update(ctx, func(tx tidemark.StoreTx) error {
		ms, err := tx.Outbox(0, 0)
		for _, m := range ms {
			recs, e := tx.Records(m.Model, []string{m.UID})
			if err = e; err == nil && m.Op == tidemark.Delete {
				_ = tx.Dequeue([]int64{m.N})
				err = (&work{c: c, tx: tx}).resettle(m.Model, recs)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := store.View(ctx, c.recall); err != nil {
`}},
		found: simulator,
	},
	{
		name: "rejection-dropped", promise: "5", what: "a rejection is neither stored nor told",
		edits: []edit{{"client/rejection.go", `	w.rejections = append(w.rejections, r)
	return w.tx.Save(rejectionKey(r.ID), raw)
`, `	_ = raw
	return nil
`}},
		found: simulator,
	},
	{
		name: "rejection-unlisted", promise: "5", what: "a rejection is told and not stored",
		edits: []edit{{"client/rejection.go", `	return w.tx.Save(rejectionKey(r.ID), raw)
`, `	_ = raw
	return nil
`}},
		found: simulator,
	},
	{
		name: "rejection-untold", promise: "5", what: "a rejection is stored and not told",
		edits: []edit{{"client/work.go", `	if fn := c.opts.OnRejection; fn != nil {
`, `	if fn := c.opts.OnRejection; fn != nil && len(w.rejections) > 1 {
`}},
		found: simulator,
	},
}
