package redistest

import (
	_ "embed"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// clockSource is in a file whose name does not end in .c, since the Go tool would compile that by cgo.
//
//go:embed clock.c.txt
var clockSource []byte

// clock moves a server's wall clock, and with it the expiry of its keys, but not the server's monotonic clock.
type clock struct {
	file   *os.File
	env    []string
	offset atomic.Int64 // microseconds
}

// StartWithClock runs a server for one test. StepClock steps its clock.
func StartWithClock(t testing.TB, config ...string) *Server {
	t.Helper()
	Long(t)
	dir := t.TempDir()
	library, offset := filepath.Join(dir, "clock.so"), filepath.Join(dir, "offset")
	source := filepath.Join(dir, "clock.c")
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	file, err := os.Create(offset)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"LD_PRELOAD=" + library, "EXACTLIMIT_CLOCK=" + offset}
	s := &Server{dir: t.TempDir(), clock: &clock{file: file, env: env}}
	t.Cleanup(func() { file.Close() })
	if err := s.clock.step(0); err != nil {
		t.Fatal(err)
	}
	start(t, s, config)
	t.Cleanup(s.Kill)
	return s
}

// StepClock steps the clock of a server of StartWithClock, and returns how far it is ahead now. A restart does not undo
// the step.
func (s *Server) StepClock(t testing.TB, by time.Duration) time.Duration {
	t.Helper()
	if s.clock == nil {
		t.Fatal("this server has no clock to step: start it with StartWithClock")
	}
	if err := s.clock.step(by); err != nil {
		t.Fatal(err)
	}
	return time.Duration(s.clock.offset.Load()) * time.Microsecond
}

// AwaitClock waits until a server that runs has noticed that its clock was stepped, to within two seconds. Valkey 9
// reads the clock ten times a second, and not for each command.
func (s *Server) AwaitClock(t testing.TB) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		text, err := s.ask("EVAL", "return redis.call('TIME')[1]", "0")
		if err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ahead := time.Until(time.Unix(seconds, 0))
		if (ahead - time.Duration(s.clock.offset.Load())*time.Microsecond).Abs() < 2*time.Second {
			return
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("the server does not notice that its clock was stepped")
		}
	}
}

func (c *clock) step(by time.Duration) error {
	var bytes [8]byte
	binary.NativeEndian.PutUint64(bytes[:], uint64(c.offset.Add(by.Microseconds())))
	_, err := c.file.WriteAt(bytes[:], 0) // an aligned word, so the server never reads half of it
	return err
}
