package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/server/hooks"
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

// What a client sends again has the same verdicts, one effect, one event, and its hooks run
// once, also where they change what is written.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooked %v", hooked), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil).shared()
			var before, after atomic.Int64
			if hooked {
				b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
					if n := before.Add(1); string(c.Args[0]) == `"a"` && c.Method == tidemark.MethodCreate {
						c.Args[1] = fmt.Appendf(nil, `{"name":"by the hook %d"}`, n)
					}
					return nil
				}, tidemark.MethodCreate, tidemark.MethodUpdate)
				b.server.Service("tag").After(func(context.Context, *server.Call) error { after.Add(1); return nil })
			}
			c := b.dial()
			ms := func() *tidemark.Batch {
				return batch(1, creation("tag", "a", `{"name":"A"}`, -9), update("tag", "a", `{"name":"late"}`, -10),
					creation("tag", "bad", `{"name":1}`, -9), deletion("tag", "a", -8))
			}
			first := c.push(ms())
			logged, events := changes(t, b.db), len(c.events())
			if len(first) != 4 || logged != 2 || events != 3 {
				t.Fatalf("the first push: %q, %d changes, %d events", first, logged, events)
			}
			again := ms()
			again.Mutations[1].Stamp = stamp(-1) // it was stamped anew
			more := creation("tag", "b", `{"name":"B"}`, -5)
			more.N = 5
			again.Mutations = append(again.Mutations, more)
			second := b.dial().push(again)
			for i := range first {
				if got, want := kindOf(second[i]), kindOf(first[i]); got != want {
					t.Errorf("again: got %s, want %s", got, want)
				}
			}
			if got := changes(t, b.db) - logged; got != 1 {
				t.Errorf("again: %d effects, want 1", got)
			}
			c.result("tag", "findMany", map[string]any{}) // what was sent before is here now
			if got := len(c.events()) - events; got != 1 {
				t.Errorf("again: %d events, want 1", got)
			}
			if hooked && (before.Load() != 4 || after.Load() != 5) { // the findMany is one of after's
				t.Errorf("the before-hook ran %d times, the after-hook %d times", before.Load(), after.Load())
			}
		})
	}
}

// kindOf is a verdict without row and metadata.
func kindOf(verdict string) string {
	kind, _, _ := strings.Cut(verdict, " {")
	words := strings.Fields(kind)
	if words[1] == "rejected" {
		return strings.Join(words[:3], " ")
	}
	return strings.Join(words[:2], " ")
}

// The connection breaks when all is committed and nothing is answered.
func TestPushCutBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	reached, proceed := make(chan struct{}), make(chan struct{})
	var ran atomic.Int64
	b.server.Service("tag").After(func(_ context.Context, c *server.Call) error {
		if ran.Add(1) == 2 {
			close(reached)
			<-proceed
		}
		return nil
	}, tidemark.MethodCreate)
	watcher, c := b.dial(), b.dial()
	ms := func() *tidemark.Batch {
		return batch(1, creation("post", "p", `{"title":"x"}`, -9), creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -8), creation("post", "q", `{"title":"y"}`, -7))
	}
	c.send("sync", "push", textOf(ms()))
	<-reached
	c.conn.Close(tidemark.ClosedTransport)
	c.waitClosed()
	close(proceed) // it is made whole, though its session is gone
	equalList(t, b.dial().push(ms()), []string{
		`1 applied {"uid":"p","title":"x","owner":null,"likes":null,"due":null} -9 - -`,
		`2 applied`, `3 applied`, // hooks decide what leaves, and do not run again
		`4 applied {"uid":"q","title":"y","owner":null,"likes":null,"due":null} -7 - -`,
	})
	if got := changes(t, b.db); got != 4 || ran.Load() != 2 {
		t.Errorf("%d effects, %d hooks", got, ran.Load())
	}
	watcher.result("post", "findMany", map[string]any{})
	if got := watcher.events(); len(got) != 4 {
		t.Errorf("got %d events, want 4: %q", len(got), got)
	}
}

