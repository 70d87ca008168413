package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A caller that leaves says nothing about Redis, which is only slow. If all of them leave early and Redis answers
// none of them, this is noticed all the same.
func TestLeavingIsNoEvidence(t *testing.T) {
	for name, row := range map[string]struct {
		leave func() (context.Context, context.CancelFunc)
		err   error
	}{
		"cancelled": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(5*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 5*time.Millisecond)
		}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			hangs := make(chan struct{})
			var hung atomic.Bool
			d := start(t, func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				if hung.Load() {
					<-hangs
				}
				time.Sleep(20 * time.Millisecond)
				return send()
			}, func(c *Config[*question]) { c.Timeout = 400 * time.Millisecond })
			resume := sync.OnceFunc(func() { hung.Store(false); close(hangs) })
			t.Cleanup(resume) // before Close
			leave := func() error {
				ctx, cancel := row.leave()
				defer cancel()
				return d.Do(ctx, d.about("a"))
			}
			for range 30 {
				assert.ErrorIs(t, leave(), row.err)
			}
			assert.Empty(t, d.changed(), "Redis answers")
			hung.Store(true)
			d.eventually(func() bool {
				leave()
				return slices.Contains(d.changed(), change{HalfOpen, Open})
			})
			resume()
			d.eventually(func() bool { return d.Do(context.Background(), d.about("a")) == nil })
			for len(d.late) > 0 {
				<-d.late
			}
		})
	}
}

// What a call has done whose connection is lost is found out once Redis answers again, though its callers have got an
// error, if they want back what they may have been granted.
func TestUnknownOutcome(t *testing.T) {
	for name, row := range map[string]struct {
		unwanted, executed bool
		calls              int
	}{
		"executed":                    {true, true, 2},
		"not executed":                {true, false, 2},
		"decided by a failure policy": {false, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var up atomic.Bool
			d := start(t, func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
				if !up.Load() {
					if redistest.IsCall(words) && row.executed {
						send()
					}
					return rueidis.NewErrorResult(io.EOF)
				}
				return send()
			}, func(c *Config[*question]) { c.Timeout = 50 * time.Millisecond })
			q := d.about("a")
			assert.ErrorIs(t, d.Do(context.Background(), q), io.EOF)
			q.unwanted.Store(row.unwanted)
			assert.ErrorIs(t, d.Do(context.Background(), d.about("b")), io.EOF, "the breaker is open")
			time.Sleep(10 * time.Millisecond)
			assert.Len(t, d.client.Sent(redistest.IsCall), 1, "nothing is sent meanwhile")
			up.Store(true)
			if row.unwanted {
				assert.Equal(t, q.key, redistest.Receive(t, d.late))
				assert.Equal(t, map[bool]int64{true: 1}[row.executed], q.count)
			}
			d.eventually(func() bool { return d.Do(context.Background(), d.about("c")) == nil })
			d.Close() // which waits for what is in flight
			calls := d.client.Sent(redistest.IsCall)
			require.Len(t, calls, row.calls+1)
			for _, words := range calls[1:] {
				assert.Equal(t, names(words)[0] == "a", words[4] == "known", "%q", words)
			}
		})
	}
}

// This is also found out if the breaker closes as soon as it has opened, before the caller can say what it wants.
func TestUnknownOutcomeAndClosed(t *testing.T) {
	var lost atomic.Bool
	opened := make(chan struct{})
	d := start(t, func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		switch {
		case !redistest.IsCall(words):
			<-opened // the answer to a probe is on its way meanwhile
		case !lost.Swap(true):
			send()
			return rueidis.NewErrorResult(io.EOF)
		}
		return send()
	}, func(c *Config[*question]) {
		c.Timeout = 50 * time.Millisecond
		c.Changed = func(_, to State, _ time.Duration, _ error) {
			if to == Open {
				close(opened)
			}
		}
	})
	q := d.about("a")
	assert.ErrorIs(t, d.Do(context.Background(), q), io.EOF)
	time.Sleep(time.Millisecond)
	q.unwanted.Store(true)
	assert.Equal(t, q.key, redistest.Receive(t, d.late))
	assert.EqualValues(t, 1, q.count)
}

// That an attempt is rejected does not tell what an earlier one has granted, whose reply was lost.
func TestUnknownOutcomeAndRejected(t *testing.T) {
	var calls atomic.Int32
	rejected := rejection(t, "MISCONF no disk")
	d := start(t, redistest.OnlyCalls(func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		switch calls.Add(1) {
		case 1:
			send()
			return rueidis.NewErrorResult(io.EOF)
		case 2, 3:
			return rueidis.NewErrorResult(rejected)
		}
		return send()
	}))
	q := d.about("a")
	q.unwanted.Store(true) // if it fails
	assert.ErrorContains(t, d.Do(context.Background(), q), "MISCONF")
	assert.Equal(t, q.key, redistest.Receive(t, d.late))
	assert.EqualValues(t, 1, q.count)
	d.Close()
	sent := d.client.Sent(redistest.IsCall)
	require.Len(t, sent, 4)
	assert.Equal(t, "again", sent[1][4])
	assert.Equal(t, "known", sent[3][4])
}

// A call whose outcome stays unknown is given up when the Dispatcher is closed, or when it may no longer be sent again.
func TestUnknownForGood(t *testing.T) {
	var up atomic.Bool
	d := start(t, func(words []string, send func() rueidis.RedisResult) rueidis.RedisResult {
		if !up.Load() {
			return rueidis.NewErrorResult(errors.New("lost"))
		}
		return send()
	}, func(c *Config[*question]) {
		c.Timeout = 20 * time.Millisecond
		c.Batches = batches(func() Batch[*question] {
			return &fakeBatch{id: func() string { return "id" }, retryFor: 100 * time.Millisecond}
		})
	})
	for i := range 3 {
		d.eventually(func() bool { return d.nodes.link(0).breaker.incident.Load() == nil })
		up.Store(false)
		q := d.about(fmt.Sprint(i))
		assert.Error(t, d.Do(context.Background(), q))
		q.unwanted.Store(true)
		time.Sleep(100 * time.Millisecond)
		up.Store(i < 2)
	}
	before := len(d.client.Sent(redistest.IsCall))
	d.Close()
	assert.Len(t, d.client.Sent(redistest.IsCall), before)
	assert.Empty(t, d.late)
}
