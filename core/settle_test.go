package core

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Each row settles a reservation of 10, and what remains of both limits is what the first statement of a cost leaves of
// them.
func TestSettle(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, few, many := context.Background(), PerHour("few", 20), PerDay("many", 2000)
			for _, row := range []struct {
				costs     []int // that are stated, one after the other
				remaining [2]int
			}{
				{nil, [2]int{10, 1990}}, // a reservation that is never settled stays charged
				{[]int{10}, [2]int{10, 1990}},
				{[]int{3}, [2]int{17, 1997}},
				{[]int{0}, [2]int{20, 2000}},
				{[]int{11}, [2]int{9, 1989}},
				{[]int{25}, [2]int{0, 1975}},
				{[]int{10, 0}, [2]int{10, 1990}},
				{[]int{10, 30}, [2]int{10, 1990}},
				{[]int{3, 3, 0, 30}, [2]int{17, 1997}},
				{[]int{0, 0, 10, 30}, [2]int{20, 2000}},
				{[]int{15, 15, 0, 30}, [2]int{5, 1985}},
			} {
				require.NoError(t, limiter.Reset(ctx, "ann", few, many))
				d, err := limiter.AllowN(ctx, "ann", 10, few, many)
				require.NoError(t, err)
				require.True(t, d.Allowed)
				for _, cost := range row.costs {
					copied := d
					require.NoError(t, limiter.Settle(ctx, copied, cost))
				}
				require.NoError(t, limiter.Settle(ctx, Decision{}, 0))
				d, err = limiter.Peek(ctx, "ann", few, many)
				require.NoError(t, err)
				remaining := [2]int{d.States()[0].Remaining, d.States()[1].Remaining}
				assert.Equal(t, row.remaining, remaining, "%v", row.costs)
			}
		})
	}
}

// Beyond Max no request is admitted until enough has expired, to the microsecond, in both stores.
func TestSettleBeyondMax(t *testing.T) {
	limit := PerMinute("tokens", 100)
	state := func(retry, reset int64) State {
		return State{
			Limit:      limit,
			RetryAfter: time.Duration(retry) * time.Microsecond,
			ResetAfter: time.Duration(reset) * time.Microsecond,
		}
	}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			first := store.allow(t, 0, "ann", 40, limit)
			second := store.allow(t, 10, "ann", 30, limit)
			third := store.allow(t, 20, "ann", 30, limit)
			full := store.allow(t, 21, "ann", 1, limit)
			assert.Equal(t, state(minute-21, minute-1), full.State)
			store.settle(t, 30, second, 130) // 100 more
			store.settle(t, 40, third, 25)   // 5 less
			store.settle(t, 50, second, 130) // again
			for _, row := range []struct {
				at   int64
				cost int
				want State
			}{
				{60, 1, state(minute-30, minute-30)},
				{minute, 1, state(30, 30)},
				{minute + 19, 1, state(11, 11)},
				{minute + 29, 1, state(1, 1)},
			} {
				d := store.allow(t, row.at, "ann", row.cost, limit)
				assert.False(t, d.Allowed)
				if d.Source != SourceDenialCache {
					assert.Equal(t, row.want, d.State, "%d", row.at)
				}
				assert.Equal(t, row.want, store.peek(t, row.at, "ann", limit).State, "%d", row.at)
			}
			d := store.allow(t, minute+30, "ann", 100, limit)
			assert.True(t, d.Allowed)
			store.settle(t, minute+31, first, 41) // it has left long since, and the work has been done
			assert.Equal(t, state(minute-1, minute), store.peek(t, minute+31, "ann", limit).State)
		})
	}
}

