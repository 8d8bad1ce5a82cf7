package server_test

import (
	"context"
	"sync"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
)

// overtaken is a driver in which others write between the reading of a page and its answer.
type overtaken struct {
	*memory.Driver
	once sync.Once
	then func()
}

func (d *overtaken) Pull(ctx context.Context, q tidemark.Pull) (*tidemark.Page, error) {
	page, err := d.Driver.Pull(ctx, q)
	d.once.Do(d.then)
	return page, err
}

// A scope is live before its first page is read: what is written meanwhile is not on the page, and is told.
func TestAScopeIsLiveBeforeItIsRead(t *testing.T) {
	t.Parallel()
	db := memory.New(schemas(t)...)
	d := &overtaken{Driver: db}
	b := setupOver(t, db, d, nil)
	d.then = func() { b.call("createWithMeta", "late", map[string]any{"title": "1", "owner": "me"}, stamp(1)) }
	c := b.dial()
	a := c.open(wanted("post", `{"owner":"me"}`)).Scopes[0]
	equal(t, pageText(a.Page), "")
	c.mark()
	equalList(t, c.told(map[int64]string{a.Scope: "mine"}), []string{`row late "1" in mine`})
}
