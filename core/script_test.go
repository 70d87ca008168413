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
	"pgregory.net/rapid"

	"github.com/exactlimit/exactlimit/internal/dispatch"
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

// A call whose reply was lost is sent again under its id, and says so.
func TestReplay(t *testing.T) {
	redis := newClockedRedis(t)
	for _, row := range []struct {
		at         int64
		logs, args string
		reply      string
	}{
		{0, "A", "c1 one 1 3 m", "2"},
		{9, "A", "c1 again one 1 3 m", "2"}, // with room left
		{9, "A B", "c2 admit 1 2 1 2 0 3 m 0 3 s 0", "[1 0 60000000 60000000 1 1000000 1000000]"},
		{10, "A B", "c2 again admit 1 2 1 2 0 3 m 0 3 s 0", "[1 0 59999999 59999999 1 999999 999999]"},
		{10, "A", "c1 again one 1 3 m", "[1 0 59999990 59999999]"}, // where others have left no room
		{10, "A", "c3 one 1 3 m", "[0 0 59999990 59999999]"},       // while a new one is denied
		{10, "A", "c again one 1 3 m", "[0 0 59999990 59999999]"},  // a part of an id is not the id
		{10, "A", "c1.1 again one 1 3 m", "[0 0 59999990 59999999]"},
		{minute, "A", "c3 again one 1 3 m", "[1 0 9 60000000]"}, // c1 left, so what was denied is granted
		{minute, "A", "c3 again one 1 3 m", "[1 0 9 60000000]"},
		{minute + 1, "C", "c9 again one 1 3 m", "2"}, // one that never arrived
		{minute + 1, "C", "c9 again one 1 3 m", "2"},

		// Of three requests, one.
		{2 * minute, "D", "d1 admit 1 1 1 2 0 3 m 0", "[1 1 60000000 60000000]"},
		{2*minute + 1, "D", "d2 admit 1 1 3 1 0 3 m 0", "[1 0 59999999 60000000]"},
		{2*minute + 2, "D", "d2 again admit 1 1 3 1 0 3 m 0", "[1 0 59999998 59999999]"},
		// Two more would fit, which are told to ask again.
		{3 * minute, "D", "d2 again admit 1 1 3 1 0 3 m 0", "[1 2 1 1]"},

		// Of several questions, some granted, some in part, some not, some about no log.
		{0, "E F G G H", "e1 one 2 1 m admit 1 1 4 2 0 5 m 0 admit 1 1 1 4 0 5 m 0 one 1 1 m",
			"[1 0 60000000 60000000] [1 0 60000000 60000000] [2 1 60000000 60000000] " +
				"[0 1 60000000 60000000] [1 0 60000000 60000000]"},
		{1, "E F G G H", "e1 again one 2 1 m admit 1 1 4 2 0 5 m 0 admit 1 1 1 4 0 5 m 0 one 1 1 m",
			"[1 0 59999999 59999999] [1 0 59999999 59999999] [2 1 59999999 59999999] " +
				"[0 1 59999999 59999999] [1 0 59999999 59999999]"},

		// What is given back and deleted, is once.
		{0, "I", "f1 one 1 3 m", "2"},
		{1, "I J", "f2 settle 1 f1.1 1 0 1 0 m reset 1", "1 0"},
		{1, "I J", "f2 again settle 1 f1.1 1 0 1 0 m reset 1", "0 0"},
		{2, "I", "f3 one 1 3 m", "2"},
		{3, "I J", "f4 settle 1 f3.1 1 0 1 3 m settle 1 f1.1 1 0 1 9 m", "2 8"},
		{4, "I J", "f4 again settle 1 f3.1 1 0 1 3 m settle 1 f1.1 1 0 1 9 m", "0 0"},
	} {
		assert.Equal(t, row.reply, redis.on(t, row.at, row.logs, row.args), "%+v", row)
	}
	log := func(name string) map[string]int64 {
		entries := members(t, redis.client, redis.prefix+":"+name)
		for member := range entries {
			if entries[member] > 0 {
				entries[member] -= epoch
			}
		}
		return entries
	}
	assert.Equal(t, map[string]int64{"*": -1, "c2.1*2": 9, "c3.1": minute}, log("A"))
	assert.Equal(t, map[string]int64{"d2.1": 2*minute + 1}, log("D"))
	assert.Equal(t, map[string]int64{"*": -3, "e1.3*4": 0}, log("G"))
}

