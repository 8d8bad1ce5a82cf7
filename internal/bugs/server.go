package main

// serverBugs are in the server, the transport and the rules that all share.
var serverBugs = []bug{
	{
		name: "tie", promise: "4", what: "of two updates with one stamp the later one to come wins",
		edits: []edit{{"mutation.go", `	return stamp > meta.T()
`, `	return stamp >= meta.T()
`}},
		found: simulator,
	},
	{
		name: "tombstone-dropped", promise: "4", what: "an older write brings a deleted row back",
		edits: []edit{{"mutation.go", `	case meta.UID == "":
		return true
`, `	case meta.UID == "" || meta.Deleted() && op != Adopt:
		return true
`}},
		found: simulator,
	},
	{
		name: "clamp-out-of-order", promise: "4", what: "a stamp that is ahead becomes the server's time, whatever came before it",
		edits: []edit{{"server/model.go", `	return s.clock.Clamp(stamp, s.opts.MaxDrift)
`, `	now := tidemark.StampOf(s.opts.Now())
	if stamp > now+tidemark.Stamp(s.opts.MaxDrift.Microseconds()) {
		return now
	}
	return stamp
`}},
		found: test{"server", "^(TestPushClampsStamps|TestClockAhead)$", 0},
	},
	{
		name: "before-forgotten", promise: "1", what: "nobody is told that a row left his scope: the row before is not looked up",
		edits: []edit{{"server/live.go", `		all = m.index.Lookup(it.before, all)
`, `		all = m.index.Lookup(nil, all)
`}},
		found: simulator,
	},
	{
		name: "scope-by-model", promise: "6", what: "sessions share a scope because it is of the same model",
		edits: []edit{{"server/scope.go", `	sc := m.byKey[p.Key()]
	if sc == nil {
`, `	sc := m.byKey[p.Key()]
	for _, other := range m.byKey {
		sc = other
	}
	if sc == nil {
`}},
		found: simulator,
	},
	{
		name: "page-before-live", promise: "1", what: "the first page of a scope is read before the scope is live",
		edits: []edit{{"server/open.go", `	room := s.opts.PageBytes
	for i := range subs {
		if subs[i].scope != nil && room > 0 {
			room -= s.firstPage(ctx, c, session, &subs[i], room)
		}
	}
`, `	room := s.opts.PageBytes
	for i := range subs {
		if subs[i].scope != nil && room > 0 {
			s.live.scopes.remove(session, subs[i].scope.number)
			room -= s.firstPage(ctx, c, session, &subs[i], room)
			subs[i].scope, _, _ = s.live.scopes.add(session, subs[i].where, s.opts.MaxScopes)
			answers[i].Scope = subs[i].scope.number
		}
	}
`}},
		found: test{"server", "^TestAScopeIsLiveBeforeItIsRead$", 0},
	},
	{
		name: "order-of-events", promise: "2", what: "an event leaves when it is made, and not behind those before it",
		edits: []edit{{"server/order.go", `	for len(q.slots) > 0 && q.slots[0].filled && q.slots[0].settled {
		first := q.slots[0]
		q.slots = q.slots[1:]
`, `	for {
		i := slices.IndexFunc(q.slots, func(s *slot) bool { return s.filled && s.settled })
		if i < 0 {
			break
		}
		first := q.slots[i]
		q.slots = slices.Delete(q.slots, i, i+1)
`}},
		found: test{"server", "^TestEventsLeaveInTheOrderOfCommits$", 0},
	},
	{
		name: "cursor-overtakes", promise: "1", what: "a cursor is told before what is below it",
		edits: []edit{{"server/cursor.go", `	case <-c.live.landing():
`, `	case <-time.After(0):
`}},
		found: test{"server", "^TestCursorDoesNotOvertakeAChange$", 0},
	},
	{
		name: "unanswered", promise: "1", what: "channels do not hear of a write whose commit was not answered",
		edits: []edit{{"server/unanswered.go", `	if d == nil || len(runs) == 0 || !tidemark.Temporary(err) {
`, `	if true {
`}},
		found: test{"server", "^(TestChannelsHearOfACommitWhoseAnswerIsLost|TestChannelsHearOfAPushWhoseAnswerIsLost)$", 0},
	},
	{
		name: "not-looked-again", promise: "1", what: "channels do not hear of a commit that lands after its rows were looked at",
		edits: []edit{{"server/unanswered.go", `		case len(u.ms) == 0 || len(again) == 0:
`, `		case true:
`}},
		found: test{"server", "^TestChannelsHearOfACommitThatLandsLate$", 0},
	},
	{
		name: "slow-reader-skipped", promise: "7", what: "who reads too slowly misses messages, and is not cut off",
		edits: []edit{{"transport/socketio/session.go", `		s.abandon(tidemark.ClosedSlowReader)
		return tidemark.ErrSlowReader
`, `		return nil
`}},
		found: test{"transport/socketio", "^TestConformance$", 0},
	},
	{
		name: "journal-grows", promise: "7", what: "events are kept for their time, however many there are",
		edits: []edit{{"server/journal.go", `	for j.bytes > j.limit {
`, `	for j.bytes < 0 {
`}},
		found: simulator,
	},
	{
		name: "scopes-stay", promise: "7", what: "the scopes of a session that ended stay live",
		edits: []edit{{"server/scope.go", `	for _, sc := range scopes {
`, `	for _, sc := range scopes {
		if sc.number > 0 {
			break
		}
`}},
		found: simulator,
	},
	{
		name: "broken-stay", promise: "7", what: "sessions that broke are kept for ever",
		edits: []edit{{"server/shelf.go", `e != nil && !now.Before(e.Value.(*shelved).expires)`, `e != nil && now.Before(e.Value.(*shelved).expires.Add(-s.age-1))`}},
		found: simulator,
	},
}
