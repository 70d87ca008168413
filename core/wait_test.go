package core

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// On a clock that stands still while anybody does something, waiters are admitted in the order in which they came, each at the
// very moment at which there is room.
func TestWaitTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
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
		assert.Empty(t, limiter.lines.name, "nothing is kept of a line in which nobody waits")
	})
}

// Who cannot be admitted before the deadline is told at once, at the head of the line and behind it. Who leaves the line, from
// wherever in it, holds nobody up.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
		limit := PerMinute("a", 1)
		_, err = limiter.Allow(t.Context(), "ann", limit)
		require.NoError(t, err)
		start := time.Now()
		wait := func(within time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			_, err := limiter.Wait(ctx, "ann", limit)
			return err
		}
		err = wait(59 * time.Second)
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "room in 1m0s")
		assert.Zero(t, time.Since(start))

		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		leaves := func() {
			_, err := limiter.Wait(ctx, "ann", limit)
			assert.ErrorIs(t, err, context.Canceled)
		}
		all.Go(leaves) // the head
		synctest.Wait()
		assert.ErrorIs(t, wait(59*time.Second), context.DeadlineExceeded, "behind it")
		assert.Zero(t, time.Since(start))
		all.Go(leaves)
		synctest.Wait()
		var admitted time.Duration
		all.Go(func() {
			assert.NoError(t, wait(2*time.Minute))
			admitted = time.Since(start)
		})
		synctest.Wait()
		all.Go(leaves)
		synctest.Wait()
		cancel()
		all.Wait()
		assert.Equal(t, time.Minute, admitted)

		_, err = limiter.Wait(t.Context(), "", limit)
		assert.ErrorIs(t, err, ErrInvalid)
		assert.NoError(t, wait(time.Minute+time.Microsecond), "the deadline is just behind the moment")
		assert.Empty(t, limiter.lines.name)
	})
}

// What is given back is room for who waits, at once; and a limiter that is closed has nobody wait.
func TestWaitIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := NewInProcess()
		require.NoError(t, err)
		defer limiter.Close()
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

// A hundred waiters in two instances, for ten a second: all are admitted as fast as the limit lets them, by the server's clock,
// and Redis is asked little more than once for each.
func TestWaitOnRedis(t *testing.T) {
	server := redistest.Start(t, redistest.AppendOnly...)
	limit := Limit{Name: "a", Max: 10, Window: 200 * time.Millisecond}
	var all sync.WaitGroup
	for range 2 {
		limiter, err := Connect(server.URL(), patient, OnFailure(FailClosed))
		require.NoError(t, err)
		defer limiter.Close()
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
		log.Admit(a.At, 1)
	}
	require.Len(t, log.Admitted, 100)
	assert.Equal(t, 10, log.Most(limit.Window.Microseconds()))
	took := time.Duration(slices.Max(log.Admitted)-slices.Min(log.Admitted)) * time.Microsecond
	assert.GreaterOrEqual(t, took, 9*limit.Window)
	info, err := redistest.Do(t, server.Client(t), "INFO", "commandstats").ToString()
	require.NoError(t, err)
	calls := commandCalls(info)["evalsha"]
	t.Logf("%d calls for 100 admissions, in %v", calls, took)
	assert.Less(t, calls, 400)
}