// A call that no caller waits for any more is told what it was granted, and is granted no more.
func TestKnown(t *testing.T) {
	redis := newClockedRedis(t)
	for _, row := range []struct {
		logs, args string
		reply      string
	}{
		{"A", "c1 one 1 3 m", "2"},
		{"A", "c1 known one 1 3 m", "[1 2 0 60000000]"},
		{"A", "c2 known one 1 3 m", "[0 2 0 60000000]"}, // it never arrived
		{"B", "c3 known one 1 3 m", "[0 3 0 0]"},
		{"C C D", "d1 admit 1 1 3 2 0 5 m 0 one 1 5 m admit 1 1 1 1 1 9 m 0",
			"[2 1 60000000 60000000] [1 0 60000000 60000000] 8"},
		{"C C D", "d1 known admit 1 1 3 2 0 5 m 0 one 1 5 m admit 1 1 1 1 1 9 m 0",
			"[2 0 60000000 60000000] [1 0 60000000 60000000] [1 8 0 60000000]"},
		{"A A", "e1 known admit 1 2 1 1 0 9 m 0 9 m 0", "[0 8 0 60000000 8 0 60000000]"},
		{"A", "e2 known admit 1 1 1 3 0 3 m m", "[0 2 60000000 60000000]"}, // and no ban begins
		// The caller of a reset was told that it may have failed, and others were admitted since.
		{"A", "e3 known reset 1", "0"},
	} {
		assert.Equal(t, row.reply, redis.on(t, 0, row.logs, row.args), "%+v", row)
	}
	assert.Equal(t, map[string]int64{"c1.1": epoch}, members(t, redis.client, redis.prefix+":A"))
	assert.Empty(t, members(t, redis.client, redis.prefix+":B"))
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
	for commands := range slices.Chunk(commands, 10) { // or the last would have waited for all others when its time is up
		for _, result := range client.DoMulti(context.Background(), commands...) {
			require.True(t, result.Error() == nil || rueidis.IsRedisNil(result.Error()), result.Error())
		}
	}
}

// An admitted request under one limit is the path that matters: one call, four commands.
func TestCommandsPerDecision(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	limiter := newOver(t, client, WithDenialCache(0, 0), patient)
	cached := newOver(t, client, patient)
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
			return name == "ping" || name == "hello" || name == "info" || strings.Contains(name, "|")
		})
		return counts
	}
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zcard": 10, "zcount": 9, "zadd": 10, "pexpire": 2},
		commands(limiter, PerHour("roomy", 1000), 10), "the first two set the expiry")
	assert.Equal(t, map[string]int{"evalsha": 1, "time": 1, "zcard": 2, "zadd": 1, "pexpire": 2, "zrange": 1},
		commands(limiter, PerHour("full", 1), 1), "one more, to say when the next has room")
	assert.Equal(t, map[string]int{"evalsha": 10, "time": 10, "zcard": 20, "zcount": 20, "pexpire": 10, "zrange": 20},
		commands(limiter, PerHour("full", 1), 10), "a denial adds nothing; PEXPIRE is there to be rejected where writes are")
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
				"admit 1 1 2 2 0 5 s 0", "admit 1 1 1 1 1 5 s 0", "admit 1 1 2 2 0 5 s 3000000", "admit 1 2 1 2 0 5 s 0 9 m 0",
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

