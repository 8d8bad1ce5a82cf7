package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
)

// unit makes one write of each uid as a unit: a create, or an update where there is a row.
func (b *bench) unit(label string, uids ...string) {
	b.t.Helper()
	err := b.client.Tx(b.t.Context(), func(tx *client.Tx) error {
		for _, uid := range uids {
			_, err := b.items.FindTx(tx, uid)
			if errors.Is(err, tidemark.ErrNotFound) {
				_, err = b.items.CreateTx(tx, Item{UID: uid, Label: label})
			} else if err == nil {
				_, err = b.items.UpdateTx(tx, uid, client.Patch{"label": label})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestTxReadsItsOwnWritesAndIsSeenWhole(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline()
		p.create("old", "old")
		err := p.client.Tx(t.Context(), func(tx *client.Tx) error {
			made, err := p.items.CreateTx(tx, Item{Label: "new"})
			if err != nil {
				return err
			}
			found, err := p.items.FindTx(tx, made.UID)
			if err != nil || found.Label != "new" {
				t.Errorf("it reads %+v, %v", found, err)
			}
			if found, err = p.items.UpdateTx(tx, made.UID, client.Patch{"label": "newer"}); err != nil || found.Label != "newer" {
				t.Errorf("it updated to %+v, %v", found, err)
			}
			if err := p.items.RemoveTx(tx, "old"); err != nil {
				return err
			}
			if _, err := p.items.FindTx(tx, "old"); !errors.Is(err, tidemark.ErrNotFound) {
				t.Errorf("it finds what it removed: %v", err)
			}
			if outside, err := p.items.FindByUID(t.Context(), "old"); err != nil || outside.Label != "old" {
				t.Errorf("others see %+v, %v", outside, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		p.sees("newer")
		p.pending(4)
		p.client.GoOnline()
		p.pending(0)
		p.has("newer")
		ms := p.batches[0].Mutations
		if len(ms) != 4 || ms[0].Unit != 0 || ms[1].Unit != 4 || ms[2].Unit != 4 || ms[3].Unit != 4 {
			t.Errorf("it pushed %+v", ms)
		}
	})
}

func TestTxOfOneWriteIsNoUnit(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.unit("one", "a")
		p.pending(0)
		if u := p.batches[0].Mutations[0].Unit; u != 0 {
			t.Errorf("it has the unit %d", u)
		}
	})
}

func TestTxThatFailsLeavesNothing(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.create("a", "old")
		p.pending(0)
		p.batches = nil
		mine := errors.New("mine")
		fail := func(with func(tx *client.Tx) error) error {
			return p.client.Tx(t.Context(), func(tx *client.Tx) error {
				if _, err := p.items.UpdateTx(tx, "a", client.Patch{"label": "new"}); err != nil {
					return err
				}
				if _, err := p.items.CreateTx(tx, Item{UID: "b", Label: "b"}); err != nil {
					return err
				}
				return with(tx)
			})
		}
		wantIs(t, fail(func(*client.Tx) error { return mine }), mine)
		wantIs(t, fail(func(tx *client.Tx) error { return p.items.RemoveTx(tx, "nowhere") }), tidemark.ErrNotFound)
		func() {
			defer func() { _ = recover() }()
			_ = fail(func(*client.Tx) error { panic("in the middle") })
		}()
		p.sees("old")
		p.pending(0)
		p.create("c", "after")
		p.pending(0)
		p.has("old", "after")
		for _, b := range p.batches {
			if b.Client != p.names[0] {
				t.Error("writes that were undone left a hole in the numbers")
			}
		}
	})
}

func TestWriteThatFailsInATxHasDoneNothingAndTheOthersGoOn(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		p.create("a", "old")
		err := p.client.Tx(t.Context(), func(tx *client.Tx) error {
			if _, err := p.items.CreateTx(tx, Item{UID: "b", Label: "new"}); err != nil {
				return err
			}
			_, err := p.items.CreateTx(tx, Item{UID: "a", Label: "again"})
			wantCode(t, err, tidemark.CodeUIDTaken)
			_, err = p.items.UpdateTx(tx, "nowhere", client.Patch{"label": "x"})
			wantIs(t, err, tidemark.ErrNotFound)
			_, err = p.items.UpdateTx(tx, "a", client.Patch{"nothing": "x"})
			wantCode(t, err, tidemark.CodeUnknownField)
			_, err = p.items.UpdateTx(tx, "a", client.Patch{"label": "changed"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		p.pending(0)
		p.has("changed", "new")
	})
}

func TestTxIsRefusedBeyondItsLimitAndAfterItsEnd(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.open()
		var kept *client.Tx
		err := p.client.Tx(t.Context(), func(tx *client.Tx) error {
			kept = tx
			for i := range client.MaxUnit {
				if _, err := p.items.CreateTx(tx, Item{UID: fmt.Sprintf("u%03d", i), Label: "x"}); err != nil {
					return err
				}
			}
			_, err := p.items.CreateTx(tx, Item{UID: "more", Label: "x"})
			return err
		})
		wantCode(t, err, tidemark.CodeTooLarge)
		p.sees()
		p.pending(0)
		_, err = p.items.CreateTx(kept, Item{UID: "late", Label: "x"})
		wantIs(t, err, tidemark.ErrClosed)
		wantIs(t, p.items.RemoveTx(kept, "late"), tidemark.ErrClosed)
		_, err = p.items.FindTx(kept, "late")
		wantIs(t, err, tidemark.ErrClosed)

		other := newPeer(t).offline()
		err = p.client.Tx(t.Context(), func(tx *client.Tx) error {
			_, err := other.items.CreateTx(tx, Item{UID: "a", Label: "x"})
			return err
		})
		wantCode(t, err, tidemark.CodeInvalidRequest)
		p.pending(0)
		other.pending(0)
	})
}

func TestUnitsAreNeverDividedBetweenBatches(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 10
		p.offline()
		for i := range 20 {
			p.unit("x", slices.Collect(func(yield func(string) bool) {
				for j := range 1 + i%7 {
					if !yield(fmt.Sprintf("u%02d-%d", i, j)) {
						return
					}
				}
			})...)
		}
		p.client.GoOnline()
		p.pending(0)
		p.rejections()
		for _, b := range p.batches {
			if err := b.Check(); err != nil || len(b.Mutations) > 10 {
				t.Errorf("a batch of %d: %v", len(b.Mutations), err)
			}
		}
	})
}

func TestLargestUnitGoesWhole(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline().queue(3)
		uids := make([]string, client.MaxUnit)
		for i := range uids {
			uids[i] = fmt.Sprintf("v%03d", i)
		}
		p.unit("x", uids...)
		p.create("w", "last")
		p.client.GoOnline()
		p.pending(0)
		p.came("1-3", "4-503", "504-504")
		p.once(504)
	})
}