// The same batches by several connections at once: each mutation is made once, and its hooks
// run once, however long they take.
func TestPushBySeveralSessionsOfOneClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, nil).shared()
		var ran atomic.Int64
		b.server.Service("tag").Before(func(context.Context, *server.Call) error {
			ran.Add(1)
			<-time.After(time.Second)
			return nil
		}, tidemark.MethodCreate)
		var ms []tidemark.Mutation
		for i := range 40 {
			ms = append(ms, creation([]string{"tag", "post"}[i%2], fmt.Sprint("row ", i), []string{`{"name":"n"}`, `{"title":"t"}`}[i%2], -9))
		}
		watcher := b.dial()
		clients := []*client{b.dial(), b.dial(), b.dial()}
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				for from := 0; from < len(ms); from += 10 {
					for i, v := range c.push(batch(int64(from+1), slices.Clone(ms[from:from+10])...)) {
						if kindOf(v) != fmt.Sprint(from+i+1, " applied") {
							t.Errorf("got %s", v)
						}
					}
				}
			})
		}
		wg.Wait()
		if got := changes(t, b.db); got != 40 || ran.Load() != 20 {
			t.Errorf("%d effects, %d hooks; want 40, 20", got, ran.Load())
		}
		watcher.result("tag", "findMany", map[string]any{})
		if got := watcher.events(); len(got) != 40 {
			t.Errorf("got %d events, want 40", len(got))
		}
	})
}