// A user who lacks a right that a call needs gets the server's error, and the call has charged nothing. Rights that it
// does not need do not matter.
func TestMissingRights(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client(t)
	calls := []struct{ logs, args, needs string }{
		{"A", "c1 one 1 3 m", "time zcard zadd pexpire"},
		{"A B C", "c2 one 3 3 m", "time zcard zadd pexpire"},
		{"A some", "c3 one 2 9 m", "time zcard zcount zadd pexpire"},
		{"A old", "c4 one 2 9 m", "time zcard zcount zremrangebyscore zadd pexpire"},
		{"A some full", "c5 one 3 2 m", "time zcard zcount zadd pexpire zrange"},
		{"A full", "c6 one 1 9 m peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"A full", "c7 admit 1 1 2 2 1 9 m 0 peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"some B full", "c8 admit 2 1 1 3 0 9 m 0 peek 1 1 1 m 0", "time zcard zcount zadd pexpire zrange"},
		{"weighs full", "c9 admit 1 1 1 3 0 9 m 0 peek 1 1 1 m 0",
			"time zcard zcount zrangebyscore zadd pexpire zrange"},
		{"A B", "d1 again one 2 3 m", "time zcard zscore zadd pexpire"},
		{"A weighs", "d2 one 1 3 m settle 1 w.1 1 0 2 0 m", "time zcard zscore zadd pexpire zrem zrangebyscore unlink"},
		{"A weighs", "d2 one 1 3 m settle 1 w.1 1 0 2 9 m", "time zcard zscore zadd pexpire"},
		{"weighs A full", "d2 settle 2 w.1 1 0 2 9 m m peek 1 1 1 m 0",
			"time zcard zcount zscore zadd pexpire zrange"},
		{"A full", "d3 one 1 3 m reset 1", "time zcard zadd pexpire unlink"},
		{"A full", "d5 one 1 3 m renew 1 1 f.1 m", "time zcard zscore zadd pexpire"},
		{"A A:probe", "d4 probe",
			"time zcard zcount zscore zrange zrangebyscore zadd zrem zremrangebyscore zremrangebyrank unlink pexpire"},
	}
	all := strings.Fields(calls[len(calls)-1].needs)
	logs := []string{"A", "B", "C", "some", "full", "old", "weighs"}
	for _, c := range calls {
		for _, right := range all {
			redistest.Do(t, admin, "FLUSHALL")
			now := fmt.Sprint(time.Now().UnixMicro())
			redistest.Do(t, admin, "ZADD", "some", now, "s.1")
			redistest.Do(t, admin, "ZADD", "full", now, "f.1", now, "f.2")
			redistest.Do(t, admin, "ZADD", "old", "1", "o.1", now, "o.2")
			redistest.Do(t, admin, "ZADD", "weighs", "-1", "*", now, "w.1*2")
			entries := func() map[string]map[string]int64 {
				there := map[string]map[string]int64{}
				for _, log := range logs {
					there[log] = members(t, admin, log)
					for member := range there[log] {
						if member == "o.1" || member == "~" { // it may be removed, and remain: it charges nothing
							delete(there[log], member)
						}
					}
				}
				return there
			}
			before := entries()
			redistest.Do(t, admin, "ACL", "SETUSER", "some", "reset", "on", ">pw", "~*", "+@all", "-"+right)
			client, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{server.Addr}, Username: "some", Password: "pw", DisableCache: true, ForceSingleClient: true,
			})
			require.NoError(t, err)
			err = callOn(client, c.logs, c.args).Error()
			client.Close()
			if !slices.Contains(strings.Fields(c.needs), right) {
				require.NoError(t, err, "%s without %s", c.args, right)
				continue
			}
			// Redis 7.0 has no code for it.
			require.Equal(t, "NOPERM", dispatch.Code(err), "%s without %s: %v", c.args, right, err)
			if right == "zrem" || right == "unlink" || strings.Contains(c.args, "0 2 0 ") || strings.Contains(c.args, "renew") {
				continue // it cannot be taken back, or something may have been given back, or renewed
			}
			require.Equal(t, before, entries(), "%s without %s", c.args, right)
		}
	}
}

