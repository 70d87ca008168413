package core

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// While two calls are in flight, questions gather, and go in one call: equal ones as one question, others beside them.
func TestQuestionsShareCalls(t *testing.T) {
	g := newGated(t, 5)
	lead, calls := g.lead()
	var ann, others []*outcome
	for range 7 {
		ann = append(ann, g.allow(context.Background(), "ann", 1, g.limit))
	}
	others = append(others,
		g.allow(context.Background(), "bob", 1, g.limit), g.allow(context.Background(), "ann", 1, PerDay("day", 2)),
		g.allow(context.Background(), "bob", 2, g.limit, PerDay("day", 2)))
	time.Sleep(50 * time.Millisecond) // until all are in the queue; if some are not, they go in a call of their own
	calls[0].Pass()
	go g.PassAll()
	admitted, remaining := 0, map[int]bool{}
	for _, o := range ann {
		require.NoError(t, o.wait(t).err)
		if o.Allowed {
			admitted++
			assert.False(t, remaining[o.Remaining], "each has its own place")
			remaining[o.Remaining] = true
		} else {
			assert.Positive(t, o.RetryAfter)
		}
	}
	assert.Equal(t, 5, admitted)
	calls[1].Pass()
	for _, o := range slices.Concat(others, lead) {
		require.NoError(t, o.wait(t).err)
		assert.True(t, o.Allowed)
	}
	assert.Equal(t, 3, g.charged("bob"))
}

// Row 17 of "What got through": concurrent large costs admit what fits, and a queue that we make is no outage. Redis is
// a process of its own, which a busy machine may not run for longer than the timeout. So if requests are decided
// without it, another client must have waited for it too, and the test begins anew.
func TestConcurrentLargeCosts(t *testing.T) {
	server := redistest.Start(t)
	limiter := connectTo(t, server.URL(), silent)
	limit, other := PerHour("bytes", 100_000), server.Client(t)
	for attempt := range 50 {
		var admitted, elsewhere atomic.Int64
		var all, pings sync.WaitGroup
		done, slowest := make(chan struct{}), time.Duration(0)
		pings.Go(func() {
			for {
				begun := time.Now()
				redistest.Do(t, other, "PING")
				slowest = max(slowest, time.Since(begun))
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		for range 400 {
			all.Go(func() {
				d, err := limiter.AllowN(context.Background(), fmt.Sprint("ann", attempt), 1000, limit)
				assert.NoError(t, err)
				if d.Source == SourceInProcess {
					elsewhere.Add(1)
				} else if d.Allowed {
					admitted.Add(1000)
				}
			})
		}
		all.Wait()
		close(done)
		pings.Wait()
		assert.LessOrEqual(t, admitted.Load(), int64(100_000))
		if elsewhere.Load() == 0 {
			assert.EqualValues(t, 100_000, admitted.Load())
			return
		}
		require.Greater(t, slowest, 50*time.Millisecond,
			"Redis answers another client, and %d requests are decided without it", elsewhere.Load())
	}
	t.Fatal("this machine is too busy")
}

// Row 27 of "What got through": where units are given back, no instance denies while there is room.
func TestProvisionalDenialsAreNotCached(t *testing.T) {
	url, prefix := redistest.Shared(t).URL(), redistest.Prefix()
	var limiters [2]*Limiter
	for i := range limiters {
		limiter := connectTo(t, url, WithPrefix(prefix), patient, OnFailure(FailClosed))
		limiters[i] = limiter
	}
	a, b := limiters[0], limiters[1]
	ctx, limit := context.Background(), PerHour("login", 1)
	for range 3 {
		d, err := a.Provisional().Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		for range 2 {
			denied, err := b.Allow(ctx, "ann", limit)
			require.NoError(t, err)
			require.False(t, denied.Allowed)
			assert.Positive(t, denied.RetryAfter)
			assert.Equal(t, SourceRedis, denied.Source)
		}
		require.NoError(t, a.Refund(ctx, d))
		admitted, err := b.Provisional().Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, admitted.Allowed, "there is room again")
		require.NoError(t, b.Refund(ctx, admitted))
	}
	other, err := b.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	assert.ErrorIs(t, a.Refund(ctx, other), ErrInvalid, "the decision is another limiter's")
}

// A call that charges is sent again only while it can be known what an earlier attempt has charged, and to give back
// one of many that share an entry is the work of many.
func TestSettlesInABatch(t *testing.T) {
	redis := newClockedRedis(t)
	d := redis.allow(t, 0, "ann", 5, PerSecond("a", 9), PerMinute("b", 9))
	less, more := redis.settling(d, 2), redis.settling(d, 9)
	redis.batch.Encode([]*question{less})
	assert.Greater(t, redis.batch.RetryFor(), time.Hour)
	redis.batch.Encode([]*question{less, more})
	assert.Equal(t, time.Second/2, redis.batch.RetryFor())
	less.receipt.granted, more.receipt.granted = 100, 100
	assert.Equal(t, []int{52, 2}, []int{less.Size(), more.Size()})
}
