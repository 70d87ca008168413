package core

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

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
