package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

// process is a server in a process of its own, so that its memory can be told
// from its clients'.
type process struct {
	cmd     *exec.Cmd
	stdin   io.Closer // its end is the process's
	address string    // host and port
}

// start starts this program again as a server, and returns when it listens.
func start(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("the server did not start")
	}
	p.address = strings.TrimSpace(line)
	return p, nil
}

func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
	http.DefaultClient.CloseIdleConnections()
}

// memory is what a process holds, in bytes.
type memory struct {
	Resident int64 // after a garbage collection
	Peak     int64 // the most that was resident since the last time
	Heap     int64 // live, of which goroutines' stacks are no part
	Stacks   int64

	Goroutines int
}

// restart ends the process and starts another at the same address, over what the first has left.
func (p *process) restart(dsn string) (*process, error) {
	p.stop()
	return start(scoped, dsn, "0", p.address)
}

// memory has the server collect its garbage, and says what it holds.
func (p *process) memory() (m memory, err error) {
	resp, err := http.Get("http://" + p.address + "/memory")
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	return m, json.NewDecoder(resp.Body).Decode(&m)
}
