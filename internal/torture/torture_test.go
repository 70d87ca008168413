// Package torture breaks what a limiter stands on, and checks what it does then by what the servers themselves recorded.
//
//	go test -v ./internal/torture                      two minutes: every fault once
//	go test -v ./internal/torture -long -timeout 1h    eight minutes: most for five times as long, and twice
//
// A run prints its seed. -seed plays it again, as far as a machine with other things to do can, and -run chooses faults.
package torture

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

var (
	long = flag.Bool("long", false, "five times as long, with two seeds")
	seed = flag.Uint64("seed", 0, "play the faults of this seed")
)

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	redistest.Main(m)
}

// scene is one run of a fault.
type scene struct {
	*testing.T
	what      string // happens, as the report says it
	seed      uint64
	Load      // what callers do meanwhile
	processes int
	// within is how long a call may take beyond its timeout and what the machine stalled. It is generous, and less than what
	// any known way to be held up takes. The report says how long they took.
	within time.Duration

	steps  []Step
	losses int // how often data may have been lost
	quiet  bool
}

// newScene has a load that keeps its logs full: 2 processes, 4 keys, 40 per 100 ms.
func newScene(t *testing.T, what string, seed uint64) *scene {
	return &scene{
		T: t, what: what, seed: seed, processes: 2, within: time.Second,
		Load: Load{
			Prefix: "torture", Keys: keys(4), Limit: core.Limit{Name: "exact", Max: 40, Window: 100 * time.Millisecond},
			Goroutines: 8, Pause: 4 * time.Millisecond, Seed: seed,
		},
	}
}

// last is how long a fault goes on.
func (s *scene) last(short time.Duration) {
	if *long {
		short *= 5
	}
	time.Sleep(short)
}

// every does something at intervals while a fault goes on.
func (s *scene) every(pause, short time.Duration, do func()) {
	if *long {
		short *= 5
	}
	for end := time.Now().Add(short); time.Now().Before(end); time.Sleep(pause) {
		do()
	}
}

// play has the load go on while fault happens, then checks all that must hold, by the records of servers, which it reads last.
func (s *scene) play(url string, servers []*redistest.Server, fault func()) (History, []Seen) {
	s.Helper()
	s.URL = url
	stop := s.start(s, s.processes)
	s.settle()
	fault()
	healed := time.Now().UnixMicro()
	s.settle()
	s.settle()
	processes := stop()
	history := History{Max: s.Limit.Max, Window: s.Limit.Window, Within: s.timeout() + s.within, Losses: s.losses, Steps: s.steps, Log: s.log}
	for _, seen := range processes {
		history.Calls = append(history.Calls, seen.Calls...)
		history.Within = max(history.Within, s.timeout()+s.within+4*seen.Stall)
	}
	for _, server := range servers {
		history.Records = append(history.Records, server.Records(s)...)
	}
	require.NotEmpty(s, history.Calls)
	for _, violation := range history.Check() {
		s.Error(violation)
	}
	for _, seen := range processes {
		if n := fullestLocally(seen.Calls, s.Limit.Window); n > s.Limit.Max {
			s.Errorf("one process without Redis admitted %d of a key within a window, where %d are allowed", n, s.Limit.Max)
		}
	}
	for _, call := range history.Calls {
		if strings.HasPrefix(call.Err, "not ErrUnavailable") {
			s.Error(call.Err)
			break
		}
	}
	if !slices.ContainsFunc(history.Calls, func(call Call) bool { return call.Sent > healed && call.known() }) {
		s.Error("no call was decided by Redis again at the end")
	}
	row := history.Row(s.what)
	report = append(report, row)
	if !s.quiet && s.losses == 0 && len(s.steps) == 0 {
		assert.Equal(s, s.Limit.Max, row.Worst, "the load never filled a window, so this shows nothing")
	}
	return history, processes
}

// settle is time without a fault.
func (s *scene) settle() { time.Sleep(400 * time.Millisecond) }

// fullestLocally is the most that one process without Redis has surely admitted of any key within a window.
func fullestLocally(calls []Call, window time.Duration) int {
	byKey := map[string][]Call{}
	for _, call := range calls {
		if call.Allowed && call.Source == core.SourceInProcess.String() {
			byKey[call.Key] = append(byKey[call.Key], call)
		}
	}
	most := 0
	for _, admitted := range byKey {
		slices.SortFunc(admitted, func(a, b Call) int { return int(a.Sent - b.Sent) })
		for i, first := range admitted {
			n := 0
			for _, call := range admitted[i:] { // those that were asked and answered within one window
				if call.Sent >= first.Sent+window.Microseconds() {
					break
				}
				if call.Came < first.Sent+window.Microseconds() {
					n++
				}
			}
			most = max(most, n)
		}
	}
	return most
}

var report []Row

// TestTorture plays every fault, and prints what came of each.
func TestTorture(t *testing.T) {
	first, seeds := *seed, uint64(1)
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1_000_000
		if *long {
			seeds = 2
		}
	}
	t.Logf("play it again with -seed %d", first)
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			for i := range seeds {
				fault.play(newScene(t, fault.name, first+i))
			}
		})
	}
	t.Log("\n" + Table(report))
}