// A server may offer less than a unit has: it is rejected whole, here.
func TestUnitBeyondTheServersLimitIsRejectedWhole(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.limits.Mutations = 2
		p.offline().queue(1)
		p.unit("x", "a", "b", "c")
		p.create("z", "last")
		p.client.GoOnline()
		p.pending(0)
		p.has("l001", "last")
		p.sees("l001", "last")
		for _, r := range p.rejections(client.Rejected, client.Rejected, client.Rejected) {
			if r.Code != tidemark.CodeTooLarge {
				t.Errorf("the rejection is %+v", r)
			}
		}
	})
}

func TestRejectedUnitIsUndoneAndListedWhole(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.refuse = func(m *tidemark.Mutation) *tidemark.Error {
			if m.UID == "b" && strings.Contains(string(m.Data), "unit") {
				return tidemark.NewError("my-code", "not b")
			}
			return nil
		}
		p.open()
		p.create("a", "old")
		p.pending(0)
		p.client.GoOffline()
		p.unit("unit", "a", "b", "c")
		p.create("d", "on its own")
		p.sees("unit", "unit", "unit", "on its own")
		p.client.GoOnline()
		p.sees("old", "on its own")
		p.has("old", "on its own")
		p.pending(0)
		rs := p.rejections(client.Rejected, client.Rejected, client.Rejected)
		for i, want := range []tidemark.Code{tidemark.CodeUnit, "my-code", tidemark.CodeUnit} {
			if rs[i].Code != want || rs[i].Mutation.Unit != 4 {
				t.Errorf("rejection %d is %+v", i, rs[i])
			}
		}

		p.refuse = nil
		if err := p.client.Retry(t.Context(), rs[0].ID); err != nil {
			t.Fatal(err)
		}
		p.rejections()
		p.has("unit", "unit", "unit", "on its own")
		p.sees("unit", "unit", "unit", "on its own")
		last := p.batches[len(p.batches)-1].Mutations
		if len(last) != 3 || last[0].Unit != last[2].N {
			t.Errorf("they were retried as %+v", last)
		}
	})
}

func TestRejectedUnitIsDiscardedWhole(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.refuse = func(m *tidemark.Mutation) *tidemark.Error { return tidemark.NewError("no", "no") }
		p.open()
		p.create("z", "another")
		p.unit("x", "a", "b", "c")
		rs := p.rejections(client.Rejected, client.Rejected, client.Rejected, client.Rejected)
		if err := p.client.Discard(t.Context(), rs[2].ID); err != nil {
			t.Fatal(err)
		}
		if left := p.rejections(client.Rejected); left[0].Mutation.UID != "z" {
			t.Errorf("what is left is %+v", left)
		}
	})
}

