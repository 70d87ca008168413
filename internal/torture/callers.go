package torture

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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

// Callers is a process whose goroutines ask for one decision after another and count them, for hours if need
// be. It keeps nothing of a call but the counts.
type Callers struct {
	URL, Prefix string
	Goroutines  int
	Uses        []Use
	Policy      core.FailurePolicy
	Provisional bool          // the charges of uses that give back
	Pause       time.Duration // after a call that is not admitted by Redis, on average
	Seed        uint64
}

// Use is what a share of the calls is about.
type Use struct {
	Name     string
	Share    int // of the calls, beside the shares of the other uses
	Keys     int // of which each call has one
	Limits   []core.Limit
	Costs    []int   // of which each call has one
	Returned float64 // the share of the admissions that are given back, or settled, at once
	Settled  bool    // to any cost up to twice what was charged, instead of 0
}

func (u Use) key(i int) string { return fmt.Sprint(u.Name, i) }

func (u Use) keys() (keys []string) {
	for i := range u.Keys {
		keys = append(keys, u.key(i))
	}
	return keys
}

// Outcome is what a call came to, and by whose decision.
type Outcome int

// The outcomes of a call.
const (
	Admitted  Outcome = iota // by Redis
	Denied                   // by Redis
	Cached                   // denied by the denial cache
	InProcess                // decided without Redis
	Undecided                // an error
	outcomes
)

// Outcomes is how many calls came to each outcome.
type Outcomes [outcomes]int64

func (o *Outcomes) add(other Outcomes) {
	for i, n := range other {
		o[i] += n
	}
}

// since returns what has been added to others.
func (o Outcomes) since(others Outcomes) Outcomes {
	for i, n := range others {
		o[i] -= n
	}
	return o
}

// decided is the number of calls that were decided.
func (o Outcomes) decided() int64 { return o[Admitted] + o[Denied] + o[Cached] + o[InProcess] }

// Units is what callers know of one key, in units, from the beginning.
type Units struct {
	Told     int64 // admitted by Redis
	Unknown  int64 // asked of Redis, perhaps, which may have admitted them
	Returned int64 // at most so many were given back
	Surely   int64 // and at least so many
	Added    int64 // at most so many were charged later
	Owed     int64 // and at least so many
}

func (u *Units) add(other Units) {
	u.Told += other.Told
	u.Unknown += other.Unknown
	u.Returned += other.Returned
	u.Surely += other.Surely
	u.Added += other.Added
	u.Owed += other.Owed
}

// settled counts a change of a charge, some time after the request was sent.
func (u *Units) settled(by int64, after, window time.Duration, err error) {
	switch {
	case by < 0:
		u.Returned -= by
		if err == nil && after < window/2 { // or it may have left its window, and there is nothing to be given back
			u.Surely -= by
		}
	case by > 0:
		u.Added += by
		if after >= window { // if it was sent again, what was charged first may have expired
			u.Added += by
		}
		if err == nil {
			u.Owed += by
		}
	}
}

// Tally is what all callers of a process have counted.
type Tally struct {
	Outcomes   Outcomes
	Units      [][]Units // of each use, and of each of its keys
	Heap       uint64    // bytes that the process has from the system for its heap
	Violations []string
}

func newTally(uses []Use) (t Tally) {
	for _, use := range uses {
		t.Units = append(t.Units, make([]Units, use.Keys))
	}
	return t
}

func (t *Tally) add(other Tally) {
	t.Outcomes.add(other.Outcomes)
	for u := range other.Units {
		for k, units := range other.Units[u] {
			t.Units[u][k].add(units)
		}
	}
	t.Heap += other.Heap
	t.Violations = append(t.Violations, other.Violations...)
}

// caller is one goroutine.
type caller struct {
	*Callers
	keys            [][]string    // of each use
	limiter, giving *core.Limiter // giving is for uses that give back
	local           *localWindows
	random          *rand.Rand
	shares          int
	tally           Tally
}

