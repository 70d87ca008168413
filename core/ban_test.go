package core

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A log of two in ten seconds with a ban of 15 seconds, which outlives its entries, or of 4, which they outlive.
func TestBan(t *testing.T) {
	long := Limit{Name: "long", Max: 2, Window: 10 * time.Second, Ban: 15 * time.Second}
	short := Limit{Name: "short", Max: 2, Window: 10 * time.Second, Ban: 4 * time.Second}
	const yes, no = true, false
	timeline := []struct {
		at      int64
		limit   Limit
		cost    int
		allowed bool
		banned  bool
		remain  int
		retry   int64
		reset   int64
	}{
		{0, long, 1, yes, no, 1, 0, 10 * second},
		{second, long, 1, yes, no, 0, 9 * second, 10 * second},             // the next one is not denied yet
		{2 * second, long, 1, no, yes, 0, 15 * second, 15 * second},        // until 17 s
		{3 * second, long, 1, no, yes, 0, 14 * second, 14 * second},        // which this does not change
		{11 * second, long, 1, no, yes, 0, 6 * second, 6 * second},         // the log is empty
		{17*second - 1, long, 2, no, yes, 0, 1, 1},                         // a microsecond early
		{17 * second, long, 1, yes, no, 1, 0, 10 * second},                 // exactly then
		{17 * second, long, 2, no, yes, 0, 15 * second, 15 * second},       // one fits, two do not
		{20 * second, long, 1, no, yes, 0, 12 * second, 12 * second},       // nor does one, since the log is banned
		{90 * second, long, 2, yes, no, 0, 10 * second, 10 * second},       // long after
		{0, short, 2, yes, no, 0, 10 * second, 10 * second},                // two at once
		{5 * second, short, 1, no, yes, 0, 5 * second, 5 * second},         // banned until 9 s, and full until 10 s
		{9*second - 1, short, 1, no, yes, 0, second + 1, second + 1},       // the last of the ban
		{9 * second, short, 1, no, yes, 0, 4 * second, 4 * second},         // another ban, until 13 s
		{10 * second, short, 1, no, yes, 0, 3 * second, 3 * second},        // the log has room
		{13 * second, short, 1, yes, no, 1, 0, 10 * second},                //
		{13 * second, short, 2, no, yes, 0, 10 * second, 10 * second},      // banned until 17 s, and two fit at 23 s
		{17*second - 1, short, 1, no, yes, 0, 1, 6*second + 1},             // one fits then
		{17 * second, short, 1, yes, no, 0, 6 * second, 10 * second},       //
		{17*second + 1, short, 1, no, yes, 0, 6*second - 1, 10*second - 1}, // full again
	}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			for _, row := range timeline {
				got := store.allow(t, row.at, "ann", row.cost, row.limit)
				want := State{
					Limit:      row.limit,
					Remaining:  row.remain,
					RetryAfter: time.Duration(row.retry) * time.Microsecond,
					ResetAfter: time.Duration(row.reset) * time.Microsecond,
					Banned:     row.banned,
				}
				assert.Equal(t, row.allowed, got.Allowed, "%+v", row)
				assert.Equal(t, want, got.State, "%+v", row)
				if row.banned {
					peeked := store.peek(t, row.at, "ann", row.limit)
					assert.False(t, peeked.Allowed, "%+v", row)
					assert.True(t, peeked.Banned, "%+v", row)
				}
			}
		})
	}
}

