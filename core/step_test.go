package core

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/oracle"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// When the clock has stepped back by an hour, a client over its limit waits for a window and not for an hour. Entries
// that are not from the future keep their moments.
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
	assert.Equal(t, hour+1, slices.Max(slices.Collect(maps.Values(redis.entries(t, "ann", limit)))))
	peeked := redis.peek(t, now+5, "ann", limit)
	assert.False(t, peeked.Allowed)
	assert.Equal(t, time.Minute, peeked.ResetAfter, "Peek says what Allow would")

	now += second
	d = redis.allow(t, now, "ann", 1, limit)
	assert.False(t, d.Allowed)
	assert.Equal(t, State{
		Limit: limit, RetryAfter: 59 * time.Second, ResetAfter: 59*time.Second + 5*time.Microsecond,
	}, d.State)
	moments := slices.Sorted(maps.Values(redis.entries(t, "ann", limit)))
	now -= second
	assert.Equal(t, []int64{now, now + 5, now + 5}, moments)
	assert.True(t, redis.allow(t, now+minute, "ann", 1, limit).Allowed)
	assert.False(t, redis.allow(t, now+minute+4, "ann", 1, limit).Allowed)
	assert.True(t, redis.allow(t, now+minute+5, "ann", 1, limit).Allowed)
	assert.True(t, redis.allow(t, now+minute+5, "ann", 1, limit).Allowed)

	// A cost that waits for several of many, of which one call moves a part.
	fill(t, redis.client, redis.log("bob", other), epoch+int(2*hour), 1500, "")
	for range 4 {
		d = redis.allow(t, now, "bob", 700, other)
		assert.False(t, d.Allowed)
	}
	assert.Equal(t, State{Limit: other, RetryAfter: time.Hour, ResetAfter: time.Hour}, d.State)
	for _, moment := range redis.entries(t, "bob", other) {
		require.Equal(t, now, moment)
	}
	assert.True(t, redis.allow(t, now+hour, "bob", 700, other).Allowed)
}

// The server's clock steps while it runs, and with it the expiry of its keys.
func TestClockSteps(t *testing.T) {
	server := redistest.StartWithClock(t)
	client := server.Client(t)
	call := func(log, args string) (reply []int64) {
		t.Helper()
		replies, err := callOn(client, log, args).ToArray()
		require.NoError(t, err)
		if replies[0].IsInt64() {
			n, err := replies[0].AsInt64()
			require.NoError(t, err)
			return []int64{n}
		}
		reply, err = replies[0].AsIntSlice()
		require.NoError(t, err)
		return reply
	}
	step := func(by time.Duration) {
		server.StepClock(t, by)
		server.AwaitClock(t)
	}
	const h = "3600000000"
	const hour = 3600 * second
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		for n := range 4 {
			assert.EqualValues(t, 4-n-1, call(log, fmt.Sprint("a", n, verb))[min(1, n/3)]/int64(i+1))
		}
	}
	step(-24 * time.Hour)
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		for n := range 2 { // nothing is admitted, and nobody waits for longer than a window
			reply := call(log, fmt.Sprint("b", n, verb))
			assert.EqualValues(t, []int64{0, 0}, reply[:2])
			assert.LessOrEqual(t, reply[2], hour)
			assert.LessOrEqual(t, reply[3], hour)
		}
		requireMarks(t, client, log)
		ttl, err := redistest.Do(t, client, "PTTL", log).AsInt64()
		require.NoError(t, err)
		assert.Greater(t, ttl, int64(3_600_000))
		assert.LessOrEqual(t, ttl, int64(7_201_000))
	}
	step(time.Hour)
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		assert.EqualValues(t, 3*(i+1), call(log, fmt.Sprint("c", verb))[0],
			"a window after the moment to which they were moved")
	}
	step(-12 * time.Hour)
	// there is room: what is from the future takes its own and no more
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		assert.EqualValues(t, 2*(i+1), call(log, fmt.Sprint("d", verb))[0])
		requireMarks(t, client, log)
	}
	step(365 * 24 * time.Hour)
	for _, log := range []string{"plain", "weighted"} {
		exists, err := redistest.Do(t, client, "EXISTS", log).AsInt64()
		require.NoError(t, err)
		assert.Zero(t, exists)
	}
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
