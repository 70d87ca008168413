package core

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// On a clock that stands still while anything runs, waiters are admitted in the order in which they came, each at the
// very moment at which there is room.
func TestWaitTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		limit := Limit{Name: "a", Max: 2, Window: time.Second}
		start := time.Now()
		var mu sync.Mutex
		var admitted []string
		var all sync.WaitGroup
		for i := range 6 {
			time.Sleep(100 * time.Millisecond)
			all.Go(func() {
				d, err := limiter.Wait(t.Context(), "ann", limit)
				assert.NoError(t, err)
				assert.True(t, d.Allowed)
				mu.Lock()
				defer mu.Unlock()
				admitted = append(admitted, fmt.Sprint(i, " at ", time.Since(start).Milliseconds()))
			})
			synctest.Wait()
		}
		all.Wait()
		assert.Equal(t, []string{"0 at 100", "1 at 200", "2 at 1100", "3 at 1200", "4 at 2100", "5 at 2200"}, admitted)
		assert.Empty(t, limiter.waitQueues.keys, "nothing is kept of a queue in which nobody waits")
	})
}

// A waiter whose context ends leaves the queue then, from wherever in it, and holds nobody up.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		limit := PerMinute("a", 1)
		_, err := limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		start := time.Now()
		canceled, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, row := range []struct {
			within time.Duration // 0: until the context is cancelled
			err    error
			at     time.Duration
		}{
			{0, context.Canceled, 10 * time.Second}, // the first in the queue
			{5 * time.Second, context.DeadlineExceeded, 5 * time.Second},
			{59 * time.Second, context.DeadlineExceeded, 59 * time.Second},
			{0, context.Canceled, 10 * time.Second},
			{60*time.Second + 1, nil, 60 * time.Second},
			{119 * time.Second, context.DeadlineExceeded, 119 * time.Second},
			{0, context.Canceled, 10 * time.Second}, // the last
		} {
			all.Go(func() {
				ctx := canceled
				if row.within > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(t.Context(), row.within)
					defer cancel()
				}
				_, err := limiter.Wait(ctx, "ann", limit)
				assert.ErrorIs(t, err, row.err)
				if row.err != nil {
					assert.ErrorIs(t, err, ErrUnavailable)
				}
				assert.Equal(t, row.at, time.Since(start))
			})
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		cancel()
		all.Wait()
		assert.Empty(t, limiter.waitQueues.keys)

		_, err = limiter.Wait(t.Context(), "", limit)
		assert.ErrorIs(t, err, ErrInvalid)
	})
}

// A deadline before the log has room by itself is no reason to give up: units may be given back before it.
func TestWaitUsesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		limit := PerHour("a", 1)
		held, err := limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		start := time.Now()
		time.AfterFunc(10*time.Second, func() { assert.NoError(t, limiter.Refund(t.Context(), held)) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = limiter.Wait(ctx, "ann", limit)
		assert.NoError(t, err)
		assert.Equal(t, 10*time.Second, time.Since(start))
	})
}

// What another instance gives back is seen within the hold of the denial cache, although nothing wakes the waiter.
func TestWaitSeesOtherInstances(t *testing.T) {
	server := redistest.Start(t)
	connect := func() *Limiter {
		return connectTo(t, server.URL(), patient, OnFailure(FailClosed), WithDenialCache(1000, 10*time.Millisecond))
	}
	here, there, limit := connect(), connect(), PerHour("a", 1)
	held, err := there.Allow(t.Context(), "ann", limit)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	admitted := make(chan error, 1)
	go func() {
		_, err := here.Wait(ctx, "ann", limit)
		admitted <- err
	}()
	time.Sleep(50 * time.Millisecond)
	require.NoError(t, there.Refund(t.Context(), held))
	assert.NoError(t, <-admitted)
}

// What is given back after Redis has denied, and before the waiter knows, wakes the waiter. The denial would hold for
// an hour.
func TestWaitMissesNothing(t *testing.T) {
	limit := PerHour("a", 2)
	for name, giveBack := range map[string]func(*Limiter, Decision) error{
		"refund": func(l *Limiter, d Decision) error { return l.Refund(context.Background(), d) },
		"reset":  func(l *Limiter, _ Decision) error { return l.Reset(context.Background(), "ann", limit) },
	} {
		t.Run(name, func(t *testing.T) {
			var then atomic.Pointer[func()] // what happens, once, between an answer of Redis and its arrival
			client := redistest.Shared(t).Hooked(t,
				func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
					result := send()
					if then := then.Swap(nil); then != nil {
						(*then)()
					}
					return result
				})
			limiter := newOver(t, client, WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed),
				WithDenialCache(1000, time.Hour))
			// of which the cache learns nothing for a cost of 1
			held, err := limiter.AllowN(t.Context(), "ann", 2, limit)
			require.NoError(t, err)
			give := func() { assert.NoError(t, giveBack(limiter, held)) }
			then.Store(&give)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err = limiter.Wait(ctx, "ann", limit)
			assert.NoError(t, err)
			assert.Nil(t, then.Load(), "Redis was asked")
		})
	}
}

