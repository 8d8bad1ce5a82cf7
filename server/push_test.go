package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
)

const device = "0b7c1f9e-77aa-4a1e-9d5b-000000000001"

// batch is one of the device's, its mutations numbered from first.
func batch(first int64, ms ...tidemark.Mutation) *tidemark.Batch {
	for i := range ms {
		ms[i].N = first + int64(i)
	}
	return &tidemark.Batch{Client: device, Confirmed: 0, Mutations: ms}
}

func creation(model, uid, data string, seconds int) tidemark.Mutation {
	return tidemark.Mutation{Op: tidemark.Create, Model: model, UID: uid, Data: tidemark.Row(data), Stamp: stamp(seconds)}
}

func update(model, uid, data string, seconds int) tidemark.Mutation {
	return tidemark.Mutation{Op: tidemark.Update, Model: model, UID: uid, Data: tidemark.Row(data), Stamp: stamp(seconds)}
}

func deletion(model, uid string, seconds int) tidemark.Mutation {
	return tidemark.Mutation{Op: tidemark.Delete, Model: model, UID: uid, Stamp: stamp(seconds)}
}

// unit makes ms a unit, when its first gets the number first.
func unit(first int64, ms ...tidemark.Mutation) []tidemark.Mutation {
	for i := range ms {
		ms[i].Unit = first + int64(len(ms)) - 1
	}
	return ms
}

func textOf(b *tidemark.Batch) json.RawMessage {
	raw, _ := b.MarshalJSON() // returns no error
	return raw
}

// push pushes, and returns the verdicts in short.
func (c *client) push(b *tidemark.Batch) []string {
	c.t.Helper()
	return verdicts(c.t, c.result("sync", "push", textOf(b)))
}

// verdicts are those of an answer in short: what it is, the code, the row, and the metadata.
func verdicts(t *testing.T, answer string) []string {
	t.Helper()
	var a tidemark.PushAnswer
	if err := a.UnmarshalJSON([]byte(answer)); err != nil {
		t.Fatalf("answer %s: %v", answer, err)
	}
	var out []string
	for _, v := range a.Verdicts {
		text := fmt.Sprint(v.N, " superseded")
		switch {
		case v.Err != nil:
			text = fmt.Sprint(v.N, " rejected ", v.Err.Code)
		case v.Applied:
			text = fmt.Sprint(v.N, " applied")
		}
		if v.Row != nil {
			text += " " + string(v.Row)
		}
		if v.Meta.T() != 0 {
			text += " " + metaText(v.Meta)
		}
		out = append(out, text)
	}
	return out
}

// changes returns how many changes the driver's log has.
func changes(t *testing.T, db *memory.Driver) int64 {
	t.Helper()
	h, err := db.Horizon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.At - 1
}

func TestPushDecidesEachMutation(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.db.Put("tag", tidemark.Row(`{"uid":"old","name":"o"}`), tidemark.Meta{UID: "old", CreatedAt: stamp(-50)})
	c := b.dial()
	equalList(t, c.push(batch(7,
		creation("tag", "a", `{"name":"A"}`, -40),
		update("tag", "a", `{"name":"B"}`, -30),
		deletion("tag", "a", -20),
		update("tag", "old", `{"name":"too late"}`, -60),
		deletion("tag", "none", -20),
		creation("nope", "x", `{}`, -20),
		creation("sync", "x", `{}`, -20),
		creation("tag", "bad data", `{"name":5}`, -20),
		creation("tag", "no data", ``, -20),
		creation("tag", "", `{}`, -20),
		creation("tag", strings.Repeat("u", 129), `{}`, -20),
		tidemark.Mutation{Op: tidemark.Update, Model: "tag", UID: "old", Data: tidemark.Row(`{}`)},
		tidemark.Mutation{Op: tidemark.Adopt, Model: "tag", UID: "old", Stamp: stamp(-1)},
		creation("post", "old", `{"title":"x"}`, -20),
		creation("post", "p", `{}`, -20),
		creation("tag", "last", `{}`, -10),
	)), []string{
		`7 applied {"uid":"a","name":"A"} -40 - -`,
		`8 applied {"uid":"a","name":"B"} -40 -30 -`,
		`9 applied {"uid":"a","name":"B"} -40 -30 -20`,
		`10 superseded {"uid":"old","name":"o"} -50 - -`,
		`11 applied - - -20`,
		`12 rejected unknown-model`,
		`13 rejected unknown-model`,
		`14 rejected invalid-data`,
		`15 rejected invalid-data`,
		`16 rejected invalid-data`,
		`17 rejected invalid-data`,
		`18 rejected invalid-stamp`,
		`19 rejected invalid-request`,
		`20 rejected uid-taken`,
		`21 rejected constraint`,
		`22 applied {"uid":"last","name":null} -10 - -`,
	})
	if known, err := b.db.Known(t.Context(), device); err != nil || known != 22 {
		t.Errorf("the last mutation known is %d %v, want 22", known, err)
	}
}

