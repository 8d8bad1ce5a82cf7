package main

import (
	"bufio"
	"context"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-sync/tidemark"
	"github.com/tidemark-sync/tidemark/driver/memory"
	"github.com/tidemark-sync/tidemark/server"
	"github.com/tidemark-sync/tidemark/transport/socketio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is one run of the command.
type program struct {
	t     *testing.T
	in    *io.PipeWriter
	lines chan string
	done  chan error
}

func start(t *testing.T, url, path string) *program {
	in, typed := io.Pipe()
	printed, out := io.Pipe()
	p := &program{t: t, in: typed, lines: make(chan string, 1000), done: make(chan error, 1)}
	go func() {
		err := run(context.Background(), url, path, in, out)
		out.Close()
		p.done <- err
	}()
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(printed); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p
}

func (p *program) types(lines ...string) {
	if _, err := io.WriteString(p.in, strings.Join(lines, "\n")+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// prints waits for a line.
func (p *program) prints(want string) {
	p.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case got, more := <-p.lines:
			if got == want {
				return
			}
			if !more {
				p.t.Fatalf("it ended without %q", want)
			}
		case <-limit:
			p.t.Fatalf("it did not print %q", want)
		}
	}
}

// ends closes the input and waits for the end.
func (p *program) ends() {
	p.t.Helper()
	p.in.Close()
	if err := <-p.done; err != nil {
		p.t.Error(err)
	}
	for range p.lines {
	}
}

func TestPostsSurviveARestartAndReachTheOthers(t *testing.T) {
	t.Parallel()
	schema, err := tidemark.NewSchema("post", []tidemark.Field{{Name: "title", Kind: tidemark.Text, Required: true}, {Name: "content", Kind: tidemark.Text}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(memory.New(schema), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.OnConnect(func(_ context.Context, s *server.Session) error { s.Join("all"); return nil })
	srv.Service("post").Publish(server.To("all"))
	handler := socketio.NewHandler(srv, nil)
	web := httptest.NewServer(handler)
	defer func() { srv.Close(); handler.Close(); web.Close() }()

	a, path := start(t, web.URL, filepath.Join(t.TempDir(), "a.log")), filepath.Join(t.TempDir(), "b.log")
	a.types("hello")
	a.prints("hello")

	b := start(t, web.URL, path)
	b.prints("hello")
	b.types("offline", "written offline")
	b.prints("written offline")
	b.ends()

	b = start(t, web.URL, path) // it is online again
	b.prints("-- 2 posts")
	a.prints("-- 2 posts")
	a.prints("written offline")
	b.ends()
	a.ends()
}
