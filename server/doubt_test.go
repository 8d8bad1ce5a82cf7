package server_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// uncertain is a driver whose commit is not confirmed.
type uncertain struct {
	*memory.Driver
	mu        sync.Mutex
	committed bool  // what becomes of the next write
	reads     error // of the rows afterwards
}

// deaf hears that the transaction ended, and not how.
type deaf struct{ tidemark.Witness }

func (d deaf) Ended(bool) { d.Witness.Ended(false) }

func (u *uncertain) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	u.mu.Lock()
	committed := u.committed
	u.mu.Unlock()
	lost := tidemark.NewError(tidemark.CodeUnavailable, "the connection broke")
	err := u.Driver.RunInTx(ctx, func(ctx context.Context) error {
		if _, err := u.Driver.WriteTx(ctx, ms, deaf{w}); err != nil || !committed {
			return errors.Join(err, lost)
		}
		return nil
	})
	return nil, errors.Join(err, lost)
}

func (u *uncertain) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reads != nil {
		return nil, u.reads
	}
	return u.Driver.Snapshot(ctx, p, uids)
}

// Where the answer to a commit is lost, the sessions hear of it if it was one.
func TestACommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	u := &uncertain{Driver: db}
	b := setupOver(t, db, u, nil)
	reader, bystander := b.dial(), b.dial()
	names := map[int64]string{reader.open(wanted("post", `{"owner":"me"}`)).Scopes[0].Scope: "mine"}
	bystander.open(wanted("tag", `{}`))
	set := func(committed bool, reads error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.committed, u.reads = committed, reads
	}
	write := func(title string, s int) {
		if _, err := b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", map[string]any{"title": title, "owner": "me"}, stamp(s)); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		b.quiet()
	}
	set(false, nil)
	write("rolled back", 1)
	set(true, nil)
	write("committed", 2)
	reader.mark()
	equalList(t, reader.told(names), []string{`row x "committed" in mine`})
	set(true, errors.New("still broken"))
	write("unknown", 3)
	if reason := reader.waitClosed(); !reason.Resumable() {
		t.Errorf("closed for %s", reason)
	}
	bystander.mark() // it goes on
}
