package core

import (
	"context"
	"fmt"
	"log/slog"
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

// gate is a client on whose way to Redis each call stops until the test lets it pass.
type gate struct {
	rueidis.Client
	came chan *gatedCall
}

// gatedCall is a call at the gate.
type gatedCall struct {
	words []string
	pass  chan error // lets it pass, or makes it fail
}

func (g *gate) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c := &gatedCall{slices.Clone(cmd.Commands()), make(chan error)}
	if c.words[0] != "EVALSHA" || c.words[len(c.words)-1] == "probe" {
		return g.Client.Do(ctx, cmd)
	}
	g.came <- c
	if err := <-c.pass; err != nil {
		return rueidis.NewErrorResult(err)
	}
	return g.Client.Do(ctx, cmd)
}

// gated is a limiter behind a gate, on an empty keyspace of its own.
type gated struct {
	*testing.T
	*gate
	limiter *Limiter
	limit   Limit
}

func newGated(t *testing.T, max int, opts ...Option) gated {
	g := &gate{Client: redistest.Shared(t).Client(t), came: make(chan *gatedCall)}
	limiter, err := New(g, append([]Option{WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		limiter.Close()
		close(g.came) // nothing comes any more
	})
	return gated{t, g, limiter, PerHour("hot", max)}
}

// outcome is what an Allow came to. It is read after done.
type outcome struct {
	Decision
	err  error
	done chan struct{}
}

// allow asks in a goroutine of its own.
func (g gated) allow(ctx context.Context, key string, cost int, limits ...Limit) *outcome {
	o := &outcome{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.Decision, o.err = g.limiter.AllowN(ctx, key, cost, limits...)
	}()
	return o
}

// lead has two calls come to the gate, so that questions that come now wait.
func (g gated) lead() (outcomes []*outcome, calls []*gatedCall) {
	for range 2 {
		outcomes = append(outcomes, g.allow(context.Background(), "lead", 1, g.limit))
		calls = append(calls, <-g.came)
	}
	return outcomes, calls
}

func (o *outcome) wait(t *testing.T) *outcome {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(10 * time.Second):
		t.Fatal("no outcome")
	}
	return o
}

// charged is how many units a log holds.
func (g gated) charged(key string) int {
	d, err := g.limiter.Peek(context.Background(), key, g.limit)
	require.NoError(g, err)
	return g.limit.Max - d.Remaining
}

// While two calls are in flight, questions gather, and go in one call: equal ones as one question, others beside them.
func TestQuestionsShareCalls(t *testing.T) {
	g := newGated(t, 5)
	lead, calls := g.lead()
	var ann, others []*outcome
	for range 7 {
		ann = append(ann, g.allow(context.Background(), "ann", 1, g.limit))
	}
	others = append(others,
		g.allow(context.Background(), "bob", 1, g.limit), g.allow(context.Background(), "ann", 1, PerDay("day", 2)),
		g.allow(context.Background(), "bob", 2, g.limit, PerDay("day", 2)))
	time.Sleep(50 * time.Millisecond) // until all are in the queue; if some are not, they go in a call of their own
	calls[0].pass <- nil
	go func() {
		for call := range g.came {
			call.pass <- nil
		}
	}()
	admitted, remaining := 0, map[int]bool{}
	for _, o := range ann {
		require.NoError(t, o.wait(t).err)
		if o.Allowed {
			admitted++
			assert.False(t, remaining[o.Remaining], "each has its own place")
			remaining[o.Remaining] = true
		} else {
			assert.Positive(t, o.RetryAfter)
		}
	}
	assert.Equal(t, 5, admitted)
	calls[1].pass <- nil
	for _, o := range slices.Concat(others, lead) {
		require.NoError(t, o.wait(t).err)
		assert.True(t, o.Allowed)
	}
	assert.Equal(t, 3, g.charged("bob"))
}

// panicky is a client of the user's own with a mistake in it.
type panicky struct {
	rueidis.Client
	panics atomic.Bool
}

func (p *panicky) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if p.panics.Load() {
		panic("in a hook")
	}
	return p.Client.Do(ctx, cmd)
}

func (p *panicky) Nodes() map[string]rueidis.Client {
	if p.panics.Load() {
		panic("in a hook")
	}
	return p.Client.Nodes()
}

