package client_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
)

// Whatever a server sends, the client lives, stores only rows that it can read
// again, keeps its own pending write, and goes on when the server behaves.
func FuzzServerMessages(f *testing.F) {
	for _, s := range []string{
		`[{"uid":"u","label":"x"},{"uid":"u","created_at":"1999-01-01T00:00:00Z"}]`,
		`{"addClient":[[{"uid":"a","label":"x"},{"uid":"a","created_at":"1999-01-01T00:00:00Z"}]],"deleteClient":[["u","2001-01-01T00:00:00Z"]]}`,
		`{"addDatabase":[{"uid":"held"}],"updateDatabase":[{"uid":"held","updated_at":"1999-01-01T00:00:00Z"},{"uid":"u"}]}`,
		`{"deleteClient":[["held",null]]}`, `[null,{"uid":"held","deleted_at":"9999-12-31T23:59:59.999999Z"}]`, `[[],[]]`, `null`, `"\ud800"`,
		`[{"uid":"held","label":null,"score":1e400},{"uid":"held","updated_at":1e15}]`,
	} {
		f.Add([]byte(s), []byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, event, sync, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.hold(live("held", "held", T1))
			b.script.on(tidemark.MethodSyncGo, nil)
			b.script.on(tidemark.MethodCreate, nil)
			b.open()
			b.register(nil)
			b.script.next().send(sync)
			b.create("mine", "mine")
			push := b.script.next()
			for _, action := range []string{tidemark.MethodCreate, tidemark.MethodDelete} {
				m := &tidemark.Message{Event: tidemark.EventService, Args: []json.RawMessage{
					append(append([]byte(`{"name":"item","action":"`+action+`","result":`), event...), '}')}}
				b.script.mu.Lock()
				_ = b.script.conn.Send(m)
				_ = b.script.conn.Send(&tidemark.Message{Event: tidemark.EventService, Args: []json.RawMessage{event}})
				b.script.mu.Unlock()
			}
			push.send(answer)
			synctest.Wait()
			if _, err := b.items.FindWhere(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			b.script.on(tidemark.MethodSyncGo, func(c *call) { c.synced(tidemark.SyncResult{}) })
			for _, m := range []string{tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete} {
				b.script.on(m, (*call).accept)
			}
			b.pipe.Cut()
			if err := b.client.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := b.items.FindWhere(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			b.pending(0)
		})
	})
}

// send answers with the text as it is, as a result.
func (c *call) send(result []byte) {
	_ = c.conn.Send(c.msg.NewAnswer(append(append([]byte(`{"result":`), result...), '}')))
}
