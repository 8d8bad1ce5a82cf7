package storetest

import (
	"slices"
	"strings"

	"github.com/tidemark-sync/tidemark"
)

var recordRules = []Rule{
	{Name: "records/put comes back whole", Says: "Records returns what Put stored: Row, Base, Meta, Pending and Seen",
		check: func(t *T) {
			t.declare()
			want := []tidemark.Record{
				synced("a", `"name":"x"`),
				{UID: "b", Row: row("b", `"name":"new"`), Base: row("b", `"name":"old"`), Meta: tidemark.Meta{UID: "b", CreatedAt: 1, UpdatedAt: 2}, Pending: 2},
				{UID: "c", Row: row("c", ""), Pending: 1},
				{UID: "d", Base: row("d", `"qty":1`), Meta: tidemark.Meta{UID: "d", CreatedAt: -5}, Pending: 1},
				tombstone("e", 9),
				{UID: "e2", Row: row("e2", `"name":"new"`), Base: row("e2", `"name":"old"`), Meta: tidemark.Meta{UID: "e2", DeletedAt: 9}, Pending: 1},
				{UID: "f", Row: row("f", ""), Meta: tidemark.Meta{UID: "f", CreatedAt: 1, DeletedAt: 3}, Pending: 1},
				{UID: "g", Row: row("g", ""), Base: row("g", "")},
				{UID: "h", Meta: tidemark.Meta{UID: "h"}},
				{UID: "i", Pending: 3},
				{UID: "j", Row: row("j", ""), Base: row("j", ""), Seen: 1 << 62},
				{UID: "k", Row: row("k", `"name":"new"`), Base: row("k", `"name":"old"`), Pending: 1, Seen: 7},
				{UID: "l", Meta: tidemark.Meta{UID: "l", DeletedAt: 1}, Seen: 1},
			}
			t.put(want...)
			for i, got := range t.records("a", "b", "c", "d", "e", "e2", "f", "g", "h", "i", "j", "k", "l") {
				if !sameRecord(got, want[i]) {
					t.fatalf("got  %+v\nwant %+v", got, want[i])
				}
			}
		}},
	{Name: "records/order", Says: "Records returns one record for each uid, in their order",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", ""), synced("b", ""), synced("c", ""))
			for i, r := range t.records("c", "a", "b", "a") {
				if want := []string{"c", "a", "b", "a"}[i]; r.UID != want || r.Row.UID() != want {
					t.fatalf("record %d is %q of %q, want %q", i, r.UID, r.Row.UID(), want)
				}
			}
		}},
	{Name: "records/unknown", Says: "Records returns a zero Record but for its UID where nothing is kept",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", ""))
			for _, uids := range [][]string{{"none"}, {"none", "a", "", "\xff", "\x00"}} {
				for i, r := range t.records(uids...) {
					if uids[i] != "a" && !sameRecord(r, tidemark.Record{UID: uids[i]}) {
						t.fatalf("%q: got %+v", uids[i], r)
					}
				}
			}
		}},
	{Name: "records/none", Says: "Records of no uids is empty",
		check: func(t *T) {
			t.declare()
			t.records()
		}},
	{Name: "records/put replaces", Says: "Put stores the records whole: nothing of the former record stays",
		check: func(t *T) {
			t.declare()
			t.put(tidemark.Record{UID: "a", Row: row("a", `"name":"1"`), Base: row("a", `"name":"0"`), Meta: tidemark.Meta{UID: "a", CreatedAt: 1, UpdatedAt: 2}, Pending: 4, Seen: 9})
			want := tidemark.Record{UID: "a", Row: row("a", `"qty":3`), Base: row("a", `"qty":3`)}
			t.put(want)
			if got := t.records("a")[0]; !sameRecord(got, want) {
				t.fatalf("got %+v, want %+v", got, want)
			}
		}},
	{Name: "records/put of one uid twice", Says: "Put stores records in their order: the last of one uid stays",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":1`), synced("b", ""), synced("a", `"qty":2`), tidemark.Record{UID: "b"})
			if got := t.records("a")[0].Row.Get("qty"); string(got) != "2" {
				t.fatalf("qty is %s, want 2", got)
			}
			if !sameRecord(t.records("b")[0], tidemark.Record{UID: "b"}) {
				t.fatalf("the record that was removed last is there")
			}
		}},
	{Name: "records/removed", Says: "a record with neither Row, Base, Meta nor Pending is removed",
		check: func(t *T) {
			t.declare()
			t.put(synced("a", `"qty":1`), synced("b", ""))
			t.put(tidemark.Record{UID: "a", Seen: 3})
			if got := t.records("a")[0]; !sameRecord(got, tidemark.Record{UID: "a"}) {
				t.fatalf("got %+v", got)
			}
			if got := t.find(nil); !slices.Equal(got, []string{"b"}) {
				t.fatalf("found %v", got)
			}
		}},
	{Name: "records/many", Says: "Put and Records take thousands at once",
		check: func(t *T) {
			t.declare()
			uids := number(3001)
			recs := make([]tidemark.Record, len(uids))
			for i, uid := range uids {
				recs[i] = synced(uid, `"name":"x","qty":`+uid[1:])
			}
			recs[1500] = tidemark.Record{UID: "gone"}
			t.put(recs...)
			for i, r := range t.records(uids...) {
				if want := recs[i]; i != 1500 && !sameRecord(r, want) {
					t.fatalf("got %+v, want %+v", r, want)
				}
			}
		}},
	{Name: "records/texts", Says: "rows and uids come back byte for byte, whatever text they hold",
		check: func(t *T) {
			t.declare()
			for _, uid := range []string{"a b", `q"uo'te`, `back\slash`, "日本", "𝒳", "%_?", "-- x", strings.Repeat("u", 128)} {
				want := synced(uid, `"name":"\u0001 \\ \" 日 😀","other":{"deep":[1,2.50,null]},"qty":9007199254740993`)
				t.put(want)
				if got := t.records(uid)[0]; !sameRecord(got, want) {
					t.fatalf("got  %+v\nwant %+v", got, want)
				}
				if got, err := t.store.Get(t.Context(), "item", uid); err != nil || string(got) != string(want.Row) {
					t.fatalf("Get(%q): %s, %v", uid, got, err)
				}
			}
		}},
	{Name: "records/large", Says: "a row of a megabyte comes back byte for byte",
		check: func(t *T) {
			t.declare()
			want := synced("a", `"name":"`+strings.Repeat("x", 1<<20)+`"`)
			t.put(want)
			if !sameRecord(t.records("a")[0], want) {
				t.fatalf("it differs")
			}
		}},
	{Name: "records/refused", Says: "Put refuses, as CodeInvalidData, what Record.Check refuses",
		check: func(t *T) {
			t.declare()
			for _, r := range []tidemark.Record{
				{UID: "", Pending: 1},
				{UID: "a\x00", Pending: 1},
				{UID: "a", Row: tidemark.Row(`[]`)},
				{UID: "a", Row: tidemark.Row(`{"uid":"a"`)},
				{UID: "a", Row: row("b", "")},
				{UID: "a", Row: row("a", ""), Base: row("b", "")},
				{UID: "a", Meta: tidemark.Meta{UID: "b", CreatedAt: 1}},
				{UID: "a", Pending: -1},
				{UID: "a", Row: row("a", ""), Seen: -1},
			} {
				err := t.store.Update(t.Context(), func(tx tidemark.StoreTx) error { return tx.Put("item", []tidemark.Record{r}) })
				if tidemark.CodeOf(err) != tidemark.CodeInvalidData {
					t.fatalf("%+v: %v", r, err)
				}
			}
		}},
	{Name: "records/refused together", Says: "a Put that is refused stores none of its records, and the transaction goes on",
		check: func(t *T) {
			t.declare()
			t.update(func(tx tidemark.StoreTx) error {
				if err := tx.Put("item", []tidemark.Record{synced("a", ""), {UID: "b", Row: tidemark.Row("no")}}); err == nil {
					t.fatalf("it was not refused")
				}
				return tx.Put("item", []tidemark.Record{synced("c", "")})
			})
			if got := t.find(nil); !slices.Equal(got, []string{"c"}) {
				t.fatalf("found %v, want [c]", got)
			}
		}},
	{Name: "records/the caller's", Says: "rows that a store returns belong to the caller, and what it was given stays the caller's",
		check: func(t *T) {
			t.declare()
			mine := synced("a", `"name":"x"`)
			t.put(mine)
			want := string(mine.Row)
			scribble(mine.Row)
			rows, err := t.store.Find(t.Context(), t.compile(nil))
			t.must(err)
			for _, r := range rows {
				scribble(r)
			}
			scribble(t.records("a")[0].Row)
			got, err := t.store.Get(t.Context(), "item", "a")
			t.must(err)
			if string(got) != want {
				t.fatalf("got %s, want %s", got, want)
			}
		}},
	{Name: "records/models apart", Says: "two models may have rows of one uid",
		check: func(t *T) {
			t.declare()
			t.must(t.store.Declare(t.Context(), mustSchema("other item")))
			t.put(synced("a", `"qty":1`))
			t.update(func(tx tidemark.StoreTx) error {
				return tx.Put("other item", []tidemark.Record{synced("a", `"qty":2`)})
			})
			if got := t.records("a")[0].Row.Get("qty"); string(got) != "1" {
				t.fatalf("qty is %s, want 1", got)
			}
		}},
	{Name: "records/undeclared", Says: "a model that was not declared is CodeUnknownModel, everywhere",
		check: func(t *T) {
			p := t.compile(nil)
			_, err := t.store.Find(t.Context(), p)
			_, err2 := t.store.Get(t.Context(), "item", "a")
			errs := []error{err, err2}
			t.update(func(tx tidemark.StoreTx) error {
				_, err := tx.Records("item", []string{"a"})
				_, err2 := tx.Held(p)
				_, err3 := tx.Unseen(p, 1)
				errs = append(errs, err, err2, err3, tx.Put("item", nil), tx.Prune("item", 1))
				return nil
			})
			for i, err := range errs {
				if tidemark.CodeOf(err) != tidemark.CodeUnknownModel {
					t.fatalf("call %d: %v", i, err)
				}
			}
		}},
	{Name: "records/prune", Says: "Prune removes the tombstones that are older than before and have nothing pending, and nothing else",
		check: func(t *T) {
			t.declare()
			pending := tombstone("pending", 10)
			pending.Pending = 1
			reborn := tombstone("reborn", 10)
			reborn.Row, reborn.Pending = row("reborn", ""), 1
			odd := synced("odd", "") // the server's row, under a deletion
			odd.Meta.DeletedAt = 10
			t.put(tombstone("old", 10), tombstone("edge", 20), tombstone("new", 30), pending, reborn, odd, synced("live", ""))
			t.update(func(tx tidemark.StoreTx) error { return tx.Prune("item", 20) })
			for _, r := range t.records("old", "edge", "new", "pending", "reborn", "odd", "live") {
				if kept := !sameRecord(r, tidemark.Record{UID: r.UID}); kept == (r.UID == "old") {
					t.fatalf("%s: kept is %v", r.UID, kept)
				}
			}
		}},
}

func scribble(r tidemark.Row) {
	for i := range r {
		r[i] = '!'
	}
}
