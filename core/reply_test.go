package core

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

func TestDecodeReply(t *testing.T) {
	one, two := PerSecond("one", 3), PerMinute("two", 5)
	q := &question{verb: admit, cost: 1, limits: []Limit{one}}

	a, err := decodeInteger(2, 1, q)
	require.NoError(t, err)
	d := a.decision(0, 1, q.limits)
	assert.Equal(t, Decision{
		Allowed: true, Source: SourceRedis, State: State{Limit: one, Remaining: 2, ResetAfter: time.Second},
	}, d)
	for _, remaining := range []int64{-2, 0, 3, 1 << 62} {
		_, err := decodeInteger(remaining, 1, q)
		assert.Error(t, err, remaining)
	}
	for _, bad := range [][]int64{
		nil, {1}, {1, 0, 0}, {1, 0, 0, 0, 0, 0}, {1, 0, 0, 0, -1},
		{2, 0, 0, 0}, {-1, 0, 0, 0}, {1, 4, 0, 0}, {1, 3, 0, 0}, {1, 0, 0, -1},
		{0, 0, 9_300_000_000_000_000, 0}, {0, 0, -9_300_000_000_000_000, 0}, {0, 0, 0, 9_300_000_000_000_000},
	} {
		_, err := decodeList(bad, 1, q)
		assert.Error(t, err, "%d", bad)
	}

	q.limits = []Limit{one, two}
	a, err = decodeList([]int64{0, -2, 17, 900, 1, 0, 60}, 1, q)
	require.NoError(t, err)
	assert.Equal(t, 17*time.Microsecond, a.denialTTL(q.limits))
	d = a.decision(0, 1, q.limits)
	assert.False(t, d.Allowed)
	assert.Equal(t, State{Limit: one, RetryAfter: 17 * time.Microsecond, ResetAfter: 900 * time.Microsecond}, d.State)
	assert.Equal(t, []State{d.State, {Limit: two, Remaining: 1, ResetAfter: 60 * time.Microsecond}}, d.States())
	a, err = decodeList([]int64{0, -2, -17, 900, 1, 0, 60}, 1, q)
	require.NoError(t, err)
	assert.Zero(t, a.denialTTL(q.limits), "units may be given back")
	assert.Equal(t, d, a.decision(0, 1, q.limits))

	// Of five requests of cost two, three are granted.
	q.limits, q.cost = []Limit{PerSecond("ten", 10)}, 2
	a, err = decodeList([]int64{3, 1, 70, 900}, 5, q)
	require.NoError(t, err)
	for place, want := range []State{
		{Remaining: 5}, {Remaining: 3}, {Remaining: 1, RetryAfter: 70 * time.Microsecond},
		{Remaining: 1, RetryAfter: 70 * time.Microsecond}, {Remaining: 1, RetryAfter: 70 * time.Microsecond},
	} {
		want.Limit, want.ResetAfter = q.limits[0], 900*time.Microsecond
		assert.Equal(t, Decision{Allowed: place < 3, State: want, Source: SourceRedis}, a.decision(place, 2, q.limits))
	}
	a, err = decodeInteger(4, 3, q)
	require.NoError(t, err)
	for place, remaining := range []int{8, 6, 4} {
		d := a.decision(place, 2, q.limits)
		want := State{Limit: q.limits[0], Remaining: remaining, ResetAfter: time.Second}
		assert.Equal(t, Decision{Allowed: true, State: want, Source: SourceRedis}, d)
	}
	_, err = decodeInteger(5, 3, q)
	assert.Error(t, err, "more than is left of ten")
}

