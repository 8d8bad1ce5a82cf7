package client_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
	"github.com/tidemark-sync/tidemark/server"
)

// A server holds so many scopes of a session: those beyond say so, and come in when another goes.
func TestScopesBeyondTheServersLimit(t *testing.T) {
	for name, offline := range map[string]bool{"one by one": false, "all at once": true} {
		t.Run(name, func(t *testing.T) {
			inSecondWorld(t, &server.Options{MaxScopes: 3}, func(t *testing.T, w *world) {
				w.fill(6)
				b := w.device(&client.Options{Offline: offline})
				var scopes []*client.Scope
				for i := range 4 {
					scopes = append(scopes, b.register(tidemark.Where{"score": i}))
				}
				b.client.GoOnline()
				b.state(client.Syncing)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				begun := time.Now()
				for _, s := range scopes[:3] {
					if err := s.Synced(ctx); err != nil {
						t.Error(err)
					}
				}
				wantCode(t, scopes[3].Synced(ctx), tidemark.CodeLimit)
				wantCode(t, b.client.Sync(ctx), tidemark.CodeLimit)
				for _, err := range b.items.Watch(ctx, tidemark.Where{"score": 5}, &client.WatchOptions{WaitSynced: true}) {
					wantCode(t, err, tidemark.CodeLimit)
					break
				}
				synctest.Wait()
				if s := b.client.Status(); s.Synced != 3 || s.Scopes != 4 || tidemark.CodeOf(s.LastError) != tidemark.CodeLimit {
					t.Errorf("the status is %+v", s)
				}
				if took := time.Since(begun); took > 0 {
					t.Errorf("the refusals took %v", took)
				}
				pass(10 * time.Minute) // it has tried again, and waits
				begun = time.Now()
				scopes[1].Release()
				if err := scopes[3].Synced(ctx); err != nil {
					t.Error(err)
				}
				if err := b.client.Sync(ctx); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if took := time.Since(begun); took > 0 {
					t.Errorf("it came in after %v", took)
				}
				if s := b.client.Status(); s.State != client.Synced || s.LastError != nil {
					t.Errorf("the status is %+v", s)
				}
				w.put("u003", "live", 3)
				b.equals(w, tidemark.Where{"score": 3})
			})
		})
	}
}

// One more than the default limit, which is also what one request asks for.
func TestScopesBeyondTheDefaultLimit(t *testing.T) {
	inSecondWorld(t, nil, func(t *testing.T, w *world) {
		b := w.device(&client.Options{Offline: true})
		var scopes []*client.Scope
		for i := range 129 {
			scopes = append(scopes, b.register(tidemark.Where{"score": i}))
		}
		b.client.GoOnline()
		synctest.Wait()
		refused := 0
		for _, s := range scopes {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := s.Synced(ctx); tidemark.CodeOf(err) == tidemark.CodeLimit {
				refused++
			} else if err != nil {
				t.Error(err)
			}
			cancel()
		}
		if refused != 1 {
			t.Errorf("%d scopes are refused, want 1", refused)
		}
	})
}
