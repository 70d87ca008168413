package core

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
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
	settle(t require.TestingT, now int64, d Decision, cost int)
	release(t require.TestingT, now int64, d Decision)
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

func newClockedInProcess() clockedInProcess { return clockedInProcess{newUnsweptLogs()} }

// logs returns the logs of a client, which exists.
func (c clockedInProcess) logs(key string) []ring {
	client := c.lock(key, false)
	defer client.mu.Unlock()
	return client.logs
}

func (c clockedInProcess) allow(_ require.TestingT, now int64, key string, cost int, limits ...Limit) (d Decision) {
	client := c.lock(key, true)
	defer client.mu.Unlock()
	client.allow(&d, now, cost, limits)
	if d.Allowed {
		d.receipt.key = key
	}
	return d
}

func (c clockedInProcess) peek(_ require.TestingT, now int64, key string, limits ...Limit) (d Decision) {
	client := c.lock(key, true)
	defer client.mu.Unlock()
	client.peek(&d, now, limits)
	return d
}

func (c clockedInProcess) reset(_ require.TestingT, key string, limits ...Limit) {
	c.inProcess.reset(key, limits)
}

func (c clockedInProcess) settle(t require.TestingT, now int64, d Decision, cost int) {
	if d.receipt.cost > 0 {
		client := c.lock(d.receipt.key, true)
		defer client.mu.Unlock()
		require.NoError(t, client.settle(now, d.receipt, cost, d.windowStates()))
	}
}

func (c clockedInProcess) release(_ require.TestingT, _ int64, d Decision) {
	c.inProcess.release(d.receipt, inFlightLimits(limitsOf(d.States())))
}

// clockedRedis asks the real script on a real server, without what dispatch does. Only its TIME is another: it is read
// from a key. And logs expire an hour late, since expiry goes by the server's own clock. Unless an option says
// otherwise, it has no denial cache.
type clockedRedis struct {
	*redisLogs
	client rueidis.Client
	batch  *batch
	sha1   string
	clock  string
	moment *int64 // on this process's clock
}

func newClockedRedis(t testing.TB, opts ...Option) clockedRedis {
	c, err := configure(append([]Option{WithPrefix(redistest.Prefix()), WithDenialCache(0, 0)}, opts...))
	require.NoError(t, err)
	logs := &redisLogs{
		storeID: 1, denials: newDenials(c.denials, c.denialTTL), prefix: c.prefix, idPrefix: "id",
		seed: maphash.MakeSeed(),
	}
	moment := new(int64)
	now := func() time.Duration { return time.Duration(*moment) * time.Microsecond }
	redis := clockedRedis{
		redisLogs: logs,
		client:    redistest.Shared(t).Client(t),
		batch:     &batch{scratch: newScratch(c.prefix, logs.newCalls(), logs.denials, now)},
		clock:     c.prefix + "-clock",
		moment:    moment,
	}
	redis.load(t, redis.without(t, ""))
	return redis
}

// without returns the script on the test's clock, with a slack of an hour, and without the right to a command unless it
// is empty: to a script, a command that does not exist is like one that it must not run.
func (c clockedRedis) without(t testing.TB, right string) string {
	script := c.onTestClock(t, lua.Decide)
	require.Equal(t, 1, strings.Count(script, "slack = 1000 "))
	script = strings.Replace(script, "slack = 1000 ", "slack = 3600000 ", 1)
	for _, f := range []string{"call", "try", "run"} {
		script = strings.ReplaceAll(script, f+"('"+right+"'", f+"('NOSUCH'")
	}
	return script
}

// load makes another script the one that is asked.
func (c *clockedRedis) load(t testing.TB, script string) {
	var err error
	c.sha1, err = redistest.Do(t, c.client, "SCRIPT", "LOAD", script).ToString()
	require.NoError(t, err)
}

