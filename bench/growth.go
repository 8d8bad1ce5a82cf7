package main

import (
	"context"
	"fmt"
)

// growth is how the cost of a catch-up and of a live delivery grows with the clients that are
// connected and with the scopes of others. With the rows held it grows as W2 shows.
func (b *bench) growth(ctx context.Context) error {
	const rows = 10_000
	return b.each(ctx, scoped, min(rows, b.first), func(engine string, s *process) error {
		a, err := b.newAbsentee(ctx, s, "NORMAL")
		if err != nil {
			return err
		}
		defer a.forget()
		for _, c := range b.crowds {
			if err := b.amid(ctx, engine, c, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// company are the others: so many sessions with so many scopes each, none of which selects
// what is measured.
type company struct{ sessions, scopes int }

func (c company) String() string {
	return grouped(c.sessions) + " clients with " + grouped(c.sessions*c.scopes) + " scopes connected"
}

// amid measures with a company present.
func (b *bench) amid(ctx context.Context, engine string, c company, a *absentee) error {
	members, err := gather(a.server, c.sessions, func(i int) []string {
		lists := make([]string, c.scopes)
		for j := range lists {
			lists[j] = fmt.Sprintf("other-%d-%d", i, j)
		}
		return lists
	}, joinScopes)
	defer dismiss(members)
	if err != nil {
		return err
	}
	watchAll(members)
	writer, err := openPeer(ctx, a.server)
	if err != nil {
		return err
	}
	defer writer.end()
	for range b.n {
		if err := writer.retitle(a.some(missed)); err != nil {
			return err
		}
		v, err := a.visit(ctx)
		if err != nil {
			return err
		}
		b.report.line("growth", "catch-up of "+fmt.Sprint(missed)+", "+c.String()+", "+engine, "ms", goal{}).addMillis(v.took)
	}
	return b.deliveries(ctx, engine, "a device hears of a change, "+c.String()+", "+engine, a.server)
}
