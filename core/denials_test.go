package core

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// full is the decision of a log that has room in retry and is empty in reset.
func full(limit Limit, retry, reset time.Duration) Decision {
	return Decision{Source: SourceRedis, State: State{Limit: limit, RetryAfter: retry, ResetAfter: reset}}
}

// find returns the decision that a cache has, if it has one.
func find(d *denials, hash uint64, now time.Duration, key string, cost int, limits []Limit) (got Decision, found bool) {
	e := d.find(hash, now, key, cost, limits)
	if e != nil {
		e.setDecision(&got, now)
	}
	return got, e != nil
}

// A call goes at 10 s and its reply, that there is room in 2 s, comes at 11 s. The server said so between the two, so
// the log is full until 12 s at least, less what two clocks may drift apart in 2 s; a client that is told at 11 s to
// wait for 2 s is not early.
func TestDenialHoldsUntil(t *testing.T) {
	const ms = time.Millisecond
	limit := PerMinute("login", 5)
	d := newDenials(4, time.Minute)
	d.store(1, d.generation(1), 10*time.Second, 11*time.Second, "ann", 1, []Limit{limit},
		full(limit, 2*time.Second, 50*time.Second), 2*time.Second)
	for _, row := range []struct {
		now          time.Duration
		retry, reset time.Duration // zero when nothing is known
	}{
		{10900 * ms, 2 * time.Second, 50 * time.Second}, // by a clock read before the reply came, and used behind it
		{11 * time.Second, 2 * time.Second, 50 * time.Second},
		{11*time.Second + 1, 2*time.Second - 1, 50*time.Second - 1},
		{11500 * ms, 1500 * ms, 49500 * ms},
		{11998*ms - 1, 1002*ms + 1, 49002*ms + 1},
		{11998 * ms, 0, 0},
		{time.Hour, 0, 0},
	} {
		got, found := find(d, 1, row.now, "ann", 1, []Limit{limit})
		assert.Equal(t, row.retry > 0, found, row.now)
		if found {
			want := full(limit, row.retry, row.reset).State
			assert.Equal(t, want, got.State, row.now)
			assert.Equal(t, []State{want}, got.States())
			assert.Equal(t, SourceDenialCache, got.Source)
			assert.False(t, got.Allowed)
		}
	}
}

func TestDenialIsOfOneQuestion(t *testing.T) {
	limit := PerMinute("login", 5)
	d := newDenials(100, time.Minute)
	for _, cost := range []int{1, 3} {
		retry := time.Duration(cost) * time.Second
		d.store(1, d.generation(1), 0, 0, "ann", cost, []Limit{limit}, full(limit, retry, time.Minute), retry)
	}
	retryOf := func(key string, cost int, limits ...Limit) time.Duration {
		got, _ := find(d, 1, 0, key, cost, limits)
		return got.RetryAfter
	}
	assert.Equal(t, time.Second, retryOf("ann", 1, limit))
	assert.Equal(t, 3*time.Second, retryOf("ann", 3, limit), "each with its own")
	assert.Zero(t, retryOf("ann", 2, limit))
	assert.Zero(t, retryOf("bob", 1, limit), "another key of the same hash")
	assert.Zero(t, retryOf("ann", 1, PerMinute("login", 6)), "a raised Max has room")
	assert.Zero(t, retryOf("ann", 1, PerMinute("login", 4)), "a lowered Max has to wait longer")
	assert.Zero(t, retryOf("ann", 1, PerHour("login", 5)))
	assert.Zero(t, retryOf("ann", 1, PerMinute("search", 5)))
	assert.Zero(t, retryOf("ann", 1, limit, PerHour("search", 5)))
}

// Of several limits some are full. While all of those stay full, what is known of them is true.
func TestDenialOfSeveralLimits(t *testing.T) {
	limits := []Limit{PerSecond("a", 1), PerMinute("b", 1), PerHour("c", 9)}
	states := []State{
		{Limit: limits[0], RetryAfter: time.Second, ResetAfter: time.Second},
		{Limit: limits[1], RetryAfter: 40 * time.Second, ResetAfter: 40 * time.Second},
		{Limit: limits[2], Remaining: 8, ResetAfter: time.Hour},
	}
	d := newDenials(4, time.Minute)
	d.store(1, d.generation(1), 0, 0, "ann", 1, limits, newDecision(false, states, SourceRedis), time.Second)
	got, found := find(d, 1, 600*time.Millisecond, "ann", 1, limits)
	require.True(t, found)
	assert.Equal(t, "b", got.Limit.Name)
	assert.Equal(t, 39400*time.Millisecond, got.RetryAfter)
	assert.Equal(t, []State{
		{Limit: limits[0], RetryAfter: 400 * time.Millisecond, ResetAfter: 400 * time.Millisecond},
		{Limit: limits[1], RetryAfter: 39400 * time.Millisecond, ResetAfter: 39400 * time.Millisecond},
		{Limit: limits[2], Remaining: 8, ResetAfter: time.Hour - 600*time.Millisecond},
	}, got.States())
	_, found = find(d, 1, 999*time.Millisecond, "ann", 1, limits)
	assert.False(t, found, "the first has room, so it is time to ask again")
}

