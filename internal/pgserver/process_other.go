//go:build unix && !linux

package pgserver

import "syscall"

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Credential: credential()} }
