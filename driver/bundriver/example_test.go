package bundriver_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	_ "github.com/mattn/go-sqlite3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
)

// Book is a model of the application, as bun knows it, and Loan a table that is no model.
type Book struct {
	bun.BaseModel `bun:"table:book"`
	UID           string `bun:"uid,pk,type:text"`
	Title         string `bun:"title,type:text,notnull"`
	Lent          bool   `bun:"lent,notnull,default:false"`
}

type Loan struct {
	bun.BaseModel `bun:"table:loan"`
	ID            int64  `bun:"id,pk,autoincrement"`
	Book          string `bun:"book,type:text,notnull"`
	To            string `bun:"borrower,type:text,notnull"`
}

// library is the application's database, with a book from before.
func library(ctx context.Context) *bun.DB {
	raw, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	raw.SetMaxOpenConns(1) // each connection would have a memory of its own
	db := bun.NewDB(raw, sqlitedialect.New())
	for _, model := range []any{(*Book)(nil), (*Loan)(nil)} {
		if _, err := db.NewCreateTable().Model(model).Exec(ctx); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := db.NewInsert().Model(&Book{UID: "1", Title: "Middlemarch"}).Exec(ctx); err != nil {
		log.Fatal(err)
	}
	return db
}

// The application's tables stay as they are; their rows get metadata.
func ExampleNew() {
	ctx := context.Background()
	db := library(ctx)
	defer func() { _ = db.Close() }()
	driver, err := bundriver.New(ctx, db, []any{(*Book)(nil)}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = driver.Close() }()
	if err := driver.Migrate(ctx); err != nil { // at every start
		log.Fatal(err)
	}

	schema := driver.Models()[0]
	for _, f := range schema.Fields() {
		fmt.Println(f.Name, f.Kind)
	}
	all, err := tidemark.Where{}.Compile(schema)
	if err != nil {
		log.Fatal(err)
	}
	found, err := driver.Snapshot(ctx, all, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(found.Selected[0].Row), found.Selected[0].Meta.CreatedAt != 0)
	// Output:
	// uid text
	// title text
	// lent bool
	// {"uid":"1","title":"Middlemarch","lent":false} true
}

// A model's row and a row of the application's own are written together or not at
// all. With a server, the write would be a call of the model's service with the same ctx.
func ExampleDriver_RunInTx() {
	ctx := context.Background()
	db := library(ctx)
	defer func() { _ = db.Close() }()
	driver, err := bundriver.New(ctx, db, []any{(*Book)(nil)}, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := driver.Migrate(ctx); err != nil {
		log.Fatal(err)
	}
	clock := tidemark.NewClock(nil)

	lend := func(to string) error {
		return driver.RunInTx(ctx, func(ctx context.Context, tx bun.Tx) error {
			_, err := driver.Write(ctx, []tidemark.Mutation{
				{Model: "book", UID: "1", Op: tidemark.Update, Data: tidemark.Row(`{"lent":true}`), Stamp: clock.Now()}})
			if err != nil {
				return err
			}
			if to == "" {
				return errors.New("to whom?") // nothing is written
			}
			_, err = tx.NewInsert().Model(&Loan{Book: "1", To: to}).Exec(ctx)
			return err
		})
	}
	show := func() {
		lent, err1 := db.NewSelect().Model((*Book)(nil)).Where("lent").Count(ctx)
		loans, err2 := db.NewSelect().Model((*Loan)(nil)).Count(ctx)
		fmt.Println(lent, "lent,", loans, "loans", errors.Join(err1, err2))
	}
	fmt.Println(lend(""))
	show()
	fmt.Println(lend("Ann"))
	show()
	// Output:
	// to whom?
	// 0 lent, 0 loans <nil>
	// <nil>
	// 1 lent, 1 loans <nil>
}
