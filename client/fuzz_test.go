package client_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
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

// The same for the second protocol: whatever comes as the answer to an opening, to a pull and to a push, and as
// events, on one connection and the next.
func FuzzScopeMessages(f *testing.F) {
	page := `{"cursor":"c2","after":"m","blocks":[{"fields":["uid","label"],"rows":[["a","x",1767225600000000],["held",null,25,1000]]}],"gone":[["b",1767225600000123],["held",1767225600000456,"deleted"]]}`
	for _, s := range [][4]string{
		{`{"protocol":1,"now":"2000-01-01T00:00:00Z","epoch":"e","scopes":[{"scope":7,"tag":"tag","page":` + page + `}]}`, page,
			`{"changes":[{"model":"item","row":{"uid":"a","label":"y"},"meta":[1767225600000000,1767225600000009],"in":[7]},{"model":"item","uid":"held","at":1767225600000000,"deleted":true,"out":[7]}]}`,
			`{"now":"2000-01-01T00:00:00Z","first":1,"verdicts":[["applied",{"uid":"mine","label":"theirs"},[1767225600000000]]]}`},
		{`{"protocol":1,"epoch":"other","highest":99}`, `{"cursor":"c2"}`, `{"changes":[{"model":"item","uid":"mine","at":1,"out":[7]}]}`, `{"first":1,"verdicts":[["superseded",null,[0,0,7]]]}`},
		{`{"protocol":1,"scopes":[{"scope":0,"error":{"code":"denied"}}]}`, `{"cursor":"c2","after":"m"}`, `{"cursor":"c7"}`, `{"first":1,"verdicts":[["rejected",{"uid":"other"},[1],{"code":"constraint"}]]}`},
		{`null`, `{"cursor":"","blocks":[{"fields":["label","uid"],"rows":[["x","a",-1]]}]}`, `{"changes":[{"model":"item","row":{"uid":"held","score":1e400},"meta":[1]}]}`, `{"first":2,"verdicts":[]}`},
		{`{"protocol":7}`, `[]`, `{"changes":[]}`, `{"verdicts":[["applied",{"uid":"mine","label":5},[9e18]]]}`},
	} {
		f.Add([]byte(s[0]), []byte(s[1]), []byte(s[2]), []byte(s[3]))
	}
	f.Fuzz(func(t *testing.T, opening, page, event, answer []byte) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t).followed(live("held", "held", T1))
			b.script.on(tidemark.MethodPush, nil)
			b.create("mine", "mine")
			push := b.script.next()
			tell := func() {
				b.script.mu.Lock()
				defer b.script.mu.Unlock()
				for _, name := range []string{tidemark.EventChanges, tidemark.EventCursor, tidemark.EventService} {
					_ = b.script.conn.Send(&tidemark.Message{Event: name, Args: []json.RawMessage{event}})
				}
			}
			tell()
			push.send(answer)
			synctest.Wait()
			b.sound()
			once := true // after that the opening is the script's again
			good := b.script.rules[tidemark.MethodOpen]
			b.script.on(tidemark.MethodOpen, func(c *call) {
				if once {
					once = false
					c.send(opening)
					return
				}
				good(c)
			})
			b.script.on(tidemark.MethodPull, func(c *call) { c.send(page) })
			b.script.on(tidemark.MethodPush, func(c *call) { c.send(answer) })
			b.reconnect()
			tell()
			synctest.Wait()
			b.sound()
			b.script.on(tidemark.MethodOpen, good)
			b.script.on(tidemark.MethodPull, func(c *call) { c.page("c9", "") })
			b.script.on(tidemark.MethodPush, (*call).applied)
			b.pipe.Cut()
			if err := b.client.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.sound()
			b.pending(0)
			b.state(client.Synced)
		})
	})
}

// sound checks that what the store has is what a store may keep, and can be read by the application.
func (b *bench) sound() {
	b.t.Helper()
	if _, err := b.items.FindWhere(b.t.Context(), nil); err != nil {
		b.t.Fatal(err)
	}
	schema, err := tidemark.NewSchema("item", []tidemark.Field{{Name: "label", Kind: tidemark.Text}, {Name: "score", Kind: tidemark.Integer}})
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := tidemark.Where{}.Compile(schema)
	if err != nil {
		b.t.Fatal(err)
	}
	err = b.store.View(b.t.Context(), func(tx tidemark.StoreTx) error {
		metas, err := tx.Held(p)
		if err != nil {
			return err
		}
		uids := []string{"mine"}
		for _, m := range metas {
			uids = append(uids, m.UID)
		}
		recs, err := tx.Records("item", uids)
		for i := range recs {
			if err := recs[i].Check(); err != nil {
				b.t.Errorf("the record %+v: %v", recs[i], err)
			}
			if err := tidemark.CheckJSON(recs[i].Base, tidemark.JSONLimits{}); len(recs[i].Base) > 0 && err != nil {
				b.t.Errorf("the record %+v: %v", recs[i], err)
			}
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// applied answers a push as a server does on which all of it wins.
func (c *call) applied() {
	var batch tidemark.Batch
	if err := batch.UnmarshalJSON(c.Args[0]); err != nil {
		c.fail(tidemark.CodeInvalidRequest)
		return
	}
	a := &tidemark.PushAnswer{Now: T2}
	for _, m := range batch.Mutations {
		row := tidemark.Row(`{"uid":"` + m.UID + `"}`).Merge(m.Data)
		a.Verdicts = append(a.Verdicts, tidemark.Verdict{N: m.N, Outcome: tidemark.Outcome{Applied: true, Row: row, Meta: tidemark.Meta{UID: m.UID, CreatedAt: m.Stamp}}})
	}
	c.give(a)
}