// What does not begin a ban, and what does not end one.
func TestBanBeginsAndEnds(t *testing.T) {
	login := Limit{Name: "login", Max: 2, Window: 10 * time.Second, Ban: time.Minute}
	plain := Limit{Name: "login", Max: 9, Window: 10 * time.Second} // on the same log
	other := Limit{Name: "other", Max: 1, Window: 10 * time.Second}
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			first := store.allow(t, 0, "ann", 1, login)
			require.True(t, store.allow(t, 0, "ann", 1, login).Allowed)
			peeked := store.peek(t, 1, "ann", login)
			soon := 10*time.Second - time.Microsecond
			require.Equal(t, State{Limit: login, RetryAfter: soon, ResetAfter: soon}, peeked.State)
			require.False(t, peeked.Allowed, "a peek shows a full log and does not ban")
			require.True(t, store.allow(t, 2, "ann", 1, plain).Allowed, "a limit without a ban shares the log")

			// A denial by another limit bans no log that has room.
			require.True(t, store.allow(t, 0, "bob", 1, login, other).Allowed)
			for range 3 {
				d := store.allow(t, 1, "bob", 1, login, other)
				require.False(t, d.Allowed)
				require.Equal(t, []bool{false, false}, []bool{d.States()[0].Banned, d.States()[1].Banned})
			}
			require.True(t, store.allow(t, 1, "bob", 1, login).Allowed)
			// The log that has no room is banned, be the other one full or not, and be that remembered or not.
			d := store.allow(t, 2, "bob", 1, login, other)
			require.Equal(t, []bool{true, false}, []bool{d.States()[0].Banned, d.States()[1].Banned})
			require.Equal(t, login, d.Limit, "which ends last")
			require.False(t, store.allow(t, minute, "bob", 1, login).Allowed)

			require.True(t, store.allow(t, 3, "ann", 1, login).Banned)
			require.True(t, store.allow(t, 4, "ann", 1, plain).Banned, "the ban belongs to the log")
			store.settle(t, 4, first, 0)
			require.True(t, store.allow(t, 5, "ann", 1, login).Banned, "units that are given back do not end it")
			changed := Limit{Name: "login", Max: 99, Window: login.Window, Ban: time.Millisecond}
			require.True(t, store.allow(t, 20*second, "ann", 1, changed).Banned)
			require.True(t, store.peek(t, minute+2, "ann", login, other).States()[0].Banned)
			require.True(t, store.allow(t, minute+3, "ann", 1, login).Allowed)

			require.True(t, store.allow(t, minute+3, "ann", 2, login).Banned)
			store.reset(t, "ann", login)
			require.True(t, store.allow(t, minute+4, "ann", 2, login).Allowed, "Reset ends it")
		})
	}
}

// Requests that are one question to the script are decided one after the other: those that fit come before the ban.
func TestBanWithinAQuestion(t *testing.T) {
	redis := newClockedRedis(t)
	limits := []Limit{{Name: "login", Max: 5, Window: 10 * time.Second, Ban: time.Minute}, PerDay("day", 9)}
	var questions []*question
	for range 4 {
		questions = append(questions, redis.question(admit, "ann", 2, limits...))
	}
	redis.ask(t, 0, questions...)
	for place, want := range []State{
		{Remaining: 3, ResetAfter: 10 * time.Second},
		{Remaining: 1, RetryAfter: 10 * time.Second, ResetAfter: 10 * time.Second},
		{Banned: true, RetryAfter: time.Minute, ResetAfter: time.Minute},
		{Banned: true, RetryAfter: time.Minute, ResetAfter: time.Minute},
	} {
		d := redis.decision(t, questions[place])
		want.Limit = limits[0]
		assert.Equal(t, place < 2, d.Allowed)
		assert.Equal(t, want, d.States()[0], place)
		day := State{Limit: limits[1], Remaining: 7 - 2*min(place, 1), ResetAfter: 24 * time.Hour}
		assert.Equal(t, day, d.States()[1], place)
	}
	assert.Equal(t,
		map[string]int64{"*": -3, "!60000000": -epoch - minute, questions[0].answer.call.id + ".1*4": epoch},
		members(t, redis.client, redis.log("ann", limits[0])))

	// The call is sent again after its reply was lost, and grants what it granted.
	redis.askAgain(t, second)
	for place, q := range questions {
		assert.Equal(t, place < 2, redis.decision(t, q).Allowed)
	}
	assert.Equal(t, time.Minute-time.Second, redis.decision(t, questions[3]).RetryAfter)
	assert.Equal(t, -epoch-minute, members(t, redis.client, redis.log("ann", limits[0]))["!60000000"], "once")
}

