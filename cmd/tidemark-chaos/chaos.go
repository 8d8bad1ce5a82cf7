package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-sync/tidemark/internal/pgserver"
)

// chaos is one run.
type chaos struct {
	length  time.Duration
	clients int
	seed    uint64
	verbose bool

	rng     *rand.Rand
	dir     string
	pg      *pgserver.Server
	address string // of the server
	server  *process
	nodes   []*member
	counts  map[string]int
}

// member is a client with its file and its way to the server.
type member struct {
	name, path string
	proxy      *proxy
	process    *process
}

func (c *chaos) run(ctx context.Context) (err error) {
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano())
	}
	c.rng, c.counts = rand.New(rand.NewPCG(c.seed, 0)), map[string]int{}
	if c.dir, err = os.MkdirTemp("", "tidemark-chaos-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	if c.pg, err = pgserver.Start(); err != nil {
		return err
	}
	defer func() { c.pg.Stop() }()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	defer c.stop()
	if err := c.breakThings(ctx); err != nil {
		return err
	}
	recovery, err := c.rest(ctx)
	if err != nil {
		return err
	}
	acknowledged, err := c.check(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%v, %d clients: %d writes acknowledged, none lost, none made twice; 0 divergent, 0 stuck; all in step %v after the last fault; %s\n",
		c.length, c.clients, acknowledged, recovery.Round(10*time.Millisecond), c.summary())
	return nil
}

func (c *chaos) summary() string {
	var parts []string
	for name, n := range c.counts {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (c *chaos) prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.pg.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE TABLE item (uid text PRIMARY KEY, owner text NOT NULL, note text NOT NULL, score bigint NOT NULL)"); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.address = l.Addr().String()
	_ = l.Close()
	if err := c.startServer(); err != nil {
		return err
	}
	for i := range c.clients {
		m := &member{name: fmt.Sprintf("c%d", i), path: filepath.Join(c.dir, fmt.Sprintf("c%d.db", i))}
		if m.proxy, err = newProxy(c.address); err != nil {
			return err
		}
		c.nodes = append(c.nodes, m)
		if err := m.start(); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) start() (err error) {
	m.process, err = spawn("client", m.name, m.path, "http://"+m.proxy.address())
	return err
}

// startServer starts the server's process, again while PostgreSQL does not let it.
func (c *chaos) startServer() (err error) {
	for range 50 {
		if c.server, err = spawn("serve", c.pg.DSN(), c.address); err != nil {
			return err
		}
		if err = c.server.listening(); err == nil {
			return nil
		}
		c.server.kill()
		time.Sleep(200 * time.Millisecond)
	}
	return fmt.Errorf("the server does not start: %w", err)
}

func (c *chaos) stop() {
	for _, m := range c.nodes {
		if m.process != nil {
			m.process.kill()
		}
		_ = m.proxy.listener.Close()
		m.proxy.set(severed)
	}
	if c.server != nil {
		c.server.kill()
	}
}

// breakThings does so, one thing after the other.
func (c *chaos) breakThings(ctx context.Context) error {
	for end := time.Now().Add(c.length); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(100+c.rng.IntN(500)) * time.Millisecond):
		}
		if err := c.breakOne(); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) did(what string) {
	c.counts[what]++
	if c.verbose {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), what)
	}
}

func (c *chaos) breakOne() error {
	m := c.nodes[c.rng.IntN(len(c.nodes))]
	switch k := c.rng.IntN(100); {
	case k < 30:
		m.process.kill()
		c.did("clients killed")
		return m.start()
	case k < 55:
		m.proxy.set(partition(c.rng.IntN(3)))
		c.did("partitions changed")
	case k < 75:
		m.process.freeze(!m.process.frozen)
		c.did("clients frozen or thawed")
	case k < 85:
		c.server.kill()
		c.did("servers killed")
		time.Sleep(time.Duration(c.rng.IntN(800)) * time.Millisecond)
		return c.startServer()
	case k < 90:
		c.server.freeze(true)
		c.did("servers frozen")
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
		c.server.freeze(false)
	case k < 96:
		c.did("database connections terminated")
		return c.terminate()
	default:
		c.did("databases crashed")
		return c.pg.Restart()
	}
	return nil
}

