package core

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInProcessOnItsOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // time stands still but for Sleep
		limiter := newLocal(t)
		ctx, limit := context.Background(), PerSecond("tick", 2)
		for _, row := range []struct {
			sleep   time.Duration
			allowed bool
			retry   time.Duration
		}{
			{0, true, 0},
			{400 * time.Millisecond, true, 600 * time.Millisecond},
			{0, false, 600 * time.Millisecond},
			{600*time.Millisecond - time.Microsecond, false, time.Microsecond},
			{time.Microsecond, true, 400 * time.Millisecond},
			{0, false, 400 * time.Millisecond},
		} {
			time.Sleep(row.sleep)
			d, err := limiter.Allow(ctx, "ann", limit)
			require.NoError(t, err)
			assert.Equal(t, row.allowed, d.Allowed)
			assert.Equal(t, row.retry, d.RetryAfter)
			assert.Equal(t, SourceInProcess, d.Source)
		}
	})
}

// Logs are dropped when nothing in them counts any more, and no sooner.
func TestInProcessDropsIdleLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		ctx := context.Background()
		for i := range 10_000 {
			_, err := limiter.Allow(ctx, fmt.Sprint(i), PerSecond("brief", 5))
			require.NoError(t, err)
		}
		_, err := limiter.Allow(ctx, "stays", PerHour("long", 5))
		require.NoError(t, err)
		assert.Equal(t, 10_001, countLogs(limiter.inProcess))

		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, countLogs(limiter.inProcess))
		d, err := limiter.Peek(ctx, "stays", PerHour("long", 5))
		require.NoError(t, err)
		assert.Equal(t, 4, d.Remaining)
	})
}

func countLogs(p *inProcess) int {
	n := 0
	for _, clients := range p.shards {
		for _, c := range clients.All() {
			c.mu.Lock()
			n += len(c.logs)
			c.mu.Unlock()
		}
	}
	return n
}

// A log never has room for more entries than Max, and gives room back when it empties.
func TestInProcessLogIsBounded(t *testing.T) {
	store := newClockedInProcess()
	limit := Limit{Name: "bounded", Max: 1000, Window: time.Second}
	var l *ring
	for now := range int64(5000) {
		store.allow(t, now*177, "ann", 1, limit)
		l = &store.logs("ann")[0]
		require.LessOrEqual(t, l.count, 1000)
		require.LessOrEqual(t, len(l.times), 1000)
	}
	require.Equal(t, 1000, len(l.times))
	limit.Max = 10
	store.allow(t, minute, "ann", 1, limit)
	assert.LessOrEqual(t, len(l.times), smallRing)
}

// An admission is one entry, whatever it costs, up to the largest Max.
func TestInProcessCost(t *testing.T) {
	limiter := newLocal(t)
	ctx, bytes := context.Background(), PerDay("bytes", min(maxMax, math.MaxInt))
	all, err := limiter.AllowN(ctx, "ann", bytes.Max, bytes)
	require.NoError(t, err)
	require.True(t, all.Allowed)
	assert.Zero(t, all.Remaining)
	d, err := limiter.Allow(ctx, "ann", bytes)
	require.NoError(t, err)
	require.False(t, d.Allowed)
	require.NoError(t, limiter.Refund(ctx, all))
	for i := range 10 {
		d, err = limiter.AllowN(ctx, "ann", bytes.Max/10, bytes)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		assert.Equal(t, bytes.Max-(i+1)*(bytes.Max/10), d.Remaining)
	}
	ann := limiter.inProcess.lock("ann", false)
	defer ann.mu.Unlock()
	assert.Equal(t, 10, ann.logs[0].count)
	assert.LessOrEqual(t, ann.logs[0].capacity(), 32)
}

