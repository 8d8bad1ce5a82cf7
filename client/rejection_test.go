package client_test

import (
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func TestRejectionIsSignalledListedAndSurvivesARestart(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		var told []client.Rejection
		b.opts.OnRejection = func(r client.Rejection) { told = append(told, r) }
		b.hold(live("u", "theirs & <ours>", T1))
		b.script.on(tidemark.MethodUpdate, func(c *call) {
			c.answer(tidemark.Answer{Err: tidemark.NewError("my-code", "because").OnField("label")})
		})
		b.open()
		b.update("u", "mine")
		r := b.rejections(client.Rejected)[0]
		if r.Code != "my-code" || r.Message != "because" || r.Field != "label" || string(r.Mutation.Data) != `{"label":"mine"}` ||
			r.Mutation.Op != tidemark.Update || string(r.Row) != string(live("u", "theirs & <ours>", T1).Row) || r.Meta.CreatedAt != T1 {
			t.Errorf("the rejection is %+v", r)
		}
		b.crash()
		if again := b.rejections(client.Rejected)[0]; again.ID != r.ID || again.Code != r.Code || !again.At.Equal(r.At) {
			t.Errorf("after the restart it is %+v", again)
		}
		if len(told) != 1 || told[0].ID != r.ID {
			t.Errorf("the callback got %+v", told)
		}
	})
}

func TestRetryMakesTheWriteAgainWithANewStamp(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T1)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.update("u", "mine")
		first := b.script.next()
		first.reply(state("u", "theirs", T1, first.stamp()+1, 0))
		b.sees("theirs")
		r := b.rejections(client.Superseded)[0]
		if err := b.client.Retry(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		b.sees("mine")
		b.rejections()
		again := b.script.next()
		if again.stamp() <= first.stamp()+1 {
			t.Errorf("the second stamp %v does not win over %v", again.stamp(), first.stamp()+1)
		}
		again.accept()
		b.sees("mine")
		b.pending(0)
	})
}

func TestDiscardRemovesARejection(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, func(c *call) { c.fail("no") })
		b.open()
		b.create("u", "mine")
		r := b.rejections(client.Rejected)[0]
		if err := b.client.Discard(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		b.rejections()
		b.pending(0)
		for _, id := range []string{r.ID, "", "nope"} {
			wantIs(t, b.client.Discard(t.Context(), id), tidemark.ErrNotFound)
			wantIs(t, b.client.Retry(t.Context(), id), tidemark.ErrNotFound)
		}
	})
}

func TestRetryOffline(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.script.on(tidemark.MethodCreate, func(c *call) { c.fail("no") })
		b.open()
		b.create("u", "mine")
		r := b.rejections(client.Rejected)[0]
		b.client.GoOffline()
		if err := b.client.Retry(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		b.sees("mine")
		b.opts.Offline = true
		b.crash()
		b.sees("mine")
		b.pending(1)
		b.client.GoOnline()
		b.sees()
		b.rejections(client.Rejected)
	})
}

func TestSupersededWriteThatALaterOneReplacesIsNotListed(t *testing.T) {
	run(t, func(t *testing.T, b *bench) {
		b.hold(live("u", "old", T1)).script.on(tidemark.MethodUpdate, nil)
		b.open()
		b.update("u", "first")
		b.update("u", "second")
		c := b.script.next()
		c.reply(state("u", "theirs", T1, c.stamp()+1, 0))
		b.script.next().accept()
		b.sees("second")
		b.rejections()
	})
}

func TestSupersededWriteIsListedUnlessAllOfItWasReplaced(t *testing.T) {
	for _, tc := range []struct {
		name   string
		later  client.Patch
		newer  tidemark.Stamp // than the first write's stamp
		listed []client.RejectionKind
	}{
		{"the later write leaves a column", client.Patch{"score": 1}, 1, []client.RejectionKind{client.Superseded}},
		{"the later write loses too", client.Patch{"label": "second"}, 10_000_000, []client.RejectionKind{client.Superseded, client.Superseded}},
		{"the later write replaces it", client.Patch{"label": "second", "score": 1}, 1, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run(t, func(t *testing.T, b *bench) {
				b.hold(live("u", "old", T1)).script.on(tidemark.MethodUpdate, nil)
				b.open()
				b.update("u", "first")
				if _, err := b.items.Update(t.Context(), "u", tc.later); err != nil {
					t.Fatal(err)
				}
				c := b.script.next()
				theirs := state("u", "theirs", T1, c.stamp()+tc.newer, 0)
				c.reply(theirs)
				if c = b.script.next(); c.stamp() > theirs.Meta.T() {
					c.accept()
				} else {
					c.reply(theirs)
				}
				b.pending(0)
				b.rejections(tc.listed...)
			})
		})
	}
}
