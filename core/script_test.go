package core

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// on calls the script at a moment, about logs that are named by their last letters, and returns its reply as text.
func (c clockedRedis) on(t require.TestingT, now int64, logs, args string) string {
	return text(t, c.call(t, now, c.names(logs), argsOf(args)))
}

// names returns the names of logs, given their last letters.
func (c clockedRedis) names(logs string) []string {
	names := strings.Fields(logs)
	for i := range names {
		names[i] = c.prefix + ":" + names[i]
	}
	return names
}

// argsOf returns the words of a text, in which s stands for a second and m for a minute.
func argsOf(text string) []string {
	words := strings.Fields(text)
	for i := range words {
		switch words[i] {
		case "s":
			words[i] = fmt.Sprint(second)
		case "m":
			words[i] = fmt.Sprint(minute)
		}
	}
	return words
}

// callOn calls the script about logs that are named in full.
func callOn(client rueidis.Client, logs, args string) rueidis.RedisResult {
	keys := strings.Fields(logs)
	call := client.B().Eval().Script(lua.Decide).Numkeys(int64(len(keys))).Key(keys...).Arg(argsOf(args)...).Build()
	return client.Do(context.Background(), call)
}

func text(t require.TestingT, reply []rueidis.RedisMessage) string {
	words := make([]string, len(reply))
	for i := range reply {
		word, err := reply[i].ToAny()
		require.NoError(t, err)
		words[i] = fmt.Sprint(word)
	}
	return strings.Join(words, " ")
}

