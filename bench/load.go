package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/tidemark-sync/tidemark/client"
	memstore "github.com/tidemark-sync/tidemark/store/memory"
	"github.com/tidemark-sync/tidemark/transport/socketio"

	"github.com/tidemark-sync/tidemark"
)

// load is what a server is put under.
type load struct {
	idle    []int         // connections that do nothing
	storm   int           // clients that come back all at once
	slow    int           // sessions that do not read
	changes int           // that happen meanwhile
	devices int           // that write, come and go for long
	soak    time.Duration // how long
}

// underLoad runs with each of the server's databases.
func (b *bench) underLoad(ctx context.Context) error {
	for _, engine := range b.engines {
		for _, part := range []struct {
			name string
			run  func(context.Context, string) error
		}{{"idle", b.idle}, {"storm", b.storm}, {"slow readers", b.slowReaders}, {"soak", b.soak}} {
			began := time.Now()
			if err := part.run(ctx, engine); err != nil {
				return fmt.Errorf("%s, %s: %w", part.name, engine, err)
			}
			fmt.Fprintf(os.Stderr, "\n  %s, %s, %s", part.name, engine, time.Since(began).Round(time.Second))
		}
	}
	return nil
}

// idle connects sessions with a scope each that do nothing.
func (b *bench) idle(ctx context.Context, engine string) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	for _, n := range b.load.idle {
		if uint64(n)+200 > files.Cur {
			fmt.Fprintf(os.Stderr, "\n%d connections are more than the %d files that a process may open", n, files.Cur)
			continue
		}
		err := b.alone(ctx, engine, 100, func(s *process) error { return b.idleOnce(engine, s, n) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) idleOnce(engine string, s *process, n int) error {
	before, err := s.memory()
	if err != nil {
		return err
	}
	began := time.Now()
	members, err := gather(s, n, func(int) []string { return []string{audienceList} }, joinScopes)
	defer func() { dismiss(members) }()
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := s.memory()
	if err != nil {
		return err
	}
	what := grouped(n) + " idle connections with a scope, " + engine
	b.report.line("load", what+", each", "KiB", atMost(30)).add(float64(after.Resident-before.Resident) / 1024 / float64(n))
	b.report.line("load", "  goroutines each, "+what, "", goal{}).add(float64(after.Goroutines-before.Goroutines) / float64(n))
	b.report.line("load", "  until all are connected, "+what, "s", goal{}).add(took.Seconds())
	return nil
}

// alone calls fn with a server over a fresh database of one engine; args are further ones of its process.
func (b *bench) alone(ctx context.Context, engine string, rows int, fn func(*process) error, args ...string) error {
	return b.serving(ctx, engine, func(dsn string) error {
		s, err := start(append([]string{scoped, dsn, strconv.Itoa(rows)}, args...)...)
		if err != nil {
			return err
		}
		defer s.stop()
		return fn(s)
	})
}

// storm ends the server while many clients are connected, has each write a row, and starts it
// again: until all have pushed and are synchronised.
func (b *bench) storm(ctx context.Context, engine string) error {
	return b.serving(ctx, engine, func(dsn string) error {
		s, err := start(scoped, dsn, strconv.Itoa(100*max(b.load.storm/10, 1)))
		if err != nil {
			return err
		}
		defer func() { s.stop() }()
		clients := make([]*ephemeral, b.load.storm)
		err = together(clients, func(i int) (err error) {
			clients[i], err = openEphemeral(ctx, s.address)
			return err
		})
		defer func() {
			_ = together(clients, func(i int) error {
				if clients[i] != nil {
					clients[i].close()
				}
				return nil
			})
		}()
		if err != nil {
			return err
		}
		began := time.Now()
		lists := max(b.load.storm/10, 1)
		if err := together(clients, func(i int) error { return clients[i].watch(ctx, listID(i%lists)) }); err != nil {
			return err
		}
		b.report.line("load", "first sync of "+grouped(b.load.storm)+" clients at once, "+engine, "s", goal{}).add(time.Since(began).Seconds())
		return b.stormAt(ctx, engine, dsn, &s, clients)
	})
}

func (b *bench) stormAt(ctx context.Context, engine, dsn string, s **process, clients []*ephemeral) error {
	(*s).stop()
	err := together(clients, func(i int) error {
		for st := range clients[i].WatchStatus(ctx) {
			if st.State == client.Connecting {
				break
			}
		}
		x := makeItems(1)[0]
		x.ListID = listID(i % max(b.load.storm/10, 1))
		_, err := clients[i].items.Create(ctx, x)
		return err
	})
	if err != nil {
		return err
	}
	again, err := (*s).restart(dsn)
	if err != nil {
		return err
	}
	*s = again
	before, err := again.memory()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := together(clients, func(i int) error { return clients[i].Sync(ctx) }); err != nil {
		return err
	}
	took := time.Since(began)
	m, err := again.memory()
	if err != nil {
		return err
	}
	what := "storm of " + grouped(len(clients)) + " clients with a write each, " + engine
	b.report.line("load", what+": until all are synchronised", "s", goal{}).add(took.Seconds())
	b.report.line("load", "  server's memory above idle, "+what, "MiB", goal{}).add(mebibytes(m.Peak - before.Resident))
	return together(clients, func(i int) error { return clients[i].has(ctx, 110) })
}

// together runs fn for all clients at once.
func together(clients []*ephemeral, fn func(i int) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ephemeral is a client that keeps nothing on disk.
type ephemeral struct {
	*client.Client
	items *client.Model[item]
	store tidemark.Store
	where tidemark.Where
}

func openEphemeral(ctx context.Context, address string) (*ephemeral, error) {
	e := &ephemeral{store: memstore.New()}
	var err error
	opts := &client.Options{CallTimeout: time.Minute, MaxBackoff: 2 * time.Second}
	if e.Client, err = client.Open(ctx, e.store, socketio.NewDialer("http://"+address, nil), opts); err != nil {
		return nil, err
	}
	e.items, err = client.NewModel[item](ctx, e.Client, "item", nil)
	return e, err
}

// watch synchronises a list.
func (e *ephemeral) watch(ctx context.Context, list string) error {
	e.where = tidemark.Where{"list_id": list}
	scope, err := e.items.Register(ctx, e.where)
	if err != nil {
		return err
	}
	return scope.Synced(ctx)
}

// has waits until the client has so many rows: those of others come live.
func (e *ephemeral) has(ctx context.Context, rows int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	n := 0
	for list, err := range e.items.Watch(ctx, e.where, nil) {
		if err != nil {
			return fmt.Errorf("%d of %d rows: %w", n, rows, err)
		}
		if n = len(list); n == rows {
			return nil
		}
	}
	return fmt.Errorf("%d of %d rows", n, rows)
}

func (e *ephemeral) close() {
	_ = e.Client.Close()
	_ = e.store.Close()
}