func TestPushUnits(t *testing.T) {
	t.Parallel()
	denied := tidemark.NewError("my-rule", "no")
	for _, hooked := range []bool{false, true} {
		for name, c := range map[string]struct {
			ms   []tidemark.Mutation
			want []string
			rows int
		}{
			"applied together": {
				unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -9)),
				[]string{"1 applied", "2 applied"}, 2},
			"one is invalid": {
				append(unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{"name":1}`, -9), creation("tag", "c", `{}`, -9)), creation("tag", "d", `{}`, -9)),
				[]string{"1 rejected unit", "2 rejected invalid-data", "3 rejected unit", "4 applied"}, 1},
			"the database refuses one": {
				unit(1, creation("tag", "a", `{}`, -9), creation("post", "b", `{}`, -9)),
				[]string{"1 rejected unit", "2 rejected constraint"}, 0},
			"one is superseded": {
				unit(1, creation("tag", "a", `{}`, -9), update("tag", "a", `{"name":"x"}`, -10), creation("tag", "b", `{}`, -9)),
				[]string{"1 applied", "2 superseded", "3 applied"}, 2},
			"the rule refuses one": {
				unit(1, creation("tag", "a", `{}`, -9), creation("tag", "forbidden", `{}`, -9)),
				map[bool][]string{true: {"1 rejected unit", "2 rejected my-rule"}, false: {"1 applied", "2 applied"}}[hooked],
				map[bool]int{true: 0, false: 2}[hooked]},
		} {
			t.Run(fmt.Sprintf("%s hooked %v", name, hooked), func(t *testing.T) {
				t.Parallel()
				b := setup(t, nil).shared()
				if hooked {
					b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
						if string(c.Args[0]) == `"forbidden"` {
							return denied
						}
						return nil
					})
				}
				s := b.dial()
				var got []string
				for _, v := range s.push(batch(1, c.ms...)) {
					got = append(got, kindOf(v))
				}
				equalList(t, got, c.want)
				if b.db.Len("tag") != c.rows {
					t.Errorf("%d rows, want %d", b.db.Len("tag"), c.rows)
				}
				told := 0
				for _, v := range got {
					if !strings.Contains(v, "rejected") {
						told++
					}
				}
				if len(s.events()) != told {
					t.Errorf("got %d events, want %d", len(s.events()), told)
				}
			})
		}
	}
}

func TestPushHookRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	var asked []string
	b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
		asked = append(asked, string(c.Args[0])) // the lane orders them
		switch string(c.Args[0]) {
		case `"app"`:
			return tidemark.NewError("my-rule", "not yours").OnField("name")
		case `"plain"`:
			return errors.New("without a code")
		case `"panic"`:
			panic("in a hook")
		}
		return nil
	}, tidemark.MethodUpdate)
	c := b.dial()
	ms := []tidemark.Mutation{update("tag", "app", `{}`, -9), update("tag", "plain", `{}`, -9), update("tag", "panic", `{}`, -9), update("tag", "fine", `{}`, -9)}
	want := []string{"1 rejected my-rule", "2 rejected unknown-error", "3 rejected internal", `4 applied {"uid":"fine","name":null} - -9 -`}
	equalList(t, c.push(batch(1, ms...)), want)
	want[3] = "4 applied"
	equalList(t, c.push(batch(1, ms...)), want)
	equalList(t, asked, []string{`"app"`, `"plain"`, `"panic"`, `"fine"`})
	if len(c.events()) != 1 {
		t.Errorf("events: %q", c.events())
	}
	answer := c.result("sync", "push", textOf(batch(1, ms...)))
	if !strings.Contains(answer, `{"code":"my-rule","message":"not yours","field":"name"}`) || strings.Contains(answer, "in a hook") {
		t.Errorf("answer %s", answer)
	}
	if !strings.Contains(b.log.String(), "in a hook") {
		t.Error("the panic is not logged")
	}
}

// A hook that cannot say yet stops the push; nothing is decided about what follows.
func TestPushStopsAtWhatIsTemporary(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	var down atomic.Bool
	down.Store(true)
	b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
		if string(c.Args[0]) == `"stop"` && down.Load() {
			return tidemark.NewError(tidemark.CodeUnavailable, "ask again")
		}
		return nil
	})
	c := b.dial()
	ms := []tidemark.Mutation{creation("post", "p", `{"title":"x"}`, -9), creation("tag", "go", `{}`, -9), creation("tag", "stop", `{}`, -9), creation("post", "q", `{"title":"x"}`, -9)}
	got := c.push(batch(1, ms...))
	if len(got) != 2 || kindOf(got[0]) != "1 applied" || kindOf(got[1]) != "2 applied" {
		t.Fatalf("got %q", got)
	}
	c.refused(tidemark.CodeUnavailable, "sync", "push", textOf(batch(3, slices.Clone(ms[2:])...)))
	if got := changes(t, b.db); got != 2 {
		t.Errorf("%d effects, want 2", got)
	}
	down.Store(false)
	if got := c.push(batch(3, slices.Clone(ms[2:])...)); len(got) != 2 || kindOf(got[1]) != "4 applied" {
		t.Errorf("got %q", got)
	}
}

func TestPushAfterHookChangesTheVerdict(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	b.server.Service("tag").After(func(_ context.Context, c *server.Call) error {
		rm := c.Result.(*tidemark.RowMeta)
		switch rm.Meta.UID {
		case "other":
			c.Result = &tidemark.RowMeta{Row: rm.Row.With("name", []byte(`"other"`)), Meta: rm.Meta}
		case "row":
			c.Result = tidemark.Row(`{"uid":"row"}`)
		case "map":
			c.Result = []any{map[string]any{"uid": "map"}, rm.Meta}
		case "nil":
			c.Result = nil
		case "garbage":
			c.Result = &tidemark.RowMeta{Row: tidemark.Row(`{"uid":"garbage",`), Meta: rm.Meta}
		case "foreign":
			c.Result = &tidemark.RowMeta{Row: tidemark.Row(`{"uid":"another"}`), Meta: rm.Meta}
		case "number":
			c.Result = 5
		case "attached":
			c.Result = &tidemark.RowMeta{Row: rm.Row.With("name", c.Attach([]byte("x"))), Meta: rm.Meta}
		case "error":
			return tidemark.NewError("my-rule", "too late")
		case "panic":
			panic("after the commit")
		}
		return nil
	}, tidemark.MethodCreate)
	c := b.dial()
	var ms []tidemark.Mutation
	for _, uid := range []string{"other", "row", "map", "nil", "garbage", "foreign", "number", "attached", "error", "panic", "plain"} {
		ms = append(ms, creation("tag", uid, `{}`, -9))
	}
	equalList(t, c.push(batch(1, ms...)), []string{
		`1 applied {"uid":"other","name":"other"} -9 - -`,
		`2 applied {"uid":"row"} -9 - -`,
		`3 applied {"uid":"map"} -9 - -`,
		`4 applied`, `5 applied`, `6 applied`, `7 applied`, `8 applied`, `9 applied`, `10 applied`,
		`11 applied {"uid":"plain","name":null} -9 - -`,
	})
	if b.db.Len("tag") != len(ms) {
		t.Errorf("%d rows, want %d", b.db.Len("tag"), len(ms))
	}
	for _, text := range []string{"too late", "after the commit", "a hook left something"} {
		if !strings.Contains(b.log.String(), text) {
			t.Errorf("not logged: %s", text)
		}
	}
	if got := b.server.Rows(); got != 0 {
		t.Errorf("%d rows have events under way", got)
	}
}

// A protected field leaves by no verdict, whatever it says.
func TestPushProtects(t *testing.T) {
	t.Parallel()
	for _, methods := range [][]string{nil, {tidemark.MethodCreate, tidemark.MethodUpdate, tidemark.MethodDelete}} {
		b := setup(t, nil).shared()
		b.server.Service("post").After(hooks.Protect("owner"), methods...)
		b.db.Put("post", tidemark.Row(`{"uid":"s","title":"t","owner":"CANARY","likes":1,"due":null}`), tidemark.Meta{UID: "s", CreatedAt: stamp(-5)})
		c := b.dial()
		ms := []tidemark.Mutation{
			creation("post", "a", `{"title":"t","owner":"CANARY"}`, -9), // applied
			update("post", "s", `{"title":"u"}`, -9),                    // superseded
			update("post", "s", `{"title":null}`, -1),                   // refused by the database
			update("post", "s", `{"title":5}`, -1),                      // refused by the server
			deletion("post", "s", -9),                                   // superseded
			update("post", "s", `{"likes":2}`, -1),                      // applied
			deletion("post", "s", 0),                                    // applied
			creation("post", "last", `{"title":"t"}`, 0),                // applied
		}
		for i := range 2 {
			answer := c.result("sync", "push", textOf(batch(1, ms...)))
			if strings.Contains(answer, "CANARY") {
				t.Errorf("time %d: %s", i, answer)
			}
			var kinds []string
			for _, v := range verdicts(t, answer) {
				kinds = append(kinds, kindOf(v))
			}
			equalList(t, kinds, []string{"1 applied", "2 superseded", "3 rejected constraint", "4 rejected invalid-data", "5 superseded", "6 applied", "7 applied", "8 applied"})
			if i == 0 && !strings.Contains(answer, `"likes":2`) {
				t.Errorf("the rest of the row is told: %s", answer)
			}
		}
		if strings.Contains(strings.Join(c.events(), "\n"), "CANARY") {
			t.Errorf("events: %q", c.events())
		}
	}
}

// A rule that narrows what may be read keeps rows that exist elsewhere from rejections.
func TestPushRejectionTellsNoRowUnderReadRules(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"tag", "post"} {
		b, d := setupPushes(t)
		d.tells = true
		b.server.Service(model).Before(func(context.Context, *server.Call) error { return nil }, tidemark.MethodFindMany)
		b.db.Put("post", tidemark.Row(`{"uid":"s","title":"theirs","owner":null,"likes":1,"due":null}`), tidemark.Meta{UID: "s", CreatedAt: stamp(-5)})
		want := "1 rejected constraint"
		if model == "tag" { // the post may be read
			want += ` {"uid":"s","title":"theirs","owner":null,"likes":1,"due":null} -5 - -`
		}
		c := b.dial()
		for range 2 {
			equalList(t, c.push(batch(1, update("post", "s", `{"title":null}`, -1))), []string{want})
		}
	}
}

// When one of a unit is refused, no further hook of it runs, and the driver makes none of it.
func TestPushLooksNoFurtherIntoARefusedUnit(t *testing.T) {
	t.Parallel()
	b, d := setupPushes(t)
	var ran atomic.Int64
	b.server.Service("tag").Before(func(context.Context, *server.Call) error { ran.Add(1); return nil })
	got := b.dial().push(batch(1, unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{"name":1}`, -9), creation("tag", "c", `{"name":1}`, -9), creation("tag", "poison", `{}`, -9))...))
	equalList(t, got, []string{"1 rejected unit", "2 rejected invalid-data", "3 rejected unit", "4 rejected unit"})
	if ran.Load() != 2 || d.refused.Load() != 4 || d.calls.Load() != 1 {
		t.Errorf("%d hooks, %d refused, %d pushes; want 2, 4, 1", ran.Load(), d.refused.Load(), d.calls.Load())
	}
}

