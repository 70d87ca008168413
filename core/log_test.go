package core

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
)

// A log in this process agrees with the oracle also when it is full of hundreds of entries, for which its ring has to
// grow and shrink, however long its window is, whatever requests cost, and whatever they are settled to, be they of one
// moment, or twice.
func TestLogAgreesWithOracle(t *testing.T) {
	const short = math.MaxUint32 * int64(time.Microsecond) / int64(time.Millisecond) * 1000 // the longest of one word
	rapid.Check(t, func(t *rapid.T) {
		store, logs := newClockedInProcess(), map[string]*oracle.Log{}
		stores := map[string]clocked{"in-process": store}
		window := rapid.SampledFrom([]int64{1000, second, short, short + 1000, 86400 * second}).Draw(t, "window")
		most := rapid.SampledFrom([]int{10, 300, 100_000, min(maxMax, math.MaxInt)}).Draw(t, "largest max")
		limits := []Limit{
			{Name: "a", Max: rapid.IntRange(1, most).Draw(t, "max"), Window: time.Duration(window) * time.Microsecond},
			{Name: "b", Max: rapid.IntRange(1, most).Draw(t, "other max"), Window: time.Second},
		}
		for i := range limits {
			ban := rapid.SampledFrom([]int64{0, 0, 1000, window, 3 * window}).Draw(t, "ban")
			limits[i].Ban = time.Duration(ban) * time.Microsecond
		}
		steps := []int64{0, 1, window / 7, window / 2, window - 1, window, window + 1, 3 * window}
		if rapid.Bool().Draw(t, "crowded") {
			steps = []int64{0, 0, 0, 0, 1, window / 100, window / 7}
		}
		costs := rapid.SampledFrom([]string{"one", "small", "any"}).Draw(t, "costs")
		now := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		var admitted []*admission
		more := 0 // entries for what was charged beyond a reservation
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now += rapid.SampledFrom(steps).Draw(t, "step")
			switch do := rapid.IntRange(0, 99).Draw(t, "do"); {
			case do < 30:
				if len(admitted) > 0 {
					a := rapid.SampledFrom(admitted).Draw(t, "of")
					cost := a.actual(t)
					if cost > a.cost {
						more++
					}
					a.settle(t, stores, now, cost)
				}
				continue
			case do < 32:
				store.sweep(now)
				continue
			case do < 33:
				store.reset(t, "ann", limits[0])
				log := at(logs, "ann", limits[0])
				log.Empty()
				forget(admitted, log)
				continue
			}
			from := rapid.IntRange(0, 1).Draw(t, "from")
			asked := limits[from:rapid.IntRange(from+1, 2).Draw(t, "to")]
			cost := 1
			if costs != "one" {
				cost = rapid.IntRange(1, asked[0].Max).Draw(t, "cost")
			}
			if costs == "small" {
				cost = 1 + cost%3
			}
			for _, limit := range asked {
				cost = min(cost, limit.Max)
			}
			allowed := true
			for _, limit := range asked {
				allowed = allowed && at(logs, "ann", limit).Fits(now, limit.Window.Microseconds(), cost, limit.Max)
			}
			charged := &admission{oracle: map[*oracle.Log]int{}, at: now, cost: cost}
			var want []State
			for _, limit := range asked {
				log, window := at(logs, "ann", limit), limit.Window.Microseconds()
				if allowed {
					charged.oracle[log] = log.Admit(now, cost)
				} else {
					log.Deny(now, window, cost, limit.Max, limit.Ban.Microseconds())
				}
				want = append(want, stateOf(log, now, cost, limit))
			}
			got := store.allow(t, now, "ann", cost, asked...)
			require.Equal(t, allowed, got.Allowed)
			require.Equal(t, want, got.States())
			if allowed {
				charged.stores = map[string]Decision{"in-process": got}
				admitted = append(admitted, charged)
			}
			for _, log := range store.logs("ann") {
				require.LessOrEqual(t, log.count, most+more)
				require.LessOrEqual(t, log.count, log.units())
			}
		}
	})
}
