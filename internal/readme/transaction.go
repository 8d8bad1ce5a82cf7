package readme

import (
	"context"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
	"github.com/tidemark-sync/tidemark/server"
)

// rename renames a post, and writes down who did it in a table of the application's.
func rename(ctx context.Context, driver *bundriver.Driver, srv *server.Server, uid, title, who string) error {
	return driver.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error { // in place of bun's
		if _, err := tx.NewInsert().Model(&Renaming{UID: uid, Who: who}).Exec(ctx); err != nil {
			return err
		}
		_, err := srv.Service("post").Call(ctx, tidemark.MethodUpdate, uid, map[string]any{"title": title}, srv.Now())
		return err
	})
}

type Renaming struct {
	bun.BaseModel `bun:"table:renaming"`
	ID            int64  `bun:"id,pk,autoincrement"`
	UID           string `bun:"uid,type:text,notnull"`
	Who           string `bun:"who,type:text,notnull"`
}

var _ = rename
