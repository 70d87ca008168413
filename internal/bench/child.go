package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// job is the task of a child process. Each turn has its own process, so that no contender inherits the heap of another,
// and a build for another checkout (-against) is measured in the same way.
type job struct {
	Scenario  string
	Contender string
	Addrs     []string // of Redis; none for a scenario in one process
	Prefix    string
	Length    time.Duration
	Check     bool  // only check that the contender limits
	Spins     int64 // steps of spin after each decision, in the scenarios named overload
	Bytes     bool  // measure the bytes of full logs instead
}

// run is the main function of a child: it does the job, and writes the result to out as JSON. In some scenarios it
// reads lines from in, with which the parent tells it to proceed.
func (j job) run(in io.Reader, out io.Writer) error {
	encoder := json.NewEncoder(out)
	if j.Bytes {
		all, err := footprints(j.Addrs)
		if err != nil {
			return err
		}
		return encoder.Encode(all)
	}
	all := scenarios()
	i := slices.IndexFunc(all, func(s scenario) bool { return s.name == j.Scenario })
	if i < 0 {
		return fmt.Errorf("no scenario %q", j.Scenario)
	}
	s := all[i]
	i = slices.IndexFunc(s.contenders, func(c contender) bool { return c.name == j.Contender })
	if i < 0 {
		return fmt.Errorf("no contender %q in scenario %s", j.Contender, s.name)
	}
	c := s.contenders[i]
	setup := s.setup
	setup.addrs, setup.prefix, setup.workers = j.Addrs, j.Prefix, s.goroutines
	switch {
	case s.kind == service:
		return serveChild(c, setup, j.Check, in, encoder)
	case j.Check:
		if err := c.check(setup, [2]string{s.walks()[0].keys[0], "192.0.2.99:1"}); err != nil {
			return err
		}
		return encoder.Encode(turn{})
	}
	l, err := c.open(setup)
	if err != nil {
		return err
	}
	defer l.close()
	var t turn
	if s.kind == overload {
		t, err = overloadChild(l, s.walks(), j, in, encoder)
	} else {
		t, err = run(l, s.walks(), j.Length, j.Addrs)
	}
	if err != nil {
		return err
	}
	return encoder.Encode(t)
}

// child is a running process of this program, or of its build for another checkout.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr bytes.Buffer
}

// start starts exe for a job, behind a wrapper such as taskset if one is given. An empty exe is this program.
func (j job) start(exe string, wrapper ...string) (*child, error) {
	if exe == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		exe = self
	}
	spec, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	words := append(slices.Clone(wrapper), exe, "-child", string(spec))
	c := &child{cmd: exec.Command(words[0], words[1:]...)}
	c.cmd.Stderr = &c.stderr
	dieWithParent(c.cmd)
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	return c, c.cmd.Start()
}

// read waits for the next value of the child. If the child fails, the error contains what it wrote to stderr.
func (c *child) read(value any) error {
	if err := c.out.Decode(value); err != nil {
		failed := c.cmd.Wait()
		return fmt.Errorf("child process: %w, %v: %s", err, failed, bytes.TrimSpace(c.stderr.Bytes()))
	}
	return nil
}

// proceed lets a child that waits for the parent proceed.
func (c *child) proceed() error {
	_, err := c.in.Write([]byte("\n"))
	return err
}

// stop kills the child if it has not ended.
func (c *child) stop() {
	c.in.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// result starts a child and waits for its only value.
func (j job) result(exe string, value any, wrapper ...string) error {
	c, err := j.start(exe, wrapper...)
	if err != nil {
		return err
	}
	defer c.stop()
	return c.read(value)
}

// build builds this program for another checkout of exactlimit, whose root is dir, into a temporary directory.
func build(dir string) (exe string, remove func(), err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	temp, err := os.MkdirTemp("", "exactlimit-bench")
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.RemoveAll(temp) }
	modules := filepath.Join(temp, "go.mod")
	exe = filepath.Join(temp, "bench")
	steps := []func() error{
		func() error { return copyFile(modules, "go.mod") },
		func() error { return copyFile(filepath.Join(temp, "go.sum"), "go.sum") },
		func() error {
			return goCommand("mod", "edit", "-replace=github.com/exactlimit/exactlimit="+dir, modules)
		},
		func() error { return goCommand("build", "-modfile="+modules, "-mod=mod", "-o", exe, ".") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			remove()
			return "", nil, fmt.Errorf("-against %s: %w", dir, err)
		}
	}
	return exe, remove, nil
}

func copyFile(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%w: run this program in internal/bench, as go run -C does", err)
	}
	return os.WriteFile(to, text, 0o644)
}

func goCommand(words ...string) error {
	if out, err := exec.Command("go", words...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", words[0], err, out)
	}
	return nil
}
