package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/pipe"
)

// TestAServerKnowsTheStampsFromBefore restarts a server over rows whose stamps are ahead of the wall clock: those
// that it writes next, and those that devices write after them, are newer.
func TestAServerKnowsTheStampsFromBefore(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ahead := map[string]time.Duration{"a device's clock": 50 * time.Second, "a former server's clock": 2 * time.Hour}
	create := func(t *testing.T, d tidemark.Driver, uid string, at time.Time) {
		t.Helper()
		outs, err := d.Write(t.Context(), []tidemark.Mutation{
			{Op: tidemark.Create, Model: "post", UID: uid, Data: tidemark.Row(`{"title":"old"}`), Stamp: tidemark.StampOf(at)},
			{Op: tidemark.Create, Model: "post", UID: "mistaken " + uid, Data: tidemark.Row(`{"title":"old"}`), Stamp: tidemark.StampOf(now.Add(30 * time.Hour))},
		})
		if err != nil || !outs[0].Applied {
			t.Fatal(outs, err)
		}
	}
	restarted := func(t *testing.T, d tidemark.Driver, at time.Time) {
		b := &bench{t: t, log: &logText{}}
		var err error
		if b.server, err = server.New(d, &server.Options{Logger: textLogger(b.log), Now: func() time.Time { return now }}); err != nil {
			t.Fatal(err)
		}
		b.pipe = pipe.New(b.server, nil)
		defer b.pipe.Close()
		defer b.server.Close()
		if s := b.server.Now(); s.Time().After(now.Add(3 * time.Hour)) {
			t.Errorf("one stamp that is a day ahead made the clock %s", s)
		}
		raw, err := b.server.Service("post").Call(t.Context(), tidemark.MethodUpdate, "called", map[string]any{"title": "new"}, b.server.Now())
		if err != nil || !strings.Contains(string(raw), `"new"`) {
			t.Errorf("the server's write: %s, %v", raw, err)
		}
		m := update("post", "pushed", `{"title":"new"}`, 0)
		m.Stamp = tidemark.StampOf(at.Add(time.Millisecond))
		if got := b.dial().push(batch(1, m)); len(got) != 1 || !strings.HasPrefix(got[0], "1 applied") {
			t.Errorf("a device's write: %v", got)
		}
	}
	for whose, by := range ahead {
		at := now.Add(by)
		t.Run(whose, func(t *testing.T) {
			t.Parallel()
			t.Run("memory", func(t *testing.T) {
				d := memory.New(schemas(t)...)
				create(t, d, "called", at)
				create(t, d, "pushed", at)
				restarted(t, d, at)
			})
			onSQL(t, func(t *testing.T, b *sqlBench) {
				create(t, b.driver, "called", at)
				create(t, b.driver, "pushed", at)
				d, err := bundriver.New(t.Context(), b.db, []any{(*sqlPost)(nil), (*sqlTag)(nil)}, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if got, want := d.Newest(), tidemark.StampOf(at); got != want {
					t.Errorf("the newest stamp is %s, want %s", got, want)
				}
				restarted(t, d, at)
			})
		})
	}
}