// A session's writes and pushes are made in the order in which they came.
func TestPushInItsTurn(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		t.Run(fmt.Sprintf("hooked %v", hooked), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil).shared()
			if hooked {
				b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
			}
			c := b.dial()
			var last uint64
			var want []string
			n := int64(1)
			for i := range 30 {
				name := func(j int) string { return fmt.Sprintf(`{"name":"%d.%d"}`, i, j) }
				c.send("tag", "updateWithMeta", "a", json.RawMessage(name(0)), at(-1000+i*3))
				last = c.send("sync", "push", textOf(batch(n, update("tag", "a", name(1), -1000+i*3+1), update("tag", "a", name(2), -1000+i*3+2))))
				n += 2
				for j := range 3 {
					want = append(want, fmt.Sprintf(`"%d.%d"`, i, j))
				}
			}
			c.answer(last)
			var got []string
			for _, e := range c.events() {
				_, raw, _ := strings.Cut(e, " ")
				var rm tidemark.RowMeta
				if err := rm.UnmarshalJSON([]byte(raw)); err != nil {
					t.Fatal(err)
				}
				got = append(got, string(rm.Row.Get("name")))
			}
			equalList(t, got, want)
		})
	}
}

// Events about a row leave in the order of its commits, whoever makes them.
func TestPushKeepsTheOrderOfEvents(t *testing.T) {
	t.Parallel()
	b := setup(t, nil).shared()
	b.server.Service("tag").After(func(context.Context, *server.Call) error { return nil }, tidemark.MethodUpdate) // slots are filled late
	watcher := b.dial()
	var clients []*client
	for range 8 {
		clients = append(clients, b.dial())
	}
	var wg sync.WaitGroup
	for w, c := range clients {
		wg.Go(func() {
			for i := range 20 {
				if w%2 == 0 {
					c.result("tag", "updateWithMeta", "a", map[string]any{"name": fmt.Sprint(w)}, at(-1000+i*8+w))
					continue
				}
				ms := batch(int64(2*i+1), update("tag", "a", `{"name":"p"}`, -1000+i*8+w), update("post", "p", `{"title":"p"}`, -1000+i*8+w))
				ms.Client = fmt.Sprint(device, w)
				c.push(ms)
			}
		})
	}
	wg.Wait()
	watcher.result("tag", "findMany", map[string]any{})
	last := map[string]tidemark.Stamp{}
	for _, e := range watcher.events() {
		_, raw, _ := strings.Cut(e, " ")
		var rm tidemark.RowMeta
		if err := rm.UnmarshalJSON([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if rm.Meta.T() < last[rm.Meta.UID] {
			t.Fatalf("row %s: %s after %s", rm.Meta.UID, rm.Meta.T(), last[rm.Meta.UID])
		}
		last[rm.Meta.UID] = rm.Meta.T()
	}
	if want := b.db.Get("tag", "a").Meta.T(); last["a"] != want {
		t.Errorf("the last event is of %s, want %s", last["a"], want)
	}
}

// Clients of the guide's protocol hear of what is pushed as of single writes.
func TestPushIsPublished(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.server.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	var args []string
	b.server.Service("tag").Publish(func(_ context.Context, c *server.Call) ([]string, error) {
		if c.Session == nil || c.Caller != server.CallerClient || c.Service != "tag" {
			t.Errorf("the call is %+v", c)
		}
		for _, a := range c.Args {
			args = append(args, string(a)) // the lane orders them
		}
		switch string(c.Args[0]) {
		case `"secret"`:
			return nil, nil
		case `"error"`:
			return nil, errors.New("nobody knows whom to tell")
		case `"panic"`:
			panic("nobody knows whom to tell")
		}
		return []string{"all"}, nil
	})
	watcher, c := b.dial(), b.dial()
	got := c.push(batch(1, creation("tag", "a", `{"name":"A"}`, -9), creation("post", "p", `{"title":"t"}`, -9), update("tag", "a", `{"name":"B"}`, -8),
		deletion("tag", "a", -20), creation("tag", "secret", `{}`, -9), creation("tag", "error", `{}`, -9), creation("tag", "panic", `{}`, -9), deletion("tag", "a", -7), deletion("tag", "none", -7)))
	for i, want := range []string{"1 applied", "2 applied", "3 applied", "4 superseded", "5 applied", "6 applied", "7 applied", "8 applied", "9 applied"} {
		if kindOf(got[i]) != want {
			t.Errorf("got %s, want %s", got[i], want)
		}
	}
	watcher.result("tag", "findMany", map[string]any{})
	meta := func(c, u, d string) string {
		return fmt.Sprintf(`{"uid":"a","created_at":"%s","updated_at":%s,"deleted_at":%s}`, c, u, d)
	}
	want := []string{
		`createWithMeta [{"uid":"a","name":"A"},` + meta(at(-9), "null", "null") + `]`,
		`updateWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, "null") + `]`,
		`updateWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, "null") + `]`, // a refused delete
		`deleteWithMeta [{"uid":"a","name":"B"},` + meta(at(-9), `"`+at(-8)+`"`, `"`+at(-7)+`"`) + `]`,
		`deleteWithMeta [{"uid":"none"},{"uid":"none","created_at":null,"updated_at":null,"deleted_at":"` + at(-7) + `"}]`,
	}
	equalList(t, watcher.events(), want)
	equalList(t, c.events(), want)
	equalList(t, args[:5], []string{`"a"`, `{"name":"A"}`, `"` + at(-9) + `"`, `"a"`, `{"name":"B"}`})
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

// pushes is a driver that fails at certain uids, and counts.
type pushes struct {
	*memory.Driver
	calls, refused atomic.Int64 // pushes, and mutations that the server refused
	down           atomic.Bool
	tells          bool // the row as it stands with every refusal, as a driver may
}

func (d *pushes) Push(ctx context.Context, b *tidemark.Batch, w tidemark.Witness) ([]tidemark.Verdict, error) {
	d.calls.Add(1)
	for i, m := range b.Mutations {
		switch {
		case b.Refusal(i) != nil:
			d.refused.Add(1)
		case m.UID == "poison":
			return nil, errors.New("the driver does not understand")
		case m.UID == "panic":
			panic("in the driver")
		case m.UID == "down" && d.down.Load():
			return nil, tidemark.Wrap(errors.New("disk full"), tidemark.CodeUnavailable, "the database is not available")
		}
	}
	verdicts, err := d.Driver.Push(ctx, b, w)
	for i := range verdicts {
		if v := &verdicts[i]; d.tells && v.Err != nil {
			rm := d.Get(b.Mutations[i].Model, b.Mutations[i].UID)
			v.Row, v.Meta = rm.Row, rm.Meta
		}
	}
	return verdicts, err
}

func setupPushes(t *testing.T) (*bench, *pushes) {
	db := memory.New(schemas(t)...)
	d := &pushes{Driver: db}
	return setupOver(t, db, d, nil), d
}

func TestPushTogether(t *testing.T) {
	t.Parallel()
	b, d := setupPushes(t)
	b.shared()
	var ms []tidemark.Mutation
	for i := range 100 {
		ms = append(ms, creation([]string{"tag", "post"}[i%2], fmt.Sprint(i), []string{`{}`, `{"title":"x"}`}[i%2], -9))
	}
	ms = append(ms, unit(101, creation("tag", "u", `{}`, -9), creation("tag", "v", `{}`, -9))...)
	b.dial().push(batch(1, ms...))
	if got := d.calls.Load(); got != 1 {
		t.Errorf("%d pushes to the driver, want 1", got)
	}
	b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil }, tidemark.MethodDelete)
	d.calls.Store(0)
	// Two, the unit with the hook, two, the one with the hook, one.
	more := []tidemark.Mutation{update("tag", "0", `{}`, -8), update("tag", "2", `{}`, -8)}
	more = append(more, unit(105, update("tag", "4", `{}`, -8), deletion("tag", "4", -7))...)
	more = append(more, update("post", "1", `{}`, -8), update("tag", "2", `{}`, -7), deletion("tag", "2", -6), update("tag", "6", `{}`, -8))
	b.dial().push(batch(103, more...))
	if got := d.calls.Load(); got != 5 {
		t.Errorf("%d pushes to the driver, want 5", got)
	}
	d.calls.Store(0)
	again := batch(103, more...)
	again.Confirmed = 105
	b.dial().push(again)
	if got := d.calls.Load(); got != 1 {
		t.Errorf("what was decided before: %d pushes to the driver, want 1", got)
	}
	d.calls.Store(0)
	b.dial().refused(tidemark.CodeRepeated, "sync", "push", textOf(batch(103, more...)))
	if got := d.calls.Load(); got != 1 {
		t.Errorf("a batch that is refused: %d pushes to the driver, want 1", got)
	}
}

