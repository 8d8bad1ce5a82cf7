package server_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/tidemark-sync/tidemark"
)

// A client that asks for deflated pages gets the same rows in fewer bytes; one that does not, and a page that
// is too short for it, are answered plainly.
func TestPagesDeflated(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for i := range 200 {
		b.put(fmt.Sprintf("u%03d", i), fmt.Sprintf("title number %d", i), "me")
	}
	c := b.dial()
	answer := c.open(wanted("post", `{}`), wanted("post", `{"uid":"u001"}`))
	ask := func(r tidemark.PullRequest) (*tidemark.ScopePage, *tidemark.Message) {
		id := c.send("sync", "pull", r)
		a := c.answer(id)
		var m *tidemark.Message
		c.until("the answer", func() bool {
			for _, g := range c.got {
				if g.Kind == tidemark.AnswerMessage && g.ID == id {
					m = g
				}
			}
			return m != nil
		})
		page, err := tidemark.ParsePage(a.Result, m.Attachments)
		if err != nil {
			t.Fatal(err)
		}
		return page, m
	}
	plain, whole := ask(tidemark.PullRequest{Scope: answer.Scopes[0].Scope})
	page, small := ask(tidemark.PullRequest{Scope: answer.Scopes[0].Scope, Deflate: true})
	if len(page.Rows) != 200 || !reflect.DeepEqual(page, plain) {
		t.Errorf("deflated: %d rows; plain: %d", len(page.Rows), len(plain.Rows))
	}
	if len(whole.Attachments) != 0 || len(small.Attachments) != 1 || len(small.Attachments[0]) > len(whole.Args[0])/3 {
		t.Errorf("%d bytes plain, deflated %d attachments", len(whole.Args[0]), len(small.Attachments))
	}
	if one, m := ask(tidemark.PullRequest{Scope: answer.Scopes[1].Scope, Deflate: true}); len(one.Rows) != 1 || len(m.Attachments) != 0 {
		t.Errorf("a short page: %d rows, %d attachments", len(one.Rows), len(m.Attachments))
	}
	c.refused(tidemark.CodeInvalidRequest, "sync", "pull", map[string]any{"scope": answer.Scopes[0].Scope, "deflate": "yes"})
}
