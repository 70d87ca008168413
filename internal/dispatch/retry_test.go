package dispatch

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// What fails is asked again if this can help, with the same id, and if not its callers know at once.
func TestEveryError(t *testing.T) {
	broken := errors.New("something of the client's own")
	const ever = 1 << 30
	rejects := func(text string) error { return rejection(t, text) }
	for name, row := range map[string]struct {
		err   error
		times int // how many calls fail
		calls int // how many there are for one question
		fails bool
	}{
		"EOF once":            {err: io.EOF, times: 1, calls: 2},
		"EOF nine times":      {err: io.EOF, times: 9, calls: 10},
		"EOF for good":        {err: io.EOF, times: ever, calls: 10, fails: true},
		"of the client's own": {err: broken, times: 2, calls: 3},
		"closing":             {err: rueidis.ErrClosing, times: ever, calls: 10, fails: true},
		"a deadline":          {err: context.DeadlineExceeded, times: 1, calls: 2},

		"NOPERM":      {err: rejects("NOPERM no"), times: 1, calls: 1, fails: true},
		"NOREPLICAS":  {err: rejects("NOREPLICAS no"), times: 1, calls: 1, fails: true},
		"LOADING":     {err: rejects("LOADING no"), times: 1, calls: 1, fails: true},
		"BUSY":        {err: rejects("BUSY no"), times: 1, calls: 1, fails: true},
		"MASTERDOWN":  {err: rejects("MASTERDOWN no"), times: 1, calls: 1, fails: true},
		"CLUSTERDOWN": {err: rejects("CLUSTERDOWN no"), times: 1, calls: 1, fails: true},
		"OOM":         {err: rejects("OOM no"), times: 1, calls: 1, fails: true},
		"ERR":         {err: rejects("ERR no"), times: 1, calls: 1, fails: true},

		"READONLY once":        {err: rejects("READONLY no"), times: 1, calls: 2},
		"READONLY 99 times":    {err: rejects("READONLY no"), times: 99, calls: 100},
		"READONLY for good":    {err: rejects("READONLY no"), times: ever, calls: 1000, fails: true},
		"TRYAGAIN fifty times": {err: rejects("TRYAGAIN no"), times: 50, calls: 51},
		"ERR instead of TRYAGAIN, Valkey 9": {
			err: rejects("ERR Attempted to access a non local key in a cluster node script: " +
				"x, on @user_script:2."),
			times: 1, calls: 2,
		},
		"ERR instead of TRYAGAIN": {
			err: rejects("ERR Script attempted to access a non local key in a cluster node script: " +
				"x, on @user_script:2."),
			times: 1, calls: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var left atomic.Int64
			left.Store(int64(row.times))
			d := start(t, redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				if left.Add(-1) >= 0 {
					return rueidis.NewErrorResult(row.err)
				}
				return send()
			}))
			q := d.about("a")
			err := d.Do(context.Background(), q)
			if row.fails {
				assert.ErrorIs(t, err, row.err)
			} else if assert.NoError(t, err) {
				assert.EqualValues(t, 1, q.count)
			}
			_, rejected := rueidis.IsRedisErr(row.err)
			calls := d.client.Sent(redistest.IsCall)
			assert.Len(t, calls, row.calls)
			for i, words := range calls {
				if strings.Contains(name, "TRYAGAIN") {
					continue // it has a new id, as it had no effect
				}
				want := []string{"id1"}
				if i > 0 && !rejected {
					want = []string{"again", "id1"}
				}
				assert.Equal(t, want, words[4:])
			}
			left.Store(0)
			d.eventually(func() bool { return d.nodes.link(0).breaker.incident.Load() == nil })
			assert.NoError(t, d.Do(context.Background(), d.about("b")))
		})
	}
}

// The attempts of a call that meet a slot that moves are not counted as lost ones, however many they are.
func TestLossesWhileASlotMoves(t *testing.T) {
	moves := rejection(t, "TRYAGAIN no")
	var n atomic.Int32
	d := start(t, redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		switch i := n.Add(1); {
		case i == 1, i == 22, i == 23:
			return rueidis.NewErrorResult(io.EOF)
		case i < 22:
			return rueidis.NewErrorResult(moves)
		}
		return send()
	}))
	assert.NoError(t, d.Do(context.Background(), d.about("a")))
	for i, words := range d.client.Sent(redistest.IsCall) {
		assert.Equal(t, i > 0, words[4] == "again")
	}
}

// A call is not sent again when what it did may have expired, nor if no caller waits for it.
func TestNotSentAgain(t *testing.T) {
	lose := func([]string, func() rueidis.RedisResult) rueidis.RedisResult { return rueidis.NewErrorResult(io.EOF) }
	d := start(t, redistest.OnlyCalls(lose), func(c *Config[*question]) {
		c.Batches = batches(func() Batch[*question] { return &fakeBatch{id: func() string { return "id" }} })
	})
	assert.ErrorIs(t, d.Do(context.Background(), d.about("a")), io.EOF)
	assert.Len(t, d.client.Sent(redistest.IsCall), 1)

	d, g := gated(t)
	ctx, cancel := context.WithCancel(context.Background())
	o := d.ask(ctx, d.about("a"))
	call := <-g.Came
	cancel()
	assert.ErrorIs(t, o.wait(t).err, context.Canceled)
	call.Fail(io.EOF)
	d.Close()
	assert.Len(t, d.client.Sent(redistest.IsCall), 1)
}
