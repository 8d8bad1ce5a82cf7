// Command todo is two devices and their server in one process. Each device is a
// client with its own SQLite file and its own web page; take one offline, edit on
// both, bring it back, and they agree again.
//
//	go run ./examples/todo
//	go run ./examples/todo -db postgres://user@localhost/todo
//
// On a real system the server and the devices are separate programs: server.go
// is the one, device.go the other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	_ "github.com/mattn/go-sqlite3"

	"github.com/tidemark-sync/tidemark/transport/socketio"
)

type config struct {
	addr, a, b, db, dir string
	verbose             bool
}

func main() {
	var c config
	flag.StringVar(&c.addr, "addr", "127.0.0.1:8000", "`address` of the server and the overview page")
	flag.StringVar(&c.a, "a", "127.0.0.1:8001", "`address` of device A's page")
	flag.StringVar(&c.b, "b", "127.0.0.1:8002", "`address` of device B's page")
	flag.StringVar(&c.db, "db", "", "the server's database: postgres://... or a SQLite `file` (default server.db in -dir)")
	flag.StringVar(&c.dir, "dir", defaultDir(), "`folder` of the files; the same folder continues where it was left")
	flag.BoolVar(&c.verbose, "v", false, "log each connection")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "todo:", explain(err))
		os.Exit(1)
	}
}

func defaultDir() string {
	base, err := os.UserConfigDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "tidemark-todo")
}

// explain adds what to do about the one error that a first start often meets.
func explain(err error) string {
	if strings.Contains(err.Error(), "requires cgo") {
		return "SQLite needs a C compiler: install gcc or clang (Debian: apt install gcc; macOS: xcode-select --install) and start again with CGO_ENABLED=1"
	}
	return err.Error()
}

// run serves until ctx ends.
func run(ctx context.Context, c config) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	listeners, err := listen(c.addr, c.a, c.b) // first, so that a second start touches no file
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	home, portA, portB := port(listeners[0]), port(listeners[1]), port(listeners[2])
	log := c.logger()
	backend, err := openBackend(ctx, c.database(), log)
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	defer backend.Shutdown()
	dialer := socketio.NewDialer(urlTo(listeners[0]), nil)
	a, err := openDevice(ctx, "A", filepath.Join(c.dir, "device-a.db"), dialer, log)
	if err != nil {
		return fmt.Errorf("device A: %w", err)
	}
	defer a.Close()
	b, err := openDevice(ctx, "B", filepath.Join(c.dir, "device-b.db"), dialer, log)
	if err != nil {
		return fmt.Errorf("device B: %w", err)
	}
	defer b.Close()

	return serve(ctx, listeners, []http.Handler{
		backend.handler(home, []frame{{Name: "A", Port: portA}, {Name: "B", Port: portB}}),
		(&pages{device: a, other: "B", otherPort: portB, homePort: home}).handler(),
		(&pages{device: b, other: "A", otherPort: portA, homePort: home}).handler(),
	}, func() {
		fmt.Printf("Files      %s\n", c.dir)
		fmt.Printf("Both       %s\n", urlTo(listeners[0]))
		fmt.Printf("Device A   %s\n", urlTo(listeners[1]))
		fmt.Printf("Device B   %s\n", urlTo(listeners[2]))
		fmt.Println("Take a device offline, edit on both, bring it back. Ctrl+C ends.")
	})
}

func (c config) logger() *slog.Logger {
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func (c config) database() string {
	if c.db == "" {
		return filepath.Join(c.dir, "server.db")
	}
	return c.db
}

func listen(addrs ...string) (listeners []net.Listener, err error) {
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// serve runs one HTTP server for each listener until ctx ends or one fails.
func serve(ctx context.Context, listeners []net.Listener, handlers []http.Handler, ready func()) error {
	parent := ctx
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	done := make(chan struct{})
	for i, l := range listeners {
		s := &http.Server{
			Handler:           handlers[i],
			ReadHeaderTimeout: 10 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the live pages
		}
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				cancel(err)
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			<-ctx.Done()
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if s.Shutdown(end) != nil {
				_ = s.Close()
			}
		}()
	}
	ready()
	for range listeners {
		<-done
	}
	if parent.Err() != nil {
		return nil // told to end
	}
	return context.Cause(ctx)
}

func port(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

// urlTo returns how this machine reaches l, also when l listens on all addresses.
func urlTo(l net.Listener) string {
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}
