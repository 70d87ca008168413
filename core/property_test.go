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

// Any arrivals, of any cost and settled to any other, under any limits that change as they go, are answered alike by
// Redis, in-process and the oracle, to the microsecond. The denial cache admits and denies as they do.
func TestStoresAgreeWithOracle(t *testing.T) {
	stores := clockedStores(t)
	run, cached := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		logs := map[string]*oracle.Log{}
		now := int64(0)
		windows := []time.Duration{time.Millisecond, 7 * time.Millisecond, time.Second}
		bans := []time.Duration{0, 0, time.Millisecond, time.Second, 2 * time.Second}
		// Where all ask the same at a cost of one, nothing can change while a log is full, so that what the denial cache
		// says is the whole truth. Otherwise its denials are right, and do not know what others have taken since.
		same := rapid.Bool().Draw(t, "same")
		least, most, several := 1, rapid.SampledFrom([]int{6, 60, min(maxMax, math.MaxInt)}).Draw(t, "largest max"), 3
		var admitted []*admission
		if same {
			least = rapid.IntRange(1, 4).Draw(t, "the max")
			most, several = least, 1
			windows = windows[rapid.IntRange(0, 2).Draw(t, "the window"):][:1]
			bans = bans[rapid.IntRange(0, 4).Draw(t, "the ban"):][:1]
		}
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			// Steps that land on the border of a window, or a microsecond beside it, are where mistakes are.
			step := rapid.SampledFrom([]int64{0, 0, 1, 999, 1000, 1001, 6999, 7000, 7001, 999_999, 1_000_000, 300_000}).Draw(t, "step")
			now += step
			key := canonicalKey(fmt.Sprint(run, rapid.SampledFrom([]string{"a", "b", "}"}).Draw(t, "key")))
			var limits []Limit
			for i := range rapid.IntRange(1, several).Draw(t, "limits") {
				limits = append(limits, Limit{
					Name:   fmt.Sprint("n", i),
					Max:    rapid.IntRange(least, most).Draw(t, "max"),
					Window: rapid.SampledFrom(windows).Draw(t, "window"),
					Ban:    rapid.SampledFrom(bans).Draw(t, "ban"),
				})
				if rapid.IntRange(0, 3).Draw(t, "in flight") == 0 { // with leases that do not end
					limits[i].InFlight, limits[i].Window, limits[i].Ban = true, time.Hour, 0
				}
			}
			cost := rapid.IntRange(1, limits[0].Max).Draw(t, "cost")
			for _, limit := range limits {
				cost = min(cost, limit.Max)
			}
			do := rapid.SampledFrom([]string{
				"allow", "allow", "allow", "allow", "allow", "allow", "settle", "settle", "settle", "release", "peek", "reset",
			}).Draw(t, "do")
			if same || do == "peek" {
				cost = 1
			}
			if do == "reset" {
				for _, store := range stores {
					store.reset(t, key, limits[0])
				}
				log := at(logs, key, limits[0])
				log.Empty()
				forget(admitted, log)
				continue
			}

			if (do == "settle" || do == "release") && len(admitted) > 0 { // perhaps again, and perhaps of what has left
				if a := rapid.SampledFrom(admitted).Draw(t, "of"); do == "settle" {
					a.settle(t, stores, now, a.actual(t))
				} else {
					a.release(t, stores, now)
				}
			}
			if do == "settle" || do == "release" {
				continue
			}

			allowed := true
			for _, limit := range limits {
				log := at(logs, key, limit)
				allowed = allowed && log.Fits(now, limit.Window.Microseconds(), cost, limit.Max)
			}
			charged := &admission{
				stores: map[string]Decision{}, oracle: map[*oracle.Log]int{}, flights: map[*oracle.Log]int{}, at: now, cost: cost,
			}
			var want []State
			for _, limit := range limits {
				log, window := at(logs, key, limit), limit.Window.Microseconds()
				switch {
				case do == "peek":
				case allowed && limit.InFlight:
					charged.flights[log] = log.Admit(now, cost)
				case allowed:
					charged.oracle[log] = log.Admit(now, cost)
				default:
					log.Deny(now, window, cost, limit.Max, limit.Ban.Microseconds())
				}
				want = append(want, stateOf(log, now, cost, limit))
			}

			for name, store := range stores {
				var got Decision
				if do == "peek" {
					got = store.peek(t, now, key, limits...)
				} else {
					got = store.allow(t, now, key, cost, limits...)
				}
				require.Equal(t, allowed, got.Allowed, name)
				charged.stores[name] = got
				if got.Source == SourceDenialCache {
					cached++
				}
				if got.Source != SourceDenialCache || same {
					require.Equal(t, want, got.States(), name)
					continue
				}
				for i, state := range got.States() {
					require.Equal(t, want[i].Limit, state.Limit)
					require.LessOrEqual(t, state.RetryAfter, want[i].RetryAfter, "later than the truth")
					require.LessOrEqual(t, state.ResetAfter, want[i].ResetAfter, "later than the truth")
				}
			}
			if allowed && do == "allow" {
				admitted = append(admitted, charged)
			}
		}
	})
	if !testing.Short() { // a short run makes so few checks that there may be none
		require.Positive(t, cached)
	}
	t.Log(cached, "denials by the cache")
}

