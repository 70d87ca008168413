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
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/exactlimit/exactlimit/core"
)

// Load is what callers do: in some processes, some goroutines each ask for one of the keys, pause, and ask again.
type Load struct {
	URL, Prefix string
	Keys        []string
	Limit       core.Limit
	Goroutines  int           // of each process
	Pause       time.Duration // between a goroutine's calls, on average
	Policy      core.FailurePolicy
	Timeout     time.Duration // core's own when 0
	Deadline    time.Duration // of each call's context, if any
	Burn        time.Duration // of CPU time, after each call
	Seed        uint64
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

// log is the name of a key's log in Redis, as README documents it. The keys of a load need no escapes.
func (l Load) log(key string) string {
	return fmt.Sprintf("%s:{%s}:%s:%d", l.Prefix, key, l.Limit.Name, l.Limit.Window.Milliseconds())
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
	// Stall is the longest that the machine kept the process from what it wanted to do. Calls may take that much longer.
	Stall time.Duration
}

// run asks until the context ends.
func (l Load) run(ctx context.Context) (seen Seen, err error) {
	opts := []core.Option{core.WithPrefix(l.Prefix), core.OnFailure(l.Policy), core.WithLogger(slog.New(slog.DiscardHandler))}
	if l.Timeout > 0 {
		opts = append(opts, core.WithTimeout(l.Timeout))
	}
	limiter, err := core.Connect(l.URL, opts...)
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
	for g := range l.Goroutines {
		all.Go(func() {
			random := rand.New(rand.NewPCG(l.Seed, uint64(g)))
			for ctx.Err() == nil {
				time.Sleep(time.Duration(random.Int64N(int64(2*l.Pause) + 1)))
				calls[g] = append(calls[g], l.call(limiter, l.Keys[random.IntN(len(l.Keys))]))
				burn(l.Burn)
			}
		})
	}
	all.Wait()
	seen.Calls = slices.Concat(calls...)
	return seen, limiter.Close()
}

// burn keeps a processor busy, in steps that the scheduler may interrupt.
func burn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

func (l Load) call(limiter *core.Limiter, key string) Call {
	ctx, cancel := context.Background(), func() {}
	if l.Deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, l.Deadline)
	}
	defer cancel()
	call := Call{Key: key, Sent: time.Now().UnixMicro()}
	d, err := limiter.Allow(ctx, key, l.Limit)
	call.Came = time.Now().UnixMicro()
	call.Allowed, call.Source = d.Allowed, d.Source.String()
	call.Retry, call.Reset = d.RetryAfter.Microseconds(), d.ResetAfter.Microseconds()
	if err != nil {
		call.Err = err.Error()
		if !errors.Is(err, core.ErrUnavailable) {
			call.Err = "not ErrUnavailable: " + call.Err
		}
	}
	return call
}

// loadEnv makes this test binary a process that is one load until its input ends, and then writes what it saw.
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

// start runs a load in so many processes. What it returns stops them and returns what each saw.
func (l Load) start(t testing.TB, processes int) (stop func() []Seen) {
	t.Helper()
	seen := make([]Seen, processes)
	var inputs []io.Closer
	var all sync.WaitGroup
	for i := range processes {
		l.Seed += uint64(i)
		spec, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), loadEnv+"="+string(spec), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
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
