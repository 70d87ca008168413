package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
)

// Any arrivals, of any cost, under any limits that change as they go, are answered alike by Redis, in-process and the
// oracle, to the microsecond.
func TestStoresAgreeWithOracle(t *testing.T) {
	redis, local := newClockedRedis(t), newClockedInProcess()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		logs := map[string]*oracle.Log{}
		now := int64(0)
		windows := []time.Duration{time.Millisecond, 7 * time.Millisecond, time.Second}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			// Steps that land on the border of a window, or a microsecond beside it, are where mistakes are.
			step := rapid.SampledFrom([]int64{0, 0, 1, 999, 1000, 1001, 6999, 7000, 7001, 999_999, 1_000_000, 300_000}).Draw(t, "step")
			now += step
			key := canonicalKey(fmt.Sprint(run, rapid.SampledFrom([]string{"a", "b", "}"}).Draw(t, "key")))
			var limits []Limit
			for i := range rapid.IntRange(1, 3).Draw(t, "limits") {
				limits = append(limits, Limit{
					Name:   fmt.Sprint("n", i),
					Max:    rapid.IntRange(1, 6).Draw(t, "max"),
					Window: rapid.SampledFrom(windows).Draw(t, "window"),
				})
			}
			cost := rapid.IntRange(1, limits[0].Max).Draw(t, "cost")
			for _, limit := range limits {
				cost = min(cost, limit.Max)
			}
			peek := rapid.IntRange(0, 4).Draw(t, "peek") == 0
			if peek {
				cost = 1
			}

			allowed := true
			for _, limit := range limits {
				log := at(logs, key, limit)
				allowed = allowed && log.Fits(now, limit.Window.Microseconds(), cost, limit.Max)
			}
			var want []State
			for _, limit := range limits {
				log, window := at(logs, key, limit), limit.Window.Microseconds()
				if allowed && !peek {
					log.Admit(now, cost)
				}
				want = append(want, State{
					Limit:      limit,
					Remaining:  max(0, limit.Max-log.Count(now, window)),
					RetryAfter: time.Duration(log.Retry(now, window, cost, limit.Max)) * time.Microsecond,
					ResetAfter: time.Duration(log.Reset(now, window)) * time.Microsecond,
				})
			}

			for name, store := range map[string]clocked{"redis": redis, "in-process": local} {
				var got Decision
				if peek {
					got = store.peek(t, now, key, limits...)
				} else {
					got = store.allow(t, now, key, cost, limits...)
				}
				require.Equal(t, allowed, got.Allowed, name)
				require.Equal(t, want, got.States(), name)
			}
		}
	})
}

// Where the server's clock steps back, again and again, no window of the time that has really passed holds more than Max.
func TestClockStepsBack(t *testing.T) {
	redis := newClockedRedis(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		limit := Limit{Name: "steps", Max: rapid.IntRange(1, 4).Draw(t, "max"), Window: time.Second}
		var log oracle.Log
		passed, clock := int64(0), 1000*second
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			pause := rapid.SampledFrom([]int64{0, 1, second / 3, second - 1, second, 2 * second}).Draw(t, "pause")
			step := rapid.SampledFrom([]int64{0, 0, 0, 1, second / 2, second, 3 * second}).Draw(t, "step back")
			passed += pause
			clock += pause - step
			if redis.allow(t, clock, fmt.Sprint(run), 1, limit).Allowed {
				log.Admit(passed, 1)
			}
		}
		require.LessOrEqual(t, log.Most(second), limit.Max)
	})
}

func at(logs map[string]*oracle.Log, key string, limit Limit) *oracle.Log {
	id := fmt.Sprint(key, limit.Name, limit.Window)
	if logs[id] == nil {
		logs[id] = &oracle.Log{}
	}
	return logs[id]
}
