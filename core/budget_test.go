package core

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// fill adds so many entries to a log, a microsecond apart, whose members end alike.
func fill(t *testing.T, client rueidis.Client, log string, from, n int, end string) {
	const script = `
local weight = (string.match(ARGV[4], '%d+') or 1) + 0
local entries = {}
for j = ARGV[2], ARGV[3] - 1 do
  entries[#entries + 1] = string.format('%.0f', ARGV[1] + j)
  entries[#entries + 1] = 'x' .. j .. ARGV[4]
end
redis.call('ZADD', KEYS[1], unpack(entries))
if weight > 1 then
  redis.call('ZADD', KEYS[1], 'INCR', -(weight - 1) * #entries / 2, '*')
end`
	const chunk = 2000 // a script that takes long would be an outage for others
	var commands []rueidis.Completed
	for first := 0; first < n; first += chunk {
		commands = append(commands, client.B().Eval().Script(script).Numkeys(1).Key(log).
			Arg(fmt.Sprint(from), fmt.Sprint(first), fmt.Sprint(min(first+chunk, n)), end).Build())
	}
	// or the last would have waited for all others when its time is up
	for commands := range slices.Chunk(commands, 10) {
		for _, result := range client.DoMulti(context.Background(), commands...) {
			require.True(t, result.Error() == nil || rueidis.IsRedisNil(result.Error()), result.Error())
		}
	}
}

// No call removes more than a thousand entries, however many have expired. It answers as if all were removed, or leaves
// the question to be asked again if it cannot know.
func TestManyExpiredEntries(t *testing.T) {
	redistest.Long(t)
	redis := newClockedRedis(t)
	const n, most = 1_000_000, 993 // with one key
	now := minute + n
	log := redis.prefix + ":A"
	card := func() int64 {
		size, err := redistest.Do(t, redis.client, "ZCARD", log).AsInt64()
		require.NoError(t, err)
		return size
	}
	extra := func() int64 {
		score, err := redistest.Do(t, redis.client, "ZSCORE", log, "*").AsFloat64()
		require.NoError(t, err)
		return -int64(score)
	}

	// All weigh one, so it is known how many are live.
	fill(t, redis.client, log, epoch, n, "")
	redistest.Do(t, redis.client, "ZADD", log, fmt.Sprint(epoch+now-9), "live")
	for _, row := range []struct{ logs, args, reply string }{
		{"A", "c1 peek 1 1 10 m 0", "[1 9 0 59999991]"},
		{"A", "c2 one 1 10 m", "8"},
		{"A A", "c3 one 1 10 m peek 1 1 4 m 0", "7 [1 1 0 60000000]"},
		{"A A A", "c3 peek 1 1 3 m 0 one 1 2 m one 1 1 m",
			"[0 0 59999991 60000000] [0 -1 60000000 60000000] [0 -2 60000000 60000000]"},
		{"A", "c4 admit 1 1 9 1 0 10 m 0", "[7 0 59999991 60000000]"}, // seven units in one entry,
	} {
		before := card()
		require.Equal(t, row.reply, redis.on(t, now, row.logs, row.args), "%+v", row)
		assert.GreaterOrEqual(t, card(), before-most, "%+v", row)
	}
	// and so no longer. And the questions of one call share what it may do.
	before := card()
	assert.Equal(t, "-1 -1 -1", redis.on(t, now, "A A A", "c5 one 2 10 m peek 1 1 10 m 0"))
	assert.Equal(t, before-most+14, card(), "with three keys")

	// When all are expired the log goes whole, and the server frees it in the background.
	assert.Equal(t, "9", redis.on(t, now+minute, "A", "d1 one 1 10 m"))
	assert.EqualValues(t, 1, card())

	// The weights of what has expired have to be read.
	redis.on(t, now, "A", "d2 reset 1")
	const few = n / 10
	fill(t, redis.client, log, epoch, few, "*3")
	redistest.Do(t, redis.client, "ZADD", log, fmt.Sprint(epoch+now-9), "live")
	calls, reply := 0, "-1"
	for ; reply == "-1"; calls++ {
		before := card()
		reply = redis.on(t, now, "A", "d3 admit 1 1 2 4 0 10 m 0")
		if reply == "-1" {
			require.Equal(t, before-most, card())
			require.Equal(t, 2*(card()-2), extra())
		}
	}
	assert.Equal(t, "[2 1 60000000 60000000]", reply)
	assert.Equal(t, few/most+1, calls)
	requireMarks(t, redis.client, log)
}

