package server_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// What a client of the second protocol says and hears, for the tests of scopes.

func wanted(model, where string) tidemark.ScopeRequest {
	return tidemark.ScopeRequest{Model: model, Where: json.RawMessage(where)}
}

// open opens the second protocol with scopes, none of which may be refused.
func (c *client) open(scopes ...tidemark.ScopeRequest) tidemark.OpenAnswer {
	c.t.Helper()
	var a tidemark.OpenAnswer
	text := c.result("sync", "open", tidemark.OpenRequest{Protocol: 1, Client: "client", Scopes: scopes})
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		c.t.Fatal(err)
	}
	for i := range a.Scopes {
		if a.Scopes[i].Err != nil {
			c.t.Fatalf("scope %d: %v", i, a.Scopes[i].Err)
		}
	}
	return a
}

func (c *client) subscribe(scopes ...tidemark.ScopeRequest) []tidemark.ScopeAnswer {
	c.t.Helper()
	var list []tidemark.ScopeAnswer
	if err := json.Unmarshal([]byte(c.result("sync", "subscribe", scopes)), &list); err != nil {
		c.t.Fatal(err)
	}
	return list
}

func (c *client) pull(r tidemark.PullRequest) *tidemark.ScopePage {
	c.t.Helper()
	p := &tidemark.ScopePage{}
	if err := p.UnmarshalJSON([]byte(c.result("sync", "pull", r))); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// changes returns what c heard of its scopes so far, a message each.
func (c *client) changes() []tidemark.Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []tidemark.Changes
	for _, m := range c.got {
		if m.Event != tidemark.EventChanges {
			continue
		}
		var cs tidemark.Changes
		if err := cs.UnmarshalJSON(m.Args[0]); err != nil {
			c.t.Errorf("%s: %v", m.Args[0], err)
		}
		out = append(out, cs)
	}
	return out
}

// told returns what c heard of its scopes so far, a text a message, with the scopes by
// the names that the test gave them.
func (c *client) told(names map[int64]string) []string {
	c.t.Helper()
	var out []string
	for _, cs := range c.changes() {
		var parts []string
		for _, x := range cs {
			s := "left " + x.Gone.UID
			if x.Row != nil {
				s = fmt.Sprintf("row %s %s", x.Row.UID(), titleOf(x.Row))
			} else if x.Gone.Deleted {
				s = "deleted " + x.Gone.UID
			}
			if in := named(names, x.In); in != "" {
				s += " in " + in
			}
			if out := named(names, x.Out); out != "" {
				s += " out " + out
			}
			parts = append(parts, s)
		}
		out = append(out, strings.Join(parts, "; "))
	}
	return out
}

func named(names map[int64]string, numbers []int64) string {
	var out []string
	for _, n := range numbers {
		out = append(out, names[n])
	}
	slices.Sort(out)
	return strings.Join(out, "+")
}

// mark waits until everything that was sent to c before has come.
func (c *client) mark() {
	c.t.Helper()
	c.result("sync", "unsubscribe", []int64{})
}

func TestScopesHearOfRowsThatEnterChangeAndLeave(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	c, writer := b.dial(), b.dial()
	a := c.open(wanted("post", `{"owner":"me"}`), wanted("post", `{"likes":{"gte":10}}`))
	if a.Protocol != 1 || a.Epoch == "" || a.Now != tidemark.StampOf(noon) || len(a.Models) != 2 || a.Limits.Scopes != 128 {
		t.Errorf("answer %+v", a)
	}
	names := map[int64]string{a.Scopes[0].Scope: "mine", a.Scopes[1].Scope: "liked"}
	write := func(action, uid string, args ...any) {
		t.Helper()
		writer.result("post", action, append([]any{uid}, args...)...)
	}
	write("createWithMeta", "x", map[string]any{"title": "1", "owner": "you"}, at(1))
	write("updateWithMeta", "x", map[string]any{"title": "2", "owner": "me"}, at(2))
	write("updateWithMeta", "x", map[string]any{"title": "3", "likes": 10}, at(3))
	write("updateWithMeta", "x", map[string]any{"title": "4", "owner": "you"}, at(4))
	write("updateWithMeta", "x", map[string]any{"title": "old"}, at(1)) // loses: nothing to tell
	write("updateWithMeta", "x", map[string]any{"title": "5", "likes": 9}, at(5))
	write("updateWithMeta", "x", map[string]any{"title": "6"}, at(6))
	write("createWithMeta", "y", map[string]any{"title": "1", "owner": "me", "likes": 11}, at(1))
	write("deleteWithMeta", "y", at(2))
	write("deleteWithMeta", "x", at(9))
	c.mark()
	equalList(t, c.told(names), []string{
		`row x "2" in mine`,
		`row x "3" in liked+mine`,
		`row x "4" in liked out mine`,
		`left x out liked`,
		`row y "1" in liked+mine`,
		`deleted y out liked+mine`,
	})
	if got := c.changes()[3][0].Gone.At; got != stamp(5) {
		t.Errorf("the row left at %v, want the stamp of the version that left", got)
	}
	if got := c.changes()[5][0].Gone.At; got != stamp(2) {
		t.Errorf("the row was deleted at %v", got)
	}
	if rm := c.changes()[0][0]; rm.Meta.CreatedAt != stamp(1) || rm.Meta.UpdatedAt != stamp(2) {
		t.Errorf("metadata %+v", rm.Meta)
	}
	equalList(t, writer.events(), nil)
}
