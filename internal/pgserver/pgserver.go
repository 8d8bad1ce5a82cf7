// Package pgserver runs a PostgreSQL that is thrown away afterwards, from the
// machine's binaries: they are looked for in TIDEMARK_PG_BIN (a directory), in PATH
// and in /usr/lib/postgresql.
package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoBinaries is returned by [Start] where there is no PostgreSQL to start.
var ErrNoBinaries = errors.New("initdb and postgres are neither in TIDEMARK_PG_BIN nor in PATH nor under /usr/lib/postgresql")

// Server is a running PostgreSQL with a data directory of its own.
type Server struct {
	dir  string
	port int
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the process has ended
}

// Careless are settings that make a server fast which nobody will miss. Its tables
// are new and nobody counts their rows (see settings), so PostgreSQL takes some
// statements for large ones and compiles them, in half a second: not with jit=off.
var Careless = []string{"fsync=off", "full_page_writes=off", "jit=off"}

var settings = []string{
	"synchronous_commit=on", "autovacuum=off", "shared_buffers=64MB", "max_connections=300", "log_min_messages=panic", "max_wal_size=2GB",
}

// Start starts a server, with the given settings (as name=value) beside its own.
// It listens on 127.0.0.1 and lets everybody in as the superuser app.
func Start(more ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	sweep()
	s := &Server{done: make(chan struct{})}
	if s.dir, err = os.MkdirTemp("", fmt.Sprintf("tidemark-pg-%d-", os.Getpid())); err != nil {
		return nil, err
	}
	if err = s.launch(bin, append(slices.Clone(settings), more...)); err == nil {
		err = s.ready()
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func binaries() (string, error) {
	dirs := []string{os.Getenv("TIDEMARK_PG_BIN")}
	if p, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(installed)
	slices.Reverse(installed) // the newest first
	for _, dir := range append(dirs, installed...) {
		if dir == "" {
			continue
		}
		_, err1 := os.Stat(filepath.Join(dir, "initdb"))
		_, err2 := os.Stat(filepath.Join(dir, "postgres"))
		if err1 == nil && err2 == nil {
			return dir, nil
		}
	}
	return "", ErrNoBinaries
}

// sweep removes what processes left that were killed.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), "tidemark-pg-*"))
	for _, dir := range left {
		fields := strings.Split(filepath.Base(dir), "-")
		pid, err := strconv.Atoi(fields[2])
		if err == nil && ended(pid) {
			_ = os.RemoveAll(dir)
		}
	}
}

func (s *Server) launch(bin string, settings []string) error {
	if err := giveAway(s.dir); err != nil {
		return err
	}
	data := filepath.Join(s.dir, "data")
	init := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "app", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
	init.Dir, init.SysProcAttr = s.dir, attributes()
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return err
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	args := []string{"-D", data, "-k", s.dir, "-p", strconv.Itoa(s.port), "-h", "127.0.0.1"}
	for _, v := range settings {
		args = append(args, "-c", v)
	}
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), args...)
	s.cmd.Dir, s.cmd.SysProcAttr = s.dir, attributes()
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	return s.run()
}

// run starts the process from a thread that lives as long as the process does:
// the kernel ends the server when the thread that started it ends.
func (s *Server) run() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer close(s.done)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
		}
	}()
	return <-started
}

func (s *Server) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.DSN())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.done:
			out, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("the server ended at once: %s", bytes.TrimSpace(out))
		default:
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// DSN returns the address of the server's database postgres.
func (s *Server) DSN() string {
	return fmt.Sprintf("postgres://app@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// Restart ends the server at once, as a crash does, and starts it again on its data.
func (s *Server) Restart() error {
	if err := s.cmd.Process.Signal(quit); err != nil {
		return err
	}
	<-s.done
	args, old := s.cmd.Args, s.cmd
	s.cmd, s.done = exec.Command(args[0], args[1:]...), make(chan struct{})
	s.cmd.Dir, s.cmd.SysProcAttr = s.dir, attributes()
	s.cmd.Stdout, s.cmd.Stderr = old.Stdout, old.Stderr
	if err := s.run(); err != nil {
		return err
	}
	return s.ready()
}

// Stop ends the server at once and removes its data.
func (s *Server) Stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(quit)
		<-s.done
	}
	if s.log != nil {
		_ = s.log.Close()
	}
	_ = os.RemoveAll(s.dir)
}