// A panic in the user's client is an error, and leaves nothing waiting: not when the limiter is made, not in a call or a probe.
func TestPanicInAClient(t *testing.T) {
	client := &panicky{Client: redistest.Shared(t).Client(t)}
	client.panics.Store(true)
	limiter, err := New(client, WithPrefix(redistest.Prefix()), OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	limit := PerHour("a", 1000)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := limiter.Allow(context.Background(), "ann", limit)
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, "the Redis client panicked: in a hook")
		})
	}
	all.Wait()
	client.panics.Store(false)
	require.Eventually(t, func() bool {
		d, err := limiter.Allow(context.Background(), "ann", limit)
		return err == nil && d.Remaining == 999
	}, 10*time.Second, time.Millisecond)
}

// Row 17 of "What got through": concurrent large costs admit what fits, and a queue that we make is no outage. Redis is a process
// of its own, which a busy machine may not run for longer than the timeout. So if requests are decided without it, another
// client must have waited for it too, and the test begins anew.
func TestConcurrentLargeCosts(t *testing.T) {
	server := redistest.Start(t)
	limiter, err := Connect(server.URL(), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer limiter.Close()
	limit, other := PerHour("bytes", 100_000), server.Client(t)
	for attempt := range 50 {
		var admitted, elsewhere atomic.Int64
		var all, pings sync.WaitGroup
		done, slowest := make(chan struct{}), time.Duration(0)
		pings.Go(func() {
			for {
				begun := time.Now()
				redistest.Do(t, other, "PING")
				slowest = max(slowest, time.Since(begun))
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		for range 400 {
			all.Go(func() {
				d, err := limiter.AllowN(context.Background(), fmt.Sprint("ann", attempt), 1000, limit)
				assert.NoError(t, err)
				if d.Source == SourceInProcess {
					elsewhere.Add(1)
				} else if d.Allowed {
					admitted.Add(1000)
				}
			})
		}
		all.Wait()
		close(done)
		pings.Wait()
		assert.LessOrEqual(t, admitted.Load(), int64(100_000))
		if elsewhere.Load() == 0 {
			assert.EqualValues(t, 100_000, admitted.Load())
			return
		}
		require.Greater(t, slowest, 50*time.Millisecond, "Redis answers another client, and %d requests are decided without it", elsewhere.Load())
	}
	t.Fatal("this machine is too busy")
}

// Row 27 of "What got through": where units are given back, no instance denies while there is room.
func TestProvisionalDenialsAreNotCached(t *testing.T) {
	url, prefix := redistest.Shared(t).URL(), redistest.Prefix()
	var limiters [2]*Limiter
	for i := range limiters {
		limiter, err := Connect(url, WithPrefix(prefix), patient, OnFailure(FailClosed))
		require.NoError(t, err)
		defer limiter.Close()
		limiters[i] = limiter
	}
	a, b := limiters[0], limiters[1]
	ctx, limit := context.Background(), PerHour("login", 1)
	for range 3 {
		d, err := a.Provisional().Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		for range 2 {
			denied, err := b.Allow(ctx, "ann", limit)
			require.NoError(t, err)
			require.False(t, denied.Allowed)
			assert.Positive(t, denied.RetryAfter)
			assert.Equal(t, SourceRedis, denied.Source)
		}
		require.NoError(t, a.Refund(ctx, d))
		admitted, err := b.Provisional().Allow(ctx, "ann", limit)
		require.NoError(t, err)
		require.True(t, admitted.Allowed, "there is room again")
		require.NoError(t, b.Refund(ctx, admitted))
	}
	other, err := b.Allow(ctx, "ann", limit)
	require.NoError(t, err)
	assert.ErrorIs(t, a.Refund(ctx, other), ErrInvalid, "the decision is another limiter's")
}

// A call that charges is sent again only while it can be known what an earlier attempt has charged, and to give back
// one of many that share an entry is the work of many.
func TestSettlesInABatch(t *testing.T) {
	redis := newClockedRedis(t)
	d := redis.allow(t, 0, "ann", 5, PerSecond("a", 9), PerMinute("b", 9))
	less, more := redis.settling(d, 2), redis.settling(d, 9)
	redis.batch.Encode([]*question{less})
	assert.Greater(t, redis.batch.RetryFor(), time.Hour)
	redis.batch.Encode([]*question{less, more})
	assert.Equal(t, time.Second/2, redis.batch.RetryFor())
	less.receipt.granted, more.receipt.granted = 100, 100
	assert.Equal(t, []int{52, 2}, []int{less.Size(), more.Size()})
}
