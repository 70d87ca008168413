package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Requests in flight count until they are released, or refunded, once; their window limits stay charged.
func TestInFlight(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			flight, same, window := InFlight("reports", 3, time.Hour), PerHour("reports", 3), PerDay("daily", 100)
			ann := user{t, limiter, "ann", []Limit{flight, window}}
			one, two := ann.allow(1, flight), ann.allow(2, window, flight)
			assert.Equal(t, State{Limit: flight, RetryAfter: time.Second, ResetAfter: time.Hour}, two.State)
			ann.remain(0, 98)
			for range 2 { // the second time, the denial cache could deny it
				denied := ann.allow(1, flight, window)
				assert.False(t, denied.Allowed)
				assert.Equal(t, time.Second, denied.RetryAfter, "nobody knows")
				ann.release(denied)
				ann.remain(0, 98)
			}
			ann.release(two)
			ann.remain(2, 98)
			ann.release(two) // again
			copied := two
			ann.release(copied)
			ann.remain(2, 98)
			three := ann.allow(2, flight, window)
			assert.True(t, three.Allowed)
			ann.refund(three)
			ann.remain(2, 98)
			ann.release(three)
			four := ann.allow(1, flight, window)
			ann.release(four)
			ann.remain(2, 97)
			ann.refund(four)
			ann.remain(2, 98)
			ann.release(one)
			ann.remain(3, 98)

			full := ann.allow(3, same) // of the same name
			assert.True(t, full.Allowed)
			ann.release(full)
			assert.False(t, ann.allow(1, same).Allowed, "a window is not released")
			ann.remain(3, 98)
			both := ann.allow(1, flight)
			lowered, err := limiter.Peek(ctx, "ann", InFlight("reports", 1, time.Hour))
			require.NoError(t, err)
			assert.False(t, lowered.Allowed, "a changed Max applies to what is there")
			require.NoError(t, limiter.Reset(ctx, "ann", flight))
			ann.remain(3, 98)
			ann.release(both)
			ann.remain(3, 98)
			ann.release(ann.allow(3, flight))
			ann.remain(3, 98)

			bob, trial := user{T: t, limiter: limiter, key: "bob"}, user{T: t, limiter: limiter.DryRun(), key: "bob"}
			dry, passed := trial.allow(3, flight), trial.allow(1, flight)
			require.True(t, passed.DryRun)
			bob.release(passed)
			bob.release(Decision{})
			require.NoError(t, limiter.DryRun().OnFailure(FailOpen).Release(ctx, dry))
			last := bob.allow(3, flight)
			assert.True(t, last.Allowed)

			other := newLocal(t)
			assert.ErrorIs(t, other.Release(ctx, last), ErrInvalid)
			limiter.Close()
			assert.ErrorIs(t, limiter.Release(ctx, last), ErrUnavailable)
		})
	}
}

// A window that has no room denies for as long as it says, and the cache knows it; requests in flight never do.
func TestInFlightDenialsAreNotCached(t *testing.T) {
	limiter, client, prefix := onShared(t)
	other := newOver(t, client, WithPrefix(prefix), patient)
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
		limiter := newLocal(t)
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
			first := <-g.Came
			o.wait(t)
			first.Pass()
			release := redistest.Receive(t, g.Came)
			assert.Contains(t, release.Words, "settle")
			release.Pass()
			kept := 2 // since the request goes on
			if policy == FailClosed {
				kept = 0
			}
			witness := newOver(t, client, WithPrefix(prefix), patient)
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

// A release whose caller leaves is not lost: the limiter goes on trying.
func TestReleaseGoesOn(t *testing.T) {
	g := newGated(t, 5)
	flight, window := InFlight("f", 1, time.Hour), PerHour("w", 9)
	o := g.allow(context.Background(), "ann", 1, flight, window)
	(<-g.Came).Pass()
	require.True(t, o.wait(t).Allowed)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error)
	go func() { left <- g.limiter.Release(ctx, o.Decision) }()
	lost := <-g.Came
	cancel()
	require.ErrorIs(t, <-left, ErrUnavailable)
	require.NoError(t, g.limiter.Release(context.Background(), o.Decision), "it asks nothing")
	lost.Fail(errors.New("lost"))
	again := redistest.Receive(t, g.Came)
	assert.Contains(t, again.Words, "settle")
	again.Pass()
	require.Eventually(t, func() bool {
		go func() { (<-g.Came).Pass() }()
		d, err := g.limiter.Peek(context.Background(), "ann", flight, window)
		return err == nil && d.States()[0].Remaining == 1 && d.States()[1].Remaining == 8
	}, 10*time.Second, 10*time.Millisecond)
}
