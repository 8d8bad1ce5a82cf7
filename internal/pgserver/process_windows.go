package pgserver

import (
	"os"
	"syscall"
)

var quit = os.Kill

func ended(int) bool { return false }

func giveAway(string) error { return nil }

func attributes() *syscall.SysProcAttr { return nil }