// What a call has charged is taken back when it fails, and what it has given back in the same log stays given back.
func TestFailureAfterSettles(t *testing.T) {
	server := redistest.Start(t)
	admin, now := server.Client(t), fmt.Sprint(time.Now().UnixMicro())
	redistest.Do(t, admin, "ZADD", "log", "-9", "*", now, "w.1*7", now, "x.1*4")
	redistest.Do(t, admin, "ZADD", "full", now, "f.1")
	redistest.Do(t, admin, "ACL", "SETUSER", "some", "reset", "on", ">pw", "~*", "+@all", "-zrange")
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{server.Addr}, Username: "some", Password: "pw", DisableCache: true, ForceSingleClient: true,
	})
	require.NoError(t, err)
	defer client.Close()
	args := "c settle 1 w.1 1 0 7 20 m settle 1 x.1 1 0 4 2 m peek 1 1 1 m 0"
	err = callOn(client, "log log full", args).Error()
	require.Equal(t, "NOPERM", dispatch.Code(err), err)
	left := members(t, admin, "log")
	assert.Equal(t, []string{"*", "w.1*7", "x.1=*2", "~"}, slices.Sorted(maps.Keys(left)))
	requireMarks(t, admin, "log")
}

// A server that takes no writes rejects a call before anything is written, and whatever the questions are. That its
// memory is full is no reason to deny what the limits admit.
func TestRejectedWrites(t *testing.T) {
	calls := []struct{ logs, args string }{
		{"A", "c1 one 1 3 m"}, {"full", "c2 one 1 1 m"}, {"A full", "c3 one 2 1 m"}, {"full A", "c4 one 2 1 m"},
		{"bad A", "c5 one 2 3 m"}, {"A", "c6 admit 1 1 2 2 0 4 m 0"}, {"full", "c7 admit 1 1 2 1 1 1 m 0"},
		{"A full", "c8 peek 2 1 1 m 0"}, {"full", "c9 settle 1 there.1 1 0 1 0 m"}, {"full", "c10 reset 1"},
		{"full full:probe", "c11 probe"}, {"old", "c12 one 1 3 1000"}, {"old", "c13 peek 1 1 3 1000 0"},
		{"A", "c14 again one 1 3 m"}, {"bad", "c15 one 1 3 m"}, {"A", "c16 settle 1 there.1 1 0 1 9 m"},
		{"full", "c17 renew 1 1 there.1 m"},
	}
	for _, refusal := range []struct{ code, on, off string }{
		{"READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"},
		{"NOREPLICAS", "CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"},
	} {
		t.Run(refusal.code, func(t *testing.T) {
			server := redistest.Start(t)
			client := server.Single(t)
			call := func(logs, args string) rueidis.RedisResult { return callOn(client, logs, args) }
			require.NoError(t, call("full", "there one 1 1 m").Error())
			require.NoError(t, call("old", "there one 1 1 m").Error())
			redistest.Do(t, client, "SET", "bad", "not a log")
			time.Sleep(2 * time.Millisecond) // so that what is in old has left a window of one
			before := dump(t, client, "full", "old", "bad", "A")
			redistest.Do(t, client, strings.Fields(refusal.on)...)
			for _, c := range calls {
				assert.ErrorContains(t, call(c.logs, c.args).Error(), refusal.code, "%+v", c)
			}
			redistest.Do(t, client, strings.Fields(refusal.off)...)
			assert.Equal(t, before, dump(t, client, "full", "old", "bad", "A"))
		})
	}
	t.Run("maxmemory", func(t *testing.T) {
		server := redistest.Start(t)
		client := server.Single(t)
		redistest.Do(t, client, "CONFIG", "SET", "maxmemory", "1")
		require.ErrorContains(t, client.Do(context.Background(), client.B().Set().Key("x").Value("y").Build()).Error(), "OOM")
		for _, row := range []struct{ logs, args, reply string }{
			{"A", "c1 one 1 3 m", "2"},
			{"B C B", "c2 one 2 3 m reset 1", "2 2 0"},
			{"D", "c3 admit 1 1 1 2 1 9 m 0", "7"},
			{"A D", "c4 again one 2 3 m", "1 [1 0 "},
			{"D", "c5 settle 1 c3.1 1 0 2 0 m", "2"},
			{"D", "c6 settle 1 c4.1 1 0 2 9 m", "7"},
			{"D D:probe", "c7 probe", "0"},
		} {
			reply, err := callOn(client, row.logs, row.args).ToArray()
			require.NoError(t, err, "%+v", row)
			assert.True(t, strings.HasPrefix(text(t, reply), row.reply), "%s of %+v", text(t, reply), row)
		}
	})
}

