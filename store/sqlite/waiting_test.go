package sqlite_test

import (
	"database/sql"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// TestARecordDoesNotGrowWithItsPendingWrites: else each write of a row would write again what
// names all the writes before it.
func TestARecordDoesNotGrowWithItsPendingWrites(t *testing.T) {
	t.Parallel()
	s, db := open(t, file(t), nil)
	if err := s.Declare(t.Context(), posts); err != nil {
		t.Fatal(err)
	}
	rec := makePosts(1)[0].record()
	m := tidemark.Mutation{Model: "post", UID: rec.UID, Op: tidemark.Update, Data: tidemark.Row(`{"title":"t"}`), Stamp: 5}
	for range 200 {
		err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
			rec.Pending++
			if err := tx.Enqueue([]tidemark.Mutation{m}); err != nil {
				return err
			}
			return tx.Put("post", []tidemark.Record{rec})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 200 { // without a Put
		if err := s.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Enqueue([]tidemark.Mutation{m}) }); err != nil {
			t.Fatal(err)
		}
	}
	var longest sql.NullInt64
	if err := db.QueryRow("SELECT max(length(waiting)) FROM tidemark_rows_1").Scan(&longest); err != nil {
		t.Fatal(err)
	}
	if longest.Int64 < 10 || longest.Int64 > 100 {
		t.Errorf("the numbers that wait take %d characters, with 400 pending", longest.Int64)
	}
	err := s.View(t.Context(), func(tx tidemark.StoreTx) error {
		ms, err := tx.Pending("post", []string{rec.UID})
		if len(ms) != 400 {
			t.Errorf("%d are pending", len(ms))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