// Only logs that need details have them.
func TestInProcessDetails(t *testing.T) {
	store, limit := newClockedInProcess(), Limit{Name: "a", Max: 1000, Window: time.Second}
	detailed := func() bool { return store.logs("ann")[0].details != nil }
	allow := func(now int64, cost int) Decision {
		d := store.allow(t, now, "ann", cost, limit)
		require.True(t, d.Allowed)
		return d
	}
	var together []Decision
	for range 3 {
		together = append(together, allow(0, 1))
	}
	store.settle(t, 0, together[2], 0)
	assert.False(t, detailed(), "the last of its moment")
	store.settle(t, 0, together[0], 0)
	assert.True(t, detailed(), "the numbers of the others tell them apart")
	store.settle(t, 0, together[0], 0)
	assert.Equal(t, 1, store.logs("ann")[0].units())
	store.settle(t, 0, together[1], 0)
	assert.Zero(t, store.logs("ann")[0].units())

	for now := range int64(3000) {
		store.settle(t, second+now*5000, allow(second+now*5000, 1), 0) // alone at its moment
		allow(second+now*5000+1, 1)
	}
	assert.False(t, detailed())
	big := allow(17*second, 5)
	assert.True(t, detailed())
	store.settle(t, 17*second, big, 0)
	for now := range int64(2000) {
		allow(17*second+now*5000, 1)
	}
	assert.False(t, detailed(), "no longer needed once the ring has turned")
}

// When the ring has turned, a log keeps details that are needed to tell an admission from one that shared its moment.
func TestInProcessKeepsDetails(t *testing.T) {
	store, limit := newClockedInProcess(), Limit{Name: "a", Max: 4, Window: time.Second}
	var given, kept Decision
	// The last two begin the next turn.
	for _, now := range []int64{0, 1, second / 2, second/2 + 1, second + 1, second + 1} {
		given, kept = kept, store.allow(t, now, "ann", 1, limit)
		require.True(t, kept.Allowed)
	}
	store.settle(t, second+1, given, 0)
	require.Equal(t, 3, store.peek(t, 2*second, "ann", limit).Remaining)
	store.settle(t, second+1, given, 0)
	assert.Equal(t, 3, store.peek(t, 2*second, "ann", limit).Remaining)
	store.settle(t, 2*second, kept, 0)
	assert.Equal(t, 4, store.peek(t, 2*second, "ann", limit).Remaining)
}

// A log that a client no longer has is not kept, nor is its ring.
func TestInProcessKeepsNoOldRing(t *testing.T) {
	store := newClockedInProcess()
	long, short := PerDay("long", 1000), PerDay("short", 1000)
	store.allow(t, 0, "ann", 1000, long)
	store.allow(t, 0, "ann", 1, short)
	ann := store.lock("ann", false)
	ann.mu.Unlock()
	assert.Len(t, ann.logs, 2)
	assert.Zero(t, ann.inline)
	store.reset(t, "ann", long, short)
	for _, log := range ann.logs {
		assert.Nil(t, log.times)
	}
	store.sweep(1)
	assert.Len(t, ann.logs, 2, "they know which admissions they have forgotten")
	store.sweep(86400 * second)
	assert.Empty(t, ann.logs)
	for i := range ann.logs[:2] {
		assert.Zero(t, ann.logs[:2][i])
	}
	assert.True(t, store.allow(t, 86400*second, "ann", 1000, long).Allowed)
}

func TestDenialsKeepNothingInProcess(t *testing.T) {
	store := newClockedInProcess()
	full, roomy := PerMinute("full", 1), PerMinute("roomy", 5)
	store.allow(t, 0, "ann", 1, full)
	for range 10 {
		require.False(t, store.allow(t, 1, "ann", 1, roomy, full).Allowed)
		store.peek(t, 1, "bob", roomy, full)
	}
	assert.Equal(t, 1, countLogs(store.inProcess))
}

// Many goroutines on few keys admit exactly Max each.
func TestInProcessConcurrently(t *testing.T) {
	limiter := newLocal(t)
	burst, total := PerHour("burst", 100), PerDay("total", 150)
	var mu sync.Mutex
	admitted := map[string]int{}
	var all sync.WaitGroup
	for g := range 4 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := range 300 {
				key := fmt.Sprint((g + i) % 3)
				limits := []Limit{burst, total}
				if i%2 == 0 {
					limits = []Limit{total, burst}
				}
				d, err := limiter.Allow(context.Background(), key, limits...)
				if assert.NoError(t, err) && d.Allowed {
					mu.Lock()
					admitted[key]++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	assert.Equal(t, map[string]int{"0": 100, "1": 100, "2": 100}, admitted)
}