// A batch asked again is answered from what it has charged, even where so much has expired meanwhile that not all of it
// can be removed in one call.
func TestReplayBehindManyExpired(t *testing.T) {
	redis := newClockedRedis(t)
	fill(t, redis.client, redis.prefix+":A", epoch, 3000, "*2")
	assert.Equal(t, "7", redis.on(t, minute-1, "A", "c1 admit 1 1 1 3 0 6010 m 0"), "all are there still")
	assert.Equal(t, "-1", redis.on(t, minute+10_000, "A", "c2 admit 1 1 1 3 0 6010 m 0"))
	again := redis.on(t, minute+10_000, "A", "c1 again admit 1 1 1 3 0 6010 m 0")
	assert.NotEqual(t, "-1", again, "it would be asked anew, under another id, and charged twice")
	assert.Regexp(t, `^\[1 `, again)
	assert.EqualValues(t, minute-1+epoch, members(t, redis.client, redis.prefix+":A")["c1.1*3"])
	for again = "-1"; again == "-1"; {
		again = redis.on(t, minute+10_000, "A", "c3 peek 1 1 6010 m 0")
	}
	assert.Equal(t, "[1 6007 0 59989999]", again, "charged once")
}

// A cost that is charged behind expired entries that the call could not remove waits for live ones.
func TestCostBehindManyExpired(t *testing.T) {
	redis := newClockedRedis(t)
	fill(t, redis.client, redis.prefix+":A", epoch, 3000, "")
	fill(t, redis.client, redis.prefix+":A", epoch+30_000_000, 5, "y")
	assert.Equal(t, "[1 0 29995000 60000000]", redis.on(t, minute+5000, "A", "c1 admit 1 1 1 5 0 10 m 0"))
}

// A refund makes an entry for each of the others of its entry, so one call does not do many of them.
func TestManyRefundsInOneCall(t *testing.T) {
	redis := newClockedRedis(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		require.Equal(t, "[400 3200 0 60000000 3200 0 1000000]",
			redis.on(t, 0, id+" "+id+"2", id+" admit 1 2 400 2 0 4000 m 0 4000 s 0"))
	}
	refund := func(id string) string { return " settle 2 " + id + ".1 400 7 2 0 m s" }
	logs := "a a2 b b2 c c2 d d2"
	all := refund("a") + refund("b") + refund("c") + refund("d")
	assert.Equal(t, "4 4 -1 -1", redis.on(t, 0, logs, "e"+all))
	assert.Equal(t, "0 0 4 4", redis.on(t, 0, logs, "f"+all))
	assert.Equal(t, "0 0 0 0", redis.on(t, 0, logs, "g"+all))
	for _, log := range strings.Fields(logs) {
		assert.Equal(t, "[1 3202 0 60000000]", redis.on(t, 0, log, "h peek 1 1 4000 m 0"), log)
		requireMarks(t, redis.client, redis.prefix+":"+log)
	}
}

// RetryAfter of a log of many weights is the moment at which the request fits, and a log of more than a call may read
// says a moment at which it still does not.
func TestRetryOfWeights(t *testing.T) {
	redis := newClockedRedis(t)
	fill(t, redis.client, redis.prefix+":A", epoch, 900, "*5")
	for _, cost := range []int{1, 4, 5, 6, 20, 21, 1000, 2500, 4499, 4500} {
		want := int64((cost+4)/5-1) + minute - 1000
		reply := redis.on(t, 1000, "A", fmt.Sprintf("c admit 1 1 1 %d 0 4500 m 0", cost))
		assert.Equal(t, fmt.Sprintf("[0 0 %d %d]", want, minute-101), reply, cost)
	}
	fill(t, redis.client, redis.prefix+":B", epoch, 5000, "*5")
	reply := redis.on(t, 6000, "B", "c admit 1 1 1 25000 0 25000 m 0")
	var granted, remaining, retry, reset int64
	_, err := fmt.Sscanf(reply, "[%d %d %d %d]", &granted, &remaining, &retry, &reset)
	require.NoError(t, err, reply)
	assert.LessOrEqual(t, retry, minute-6000+4999)
	assert.GreaterOrEqual(t, retry, minute-6000+992, "what so many entries as a call may read tell")
	assert.Equal(t, minute-6000+4999, reset)
}

// Many questions of one call that wait for several weights are all told when they have room: each pays only for what it
// reads.
func TestRetryOfWeightsInOneCall(t *testing.T) {
	redis := newClockedRedis(t)
	const n = 16
	var logs, want []string
	for i := range n {
		log := fmt.Sprint("log", i)
		fill(t, redis.client, redis.prefix+":"+log, epoch+i, 40, "*2")
		logs = append(logs, log)
		first := minute - 1000 + int64(i)
		want = append(want, fmt.Sprintf("[0 0 %d %d]", first+9, first+39)) // ten entries have to expire
	}
	reply := redis.on(t, 1000, strings.Join(logs, " "), fmt.Sprintf("c admit %d 1 1 20 0 80 m 0", n))
	assert.Equal(t, strings.Join(want, " "), reply)
}

// withBudget returns a script in which a call, whatever its keys, may remove, read or move only so many entries.
func withBudget(t testing.TB, script string, budget int) string {
	const usual = "budget = keys < 128 and 1000 - 7 * keys or 100 "
	require.Equal(t, 1, strings.Count(script, usual))
	return strings.Replace(script, usual, fmt.Sprint("budget = ", budget, " "), 1)
}