// A mutation that the driver fails at each time is refused: it does not block the queue.
func TestPushGoesOnBehindWhatFailsEachTime(t *testing.T) {
	t.Parallel()
	for _, uid := range []string{"poison", "panic"} {
		b, _ := setupPushes(t)
		c := b.dial()
		ms := append([]tidemark.Mutation{creation("tag", "a", `{}`, -9)}, unit(2, creation("tag", "b", `{}`, -9), creation("tag", uid, `{}`, -9))...)
		ms = append(ms, creation("tag", "c", `{}`, -9))
		want := []string{`1 applied {"uid":"a","name":null} -9 - -`, "2 rejected internal", "3 rejected internal", `4 applied {"uid":"c","name":null} -9 - -`}
		equalList(t, c.push(batch(1, ms...)), want)
		equalList(t, c.push(batch(1, ms...)), want)
		if got := b.server.Rows(); got != 0 {
			t.Errorf("%d rows are held", got)
		}
	}
}

func TestPushAnswersWhatWasDecidedBeforeTheDatabaseFailed(t *testing.T) {
	t.Parallel()
	b, d := setupPushes(t)
	b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
	d.down.Store(true)
	c := b.dial()
	ms := []tidemark.Mutation{creation("post", "p", `{"title":"x"}`, -9), creation("tag", "a", `{}`, -9), creation("tag", "down", `{}`, -9), creation("tag", "c", `{}`, -9)}
	if got := c.push(batch(1, ms...)); len(got) != 2 || kindOf(got[1]) != "2 applied" {
		t.Errorf("got %q", got)
	}
	c.refused(tidemark.CodeUnavailable, "sync", "push", textOf(batch(3, slices.Clone(ms[2:])...)))
	d.down.Store(false)
	if got := c.push(batch(1, ms...)); len(got) != 4 || kindOf(got[3]) != "4 applied" {
		t.Errorf("got %q", got)
	}
	if got := changes(t, b.db); got != 4 {
		t.Errorf("%d effects, want 4", got)
	}
}

