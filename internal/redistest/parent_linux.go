package redistest

import (
	"os/exec"
	"syscall"
)

// DieWithParent ends a process when this one ends, even by a panic.
func DieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
