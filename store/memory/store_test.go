package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		s := memory.New()
		first := true
		return storetest.Harness{Reopen: true, Open: func() (tidemark.Store, error) {
			if !first {
				s = s.Reopen()
			}
			first = false
			return s, nil
		}}
	})
}

// TestInABubble: under virtual time, an update that takes an hour, others that
// wait for it, and readers that do not.
func TestInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		hour := make(chan error, 1)
		go func() {
			hour <- s.Update(t.Context(), func(tx tidemark.StoreTx) error {
				<-time.After(time.Hour)
				return tx.Save("k", []byte("v"))
			})
		}()
		synctest.Wait()
		start := time.Now()
		err := s.View(t.Context(), func(tx tidemark.StoreTx) error {
			v, err := tx.Load("k")
			if v != nil {
				t.Errorf("a reader sees %q before it is committed", v)
			}
			return err
		})
		if err != nil || time.Since(start) != 0 {
			t.Errorf("the reader waited %v (%v)", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Update(ctx, func(tidemark.StoreTx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the update that waited returned %v", err)
		}
		if err := errors.Join(s.Close(), <-hour); err != nil {
			t.Error(err)
		}
	})
}

// TestReopenIsACrash: what was not committed is lost, also when its update still runs.
func TestReopenIsACrash(t *testing.T) {
	t.Parallel()
	s := memory.New()
	save := func(s *memory.Store, key string, during func()) error {
		return s.Update(t.Context(), func(tx tidemark.StoreTx) error {
			during()
			return tx.Save(key, []byte("v"))
		})
	}
	if err := save(s, "before", func() {}); err != nil {
		t.Fatal(err)
	}
	var next *memory.Store
	if err := save(s, "cut", func() { next = s.Reopen() }); !errors.Is(err, tidemark.ErrClosed) {
		t.Errorf("the update that was cut returned %v", err)
	}
	err := next.View(t.Context(), func(tx tidemark.StoreTx) error {
		es, err := tx.Entries("")
		if len(es) != 1 || es[0].Key != "before" {
			t.Errorf("entries %v", es)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