// With units that may be given back, a ban is remembered all the same, and what is full is not.
func TestBanOfProvisionalCharges(t *testing.T) {
	redis := newClockedRedis(t, WithDenialCache(1000, 24*time.Hour))
	limit := Limit{Name: "login", Max: 1, Window: time.Hour, Ban: time.Minute}
	allow := func(now int64) Decision {
		q := redis.question(admit, "ann", 1, limit)
		at := time.Duration(now) * time.Microsecond
		if d, found := find(redis.denials, q.hash, at, "ann", 1, []Limit{limit}); found {
			return d
		}
		q.provisional = true
		redis.ask(t, now, q)
		return redis.decision(t, q)
	}
	first := allow(0)
	require.True(t, first.Allowed)
	require.Equal(t, SourceRedis, allow(1).Source, "the denial that bans is Redis's")
	require.Equal(t, SourceDenialCache, allow(2).Source)
	redis.settle(t, 2, first, 0)
	require.Equal(t, SourceRedis, allow(3).Source, "a refund here is seen at once")
	require.Equal(t, SourceDenialCache, allow(4).Source)
	require.True(t, allow(minute-second).Banned)
	require.True(t, allow(minute+1).Allowed)
}

// The log of a ban does not expire before it, whatever becomes of its entries, and expires soon after.
func TestBanExpires(t *testing.T) {
	limiter, client, prefix := onShared(t)
	ctx := context.Background()
	limit := Limit{Name: "login", Max: 1, Window: 50 * time.Millisecond, Ban: time.Hour}
	log := string(appendLogKey(nil, prefix, "ann", limit))
	ttl := func() time.Duration {
		ms, err := redistest.Do(t, client, "PTTL", log).AsInt64()
		require.NoError(t, err)
		return time.Duration(ms) * time.Millisecond
	}
	between := func(least, most time.Duration) {
		t.Helper()
		assert.GreaterOrEqual(t, ttl(), least-time.Minute, "a minute for what the test takes")
		assert.LessOrEqual(t, ttl(), most)
	}
	first, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	d, err := limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	require.True(t, d.Banned)
	between(time.Hour, time.Hour+time.Second)
	require.NoError(t, limiter.Refund(ctx, first))
	between(time.Hour, time.Hour+time.Second)
	time.Sleep(60 * time.Millisecond)
	for range 3 {
		d, err = limiter.Peek(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Banned)
		between(time.Hour, time.Hour+time.Second)
	}
	assert.Len(t, members(t, client, log), 1, "only the mark is left")
	require.NoError(t, limiter.Reset(ctx, "ann", limit))
	d, err = limiter.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	require.True(t, d.Allowed)
	between(0, 50*time.Millisecond+time.Second)
}

// A server's clock that steps back prolongs no ban beyond what the limit says, and one that steps forward shortens it.
func TestBanAndClockSteps(t *testing.T) {
	redis := newClockedRedis(t)
	login := Limit{Name: "login", Max: 1, Window: time.Second, Ban: time.Hour}
	shorter := Limit{Name: "login", Max: 1, Window: time.Second, Ban: time.Minute}
	hour, day := 60*minute, 24*60*minute
	for i, entries := range []bool{true, false} {
		key, start := fmt.Sprint("key", i), day
		require.True(t, redis.allow(t, start, key, 1, login).Allowed)
		require.Equal(t, time.Hour, redis.allow(t, start, key, 1, login).RetryAfter)
		require.Equal(t, time.Hour, redis.peek(t, start, key, shorter).RetryAfter, "the ban is the log's")
		if !entries {
			start += 2 * second
			require.Equal(t, time.Hour-2*time.Second, redis.allow(t, start, key, 1, login).RetryAfter)
		}
		start -= day - second // the clock steps
		require.Equal(t, time.Hour, redis.allow(t, start, key, 1, login).RetryAfter, "from now on")
		require.Equal(t, time.Hour-time.Second, redis.peek(t, start+second, key, shorter).RetryAfter)
		require.Equal(t, time.Microsecond, redis.allow(t, start+hour-1, key, 1, login).RetryAfter)
		require.True(t, redis.allow(t, start+hour, key, 1, login).Allowed)
		require.True(t, redis.allow(t, start+hour, key, 1, login).Banned)
		require.True(t, redis.allow(t, start+day, key, 1, login).Allowed)
	}
}

