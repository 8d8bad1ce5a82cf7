package client

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
)

// The client's name is how the server knows which outbox a batch is from: under it,
// it remembers which writes it has decided. It is kept in the store, so that a
// store's copy has it too. When that shows (two devices push under one name),
// or the numbers of the outbox have a hole (a write was discarded or refused on the device),
// what has no verdict goes under a new name. The numbers stay: a server lets a name that is new to it
// begin with any.

// keyClient is the entry that has the name.
const keyClient = "client"

// name returns the client's name, which it makes when there is none.
func (c *Client) name(ctx context.Context) (string, error) {
	var name []byte
	load := func(tx tidemark.StoreTx) (err error) {
		name, err = tx.Load(keyClient)
		return err
	}
	if err := c.store.View(ctx, load); err != nil || len(name) > 0 {
		return string(name), err
	}
	err := c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		if err := load(tx); err != nil || len(name) > 0 {
			return err
		}
		name = []byte(newName())
		return tx.Save(keyClient, name)
	})
	return string(name), err
}

func newName() string { return uuid.NewString() }

// rename gives the client a new name. Nothing may be on its way under the old one that
// the session still wants to hear of.
func (s *session) rename(ctx context.Context, why string) error {
	s.c.log.Info("client takes a new name", "why", why)
	err := s.c.store.Update(ctx, func(tx tidemark.StoreTx) error {
		return tx.Save(keyClient, []byte(newName()))
	})
	if err == nil {
		s.pushing.batched.known, s.pushing.batched.sent = 0, 0
	}
	return err
}

// met is told what the server knows of this client and which time it is there, before
// anything is pushed on the connection. The answer took so long to come.
func (s *session) met(ctx context.Context, a *tidemark.OpenAnswer) error {
	b := &s.pushing.batched
	b.known = max(a.Highest, 0)
	b.offered = pushMost
	if n := a.Limits.Mutations; n > 0 && n < pushMost {
		b.offered = n
	}
	b.most = b.offered
	s.c.drift.Store(min(a.Limits.MaxDrift, int64(24*time.Hour/time.Microsecond)) * int64(time.Microsecond))
	s.c.correct(a.Now, s.took)
	b.ahead = s.c.ahead()
	if err := s.c.miss(ctx, a.Epoch, b.known); err != nil {
		return err
	}
	if b.known <= s.c.highest.Load() {
		return nil
	}
	var given int64 // perhaps by another process on the same store
	err := s.c.store.View(ctx, func(tx tidemark.StoreTx) (err error) {
		_, given, err = tx.Queued()
		return err
	})
	if err == nil && b.known > given {
		err = s.rename(ctx, "the server has decided more than this file ever queued: it is an older copy")
	}
	return err
}

// keyDecided is the entry that has the number of the last write with a verdict, and under which name it went.
const keyDecided = "decided"

type decided struct {
	Name string `json:"name"`
	N    int64  `json:"n"`
}

func (w *work) decidedUpto(name string, n int64) error {
	raw, err := encodePlain(decided{name, n})
	if err != nil {
		return err
	}
	return w.tx.Save(keyDecided, raw)
}

// miss compares the last verdict with what the server knows under the client's name. When it knows less it has
// lost writes that it had decided, and who knows what else: all scopes are told from the beginning. So they are where
// the server's history is another one, since it refuses their cursors.
func (c *Client) miss(ctx context.Context, epoch string, known int64) error {
	var missing, other, first bool
	find := func(tx tidemark.StoreTx) error {
		last, err := tx.Load(keyEpoch)
		if err != nil {
			return err
		}
		other = last != nil && epoch != "" && string(last) != epoch
		first = last == nil && epoch != ""
		name, err := tx.Load(keyClient)
		if err != nil {
			return err
		}
		raw, err := tx.Load(keyDecided)
		if err != nil || raw == nil {
			return err
		}
		var d decided
		missing = json.Unmarshal(raw, &d) == nil && d.Name == string(name) && d.N > known
		return nil
	}
	if err := c.store.View(ctx, find); err != nil || !missing && !other && !first {
		return err
	}
	return c.commit(ctx, func(w *work) error {
		if other || first {
			if err := w.tx.Save(keyEpoch, []byte(epoch)); err != nil {
				return err
			}
		}
		if missing {
			c.log.Warn("the server has lost writes that it had decided: all scopes are told from the beginning", "known", known)
			if err := errors.Join(w.tx.Save(keyDecided, nil), w.forgetAll()); err != nil {
				return err
			}
		}
		if missing || other {
			return w.lose()
		}
		return nil
	})
}
