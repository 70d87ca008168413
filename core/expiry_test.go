package core

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

func TestLogsExpireAfterTheirWindow(t *testing.T) {
	limiter, client, prefix := onShared(t)
	for _, window := range []time.Duration{time.Millisecond, time.Second, 24 * time.Hour, 30 * 365 * 24 * time.Hour} {
		limit := Limit{Name: "w", Max: 2, Window: window}
		_, err := limiter.Allow(context.Background(), "ann", limit)
		require.NoError(t, err)
		ttl, err := redistest.Do(t, client, "PTTL", string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
		require.NoError(t, err)
		assert.Greater(t, ttl, window.Milliseconds(), "a log must not expire under its entries")
		assert.LessOrEqual(t, ttl, window.Milliseconds()+1000)
	}
}

// Where the server's clock stepped back, a log holds entries from later than now, and must not expire before they
// leave.
func TestExpiryNeverMovesBack(t *testing.T) {
	limiter, client, prefix := onShared(t)
	one, two := PerSecond("one", 9), PerSecond("two", 9)
	for _, limits := range [][]Limit{{one}, {one, two}} {
		allow := func() {
			_, err := limiter.Allow(context.Background(), "ann", limits...)
			require.NoError(t, err)
		}
		allow()
		for _, limit := range limits { // as an entry from a minute ahead would have set it
			redistest.Do(t, client, "PEXPIRE", string(appendLogKey(nil, prefix, "ann", limit)), "60000")
		}
		allow()
		for _, limit := range limits {
			ttl, err := redistest.Do(t, client, "PTTL", string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
			require.NoError(t, err)
			assert.Greater(t, ttl, int64(50_000))
		}
	}
}

// A log of all the calls that a question removes expired entries from expires after its newest, also where the question
// is left to be asked again.
func TestExpiryOfQuestionsAskedAgain(t *testing.T) {
	redis := newClockedRedis(t)
	const w = "10000000"
	ttl := func() int64 {
		ms, err := redistest.Do(t, redis.client, "PTTL", redis.prefix+":A").AsInt64()
		require.NoError(t, err)
		return ms - 3_600_000 // see newClockedRedis
	}
	for i, at := range []int64{0, 0, 9 * second, 9 * second} {
		redis.on(t, at, "A", fmt.Sprint("a", i, " one 1 9 "+w))
	}
	require.LessOrEqual(t, ttl(), int64(20_000))
	fill(t, redis.client, redis.prefix+":B", epoch, 3000, "*2")
	redis.on(t, 9*second, "B", "b1 admit 1 1 1 1 0 99999 "+w+" 0")
	atFifteen := fmt.Sprint(3_600_000 + 20_000 - 15_000)
	redistest.Do(t, redis.client, "PEXPIRE", redis.prefix+":A", atFifteen)
	for reply := "-1"; reply == "-1"; {
		reply = redis.on(t, 15*second, "A B", "c1 admit 1 2 1 1 0 9 "+w+" 0 99999 "+w+" 0")
	}
	require.Contains(t, redis.on(t, 15*second, "A", "c2 peek 1 1 9 "+w+" 0"), "[1 6 ")
	assert.Greater(t, ttl(), int64(10_000), "the entry of 15 s counts until 25 s, so the log must not expire before")
}

// A call that arrives after its retry does not make the entries of the retry the newest ones. Otherwise later calls
// would find none expired, and would leave the expiry as the retry has set it, until the log expires under their
// entries.
func TestExpiryAfterALateCall(t *testing.T) {
	const w = "10000000"
	for _, args := range []string{
		"one 1 20 " + w + " admit 1 1 1 2 0 20 " + w + " 0", "admit 1 1 3 1 0 20 " + w + " 0 one 1 20 " + w,
		"admit 1 1 1 1 1 20 " + w + " 0 one 1 20 " + w,
	} {
		redis := newClockedRedis(t)
		redis.on(t, 0, "A A", "late again "+args)
		redis.on(t, 9*second, "A", "b one 1 20 "+w)
		redis.on(t, 9*second+1, "A A", "late "+args)
		// as time sets it
		redistest.Do(t, redis.client, "PEXPIRE", redis.prefix+":A", fmt.Sprint(3_600_000+20_000-18_000))
		redis.on(t, 18*second, "A", "c one 1 20 "+w)
		ttl, err := redistest.Do(t, redis.client, "PTTL", redis.prefix+":A").AsInt64()
		require.NoError(t, err)
		assert.Greater(t, ttl, int64(3_600_000+10_000-1000), "the entry of 18 s counts until 28 s: %s", args)
	}
}

// A call that arrives after its retry, and after the entry of the retry has expired, is charged once.
func TestLateCallAfterTheWindow(t *testing.T) {
	redis := newClockedRedis(t)
	require.Equal(t, "5", redis.on(t, 0, "A", "late again admit 1 1 3 1 0 8 s 0"))
	require.Equal(t, "5", redis.on(t, second, "A", "late admit 1 1 3 1 0 8 s 0"))
	assert.Equal(t, map[string]int64{"*": -2, "late.1*3": epoch + second}, members(t, redis.client, redis.prefix+":A"))
}

// Windows that are longer than the clock is old count what weighs more than one unit like any other.
func TestWindowOfACentury(t *testing.T) {
	limiter, client, prefix := onShared(t)
	ctx := context.Background()
	for _, window := range []time.Duration{30 * 365 * 24 * time.Hour, 60 * 365 * 24 * time.Hour, maxWindow} {
		limit := Limit{Name: "long", Max: 10, Window: window}
		for i, want := range []struct {
			cost      int
			allowed   bool
			remaining int
		}{{4, true, 6}, {4, true, 2}, {4, false, 2}, {1, true, 1}, {1, true, 0}, {1, false, 0}} {
			d, err := limiter.AllowN(ctx, "ann", want.cost, limit)
			require.NoError(t, err)
			assert.Equal(t, want.allowed, d.Allowed, "%v: %d", window, i)
			assert.Equal(t, want.remaining, d.Remaining, "%v: %d", window, i)
			if i == 0 {
				defer func() {
					require.NoError(t, limiter.Refund(ctx, d))
					peeked, err := limiter.Peek(ctx, "ann", limit)
					require.NoError(t, err)
					assert.Equal(t, 4, peeked.Remaining)
					ttl, err := redistest.Do(t, client, "PTTL",
						string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
					require.NoError(t, err)
					assert.Greater(t, ttl, window.Milliseconds())
				}()
			}
		}
	}
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
					require.GreaterOrEqual(r, at, newest+window+second-1000,
						"a second of slack, but for what is rounded")
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