// The sweeper drops the log of a ban when the ban has ended, and not before.
func TestSweeperKeepsBans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLocal(t)
		ctx, limit := context.Background(), Limit{Name: "login", Max: 1, Window: time.Second, Ban: time.Minute}
		for _, want := range []bool{true, false} {
			d, err := limiter.Allow(ctx, "ann", limit)
			require.NoError(t, err)
			require.Equal(t, want, d.Allowed)
		}
		time.Sleep(time.Minute - time.Microsecond)
		limiter.inProcess.sweep(limiter.inProcess.now())
		d, err := limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		last := State{Limit: limit, Banned: true, RetryAfter: time.Microsecond, ResetAfter: time.Microsecond}
		require.Equal(t, last, d.State)
		time.Sleep(time.Microsecond)
		limiter.inProcess.sweep(limiter.inProcess.now())
		require.Zero(t, limiter.inProcess.shard("ann").Size())
		d, err = limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
	})
}

// Instances share a ban. One that has not seen it asks Redis, and remembers the answer.
func TestBanOfAllInstances(t *testing.T) {
	client, prefix := redistest.Shared(t).Client(t), redistest.Prefix()
	limit := Limit{Name: "login", Max: 2, Window: 100 * time.Millisecond, Ban: time.Hour}
	ctx := context.Background()
	var instances [3]*Limiter
	for i := range instances {
		limiter := newOver(t, client, WithPrefix(prefix), patient)
		instances[i] = limiter
	}
	for i, want := range []bool{true, true, false} {
		d, err := instances[i].Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.Equal(t, want, d.Allowed)
		require.Equal(t, SourceRedis, d.Source)
	}
	time.Sleep(110 * time.Millisecond) // until the log has room
	for i, limiter := range instances {
		for _, source := range []Source{SourceRedis, SourceDenialCache} {
			d, err := limiter.Allow(ctx, "ann", limit)
			require.NoError(t, err)
			require.True(t, d.Banned)
			require.Greater(t, d.RetryAfter, 50*time.Minute)
			if i < 2 {
				require.Equal(t, source, d.Source)
			}
		}
	}
}

// Limits that differ only in their Unit or Ban share the log.
func TestUnitAndBanShareTheLog(t *testing.T) {
	tokens, bytes := PerHour("api", 2), PerHour("api", 2)
	tokens.Unit, bytes.Unit, bytes.Ban = "tokens", "content-bytes", time.Hour
	for name, store := range clockedStores(t) {
		t.Run(name, func(t *testing.T) {
			require.True(t, store.allow(t, 0, "ann", 1, tokens).Allowed)
			d := store.allow(t, 0, "ann", 1, bytes)
			assert.Equal(t, State{Limit: bytes, RetryAfter: time.Hour, ResetAfter: time.Hour}, d.State)
			assert.False(t, store.allow(t, 0, "ann", 1, PerHour("api", 2)).Allowed)
		})
	}
}

// A call that arrives after its retry counts its own entry once, so it begins no ban in a log that has room.
func TestLateCallBeginsNoBan(t *testing.T) {
	redis := newClockedRedis(t)
	const w = "10000000"
	redis.on(t, 0, "A", "a admit 1 1 1 2 0 4 "+w+" 0")
	redis.on(t, 5*second, "A", "late again admit 1 1 3 1 0 4 "+w+" 1000")
	redis.on(t, 11*second, "A", "late admit 1 1 3 1 0 4 "+w+" 60000000")
	assert.Equal(t, "1", redis.on(t, 11*second, "A", "b admit 1 1 1 1 0 4 "+w+" 0"))
}
