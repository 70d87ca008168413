package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Requests in flight count until they are released, or refunded, once; their window limits stay charged.
func TestInFlight(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			flight, same, window := InFlight("reports", 3, time.Hour), PerHour("reports", 3), PerDay("daily", 100)
			remain := func(want ...int) {
				t.Helper()
				d, err := limiter.Peek(ctx, "ann", flight, window)
				require.NoError(t, err)
				assert.Equal(t, want, []int{d.States()[0].Remaining, d.States()[1].Remaining})
			}
			allow := func(cost int, limits ...Limit) Decision {
				t.Helper()
				d, err := limiter.AllowN(ctx, "ann", cost, limits...)
				require.NoError(t, err)
				return d
			}
			release := func(d Decision) {
				t.Helper()
				require.NoError(t, limiter.Release(ctx, d))
			}
			one, two := allow(1, flight), allow(2, window, flight)
			assert.Equal(t, State{Limit: flight, RetryAfter: time.Second, ResetAfter: time.Hour}, two.State)
			remain(0, 98)
			for range 2 { // the second time, the denial cache could deny it
				denied := allow(1, flight, window)
				assert.False(t, denied.Allowed)
				assert.Equal(t, time.Second, denied.RetryAfter, "nobody knows")
				release(denied)
				remain(0, 98)
			}
			release(two)
			remain(2, 98)
			release(two) // again
			copied := two
			release(copied)
			remain(2, 98)
			three := allow(2, flight, window)
			assert.True(t, three.Allowed)
			require.NoError(t, limiter.Refund(ctx, three))
			remain(2, 98)
			release(three)
			four := allow(1, flight, window)
			release(four)
			remain(2, 97)
			require.NoError(t, limiter.Refund(ctx, four))
			remain(2, 98)
			release(one)
			remain(3, 98)

			full := allow(3, same) // of the same name
			assert.True(t, full.Allowed)
			release(full)
			assert.False(t, allow(1, same).Allowed, "a window is not released")
			remain(3, 98)
			both := allow(1, flight)
			lowered, err := limiter.Peek(ctx, "ann", InFlight("reports", 1, time.Hour))
			require.NoError(t, err)
			assert.False(t, lowered.Allowed, "a changed Max applies to what is there")
			require.NoError(t, limiter.Reset(ctx, "ann", flight))
			remain(3, 98)
			release(both)
			remain(3, 98)
			release(allow(3, flight))
			remain(3, 98)

			dry, err := limiter.DryRun().AllowN(ctx, "bob", 3, flight)
			require.NoError(t, err)
			passed, err := limiter.DryRun().Allow(ctx, "bob", flight)
			require.NoError(t, err)
			require.True(t, passed.DryRun)
			release(passed)
			release(Decision{})
			require.NoError(t, limiter.DryRun().OnFailure(FailOpen).Release(ctx, dry))
			last, err := limiter.AllowN(ctx, "bob", 3, flight)
			require.NoError(t, err)
			assert.True(t, last.Allowed)

			other, err := NewInProcess()
			require.NoError(t, err)
			defer other.Close()
			assert.ErrorIs(t, other.Release(ctx, last), ErrInvalid)
			limiter.Close()
			assert.ErrorIs(t, limiter.Release(ctx, last), ErrUnavailable)
		})
	}
}

// A window that has no room denies for as long as it says, and the cache knows it; requests in flight never do.
func TestInFlightDenialsAreNotCached(t *testing.T) {
	limiter, client, prefix := onShared(t)
	other, err := New(client, WithPrefix(prefix), patient)
	require.NoError(t, err)
	defer other.Close()
	ctx, flight, window := context.Background(), InFlight("f", 1, time.Hour), PerHour("w", 2)
	ask := func() Decision {
		t.Helper()
		d, err := limiter.Allow(ctx, "ann", flight, window)
		require.NoError(t, err)
		return d
	}
	first := ask()
	require.NoError(t, limiter.Release(ctx, first))
	held, err := other.Allow(ctx, "ann", flight, window)
	require.NoError(t, err)
	for range 3 {
		d := ask()
		assert.False(t, d.Allowed)
		assert.Equal(t, SourceRedis, d.Source)
		assert.Greater(t, d.RetryAfter, time.Minute, "the largest")
	}
	require.NoError(t, other.Release(ctx, held))
	require.False(t, ask().Allowed, "the window has no room")
	assert.Equal(t, SourceDenialCache, ask().Source)
}

