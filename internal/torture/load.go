package torture

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Load is what callers do: goroutines of some processes each ask for one of the keys, pause, and ask again. They ask in
// bursts, so that there are batches.
type Load struct {
	URL, Prefix string
	Keys        []string
	Limit       core.Limit
	Second      core.Limit    // of each call too, unless its Max is 0
	Costs       []int         // of which each call has one; 1 if there are none
	Settled     []int         // percentages of the cost; each admitted call is settled to one of them, if there are any
	Goroutines  int           // of each process
	Holds       time.Duration // how long a request is in flight on average, if the limit is of requests in flight
	Pause       time.Duration // between a goroutine's calls, on average
	Burst       time.Duration // unless 0, calls begin at multiples of it
	Policy      core.FailurePolicy
	Timeout     time.Duration // core's default if 0
	Hold        time.Duration // of the denial cache; core's default if 0, no cache if negative
	Deadline    time.Duration // of each call's context, if any
	Burn        time.Duration // of CPU time, after each call
	Busy        int           // how many goroutines of each process do nothing but burn CPU time
	Seed        uint64
	Bug         Bug // planted, unless zero
}

// Key is the i-th key of a load.
func Key(i int) string { return fmt.Sprint("key", i) }

func keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = Key(i)
	}
	return keys
}

// log returns the name of a key's log in Redis, as core/README.md documents it. The keys of a load need no escapes.
func (l Load) log(key string) string { return l.logOf(key, l.Limit) }

func (l Load) logOf(key string, limit core.Limit) string {
	name := fmt.Sprintf("%s:{%s}:%s:%dv3", l.Prefix, key, limit.Name, limit.Window.Milliseconds())
	if limit.InFlight {
		name += "f"
	}
	return name
}

func (l Load) limits() []core.Limit {
	if l.Second.Max == 0 {
		return []core.Limit{l.Limit}
	}
	return []core.Limit{l.Limit, l.Second}
}

func (l Load) timeout() time.Duration {
	timeout := cmp.Or(l.Timeout, 100*time.Millisecond)
	if l.Deadline > 0 {
		timeout = min(timeout, l.Deadline)
	}
	return timeout
}

// Seen is what one process saw.
type Seen struct {
	Calls []Call
	// Stall is the longest time for which the machine did not run a goroutine of the process that was ready to run.
	Stall time.Duration
	// Recovered reports whether Redis answered again after the last call, for each key.
	Recovered bool
}

// run makes calls until the context ends.
func (l Load) run(ctx context.Context) (seen Seen, err error) {
	opts := []core.Option{
		core.WithPrefix(l.Prefix), core.OnFailure(l.Policy), core.WithLogger(slog.New(slog.DiscardHandler)),
	}
	if l.Timeout > 0 {
		opts = append(opts, core.WithTimeout(l.Timeout))
	}
	switch {
	case l.Hold > 0:
		opts = append(opts, core.WithDenialCache(10_000, l.Hold))
	case l.Hold < 0:
		opts = append(opts, core.WithDenialCache(0, 0))
	}
	limiter, err := connect(l.URL, l.Bug, opts...)
	if err != nil {
		return seen, err
	}
	calls := make([][]Call, l.Goroutines)
	var all sync.WaitGroup
	all.Go(func() {
		const nap = 5 * time.Millisecond
		for ctx.Err() == nil {
			begun := time.Now()
			time.Sleep(nap)
			seen.Stall = max(seen.Stall, time.Since(begun)-nap)
		}
	})
	for range l.Busy {
		all.Go(func() {
			for ctx.Err() == nil {
				burn(10 * time.Millisecond)
			}
		})
	}
	for g := range l.Goroutines {
		all.Go(func() {
			random := rand.New(rand.NewPCG(l.Seed, uint64(g)))
			for ctx.Err() == nil {
				time.Sleep(time.Duration(random.Int64N(int64(2*l.Pause) + 1)))
				if l.Burst > 0 {
					time.Sleep(time.Until(time.Now().Truncate(l.Burst).Add(l.Burst)))
				}
				cost := 1
				if len(l.Costs) > 0 {
					cost = l.Costs[random.IntN(len(l.Costs))]
				}
				call, d := l.call(limiter, l.Keys[random.IntN(len(l.Keys))], cost)
				if d.Holds() {
					l.hold(limiter, &call, d, random)
				}
				if d.Allowed && len(l.Settled) > 0 {
					call.Settled = settle(limiter, d, cost*l.Settled[random.IntN(len(l.Settled))]/100)
				}
				calls[g] = append(calls[g], call)
				burn(l.Burn)
			}
		})
	}
	all.Wait()
	seen.Calls = slices.Concat(calls...)
	seen.Recovered = l.recovers(limiter)
	return seen, limiter.Close()
}

