package core

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A refund takes back just what an admission was charged, in all of its limits, once.
func TestRefund(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, few, many := context.Background(), PerHour("few", 4), PerDay("many", 2000)
			ann := user{t, limiter, "ann", []Limit{few, many}}
			one, two, three := ann.allow(1, few), ann.allow(2, few, many), ann.allow(1, few)
			ann.remain(0, 1998)
			ann.refund(two)
			ann.remain(2, 2000)
			ann.refund(two) // again
			copied := two
			ann.refund(copied)
			ann.remain(2, 2000)
			full := ann.allow(2, few)
			ann.remain(0, 2000)
			denied := ann.allow(1, few)
			require.False(t, denied.Allowed)
			ann.refund(denied)
			ann.remain(0, 2000)
			ann.refund(one)
			assert.True(t, ann.allow(1, few).Allowed, "a denial that was remembered is forgotten")
			ann.refund(three)
			ann.refund(full)
			ann.remain(3, 2000)
			big := ann.allow(1500, many)
			ann.refund(big)
			ann.remain(3, 2000)

			peeked, err := limiter.Peek(ctx, "ann", few)
			require.NoError(t, err)
			ann.refund(peeked)
			ann.refund(Decision{})
			ann.remain(3, 2000)
			require.NoError(t, limiter.Reset(ctx, "ann", few))
			ann.refund(one)
			ann.remain(4, 2000)
		})
	}
}

// What was admitted together is given back apart: each request of a question has units of its own.
func TestRefundOfOneEntry(t *testing.T) {
	redis := newClockedRedis(t)
	limit, other := PerHour("a", 20), PerDay("b", 100)
	for _, cost := range []int{1, 2} {
		for _, order := range [][]int{{3, 1, 0, 4, 2}, {0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}} {
			key := fmt.Sprint(cost, order)
			var questions []*question
			for range 5 {
				questions = append(questions, redis.question(admit, key, cost, limit, other))
			}
			redis.ask(t, 0, questions...)
			require.Len(t, redis.entries(t, key, limit), 1)
			for n, place := range order {
				for range 2 {
					redis.settle(t, 0, redis.decision(t, questions[place]), 0)
					for _, limit := range []Limit{limit, other} {
						assert.Equal(t, limit.Max-(4-n)*cost, redis.peek(t, 1, key, limit).Remaining)
						requireMarks(t, redis.client, redis.log(key, limit))
					}
				}
			}
			size, err := redistest.Do(t, redis.client, "EXISTS", redis.log(key, limit), redis.log(key, other)).AsInt64()
			require.NoError(t, err)
			assert.Zero(t, size, "nothing but marks was left")
		}
	}
}

// In-process, on a clock that stands still, so that many are of one moment: each refund takes one, and none twice, for
// as long as its admission could be mistaken for another's.
func TestRefundOfOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		ctx, limit := context.Background(), Limit{Name: "a", Max: 100, Window: 2 * time.Hour} // of two halves, see log
		var admitted []Decision
		for moment := range 50 {
			for range 2 {
				d, err := limiter.Allow(ctx, "ann", limit)
				require.NoError(t, err)
				require.True(t, d.Allowed, moment)
				admitted = append(admitted, d)
			}
			time.Sleep(time.Minute)
		}
		for i := 0; i < len(admitted); i += 4 {
			require.NoError(t, limiter.Refund(ctx, admitted[i]))
			require.NoError(t, limiter.Refund(ctx, admitted[i]))
		}
		d, err := limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, 25, d.Remaining)
		for i := 25; i > 0; i-- {
			_, err := limiter.Allow(ctx, "ann", limit)
			require.NoError(t, err)
		}
		d, err = limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, 70*time.Minute, d.RetryAfter, "one of the first moment is there still")
		time.Sleep(70 * time.Minute)
		d, err = limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, 1, d.Remaining)
		time.Sleep(2 * time.Hour)
		require.NoError(t, limiter.Refund(ctx, admitted[1]), "it has left")
		d, err = limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, 100, d.Remaining)
	})
}

// Refunds leave nothing behind: what a client holds in memory is bounded by Max, however many requests it makes.
func TestRefundsTakeNoMemory(t *testing.T) {
	limiter := newLocal(t)
	ctx, limit := context.Background(), PerDay("a", 10)
	_, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	for range 200_000 {
		d, err := limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		require.NoError(t, limiter.Refund(ctx, d))
	}
	assert.Less(t, held(), before+1<<20)
	d, err := limiter.Peek(ctx, "ann", limit)
	require.NoError(t, err)
	assert.Equal(t, 9, d.Remaining)
}