// Wait is woken by a Release of this Limiter, and soon notices another's.
func TestWaitForRelease(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			limit := InFlight("f", 1, time.Hour)
			for range 3 {
				held, err := limiter.Allow(ctx, "ann", limit)
				require.NoError(t, err)
				require.True(t, held.Allowed)
				var waiting sync.WaitGroup
				waiting.Go(func() {
					d, err := limiter.Wait(ctx, "ann", limit)
					if assert.NoError(t, err) {
						assert.NoError(t, limiter.Release(ctx, d))
					}
				})
				require.NoError(t, limiter.Release(ctx, held))
				waiting.Wait()
			}
		})
	}
}

// In this process no time passes between a Release and the admission of what waits for it.
func TestWaitIsWokenByRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		limit := InFlight("f", 1, time.Hour)
		held, err := limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		start := time.Now()
		time.AfterFunc(300*time.Millisecond, func() { limiter.Release(context.Background(), held) })
		d, err := limiter.Wait(t.Context(), "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.Equal(t, 300*time.Millisecond, time.Since(start), "on a clock that stands still otherwise")
	})
}

// renewed is a Redis that only notes what is renewed, and when.
type renewed struct {
	mu    sync.Mutex
	start time.Time
	last  map[string]time.Duration
	away  bool
	calls int
}

func (r *renewed) now() time.Duration { return time.Since(r.start) }

func (r *renewed) renew(_ string, members []string, _ []Limit) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	for _, member := range members {
		if !r.away {
			r.last[member] = r.now()
		}
	}
	return !r.away
}

// On a clock of the test's: what is held is renewed every third of its lease or somewhat earlier, also after an outage, with
// few calls, and only until it ends; and nothing runs while nothing is held.
func TestLeasesAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis := &renewed{start: time.Now(), last: map[string]time.Duration{}}
		closing := make(chan struct{})
		leases := newLeases(redis.renew, func(string) int { return 0 }, redis.now, closing)
		calls := make([]*call, 300)
		for n := range calls {
			calls[n] = &call{id: fmt.Sprint("id", n)}
		}
		paid := func(n int) receipt {
			return receipt{key: fmt.Sprint("key", n%3), cost: 1, call: calls[n], question: 1}
		}
		limits := map[int][]Limit{
			0: {InFlight("short", 1000, time.Second)}, 1: {InFlight("long", 1000, time.Minute)},
			2: {InFlight("long", 1000, time.Hour), InFlight("short", 1000, 3*time.Second)},
		}
		lease := func(n int) time.Duration {
			return slices.MinFunc(limits[n%3], func(a, b Limit) int { return int(a.Window - b.Window) }).Window
		}
		check := func() {
			t.Helper()
			redis.mu.Lock()
			defer redis.mu.Unlock()
			for n := range 300 {
				if since := redis.now() - redis.last[paid(n).entry()]; since > lease(n)*2/5 {
					t.Errorf("%d was renewed %v ago", n, since)
				}
			}
		}
		called := func() int {
			redis.mu.Lock()
			defer redis.mu.Unlock()
			return redis.calls
		}
		for n := range 300 {
			redis.mu.Lock()
			redis.last[paid(n).entry()] = redis.now()
			redis.mu.Unlock()
			leases.add(paid(n), limits[n%3], redis.now())
			time.Sleep(time.Millisecond)
		}
		for range 1000 {
			time.Sleep(77 * time.Millisecond)
			check()
		}
		assert.Less(t, called(), 77*8*(2+1+1), "100 are renewed by two calls at most, every third to fourth of a lease")

		away := func(away bool) {
			redis.mu.Lock()
			defer redis.mu.Unlock()
			redis.away = away
		}
		for n := range 4 {
			away(true)
			time.Sleep(time.Minute + time.Duration(n)*5*time.Second)
			away(false)
			time.Sleep(6 * time.Second) // a twelfth of the longest, and a little
			check()
		}

		for n := range 300 {
			assert.True(t, leases.end(paid(n)))
			assert.False(t, leases.end(paid(n)))
		}
		synctest.Wait()
		before := called()
		time.Sleep(time.Hour)
		assert.Equal(t, before, called())
		synctest.Wait()
		leases.mu.Lock()
		assert.False(t, leases.running)
		leases.mu.Unlock()
		leases.add(paid(0), limits[0], redis.now())
		time.Sleep(900 * time.Millisecond)
		assert.Equal(t, before+2, called())
		close(closing)
		leases.close()
		time.Sleep(time.Hour)
		assert.Equal(t, before+2, called())
		leases.add(paid(1), limits[1], redis.now())
		leases.close()
	})
}

