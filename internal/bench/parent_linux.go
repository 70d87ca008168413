package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends the process with ours, however ours ends: a program that panics cleans nothing up.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
