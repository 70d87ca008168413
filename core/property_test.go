package core

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
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

// However requests come, are given back and are asked about, and even where the clock steps back or a call has to leave
// something for the next, no log expires under its entries, and an idle one expires.
func TestNoLogExpiresEarly(t *testing.T) {
	redis := newClockedRedis(t)
	// The expiries that the script would set are written down instead.
	text := strings.Replace(redis.onTestClock(t, lua.Decide), "local call, try = redis.call, redis.pcall\n", `
local function call(name, key, ...)
  if name == 'PEXPIRE' then
    redis.call('RPUSH', '`+redis.clock+`-expiries', cjson.encode({ key, ... }))
    return 1
  end
  return redis.call(name, key, ...)
end
local try = call
`, 1)
	require.Contains(t, text, "RPUSH")
	scripts := map[bool]string{false: text, true: withBudget(t, text, 2)}
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		short := rapid.Bool().Draw(r, "short")
		redis.load(t, scripts[short])
		key, expiries, added, now := fmt.Sprint(run), map[string]int64{}, map[string]int64{}, 1000*second
		steps := []int64{0, 1, second / 3, second - 1, second, second + 1, 2 * second, 4 * second}
		steppedBack := rapid.Bool().Draw(r, "steps back")
		if steppedBack {
			steps = append(steps, -1, -second/2, -second, -9*second)
		}
		limits := []Limit{{Name: "a", Max: 6, Window: time.Second}, {Name: "b", Max: 9, Window: 2 * time.Second}}
		ban := rapid.SampledFrom([]int64{0, 0, second / 2, 7 * second}).Draw(r, "ban")
		limits[0].Ban = time.Duration(ban) * time.Microsecond
		common := rapid.Bool().Draw(r, "only common calls")
		var allowed []Decision
		for range rapid.IntRange(1, 40).Draw(r, "batches") {
			now += rapid.SampledFrom(steps).Draw(r, "step")
			for _, limit := range limits { // as the server would
				name := redis.log(key, limit)
				if at, set := expiries[name]; set && at <= now {
					delete(expiries, name)
					redistest.Do(t, redis.client, "UNLINK", name)
				}
			}
			var questions []*question
			for range rapid.IntRange(1, 3).Draw(r, "questions") {
				if common && len(questions) == 1 {
					break
				}
				asked := limits[rapid.IntRange(0, 1).Draw(r, "from"):][:1]
				verb, cost := admit, 1
				if !common && !rapid.Bool().Draw(r, "the common call") {
					cost = rapid.IntRange(1, 3).Draw(r, "cost")
					if rapid.Bool().Draw(r, "both") {
						asked = limits
					}
					if rapid.IntRange(0, 4).Draw(r, "peek") == 0 {
						verb, cost = peek, 1
					}
				}
				q := redis.question(verb, key, cost, asked...)
				q.provisional = !common && rapid.IntRange(0, 5).Draw(r, "provisional") == 0
				if !common && len(allowed) > 0 {
					switch of := rapid.SampledFrom(allowed).Draw(r, "of"); rapid.IntRange(0, 5).Draw(r, "do") {
					case 0:
						q = redis.settling(of, rapid.SampledFrom([]int{0, 0, 1, 2, 5, 9}).Draw(r, "actual"))
					case 1: // as if the limits were of requests in flight, which have no bans
						if limits[0].Ban == 0 {
							q = redis.renewing(of)
						}
					}
				}
				questions = append(questions, q)
			}
			redis.ask(r, now, questions...)
			for _, q := range questions {
				require.NoError(r, q.answer.err)
				if q.verb == admit && redis.decision(r, q).Allowed {
					allowed = append(allowed, redis.decision(r, q))
				}
				admitted := q.verb == admit && redis.decision(r, q).Allowed
				if admitted || q.charges() && q.verb == settle || q.verb == renew {
					for _, limit := range q.limits {
						added[redis.log(q.key, limit)] = now
					}
				}
			}

			pop := redis.client.B().Lpop().Key(redis.clock + "-expiries").Count(99).Build()
			set, err := redis.client.Do(t.Context(), pop).AsStrSlice()
			require.True(t, err == nil || rueidis.IsRedisNil(err))
			for _, text := range set {
				var args []any
				require.NoError(t, json.Unmarshal([]byte(text), &args))
				name, at := args[0].(string), now+int64(asNumber(t, args[1])*1000)
				if len(args) == 2 || args[2] == "GT" && expiries[name] > 0 && at > expiries[name] {
					expiries[name] = at
				}
			}
			for _, limit := range limits {
				at, window := expiries[redis.log(key, limit)], limit.Window.Microseconds()
				newest := int64(math.MinInt64)
				for _, moment := range redis.entries(r, key, limit) {
					newest = max(newest, moment)
				}
				banEnds, banned := redis.banEnds(r, key, limit)
				if newest == math.MinInt64 && !banned {
					delete(expiries, redis.log(key, limit)) // with the log
					continue
				}
				if newest != math.MinInt64 {
					require.GreaterOrEqual(r, at, newest+window+second-1000, "a second of slack, but for what is rounded")
				}
				if banned {
					require.GreaterOrEqual(r, at, banEnds+second-1000)
				}
				if !steppedBack {
					latest := max(added[redis.log(key, limit)]+2*window, banEnds)
					require.LessOrEqual(r, at, latest+second+1000, "rounded to milliseconds")
				}
			}
		}
	})
}