// On a clock of the test's: one server hangs, with many leases, so that each renewal takes longer than the lease before
// it fails. The leases on another server are renewed in time, and few renewals wait at once.
func TestHangingServerDelaysNoOtherRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redis := &renewed{start: time.Now(), last: map[string]time.Duration{}}
		closing := make(chan struct{})
		var waiting, most atomic.Int64
		renew := func(key string, members []string, limits []Limit) bool {
			if key != "fine" {
				most.Store(max(most.Load(), waiting.Add(1)))
				defer waiting.Add(-1)
				time.Sleep(10 * time.Second)
				return false
			}
			return redis.renew(key, members, limits)
		}
		server := func(key string) int { return strings.Index("fine", key) } // 0, or -1 for the one that hangs
		leases, limit := newLeases(renew, server, redis.now, closing), []Limit{InFlight("f", 1000, time.Second)}
		hold := func(key string) (entry string) {
			paid := receipt{key: key, cost: 1, call: &call{id: key + fmt.Sprint(len(leases.held))}, question: 1}
			leases.add(paid, limit, redis.now())
			return paid.entry()
		}
		for n := range 1000 {
			hold(fmt.Sprint("hangs", n))
		}
		fine := hold("fine")
		for range 1000 {
			time.Sleep(77 * time.Millisecond)
			redis.mu.Lock()
			since := redis.now() - redis.last[fine]
			redis.mu.Unlock()
			require.LessOrEqual(t, since, limit[0].Window*2/5)
		}
		assert.EqualValues(t, renewsAtOnce, most.Load())
		close(closing)
		leases.close()
	})
}