func TestSupersededMemberDoesNotRejectItsUnit(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline()
		if _, err := p.db.Write(t.Context(), []tidemark.Mutation{{Model: "item", UID: "b", Op: tidemark.Create, Data: tidemark.Row(`{"label":"theirs"}`), Stamp: tidemark.StampOf(time.Now().Add(30 * time.Second))}}); err != nil {
			t.Fatal(err)
		}
		p.unit("mine", "a", "b", "c")
		p.client.GoOnline()
		p.has("mine", "theirs", "mine")
		p.sees("mine", "theirs", "mine")
		r := p.rejections(client.Superseded)[0]
		pass(time.Minute)
		if err := p.client.Retry(t.Context(), r.ID); err != nil { // this one only
			t.Fatal(err)
		}
		p.has("mine", "mine", "mine")
		if n := len(p.batches[len(p.batches)-1].Mutations); n != 1 {
			t.Errorf("%d writes were retried", n)
		}
	})
}

func TestUnitIsPushedAgainWholeAfterACut(t *testing.T) {
	inBatches(t, func(t *testing.T, p *peer) {
		p.offline()
		p.unit("x", "a", "b", "c")
		first := true
		p.script.on(tidemark.MethodPush, func(c *call) {
			if first {
				first = false
				if _, err := p.judge(p.batch(c)); err != nil {
					t.Error(err)
				}
				p.pipe.Cut()
				return
			}
			p.decide(c)
		})
		p.client.GoOnline()
		pass(time.Minute)
		p.pending(0)
		p.once(3)
		p.rejections()
	})
}

func TestServerOfTheGuidesProtocolGetsAUnitOneByOne(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, func(c *call) {
			if c.text(0) == "b" {
				c.fail("no")
				return
			}
			c.accept()
		})
		b.open()
		b.unit("x", "a", "b", "c")
		b.sees("x", "x")
		b.pending(0)
		r := b.rejections(client.Rejected)[0]
		b.script.on(tidemark.MethodCreate, (*call).accept)
		if err := b.client.Retry(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		b.sees("x", "x", "x")
	})
}

// What is left of a unit when a model was reset stands alone, or is the unit.
func TestUnitThatLostAMemberIsPushed(t *testing.T) {
	for lost := range 5 {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			inBatches(t, func(t *testing.T, p *peer) {
				p.offline().queue(1)
				parts, err := client.NewModel[Part](t.Context(), p.client, "part", nil)
				if err != nil {
					t.Fatal(err)
				}
				err = p.client.Tx(t.Context(), func(tx *client.Tx) error {
					for i := range 5 {
						if i == lost {
							_, err := parts.CreateTx(tx, Part{UID: "p"})
							if err != nil {
								return err
							}
							continue
						}
						if _, err := p.items.CreateTx(tx, Item{UID: fmt.Sprint("v", i), Label: "x"}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := parts.Reset(t.Context(), &client.ResetOptions{Discard: true}); err != nil {
					t.Fatal(err)
				}
				p.create("z", "last")
				p.client.GoOnline()
				synctest.Wait()
				p.pending(0)
				p.once(6)
				p.rejections()
				p.has("l001", "x", "x", "x", "x", "last")
			})
		})
	}
}

// lateFailure is a store whose updates that failed return when the gate is open.
type lateFailure struct {
	*memory.Store
	gate chan struct{}
}

func (l *lateFailure) Update(ctx context.Context, fn func(tidemark.StoreTx) error) error {
	err := l.Store.Update(ctx, fn)
	if err != nil {
		<-l.gate
	}
	return err
}

// What is pending may be counted after a Tx was undone, and before it says so.
func TestTxThatFailsWhileWhatIsPendingIsCounted(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		late := &lateFailure{Store: b.store, gate: make(chan struct{})}
		c, err := client.Open(t.Context(), late, b.pipe, b.opts)
		if err != nil {
			t.Fatal(err)
		}
		b.client = c
		if b.items, err = client.NewModel[Item](t.Context(), c, "item", nil); err != nil {
			t.Fatal(err)
		}
		b.script.on(tidemark.MethodCreate, nil)
		b.create("a", "a")
		push := b.script.next()
		failed := make(chan error)
		go func() {
			failed <- c.Tx(t.Context(), func(tx *client.Tx) error {
				for range 3 {
					if _, err := b.items.CreateTx(tx, Item{}); err != nil {
						return err
					}
				}
				return errors.New("no")
			})
		}()
		synctest.Wait()
		push.accept() // the outbox is empty, and is counted
		synctest.Wait()
		close(late.gate)
		if err := <-failed; err == nil {
			t.Error("the Tx succeeded")
		}
		b.pending(0)
		b.script.on(tidemark.MethodCreate, (*call).accept)
		b.create("b", "b")
		b.sees("a", "b")
		b.pending(0)
	})
}
