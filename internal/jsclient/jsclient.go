// Package jsclient gives tests a client that is not ours: a model of a JavaScript
// client of the guide's protocol, in a process of its own, over the published
// socket.io-client. Its programs are examples/guide/testdata/remote.mjs and
// offline.mjs beside it.
package jsclient

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-sync/tidemark/internal/testneeds"
)

// patience is how long a command may take.
const patience = 60 * time.Second

// Client is one such client. Its methods may be called concurrently.
type Client struct {
	t   testing.TB
	in  io.WriteCloser
	enc *json.Encoder

	mu      sync.Mutex // protects the rest, and enc
	last    int
	waiting map[int]chan answer
}

type answer struct {
	ID     int
	Result json.RawMessage
	Error  *Error
}

// Error is what a command was rejected with.
type Error struct{ Code, Message string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Start starts the program script, remote.mjs, as a client of the server at url; it
// does not connect yet, and ends with the test. The test is skipped (see
// testneeds) when the machine has no Node.js, or TIDEMARK_NODE_MODULES names no
// folder that has socket.io-client.
func Start(t testing.TB, script, url string) *Client {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		testneeds.Missing(t, "Node.js", err.Error())
	}
	if os.Getenv("TIDEMARK_NODE_MODULES") == "" {
		testneeds.Missing(t, "socket.io-client", "TIDEMARK_NODE_MODULES names no folder that has it")
	}
	cmd := exec.Command(node, script, url)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	js := &Client{t: t, in: in, enc: json.NewEncoder(in), waiting: map[int]chan answer{}}
	read := make(chan struct{})
	go func() { js.read(out); close(read) }()
	t.Cleanup(func() { in.Close(); <-read; _ = cmd.Wait() })
	return js
}

func (js *Client) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 256<<20)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			fmt.Fprintln(os.Stderr, "javascript:", lines.Text())
			continue
		}
		js.mu.Lock()
		if ch := js.waiting[a.ID]; ch != nil {
			ch <- a
			delete(js.waiting, a.ID)
		}
		js.mu.Unlock()
	}
}

// Try runs a command of the script and returns its result, or the *[Error] that
// it was rejected with.
func (js *Client) Try(do string, args ...any) (json.RawMessage, error) {
	js.t.Helper()
	ch := make(chan answer, 1)
	js.mu.Lock()
	js.last++
	js.waiting[js.last] = ch
	err := js.enc.Encode(map[string]any{"id": js.last, "do": do, "args": args})
	js.mu.Unlock()
	if err != nil {
		js.t.Fatal(err)
	}
	select {
	case a := <-ch:
		if a.Error != nil {
			return nil, a.Error
		}
		return a.Result, nil
	case <-time.After(patience):
		js.t.Fatalf("javascript: %s %v was not answered", do, args)
		return nil, nil
	}
}

// Do is Try for a command that must not fail.
func (js *Client) Do(do string, args ...any) json.RawMessage {
	js.t.Helper()
	r, err := js.Try(do, args...)
	if err != nil {
		js.t.Fatalf("javascript: %s %v: %v", do, args, err)
	}
	return r
}

// Call is a request; it returns the result's JSON text, or the code of the error.
func (js *Client) Call(service, method string, args ...any) string {
	js.t.Helper()
	r, err := js.Try("call", append([]any{service, method}, args...)...)
	if err != nil {
		return err.(*Error).Code
	}
	return string(r)
}