// A handler may run for longer than its lease, and whatever it costs.
func TestLeasesAreRenewed(t *testing.T) {
	t.Parallel()
	limiter, _, _ := onShared(t)
	ctx, limit, other := context.Background(), InFlight("f", 5, 2*time.Second), InFlight("g", 9, time.Hour)
	var held []Decision
	for _, cost := range []int{1, 3, 1} {
		d, err := limiter.AllowN(ctx, "ann", cost, other, limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		held = append(held, d)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		d, err := limiter.Peek(ctx, "ann", limit, other)
		require.NoError(t, err)
		require.Equal(t, []int{0, 4}, []int{d.States()[0].Remaining, d.States()[1].Remaining})
	}
	for _, d := range held {
		require.NoError(t, limiter.Release(ctx, d))
	}
	d, err := limiter.Peek(ctx, "ann", limit)
	require.NoError(t, err)
	assert.Equal(t, 5, d.Remaining)
	assert.Empty(t, limiter.redis.leases.held)
}

// Admissions that end while they are renewed leave nothing behind, and nothing runs after Close.
func TestReleasesWhileRenewing(t *testing.T) {
	limiter, client, prefix := onShared(t)
	limit := InFlight("f", 1000, time.Hour)
	leases := limiter.redis.leases
	stop := make(chan struct{})
	var renewing, all sync.WaitGroup
	renewing.Go(func() { // all the time
		for {
			select {
			case <-stop:
				return
			default:
			}
			leases.mu.Lock()
			for _, held := range leases.held {
				if held.due < math.MaxInt64 { // it is not being renewed
					held.due = 0
				}
			}
			leases.mu.Unlock()
			time.Sleep(50 * time.Microsecond)
			if _, some := leases.renewDue(); some {
				leases.mu.Lock()
				leases.running = true
				leases.mu.Unlock()
			}
		}
	})
	for range 16 {
		all.Go(func() {
			for n := range 200 {
				d, err := limiter.AllowN(context.Background(), "ann", 1+n%2, limit)
				if assert.NoError(t, err) && assert.True(t, d.Allowed) {
					assert.NoError(t, limiter.Release(context.Background(), d))
				}
			}
		})
	}
	all.Wait()
	close(stop)
	renewing.Wait()
	assert.Empty(t, leases.held)
	assert.Empty(t, members(t, client, string(appendLogKey(nil, prefix, "ann", limit))))
}

// On a clock of the test's, the script and a naive log agree on any admissions, releases and renewals, whatever has expired
// or was released before. Nothing comes back, and no more than Max are ever in flight.
func TestLeasesAgreeWithOracle(t *testing.T) {
	redis, run := newClockedRedis(t), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		key, now, log := fmt.Sprint(run), int64(0), &oracle.Log{}
		limit, window := InFlight("f", rapid.IntRange(1, 6).Draw(t, "max"), time.Second), time.Second.Microseconds()
		var admitted []Decision // number n is the oracle's admission n
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			now += rapid.SampledFrom([]int64{0, 0, 1, window / 3, window/3 + 1, window - 1, window, window + 1}).Draw(t, "step")
			do := rapid.SampledFrom([]string{"allow", "allow", "allow", "renew", "renew", "release"}).Draw(t, "do")
			if do == "allow" {
				cost := rapid.IntRange(1, limit.Max).Draw(t, "cost")
				q := redis.question(admit, key, cost, limit)
				redis.ask(t, now, q)
				d := redis.decision(t, q)
				fits := log.Fits(now, window, cost, limit.Max)
				require.Equal(t, fits, d.Allowed)
				if fits {
					log.Admit(now, cost)
					admitted = append(admitted, d)
				}
			} else if len(admitted) > 0 {
				of := rapid.IntRange(0, len(admitted)-1).Draw(t, "of")
				if do == "release" {
					q := redis.settling(admitted[of], 0)
					redis.ask(t, now, q)
					require.NoError(t, q.answer.err)
					log.Refund(of)
				} else {
					q := redis.question(renew, key, 1, limit)
					for _, d := range admitted[of:min(of+3, len(admitted))] {
						q.members = append(q.members, redis.renewing(d).members...)
					}
					redis.ask(t, now, q)
					require.NoError(t, q.answer.err)
					for n := of; n < min(of+3, len(admitted)); n++ {
						log.Renew(n, now, window)
					}
				}
			}
			d := redis.peek(t, now, key, limit)
			require.Equal(t, limit.Max-log.Count(now, window), d.Remaining, do)
			require.LessOrEqual(t, log.Count(now, window), limit.Max)
			requireMarks(t, redis.client, redis.log(key, limit))
		}
	})
}

// Requests that ask the same in one batch have an entry each, if they are under a limit of requests in flight.
func TestInFlightIsNotCoalesced(t *testing.T) {
	redis := newClockedRedis(t)
	limit, window := InFlight("f", 5, time.Second), PerHour("w", 9)
	var questions []*question
	for range 3 {
		questions = append(questions, redis.question(admit, "ann", 2, window, limit))
	}
	redis.ask(t, 0, questions...)
	for i, q := range questions {
		d := redis.decision(t, q)
		require.Equal(t, i < 2, d.Allowed)
		require.Equal(t, i < 2, d.Holds())
		if d.Allowed {
			require.EqualValues(t, 1, d.receipt.granted)
		}
	}
	require.Len(t, redis.entries(t, "ann", limit), 2)
	redis.release(t, 1, redis.decision(t, questions[0]))
	require.Len(t, redis.entries(t, "ann", limit), 1)
	require.Equal(t, 5, redis.peek(t, 1, "ann", window).Remaining)
	require.Equal(t, 3, redis.peek(t, 1, "ann", limit).Remaining)
}

// In-process there are no leases: what is held stays for days, whatever its lease and however often the logs are swept.
func TestInFlightInProcess(t *testing.T) {
	store, limit, hour := newClockedInProcess(), InFlight("f", 200, time.Second), 3600*second
	var held []Decision
	for n := range int64(200) {
		d := store.allow(t, n/3*hour, "ann", 1, limit)
		require.True(t, d.Allowed)
		held = append(held, d)
		store.sweep(n / 3 * hour)
	}
	now := 100 * hour
	store.sweep(now)
	require.False(t, store.allow(t, now, "ann", 1, limit).Allowed)
	for n, i := range rand.Perm(200) {
		for range 2 {
			store.release(t, now, held[i])
			require.Equal(t, n+1, store.peek(t, now, "ann", limit).Remaining)
		}
	}
	store.sweep(now)
	require.Nil(t, store.lock("ann", false), "an empty log is forgotten")
	require.True(t, store.allow(t, now+1, "ann", 200, limit).Allowed)
}

