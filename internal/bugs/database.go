package main

// databaseBugs are in the driver.
var databaseBugs = []bug{
	{
		name: "cursor-by-number", promise: "1", what: "PostgreSQL: a cursor is a sequence number, though the first number may commit last",
		edits: []edit{{"driver/bundriver/postgres.go", `		column: "l.xid", order: "l.xid, l.seq", backward: "l.xid DESC, l.seq DESC", kind: "xid8",
		next: "pg_snapshot_xmin(pg_current_snapshot())",`, `		column: "l.seq", order: "l.seq", backward: "l.seq DESC", kind: "bigint",
		next: "(SELECT coalesce(max(q.seq), 0) + 1 FROM " + p.table("log") + " q)",`}},
		found: test{"driver/bundriver", "^TestTheFirstNumberCommitsLast$", 0},
	},
	{
		name: "horizon-ignored", promise: "1", what: "PostgreSQL: a cursor is ahead of transactions that are still open",
		edits: []edit{{"driver/bundriver/postgres.go", `next: "pg_snapshot_xmin(pg_current_snapshot())"`, `next: "pg_snapshot_xmax(pg_current_snapshot())"`}},
		found: test{"driver/bundriver", "^TestCommitOrder$", 0},
	},
	{
		name: "no-identity", promise: "3", what: "a batch that is sent again is made again",
		edits: []edit{{"driver/bundriver/push.go", `	receipts := l.Receipts[:0:0]
`, `	repeated, l.Highest = 0, p.b.Mutations[0].N-1
	l.Receipts = l.Receipts[:min(int64(len(l.Receipts)), l.Highest-l.Confirmed)]
	receipts := l.Receipts[:0:0]
`}},
		found: test{"driver/bundriver", "^TestDriver$/^sqlite$/^a_repetition", 0},
	},
	{
		name: "one-by-one", promise: "2", what: "the members of a unit are decided one by one",
		edits: []edit{{"driver/bundriver/units.go", `		if !refused(outs[from:to]) {
			return nil
		}
`, `		if refused(outs[from:to]) || true {
			return nil
		}
`}},
		found: simulator,
	},
	{
		name: "verdict-before-commit", promise: "3", what: "a verdict is told though its commit failed",
		edits: []edit{{"driver/bundriver/push.go", `	p.witness.Ended(err == nil)
	return err
`, `	p.witness.Ended(err == nil)
	return nil
`}},
		found: test{"driver/bundriver", "^TestFailuresOfPushLeaveNothing$", 0},
	},
	{
		name: "told-before-commit", promise: "3", what: "the server hears that a push is committed before it is",
		edits: []edit{{"driver/bundriver/push.go", `	err := t.commit(ctx)
	p.witness.Ended(err == nil)
`, `	p.witness.Ended(true)
	err := t.commit(ctx)
`}},
		found: test{"driver/bundriver", "^TestFailuresOfPushLeaveNothing$", 0},
	},
	{
		name: "verdict-apart", promise: "3", what: "the verdict is stored in a transaction of its own",
		edits: []edit{{"driver/bundriver/push.go", `		l.Record(p.b, f.outs)
		return t.putLedger(p.b.Client, l)
`, `		l.Record(p.b, f.outs)
		go func() {
			if later, err := t.d.begin(context.WithoutCancel(ctx)); err == nil {
				if later.do(ctx, later.putLedger(p.b.Client, l)) == nil {
					_ = later.commit(ctx)
				}
				later.end(ctx)
			}
		}()
		return t.putLedger("nobody", l)
`}},
		found: simulator,
	},
	{
		name: "leaves-forgotten", promise: "1", what: "who comes back is not told of rows that left his scope meanwhile",
		edits: []edit{{"driver/bundriver/pull.go", `	if err != nil || len(gone) == 0 {
		return err
	}
	return p.gone(ctx, t, gone)
`, `	if err != nil || len(gone) >= 0 {
		return err
	}
	return p.gone(ctx, t, gone)
`}},
		found: simulator,
	},
	{
		name: "cursor-off-by-one", promise: "1", what: "the first change behind a cursor is not told",
		edits: []edit{{"driver/bundriver/pull.go", `pos.column + " >= " + pos.bound`, `pos.column + " > " + pos.bound`}},
		found: simulator,
	},
}