func TestDenialIsHeldNoLongerThanSaid(t *testing.T) {
	limit := PerDay("export", 5)
	d := newDenials(4, time.Second)
	d.store(1, d.generation(1), 0, 0, "ann", 1, []Limit{limit}, full(limit, time.Hour, time.Hour), time.Hour)
	got, found := find(d, 1, 998*time.Millisecond, "ann", 1, []Limit{limit})
	assert.True(t, found)
	assert.Equal(t, time.Hour-998*time.Millisecond, got.RetryAfter, "what it says is true all the same")
	_, found = find(d, 1, 999*time.Millisecond, "ann", 1, []Limit{limit})
	assert.False(t, found)
}

func TestForgottenDenials(t *testing.T) {
	limit, other := PerMinute("login", 5), PerMinute("search", 5)
	d := newDenials(4, time.Minute)
	known := func(key string, limit Limit) bool {
		_, found := find(d, 1, 0, key, 1, []Limit{limit})
		return found
	}
	learn := func(forgotten uint64, key string, limit Limit) {
		d.store(1, forgotten, 0, 0, key, 1, []Limit{limit}, full(limit, time.Second, time.Second), time.Second)
	}
	learn(d.generation(1), "ann", limit)
	learn(d.generation(1), "ann", other)
	learn(d.generation(1), "bob", limit)
	sent := d.generation(1) // a call goes
	d.invalidate(1, "ann")  // and before it is back, the logs are reset
	assert.False(t, known("ann", limit))
	assert.False(t, known("ann", other))
	assert.True(t, known("bob", limit))
	learn(sent, "ann", limit)
	assert.False(t, known("ann", limit), "the reply may be from before the reset")
	learn(d.generation(1), "ann", limit)
	assert.True(t, known("ann", limit), "the reply to a call after it is not")
}

func TestDenialsAreBounded(t *testing.T) {
	limit := PerMinute("login", 5)
	limits := []Limit{limit}
	for _, entries := range []int{1, 5, 1000} {
		d := newDenials(entries, time.Minute)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 20_000 {
			key, hash := fmt.Sprint(i), random.Uint64()
			d.store(hash, 0, 0, 0, key, 1, limits, full(limit, time.Second, time.Second), time.Second)
			_, found := find(d, hash, 0, key, 1, limits)
			require.True(t, found, "the newest has a place")
		}
		held := 0
		for i := range d.sets {
			for j := range d.sets[i].ways {
				if d.sets[i].ways[j].Load() != nil {
					held++
				}
			}
		}
		assert.LessOrEqual(t, held, entries+3)
		assert.GreaterOrEqual(t, held, entries, "and all places are used")
	}

	// The one that would have ended first makes room, and the same question takes the place it had.
	d := newDenials(4, time.Hour)
	for i, seconds := range []int{9, 7, 8, 6, 6, 20} {
		key := fmt.Sprint("key", min(i, 4))
		retry := time.Duration(seconds) * time.Second
		d.store(0, 0, 0, 0, key, 1, limits, full(limit, retry, time.Minute), retry)
	}
	for i, want := range []bool{true, true, true, false, true} {
		_, found := find(d, 0, 0, fmt.Sprint("key", i), 1, limits)
		assert.Equal(t, want, found, i)
	}

	off := newDenials(0, 0)
	off.store(7, off.generation(7), 0, 0, "ann", 1, limits, full(limit, time.Second, time.Second), time.Second)
	off.invalidate(7, "ann")
	_, found := find(off, 7, 0, "ann", 1, limits)
	assert.False(t, found)
}

// With everything at once on few places, what is found is always of the question asked.
func TestDenialsAreSafeForConcurrentUse(t *testing.T) {
	d := newDenials(8, time.Hour)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			for range 5000 {
				n := 1 + random.IntN(16)
				key, hash, limits := fmt.Sprint(n), uint64(n)<<60, []Limit{PerMinute("login", n)}
				switch random.IntN(4) {
				case 0:
					d.store(hash, d.generation(hash), 0, 0, key, n, limits,
						full(limits[0], time.Duration(n), time.Hour),
						time.Duration(n))
				case 1:
					d.invalidate(hash, key)
				default:
					if got, found := find(d, hash, 0, key, n, limits); found {
						assert.Equal(t, full(limits[0], time.Duration(n), time.Hour).State, got.State)
					}
				}
			}
		})
	}
	all.Wait()
}

// On a real server: a denial is answered by the cache, also right after the admission that took the last unit, until a
// Reset of this limiter.
func TestDenialCache(t *testing.T) {
	limiter, _, _ := onShared(t)
	ctx, limits := context.Background(), []Limit{PerHour("b", 1), PerDay("a", 2)}
	for i := range 3 {
		d, err := limiter.Allow(ctx, "ann", limits...)
		require.NoError(t, err)
		assert.Equal(t, []Source{SourceRedis, SourceDenialCache, SourceDenialCache}[i], d.Source)
		assert.Equal(t, i == 0, d.Allowed)
		assert.Equal(t, "b", d.Limit.Name)
	}
	peeked, err := limiter.Peek(ctx, "ann", limits...)
	require.NoError(t, err)
	assert.Equal(t, SourceRedis, peeked.Source, "Peek asks, so that there is a way to see what others see")

	require.NoError(t, limiter.Reset(ctx, "ann", limits[0]))
	d, err := limiter.Allow(ctx, "ann", limits...)
	require.NoError(t, err)
	assert.True(t, d.Allowed, "the Reset is seen")
	d, err = limiter.Allow(ctx, "ann", PerHour("b", 2), PerDay("a", 3))
	require.NoError(t, err)
	assert.True(t, d.Allowed, "a raised Max is seen")
}