// A late grant holds nothing: its caller knows nothing of it, or runs on what was counted in this process.
func TestLateGrantsHoldNothing(t *testing.T) {
	for _, policy := range []FailurePolicy{FailLocal, FailOpen, FailClosed} {
		t.Run(policy.String(), func(t *testing.T) {
			client, prefix := redistest.Shared(t).Client(t), redistest.Prefix()
			g := newGated(t, 5, WithPrefix(prefix), WithTimeout(100*time.Millisecond), OnFailure(policy))
			flight, window := InFlight("f", 2, time.Hour), PerHour("w", 9)
			o := g.allow(context.Background(), "ann", 2, flight, window)
			first := <-g.came
			o.wait(t)
			first.pass <- nil
			release := g.next()
			assert.Contains(t, release.words, "settle")
			release.pass <- nil
			kept := 2 // since the request goes on
			if policy == FailClosed {
				kept = 0
			}
			witness, err := New(client, WithPrefix(prefix), patient)
			require.NoError(t, err)
			defer witness.Close()
			require.Eventually(t, func() bool {
				d, err := witness.Peek(context.Background(), "ann", flight, window)
				return err == nil && d.States()[0].Remaining == 2 && d.States()[1].Remaining == 9-kept
			}, 10*time.Second, time.Millisecond)
			assert.Empty(t, g.limiter.redis.leases.held)
			if policy == FailLocal {
				d, err := g.limiter.inProcessPeek("ann", flight, window)
				require.NoError(t, err)
				assert.Zero(t, d.States()[0].Remaining, "it is in flight here")
				require.NoError(t, g.limiter.Release(context.Background(), o.Decision))
				d, err = g.limiter.inProcessPeek("ann", flight, window)
				require.NoError(t, err)
				assert.Equal(t, []int{2, 7}, []int{d.States()[0].Remaining, d.States()[1].Remaining})
			}
		})
	}
}

func (l *Limiter) inProcessPeek(key string, limits ...Limit) (d Decision, err error) {
	l.inProcess.peek(&d, key, limits)
	return d, nil
}

// next returns the next call at the gate.
func (g gated) next() *gatedCall {
	select {
	case call := <-g.came:
		return call
	case <-time.After(10 * time.Second):
		require.Fail(g, "no call comes")
		return nil
	}
}

// A release whose caller leaves is not lost: the limiter goes on trying.
func TestReleaseGoesOn(t *testing.T) {
	g := newGated(t, 5)
	flight, window := InFlight("f", 1, time.Hour), PerHour("w", 9)
	o := g.allow(context.Background(), "ann", 1, flight, window)
	(<-g.came).pass <- nil
	require.True(t, o.wait(t).Allowed)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error)
	go func() { left <- g.limiter.Release(ctx, o.Decision) }()
	lost := <-g.came
	cancel()
	require.ErrorIs(t, <-left, ErrUnavailable)
	require.NoError(t, g.limiter.Release(context.Background(), o.Decision), "it asks nothing")
	lost.pass <- errors.New("lost")
	again := g.next()
	assert.Contains(t, again.words, "settle")
	again.pass <- nil
	require.Eventually(t, func() bool {
		go func() { (<-g.came).pass <- nil }()
		d, err := g.limiter.Peek(context.Background(), "ann", flight, window)
		return err == nil && d.States()[0].Remaining == 1 && d.States()[1].Remaining == 8
	}, 10*time.Second, 10*time.Millisecond)
}

// hold is the job of a process that admits as many as fit and holds them until it is killed.
type hold struct {
	URL, Prefix string
	Hold        Limit
}

func (h hold) run() int {
	limiter, err := Connect(h.URL, WithPrefix(h.Prefix), patient, OnFailure(FailClosed))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for n := 0; ; n++ {
		d, err := limiter.Allow(context.Background(), "ann", h.Hold)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if !d.Allowed {
			fmt.Println(n)
			select {}
		}
	}
}