// stateOf returns where the oracle says that a limit stands.
func stateOf(log *oracle.Log, now int64, cost int, limit Limit) State {
	window := limit.Window.Microseconds()
	s := State{
		Limit:      limit,
		Remaining:  log.Remaining(now, window, limit.Max),
		RetryAfter: time.Duration(log.Retry(now, window, cost, limit.Max)) * time.Microsecond,
		ResetAfter: time.Duration(log.Reset(now, window)) * time.Microsecond,
		Banned:     log.Banned(now),
	}
	if limit.InFlight {
		s.setInFlightTimes(s.ResetAfter > 0, s.RetryAfter > 0)
	}
	return s
}

// admission is one admission, as each store and each log of the oracle knows it.
type admission struct {
	stores    map[string]Decision
	oracle    map[*oracle.Log]int
	flights   map[*oracle.Log]int // of limits of requests in flight
	at        int64
	cost      int
	forgotten bool // by a reset of one of its logs
	settled   bool
	until     int64 // if it is settled, when the last trace of that leaves the last log
}

// actual draws what an admission has really cost.
func (a *admission) actual(t *rapid.T) int {
	switch rapid.IntRange(0, 3).Draw(t, "settle") {
	case 0:
		return 0
	case 1:
		return rapid.IntRange(0, a.cost).Draw(t, "less")
	}
	most := min(a.cost, min(maxMax, math.MaxInt)/100) // so that all that is added can be counted
	return a.cost + rapid.IntRange(0, 3+most).Draw(t, "more")
}

// settle settles an admission at a moment, as the first or as another time. It does not repeat what an in-process store
// can no longer know.
func (a *admission) settle(t require.TestingT, stores map[string]clocked, now int64, cost int) {
	if a.settled && now >= a.until {
		return
	}
	for name, store := range stores {
		store.settle(t, now, a.stores[name], cost)
	}
	if a.settled {
		return
	}
	a.settled, a.until = true, a.at
	for log, i := range a.oracle {
		log.Settle(i, now, a.cost, cost)
	}
	if cost > a.cost {
		a.until = now
	}
	longest := time.Duration(0)
	for _, d := range a.stores {
		for _, limit := range limitsOf(d.windowStates()) {
			longest = max(longest, limit.Window)
		}
	}
	a.until += longest.Microseconds()
	if a.forgotten && cost <= a.cost {
		a.until = now // there was nothing to give back, and so no trace
	}
}

// release releases an admission, as the first or as another time.
func (a *admission) release(t require.TestingT, stores map[string]clocked, now int64) {
	for name, store := range stores {
		store.release(t, now, a.stores[name])
	}
	for log, i := range a.flights {
		log.Refund(i)
	}
}

// forget notes that a log was reset.
func forget(admitted []*admission, log *oracle.Log) {
	for _, a := range admitted {
		if _, charged := a.oracle[log]; charged {
			a.forgotten, a.until = true, 0
		}
	}
}

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
				if q.verb == admit && redis.decision(r, q).Allowed || q.charges() && q.verb == settle || q.verb == renew {
					for _, limit := range q.limits {
						added[redis.log(q.key, limit)] = now
					}
				}
			}

			set, err := redis.client.Do(t.Context(), redis.client.B().Lpop().Key(redis.clock+"-expiries").Count(99).Build()).AsStrSlice()
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
					require.GreaterOrEqual(r, at, newest+window+second-1000, "with a second of slack, but for what is rounded")
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

// Where the server's clock steps back, again and again, no window of the time that has really passed holds more than Max.
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

func at(logs map[string]*oracle.Log, key string, limit Limit) *oracle.Log {
	id := fmt.Sprint(key, limit.Name, limit.Window, limit.InFlight)
	if logs[id] == nil {
		logs[id] = &oracle.Log{}
	}
	return logs[id]
}