// Hooks that write in their turn do not lock themselves out.
func TestPushHookWritesTheSameRow(t *testing.T) {
	t.Parallel()
	b := setup(t, &server.Options{CallTimeout: time.Minute}).shared()
	tag := b.server.Service("tag")
	tag.After(func(ctx context.Context, c *server.Call) error {
		if c.Caller == server.CallerServer {
			return nil
		}
		_, err := tag.Call(ctx, "updateWithMeta", "a", map[string]any{"name": "by the hook"}, c.Server.Now())
		return err
	}, tidemark.MethodCreate, tidemark.MethodUpdate)
	c := b.dial()
	equalList(t, c.push(batch(1, creation("tag", "a", `{}`, -9), update("tag", "a", `{}`, -8))), []string{
		`1 applied {"uid":"a","name":null} -9 - -`, `2 superseded {"uid":"a","name":"by the hook"} -9 0 -`})
	if got := len(c.events()); got != 4 {
		t.Errorf("got %d events, want 4", got)
	}
}

// Sessions with live scopes hear of a unit in one message. The one that pushed hears by its
// answer, and like the others where hooks may keep the row from that.
func TestPushInLiveScopes(t *testing.T) {
	t.Parallel()
	for _, hooked := range []bool{false, true} {
		b := setup(t, nil).shared()
		if hooked {
			b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil }, tidemark.MethodCreate)
		}
		open := func() *client {
			c := b.dial()
			c.result("sync", "open", tidemark.OpenRequest{Protocol: 1, Client: device, Scopes: []tidemark.ScopeRequest{{Model: "tag", Where: []byte(`{}`)}}})
			return c
		}
		watcher, c := open(), open()
		c.push(batch(1, unit(1, creation("tag", "a", `{}`, -9), creation("tag", "b", `{}`, -9))...))
		told := func(c *client) (messages, rows int) {
			c.result("tag", "findMany", map[string]any{}) // what was sent before is here now
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, m := range c.got {
				if m.Event != tidemark.EventChanges {
					continue
				}
				var changes tidemark.Changes
				if err := changes.UnmarshalJSON(m.Args[0]); err != nil {
					t.Errorf("%s: %v", m.Args[0], err)
				}
				messages, rows = messages+1, rows+len(changes)
			}
			return messages, rows
		}
		if messages, rows := told(watcher); messages != 1 || rows != 2 {
			t.Errorf("hooked %v: the other session got %d messages with %d rows, want 1, 2", hooked, messages, rows)
		}
		if messages, _ := told(c); (messages > 0) != hooked {
			t.Errorf("hooked %v: the session itself got %d messages", hooked, messages)
		}
		if len(c.events())+len(watcher.events()) > 0 {
			t.Errorf("hooked %v: events of models: %q", hooked, watcher.events())
		}
	}
}

