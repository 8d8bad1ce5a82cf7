package bundriver_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// A row that has metadata is kept from others by its lock; only others' uids are claimed.
func TestOnlyUnknownRowsAreClaimed(t *testing.T) {
	t.Parallel()
	d, db, c := openCounted(t, engines[0])
	claims := 0
	c.fail = func(statement string) error {
		if strings.HasPrefix(statement, `INSERT INTO "tidemark"."uids"`) && strings.HasSuffix(statement, "RETURNING uid") {
			claims++
		}
		return nil
	}
	number := int64(0)
	push := func(ms ...tidemark.Mutation) int {
		t.Helper()
		claims = 0
		first := number + 1
		for i := range ms {
			number++
			ms[i].N = number
		}
		verdicts, err := d.Push(t.Context(), &tidemark.Batch{Client: "c", Confirmed: first - 1, Mutations: ms}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range verdicts {
			if !v.Applied {
				t.Fatalf("mutation %d: %+v", v.N, v.Outcome)
			}
		}
		return claims
	}
	if n := push(creates(3)...); n != 1 {
		t.Errorf("three creates claimed %d times", n)
	}
	if n := push(note("u000000", 2, 20), note("u000001", 2, 20)); n != 0 {
		t.Errorf("updates of known rows claimed %d times", n)
	}
	if n := push(tidemark.Mutation{Model: "note", UID: "u000002", Op: tidemark.Delete, Stamp: 20}); n != 0 {
		t.Errorf("a delete of a known row claimed %d times", n)
	}
	if n := push(note("u000000", 3, 30), note("unknown", 3, 30)); n != 1 {
		t.Errorf("updates of a known and an unknown row claimed %d times", n)
	}
	// Made behind the driver's back: there is nothing to lock.
	mustExec(t, db, "INSERT INTO note (uid) VALUES ('alien')")
	if n := push(note("alien", 4, 40)); n != 1 {
		t.Errorf("an update of a row without metadata claimed %d times", n)
	}
	outs, err := d.Write(t.Context(), []tidemark.Mutation{note("nobody's", 1, 0)})
	if err != nil || outs[0].Err == nil && outs[0].Applied {
		t.Fatalf("an update without a date: %+v, %v", outs, err)
	}
	var left int
	if err := db.NewSelect().TableExpr("tidemark.uids").ColumnExpr("count(*)").Where("uid = ?", "nobody's").Scan(t.Context(), &left); err != nil || left != 0 {
		t.Errorf("%d uids are taken for nothing, %v", left, err)
	}
}

// Whoever comes first, a row that one creates and others change ends as the newest write has it.
func TestUpdatesRaceWithCreation(t *testing.T) {
	t.Parallel()
	d, _ := prepared.ready(t)
	for round := range 20 {
		uid := fmt.Sprint("row ", round)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				m := note(uid, i, tidemark.Stamp(10+i))
				if i == 0 {
					m.Op = tidemark.Create
				}
				if outs, err := d.Write(context.Background(), []tidemark.Mutation{m}); err != nil || outs[0].Err != nil {
					t.Errorf("write %d: %+v, %v", i, outs, err)
				}
			})
		}
		wg.Wait()
		p, err := tidemark.Where{"uid": uid}.Compile(d.Models()[0])
		if err != nil {
			t.Fatal(err)
		}
		rows, err := d.Find(t.Context(), p, 0)
		if err != nil || len(rows) != 1 || string(rows[0].Get("n")) != "3" {
			t.Fatalf("round %d: %s, %v", round, rows, err)
		}
	}
}
