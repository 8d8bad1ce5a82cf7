package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// histories are the rule that the log is for, tried on random histories: a copy as of any
// cursor, with what is pulled from that cursor, is what the scope selects now.
var histories = []check{
	{"catch-up from any cursor", "a copy taken at any time, brought up to date at any time, has what a fresh one has", func(t *testing.T, h Harness) {
		h.log(t)
		s := newStory(t, h, "")
		var copies []*mirror
		for range 150 {
			s.step(t, h)
			if s.rnd.IntN(5) == 0 {
				m := &mirror{scope: h.compile(t, "note", scopes[s.rnd.IntN(len(scopes))])}
				m.catchUp(t, h, s.limit(), s.bytes())
				m.wantFresh(t, h, "as taken")
				copies = append(copies, m)
			}
			if len(copies) > 0 && s.rnd.IntN(4) == 0 {
				m := copies[s.rnd.IntN(len(copies))]
				m.catchUp(t, h, s.limit(), s.bytes())
				m.wantFresh(t, h, "on its way")
			}
			if t.Failed() {
				return
			}
		}
		for _, m := range copies {
			m.catchUp(t, h, s.limit(), s.bytes())
			m.wantFresh(t, h, "at the end")
		}
	}},
	{"catch-up beside writers", "copies that are paged while others write end as the database does", func(t *testing.T, h Harness) {
		h.log(t)
		const writers = 4
		var writing sync.WaitGroup
		defer writing.Wait() // also when a reader gives up
		done := make(chan struct{})
		for i := range writers {
			s := newStory(t, h, fmt.Sprint(i, " "))
			s.shared = true
			writing.Go(func() {
				for range 60 {
					s.step(t, h)
				}
			})
		}
		copies := make([]*mirror, len(scopes))
		for i, w := range scopes {
			copies[i] = &mirror{scope: h.compile(t, "note", w)}
		}
		go func() {
			writing.Wait()
			close(done)
		}()
		s := newStory(t, h, "reader ")
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			copies[s.rnd.IntN(len(copies))].catchUp(t, h, s.limit(), s.bytes())
		}
		for _, m := range copies {
			m.catchUp(t, h, 3, generous)
			m.wantFresh(t, h, "after the last writer")
		}
	}},
}

// story writes at random.
type story struct {
	rnd     *rand.Rand
	name    string
	shared  bool // others write the same rows
	stamp   tidemark.Stamp
	clients map[string]int64 // the highest number of each
}

func newStory(t testing.TB, h Harness, name string) *story {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("%sseed %d", name, seed)
	return &story{rnd: rand.New(rand.NewPCG(seed, 0)), name: name, stamp: 1000, clients: map[string]int64{}}
}

func (s *story) limit() int { return 1 + s.rnd.IntN(9) }
func (s *story) bytes() int { return []int{1, 500, generous}[s.rnd.IntN(3)] }

// mutation is a write of one of few rows, now and then an old one.
func (s *story) mutation(t testing.TB, h Harness) tidemark.Mutation {
	s.stamp += tidemark.Stamp(1 + s.rnd.IntN(20))
	stamp := s.stamp
	if s.rnd.IntN(4) == 0 {
		stamp -= tidemark.Stamp(s.rnd.IntN(500))
	}
	uid := fmt.Sprintf("u%d", s.rnd.IntN(14))
	if s.rnd.IntN(10) == 0 {
		return h.mutation(t, tidemark.Create, "list", "l"+uid, `{"title":"x"}`, stamp)
	}
	n := s.rnd.IntN(4)
	data := []string{fmt.Sprintf(`{"n":%d}`, n), fmt.Sprintf(`{"text":"x","n":%d}`, n), fmt.Sprintf(`{"text":"y","n":%d}`, n), `{"text":null}`, `{}`}[s.rnd.IntN(5)]
	switch s.rnd.IntN(6) {
	case 0, 1:
		return h.mutation(t, tidemark.Create, "note", uid, data, stamp)
	case 2:
		return h.mutation(t, tidemark.Delete, "note", uid, "", stamp)
	}
	return h.mutation(t, tidemark.Update, "note", uid, data, stamp)
}

// step is one commit, or none.
func (s *story) step(t testing.TB, h Harness) {
	ms := make([]tidemark.Mutation, 1+s.rnd.IntN(4))
	for i := range ms {
		ms[i] = s.mutation(t, h)
	}
	var err error
	switch n := s.rnd.IntN(6); {
	case n < 2 || h.RunInTx == nil && n < 4:
		_, err = h.Driver.Write(t.Context(), ms)
	case n < 4:
		err = s.tx(t, h, ms)
	default:
		_, err = h.log(t).Push(t.Context(), s.batch(ms), nil)
	}
	if err != nil && !(s.shared && tidemark.Temporary(err)) { // two that wait for each other
		t.Errorf("step of %s: %v", s.name, err)
	}
}

// tx writes each mutation by itself in one transaction, undoes some of them, and now and then all.
func (s *story) tx(t testing.TB, h Harness, ms []tidemark.Mutation) error {
	failure := []error{nil, nil, errUndo}[s.rnd.IntN(3)]
	inner := []error{nil, errUndo}[s.rnd.IntN(2)]
	err := h.RunInTx(t.Context(), func(ctx context.Context) error {
		for i := range ms {
			write := func(ctx context.Context) error {
				_, err := h.Driver.Write(ctx, ms[i:i+1])
				if err == nil && i == 1 {
					err = inner
				}
				return err
			}
			err := error(nil)
			if i == 1 {
				err = h.RunInTx(ctx, write)
			} else {
				err = write(ctx)
			}
			if err != nil && !errors.Is(err, errUndo) {
				return err
			}
		}
		return failure
	})
	if errors.Is(err, errUndo) {
		return nil
	}
	return err
}

// batch is the next of one of few clients; some have a unit, one member of which may be refused.
func (s *story) batch(ms []tidemark.Mutation) *tidemark.Batch {
	client := fmt.Sprintf("%sclient %d", s.name, s.rnd.IntN(3))
	b := batch(client, s.clients[client]+1, ms...)
	s.clients[client] += int64(len(ms))
	if len(ms) > 2 {
		b.Mutations[1].Unit, b.Mutations[2].Unit = b.Mutations[2].N, b.Mutations[2].N
	}
	if s.rnd.IntN(3) == 0 {
		b.Refused = make([]*tidemark.Error, len(ms))
		b.Refused[s.rnd.IntN(len(ms))] = tidemark.NewError(tidemark.CodeDenied, "not yours")
	}
	b.Confirmed = s.rnd.Int64N(s.clients[client] + 1)
	return b
}
