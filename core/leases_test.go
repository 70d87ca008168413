package core

import (
	"bufio"
	"context"
	"fmt"
	"math"
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
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

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

// On a clock of the test's: what is held is renewed every third of its lease or somewhat earlier, also after an outage,
// with few calls, and only until it ends; and nothing runs while nothing is held.
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

// On a clock of the test's: one server hangs, with many leases of which each renewal takes longer than the lease before
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

// On a clock of the test's, the script and a naive log agree on any admissions, releases and renewals, whatever has
// expired or was released before. Nothing comes back, and no more than Max are ever in flight.
func TestLeasesAgreeWithOracle(t *testing.T) {
	redis, run := newClockedRedis(t), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		key, now, log := fmt.Sprint(run), int64(0), &oracle.Log{}
		limit, window := InFlight("f", rapid.IntRange(1, 6).Draw(t, "max"), time.Second), time.Second.Microseconds()
		var admitted []Decision // number n is the oracle's admission n
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			steps := []int64{0, 0, 1, window / 3, window/3 + 1, window - 1, window, window + 1}
			now += rapid.SampledFrom(steps).Draw(t, "step")
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

// holderEnv makes this test binary a process that admits as many as fit and holds them until it is killed. Its value is
// the URL of a Redis.
const holderEnv = "EXACTLIMIT_TEST_HOLDER"

// heldByProcess is what such a process holds.
var heldByProcess = InFlight("f", 50, 2*time.Second)

func hold(url string) error {
	limiter, err := Connect(url, patient, OnFailure(FailClosed))
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		d, err := limiter.Allow(context.Background(), "ann", heldByProcess)
		if err != nil {
			return err
		}
		if !d.Allowed {
			fmt.Println(n)
			select {}
		}
	}
}

// An instance that is killed with 50 of 50 units has them until their leases end, and not for much longer. Before that,
// no other instance is admitted.
func TestKilledWhileHolding(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client, limit := server.Client(t), heldByProcess
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderEnv+"="+server.URL())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "50\n", line)

	ctx := context.Background()
	limiter := connectTo(t, server.URL(), patient, OnFailure(FailClosed))
	log := string(appendLogKey(nil, "exactlimit", "ann", limit))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		d, err := limiter.Allow(ctx, "ann", limit)
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
		d, err := limiter.Allow(ctx, "ann", limit)
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
	assert.LessOrEqual(t, all.Most(limit.Window.Microseconds()), 50)
}