func TestPushAnswerTellsTheTime(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var a tidemark.PushAnswer
	if err := a.UnmarshalJSON([]byte(b.dial().result("sync", "push", textOf(batch(1, creation("tag", "a", `{}`, 0)))))); err != nil {
		t.Fatal(err)
	}
	if a.Now != stamp(0) {
		t.Errorf("got %s, want noon", a.Now)
	}
}

// Stamps of a clock that is ahead are clamped and keep their order; nobody is locked out.
func TestPushClampsStamps(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		b := setup(t, nil)
		if hooked {
			b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
		}
		c := b.dial()
		far := stamp(0) + 1<<60
		ms := []tidemark.Mutation{creation("tag", "a", `{"name":"1"}`, 600), update("tag", "a", `{"name":"2"}`, 601), update("tag", "a", `{"name":"3"}`, 86400*365),
			update("tag", "a", `{"name":"4"}`, 0)}
		ms[3].Stamp = far
		for i, v := range c.push(batch(1, ms...)) {
			if kindOf(v) != fmt.Sprint(i+1, " applied") {
				t.Errorf("got %s", v)
			}
		}
		rm := b.db.Get("tag", "a")
		if string(rm.Row.Get("name")) != `"4"` || rm.Meta.T() > stamp(1) {
			t.Errorf("got %s at %s", rm.Row, rm.Meta.T())
		}
		if v := c.push(batch(5, update("tag", "a", `{"name":"honest"}`, 1))); kindOf(v[0]) != "5 applied" {
			t.Errorf("got %s", v)
		}
		bad := creation("tag", "b", `{}`, 0)
		bad.Stamp = -1 << 62
		if v := c.push(batch(6, bad)); kindOf(v[0]) != "6 rejected invalid-stamp" {
			t.Errorf("got %s", v)
		}
	}
}

// What is wrong with the batch as a whole is the answer's error, and nothing is done.
func TestPushRefusesTheBatch(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		b := setup(t, &server.Options{MaxPush: 3})
		var ran atomic.Int64
		if hooked {
			b.server.Service("tag").Before(func(context.Context, *server.Call) error { ran.Add(1); return nil })
		}
		c := b.dial()
		one := func(uid string) tidemark.Mutation { return creation("tag", uid, `{}`, -9) }
		c.push(batch(5, one("a"), one("b")))
		c.refused(tidemark.CodeLimit, "sync", "push", textOf(batch(7, one("c"), one("d"), one("e"), one("f"))))
		c.refused(tidemark.CodeGap, "sync", "push", textOf(batch(8, one("c"))))
		c.refused(tidemark.CodeRepeated, "sync", "push", textOf(batch(6, one("other"), one("c"))))
		c.refused(tidemark.CodeRepeated, "sync", "push", textOf(batch(4, one("z"), one("a"))))
		confirmed := batch(7, one("c"))
		confirmed.Confirmed = 6
		c.push(confirmed)
		c.refused(tidemark.CodeRepeated, "sync", "push", textOf(batch(5, one("a")))) // no longer kept
		halved := batch(8, one("d"), one("e"))
		halved.Mutations[0].Unit = 10
		for _, bad := range []string{`null`, `{}`, `[]`, `{"client":"","first":1,"mutations":[["delete","tag","a",1]]}`, `{"client":"c","first":0,"mutations":[["delete","tag","a",1]]}`,
			`{"client":"c","mutations":[]}`, `{"client":"c","mutations":[["delete"]]}`, `{"client":"c","mutations":[["delete","tag",5,1]]}`, `{"client":"c","mutations":{}}`, string(textOf(halved))} {
			c.refused(tidemark.CodeInvalidRequest, "sync", "push", json.RawMessage(bad))
		}
		c.refused(tidemark.CodeInvalidRequest, "sync", "push")
		if got := changes(t, b.db); got != 3 {
			t.Errorf("%d effects, want 3", got)
		}
		if hooked && ran.Load() != 3 {
			t.Errorf("%d hooks, want 3", ran.Load())
		}
	}
}

