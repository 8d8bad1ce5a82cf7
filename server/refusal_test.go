package server_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/server/hooks"
)

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
