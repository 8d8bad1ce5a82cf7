package main

import (
	"errors"
	"testing"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

func TestItemsOfUnknownListsAreLeftOut(t *testing.T) {
	t.Parallel()
	b := newBoard("A", "B", state{
		lists: []List{{UID: "1", Name: "Groceries"}},
		items: []Item{{UID: "2", ListUID: "1", Title: "Milk", Done: true}, {UID: "3", ListUID: "gone", Title: "Orphan"}},
	})
	if len(b.Lists) != 1 || len(b.Lists[0].Items) != 1 || b.Lists[0].Done != 1 {
		t.Errorf("%+v", b.Lists)
	}
}

func TestAnAttemptIsToldInWords(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]tidemark.Mutation{
		"add the item “Milk”":   {Model: "item", Op: tidemark.Create, Data: tidemark.Row(`{"title":"Milk","done":false}`)},
		"call the list “Food”":  {Model: "list", Op: tidemark.Update, Data: tidemark.Row(`{"name":"Food"}`)},
		"tick the item":         {Model: "item", Op: tidemark.Update, Data: tidemark.Row(`{"done":true}`)},
		"untick the item":       {Model: "item", Op: tidemark.Update, Data: tidemark.Row(`{"done":false}`)},
		"delete the list":       {Model: "list", Op: tidemark.Delete},
		"give the item no text": {Model: "item", Op: tidemark.Update, Data: tidemark.Row(`{"title":""}`)},
	} {
		if got := attempt(m); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestStatusSaysWhy(t *testing.T) {
	t.Parallel()
	b := newBoard("A", "B", state{status: client.Status{State: client.Connecting, LastError: errors.New("no route")}})
	if b.State != "connecting" || !b.Online || b.Error != "Last attempt: no route" {
		t.Errorf("%+v", b)
	}
	b = newBoard("A", "B", state{status: client.Status{State: client.Syncing, Synced: 1, Scopes: 2}})
	if b.Status != "Syncing 1 of 2" {
		t.Errorf("%+v", b)
	}
}

// The text is that of mattn/go-sqlite3 when it was compiled without cgo.
func TestAMissingCompilerIsExplained(t *testing.T) {
	t.Parallel()
	stub := errors.New("Binary was compiled with 'CGO_ENABLED=0', go-sqlite3 requires cgo to work. This is a stub")
	if got := explain(stub); got == stub.Error() {
		t.Errorf("no help in %q", got)
	}
}