// A dry run does not wait behind a waiter that is to be denied, nor does a waiter of another policy.
func TestWaitersOfOneBehavior(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		limit := PerHour("a", 1)
		_, err := limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, l := range []*Limiter{limiter, limiter.OnFailure(FailOpen), limiter.OnFailure(FailLocal)} {
			all.Go(func() { l.Wait(ctx, "ann", limit) })
		}
		synctest.Wait()
		start := time.Now()
		d, err := limiter.DryRun().Wait(t.Context(), "ann", limit)
		assert.NoError(t, err)
		assert.True(t, d.DryRun)
		assert.Zero(t, time.Since(start))
		assert.Len(t, limiter.waitQueues.keys["ann"], 2)
		cancel()
		all.Wait()
	})
}

// While Redis is away, a waiter that may pass uncounted does not wait behind one that is counted.
func TestWaitersOfOnePolicy(t *testing.T) {
	limiter := connectTo(t, "redis://127.0.0.1:1")
	limit := PerHour("a", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	behind := make(chan error)
	go func() {
		_, err := limiter.Wait(ctx, "ann", limit)
		behind <- err
	}()
	time.Sleep(50 * time.Millisecond)
	d, err := limiter.OnFailure(FailOpen).Wait(ctx, "ann", limit)
	require.NoError(t, err)
	assert.Equal(t, SourceFailOpen, d.Source)
	cancel()
	assert.ErrorIs(t, <-behind, context.Canceled)
}

// Only waiters of the key are woken, in all of its queues.
func TestWake(t *testing.T) {
	q := newWaitQueues(config{})
	listen := func(key, limits string) <-chan struct{} {
		ticket, err := q.join(t.Context(), key, waitQueueID{limits: limits})
		require.NoError(t, err)
		return ticket.woken()
	}
	woken := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	a, b, other := listen("ann", "a"), listen("ann", "b"), listen("ann}:", "a")
	q.wake("ann")
	assert.Equal(t, []bool{true, true, false}, []bool{woken(a), woken(b), woken(other)})
	q.wake("nobody")
}

// What is given back is room for who waits, at once; and a limiter that is closed has nobody wait.
func TestWaitIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		limit := PerHour("a", 1)
		held, err := limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		_, err = limiter.Allow(t.Context(), "bob", limit)
		require.NoError(t, err)
		start := time.Now()
		var all sync.WaitGroup
		wait := func(key string) (took time.Duration, err error) {
			_, err = limiter.Wait(t.Context(), key, limit)
			return time.Since(start), err
		}
		all.Go(func() {
			took, err := wait("ann")
			assert.NoError(t, err)
			assert.Equal(t, time.Second, took)
		})
		all.Go(func() {
			time.Sleep(time.Millisecond) // behind
			took, err := wait("ann")
			assert.NoError(t, err)
			assert.Equal(t, 2*time.Second, took)
		})
		all.Go(func() {
			took, err := wait("bob")
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.Equal(t, 3*time.Second, took)
		})
		time.Sleep(time.Second)
		require.NoError(t, limiter.Refund(t.Context(), held))
		time.Sleep(time.Second)
		require.NoError(t, limiter.Reset(t.Context(), "ann", limit))
		time.Sleep(time.Second)
		require.NoError(t, limiter.Close())
		all.Wait()
	})
}

// A hundred waiters in two instances, for ten a second: all are admitted as fast as the limit lets them, by the
// server's clock, and Redis is asked little more than once for each.
func TestWaitOnRedis(t *testing.T) {
	redistest.Long(t)
	server := redistest.Start(t, redistest.AppendOnly...)
	limit := Limit{Name: "a", Max: 10, Window: 200 * time.Millisecond}
	var all sync.WaitGroup
	for range 2 {
		limiter := connectTo(t, server.URL(), patient, OnFailure(FailClosed))
		for range 50 {
			all.Go(func() {
				d, err := limiter.Wait(t.Context(), "ann", limit)
				assert.NoError(t, err)
				assert.True(t, d.Allowed)
			})
		}
	}
	all.Wait()
	var log oracle.Log
	for _, a := range server.Admissions(t)[string(appendLogKey(nil, "exactlimit", "ann", limit))] {
		for range a.Weight {
			log.Admit(a.At, 1)
		}
	}
	require.Len(t, log.Admitted, 100)
	assert.Equal(t, 10, log.Most(limit.Window.Microseconds()))
	at := func(a, b oracle.Admission) int { return cmp.Compare(a.At, b.At) }
	first, last := slices.MinFunc(log.Admitted, at), slices.MaxFunc(log.Admitted, at)
	took := time.Duration(last.At-first.At) * time.Microsecond
	assert.GreaterOrEqual(t, took, 9*limit.Window)
	info, err := redistest.Do(t, server.Client(t), "INFO", "commandstats").ToString()
	require.NoError(t, err)
	calls := commandCalls(info)["evalsha"]
	t.Logf("%d calls for 100 admissions, in %v", calls, took)
	assert.Less(t, calls, 400)
}
