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

// A call whose reply was lost is sent again under its id.
func TestReplay(t *testing.T) {
	redis := newClockedRedis(t)
	short, long := Limit{Name: "short", Max: 3, Window: time.Second}, Limit{Name: "long", Max: 3, Window: time.Minute}
	timeline := []struct {
		at      int64
		id      string
		cost    int
		limits  []Limit
		allowed bool
		remain  int // under the last of limits
	}{
		{at: 0, id: "one", cost: 1, limits: []Limit{long}, allowed: true, remain: 2},
		{at: 9, id: "one", cost: 1, limits: []Limit{long}, allowed: true, remain: 2}, // with room left
		{at: 9, id: "two", cost: 2, limits: []Limit{short, long}, allowed: true, remain: 0},
		{at: 10, id: "two", cost: 2, limits: []Limit{short, long}, allowed: true, remain: 0}, // where its own entries left no room
		{at: 10, id: "one", cost: 1, limits: []Limit{long}, allowed: true, remain: 0},        // and others' as well
		{at: 10, id: "new", cost: 1, limits: []Limit{long}, remain: 0},                       // while a new one is denied
		{at: 10, id: "tw", cost: 1, limits: []Limit{long}, remain: 0},                        // a part of an id is not the id
		{at: 10 + second, id: "two", cost: 2, limits: []Limit{long}, allowed: true, remain: 0},
		{at: minute, id: "new", cost: 1, limits: []Limit{long}, allowed: true, remain: 0}, // "one" left
	}
	for _, row := range timeline {
		got := redis.allowAs(t, row.at, row.id, "ann", row.cost, row.limits...)
		states := got.States()
		assert.Equal(t, row.allowed, got.Allowed, "%+v", row)
		assert.Equal(t, row.remain, states[len(states)-1].Remaining, "%+v", row)
	}
	assert.Equal(t, map[string]int64{"two": 9, "two:1": 9, "new": minute}, redis.entries(t, "ann", long))
}

// A batch asks for several requests at once: those that fit are granted, first come first served, each whole.
func TestBatch(t *testing.T) {
	redis := newClockedRedis(t)
	limit := Limit{Name: "batch", Max: 7, Window: time.Minute}
	timeline := []struct {
		at             int64
		id             string
		requests, cost int
		reply          []int64 // remaining, or granted, remaining, retry, reset
	}{
		{0, "a", 2, 1, []int64{5}},
		{1, "b", 2, 2, []int64{2, 1, minute - 1, minute}},          // both granted, and the next of two must wait
		{2, "c", 3, 1, []int64{1, 0, minute - 2, minute}},          // one of three
		{3, "c", 3, 1, []int64{1, 0, minute - 3, minute - 1}},      // sent again: the same one, charged once
		{4, "d", 2, 3, []int64{0, 0, minute - 3, minute - 2}},      // none: three must leave, of which one came at 1
		{minute, "c", 3, 1, []int64{3, 0, 1, minute}},              // sent again when two have left: one known, two that fit
		{minute + 1, "e", 9, 2, []int64{2, 0, minute - 1, minute}}, // of nine twos, two
	}
	for _, row := range timeline {
		assert.Equal(t, row.reply, redis.batch(t, row.at, row.id, "ann", row.requests, row.cost, limit), "%+v", row)
	}
}

func TestLargeCostIsChargedWhole(t *testing.T) {
	redis := newClockedRedis(t)
	limit := Limit{Name: "export", Max: 25_000, Window: time.Minute}
	for _, cost := range []int{999, 1000, 1001, 12_000} {
		require.True(t, redis.allow(t, 0, "ann", cost, limit).Allowed)
	}
	assert.Len(t, redis.entries(t, "ann", limit), 15_000)
	denied := redis.allow(t, 1, "ann", 10_001, limit)
	assert.False(t, denied.Allowed)
	assert.Equal(t, 10_000, denied.Remaining)
	assert.Len(t, redis.entries(t, "ann", limit), 15_000)
}

// An admitted request under one limit is the path that matters: one call, four commands.
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
			return name == "ping" || name == "hello" || strings.Contains(name, "|")
		})
		return counts
	}
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zremrangebyscore": 10, "zcard": 10, "zadd": 10, "pexpire": 2},
		commands(limiter, PerHour("roomy", 1000), 10), "the first two set the expiry")
	assert.Equal(t, map[string]int{"evalsha": 1, "time": 1, "zremrangebyscore": 1, "zcard": 1, "zadd": 1, "pexpire": 1, "zrange": 1},
		commands(limiter, PerHour("full", 1), 1), "one more, to say when the next has room")
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zremrangebyscore": 10, "zcard": 10, "zscore": 10, "zrange": 20},
		commands(limiter, PerHour("full", 1), 10), "a denial adds nothing and refreshes nothing")
	assert.Equal(t, map[string]int{"evalsha": 1, "time": 1, "zremrangebyscore": 1, "zcard": 1, "zscore": 1, "zrange": 2},
		commands(cached, PerHour("full", 1), 1000), "a denial that is known costs nothing")
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