// A refund that is repeated after the log of its admission was dropped, by the sweeper or by a Reset, takes nothing of
// a later admission, whatever their moments.
func TestRefundAfterTheLog(t *testing.T) {
	for name, dropped := range map[string]func(*Limiter, Limit){
		"sweep":         func(*Limiter, Limit) { time.Sleep(sweepEvery + time.Second) },
		"sweep at once": func(l *Limiter, _ Limit) { l.inProcess.sweep(l.inProcess.now()) },
		"reset":         func(l *Limiter, limit Limit) { l.Reset(context.Background(), "ann", limit) },
		"reset, and a sweep": func(l *Limiter, limit Limit) {
			l.Reset(context.Background(), "ann", limit)
			l.inProcess.sweep(l.inProcess.now())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limiter := newLocal(t)
				ctx, limit := context.Background(), PerHour("a", 5)
				allow := func() Decision {
					d, err := limiter.Allow(ctx, "ann", limit)
					require.NoError(t, err)
					require.True(t, d.Allowed)
					return d
				}
				remain := func() int {
					d, err := limiter.Peek(ctx, "ann", limit)
					require.NoError(t, err)
					return d.Remaining
				}
				for range 3 {
					first := allow()
					if !strings.HasPrefix(name, "reset") {
						require.NoError(t, limiter.Refund(ctx, first))
					}
					dropped(limiter, limit)
					second := allow()
					require.Equal(t, 4, remain())
					require.NoError(t, limiter.Refund(ctx, first))
					require.Equal(t, 4, remain())
					require.NoError(t, limiter.Refund(ctx, second))
					require.Equal(t, 5, remain())
				}
			})
		})
	}
}

// While Redis is away, decisions are refunded where they were made, and no other limiter's are taken.
func TestRefundWhereItWasMade(t *testing.T) {
	server := redistest.Start(t)
	limiter := connectTo(t, server.URL())
	other := newLocal(t)
	ctx, limit := context.Background(), PerHour("a", 5)
	inRedis, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	server.Kill()
	local, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	require.Equal(t, SourceInProcess, local.Source)
	assert.Equal(t, 4, local.Remaining)
	require.NoError(t, limiter.Refund(ctx, local))
	d, err := limiter.Peek(ctx, "ann", limit)
	require.NoError(t, err)
	assert.Equal(t, 5, d.Remaining)
	assert.ErrorIs(t, limiter.Refund(ctx, inRedis), ErrUnavailable)
	open, err := limiter.OnFailure(FailOpen).Allow(ctx, "ann", limit)
	require.NoError(t, err)
	assert.NoError(t, limiter.Refund(ctx, open), "nothing was counted")

	assert.ErrorIs(t, other.Refund(ctx, inRedis), ErrInvalid)
	assert.ErrorIs(t, other.Refund(ctx, local), ErrInvalid)
	again := connectTo(t, server.URL())
	assert.ErrorIs(t, again.Refund(ctx, inRedis), ErrInvalid, "of another limiter on the same Redis")
	assert.ErrorIs(t, again.Refund(ctx, local), ErrInvalid)
	require.NoError(t, other.Close())
	theirs, err := other.Allow(ctx, "ann", limit)
	assert.ErrorIs(t, err, ErrUnavailable)
	assert.NoError(t, other.Refund(ctx, theirs))
}

// With all refunded at once, from everywhere, what is left is what was not.
func TestRefundsAtOnce(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, limit := context.Background(), PerHour("a", 500)
			var kept atomic.Int64
			var all sync.WaitGroup
			for i := range 400 {
				all.Go(func() {
					d, err := limiter.Allow(ctx, "ann", limit)
					if !assert.NoError(t, err) || !assert.True(t, d.Allowed) {
						return
					}
					if i%3 == 0 {
						kept.Add(1)
						return
					}
					assert.NoError(t, limiter.Refund(ctx, d))
					assert.NoError(t, limiter.Refund(ctx, d))
				})
			}
			all.Wait()
			d, err := limiter.Peek(ctx, "ann", limit)
			require.NoError(t, err)
			assert.EqualValues(t, 500-kept.Load(), d.Remaining)
		})
	}
}

// A log that loses its oldest entry to a refund still expires after its newest.
func TestRefundKeepsTheLogAlive(t *testing.T) {
	limiter, client, prefix := onShared(t)
	ctx, limit := context.Background(), PerMinute("a", 9)
	first, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	_, err = limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	log := string(appendLogKey(nil, prefix, "ann", limit))
	redistest.Do(t, client, "PEXPIRE", log, "61000") // as the first one left it
	require.NoError(t, limiter.Refund(ctx, first))
	left, err := redistest.Do(t, client, "PTTL", log).AsInt64()
	require.NoError(t, err)
	assert.Greater(t, left, int64(119_000), fmt.Sprint("two windows from now: ", left))
}