// onTestClock returns a script that takes the time from the test.
func (c clockedRedis) onTestClock(t testing.TB, script string) string {
	require.Equal(t, 1, strings.Count(script, "call('TIME')"))
	return strings.Replace(script, "call('TIME')", "cjson.decode(redis.call('GET', '"+c.clock+"'))", 1)
}

// epoch keeps the digits of the scores those of real ones.
const epoch = 1_795_000_000_000_000

// call calls the script at a moment.
func (c clockedRedis) call(t require.TestingT, now int64, keys, args []string) []rueidis.RedisMessage {
	reply, err := c.tryCall(t, now, keys, args)
	require.NoError(t, err)
	return reply
}

// tryCall is call, but it may fail.
func (c clockedRedis) tryCall(t require.TestingT, now int64, keys, args []string) ([]rueidis.RedisMessage, error) {
	*c.moment = now
	now += epoch
	results := c.client.DoMulti(context.Background(),
		c.client.B().Set().Key(c.clock).Value(fmt.Sprintf(`["%d", "%d"]`, now/1e6, now%1e6)).Build(),
		c.client.B().Evalsha().Sha1(c.sha1).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	require.NoError(t, results[0].Error())
	return results[1].ToArray()
}

// ask asks questions in one call, and in others those that it leaves to be asked again. It returns how many it left.
func (c clockedRedis) ask(t require.TestingT, now int64, questions ...*question) int {
	again := c.askOnce(t, now, questions...)
	left := len(again)
	for len(again) > 0 {
		again = c.askOnce(t, now, again...)
	}
	return left
}

// askOnce asks questions in one call, and returns those that it leaves to be asked again.
func (c clockedRedis) askOnce(t require.TestingT, now int64, questions ...*question) (again []*question) {
	*c.moment = now
	keys, args := c.batch.Encode(questions)
	again, err := c.batch.Decode(c.call(t, now, keys, args))
	require.NoError(t, err)
	return slices.Clone(again)
}

// askAgain sends the last call again, as if its reply had been lost. What it leaves to be asked again is asked.
func (c clockedRedis) askAgain(t require.TestingT, later int64) {
	args := c.batch.Again()
	again, err := c.batch.Decode(c.call(t, later, c.batch.keys, args))
	require.NoError(t, err)
	for again = slices.Clone(again); len(again) > 0; {
		again = c.askOnce(t, later, again...)
	}
}

func (c clockedRedis) question(verb verb, key string, cost int, limits ...Limit) *question {
	return c.newQuestion(verb, key, maphash.String(c.seed, key), cost, limits)
}

// decision is what redisLogs.decide makes of an answer.
func (c clockedRedis) decision(t require.TestingT, q *question) Decision {
	require.NoError(t, q.answer.err)
	d := q.decision()
	if d.Allowed {
		d.receipt = c.receiptOf(q)
	}
	return d
}

func (c clockedRedis) allow(t require.TestingT, now int64, key string, cost int, limits ...Limit) Decision {
	hash, moment := maphash.String(c.seed, key), time.Duration(now)*time.Microsecond
	if denied, found := find(c.denials, hash, moment, key, cost, limits); found {
		return denied
	}
	q := c.question(admit, key, cost, limits...)
	c.ask(t, now, q)
	return c.decision(t, q)
}

func (c clockedRedis) peek(t require.TestingT, now int64, key string, limits ...Limit) Decision {
	q := c.question(peek, key, 1, limits...)
	c.ask(t, now, q)
	require.NoError(t, q.answer.err)
	return q.decision()
}

func (c clockedRedis) reset(t require.TestingT, key string, limits ...Limit) {
	q := c.question(reset, key, 1, limits...)
	c.ask(t, *c.moment, q)
	require.NoError(t, q.answer.err)
	c.denials.invalidate(q.hash, key)
}

// settle is what redisLogs.settle does.
func (c clockedRedis) settle(t require.TestingT, now int64, d Decision, cost int) {
	if d.receipt.cost == 0 || len(d.windowStates()) == 0 { // which Limiter.Settle sees to
		return
	}
	cost, done := d.receipt.call.recordCost(d.receipt, cost)
	if !done && cost != d.receipt.cost {
		q := c.settling(d, cost)
		q.limits = limitsOf(d.windowStates())
		c.ask(t, now, q)
		require.NoError(t, q.answer.err)
		c.denials.invalidate(q.hash, q.key)
		d.receipt.call.confirm(d.receipt)
	}
}

// release is what redisLogs.release does, and repeats it if it is repeated.
func (c clockedRedis) release(t require.TestingT, now int64, d Decision) {
	if d.Holds() {
		q := c.settling(d, 0)
		q.limits = inFlightLimits(q.limits)
		c.ask(t, now, q)
		require.NoError(t, q.answer.err)
		c.denials.invalidate(q.hash, q.key)
	}
}

// settling returns the question that settles an admission.
func (c clockedRedis) settling(d Decision, cost int) *question {
	q := c.question(settle, d.receipt.key, cost, limitsOf(d.States())...)
	q.receipt = d.receipt
	return q
}

// renewing returns the question that renews an admission that shares its entry with no other.
func (c clockedRedis) renewing(d Decision) *question {
	q := c.question(renew, d.receipt.key, 1, limitsOf(d.States())...)
	q.members = []string{d.receipt.entry()}
	if d.receipt.cost > 1 {
		q.members[0] += fmt.Sprint("*", d.receipt.cost)
	}
	return q
}

// entries returns the members of a log but for its marks, with their moments.
func (c clockedRedis) entries(t require.TestingT, key string, limit Limit) map[string]int64 {
	entries := map[string]int64{}
	for member, score := range members(t, c.client, c.log(key, limit)) {
		if score >= 0 {
			entries[member] = score - epoch
		}
	}
	return entries
}

// banEnds returns when the ban of a log ends, and whether it has the mark of one.
func (c clockedRedis) banEnds(t require.TestingT, key string, limit Limit) (ends int64, banned bool) {
	for member, score := range members(t, c.client, c.log(key, limit)) {
		if member[0] == '!' {
			return -score - epoch, true
		}
	}
	return math.MinInt64, false
}

func (c clockedRedis) log(key string, limit Limit) string {
	return string(appendLogKey(nil, c.prefix, key, limit))
}

// members returns all that is in a log, marks as well.
func members(t require.TestingT, client rueidis.Client, log string) map[string]int64 {
	all := client.B().Zrange().Key(log).Min("0").Max("-1").Withscores().Build()
	scores, err := client.Do(context.Background(), all).AsZScores()
	require.NoError(t, err)
	members := map[string]int64{}
	for _, score := range scores {
		members[score.Member] = int64(score.Score)
	}
	return members
}

// requireMarks checks the marks of a log against its entries: "*" tells of all units that are no entries, and is there
// only if there are any.
func requireMarks(t require.TestingT, client rueidis.Client, log string) {
	extra := int64(0)
	there := members(t, client, log)
	entries := 0
	for member, score := range there {
		if score >= 0 {
			entries++
			extra += weightOf(t, member) - 1
		} else {
			require.True(t, redistest.IsMark(member), member)
		}
	}
	require.Equal(t, -extra, there["*"], "%v", there)
	_, marked := there["*"]
	require.Equal(t, extra > 0, marked, "%v", there)
	banned := slices.ContainsFunc(slices.Collect(maps.Keys(there)),
		func(member string) bool { return member[0] == '!' })
	require.True(t, entries > 0 || banned && len(there) == 1 || len(there) == 0, "nothing but marks: %v", there)
	if provisional, marked := there["~"]; marked {
		require.EqualValues(t, -1, provisional)
	}
}

// weightOf returns the units that an entry stands for.
func weightOf(t require.TestingT, member string) int64 {
	_, weight, weighs := strings.Cut(member, "*")
	if !weighs {
		return 1
	}
	n, err := strconv.ParseInt(weight, 10, 64)
	require.NoError(t, err, member)
	require.Greater(t, n, int64(1), member)
	return n
}
