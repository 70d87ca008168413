package core

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// A call whose reply was lost is sent again: it grants what it granted, and charges nothing twice.
func TestRetry(t *testing.T) {
	redis := newClockedRedis(t)
	short, long := Limit{Name: "short", Max: 3, Window: time.Second}, Limit{Name: "long", Max: 3, Window: time.Minute}
	timeline := []struct {
		at      int64
		cost    int
		limits  []Limit
		allowed bool
		remain  int // under the last of limits
	}{
		{at: 0, cost: 1, limits: []Limit{long}, allowed: true, remain: 2},          // with room left
		{at: 9, cost: 2, limits: []Limit{short, long}, allowed: true, remain: 0},   // where its own entries leave none
		{at: 10, cost: 1, limits: []Limit{long}, remain: 0},                        // a denial charges nothing either
		{at: minute, cost: 1, limits: []Limit{long}, allowed: true, remain: 0},     // the first one has expired
		{at: minute + 8, cost: 2, limits: []Limit{long}, remain: 0},                // the second one has not
		{at: minute + 9, cost: 2, limits: []Limit{long}, allowed: true, remain: 0}, // now it has
	}
	for _, row := range timeline {
		q := redis.question(admit, "ann", row.cost, row.limits...)
		redis.askTwice(t, row.at, row.at, q)
		states := redis.decision(t, q).States()
		assert.Equal(t, row.allowed, redis.decision(t, q).Allowed, "%+v", row)
		assert.Equal(t, row.remain, states[len(states)-1].Remaining, "%+v", row)
		requireMarks(t, redis.client, redis.log("ann", long))
	}
}

// When a call that granted some of its requests is sent again, it grants the same ones.
func TestRetryOfABatch(t *testing.T) {
	redis := newClockedRedis(t)
	limit, other := Limit{Name: "batch", Max: 5, Window: time.Minute}, PerMinute("other", 9)
	var questions []*question
	for range 4 {
		questions = append(questions, redis.question(admit, "ann", 2, limit, other))
	}
	redis.askTwice(t, 0, 7, questions...)
	for i, q := range questions {
		d := redis.decision(t, q)
		assert.Equal(t, i < 2, d.Allowed, i)
		assert.Equal(t, []int{3, 1, 1, 1}[i], d.States()[0].Remaining)
	}
	assert.Len(t, redis.entries(t, "ann", limit), 1, "one entry for both")
	requireMarks(t, redis.client, redis.log("ann", limit))
	requireMarks(t, redis.client, redis.log("ann", other))

	questions = questions[:0]
	for range 3 {
		questions = append(questions, redis.question(admit, "bob", 1, PerSecond("b", 2)))
	}
	redis.askTwice(t, 0, 2*second, questions...) // sent again when what it granted has expired: as never sent
	assert.True(t, redis.decision(t, questions[1]).Allowed)
	assert.False(t, redis.decision(t, questions[2]).Allowed)
}

// One call answers questions of all kinds, each as if it had been asked alone.
func TestMixedBatch(t *testing.T) {
	redis := newClockedRedis(t)
	plain, wide := PerMinute("plain", 3), Limit{Name: "wide", Max: maxMax, Window: time.Hour}
	redistest.Do(t, redis.client, "SET", redis.log("bad", plain), "no log")
	paid := redis.allow(t, 0, "ann", 2, plain)
	bad := redis.question(admit, "bad", 1, plain)
	both := redis.question(admit, "bad", 1, wide, plain)
	questions := []*question{
		redis.question(admit, "bob", 1, plain), bad, redis.question(admit, "bob", 1, plain), redis.question(admit, "carol", 1, plain), both,
		redis.question(admit, "dora", maxMax, wide), redis.question(peek, "ann", 1, plain), redis.refunding(paid),
		redis.question(admit, "ann", 3, plain),
	}
	redis.ask(t, 1, questions...)
	assert.ErrorContains(t, bad.answer.err, "WRONGTYPE")
	assert.ErrorContains(t, both.answer.err, "WRONGTYPE")
	assert.Empty(t, redis.entries(t, "bad", wide), "a question that fails is not charged anywhere")
	assert.Equal(t, 2, questions[0].decision().Remaining)
	assert.Equal(t, 1, questions[2].decision().Remaining)
	assert.Equal(t, 2, questions[3].decision().Remaining)
	assert.Equal(t, 0, questions[5].decision().Remaining)
	assert.Equal(t, map[string]int64{questions[5].answer.id + "." + fmt.Sprint(questions[5].answer.number) + fmt.Sprint("*", maxMax): 1},
		redis.entries(t, "dora", wide), "a cost of any size is one entry, with all its digits")
	for _, key := range []string{"ann", "bob", "carol"} {
		requireMarks(t, redis.client, redis.log(key, plain))
	}
}

