package bundriver

import "context"

// request is a statement with what is to become of its result.
type request struct {
	m         *model // the model that it is about, which explains refusals; may be nil
	statement string
	args      []any

	// races says that a refusal means that somebody else came in between.
	races bool

	// reads and each are for a statement that returns rows: each is called for every one, when
	// reads has it.
	reads *reader
	each  func() error
	// done, which may be nil, gets the number of rows that were returned or concerned.
	done func(n int) error
}

// silent is a statement whose result does not matter.
func silent(statement string) request { return request{statement: statement} }

// do makes the statements, in their order. Over pgx they travel together: they wait for one
// round trip, and what stands behind a statement that fails is not made.
func (t *tx) do(ctx context.Context, requests ...request) error {
	requests = append(t.first, requests...)
	t.first = nil
	if len(requests) == 0 {
		return nil
	}
	if t.piped {
		return t.pipeline(ctx, requests)
	}
	for i := range requests {
		if err := t.make(ctx, &requests[i]); err != nil {
			return err
		}
	}
	return nil
}

// make makes one statement through database/sql.
func (t *tx) make(ctx context.Context, q *request) error {
	if q.reads == nil {
		n, err := t.affect(ctx, q.m, q.statement, q.args...)
		err = q.explain(err)
		if err == nil && q.done != nil {
			err = q.done(n)
		}
		return err
	}
	n := 0
	err := t.query(ctx, q.reads, q.m, func() error {
		n++
		return q.each()
	}, q.statement, q.args...)
	if err == nil && q.done != nil {
		err = q.done(n)
	}
	return err
}

// explain returns the statement's error as what it means.
func (q *request) explain(err error) error {
	if q.races && refusal(err) != nil {
		return &retryError{err}
	}
	return err
}