// terminate ends all connections of the server to its database.
func (c *chaos) terminate() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.pg.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
	return err
}

// rest ends all faults and has the clients stop writing, and waits until all are in step.
func (c *chaos) rest(ctx context.Context) (time.Duration, error) {
	for _, m := range c.nodes {
		m.proxy.set(connected)
		m.process.freeze(false)
		if err := m.process.say("rest"); err != nil {
			return 0, fmt.Errorf("%s is gone: %w", m.name, err)
		}
	}
	began := time.Now()
	var stuck error
	for time.Since(began) < time.Minute {
		stuck = nil
		for _, m := range c.nodes {
			r, err := m.process.report()
			if err != nil {
				return 0, fmt.Errorf("%s: %w", m.name, err)
			}
			if !r.Well {
				stuck = fmt.Errorf("%s is stuck: %s", m.name, r.Status)
			}
		}
		if stuck == nil {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return 0, stuck
}

// check compares each client with the server, and what was acknowledged with what became of it.
func (c *chaos) check(ctx context.Context) (acknowledged int, err error) {
	truth, err := c.reports(ctx)
	if err != nil {
		return 0, err
	}
	history, err := c.history(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range c.nodes {
		n, err := m.lost(history, truth[m.name].Rejected)
		acknowledged += n
		if err != nil {
			return 0, err
		}
	}
	return acknowledged, nil
}

// reports returns the clients' reports, and an error when one has other rows than the database.
func (c *chaos) reports(ctx context.Context) (map[string]*report, error) {
	rows, err := c.notes(ctx)
	if err != nil {
		return nil, err
	}
	reports := map[string]*report{}
	for _, m := range c.nodes {
		r, err := m.process.report()
		if err != nil {
			return nil, err
		}
		reports[m.name] = r
		if len(r.Rows) != len(rows) {
			return nil, fmt.Errorf("%s has %d rows, the server %d", m.name, len(r.Rows), len(rows))
		}
		for uid, note := range rows {
			if !strings.Contains(r.Rows[uid], `"note":"`+note+`"`) {
				return nil, fmt.Errorf("%s has %s as %q, the server's note is %s", m.name, uid, r.Rows[uid], note)
			}
		}
	}
	return reports, nil
}

func (c *chaos) notes(ctx context.Context) (map[string]string, error) {
	return c.pairs(ctx, "SELECT uid, note FROM item")
}

// history returns how often each token was a row's, now or before.
func (c *chaos) history(ctx context.Context) (map[string]int, error) {
	conn, err := pgx.Connect(ctx, c.pg.DSN())
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT note FROM item UNION ALL SELECT before::json ->> 'note' FROM tidemark.log WHERE before IS NOT NULL`)
	if err != nil {
		return nil, err
	}
	times := map[string]int{}
	var token string
	_, err = pgx.ForEachRow(rows, []any{&token}, func() error {
		times[token]++
		return nil
	})
	return times, err
}

func (c *chaos) pairs(ctx context.Context, query string) (map[string]string, error) {
	conn, err := pgx.Connect(ctx, c.pg.DSN())
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	var k, v string
	_, err = pgx.ForEachRow(rows, []any{&k, &v}, func() error {
		m[k] = v
		return nil
	})
	return m, err
}

// lost looks for writes of the client's own rows, which nobody else writes: each that was
// acknowledged was the row's exactly once, unless the client lists it as rejected.
func (m *member) lost(history map[string]int, rejected []string) (n int, err error) {
	f, err := os.Open(m.path + ".acks")
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		_, token, _ := strings.Cut(lines.Text(), " ")
		if history[token] == 0 && !slices.Contains(rejected, `"`+token+`"`) {
			return n, fmt.Errorf("%s lost the write %s", m.name, lines.Text())
		}
		if times := history[token]; times > 1 { // the log has the row as it stood before each later write, one of itself too
			return n, fmt.Errorf("%s: the write %s was applied %d times", m.name, lines.Text(), times)
		}
	}
	return n, nil
}
