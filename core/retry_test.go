package core

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// losing loses calls of the script for as long as left is positive: the replies, or the requests.
func losing(left *atomic.Int32, requests bool) redistest.Hook {
	return redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if left.Add(-1) < 0 {
			return send()
		}
		if !requests {
			send()
		}
		return rueidis.NewErrorResult(io.EOF)
	})
}

// A request that is sent again is charged once, be it the request that was lost or the reply.
func TestAskedAgainChargedOnce(t *testing.T) {
	for name, requests := range map[string]bool{"requests lost": true, "replies lost": false} {
		t.Run(name, func(t *testing.T) {
			var left atomic.Int32
			client, prefix := redistest.Shared(t).Hooked(t, losing(&left, requests)), redistest.Prefix()
			limiter := newOver(t, client, WithPrefix(prefix), patient, OnFailure(FailClosed))
			ctx, limit, other := context.Background(), PerHour("a", 4), PerHour("b", 9)
			charged := func(limit Limit) int64 {
				n, err := redistest.Do(t, client.Client, "ZCARD",
					string(appendLogKey(nil, prefix, "ann", limit))).AsInt64()
				require.NoError(t, err)
				return n
			}
			for i, row := range []struct {
				cost          int
				limits        []Limit
				allowed       bool
				remaining     int
				chargedA, toB int64
			}{
				{1, []Limit{limit}, true, 3, 1, 0},
				{2, []Limit{limit, other}, true, 1, 3, 2},
				{2, []Limit{limit, other}, false, 1, 3, 2},
				{1, []Limit{limit}, true, 0, 4, 2}, // the last unit, which a replay must not find taken
				{1, []Limit{limit, other}, false, 0, 4, 2},
			} {
				left.Store(2)
				d, err := limiter.AllowN(ctx, "ann", row.cost, row.limits...)
				require.NoError(t, err, i)
				assert.Equal(t, row.allowed, d.Allowed, i)
				assert.Equal(t, row.remaining, d.Remaining, i)
				assert.Equal(t, row.chargedA, charged(limit), i)
				assert.Equal(t, row.toB, charged(other), i)
			}
		})
	}
}

// A call is not sent again when what it charged may have expired, and so would be charged anew.
func TestNotAskedAgainAfterTheWindow(t *testing.T) {
	var left atomic.Int32
	left.Store(100)
	client := redistest.Shared(t).Hooked(t, losing(&left, false))
	limiter := newOver(t, client, WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed))
	short := Limit{Name: "short", Max: 5, Window: time.Millisecond}
	_, err := limiter.Allow(context.Background(), "ann", PerDay("day", 9), short)
	assert.ErrorIs(t, err, io.EOF)
	assert.Less(t, len(client.Sent(redistest.IsCall)), 10, "it is given up before all attempts are used")
}

// A call that is sent again within the window may arrive after it, and would be charged twice. So it is sent again
// within half of the window only.
func TestNotAskedAgainLate(t *testing.T) {
	limit := Limit{Name: "a", Max: 5, Window: 400 * time.Millisecond}
	server := redistest.Start(t, redistest.AppendOnly...)
	var calls atomic.Int32
	client := server.Hooked(t, redistest.OnlyCalls(
		func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
			if calls.Add(1) > 1 {
				time.Sleep(200 * time.Millisecond)
				return send()
			}
			send()
			time.Sleep(240 * time.Millisecond)
			return rueidis.NewErrorResult(io.EOF)
		}))
	redistest.Do(t, client.Client, "SCRIPT", "LOAD", lua.Decide) // or the first call may have no effect
	limiter := newOver(t, client, WithPrefix("p"), patient, OnFailure(FailClosed))
	_, err := limiter.Allow(context.Background(), "ann", limit)
	assert.ErrorIs(t, err, io.EOF)
	assert.Len(t, server.Admissions(t)[string(appendLogKey(nil, "p", "ann", limit))], 1)
}
