package torture

import (
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

// scene is one run of a fault.
type scene struct {
	*testing.T
	what      string // the fault, as the report calls it
	seed      uint64
	Load      // what callers do meanwhile
	processes int
	// within is how long a call may take beyond its timeout and what the machine stalled. It is generous, and less than
	// the delay of any known bug. The report says how long calls took.
	within time.Duration

	steps  []Step
	losses int // how often data may have been lost
	quiet  bool
}

// newScene returns a scene whose load keeps its logs full: 2 processes, 4 keys, 1,000,000 units per 100 ms, in requests
// of cost 100,000 at most. There are so many callers that many calls are batches.
func newScene(t *testing.T, what string, seed uint64) *scene {
	return &scene{
		T: t, what: what, seed: seed, processes: 2, within: time.Second,
		Load: Load{
			Prefix: "torture", Keys: keys(4),
			Limit:      core.Limit{Name: "exact", Max: 1_000_000, Window: 100 * time.Millisecond},
			Costs:      []int{1, 25_000, 25_000, 25_000, 25_000, 50_000, 50_000, 100_000},
			Goroutines: 32, Pause: 12 * time.Millisecond, Burst: 8 * time.Millisecond, Seed: seed,
			Bug: plantedBug(t),
		},
	}
}

// light plays a fault under a load of as many requests that cost 1.
func light(play func(*scene)) func(*scene) {
	return func(s *scene) {
		s.Limit.Max, s.Costs = 40, nil
		play(s)
	}
}

// last lets a fault go on.
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

// play runs the load while fault happens, and then checks everything that must hold. It reads the records of servers
// last.
func (s *scene) play(url string, servers []*redistest.Server, fault func()) (History, []Seen) {
	s.Helper()
	s.URL = url
	stop := s.start(s, s.processes)
	s.settle()
	fault()
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
	if os.Getenv("EXACTLIMIT_REDIS_SERVER") != "" { // it may be one whose clock is apart
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
	if len(histories) > 1 {
		for _, violation := range Unexplained(histories) {
			s.Error(violation)
		}
	}
	history := histories[0]
	for _, other := range histories[1:] {
		for _, violation := range history.Uneven(other) {
			s.Error(violation)
		}
	}
	for _, seen := range processes {
		if n := fullestLocally(seen.Calls, s.Limit.Window); n > s.Limit.Max {
			s.Errorf("one process without Redis admitted %d units of a key within a window, where %d are allowed",
				n, s.Limit.Max)
		}
	}
	for _, call := range history.Calls {
		if strings.HasPrefix(call.Err, "not ErrUnavailable") {
			s.Error(call.Err)
			break
		}
	}
	row := history.Row(s.what)
	report = append(report, row)
	for _, seen := range processes {
		if !seen.Recovered {
			s.Error("Redis decides no calls of a process again at the end")
		}
	}
	if !s.quiet {
		if s.losses == 0 && len(s.steps) == 0 && !s.starved(processes) {
			// The fullest window had no room for a request of the most common cost.
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

// starved reports whether the machine has kept callers from running for longer than their deadlines. A deadline of the
// caller's own passes meanwhile, unlike the limiter's timeout, so answers come too late, and few requests are admitted
// by Redis.
func (s *scene) starved(processes []Seen) bool {
	return s.Load.Deadline > 0 && slices.ContainsFunc(processes, func(seen Seen) bool {
		return seen.Stall > s.Load.Deadline
	})
}

// settle lets time pass without a fault.
func (s *scene) settle() { time.Sleep(300 * time.Millisecond) }

// fullestLocally returns the most units that one process without Redis has surely admitted of any key within a window:
// those of calls that began and ended within it.
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
			for _, call := range admitted[i:] {
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

// unknown counts the calls whose callers do not know what Redis decided.
func (h History) unknown() int {
	n := 0
	for _, call := range h.Calls {
		if !call.known() {
			n++
		}
	}
	return n
}

// errors returns the errors that callers got, each once.
func (h History) errors() (words []string) {
	for _, call := range h.Calls {
		if call.Err != "" && !slices.Contains(words, call.Err) {
			words = append(words, call.Err)
		}
	}
	return words
}

// batched counts the admissions of the second and later questions of calls. The id of an admission ends in the number
// of its question.
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
