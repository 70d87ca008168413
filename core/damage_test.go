package core

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A log that is no sorted set makes the call fail in the server's words, and nothing is charged anywhere.
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

// A question that fails on one log has not touched its others: a log cleaned without its expiry set anew could expire
// under its entries. The other questions of its call are answered.
func TestWrongTypeFailsItsQuestionAlone(t *testing.T) {
	redis := newClockedRedis(t)
	redistest.Do(t, redis.client, "SET", redis.prefix+":bad", "not a log")
	const wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
	require.Equal(t, "2", redis.on(t, 0, "good", "c0 one 1 3 m"))
	now := 2 * minute
	for _, row := range []struct{ logs, args, reply string }{
		{"bad", "c1 one 1 3 m", wrong},
		{"A bad B", "c2 one 3 3 m", "2 " + wrong + " 2"},
		{"bad A B bad", "c3 one 4 3 m", wrong + " 1 1 " + wrong},
		{"A bad A", "c4 one 2 3 m reset 1", "[1 0 60000000 60000000] " + wrong + " 0"},
		{"good bad", "c5 admit 1 2 1 1 0 3 m 0 3 m 0", wrong},
		{"bad good", "c6 admit 1 2 1 1 0 3 m 0 3 m 0", wrong},
		{"bad good", "c7 admit 1 2 3 2 1 3 m 0 3 m 0", wrong},
		{"bad good A", "c8 peek 1 2 3 m 0 3 m 0 one 1 3 m", wrong + " 2"},
		{"bad good A", "c9 again peek 1 2 3 m 0 3 m 0 one 1 3 m", wrong + " 1"},
		{"bad good A", "d1 again admit 1 2 2 1 0 3 m 0 3 m 0 one 1 3 m", wrong + " [1 0 60000000 60000000]"},
		{"bad A", "d2 settle 1 c1.1 1 0 1 0 m one 1 3 m", wrong + " [0 0 60000000 60000000]"},
		{"good bad", "d3 settle 2 c0.1 1 0 1 0 m m", wrong},
		{"good bad", "d4 settle 2 c0.1 1 0 1 5 m m", wrong},
		{"bad A", "d5 renew 1 1 c0.1 m one 1 4 m", wrong + " [1 0 60000000 60000000]"},
		{"good bad", "d6 renew 2 1 c0.1 m m", wrong},
	} {
		assert.Equal(t, row.reply, redis.on(t, now, row.logs, row.args), "%+v", row)
		assert.Equal(t, map[string]int64{"c0.1": epoch}, members(t, redis.client, redis.prefix+":good"), "%+v", row)
	}
	assert.Equal(t, "0 2", redis.on(t, now, "bad bad", "e1 reset 1 one 1 3 m"), "a reset makes a log of it")
}

// Whatever is in a sorted set, a question about it is answered or fails, no call fails as a whole or runs forever, and
// what is answered with an error is not charged.
func TestDamagedLogs(t *testing.T) {
	redis := newClockedRedis(t)
	run, failed := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		log := fmt.Sprint("log", run)
		name, other := redis.prefix+":"+log, log+"b"
		add := []string{"ZADD", name}
		for range rapid.IntRange(1, 8).Draw(r, "members") {
			score := rapid.SampledFrom([]string{
				"-inf", "-1e300", "-1000000", "-5", "-1", "-0.5", "0", "0.5", "1", "1000000",
				"1794999999999999", "1795000000000000", "1795000000500000.5", "1795000000700000",
				"1795000001000000", "1795000005000000", "1e300", "inf",
			}).Draw(r, "score")
			member := rapid.SampledFrom([]string{
				"*", "~", "!1000", "!5000000", "!", "", "a", "b", "**", "c*", "d*0", "e*1", "f*2", "g*3",
				"h*999999999999999", "i*99999999999999999999", "j*1e5", "k*-4", "*7", "~*2", "t1.1", "t1.1*2", "t1.1*4",
			}).Draw(r, "member")
			add = append(add, score, member)
		}
		redistest.Do(t, redis.client, add...)
		now := second
		for n := range rapid.IntRange(1, 4).Draw(r, "calls") {
			now += rapid.SampledFrom([]int64{0, 1, second / 2, second}).Draw(r, "step")
			before := members(r, redis.client, name)
			beside := members(r, redis.client, redis.prefix+":"+other)
			args := rapid.SampledFrom([]string{
				"one 1 5 s", "one 1 999999999999999 s", "peek 1 1 5 s 0", "renew 1 3 t1.1*2 a c* s",
				"admit 1 1 2 2 0 5 s 0", "admit 1 1 1 1 1 5 s 0", "admit 1 1 2 2 0 5 s 3000000",
				"admit 1 2 1 2 0 5 s 0 9 m 0",
				"settle 1 t1.1 2 0 2 0 s", "settle 1 t1.1 2 0 2 1 s", "settle 1 t1.1 2 0 2 9 s",
			}).Draw(r, "args")
			again := rapid.SampledFrom([]string{"", "again "}).Draw(r, "again")
			logs := log
			if strings.HasPrefix(args, "admit 1 2") {
				logs = rapid.SampledFrom([]string{log + " " + other, other + " " + log}).Draw(r, "order")
			}
			reply := redis.call(r, now, slices.Concat(redis.names(logs), redis.names(log+"good")),
				argsOf(fmt.Sprint("n", n, " ", again, args, " one 1 9 s")))
			require.Len(r, reply, 2)
			_, err := reply[1].AsInt64()
			require.NoError(r, err, "the question about another log")
			charges := !strings.HasPrefix(args, "settle") || strings.Contains(args, " 2 9 ")
			if words, err := reply[0].ToString(); err == nil && charges {
				failed++
				for member := range members(r, redis.client, name) {
					if !redistest.IsMark(member) {
						require.Contains(r, before, member, words)
					}
				}
				require.Equal(r, beside, members(r, redis.client, redis.prefix+":"+other), words)
			}
		}
	})
	t.Log(failed, "questions failed")
}

// A mark * that tells of too many units, as a server that fails halfway may leave it, goes with the last live entry.
func TestWrongMarkGoesWithTheLastEntry(t *testing.T) {
	redis := newClockedRedis(t)
	for log, args := range map[string]string{
		"A": "b one 1 9 s", "B": "b admit 1 1 2 3 0 9 s 0", "C": "b peek 1 1 9 s 0",
	} {
		redis.on(t, 0, log, "a admit 1 1 1 2 0 9 s 0")
		if log == "C" {
			redis.on(t, 0, log, "a admit 1 1 1 2 0 2 s m") // begins a ban
		}
		redistest.Do(t, redis.client, "ZADD", redis.names(log)[0], "-2", "*")
		redis.on(t, second, log, args)
		requireMarks(t, redis.client, redis.names(log)[0])
	}
}