func asNumber(t require.TestingT, word any) float64 {
	if n, is := word.(float64); is {
		return n
	}
	n, err := strconv.ParseFloat(word.(string), 64)
	require.NoError(t, err)
	return n
}

// withBudget returns a script in which a call, whatever its keys, may remove, read or move only so many entries.
func withBudget(t testing.TB, script string, budget int) string {
	const usual = "budget = keys < 128 and 1000 - 7 * keys or 100 "
	require.Equal(t, 1, strings.Count(script, usual))
	return strings.Replace(script, usual, fmt.Sprint("budget = ", budget, " "), 1)
}

// Where the server's clock steps back, again and again, no window of the time that has really passed holds more than
// Max.
func TestClockStepsBack(t *testing.T) {
	redis := newClockedRedis(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		limit := Limit{Name: "steps", Max: rapid.IntRange(1, 6).Draw(t, "max"), Window: time.Second}
		var log oracle.Log
		passed, clock := int64(0), 1000*second
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			pause := rapid.SampledFrom([]int64{0, 1, second / 3, second - 1, second, 2 * second}).Draw(t, "pause")
			step := rapid.SampledFrom([]int64{0, 0, 0, 1, second / 2, second, 3 * second}).Draw(t, "step back")
			passed += pause
			clock += pause - step
			cost := rapid.IntRange(1, min(3, limit.Max)).Draw(t, "cost")
			var questions []*question
			for range rapid.SampledFrom([]int{1, 1, 3}).Draw(t, "requests") {
				questions = append(questions, redis.question(admit, fmt.Sprint(run), cost, limit))
			}
			redis.ask(t, clock, questions...)
			for _, q := range questions {
				d := redis.decision(t, q)
				if d.Allowed {
					log.Admit(passed, cost)
				}
				require.LessOrEqual(t, d.RetryAfter, limit.Window, "nobody waits for the clock to be back where it was")
				require.LessOrEqual(t, d.ResetAfter, limit.Window)
			}
			peeked := redis.peek(t, clock, fmt.Sprint(run), limit)
			require.LessOrEqual(t, peeked.RetryAfter, limit.Window)
			require.LessOrEqual(t, peeked.ResetAfter, limit.Window)
			requireMarks(t, redis.client, redis.log(fmt.Sprint(run), limit))
		}
		require.LessOrEqual(t, log.Most(second), limit.Max)
	})
}