// Each row is a call. The window of all limits is a minute but for those of a second.
func TestScript(t *testing.T) {
	type row struct {
		at         int64
		logs, args string
		reply      string
	}
	for name, timeline := range map[string][]row{
		"the verb one": {
			{0, "A", "c1 one 1 3 m", "2"},
			{0, "A B", "c2 one 2 3 m", "1 2"},
			{1, "A", "c3 one 1 3 m", "[1 0 59999999 60000000]"}, // granted, and the next must wait for the first
			{1, "A", "c4 one 1 3 m", "[0 0 59999999 60000000]"},
			{2, "B A C", "c5 one 3 3 m", "1 [0 0 59999998 59999999] 2"},
			{minute - 1, "A", "c6 one 1 3 m", "[0 0 1 2]"},
			{minute, "A", "c7 one 1 3 m", "1"}, // two of them expired
			{minute, "A", "c8 one 1 1 m", "[0 -1 60000000 60000000]"},
			{2 * minute, "A", "c9 one 1 1 m", "[1 0 60000000 60000000]"},
		},
		"the verb admit": {
			{0, "A", "c1 admit 1 1 1 2 0 7 m 0", "5"},
			// Both are granted, and the next of two must wait.
			{1, "A", "c2 admit 1 1 2 2 0 7 m 0", "[2 1 59999999 60000000]"},
			{2, "A", "c3 admit 1 1 3 1 0 7 m 0", "[1 0 59999998 60000000]"}, // one of three
			// Two must leave at 0, and one of those at 1.
			{3, "A", "c4 admit 1 1 2 3 0 7 m 0", "[0 0 59999998 59999999]"},
			{minute, "A", "c5 admit 1 1 1 3 0 7 m 0", "[0 2 1 2]"},
			// Of nine twos, three are granted; and c3 weighs too little for another.
			{minute + 1, "A", "c6 admit 1 1 9 2 0 7 m 0", "[3 0 60000000 60000000]"},
		},
		"several limits": {
			{0, "A B", "c1 admit 1 2 1 1 0 2 s 0 3 m 0", "[1 1 0 1000000 2 0 60000000]"},
			{0, "A B C D", "c2 admit 2 2 1 1 0 2 s 0 3 m 0",
				"[1 0 1000000 1000000 1 0 60000000] [1 1 0 1000000 2 0 60000000]"},
			{0, "A B", "c3 admit 1 2 1 1 0 2 s 0 3 m 0", "[0 0 1000000 1000000 1 0 60000000]"},
			{second, "A B", "c4 admit 1 2 3 1 0 2 s 0 3 m 0", "[1 1 0 1000000 0 59000000 60000000]"},
			{second, "B A", "c5 admit 1 2 1 1 0 3 m 0 2 s 0", "[0 0 59000000 60000000 1 0 1000000]"},
			{second, "A B E", "c6 admit 1 3 1 1 0 2 s 0 4 m 0 1 m 0",
				"[1 0 1000000 1000000 0 59000000 60000000 0 60000000 60000000]"},
		},
		"any cost": {
			{0, "A", "c1 admit 1 1 1 999999999999998 0 999999999999999 m 0", "[1 1 60000000 60000000]"},
			{1, "A", "c2 admit 1 1 1 1 0 999999999999999 m 0", "[1 0 59999999 60000000]"},
			{2, "A", "c3 admit 1 1 1 1 0 999999999999999 m 0", "[0 0 59999998 59999999]"},
			{2, "A", "c4 admit 1 1 1 999999999999999 0 999999999999999 m 0", "[0 0 59999999 59999999]"},
			// c2 is too little to leave.
			{minute, "A", "c5 admit 1 1 1 999999999999998 0 999999999999999 m 0", "[1 0 60000000 60000000]"},
			{minute + 1, "A", "c6 one 1 999999999999999 m", "[1 0 59999999 60000000]"},
			{minute + 1, "A", "c7 peek 1 1 7 m 0", "[0 -999999999999992 59999999 60000000]"},
			{0, "B", "d1 admit 1 1 3 333333333333333 0 999999999999999 m 0", "[3 0 60000000 60000000]"},
			{1, "B", "d2 settle 1 d1.1 3 1 333333333333333 0 m", "333333333333333"},
			{1, "B", "d3 admit 1 1 5 100000000000000 0 999999999999999 m 0", "[3 33333333333333 -59999999 60000000]"},
		},
		"several verbs in one call": {
			{0, "A B C D E P P:probe", "c1 one 1 3 m admit 1 2 1 2 0 5 m 0 9 s 0 peek 1 1 4 m 0 reset 1 probe",
				"2 [1 3 0 60000000 7 0 1000000] [1 4 0 0] 0 0"},
			{1, "B A C B P P:probe", "c2 admit 1 1 1 1 0 5 m 0 one 2 3 m admit 1 1 2 1 0 5 m 0 probe",
				"2 1 [1 0 59999999 60000000] [2 0 59999999 60000000] 0"},
			{2, "A A A", "c3 reset 1 one 2 3 m", "0 2 1"},
			{2, "A A A", "c4 one 1 3 m reset 1 one 1 3 m", "[1 0 60000000 60000000] 0 2"},
		},
		"the verb peek": {
			{0, "A B", "c1 peek 2 1 3 m 0", "[1 3 0 0] [1 3 0 0]"},
			{0, "A B", "c2 peek 1 2 3 m 0 4 s 0", "[1 3 0 0 4 0 0]"},
			{0, "A", "c3 admit 1 1 1 3 0 3 m 0", "[1 0 60000000 60000000]"},
			{9, "A B", "c4 peek 1 2 3 m 0 4 s 0", "[0 0 59999991 59999991 4 0 0]"},
			{minute, "A B", "c5 peek 1 2 3 m 0 4 s 0", "[1 3 0 0 4 0 0]"},
		},
		"settle to nothing": {
			{0, "A B", "c1 admit 1 2 1 2 0 5 m 0 9 s 0", "[1 3 0 60000000 7 0 1000000]"},
			{1, "A B", "c2 settle 2 c1.1 1 0 2 0 m s", "4"},
			{1, "A B", "c3 settle 2 c1.1 1 0 2 0 m s", "0"}, // once
			{2, "A", "c4 admit 1 1 3 1 0 5 m 0", "2"},
			{3, "A", "c5 admit 1 1 1 2 0 5 m 0", "[1 0 59999999 60000000]"},
			{4, "A", "c6 settle 1 c4.1 3 2 1 0 m", "1"},
			{4, "A", "c7 settle 1 c4.1 3 2 1 0 m", "0"},
			{4, "A", "c8 settle 1 c4.1 3 0 1 0 m", "1"},
			{4, "A", "c9 peek 1 1 5 m 0", "[1 2 0 59999999]"},
			{5, "A", "d1 admit 1 1 1 3 0 5 m 0", "[0 2 -59999997 59999998]"}, // may be given back
			{minute + 2, "A", "d2 settle 1 c4.1 3 1 1 0 m", "1"},             // it was there still
			{minute + 2, "A", "d3 peek 1 1 5 m 0", "[1 3 0 1]"},
			{minute + 3, "A", "d4 settle 1 c5.1 1 0 2 0 m", "2"},
			{minute + 3, "A", "d5 settle 1 never.1 1 0 2 0 m", "0"},
			{minute + 3, "Z", "d6 settle 1 never.1 1 0 2 0 m", "0"},
		},
		"settle to less": {
			{0, "A B", "c1 admit 1 2 1 5 0 9 m 0 9 s 0", "[1 4 60000000 60000000 4 1000000 1000000]"},
			{1, "A B", "c2 settle 2 c1.1 1 0 5 2 m s", "6"},
			{1, "A B", "c2 settle 2 c1.1 1 0 5 2 m s", "0"},                  // again
			{2, "A", "c3 admit 1 1 1 8 0 9 m 0", "[0 7 -59999998 59999998]"}, // until the five would
			{3, "A", "c4 settle 1 c1.1 1 0 5 1 m", "0"},                      // known to be settled
			{minute, "A", "c5 peek 1 1 9 m 0", "[1 9 0 0]"},
			{0, "C", "d1 admit 1 1 3 2 0 9 m 0", "3"},
			{1, "C", "d2 settle 1 d1.1 3 1 2 1 m", "1"},
			{2, "C", "d3 settle 1 d1.1 3 0 2 0 m", "2"},
			{3, "C", "d4 settle 1 d1.1 3 1 2 0 m", "0"}, // it is one by now
			{4, "C", "d5 settle 1 d1.1 3 2 2 2 m", "0"}, // nothing to do
			{5, "C", "d6 admit 1 1 1 7 0 9 m 0", "[0 6 -59999995 59999995]"},
		},
		"settle to more": {
			{0, "A", "c1 admit 1 1 1 3 0 9 m 0", "6"},
			{10, "A", "c2 settle 1 c1.1 1 0 3 5 m", "2"},
			{11, "A", "c2 settle 1 c1.1 1 0 3 5 m", "0"}, // again
			{12, "A", "c3 peek 1 1 9 m 0", "[1 4 0 59999998]"},
			{12, "A", "c4 admit 1 1 1 5 0 9 m 0", "[0 4 59999988 59999998]"}, // until the three have left
			{minute, "A", "c5 peek 1 1 9 m 0", "[1 7 0 10]"},                 // the two leave later
			{minute + 1, "A", "c6 settle 1 c1.1 1 0 3 5 m", "0"},
			{minute + 10, "A", "c7 peek 1 1 9 m 0", "[1 9 0 0]"},
			{minute + 11, "A", "c8 settle 1 c1.1 1 0 3 5 m", "2"},    // what has left is no longer known
			{minute + 11, "B", "c9 settle 1 never.1 1 0 1 5 m", "4"}, // the log begins with it
			{minute + 12, "B", "d1 peek 1 1 9 m 0", "[1 5 0 59999999]"},
			{0, "C", "e1 admit 1 1 3 2 0 9 m 0", "3"},
			{1, "C", "e2 settle 1 e1.1 3 1 2 3 m", "1"},
			{2, "C", "e3 settle 1 e1.1 3 0 2 0 m", "2"}, // gives back of the entry that all three share
			{3, "C", "e4 settle 1 e1.1 3 1 2 3 m", "0"},
			{4, "C", "e5 admit 1 1 1 5 0 9 m 0", "[0 4 -59999996 59999997]"}, // until those that shared it
		},
		"settle beyond max": {
			{0, "A B", "c1 admit 1 2 1 2 0 5 m 0 9 s 0", "[1 3 0 60000000 7 0 1000000]"},
			{1, "A", "c2 one 1 5 m", "2"},
			{9, "A B", "c3 settle 2 c1.1 1 0 2 13 m s", "22"},
			{10, "A", "c4 one 1 5 m", "[0 -9 59999999 59999999]"}, // not before what was charged last has left
			{10, "A B", "c5 peek 1 2 5 m 0 9 s 0", "[0 -9 59999999 59999999 -4 999999 999999]"},
			{10, "B", "c6 peek 1 1 13 s 0", "[0 0 999990 999999]"}, // under another max the first to leave makes room
			{second, "B", "c7 one 1 9 s", "[0 -2 9 9]"},
			{second + 9, "B", "c8 one 1 9 s", "8"},
			{minute, "A", "c9 admit 1 1 1 1 0 13 m 0", "[1 0 1 60000000]"}, // a max of which it leaves something
			{minute + 8, "A", "d1 one 1 5 m", "[0 -7 1 59999992]"},
			{minute + 9, "A", "d2 one 1 5 m", "3"},
			{0, "C", "e1 admit 1 1 1 7 0 7 m 0", "[1 0 60000000 60000000]"},
			{1, "C", "e2 settle 1 e1.1 1 0 7 999999999999999 m", "999999999999992"},
			{2, "C", "e3 one 1 999999999999999 m", "[0 0 59999998 59999999]"},
			{3, "C", "e4 one 1 7 m", "[0 -999999999999992 59999998 59999998]"},
		},
		"the verb renew": {
			{0, "A B", "c1 admit 1 2 1 2 0 5 m 0 9 s 0", "[1 3 0 60000000 7 0 1000000]"},
			{0, "A", "c2 one 1 5 m", "2"},
			{second - 1, "A B", "c3 renew 2 1 c1.1*2 m s", "2"},
			{second, "A B", "c4 peek 1 2 5 m 0 9 s 0", "[1 2 0 59999999 7 0 999999]"},
			{second, "A", "c5 renew 1 3 c2.1 c1.1 never.1 m", "1"}, // c1.1 weighs two
			{2*second - 1, "A B", "c6 renew 2 1 c1.1*2 m s", "1"},  // one lease of it has ended
			{minute, "A", "c7 peek 1 1 4 m 0", "[1 1 0 1999999]"},
			{minute + second, "A", "c8 one 1 5 m", "2"},        // c2 left
			{minute + second, "A", "c9 renew 1 1 c2.1 m", "0"}, // and is not there again
			{minute + second, "A", "d1 settle 1 c8.1 1 0 1 0 m", "1"},
			{minute + second, "A", "d2 renew 1 2 c8.1 c1.1*2 m", "1"}, // c8 was given back
			{2 * minute, "A", "d3 peek 1 1 5 m 0", "[1 3 0 1000000]"},
			{2*minute + second, "A", "d4 renew 1 1 c1.1*2 m", "0"}, // expired, though nothing has removed it
			{2*minute + second, "A", "d5 peek 1 1 5 m 0", "[1 5 0 0]"},
			{0, "C", "e1 one 1 2 m", "1"},
			{0, "C", "e2 one 1 2 m", "[1 0 60000000 60000000]"},
			{-second, "C", "e3 renew 1 1 e1.1 m", "1"}, // a clock that has stepped back
			{-second, "C", "e4 peek 1 1 2 m 0", "[0 0 60000000 60000000]"},
		},
		"provisional": {
			{0, "A B", "c1 admit 1 2 1 1 1 1 m 0 1 s 0", "[1 0 -60000000 60000000 0 -1000000 1000000]"},
			{1, "A B", "c2 admit 1 2 1 1 0 1 m 0 1 s 0", "[0 0 -59999999 59999999 0 -999999 999999]"},
			{second, "A B", "c3 one 2 1 m", "[0 0 -59000000 59000000] [0 0 -59000000 59000000]"},
			{minute, "A", "c4 one 1 1 m", "[1 0 60000000 60000000]"}, // what could be given back has left
		},
	} {
		t.Run(name, func(t *testing.T) {
			redis := newClockedRedis(t)
			for _, row := range timeline {
				assert.Equal(t, row.reply, redis.on(t, row.at, row.logs, row.args), "%+v", row)
				for _, log := range strings.Fields(row.logs) {
					requireMarks(t, redis.client, redis.prefix+":"+log)
				}
			}
		})
	}
}

