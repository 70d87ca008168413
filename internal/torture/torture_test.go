// Package torture breaks what a limiter stands on, and checks what it does then by what the servers themselves recorded.
//
//	go test -v ./internal/torture                      two minutes and a half: every fault once
//	go test -v ./internal/torture -long -timeout 1h    eight minutes: most for five times as long, and twice
//	go test -v ./internal/torture -run TestSoak -soak 1h -timeout 0
//
// The last one is for as many decisions as possible. It checks them as they are made, in bounded memory and on bounded disk.
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

	soakTime = flag.Duration("soak", 3*time.Second, "how long TestSoak goes on")
)

func TestMain(m *testing.M) {
	if os.Getenv(loadEnv) != "" {
		if err := work(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(callersEnv) != "" {
		if err := call(); err != nil {
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

// newScene has a load that keeps its logs full: 2 processes, 4 keys, 1,000,000 units per 100 ms, in requests for at most 100,000
// of them. There are so many callers that many calls are batches.
func newScene(t *testing.T, what string, seed uint64) *scene {
	return &scene{
		T: t, what: what, seed: seed, processes: 2, within: time.Second,
		Load: Load{
			Prefix: "torture", Keys: keys(4), Limit: core.Limit{Name: "exact", Max: 1_000_000, Window: 100 * time.Millisecond},
			Costs:      []int{1, 25_000, 25_000, 25_000, 25_000, 50_000, 50_000, 100_000},
			Goroutines: 32, Pause: 12 * time.Millisecond, Burst: 8 * time.Millisecond, Seed: seed,
		},
	}
}

// light is a fault under a load of requests that cost 1, of which there are as many.
func light(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Limit.Max, s.Costs = 40, nil
		play(s)
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
	var records []redistest.Record
	bans := map[string][]redistest.Ban{}
	for _, server := range servers {
		records = append(records, server.Records(s)...)
		for log, of := range server.Bans(s) {
			bans[log] = append(bans[log], of...)
		}
	}
	apart := time.Duration(0)
	if os.Getenv("EXACTLIMIT_REDIS_SERVER") != "" { // it may be any server
		apart = time.Millisecond
	}
	var histories []History // one for each limit
	for i, limit := range s.limits() {
		h := History{
			Max: limit.Max, Window: limit.Window, Within: s.timeout() + s.within, Losses: s.losses, Steps: s.steps,
			Log: func(key string) string { return s.logOf(key, limit) }, Records: records, Bans: bans,
			Apart: apart, GivesBack: slices.ContainsFunc(s.Settled, func(percent int) bool { return percent < 100 }),
		}
		for _, seen := range processes {
			for _, call := range seen.Calls {
				h.Calls = append(h.Calls, call.under(i))
			}
			h.Within = max(h.Within, s.timeout()+s.within+4*seen.Stall)
		}
		require.NotEmpty(s, h.Calls)
		for _, violation := range h.Check() {
			s.Error(violation)
		}
		histories = append(histories, h)
	}
	history := histories[0]
	for _, other := range histories[1:] {
		for _, violation := range history.Uneven(other) {
			s.Error(violation)
		}
	}
	for _, seen := range processes {
		if n := fullestLocally(seen.Calls, s.Limit.Window); n > s.Limit.Max {
			s.Errorf("one process without Redis admitted %d units of a key within a window, where %d are allowed", n, s.Limit.Max)
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
	if !s.quiet {
		if s.losses == 0 && len(s.steps) == 0 { // a request of the most common cost has no room
			common := 1
			if len(s.Costs) > 0 {
				common = s.Costs[len(s.Costs)/2]
			}
			assert.Greater(s, row.Worst, s.Limit.Max-common, "the load never filled a window, so this shows nothing")
		}
		assert.NotZero(s, history.batched(), "no call asked several questions, so this shows nothing of batches")
	}
	return history, processes
}

// batched counts the admissions by calls that asked more than one question: their ids end in the question's number.
func (h History) batched() int {
	n := 0
	for _, record := range h.Records {
		for _, admitted := range record {
			for _, a := range admitted {
				if !strings.HasSuffix(a.ID, ".1") && !a.Added {
					n++
				}
			}
		}
	}
	return n
}

// settle is time without a fault.
func (s *scene) settle() { time.Sleep(300 * time.Millisecond) }

// fullestLocally is the most units that one process without Redis has surely admitted of any key within a window.
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
					n += call.cost()
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
	redistest.Long(t)
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
