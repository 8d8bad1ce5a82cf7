package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// process is a child of this program.
type process struct {
	args   []string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	frozen bool
}

func spawn(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{args: args, cmd: exec.Command(self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	return p, p.cmd.Start()
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// listening waits until the process says a line.
func (p *process) listening() error {
	_, err := p.out.ReadString('\n')
	return err
}

func (p *process) say(line string) error {
	_, err := fmt.Fprintln(p.in, line)
	return err
}

// report asks a client for its report.
func (p *process) report() (*report, error) {
	if err := p.say("report"); err != nil {
		return nil, err
	}
	type answer struct {
		r   *report
		err error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := p.out.ReadBytes('\n')
		r := &report{}
		if err == nil {
			err = json.Unmarshal(line, r)
		}
		got <- answer{r, err}
	}()
	select {
	case a := <-got:
		return a.r, a.err
	case <-time.After(20 * time.Second):
		return nil, fmt.Errorf("%v does not answer", p.args[:2])
	}
}