// What makes no sense is an error, and charges nothing.
func TestSettleBadInput(t *testing.T) {
	all := limiters(t)
	other := newLocal(t)
	ctx, limit := context.Background(), PerHour("a", 2)
	theirs, err := other.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	for name, limiter := range all {
		t.Run(name, func(t *testing.T) {
			allow := func(l *Limiter) Decision {
				d, err := l.Allow(ctx, "ann", limit)
				require.NoError(t, err)
				return d
			}
			first := allow(limiter)
			allow(limiter)
			denied, passed := allow(limiter), allow(limiter.DryRun())
			require.False(t, denied.Allowed)
			require.True(t, passed.DryRun)
			peeked, err := limiter.Peek(ctx, "bob", limit)
			require.NoError(t, err)
			for _, row := range []struct {
				d    Decision
				cost int
				says string // nothing if it is right
			}{
				{first, -1, "actual cost -1: it must be at least 0, which gives back all that was charged"},
				{denied, -1, "actual cost -1"},
				{denied, 1, "the decision has charged nothing: settle those that Allow, AllowN or Wait have admitted"},
				{peeked, 1, "the decision has charged nothing"},
				{Decision{}, 1, "the decision has charged nothing"},
				{theirs, 1, "the decision is another Limiter's: settle it with the one that made it"},
				{theirs, 0, "the decision is another Limiter's"},
				{denied, 0, ""},
				{peeked, 0, ""},
				{passed, 0, ""},
				{passed, 9, ""}, // a dry run has not charged it
				{admitUncounted([]Limit{limit}), 9, ""},
			} {
				err := limiter.Settle(ctx, row.d, row.cost)
				if row.says == "" {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, ErrInvalid)
					assert.ErrorContains(t, err, row.says)
				}
			}
			if math.MaxInt > maxMax {
				err := limiter.Settle(ctx, first, min(maxMax, math.MaxInt-1)+1)
				assert.ErrorContains(t, err, "it must be at most 999999999999999")
			}
			d, err := limiter.Peek(ctx, "ann", PerHour("a", 5))
			require.NoError(t, err)
			assert.Equal(t, 3, d.Remaining)
			require.NoError(t, limiter.Settle(ctx, first, 2), "no error has settled it")
			require.NoError(t, limiter.OnFailure(FailClosed).Settle(ctx, first, 1), "it is the same")
			d, err = limiter.Peek(ctx, "ann", PerHour("a", 5))
			require.NoError(t, err)
			assert.Equal(t, 2, d.Remaining)
		})
	}
	require.NoError(t, other.Close())
	assert.ErrorIs(t, other.Settle(ctx, theirs, 1), ErrUnavailable)
}

// A log that would hold more than can be counted is not charged, and nor are the others of its decision.
func TestSettleTooMany(t *testing.T) {
	if math.MaxInt < maxMax {
		t.Skip("there are no such numbers")
	}
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, limit, other := context.Background(), PerHour("a", 20), PerDay("b", 100)
			last, err := limiter.Allow(ctx, "ann", other, limit)
			require.NoError(t, err)
			var nine []Decision
			for range 9 {
				d, err := limiter.Allow(ctx, "ann", limit)
				require.NoError(t, err)
				nine = append(nine, d)
			}
			for _, d := range nine {
				require.NoError(t, limiter.Settle(ctx, d, min(maxMax, math.MaxInt)))
			}
			err = limiter.Settle(ctx, last, min(maxMax, math.MaxInt))
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, "the log would hold more units than can be counted")
			d, err := limiter.Peek(ctx, "ann", other, limit)
			require.NoError(t, err)
			assert.Equal(t, 99, d.States()[0].Remaining)
			assert.False(t, d.Allowed)
		})
	}
}

// Where Redis does not answer, Settle says so, and its repetitions charge what was stated first, once.
func TestSettleWithoutRedis(t *testing.T) {
	g := newGated(t, 5, WithTimeout(100*time.Millisecond))
	o := g.allow(context.Background(), "ann", 3, g.limit)
	(<-g.Came).Pass()
	d := o.wait(t).Decision
	require.True(t, d.Allowed)

	failed := make(chan error)
	go func() { failed <- g.limiter.Settle(context.Background(), d, 9) }()
	late := <-g.Came
	assert.Contains(t, late.Words, "settle")
	require.ErrorIs(t, <-failed, ErrUnavailable)
	late.Pass() // it is done after all
	go g.PassAll()
	require.Eventually(t, func() bool {
		return g.limiter.Settle(context.Background(), d, 4) == nil
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, g.limiter.Settle(context.Background(), d, 2))
	limit := g.limit
	limit.Max = 20
	require.Eventually(t, func() bool {
		peeked, err := g.limiter.OnFailure(FailClosed).Peek(context.Background(), "ann", limit)
		return err == nil && assert.Equal(t, 11, peeked.Remaining)
	}, 10*time.Second, time.Millisecond)
}

// However many settle the same decisions at once, and with whatever costs, each is settled once, to one of them.
func TestSettlesAtOnce(t *testing.T) {
	local := newLocal(t)
	client := redistest.Shared(t).Hooked(t, lossy(0.15, time.Millisecond))
	lossy := newOver(t, client, WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed))
	for name, limiter := range map[string]*Limiter{"in-process": local, "redis that loses replies": lossy} {
		t.Run(name, func(t *testing.T) {
			ctx, limit := context.Background(), PerHour("a", 1_000_000)
			var sum atomic.Int64
			var all sync.WaitGroup
			for i := range 200 {
				all.Go(func() {
					d, err := limiter.AllowN(ctx, "ann", 10, limit)
					if !assert.NoError(t, err) {
						return
					}
					cost := []int{0, 5, 10, 15, 40}[i%5]
					sum.Add(int64(cost))
					var again sync.WaitGroup
					for range 3 {
						again.Go(func() { assert.NoError(t, limiter.Settle(ctx, d, cost)) })
					}
					again.Wait()
					assert.NoError(t, limiter.Settle(ctx, d, 100))
					assert.NoError(t, limiter.Refund(ctx, d))
				})
			}
			all.Wait()
			d, err := limiter.Peek(ctx, "ann", limit)
			require.NoError(t, err)
			assert.EqualValues(t, sum.Load(), limit.Max-d.Remaining)
		})
	}
}