func TestScriptsAreLoadedAndHeal(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter, err := New(client, patient)
	require.NoError(t, err)
	defer limiter.Close()

	loaded := func() []int64 {
		reply, err := redistest.Do(t, client, "SCRIPT", "EXISTS", sha(lua.Decide), sha(lua.Peek)).AsIntSlice()
		require.NoError(t, err)
		return reply
	}
	assert.Equal(t, []int64{1, 1}, loaded())
	redistest.Do(t, client, "SCRIPT", "FLUSH")
	assert.Equal(t, []int64{0, 0}, loaded())
	ctx, limit := context.Background(), PerMinute("heal", 1)
	peeked, err := limiter.Peek(ctx, "ann", limit)
	require.NoError(t, err)
	assert.True(t, peeked.Allowed)
	allowed, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	assert.True(t, allowed.Allowed)
	assert.Equal(t, []int64{1, 1}, loaded())
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

// Where the server's clock stepped back, a log holds entries from later than now, and must not expire before they leave.
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

// A log that is no sorted set makes the call fail in the server's words, and nothing is charged anywhere.
// When the clock has stepped back by an hour, who is over the limit waits for a window and not for an hour. Entries that are
// not from the future keep their moments.
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
	peeked := redis.peek(t, now+5, "ann", limit)
	assert.False(t, peeked.Allowed)
	assert.Equal(t, time.Minute, peeked.ResetAfter, "Peek writes nothing, and says what Allow would")
	assert.Equal(t, hour, slices.Max(slices.Collect(maps.Values(redis.entries(t, "ann", limit))))-1)

	now += second
	d = redis.allow(t, now, "ann", 1, limit)
	assert.False(t, d.Allowed)
	assert.Equal(t, State{Limit: limit, RetryAfter: 59 * time.Second, ResetAfter: time.Minute}, d.State)
	moments := slices.Sorted(maps.Values(redis.entries(t, "ann", limit)))
	assert.Equal(t, []int64{now - second, now, now}, moments)
	assert.True(t, redis.allow(t, now-second+minute, "ann", 1, limit).Allowed)
	assert.False(t, redis.allow(t, now+minute-1, "ann", 1, limit).Allowed)
	assert.True(t, redis.allow(t, now+minute, "ann", 1, limit).Allowed)
	assert.True(t, redis.allow(t, now+minute, "ann", 1, limit).Allowed)

	// Thousands, too, and a cost that waits for several.
	redis.allow(t, 2*hour, "bob", 1500, other)
	d = redis.allow(t, now, "bob", 700, other)
	assert.False(t, d.Allowed)
	assert.Equal(t, State{Limit: other, RetryAfter: time.Hour, ResetAfter: time.Hour}, d.State)
	for _, moment := range redis.entries(t, "bob", other) {
		require.Equal(t, now, moment)
	}
	assert.True(t, redis.allow(t, now+hour, "bob", 700, other).Allowed)
}

func TestWrongType(t *testing.T) {
	limiter, client, prefix := onShared(t)
	ctx, good, bad := context.Background(), PerMinute("good", 3), PerMinute("bad", 3)
	redistest.Do(t, client, "SET", string(appendLogKey(nil, prefix, "ann", bad)), "not a log")

	for _, limits := range [][]Limit{{bad}, {good, bad}, {bad, good}} {
		d, err := limiter.Allow(ctx, "ann", limits...)
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.ErrorContains(t, err, "WRONGTYPE")
		var words *rueidis.RedisError
		assert.ErrorAs(t, err, &words)
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

// A call that fails on one log has not touched the others: a log cleaned without its expiry set anew could expire under its
// entries.
func TestWrongTypeTouchesNothing(t *testing.T) {
	redis := newClockedRedis(t)
	good, bad := PerMinute("good", 3), PerMinute("bad", 3)
	redistest.Do(t, redis.client, "SET", string(appendLogKey(nil, redis.prefix, "ann", bad)), "not a log")
	require.True(t, redis.allow(t, 0, "ann", 1, good).Allowed)
	for _, limits := range [][]Limit{{good, bad}, {bad, good}} {
		redis.set(t, 2*minute)
		_, err := redis.decide(context.Background(), "ann", 1, limits)
		assert.ErrorContains(t, err, "WRONGTYPE")
		assert.Len(t, redis.entries(t, "ann", good), 1)
	}
}

// The script is called by this package alone, but its contract says what bad arguments do: nothing.
func TestBadArgumentsWriteNothing(t *testing.T) {
	client := redistest.Shared(t).Client(t)
	prefix := redistest.Prefix()
	logs := []string{"{" + prefix + "}:1", "{" + prefix + "}:2"}
	decide := rueidis.NewLuaScript(lua.Decide)
	ctx := context.Background()
	require.NoError(t, decide.Exec(ctx, client, logs, strings.Fields("good 9 1000000 9 1000000")).Error())
	time.Sleep(2 * time.Millisecond)
	for _, args := range []string{
		"", "id", "id 3", "id 3 1000", "id 3 1000 3", "id x 1000 3 1000", "id 3 x 3 1000", "id 3 1000 x 1000", "id 3 1000 3 x",
		"id 3 1000 3 1000 x", "id 3 1000 3 1000 1 x",
	} {
		assert.Error(t, decide.Exec(ctx, client, logs, strings.Fields(args)).Error(), args)
	}
	assert.Error(t, decide.Exec(ctx, client, nil, []string{"id", "3", "1000"}).Error())
	for _, log := range logs {
		entries, err := redistest.Do(t, client, "ZRANGE", log, "0", "-1").AsStrSlice()
		require.NoError(t, err)
		assert.Equal(t, []string{"good"}, entries, "nothing added, and nothing removed as outside a window of 1 ms")
	}
}
