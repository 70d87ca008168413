package core

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// clocked is a store whose clock the test sets, in microseconds, so that every moment of a timeline is exact.
type clocked interface {
	allow(t require.TestingT, now int64, key string, cost int, limits ...Limit) Decision
	peek(t require.TestingT, now int64, key string, limits ...Limit) Decision
	reset(t require.TestingT, key string, limits ...Limit)
	refund(t require.TestingT, d Decision)
}

// clockedStores returns all stores, each empty.
func clockedStores(t testing.TB) map[string]clocked {
	return map[string]clocked{
		"redis":             newClockedRedis(t),
		"with denial cache": newClockedRedis(t, WithDenialCache(1000, 24*time.Hour)),
		"in-process":        newClockedInProcess(),
	}
}

// clockedInProcess is the store without the sweeper and the clock that come with real time.
type clockedInProcess struct{ *inProcess }

func newClockedInProcess() clockedInProcess { return clockedInProcess{newLogs()} }

// logs returns the logs of a client, which exists.
func (c clockedInProcess) logs(key string) []log {
	client := c.locked(key, false)
	defer client.mu.Unlock()
	return client.logs
}

func (c clockedInProcess) allow(_ require.TestingT, now int64, key string, cost int, limits ...Limit) (d Decision) {
	client := c.locked(key, true)
	defer client.mu.Unlock()
	client.decide(&d, now, cost, limits)
	if d.Allowed {
		d.receipt.key = key
	}
	return d
}

func (c clockedInProcess) peek(_ require.TestingT, now int64, key string, limits ...Limit) (d Decision) {
	client := c.locked(key, true)
	defer client.mu.Unlock()
	client.peek(&d, now, limits)
	return d
}

func (c clockedInProcess) reset(_ require.TestingT, key string, limits ...Limit) {
	c.inProcess.reset(key, limits)
}

func (c clockedInProcess) refund(_ require.TestingT, d Decision) {
	c.inProcess.refund(d.receipt, d.States())
}

// clockedRedis runs the real scripts on a real server. Only their TIME is another: they GET it from a key. And logs expire
// an hour late, since expiry goes by the server's own clock. Unless an option says otherwise, it has no denial cache.
type clockedRedis struct {
	*redisLogs
	client rueidis.Client
	clock  string
	moment *int64 // on this process's clock
}

func newClockedRedis(t testing.TB, opts ...Option) clockedRedis {
	client := redistest.Shared(t).Client(t)
	prefix := redistest.Prefix()
	c, err := configure(append([]Option{WithPrefix(prefix), WithDenialCache(0, 0), patient}, opts...))
	require.NoError(t, err)
	logs := newRedisLogs(newConnection(client, c.log), c)
	moment := new(int64)
	logs.now = func() time.Duration { return time.Duration(*moment) * time.Microsecond }
	redis := clockedRedis{logs, client, prefix + "-clock", moment}
	decide := redis.onTestClock(t, lua.Decide)
	require.Equal(t, 1, strings.Count(decide, "slack = 1000"))
	logs.decision = rueidis.NewLuaScript(strings.Replace(decide, "slack = 1000", "slack = 3600000", 1))
	logs.peeking = rueidis.NewLuaScript(redis.onTestClock(t, lua.Peek))
	return redis
}

// onTestClock is a script that takes the time from the test.
func (c clockedRedis) onTestClock(t testing.TB, script string) string {
	require.Equal(t, 1, strings.Count(script, "call('TIME')"))
	return strings.Replace(script, "call('TIME')", "cjson.decode(redis.call('GET', '"+c.clock+"'))", 1)
}

// epoch keeps the digits of the scores those of real ones.
const epoch = 1_795_000_000_000_000

func (c clockedRedis) set(t require.TestingT, now int64) {
	*c.moment = now
	now += epoch
	reply := fmt.Sprintf(`["%d", "%d"]`, now/1e6, now%1e6)
	err := c.client.Do(context.Background(), c.client.B().Set().Key(c.clock).Value(reply).Build()).Error()
	require.NoError(t, err)
}

func (c clockedRedis) allow(t require.TestingT, now int64, key string, cost int, limits ...Limit) Decision {
	c.set(t, now)
	d, err := c.decide(context.Background(), key, cost, limits)
	require.NoError(t, err)
	return d
}

// allowAs is allow under an id of the test's choice.
func (c clockedRedis) allowAs(t require.TestingT, now int64, id, key string, cost int, limits ...Limit) Decision {
	c.set(t, now)
	reply, err := c.ask(context.Background(), c.question(key, cost, limits), id, 1)
	require.NoError(t, err)
	return reply.decision(0, cost, limits)
}

func (c clockedRedis) question(key string, cost int, limits []Limit) *question {
	text, ends := c.appendQuestion(nil, nil, key, cost, limits)
	words := appendWords(nil, string(text), ends)
	return &question{key: key, cost: cost, limits: limits, logs: words[:len(limits)], numbers: words[len(limits):]}
}

func (c clockedRedis) peek(t require.TestingT, now int64, key string, limits ...Limit) Decision {
	c.set(t, now)
	d, err := c.redisLogs.peek(context.Background(), key, limits)
	require.NoError(t, err)
	return d
}

func (c clockedRedis) reset(t require.TestingT, key string, limits ...Limit) {
	require.NoError(t, c.redisLogs.reset(context.Background(), key, limits))
}

func (c clockedRedis) refund(t require.TestingT, d Decision) {
	if d.receipt.cost > 0 { // as Limiter.Refund sees to
		require.NoError(t, c.redisLogs.refund(context.Background(), d.receipt, d.States()))
	}
}

// entries returns the ids in a log, with their moments.
func (c clockedRedis) entries(t require.TestingT, key string, limit Limit) map[string]int64 {
	name := string(appendLogKey(nil, c.prefix, key, limit))
	scores, err := c.client.Do(context.Background(),
		c.client.B().Zrange().Key(name).Min("0").Max("-1").Withscores().Build()).AsZScores()
	require.NoError(t, err)
	entries := map[string]int64{}
	for _, score := range scores {
		entries[score.Member] = int64(score.Score) - epoch
	}
	return entries
}

// batch asks the script for several requests in one call, as coalescing does.
func (c clockedRedis) batch(t require.TestingT, now int64, id, key string, requests, cost int, limit Limit) []int64 {
	c.set(t, now)
	message, err := c.decision.Exec(context.Background(), c.client,
		[]string{string(appendLogKey(nil, c.prefix, key, limit))},
		[]string{id, strconv.Itoa(limit.Max), strconv.FormatInt(limit.Window.Microseconds(), 10),
			strconv.Itoa(requests), strconv.Itoa(cost)}).ToMessage()
	require.NoError(t, err)
	if message.IsInt64() {
		remaining, err := message.AsInt64()
		require.NoError(t, err)
		return []int64{remaining}
	}
	reply, err := message.AsIntSlice()
	require.NoError(t, err)
	return reply
}
