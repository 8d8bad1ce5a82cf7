package server_test

import (
	"context"
	"fmt"
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
