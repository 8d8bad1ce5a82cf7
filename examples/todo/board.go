package main

import (
	"encoding/json"
	"fmt"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/client"
)

// state is what a device knows at one moment. It is replaced whole, never changed.
type state struct {
	lists      []List
	items      []Item
	unsent     map[string]bool // by uid: rows with writes in the outbox
	status     client.Status
	rejections []client.Rejection
}

// board is a state as the template board shows it.
type board struct {
	Device, Other string
	Online        bool
	State, Status string // the state's CSS class, and its words
	Pending       int
	Error         string
	Lists         []listView
	Rejections    []rejectionView
}

type listView struct {
	List
	Unsent bool
	Done   int
	Items  []itemView
}

type itemView struct {
	Item
	Unsent bool
}

type rejectionView struct {
	ID, Code, Message, Tried string
	Drop, Again              string // what the buttons say
}

func newBoard(device, other string, s state) board {
	b := board{Device: device, Other: other, Online: s.status.State != client.Offline, Pending: s.status.Pending}
	b.State, b.Status = describe(s.status)
	if err := s.status.LastError; err != nil && b.Online {
		b.Error = "Last attempt: " + err.Error()
	}
	at := make(map[string]int, len(s.lists)) // where each list stands
	for i, l := range s.lists {
		at[l.UID] = i
		b.Lists = append(b.Lists, listView{List: l, Unsent: s.unsent[l.UID]})
	}
	for _, it := range s.items {
		i, ok := at[it.ListUID]
		if !ok {
			continue // its list is gone, or has yet to arrive
		}
		l := &b.Lists[i]
		l.Items = append(l.Items, itemView{it, s.unsent[it.UID]})
		if it.Done {
			l.Done++
		}
	}
	for _, r := range s.rejections {
		b.Rejections = append(b.Rejections, newRejectionView(r))
	}
	return b
}

func describe(s client.Status) (class, words string) {
	switch s.State {
	case client.Connecting:
		return "connecting", "Connecting…"
	case client.Syncing:
		return "syncing", fmt.Sprintf("Syncing %d of %d", s.Synced, s.Scopes)
	case client.Synced:
		return "synced", "Synced"
	}
	return "offline", "Offline"
}

func newRejectionView(r client.Rejection) rejectionView {
	v := rejectionView{
		ID: r.ID, Code: string(r.Code), Message: r.Message, Tried: "You tried to " + attempt(r.Mutation) + ".",
		Drop: "Discard", Again: "Try again",
	}
	if r.Kind == client.Superseded {
		v.Code, v.Message = "superseded", "a newer change of the same row won"
		v.Drop, v.Again = "Let it be", "Make mine again"
	}
	return v
}

// attempt says in words what a write was to do.
func attempt(m tidemark.Mutation) string {
	var data struct {
		Name, Title string
		Done        *bool
	}
	_ = json.Unmarshal(m.Data, &data) // nil for a Delete
	text := data.Name + data.Title
	switch {
	case m.Op == tidemark.Create:
		return fmt.Sprintf("add the %s “%s”", m.Model, text)
	case m.Op == tidemark.Delete:
		return fmt.Sprintf("delete the %s", m.Model)
	case text != "":
		return fmt.Sprintf("call the %s “%s”", m.Model, text)
	case data.Done == nil:
		return fmt.Sprintf("give the %s no text", m.Model)
	case *data.Done:
		return fmt.Sprintf("tick the %s", m.Model)
	}
	return fmt.Sprintf("untick the %s", m.Model)
}