func TestPushNeedsALog(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	b := setupOver(t, db, &faulty{Driver: db}, nil)
	b.dial().refused(tidemark.CodeMissingMethod, "sync", "push", textOf(batch(1, creation("tag", "a", `{}`, -9))))
}

func TestPushIsNoPartOfATransaction(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	err := b.db.RunInTx(t.Context(), func(ctx context.Context) error {
		_, err := b.server.Service("sync").Call(ctx, "push", textOf(batch(1, creation("tag", "a", `{}`, -9))))
		return err
	})
	if tidemark.CodeOf(err) != tidemark.CodeInvalidRequest || b.db.Len("tag") != 0 {
		t.Errorf("got %v", err)
	}
}

// One push of 500 mutations, from message to answer, over the driver in memory: bare, with a
// publication to nobody, and with a hook.
func BenchmarkPush(b *testing.B) {
	const size = 500
	for _, kind := range []string{"bare", "published", "hooked"} {
		b.Run(kind, func(b *testing.B) {
			srv, err := server.New(memory.New(schemas(b)...), nil)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { srv.Close() })
			switch kind {
			case "published":
				srv.Service("post").Publish(server.To("nobody"))
			case "hooked":
				srv.Service("post").Before(func(context.Context, *server.Call) error { return nil }, tidemark.MethodUpdate)
			}
			client := &sink{sent: make(chan *tidemark.Message, 16)}
			srv.Offer(b.Context(), client)
			<-client.sent // connected
			ms := make([]tidemark.Mutation, size)
			now := tidemark.StampOf(time.Now())
			first := int64(1)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for i := range ms {
					ms[i] = update("post", fmt.Sprintf("0197a5c0-0000-7000-8000-%012d", i), `{"title":"twenty characters...","owner":"`+strings.Repeat("c", 200)+`","likes":1}`, 0)
					ms[i].Stamp = now + tidemark.Stamp(first)
				}
				bt := batch(first, ms...)
				bt.Confirmed = first - 1
				m := request("sync", "push", "["+string(textOf(bt))+"]")
				first += size
				b.StartTimer()
				client.handler.Receive(m)
				if a := <-client.sent; !strings.HasPrefix(string(a.Args[0]), `{"result":{"now"`) {
					b.Fatalf("answer %.200s", a.Args[0])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/size, "ns/mutation")
		})
	}
}

// A date before 1970 makes nothing that others cannot read: they would never get past it.
func TestDatesBefore1970(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c, reader := b.dial(), b.dial()
	names := map[int64]string{reader.open(wanted("post", `{}`)).Scopes[0].Scope: "all"}
	c.result("sync", "push", json.RawMessage(`{"client":"`+device+`","first":1,"mutations":[["create","post","a",-5,{"title":"1"}],["update","post","dead",-9000000000000000,{"title":"1"}],["delete","post","dead",-1]]}`))
	c.result("post", "createWithMeta", "b", map[string]any{"title": "2"}, "1969-12-31T23:59:59.000Z")
	c.result("post", "createWithMeta", "c", map[string]any{"title": "3"}, -1000)
	b.quiet()
	reader.mark()
	equalList(t, reader.told(names), []string{`row a "1" in all`, `row b "2" in all`, `row c "3" in all`})
	if p := b.dial().open(wanted("post", `{}`)).Scopes[0].Page; p == nil || len(p.Rows) != 3 {
		t.Errorf("page %+v", p)
	}
}
