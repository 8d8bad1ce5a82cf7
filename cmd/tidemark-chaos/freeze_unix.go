//go:build unix

package main

import "syscall"

// freeze stops the process, or lets it go on.
func (p *process) freeze(frozen bool) {
	p.frozen = frozen
	signal := syscall.SIGCONT
	if frozen {
		signal = syscall.SIGSTOP
	}
	_ = p.cmd.Process.Signal(signal)
}