// What is given back is there at once for callers of Wait and for the denial cache, and what is charged more is told
// from then on.
func TestSettleWakes(t *testing.T) {
	for name, limiter := range limiters(t) {
		t.Run(name, func(t *testing.T) {
			ctx, limit := context.Background(), PerHour("a", 10)
			d, err := limiter.AllowN(ctx, "ann", 10, limit)
			require.NoError(t, err)
			other, err := limiter.AllowN(ctx, "bob", 10, limit)
			require.NoError(t, err)
			admitted := make(chan error)
			go func() {
				_, err := limiter.Wait(ctx, "ann", limit)
				admitted <- err
			}()
			require.Eventually(t, func() bool {
				limiter.waitQueues.mu.Lock()
				defer limiter.waitQueues.mu.Unlock()
				in := limiter.waitQueues.keys["ann"]
				for _, q := range in {
					return q.woken != nil
				}
				return false
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, limiter.Settle(ctx, d, 9))
			require.NoError(t, <-admitted)

			denied, err := limiter.Allow(ctx, "bob", limit)
			require.NoError(t, err)
			require.False(t, denied.Allowed)
			require.NoError(t, limiter.Settle(ctx, other, 20))
			later, err := limiter.Allow(ctx, "bob", limit)
			require.NoError(t, err)
			assert.False(t, later.Allowed)
			assert.NotEqual(t, SourceDenialCache, later.Source, "what it remembers would be too early")
		})
	}
}

// In-process, a log of requests that are settled holds one entry for each, one more for each that has cost more, and
// what a settled log needs goes when it is no longer needed.
func TestSettleInProcessDetails(t *testing.T) {
	store, limit := newClockedInProcess(), Limit{Name: "a", Max: 1000, Window: time.Second}
	allow := func(now int64, cost int) Decision {
		d := store.allow(t, now, "ann", cost, limit)
		require.True(t, d.Allowed)
		return d
	}
	l := func() ring { return store.logs("ann")[0] }
	store.settle(t, 1, allow(0, 1), 1)
	assert.NotNil(t, l().details, "it is settled")
	for now := range int64(500) {
		d := allow(2*second+now*10_000, 9)
		store.settle(t, 2*second+now*10_000+5, d, []int{0, 1, 5, 9, 11}[now%5])
		assert.LessOrEqual(t, l().count, 120)
		assert.LessOrEqual(t, len(l().details.surcharges), 20)
	}
	for now := range int64(2000) {
		allow(10*second+now*5000, 1)
	}
	assert.Nil(t, l().details)
}

// A settle that is repeated after the sweeper has dropped the log changes nothing, as long as it can be known.
func TestSettleAfterTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		ctx, limit := context.Background(), PerHour("a", 5)
		d, err := limiter.AllowN(ctx, "ann", 5, limit)
		require.NoError(t, err)
		require.NoError(t, limiter.Settle(ctx, d, 0))
		time.Sleep(sweepEvery + time.Second)
		require.NoError(t, limiter.Settle(ctx, d, 9))
		peeked, err := limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, 5, peeked.Remaining)

		time.Sleep(time.Minute)
		d, err = limiter.AllowN(ctx, "ann", 5, limit)
		require.NoError(t, err)
		time.Sleep(2 * time.Hour) // a stream that outlasts its window
		require.NoError(t, limiter.Settle(ctx, d, 9))
		require.NoError(t, limiter.Settle(ctx, d, 9))
		peeked, err = limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, State{Limit: limit, Remaining: 1, ResetAfter: time.Hour}, peeked.State)
	})
}

// A charge beyond Max bans no client, but the next request that is denied because of it does. To give units back lifts
// no ban.
func TestSettleAndBan(t *testing.T) {
	limit := Limit{Name: "tokens", Max: 10, Window: time.Second, Ban: time.Minute}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			first, second := store.allow(t, 0, "ann", 4, limit), store.allow(t, 1, "ann", 4, limit)
			store.settle(t, 2, first, 40)
			require.False(t, store.peek(t, 3, "ann", limit).Banned)
			require.True(t, store.allow(t, 4, "ann", 1, limit).Banned)
			store.settle(t, 5, second, 0)
			require.True(t, store.peek(t, minute+3, "ann", limit).Banned)
			require.Equal(t, 10, store.peek(t, minute+4, "ann", limit).Remaining)
		})
	}
}
