package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/bundriver"
)

// upserts is W8: what the driver alone takes, with metadata and log, and with verdicts too.
func (b *bench) upserts(ctx context.Context) error {
	for _, engine := range b.engines {
		if err := b.upsertsInto(ctx, engine); err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

func upsertName(what, engine string) string {
	return what + " in batches of 1,000, " + engine
}

func (b *bench) upsertsInto(ctx context.Context, engine string) error {
	dsn, drop, err := b.database(ctx, engine)
	if err != nil {
		return err
	}
	defer drop()
	db, err := openDatabase(dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := fill(ctx, db, 0); err != nil {
		return err
	}
	driver, err := bundriver.New(ctx, db, []any{(*Item)(nil)}, &bundriver.Options{Prepare: true})
	if err != nil {
		return err
	}
	defer driver.Close()
	if err := driver.Migrate(ctx); err != nil {
		return err
	}
	ways := []struct {
		name string
		make func(context.Context, []tidemark.Mutation) error
	}{{"Driver.Write", writeWith(driver)}, {"Driver.Push", pushWith(driver)}}
	for range b.n {
		for _, way := range ways {
			ms := creations(b.upserted, "")
			if err := b.upsertOnce(ctx, engine, way.name+", creates", ms, way.make); err != nil {
				return err
			}
			for i := range ms {
				ms[i].Op, ms[i].Stamp, ms[i].Data = tidemark.Update, ms[i].Stamp+1, tidemark.Row(`{"title":"changed title 123456"}`)
			}
			if err := b.upsertOnce(ctx, engine, way.name+", updates", ms, way.make); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) upsertOnce(ctx context.Context, engine, what string, ms []tidemark.Mutation, upsert func(context.Context, []tidemark.Mutation) error) error {
	var g goal
	if engine == "postgres" {
		g = atLeast(25_000)
	}
	began := time.Now()
	for part := range slices.Chunk(ms, 1000) {
		if err := upsert(ctx, part); err != nil {
			return err
		}
	}
	b.report.line("W8", upsertName(what, engine), "/s", g).add(float64(len(ms)) / time.Since(began).Seconds())
	return nil
}

func writeWith(d *bundriver.Driver) func(context.Context, []tidemark.Mutation) error {
	return func(ctx context.Context, ms []tidemark.Mutation) error {
		outs, err := d.Write(ctx, ms)
		for i := range outs {
			if !outs[i].Applied {
				return fmt.Errorf("a write was not applied: %v", outs[i].Err)
			}
		}
		return err
	}
}

// pushWith pushes as one client does that confirms what it has.
func pushWith(d *bundriver.Driver) func(context.Context, []tidemark.Mutation) error {
	client, last := uuid.NewString(), int64(0)
	return func(ctx context.Context, ms []tidemark.Mutation) error {
		for i := range ms {
			ms[i].N = last + int64(i) + 1
		}
		verdicts, err := d.Push(ctx, &tidemark.Batch{Client: client, Confirmed: last, Mutations: ms}, nil)
		for i := range verdicts {
			if !verdicts[i].Applied {
				return fmt.Errorf("a write was not applied: %v", verdicts[i].Err)
			}
		}
		last += int64(len(ms))
		return err
	}
}

// creations are mutations that make n new rows, of the given list or of lists of 100.
func creations(n int, list string) []tidemark.Mutation {
	items := makeItems(n)
	ms := make([]tidemark.Mutation, n)
	for i := range items {
		in := list
		if in == "" {
			in = items[i].ListID
		}
		ms[i] = creation(&items[i], in)
	}
	return ms
}