// An admitted request under one limit is the path that matters: one call, four commands.
func TestCommandsPerDecision(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter := newOver(t, client, WithDenialCache(0, 0), patient)
	cached := newOver(t, client, patient)
	ctx := context.Background()
	_, err := limiter.Allow(ctx, "bob", PerHour("first", 1)) // loads the script, if that is not done yet
	require.NoError(t, err)

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
			return name == "ping" || name == "hello" || name == "info" || strings.Contains(name, "|")
		})
		return counts
	}
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zcard": 10, "zcount": 9, "zadd": 10, "pexpire": 2},
		commands(limiter, PerHour("roomy", 1000), 10), "the first two set the expiry")
	assert.Equal(t, map[string]int{"evalsha": 1, "time": 1, "zcard": 2, "zadd": 1, "pexpire": 2, "zrange": 1},
		commands(limiter, PerHour("full", 1), 1), "one more, to say when the next has room")
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zcard": 20, "zcount": 20, "pexpire": 10, "zrange": 20},
		commands(limiter, PerHour("full", 1), 10),
		"a denial adds nothing; PEXPIRE is there to be rejected where writes are")
	assert.Equal(t, map[string]int{"evalsha": 1, "time": 1, "zcard": 2, "zcount": 2, "pexpire": 1, "zrange": 2},
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

func TestScriptIsLoadedAndHeals(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter := newOver(t, client, patient)

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

// A call with arguments that are none fails and writes nothing.
func TestBadArgumentsWriteNothing(t *testing.T) {
	redis := newClockedRedis(t)
	require.Equal(t, "8", redis.on(t, 0, "A", "good one 1 9 1000000"))
	for _, args := range []string{
		"", "id", "id what", "id probe what",

		"id one", "id one 1", "id one 1 3", "id one x 3 1000", "id one 1 x 1000", "id one 1 3 x", "id one 1 3 1000",
		"id one 3 3 1000", "id one 2 3 1000 x", "id one 2 3 1000 one", "id one 1 3 1000 what", "id one 2 3 1000 probe",
		"id again one 1 3", "id again one 1 3 1000",
		"id one 1 3 1000 one 1 3", "id one 1 3 1000 one 1 x 1000", "id one 1 3 1000 one 1 3 x",
		"id one 1 3 1000 admit 1 1 x 1 0 3 1000 0", "id one 1 3 1000 admit 1 1 1 x 0 3 1000 0",
		"id admit 1 1 1 1 0 3 1000 0 admit 1 1 1 1 0 x 1000 0", "id admit 1 1 1 1 0 3 1000 0 one 1 x 1000",

		"id admit", "id admit 1 1 1 1 0", "id admit 1 1 1 1 0 3", "id admit 1 1 1 1 0 3 x 0",
		"id admit 1 2 1 1 0 3 1000 3",
		"id admit 1 1 1 1 0 3 1000", "id admit 1 1 1 1 0 3 1000 what", "id admit 1 1 1 1 0 3 1000 0",
		"id admit 1 1 1 1 0 3 1000 0 what", "id admit 1 1 1 1 0 3 1000 0 admit 1",

		"id peek 1", "id peek 1 1 3", "id peek 1 1 3 1000",

		"id settle", "id settle 1 good.1", "id settle 1 good.1 1 0 1 0", "id settle 1 good.1 1 0 1 0 1000",
		"id settle 1 good.1 1 0 1 9 1000", "id settle 2 good.1 1 0 1 9 1000 x",

		"id reset", "id reset x", "id reset 1", "id reset 3", "id reset 1 one 1 3",

		"id renew", "id renew 1", "id renew 1 x good.1 1000000", "id renew 1 1 good.1", "id renew 1 2 good.1 1000000",
		"id renew 1 1 good.1 1000000",
	} {
		result := redis.client.Do(context.Background(), redis.client.B().Evalsha().Sha1(redis.sha1).Numkeys(2).
			Key(redis.names("A B")...).Arg(argsOf(args)...).Build())
		assert.Error(t, result.Error(), args)
		assert.Equal(t, map[string]int64{"good.1": epoch}, members(t, redis.client, redis.prefix+":A"), args)
		assert.Empty(t, members(t, redis.client, redis.prefix+":B"), args)
	}
}