func (c *caller) call() {
	u, drawn := 0, c.random.IntN(c.shares)
	for drawn >= c.Uses[u].Share {
		drawn -= c.Uses[u].Share
		u++
	}
	use := &c.Uses[u]
	k, cost := c.random.IntN(use.Keys), use.Costs[c.random.IntN(len(use.Costs))]
	limiter, units := c.limiter, &c.tally.Units[u][k]
	if use.Returned > 0 {
		limiter = c.giving
	}
	sent := time.Now()
	d, err := limiter.AllowN(context.Background(), c.keys[u][k], cost, use.Limits...)
	outcome := outcomeOf(d, err)
	c.tally.Outcomes[outcome]++
	if d.Allowed && use.Returned > 0 && c.random.Float64() < use.Returned {
		actual := 0
		if use.Settled {
			actual = c.random.IntN(2*cost + 1)
		}
		err := limiter.Settle(context.Background(), d, actual)
		if outcome == Admitted {
			units.settled(int64(actual-cost), time.Since(sent), use.shortest(), err)
		}
	}
	switch outcome {
	case Admitted:
		units.Told += int64(cost)
		return
	case Undecided:
		units.Unknown += int64(cost)
	case InProcess:
		units.Unknown += int64(cost)
		if d.Allowed && use.Returned == 0 {
			c.local.admitted(u, k, cost, sent, time.Now())
		}
	}
	time.Sleep(time.Duration(c.random.Int64N(int64(2*c.Pause) + 1)))
}

func outcomeOf(d core.Decision, err error) Outcome {
	switch {
	case err != nil:
		return Undecided
	case d.Source == core.SourceDenialCache:
		return Cached
	case d.Source != core.SourceRedis:
		return InProcess
	case d.Allowed:
		return Admitted
	}
	return Denied
}

func (u Use) shortest() time.Duration {
	shortest := u.Limits[0].Window
	for _, limit := range u.Limits {
		shortest = min(shortest, limit.Window)
	}
	return shortest
}

// localWindows checks what one process admits without Redis. It divides time into windows, of which each may
// hold Max units: enough to find a process that admits twice as much, and small.
type localWindows struct {
	uses  []Use
	begun time.Time

	mu         sync.Mutex
	windows    map[[3]int]localWindow // by use, key and limit
	violations []string
}

type localWindow struct {
	number int64
	units  int
}

func (l *localWindows) admitted(u, k, cost int, sent, came time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, limit := range l.uses[u].Limits {
		number := int64(came.Sub(l.begun) / limit.Window)
		if number != int64(sent.Sub(l.begun)/limit.Window) {
			continue // it may be of either
		}
		w := l.windows[[3]int{u, k, i}]
		if w.number != number {
			w = localWindow{number: number}
		}
		w.units += cost
		l.windows[[3]int{u, k, i}] = w
		if w.units > limit.Max && len(l.violations) < 10 {
			l.violations = append(l.violations, fmt.Sprintf(
				"one process without Redis admitted %d units of %s within %v, where %d are allowed",
				w.units, l.uses[u].key(k), limit.Window, limit.Max))
		}
	}
}

// callersEnv makes this test binary a process of Callers. It obeys the lines of its input: go, and stop, after
// which it writes what was counted from the beginning.
const callersEnv = "EXACTLIMIT_TORTURE_CALLERS"

func call() error {
	var c Callers
	if err := json.Unmarshal([]byte(os.Getenv(callersEnv)), &c); err != nil {
		return err
	}
	limiter, err := core.Connect(c.URL, core.WithPrefix(c.Prefix), core.OnFailure(c.Policy),
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

// start runs a process of callers, which wait for resume, until the end of the test.
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

// pause returns when no call is under way any more, with what was counted from the beginning.
func (c *callers) pause() (tally Tally, err error) {
	if _, err := io.WriteString(c.in, "stop\n"); err != nil {
		return tally, err
	}
	return tally, c.out.Decode(&tally)
}
