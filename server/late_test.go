package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// landsLate is a driver whose connection breaks at a commit that lands later, or never.
type landsLate struct {
	*memory.Driver
	before tidemark.Row
	landed chan []tidemark.Mutation
}

func (s *landsLate) WriteTx(_ context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	row := tidemark.Row(fmt.Sprintf(`{"uid":%q}`, ms[0].UID)).Merge(s.before).Merge(ms[0].Data)
	w.Decided(0, []tidemark.Outcome{{Applied: true, Changed: true, Row: row, Before: s.before, Meta: tidemark.Meta{UID: ms[0].UID, CreatedAt: stamp(1), UpdatedAt: ms[0].Stamp}}})
	w.Ended(false)
	s.landed <- ms
	return nil, tidemark.NewError(tidemark.CodeUnavailable, "the connection broke")
}

// No cursor passes over a commit that lands after its connection broke, and after the rows were looked at.
func TestACommitThatLandsLate(t *testing.T) {
	t.Parallel()
	for _, moves := range []bool{false, true} {
		t.Run(fmt.Sprint("moves away ", moves), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := memory.New(schemas(t)...)
				d := &landsLate{Driver: db, landed: make(chan []tidemark.Mutation, 1), before: tidemark.Row(`{"uid":"x","title":"old","owner":"me"}`)}
				if _, err := db.Write(t.Context(), []tidemark.Mutation{{Model: "post", UID: "x", Op: tidemark.Create, Data: d.before.Without("uid"), Stamp: stamp(1)}}); err != nil {
					t.Fatal(err)
				}
				all, err := tidemark.Where{}.Compile(db.Models()[0])
				if err != nil {
					t.Fatal(err)
				}
				rows, err := db.Find(t.Context(), all, 0)
				if err != nil || len(rows) != 1 {
					t.Fatal(rows, err)
				}
				d.before = rows[0]
				b := setupOver(t, db, d, nil)
				reader := b.dial()
				names := map[int64]string{reader.open(wanted("post", `{"owner":"me"}`)).Scopes[0].Scope: "mine"}
				patch := map[string]any{"title": "late"}
				if moves {
					patch["owner"] = "you"
				}
				if _, err := b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", patch, stamp(2)); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
					t.Errorf("got %v", err)
				}
				<-time.After(time.Second)
				synctest.Wait()
				equalList(t, reader.told(names), nil)
				ms := <-d.landed
				if _, err := db.WriteTx(t.Context(), ms, hears{}); err != nil {
					t.Fatal(err)
				}
				b.server.ArmCursor()
				<-time.After(time.Minute)
				synctest.Wait()
				if n := reader.cursors(); n != 0 {
					t.Errorf("%d cursors pass over it", n)
				}
			})
		})
	}
}

// hears is a witness that has nothing to say.
type hears struct{}

func (hears) Decided(int, []tidemark.Outcome) {}
func (hears) Ended(bool)                      {}

// What was rolled back costs nobody a cursor.
func TestWhatWasRolledBackIsNotInDoubtForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(schemas(t)...)
		u := &uncertain{Driver: db}
		b := setupOver(t, db, u, nil)
		reader := b.dial()
		reader.open(wanted("post", `{}`))
		_, _ = b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", map[string]any{"title": "rolled back"}, stamp(1))
		synctest.Wait()
		if n := b.server.Doubts(); n != 1 {
			t.Errorf("%d rows are in doubt, want 1", n)
		}
		<-time.After(2 * time.Minute)
		b.server.ArmCursor()
		<-time.After(time.Minute)
		synctest.Wait()
		if n := b.server.Doubts(); n != 0 {
			t.Errorf("%d rows are in doubt", n)
		}
		if n := reader.cursors(); n != 1 {
			t.Errorf("%d cursors came, want 1", n)
		}
	})
}

// cursors returns how many cursors came.
func (c *client) cursors() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if m.Event == tidemark.EventCursor {
			n++
		}
	}
	return n
}

// Members of channels hear of a commit that lands after its rows were looked at, and nothing of one that never does.
func TestChannelsHearOfACommitThatLandsLate(t *testing.T) {
	t.Parallel()
	for _, lands := range []time.Duration{0, 500 * time.Millisecond, 3 * time.Second, time.Hour} {
		t.Run(lands.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := memory.New(schemas(t)...)
				d := &landsLate{Driver: db, landed: make(chan []tidemark.Mutation, 1)}
				b := setupOver(t, db, d, nil).shared()
				member := b.dial()
				if _, err := b.server.Service("post").Call(t.Context(), "createWithMeta", "x", map[string]any{"title": "late"}, stamp(1)); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
					t.Errorf("got %v", err)
				}
				<-time.After(lands)
				ms := <-d.landed
				if _, err := db.WriteTx(t.Context(), ms, hears{}); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Minute)
				synctest.Wait()
				want := 1
				if lands == time.Hour {
					want = 0
				}
				if got := member.events(); len(got) != want {
					t.Errorf("heard %q", got)
				}
				if n := b.server.Rows(); n != 0 {
					t.Errorf("%d rows have events under way", n)
				}
			})
		})
	}
}

// interrupted is a driver whose commit is made and not answered; somebody writes the row while it is looked at.
type interrupted struct {
	*memory.Driver
	lost, seen bool
	write      func()
}

func (o *interrupted) WriteTx(ctx context.Context, ms []tidemark.Mutation, w tidemark.Witness) ([]tidemark.Outcome, error) {
	if o.lost {
		return o.Driver.WriteTx(ctx, ms, w)
	}
	o.lost = true
	_, err := o.Driver.WriteTx(ctx, ms, deaf{w})
	return nil, errors.Join(err, tidemark.NewError(tidemark.CodeUnavailable, "the connection broke"))
}

func (o *interrupted) Snapshot(ctx context.Context, p *tidemark.Predicate, uids []string) (*tidemark.Snapshot, error) {
	snap, err := o.Driver.Snapshot(ctx, p, uids)
	if !o.seen {
		o.seen = true
		o.write()
	}
	return snap, err
}

// A commit that is found is told before what was written after it was found.
func TestACommitThatIsFoundIsToldInItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := memory.New(schemas(t)...)
		o := &interrupted{Driver: db}
		b := setupOver(t, db, o, nil).shared()
		member := b.dial()
		o.write = func() {
			if _, err := b.server.Service("post").Call(t.Context(), "updateWithMeta", "x", map[string]any{"title": "later"}, stamp(2)); err != nil {
				t.Error(err)
			}
		}
		if _, err := b.server.Service("post").Call(t.Context(), "createWithMeta", "x", map[string]any{"title": "found"}, stamp(1)); tidemark.CodeOf(err) != tidemark.CodeUnavailable {
			t.Errorf("got %v", err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		got := member.events()
		if len(got) != 2 || !strings.Contains(got[0], "found") || !strings.Contains(got[1], "later") {
			t.Errorf("heard %q", got)
		}
	})
}
