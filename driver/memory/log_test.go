package memory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

func horizon(t *testing.T, d *memory.Driver) tidemark.Cursor {
	t.Helper()
	c, err := d.Horizon(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheSameRandomnessIsTheSameHistory(t *testing.T) {
	t.Parallel()
	schemas := setup(t).Models()
	history := func(seed byte) tidemark.Cursor {
		d := memory.NewWith(schemas, &memory.Options{Rand: bytes.NewReader(bytes.Repeat([]byte{seed}, 48))})
		write(t, d, tidemark.Mutation{Model: "tag", UID: "a", Op: tidemark.Create, Stamp: 1})
		return horizon(t, d)
	}
	a, b, c := history(1), history(1), history(2)
	if a != b {
		t.Errorf("%+v and %+v", a, b)
	}
	if a.Epoch == c.Epoch || a.Nonce == c.Nonce || a.Nonce == 0 {
		t.Errorf("%+v and %+v", a, c)
	}
}

func TestAnEmptyLogHasACursor(t *testing.T) {
	t.Parallel()
	d := setup(t)
	c := horizon(t, d)
	if c.IsZero() || c.Nonce != 0 {
		t.Errorf("%+v", c)
	}
	write(t, d, tidemark.Mutation{Model: "tag", UID: "a", Op: tidemark.Create, Stamp: 1})
	p, err := d.Pull(context.Background(), tidemark.Pull{Scope: all(t, d, 1), From: c, Limit: 1, Bytes: 1})
	if err != nil || len(p.Rows) != 1 || p.More || p.Horizon.At != c.At+1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// In a bubble no call may wait for a mutex that a transaction holds, and entries
// have the bubble's time.
func TestInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := setup(t)
		tag := func(uid string) []tidemark.Mutation {
			return []tidemark.Mutation{{N: 1, Model: "tag", UID: uid, Op: tidemark.Create, Stamp: 1}}
		}
		start := time.Now()
		pushed := make(chan error)
		err := d.RunInTx(t.Context(), func(ctx context.Context) error {
			if _, err := d.Write(ctx, tag("a")); err != nil {
				return err
			}
			go func() {
				_, err := d.Push(t.Context(), &tidemark.Batch{Client: "c", Mutations: tag("b")}, nil)
				pushed <- err
			}()
			<-time.After(time.Hour) // virtual: it passes only when everybody waits durably
			if p, err := d.Pull(ctx, tidemark.Pull{Scope: all(t, d, 1), Limit: 9, Bytes: 9}); err != nil || len(p.Rows) != 0 {
				return fmt.Errorf("a pull sees %+v, %w", p, err)
			}
			if _, err := d.Push(ctx, &tidemark.Batch{Client: "d", Mutations: tag("c")}, nil); tidemark.CodeOf(err) != tidemark.CodeInvalidRequest {
				return errors.New("a push in a transaction waits for itself")
			}
			return nil
		})
		if err = errors.Join(err, <-pushed); err != nil {
			t.Fatal(err)
		}
		if n, err := d.Purge(t.Context(), start.Add(time.Hour)); n != 0 || err != nil {
			t.Errorf("%d changes are older than the commit, %v", n, err)
		}
		if n, err := d.Purge(t.Context(), start.Add(time.Hour+1)); n != 2 || err != nil {
			t.Errorf("purged %d, %v", n, err)
		}
	})
}
