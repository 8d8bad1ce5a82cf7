package client_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/store/memory"
)

// misread is Item with a column of another kind than the server's.
type misread struct {
	UID   string `json:"uid"`
	Label int    `json:"label"`
}

// A row whose column the struct cannot hold ends what waits for it, and says which column that is:
// no repetition helps. It does so whether the row was there before, or is written later.
func TestColumnOfAnotherKindThanTheServersIsAnError(t *testing.T) {
	for _, before := range []bool{true, false} {
		name := map[bool]string{true: "held before", false: "written later"}[before]
		t.Run(name, func(t *testing.T) {
			inSecondWorld(t, nil, func(t *testing.T, w *world) {
				if before {
					w.fill(1)
				}
				store := memory.New()
				defer store.Close()
				c, err := client.Open(t.Context(), store, dialerFunc(w.dial), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				items, err := client.NewModel[misread](t.Context(), c, "item", nil)
				if err != nil {
					t.Fatal(err)
				}
				s, err := items.Register(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if !before {
					w.fill(1)
				}
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for _, err := range []error{c.Sync(ctx), s.Synced(ctx), c.Status().LastError} {
					wantCode(t, err, tidemark.CodeInvalidData)
					for _, part := range []string{"item", "label", "text", "integer"} {
						if !strings.Contains(err.Error(), part) {
							t.Errorf("%v does not name %s", err, part)
						}
					}
				}
			})
		})
	}
}
