package server_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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

// quiet waits until everything that was committed has been told.
func (b *bench) quiet() {
	b.t.Helper()
	poll(b.t, "the publications to leave", func() bool { return b.server.Publications() == 0 })
}