// An instance that is killed with 50 of 50 units has them until their leases end, and not for much longer. Before that, no
// other instance is admitted.
func TestKilledWhileHolding(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client(t)
	job := hold{URL: server.URL(), Prefix: "p", Hold: InFlight("f", 50, 2*time.Second)}
	spec, err := json.Marshal(job)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "50\n", line)

	ctx := context.Background()
	limiter, err := Connect(job.URL, WithPrefix(job.Prefix), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	log := string(appendLogKey(nil, job.Prefix, "ann", job.Hold))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		d, err := limiter.Allow(ctx, "ann", job.Hold)
		require.NoError(t, err)
		require.False(t, d.Allowed, "its leases are renewed for as long as it lives")
	}
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	killed := time.Now()

	var all oracle.Log
	newest := int64(0)
	for _, at := range members(t, client, log) {
		all.Admit(at, 1)
		newest = max(newest, at)
	}
	require.Len(t, all.Admitted, 50)
	for n := 0; n < 50; {
		d, err := limiter.Allow(ctx, "ann", job.Hold)
		require.NoError(t, err)
		if !d.Allowed {
			require.Less(t, time.Since(killed), 3*time.Second, "a second after the leases have ended, %d are free", n)
			time.Sleep(time.Millisecond)
			continue
		}
		n++
		at := members(t, client, log)[d.receipt.entry()]
		require.NotZero(t, at)
		all.Admit(at, 1)
	}
	assert.LessOrEqual(t, all.Most(job.Hold.Window.Microseconds()), 50)
}

// panicking is a span with a mistake in it.
type panicking struct {
	trace.Span
	recording bool
}

func (p panicking) IsRecording() bool {
	if !p.recording {
		panic("in IsRecording")
	}
	return true
}

func (panicking) SetAttributes(...attribute.KeyValue) { panic("in SetAttributes") }

// A caller that gets a panic instead of a decision has been charged nothing, and holds nothing.
func TestPanickingSpans(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			flight, window := InFlight("f", 2, time.Hour), PerHour("w", 9)
			remain := func(want ...int) {
				t.Helper()
				d, err := limiter.Peek(context.Background(), "ann", flight, window)
				require.NoError(t, err)
				assert.Equal(t, want, []int{d.States()[0].Remaining, d.States()[1].Remaining})
			}
			for _, span := range []panicking{{recording: true}, {recording: false}} {
				ctx := trace.ContextWithSpan(context.Background(), span)
				assert.Panics(t, func() { limiter.AllowN(ctx, "ann", 2, flight, window) })
				assert.Panics(t, func() { limiter.Wait(ctx, "ann", window, flight) })
				remain(2, 9)
			}
			if limiter.redis != nil {
				assert.Empty(t, limiter.redis.leases.held)
			}
			_, err := limiter.AllowN(context.Background(), "ann", 2, flight, window)
			require.NoError(t, err)
			ctx := trace.ContextWithSpan(context.Background(), panicking{recording: true})
			assert.Panics(t, func() { limiter.Allow(ctx, "ann", flight, window) }, "a denial")
			remain(0, 7)
		})
	}
}

// panicsOnce is a handler of a logger that panics when it is told of something for the first time.
type panicsOnce struct {
	slog.Handler
	done atomic.Bool
}

func (p *panicsOnce) Handle(context.Context, slog.Record) error {
	if !p.done.Swap(true) {
		panic("in Handle")
	}
	return nil
}

// A Release that fails goes on in the background, even if its caller does not hear of the error.
func TestReleaseGoesOnAfterAPanic(t *testing.T) {
	server := redistest.Start(t)
	log := slog.New(&panicsOnce{Handler: slog.NewTextHandler(io.Discard, nil)})
	limiter, err := Connect(server.URL(), patient, OnFailure(FailClosed), WithLogger(log))
	require.NoError(t, err)
	defer limiter.Close()
	ctx, limit := context.Background(), InFlight("f", 1, time.Hour)
	d, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	redistest.Do(t, server.Client(t), "CONFIG", "SET", "min-replicas-to-write", "1") // so Redis rejects it
	assert.Panics(t, func() { limiter.Release(ctx, d) })
	redistest.Do(t, server.Client(t), "CONFIG", "SET", "min-replicas-to-write", "0")
	require.Eventually(t, func() bool {
		d, err := limiter.Peek(ctx, "ann", limit)
		return err == nil && d.Remaining == 1
	}, 20*time.Second, time.Millisecond)
}
