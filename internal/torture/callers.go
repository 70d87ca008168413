package torture

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Callers is a process whose goroutines ask for one decision after another, for hours if need be. It keeps nothing of
// a call but counts.
type Callers struct {
	URL, Prefix string
	Goroutines  int
	Uses        []Use
	Policy      core.FailurePolicy
	Provisional bool          // the charges of uses that give back
	Pause       time.Duration // after a call that is not admitted by Redis, on average
	Seed        uint64
	Bug         Bug // planted, unless zero
}

// callersEnv is set for a process that is Callers. It reads lines from its input: "go", and "stop", after which it
// writes what it has counted from the beginning.
const callersEnv = "EXACTLIMIT_TORTURE_CALLERS"

func call() error {
	var c Callers
	if err := json.Unmarshal([]byte(os.Getenv(callersEnv)), &c); err != nil {
		return err
	}
	limiter, err := connect(c.URL, c.Bug, core.WithPrefix(c.Prefix), core.OnFailure(c.Policy),
		core.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer limiter.Close()
	giving := limiter
	if c.Provisional {
		giving = limiter.Provisional()
	}
	var keys [][]string
	shares := 0
	for _, use := range c.Uses {
		shares += use.Share
		keys = append(keys, use.keys())
	}
	local := &localWindows{uses: c.Uses, begun: time.Now(), windows: map[[3]int]localWindow{}}
	callers := make([]caller, c.Goroutines)
	for i := range callers {
		random := rand.New(rand.NewPCG(c.Seed, uint64(i)))
		callers[i] = caller{&c, keys, limiter, giving, local, random, shares, newTally(c.Uses)}
	}
	var running atomic.Bool
	var all sync.WaitGroup
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "go":
			running.Store(true)
			for i := range callers {
				all.Go(func() {
					for running.Load() {
						callers[i].call()
					}
				})
			}
		case "stop":
			running.Store(false)
			all.Wait()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			tally := newTally(c.Uses)
			tally.Heap, tally.Violations = memory.HeapSys, local.violations
			for i := range callers {
				tally.add(callers[i].tally)
			}
			if err := out.Encode(tally); err != nil {
				return err
			}
		}
	}
	running.Store(false)
	all.Wait()
	return nil
}

// callers is the test's side of a process of Callers.
type callers struct {
	in  io.WriteCloser
	out *json.Decoder
}

// start runs a process of callers until the end of the test. They wait for resume.
func (c Callers) start(t testing.TB) *callers {
	t.Helper()
	cmd, in, out := startProcess(t, callersEnv, c)
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil { // a race, a panic
			t.Error("a process of callers: ", err)
		}
	})
	return &callers{in, json.NewDecoder(out)}
}

func (c *callers) resume() error {
	_, err := io.WriteString(c.in, "go\n")
	return err
}

// pause waits until no call is in flight, and returns what was counted from the beginning.
func (c *callers) pause() (tally Tally, err error) {
	if _, err := io.WriteString(c.in, "stop\n"); err != nil {
		return tally, err
	}
	return tally, c.out.Decode(&tally)
}
