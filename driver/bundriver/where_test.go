package bundriver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/uptrace/bun"

	"github.com/tidemark-sync/tidemark"
)

type Item struct {
	bun.BaseModel `bun:"table:item"`
	UID           string     `bun:"uid,pk"`
	Name          *string    `bun:"name"`
	Qty           *int64     `bun:"qty"`
	Price         *float64   `bun:"price"`
	Done          *bool      `bun:"done"`
	Due           *time.Time `bun:"due"`
}

func TestVectorsSelectTheSameRows(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../testdata/where.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Cases []struct {
			Where json.RawMessage
			UIDs  []string
		}
	}
	if err := json.Unmarshal(raw, &v); err != nil || len(v.Cases) != 1201 {
		t.Fatalf("%d cases, %v", len(v.Cases), err)
	}
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		ctx := context.Background()
		if _, err := db.NewCreateTable().Model((*Item)(nil)).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		var own struct{ Rows []Item } // bun writes into them
		if err := json.Unmarshal(raw, &own); err != nil {
			t.Fatal(err)
		}
		if _, err := db.NewInsert().Model(&own.Rows).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		d := e.driver(t, db, []any{(*Item)(nil)})
		for _, c := range v.Cases {
			p, err := tidemark.ParseWhere(d.Models()[0], c.Where)
			if err != nil {
				t.Fatal(err)
			}
			rows, err := d.Find(ctx, p, 0)
			if err != nil {
				t.Fatalf("%s: %v", c.Where, err)
			}
			got := []string{}
			for _, r := range rows {
				got = append(got, r.UID())
			}
			slices.Sort(got)
			if !slices.Equal(got, c.UIDs) {
				t.Errorf("%s:\n got %v\nwant %v", c.Where, got, c.UIDs)
			}
		}
	})
}

// TestTimesInSQLite has times as bun writes them, as the Go driver alone does (nine decimals),
// and as CURRENT_TIMESTAMP does.
func TestTimesInSQLite(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	ctx := context.Background()
	if _, err := db.NewCreateTable().Model((*Item)(nil)).Exec(ctx); err != nil {
		t.Fatal(err)
	}
	base := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i, ns := range []int{0, 1, 999, 1000, 1001, 100000000, 120000000, 120000001, 123000000, 123400000, 123450000, 123456000, 123456700, 123456789, 999999999} {
		due := base.Add(time.Duration(ns))
		uid := fmt.Sprintf("bun%d", i)
		if _, err := db.NewInsert().Model(&Item{UID: uid, Due: &due}).Exec(ctx); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db, "INSERT INTO item (uid, due) VALUES (?, ?)", "go"+uid, due.Format("2006-01-02 15:04:05.999999999-07:00"))
	}
	mustExec(t, db, "INSERT INTO item (uid, due) VALUES ('now', '2026-03-01 12:00:00')")
	d := engines[1].driver(t, db, []any{(*Item)(nil)})
	all, err := tidemark.Where{}.Compile(d.Models()[0])
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.Find(ctx, all, 0)
	if err != nil || len(rows) != 31 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for us := -1; us < 123460; us++ {
		if us > 3 && us < 99998 || us > 100002 && us%1000 > 2 && us < 123399 {
			continue
		}
		at := base.Add(time.Duration(us) * time.Microsecond)
		for _, w := range []tidemark.Where{{"due": at}, {"due": tidemark.Range{GT: at}}, {"due": tidemark.Range{GTE: at}}, {"due": tidemark.Range{LT: at}}, {"due": tidemark.Range{LTE: at}},
			{"due": tidemark.In{at, base.Add(time.Second), base}}, {"due": tidemark.In{nil, at.Add(time.Microsecond), at}}} {
			p, err := w.Compile(d.Models()[0])
			if err != nil {
				t.Fatal(err)
			}
			found, err := d.Find(ctx, p, 0)
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			for _, r := range rows {
				if p.Match(r) {
					want++
				}
			}
			if len(found) != want {
				t.Errorf("%s selects %d rows, want %d", p, len(found), want)
			}
		}
	}
}

// TestTheLongestClauses: as many lists as a clause may have, each as long as it may be.
func TestTheLongestClauses(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e engine) {
		db := e.open(t)
		if _, err := db.NewCreateTable().Model((*Item)(nil)).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		name, qty, price, due := "999", int64(999), 999.0, time.UnixMilli(999)
		if _, err := db.NewInsert().Model(&[]Item{{UID: "u", Name: &name, Qty: &qty, Price: &price, Due: &due}, {UID: "v"}}).Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := e.driver(t, db, []any{(*Item)(nil)})
		for field, value := range map[string]func(n int) any{
			"name": func(n int) any { return fmt.Sprint(n) }, "qty": func(n int) any { return n }, "price": func(n int) any { return float64(n) },
			"due": func(n int) any { return time.UnixMilli(int64(n)) },
		} {
			lists := make([]tidemark.Where, tidemark.MaxTerms-1)
			for k := range lists {
				list := make(tidemark.In, tidemark.MaxValues)
				for i := range list {
					list[i] = value(k*tidemark.MaxValues + i)
				}
				lists[k] = tidemark.Where{field: list}
			}
			uids := make(tidemark.In, tidemark.MaxValues)
			for i := range uids {
				uids[i] = fmt.Sprint("x", i)
			}
			uids[7], uids[9] = "u", "v"
			p, err := tidemark.Where{"uid": uids, "$or": lists}.Compile(d.Models()[0])
			if err != nil {
				t.Fatal(err)
			}
			rows, err := d.Find(t.Context(), p, 0)
			if err != nil || len(rows) != 1 || rows[0].UID() != "u" {
				t.Errorf("%s: got %s, %v", field, rows, err)
			}
		}
	})
}