// What a server says to a question, in the words of the protocol, and what becomes of it.
func TestDecodeMessage(t *testing.T) {
	client := redistest.Shared(t).Client(t)
	one, two := PerSecond("one", 3), PerMinute("two", 5)
	for _, row := range []struct {
		reply  string // in Lua
		verb   verb
		limits []Limit
		want   answer
		fails  string
	}{
		{reply: "2", limits: []Limit{one}, want: answer{granted: 1, remaining: 2}},
		{reply: "{1, 2, 0, 7}", limits: []Limit{one}, want: answer{granted: 1, logs: []int64{2, 0, 7}}},
		{reply: "{0, 0, -5, 7}", limits: []Limit{one}, want: answer{logs: []int64{0, 5, 7}, mayEndEarly: true}},
		{reply: "-1", limits: []Limit{one}, want: answer{unanswered: true}},
		{reply: "-1", limits: []Limit{one, two}, want: answer{unanswered: true}},
		{reply: "-1", verb: peek, limits: []Limit{one}, want: answer{unanswered: true}},
		{reply: "7", verb: settle, limits: []Limit{one, two}},
		{reply: "0", verb: reset, limits: []Limit{one}},
		{reply: "{1, 3, 0, 0}", verb: peek, limits: []Limit{one}, want: answer{granted: 1, logs: []int64{3, 0, 0}}},
		{reply: "2", verb: peek, limits: []Limit{one}, fails: "answer 2 to 1 limits"},
		{reply: "2", limits: []Limit{one, two}, fails: "answer 2 to 2 limits"},
		{reply: "{1, 3, 0, 0}", limits: []Limit{one}, fails: "answer [1 3 0 0]"},
		{reply: "'WRONGTYPE of a log'", limits: []Limit{one}, fails: "WRONGTYPE of a log"},
		{reply: "'WRONGTYPE of a log'", verb: settle, limits: []Limit{one}, fails: "WRONGTYPE of a log"},
		{reply: "{err='ERR in a list'}", limits: []Limit{one}, fails: "in a list"},
		{reply: "{'x', 1, 2, 3}", limits: []Limit{one}, fails: "x"},
		{reply: "{1}", limits: []Limit{one}, fails: "answer [1]"},
		{reply: "{}", limits: []Limit{one}, fails: "answer []"},
		{reply: "false", limits: []Limit{one}, fails: "nil"},
		{reply: "{ok='OK'}", limits: []Limit{one}, fails: "OK"},
	} {
		q := &question{verb: row.verb, cost: 1, limits: row.limits}
		reply, err := redistest.Do(t, client, "EVAL", "return { "+row.reply+" }", "0").ToArray()
		require.NoError(t, err)
		message := rueidis.RedisMessage{}
		if len(reply) > 0 {
			message = reply[0]
		}
		got, err := decode(message, 1, q)
		if row.fails == "" {
			assert.NoError(t, err, row.reply)
			assert.Equal(t, row.want, got, row.reply)
			continue
		}
		assert.Zero(t, got, row.reply)
		if assert.Error(t, err, row.reply) {
			assert.Contains(t, strings.ToLower(err.Error()), strings.ToLower(row.fails), row.reply)
		}
	}
}

// A reply that has not one element for each question is none of the script's.
func TestReplyOfAnotherLength(t *testing.T) {
	redis := newClockedRedis(t)
	limit := PerMinute("a", 3)
	for _, script := range []string{"return {}", "return {1, 1, 1}"} {
		message, err := redistest.Do(t, redis.client, "EVAL", script, "0").ToArray()
		require.NoError(t, err)
		redis.batch.Encode([]*question{redis.question(admit, "ann", 1, limit), redis.question(admit, "bob", 1, limit)})
		_, err = redis.batch.Decode(message)
		assert.ErrorContains(t, err, "the numbers of answers and of questions differ")
	}
}

// Whatever a server that is not ours replies, a decision that comes of it makes sense.
func FuzzDecodeReply(f *testing.F) {
	f.Add(int64(1), int64(2), int64(0), int64(1000), int64(0), int64(17), int64(17), 7, 1)
	f.Add(int64(0), int64(-2), int64(5), int64(1000), int64(3), int64(0), int64(0), 7, 3)
	f.Add(int64(0), int64(-2), int64(-5), int64(1000), int64(3), int64(-1), int64(0), 7, 3)
	const far = int64(9_300_000_000_000_000)
	f.Add(int64(0), int64(0), far, far, int64(0), int64(0), int64(0), 4, 1)
	f.Add(int64(0), int64(0), int64(-1<<63), int64(1), int64(0), int64(0), int64(0), 4, 1)
	f.Add(int64(1), int64(-1), int64(-1), int64(-1), int64(1<<62), int64(1<<62), int64(1<<62), 4, 2)
	f.Fuzz(func(t *testing.T, a, b, c, d, e, f, g int64, n, requests int) {
		reply := []int64{a, b, c, d, e, f, g}
		reply = reply[:min(max(n, 0), len(reply))]
		requests = min(max(requests, 1), 3)
		for _, q := range []*question{
			{limits: []Limit{PerSecond("one", 3)}},
			{limits: []Limit{PerSecond("one", 3), PerMinute("two", 5)}},
			{verb: peek, limits: []Limit{PerSecond("one", 3)}},
		} {
			q.cost = 1
			var answers []answer
			if decoded, err := decodeList(append([]int64(nil), reply...), requests, q); err == nil {
				answers = append(answers, decoded)
			}
			if decoded, err := decodeInteger(a, requests, q); err == nil && q.verb == admit && len(q.limits) == 1 {
				answers = append(answers, decoded)
			}
			for _, decoded := range answers {
				for place := range requests {
					states := decoded.decision(place, 1, q.limits).States()
					if len(states) != len(q.limits) {
						t.Fatalf("%d gives %d states", reply, len(states))
					}
					for i, state := range states {
						if state.Limit != q.limits[i] || state.Remaining < 0 || state.Remaining > q.limits[i].Max ||
							state.RetryAfter < 0 || state.ResetAfter < 0 {
							t.Fatalf("%d gives %+v to request %d of %d", reply, state, place, requests)
						}
					}
				}
			}
		}
	})
}