// recovers waits until Redis has answered for each key. It gives up after ten seconds.
func (l Load) recovers(limiter *core.Limiter) bool {
	giveUp := time.Now().Add(10 * time.Second)
	for _, key := range l.Keys {
		for {
			d, err := limiter.Peek(context.Background(), key, l.limits()...)
			if err == nil && d.Source == core.SourceRedis {
				break
			}
			if time.Now().After(giveUp) {
				return false
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return true
}

// burn keeps a processor busy. The scheduler may interrupt it.
func burn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

func (l Load) call(limiter *core.Limiter, key string, cost int) (Call, core.Decision) {
	ctx, cancel := context.Background(), func() {}
	if l.Deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, l.Deadline)
	}
	defer cancel()
	call := Call{Key: key, Cost: cost, Sent: time.Now().UnixMicro()}
	d, err := limiter.AllowN(ctx, key, cost, l.limits()...)
	call.Came = time.Now().UnixMicro()
	call.Allowed, call.Banned, call.Source = d.Allowed, d.Banned, d.Source.String()
	if err == nil && !d.Allowed {
		for _, state := range d.States() {
			retry, reset := state.RetryAfter.Microseconds(), state.ResetAfter.Microseconds()
			call.States = append(call.States, [2]int64{retry, reset})
		}
	}
	if err != nil {
		call.Err = err.Error()
		if !errors.Is(err, core.ErrUnavailable) {
			call.Err = "not ErrUnavailable: " + call.Err
		}
	}
	return call, d
}

// hold is what a request does while it is in flight: it takes some time, one in eight more than a lease, and is
// released once or twice.
func (l Load) hold(limiter *core.Limiter, call *Call, d core.Decision, random *rand.Rand) {
	holds := time.Duration(random.Int64N(int64(2 * l.Holds)))
	if random.IntN(8) == 0 {
		holds += l.Limit.Window * 5 / 4
	}
	time.Sleep(holds)
	call.Ends = time.Now().UnixMicro()
	for range 1 + random.IntN(2) {
		if err := limiter.Release(context.Background(), d); err != nil {
			call.Err = "not released: " + err.Error()
		}
	}
	call.Ended = time.Now().UnixMicro()
}

// settle settles an admitted call, and then again to another cost, which changes nothing.
func settle(limiter *core.Limiter, d core.Decision, cost int) *Settlement {
	settled := &Settlement{Cost: cost}
	for _, cost := range []int{cost, cost + 7} {
		if err := limiter.Settle(context.Background(), d, cost); err != nil {
			settled.Err = err.Error()
		}
	}
	settled.Came = time.Now().UnixMicro()
	return settled
}

// loadEnv is set for a process that is a Load until its input ends, and then writes what it saw.
const loadEnv = "EXACTLIMIT_TORTURE_LOAD"

func work() error {
	var l Load
	if err := json.Unmarshal([]byte(os.Getenv(loadEnv)), &l); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	seen, err := l.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// start runs a load in so many processes. It returns a function that stops them and returns what each saw.
func (l Load) start(t testing.TB, processes int) (stop func() []Seen) {
	t.Helper()
	seen := make([]Seen, processes)
	var inputs []io.Closer
	var all sync.WaitGroup
	for i := range processes {
		l.Seed += uint64(i)
		cmd, in, out := startProcess(t, loadEnv, l)
		inputs = append(inputs, in)
		t.Cleanup(func() { in.Close() })
		all.Go(func() {
			if err := json.NewDecoder(out).Decode(&seen[i]); err != nil {
				t.Error(err)
			}
			io.Copy(io.Discard, out)
			if err := cmd.Wait(); err != nil { // a race, a panic
				t.Error("a process with the load: ", err)
			}
		})
	}
	return func() []Seen {
		for _, in := range inputs {
			in.Close()
		}
		all.Wait()
		return seen
	}
}
