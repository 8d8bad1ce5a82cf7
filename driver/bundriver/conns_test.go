package bundriver_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/internal/pgtest"
)

// Whatever comes at once, the driver takes so many connections and no more: thousands of devices that come back
// must not leave the application without any.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	for want, opts := range map[int]*bundriver.Options{16: nil, 4: {MaxConns: 4}, 2: {MaxConns: 1}} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			t.Parallel()
			db := pgtest.Open(t)
			mustExec(t, db, postgresTables)
			db.SetMaxIdleConns(100) // those that were opened stay, to be counted
			d := engine{opts: opts}.driver(t, db, models)
			p, err := tidemark.Where{}.Compile(d.Models()[0])
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 150 {
				wg.Go(func() {
					<-start
					var err error
					switch i % 3 {
					case 0:
						_, err = d.Write(t.Context(), []tidemark.Mutation{{Model: "list", UID: fmt.Sprint("u", i), Op: tidemark.Create, Data: tidemark.Row(`{"title":"x"}`), Stamp: 1}})
					case 1:
						_, err = d.Find(t.Context(), p, 0)
					default:
						_, err = d.Pull(t.Context(), tidemark.Pull{Scope: p, Limit: 10, Bytes: 1000})
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			close(start)
			wg.Wait()
			if got := db.Stats().OpenConnections; got > want {
				t.Errorf("%d connections were opened, want %d at most", got, want)
			}
			// While writers wait for the application's lock, it reads and writes.
			err = d.RunInTx(t.Context(), func(ctx context.Context, _ bun.Tx) error {
				_, err := d.Write(ctx, []tidemark.Mutation{{Model: "list", UID: "u0", Op: tidemark.Update, Data: tidemark.Row(`{"title":"held"}`), Stamp: 2}})
				if err != nil {
					return err
				}
				for i := range 20 {
					wg.Go(func() {
						_, err := d.Write(t.Context(), []tidemark.Mutation{{Model: "list", UID: "u0", Op: tidemark.Update, Data: tidemark.Row(`{"title":"later"}`), Stamp: tidemark.Stamp(3 + i)}})
						if err != nil {
							t.Error(err)
						}
					})
				}
				_, err = d.Find(t.Context(), p, 0)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			wg.Wait()
		})
	}
}
