package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// ends are the receiving ends of a client's connections, in their order: a line that brings things late.
type ends struct {
	mu   sync.Mutex // protects list
	list []tidemark.Handler
}

func (e *ends) over(d tidemark.Dialer) tidemark.Dialer {
	return dialerFunc(func(ctx context.Context, hello tidemark.Hello, h tidemark.Handler) (tidemark.Conn, tidemark.Welcome, error) {
		e.mu.Lock()
		e.list = append(e.list, h)
		e.mu.Unlock()
		return d.Dial(ctx, hello, h)
	})
}

// bring has a connection bring a message, which ended or not.
func (e *ends) bring(i int, m *tidemark.Message) {
	e.mu.Lock()
	h := e.list[i]
	e.mu.Unlock()
	h.Receive(m)
	synctest.Wait()
}

// What a connection brings after it has ended concerns nobody, though the next connection waits for answers to requests
// with the same numbers, and has scopes with the same numbers.
func TestLateMessagesOfADeadSessionChangeNothing(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		line := &ends{}
		b.scoped()
		var err error
		if b.client, err = client.Open(t.Context(), b.store, line.over(b.pipe), b.opts); err != nil {
			t.Fatal(err)
		}
		if b.items, err = client.NewModel[Item](t.Context(), b.client, "item", nil); err != nil {
			t.Fatal(err)
		}
		b.register(nil)
		b.nextPull("", "").page("c1", "", live("a", "a", T0), live("b", "b", T0))
		b.state(client.Synced)
		b.script.on(tidemark.MethodPush, nil)
		b.update("a", "mine")
		push := b.script.next()
		var batch tidemark.Batch
		if err := batch.UnmarshalJSON(push.Args[0]); err != nil {
			t.Fatal(err)
		}
		refused, err := json.Marshal(&tidemark.PushAnswer{Now: T2, Verdicts: []tidemark.Verdict{{N: batch.Mutations[0].N, Outcome: tidemark.Outcome{Err: tidemark.NewError("no", "no")}}}})
		if err != nil {
			t.Fatal(err)
		}
		page, err := json.Marshal(tidemark.ScopePage{Cursor: "c9", Rows: []tidemark.RowMeta{live("ghost", "ghost", T2)}, Gone: []tidemark.Departure{{UID: "b", At: T2, Deleted: true}}})
		if err != nil {
			t.Fatal(err)
		}
		late := func() {
			event := func(name string, arg any) {
				m, err := tidemark.NewEvent(name, arg)
				if err != nil {
					t.Fatal(err)
				}
				line.bring(0, m)
			}
			event(tidemark.EventChanges, tidemark.Changes{came(live("ghost", "ghost", T2), 7), gone("b", T2, true)})
			event(tidemark.EventCursor, map[string]string{"cursor": "c9"})
			for id := range uint64(12) {
				for _, result := range []string{string(refused), string(page), "null"} {
					raw, _ := tidemark.Answer{Result: json.RawMessage(result)}.MarshalJSON()
					line.bring(0, (&tidemark.Message{Kind: tidemark.AnswerMessage, ID: id, Args: []json.RawMessage{raw}}))
				}
			}
		}
		b.reconnect()
		var pull *call // of the second connection; its push and its pull wait for their answers
		for again := (*call)(nil); pull == nil || again == nil; {
			switch c := b.script.next(); c.Action {
			case tidemark.MethodPush:
				again = c
			case tidemark.MethodPull:
				pull = c
			default:
				t.Fatalf("then came %s", c)
			}
		}
		late()
		b.sees("mine", "b")
		b.pending(1)
		if rs, err := b.client.Rejections(t.Context()); err != nil || len(rs) > 0 {
			t.Errorf("the rejections are %+v, %v", rs, err)
		}
		pull.page("c2", "", live("c", "c", T1))
		b.sees("mine", "b", "c")
		late()
		b.sees("mine", "b", "c")
		b.pending(1)
		b.reconnect()
		for c := b.script.next(); ; c = b.script.next() {
			if c.Action != tidemark.MethodPull {
				continue
			}
			var r tidemark.PullRequest
			if err := json.Unmarshal(c.Args[0], &r); err != nil || r.Cursor != "c2" || r.After != "" {
				t.Errorf("the third connection asks for %s", c.Args)
			}
			break
		}
	})
}

// A departure at the stamp of the version that is held, told by another scope than the one that told the row: a deletion
// is taken. Where the row has only left that scope the client holds the very version that is outside, from another
// scope or of its own making, and keeps it until it hears of a newer one.
func TestDepartureAtTheStampOfTheRowByALaterScope(t *testing.T) {
	for _, deleted := range []bool{true, false} {
		t.Run(fmt.Sprint("deleted=", deleted), func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.scoped().open()
				b.register(tidemark.Where{"label": "held"})
				b.nextPull("", "").page("c1", "", live("a", "held", T1))
				b.state(client.Synced)
				b.register(tidemark.Where{"score": nil})
				b.nextPull("", "").page("c2", "", live("a", "held", T1))
				b.state(client.Synced)
				b.reconnect()
				d := tidemark.Departure{UID: "a", At: T1, Deleted: deleted}
				b.nextPull("c1", "").page("c3", "")
				b.nextPull("c2", "").give(tidemark.ScopePage{Cursor: "c3", Gone: []tidemark.Departure{d}})
				b.state(client.Synced)
				if deleted {
					b.sees()
					return
				}
				b.sees("held")
				b.tell(gone("a", T2, false))
				b.sees()
			})
		})
	}
}