// Over a real database, by several connections of one client and others at once: each mutation
// is made once, and each event is told once.
func TestPushOnSQL(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *sqlBench) {
		b.server.Service("tag").Before(func(_ context.Context, c *server.Call) error {
			c.Args[1] = json.RawMessage(`{"name":"by the hook"}`)
			return nil
		}, tidemark.MethodUpdate)
		ms := []tidemark.Mutation{creation("tag", "a", `{"name":"A"}`, -9), creation("post", "bad", `{}`, -9), update("tag", "a", `{"name":"B"}`, -8)}
		ms = append(ms, unit(4, creation("post", "p", `{"title":"t"}`, -9), creation("post", "a", `{"title":"taken"}`, -9))...)
		ms = append(ms, unit(6, creation("post", "q", `{"title":"t"}`, -9), update("tag", "b", `{"name":"C"}`, -7))...)
		ms = append(ms, deletion("post", "q", -6), update("post", "q", `{"title":"late"}`, -8))
		want := []string{"1 applied", "2 rejected constraint", "3 applied", "4 rejected unit", "5 rejected uid-taken", "6 applied", "7 applied", "8 applied", "9 superseded"}
		watcher := b.dial()
		clients := []*client{b.dial(), b.dial(), b.dial(), b.dial()}
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				part := batch(1, slices.Clone(ms)...)
				if i == 3 { // another client, of other rows
					part = batch(1, creation("tag", "theirs", `{}`, -9), creation("post", "theirs too", `{"title":"t"}`, -9))
					part.Client = "another"
				}
				for j, v := range c.push(part) {
					if got := kindOf(v); i < 3 && got != want[j] || i == 3 && got != fmt.Sprint(j+1, " applied") {
						t.Errorf("got %s", v)
					}
				}
			})
		}
		wg.Wait()
		watcher.result("tag", "findMany", map[string]any{})
		if got := len(watcher.events()); got != 8 {
			t.Errorf("got %d events, want 8: %q", got, watcher.events())
		}
		rows := watcher.result("tag", "findMany", map[string]any{"name": "by the hook"})
		if n := strings.Count(rows, `"uid"`); n != 2 {
			t.Errorf("got %s", rows)
		}
		if known, err := b.driver.Known(t.Context(), device); known != 9 || err != nil {
			t.Errorf("the last mutation known is %d, %v", known, err)
		}
	})
}