// A log of more expired entries than one call may remove is counted exactly at once, or after some calls if they have weights.
func TestManyExpiredEntries(t *testing.T) {
	redis := newClockedRedis(t)
	limit := Limit{Name: "a", Max: 1_000_000, Window: time.Minute}
	for _, weight := range []string{"", "*7"} {
		key := "key" + weight
		log := redis.log(key, limit)
		for first := 0; first < 5000; first += 1000 {
			words := []string{"ZADD", log}
			for i := range 1000 {
				words = append(words, fmt.Sprint(epoch+int64(first+i)), fmt.Sprint("e", first+i, weight))
			}
			redistest.Do(t, redis.client, words...)
		}
		if weight != "" {
			redistest.Do(t, redis.client, "ZADD", log, "-30000", "*")
		}
		redis.allow(t, second, key, 1, limit)
		q := redis.question(admit, key, 1, limit)
		*redis.moment = minute + 4500
		keys, args := redis.batch.Encode([]*question{q})
		again, err := redis.batch.Decode(redis.call(t, *redis.moment, keys, args))
		require.NoError(t, err)
		assert.Equal(t, weight != "", len(again) > 0)
		size, err := redistest.Do(t, redis.client, "ZCARD", log).AsInt64()
		require.NoError(t, err)
		assert.GreaterOrEqual(t, size, int64(4000), "one call removes a thousand")
		redis.ask(t, *redis.moment, again...)
		units := 499 // of those with a later moment
		if weight != "" {
			units *= 7
		}
		assert.Equal(t, limit.Max-units-1-1, q.decision().Remaining)
		requireMarks(t, redis.client, log)
		// When all have expired, the log is dropped as a whole.
		assert.Equal(t, limit.Max-1, redis.allow(t, 10*minute, key, 1, limit).Remaining)
		assert.Len(t, redis.entries(t, key, limit), 1)
	}
}

// An admitted request under one limit is the path that matters: one call, three or four commands.
func TestCommandsPerDecision(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter, err := New(client, WithDenialCache(0, 0), patient)
	require.NoError(t, err)
	defer limiter.Close()
	cached, err := New(client, patient)
	require.NoError(t, err)
	defer cached.Close()
	ctx := context.Background()

	commands := func(limiter *Limiter, limit Limit, calls int) map[string]int {
		redistest.Do(t, client, "CONFIG", "RESETSTAT")
		for range calls {
			_, err := limiter.Allow(ctx, "ann", limit)
			require.NoError(t, err)
		}
		info, err := redistest.Do(t, client, "INFO", "commandstats").ToString()
		require.NoError(t, err)
		counts := commandCalls(info)
		// What the client does for itself, and what we do here.
		maps.DeleteFunc(counts, func(name string, _ int) bool {
			return name == "ping" || name == "hello" || name == "info" || name == "eval" || strings.Contains(name, "|")
		})
		return counts
	}
	commands(limiter, PerHour("first", 1000), 1)
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zcard": 10, "zcount": 9, "zadd": 10, "pexpire": 2},
		commands(limiter, PerHour("roomy", 1000), 10), "the first two set the expiry")
	commands(cached, PerHour("full", 1), 1)
	assert.Empty(t, commands(cached, PerHour("full", 1), 1000), "a denial that is known costs nothing")
}

// commandCalls reads how often each command was called.
func commandCalls(info string) map[string]int {
	counts := map[string]int{}
	for line := range strings.Lines(info) {
		var calls int
		name, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(rest, "calls=%d", &calls); err == nil {
			counts[strings.TrimPrefix(name, "cmdstat_")] = calls
		}
	}
	return counts
}

func TestScriptIsLoadedAndHeals(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter, err := New(client, patient)
	require.NoError(t, err)
	defer limiter.Close()

	loaded := func() bool {
		reply, err := redistest.Do(t, client, "SCRIPT", "EXISTS", sha(lua.Decide)).AsIntSlice()
		require.NoError(t, err)
		return reply[0] == 1
	}
	require.Eventually(t, loaded, 10*time.Second, time.Millisecond)
	redistest.Do(t, client, "SCRIPT", "FLUSH")
	assert.False(t, loaded())
	allowed, err := limiter.Allow(context.Background(), "ann", PerMinute("heal", 1))
	require.NoError(t, err)
	assert.True(t, allowed.Allowed)
	assert.True(t, loaded())
}

func sha(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}

// onShared makes a limiter on the shared server, and returns what it takes to look at its logs there.
func onShared(t *testing.T) (limiter *Limiter, client rueidis.Client, prefix string) {
	client, prefix = redistest.Shared(t).Client(t), redistest.Prefix()
	limiter, err := New(client, WithPrefix(prefix), patient, OnFailure(FailClosed))
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return limiter, client, prefix
}

