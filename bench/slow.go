package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-sync/tidemark"
)

// slowReaders connects sessions that do not read while much happens: the server's memory
// is bounded, they are cut, and when they come back they get what they missed.
func (b *bench) slowReaders(ctx context.Context, engine string) error {
	return b.alone(ctx, engine, 100, func(s *process) error {
		idle, err := s.memory()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("%s sessions that do not read %s changes, %s", grouped(b.load.slow), grouped(b.load.changes), engine)
		members, err := gather(s, b.load.slow, func(int) []string { return []string{audienceList} },
			func(s *process, lists []string) (*member, error) { return joinWith(s, lists, &idler) })
		defer func() { dismiss(members) }()
		if err != nil {
			return err
		}
		took, err := b.storyFor(ctx, s)
		if err != nil {
			return err
		}
		m, err := s.memory()
		if err != nil {
			return err
		}
		b.report.line("load", what+": memory above idle", "MiB", goal{}).add(mebibytes(m.Peak - idle.Resident))
		b.report.line("load", "  until the writer has its verdicts, "+what, "s", goal{}).add(took.Seconds())
		var cut atomic.Int64
		var wg sync.WaitGroup
		for _, m := range members {
			wg.Go(func() {
				if wasCut(m) {
					cut.Add(1)
				}
			})
		}
		wg.Wait()
		b.report.line("load", "  were cut, "+what, "", goal{}).add(float64(cut.Load()))
		began := time.Now()
		errs := make([]error, len(members))
		for i, m := range members {
			wg.Go(func() { errs[i] = comeBack(ctx, s, m) })
		}
		wg.Wait()
		b.report.line("load", "  until all are back, "+what, "s", goal{}).add(time.Since(began).Seconds())
		return errors.Join(errs...)
	})
}

const changing = 10 // rows

// storyFor makes large changes to some rows, and returns how long that took.
func (b *bench) storyFor(ctx context.Context, s *process) (time.Duration, error) {
	writer, err := openPeer(ctx, s)
	if err != nil {
		return 0, err
	}
	defer writer.end()
	rows := creations(changing, audienceList)
	if err := writer.push(rows); err != nil {
		return 0, err
	}
	long := strings.Repeat("x", 16<<10)
	began := time.Now()
	for i := range b.load.changes {
		title := fmt.Sprint("change ", i)
		if i >= b.load.changes-changing {
			title = "the last"
		}
		m := tidemark.Mutation{Model: "item", UID: rows[i%changing].UID, Op: tidemark.Update, Stamp: tidemark.StampOf(time.Now()),
			Data: fmt.Appendf(nil, `{"title":%q,"content":%q}`, title, long)}
		if err := writer.push([]tidemark.Mutation{m}); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// wasCut reads what came and says whether the connection ended behind it.
func wasCut(m *member) bool {
	_ = m.ws.SetReadDeadline(time.Now().Add(20 * time.Second)) // it may be megabytes, through a small buffer
	for {
		if _, _, err := m.ws.ReadMessage(); err != nil {
			t, ok := err.(net.Error)
			return !ok || !t.Timeout()
		}
	}
}

// comeBack goes on where the session was and checks that it gets all rows as the last changes left them.
func comeBack(ctx context.Context, s *process, m *member) error {
	var was []struct {
		Result tidemark.OpenAnswer
	}
	if err := json.Unmarshal(m.opened, &was); err != nil {
		return err
	}
	scope := listScope(audienceList)
	scope.Tag, scope.Cursor = was[0].Result.Scopes[0].Tag, was[0].Result.Scopes[0].Page.Cursor
	p, err := openPeer(ctx, s, scope)
	if err != nil {
		return err
	}
	defer p.end()
	page := p.opened.Scopes[0].Page
	if page == nil || len(page.Rows) != changing {
		return errors.New("not all rows came back")
	}
	for _, r := range page.Rows {
		if title := string(r.Row.Get("title")); title != `"the last"` {
			return fmt.Errorf("a row is not as it was left: %s", title)
		}
	}
	return nil
}
