package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/sqlite"
)

// TestAFullDisk refuses the update whole, and the store works on when there is room.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	s, db := openWith(t, file(t), 1, nil)
	if err := s.Declare(t.Context(), itemSchema(t, true)); err != nil {
		t.Fatal(err)
	}
	put(t, s, tidemark.Row(`{"uid":"a"}`))
	if _, err := db.Exec("PRAGMA max_page_count = 40"); err != nil {
		t.Fatal(err)
	}
	big := tidemark.Row(`{"uid":"b","name":"` + strings.Repeat("x", 1<<20) + `"}`)
	err := s.Update(t.Context(), func(tx tidemark.StoreTx) error {
		if err := tx.Save("k", []byte("v")); err != nil {
			return err
		}
		first := tx.Put("item", []tidemark.Record{{UID: "b", Row: big, Base: big}})
		if again := tx.Save("k2", []byte("v")); again == nil || first == nil {
			t.Errorf("after %v the transaction goes on: %v", first, again)
		}
		return nil // a caller that overlooks errors
	})
	if tidemark.CodeOf(err) != tidemark.CodeUnavailable {
		t.Errorf("Update returned %v", err)
	}
	if _, err := db.Exec("PRAGMA max_page_count = 100000"); err != nil {
		t.Fatal(err)
	}
	put(t, s, tidemark.Row(`{"uid":"c"}`))
	err = s.View(t.Context(), func(tx tidemark.StoreTx) error {
		es, err := tx.Entries("")
		if len(es) != 0 {
			t.Errorf("half of the update is there: %v", es)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheHandleIsClosedFirst: when an application closes its handle too early, the
// store works on with the connections that it keeps or returns ErrClosed, and Close ends.
func TestTheHandleIsClosedFirst(t *testing.T) {
	t.Parallel()
	for _, connections := range []int{0, 1} {
		s, db := openWith(t, file(t), connections, nil)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		err := s.View(t.Context(), func(tidemark.StoreTx) error { return nil })
		err2 := s.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Save("k", nil) })
		for _, err := range []error{err, err2} {
			if kept := connections == 0; !errors.Is(err, tidemark.ErrClosed) && !(kept && err == nil) {
				t.Errorf("%d connections: %v", connections, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestASearchEndsWithItsContext: ctx interrupts a search through many rows.
func TestASearchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _ := open(t, filled(t, 5000), nil)
	p, err := tidemark.Where{"name": "none"}.Compile(itemSchema(t, true))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := s.Find(ctx, p)
			result <- err
		}()
		cancel()
		if err := <-result; err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if _, err := s.Find(t.Context(), p); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestInABubble: under virtual time, an update that takes an hour, and others that wait for it.
func TestInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, err := sql.Open("sqlite3", sqlite.DSN(":memory:"))
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		s, err := sqlite.Open(t.Context(), db, nil)
		if err != nil {
			t.Fatal(err)
		}
		hour := make(chan error, 1)
		go func() {
			hour <- s.Update(t.Context(), func(tx tidemark.StoreTx) error {
				<-time.After(time.Hour)
				return tx.Save("k", []byte("v"))
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Update(ctx, func(tidemark.StoreTx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the update that waited returned %v", err)
		}
		if err := errors.Join(s.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Save("k2", []byte("v")) }), <-hour); err != nil {
			t.Error(err)
		}
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
}