// dump returns what is in keys, and when they expire.
func dump(t *testing.T, client rueidis.Client, keys ...string) (all []string) {
	for _, key := range keys {
		value, err := redistest.Do(t, client, "DUMP", key).ToString()
		require.True(t, err == nil || rueidis.IsRedisNil(err))
		expires, err := redistest.Do(t, client, "PEXPIRETIME", key).AsInt64()
		require.NoError(t, err)
		all = append(all, fmt.Sprintf("%s: %q until %d", key, value, expires))
	}
	return all
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

// A cost that is charged behind expired entries that the call could not remove waits for live ones.
func TestCostBehindManyExpired(t *testing.T) {
	redis := newClockedRedis(t)
	fill(t, redis.client, redis.prefix+":A", epoch, 3000, "")
	fill(t, redis.client, redis.prefix+":A", epoch+30_000_000, 5, "y")
	assert.Equal(t, "[1 0 29995000 60000000]", redis.on(t, minute+5000, "A", "c1 admit 1 1 1 5 0 10 m 0"))
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
					ttl, err := redistest.Do(t, client, "PTTL", string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
					require.NoError(t, err)
					assert.Greater(t, ttl, window.Milliseconds())
				}()
			}
		}
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

// A call with arguments that are none fails and writes nothing.
func TestBadArgumentsWriteNothing(t *testing.T) {
	redis := newClockedRedis(t)
	require.Equal(t, "8", redis.on(t, 0, "A", "good one 1 9 1000000"))
	for _, args := range []string{
		"", "id", "id what", "id probe what",

		"id one", "id one 1", "id one 1 3", "id one x 3 1000", "id one 1 x 1000", "id one 1 3 x", "id one 1 3 1000",
		"id one 3 3 1000", "id one 2 3 1000 x", "id one 2 3 1000 one", "id one 1 3 1000 what", "id one 2 3 1000 probe",
		"id again one 1 3", "id again one 1 3 1000",

		"id admit", "id admit 1 1 1 1 0", "id admit 1 1 1 1 0 3", "id admit 1 1 1 1 0 3 x 0", "id admit 1 2 1 1 0 3 1000 3",
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
	const h = "3600000000"
	const hour = 3600 * second
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		for n := range 4 {
			assert.EqualValues(t, 4-n-1, call(log, fmt.Sprint("a", n, verb))[min(1, n/3)]/int64(i+1))
		}
	}
	server.StepClock(t, -24*time.Hour)
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
	server.StepClock(t, time.Hour)
	for i, log := range []string{"plain", "weighted"} {
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		assert.EqualValues(t, 3*(i+1), call(log, fmt.Sprint("c", verb))[0],
			"a window after the moment to which they were moved")
	}
	server.StepClock(t, -12*time.Hour)
	for i, log := range []string{"plain", "weighted"} { // there is room: what is from the future takes its own and no more
		verb := []string{" one 1 4 " + h, " admit 1 1 1 2 0 8 " + h + " 0"}[i]
		assert.EqualValues(t, 2*(i+1), call(log, fmt.Sprint("d", verb))[0])
		requireMarks(t, client, log)
	}
	server.StepClock(t, 365*24*time.Hour)
	for _, log := range []string{"plain", "weighted"} {
		exists, err := redistest.Do(t, client, "EXISTS", log).AsInt64()
		require.NoError(t, err)
		assert.Zero(t, exists)
	}
}