// patient is for tests of what Redis decides, on a machine that may have other things to do.
var patient = WithTimeout(10 * time.Second)

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

// Where the server's clock stepped back, a log holds entries from later than now, and must not expire before they do.
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

// When the clock has stepped back by an hour, a client over its limit waits for a window and not for an hour. Entries that are
// not from the future keep their times.
func TestStepBackCostsOneWindow(t *testing.T) {
	redis := newClockedRedis(t)
	limit, other := PerMinute("a", 3), PerHour("b", 1500)
	const minute, hour = 60 * second, 3600 * second
	redis.allow(t, hour, "ann", 1, limit)
	redis.allow(t, hour+1, "ann", 1, limit, other)
	now := 10 * second // the step
	d := redis.allow(t, now, "ann", 1, limit, other)
	require.True(t, d.Allowed, "an entry from the future takes its own room and no more")
	assert.Equal(t, time.Minute, d.RetryAfter, "the one from now leaves first")

	now += second
	d = redis.allow(t, now, "ann", 1, limit)
	assert.False(t, d.Allowed)
	assert.LessOrEqual(t, d.RetryAfter, time.Minute)
	moments := slices.Sorted(maps.Values(redis.entries(t, "ann", limit)))
	assert.LessOrEqual(t, slices.Max(moments), now)
	assert.True(t, redis.allow(t, now+minute, "ann", 1, limit).Allowed)
	assert.True(t, redis.allow(t, now+minute, "ann", 1, limit).Allowed)
}

func TestWrongType(t *testing.T) {
	limiter, client, prefix := onShared(t)
	ctx, good, bad := context.Background(), PerMinute("good", 3), PerMinute("bad", 3)
	redistest.Do(t, client, "SET", string(appendLogKey(nil, prefix, "ann", bad)), "not a log")

	for _, limits := range [][]Limit{{bad}, {good, bad}, {bad, good}} {
		d, err := limiter.Allow(ctx, "ann", limits...)
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.ErrorContains(t, err, "WRONGTYPE")
		assert.Zero(t, d)
	}
	d, err := limiter.Peek(ctx, "ann", good)
	require.NoError(t, err)
	assert.Equal(t, 3, d.Remaining)

	require.NoError(t, limiter.Reset(ctx, "ann", bad))
	d, err = limiter.Allow(ctx, "ann", bad, good)
	require.NoError(t, err)
	assert.True(t, d.Allowed)
}

// The script is called by this package alone, but its contract says what bad arguments do: nothing.
func TestBadArgumentsWriteNothing(t *testing.T) {
	client := redistest.Shared(t).Client(t)
	prefix := redistest.Prefix()
	logs := []string{"{" + prefix + "}:1", "{" + prefix + "}:2"}
	decide := rueidis.NewLuaScript(lua.Decide)
	ctx := context.Background()
	for _, args := range []string{
		"id admit", "id admit 2 1 1 1 0 9", "id admit 2 1 1 1 0 9 x", "id admit 1 2 1 1 0 9 1000 9", "id refund 2 a.1 1 0", "id unknown",
		"id peek 2 1 9 1000 admit",
	} {
		assert.Error(t, decide.Exec(ctx, client, logs, strings.Fields(args)).Error(), args)
	}
	for _, log := range logs {
		entries, err := redistest.Do(t, client, "ZRANGE", log, "0", "-1").AsStrSlice()
		require.NoError(t, err)
		assert.Empty(t, entries)
	}
}

// A server that rejects writes rejects the whole call, before anything is written; one whose memory is full goes on deciding.
func TestRejectedWrites(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	decide := rueidis.NewLuaScript(lua.Decide)
	size := func() int64 {
		n, err := redistest.Do(t, client, "DBSIZE").AsInt64()
		require.NoError(t, err)
		return n
	}
	for _, args := range []string{"id one 2 5 1000000", "id admit 2 1 1 3 0 5 1000000"} {
		ask := func() ([]rueidis.RedisMessage, error) {
			return decide.Exec(context.Background(), client, []string{"a", "b"}, strings.Fields(args)).ToArray()
		}
		redistest.Do(t, client, "CONFIG", "SET", "min-replicas-to-write", "1")
		_, err := ask()
		assert.ErrorContains(t, err, "NOREPLICAS")
		redistest.Do(t, client, "CONFIG", "SET", "min-replicas-to-write", "0")
		assert.Zero(t, size())
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory", "1")
		reply, err := ask()
		require.NoError(t, err)
		assert.Len(t, reply, 2)
		assert.EqualValues(t, 2, size())
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory", "0")
		redistest.Do(t, client, "FLUSHALL")
	}
}
