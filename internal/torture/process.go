package torture

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
)

// startProcess runs the test binary again, with its task as JSON in an environment variable.
func startProcess(t testing.TB, variable string, task any) (cmd *exec.Cmd, in io.WriteCloser, out io.Reader) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spec, err := json.Marshal(task)
	must(err)
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+string(spec), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err = cmd.StdinPipe()
	must(err)
	out, err = cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	return cmd, in, out
}
