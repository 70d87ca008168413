package redistest

import (
	"os/exec"
	"syscall"
)

// DieWithParent ends the process with ours, however ours ends: a test binary that panics cleans nothing up.
func DieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