// Random histories of clients that send again what they have no verdict of, whole or in
// part, by several connections, end as if each mutation had been made once.
func TestPushRandomly(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 60 {
		pushRandomly(t, rng)
	}
}

func pushRandomly(t *testing.T, rng *rand.Rand) {
	b := setup(t, nil).shared()
	once := memory.New(schemas(t)...)
	if rng.IntN(2) == 0 {
		b.server.Service("tag").Before(func(context.Context, *server.Call) error { return nil })
	}
	var ms []tidemark.Mutation
	for len(ms) < 40 {
		first := int64(len(ms) + 1)
		part := make([]tidemark.Mutation, 1+max(0, rng.IntN(6)-2))
		for i := range part {
			model := []string{"tag", "post"}[rng.IntN(2)]
			part[i] = tidemark.Mutation{Model: model, UID: fmt.Sprint(model, rng.IntN(4)), Op: tidemark.Op(1 + rng.IntN(3)), Stamp: stamp(-rng.IntN(100))}
			if part[i].Op != tidemark.Delete {
				part[i].Data = tidemark.Row([]string{`{"name":"x"}`, `{"title":"x"}`, `{"title":null}`, `{"title":"y","likes":7}`}[rng.IntN(4)])
			}
		}
		if len(part) > 1 {
			part = unit(first, part...)
		}
		ms = append(ms, part...)
	}
	for i := range ms {
		ms[i].N = int64(i + 1)
	}
	want := map[int]string{}
	prepared := slices.Clone(ms) // as the server hands them on
	for i := range prepared {
		if prepared[i].Op != tidemark.Delete {
			for _, s := range once.Models() {
				if s.Name() == prepared[i].Model {
					prepared[i].Data, _, _ = s.Patch(prepared[i].UID, prepared[i].Data)
				}
			}
		}
	}
	vs, err := once.Push(t.Context(), &tidemark.Batch{Client: device, Mutations: prepared}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range vs {
		want[i] = fmt.Sprint(v.N, map[bool]string{true: " applied", false: " superseded"}[v.Applied])
		if v.Err != nil {
			want[i] = fmt.Sprint(v.N, " rejected ", v.Err.Code)
		}
	}
	ends := []int{0} // where a batch may begin or end
	_ = tidemark.EachUnit(ms, func(_, to int) error { ends = append(ends, to); return nil })
	sessions := []*client{b.dial(), b.dial(), b.dial()}
	for from, done := 0, 0; done < len(ms); {
		to := ends[rng.IntN(len(ends))]
		if from = ends[rng.IntN(len(ends))]; from > done || to <= from {
			continue
		}
		c := sessions[rng.IntN(len(sessions))]
		part := &tidemark.Batch{Client: device, Mutations: ms[from:to]}
		if rng.IntN(4) == 0 {
			c.send("sync", "push", textOf(part)) // not waited for
		}
		got := c.push(part)
		if len(got) != to-from {
			t.Fatalf("got %d verdicts, want %d", len(got), to-from)
		}
		for i, v := range got {
			if kindOf(v) != want[from+i] {
				t.Errorf("got %s, want %s", kindOf(v), want[from+i])
			}
		}
		done = max(done, to)
	}
	if got, want := changes(t, b.db), changes(t, once); got != want {
		t.Errorf("%d effects, want %d", got, want)
	}
	state := func(db *memory.Driver) map[string]string {
		rows := map[string]string{}
		for _, model := range []string{"tag", "post"} {
			for i := range 4 {
				rm := db.Get(model, fmt.Sprint(model, i))
				rows[fmt.Sprint(model, i)] = string(rm.Row) + metaText(rm.Meta)
			}
		}
		return rows
	}
	if got, want := state(b.db), state(once); !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if t.Failed() {
		t.FailNow()
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
