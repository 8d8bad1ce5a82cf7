package main

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

// javascript is the client of testdata/offline.mjs, in a process of its own,
// over the published socket.io-client.
type javascript struct {
	t   *testing.T
	in  io.WriteCloser
	enc *json.Encoder

	mu      sync.Mutex // protects the rest
	last    int
	waiting map[int]chan jsAnswer
}

type jsAnswer struct {
	ID     int
	Result json.RawMessage
	Error  *jsError
}

type jsError struct{ Code, Message string }

func (e *jsError) Error() string { return e.Code + ": " + e.Message }

// startJavaScript starts a client of the server at url. It does not connect yet.
func startJavaScript(t *testing.T, url string) *javascript {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		testneeds.Missing(t, "Node.js", err.Error())
	}
	if os.Getenv("TIDEMARK_NODE_MODULES") == "" {
		testneeds.Missing(t, "socket.io-client", "TIDEMARK_NODE_MODULES names no folder that has it")
	}
	cmd := exec.Command(node, "testdata/remote.mjs", url)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	js := &javascript{t: t, in: in, enc: json.NewEncoder(in), waiting: map[int]chan jsAnswer{}}
	read := make(chan struct{})
	go func() { js.read(out); close(read) }()
	t.Cleanup(func() { in.Close(); <-read; _ = cmd.Wait() })
	return js
}

func (js *javascript) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var a jsAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			fmt.Fprintln(os.Stderr, "javascript:", lines.Text())
			continue
		}
		js.mu.Lock()
		js.waiting[a.ID] <- a
		delete(js.waiting, a.ID)
		js.mu.Unlock()
	}
}

// try runs a command of testdata/remote.mjs.
func (js *javascript) try(do string, args ...any) (json.RawMessage, error) {
	js.t.Helper()
	ch := make(chan jsAnswer, 1)
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
	case <-time.After(30 * time.Second):
		js.t.Fatalf("javascript: %s %v was not answered", do, args)
		return nil, nil
	}
}

// do is try for a command that must not fail.
func (js *javascript) do(do string, args ...any) json.RawMessage {
	js.t.Helper()
	r, err := js.try(do, args...)
	if err != nil {
		js.t.Fatalf("javascript: %s %v: %v", do, args, err)
	}
	return r
}

// call is a request whose result or error code is compared as JSON text.
func (js *javascript) call(service, method string, args ...any) string {
	js.t.Helper()
	r, err := js.try("call", append([]any{service, method}, args...)...)
	if err != nil {
		return err.(*jsError).Code
	}
	return string(r)
}
