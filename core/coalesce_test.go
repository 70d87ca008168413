package core

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
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
	came chan []string // the words of a call, when it has come to the gate
	pass chan error    // lets one call pass, or makes it fail
}

func (g *gate) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	g.came <- slices.Clone(cmd.Commands())
	select {
	case err := <-g.pass:
		if err != nil {
			return rueidis.NewErrorResult(err)
		}
		return g.Client.Do(ctx, cmd)
	case <-ctx.Done():
		return rueidis.NewErrorResult(ctx.Err())
	}
}

// gated is a limiter behind a gate, on an empty keyspace of its own.
type gated struct {
	*testing.T
	*gate
	limiter *Limiter
	limit   Limit
}

func newGated(t *testing.T, max int, opts ...Option) gated {
	g := &gate{redistest.Shared(t).Client(t), make(chan []string), make(chan error)}
	limiter, err := New(g, append(opts, WithPrefix(redistest.Prefix()))...)
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
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

// queue is n calls for the hot key, each of which waits before the next one comes.
func (g gated) queue(n int) []*outcome {
	outcomes := make([]*outcome, n)
	before := g.waiting()
	for i := range outcomes {
		outcomes[i] = g.allow(context.Background(), "ann", 1, g.limit)
		g.until(before + i + 1)
	}
	return outcomes
}

// waiting counts the calls that wait for a batch to go.
func (g gated) waiting() int {
	n := 0
	for i := range g.limiter.redis.flights {
		shard := &g.limiter.redis.flights[i]
		shard.mu.Lock()
		for _, flight := range shard.flying {
			for _, batch := range flight.waiting {
				n += batch.waiting
			}
		}
		shard.mu.Unlock()
	}
	return n
}

func (g gated) until(waiting int) {
	g.Helper()
	require.Eventually(g, func() bool { return g.waiting() == waiting }, 10*time.Second, 50*time.Microsecond)
}

// idle sees that nothing is kept when nobody asks, and that nobody does.
func (g gated) idle() {
	g.Helper()
	require.Eventually(g, func() bool {
		for i := range g.limiter.redis.flights {
			shard := &g.limiter.redis.flights[i]
			shard.mu.Lock()
			n := len(shard.flying)
			shard.mu.Unlock()
			if n > 0 {
				return false
			}
		}
		return true
	}, 10*time.Second, time.Millisecond)
	select {
	case words := <-g.came:
		g.Fatal("one call too many:", words)
	case <-time.After(5 * time.Millisecond):
	}
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

// requests is how many a call asks for.
func requests(t *testing.T, words []string) int {
	const numbers = 3 + 1 + 3 // EVALSHA sha 1, the log, the id, max and window
	if len(words) == numbers {
		return 1
	}
	require.Len(t, words, numbers+2)
	n, err := strconv.Atoi(words[numbers])
	require.NoError(t, err)
	return n
}

// charged is how many units the hot log holds.
func (g gated) charged() int64 {
	n, err := redistest.Do(g, g.Client, "ZCARD", string(appendLogKey(nil, g.limiter.redis.prefix, "ann", g.limit))).AsInt64()
	require.NoError(g, err)
	return n
}

// Six calls at once make two round trips: one for the first, one for all that came meanwhile, which are served in the order
// in which they came.
func TestCallsShareRoundTrips(t *testing.T) {
	g := newGated(t, 4)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	assert.Equal(t, 1, requests(t, <-g.came))
	others := g.queue(5)
	g.pass <- nil
	first.wait(t)
	assert.Equal(t, State{Limit: g.limit, Remaining: 3, ResetAfter: time.Hour}, first.State)

	assert.Equal(t, 5, requests(t, <-g.came))
	g.pass <- nil
	for i, o := range others {
		o.wait(t)
		require.NoError(t, o.err)
		assert.Equal(t, i < 3, o.Allowed, i)
		assert.Equal(t, max(0, 2-i), o.Remaining, i)
		assert.Equal(t, i >= 2, o.RetryAfter > 0, "the last one admitted, and those behind it, know how long to wait")
		assert.Equal(t, SourceRedis, o.Source)
	}
	assert.EqualValues(t, 4, g.charged())
	g.idle()
}

// While a batch is under way the next one fills, and one that is known to be denied when its turn comes is not sent.
func TestKnownDenialEndsTheQueue(t *testing.T) {
	g := newGated(t, 3)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	second := g.queue(3)
	g.pass <- nil
	assert.Equal(t, 3, requests(t, <-g.came))
	third := g.queue(3)
	g.pass <- nil
	for i, o := range slices.Concat([]*outcome{first}, second, third) {
		o.wait(t)
		require.NoError(t, o.err)
		assert.Equal(t, i < 3, o.Allowed, i)
		assert.Equal(t, i < 4, o.Source == SourceRedis, i)
	}
	g.idle()
}

// A caller whose context ends while it waits leaves at once and is not charged; those behind it move up.
func TestWaiterThatLeavesIsNotCharged(t *testing.T) {
	g := newGated(t, 4)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	before := g.queue(1)
	ctx, cancel := context.WithCancel(context.Background())
	leaver := g.allow(ctx, "ann", 1, g.limit)
	g.until(2)
	behind := g.queue(2)
	cancel()
	leaver.wait(t) // while Redis has not answered anybody
	assert.ErrorIs(t, leaver.err, ErrUnavailable)
	assert.ErrorIs(t, leaver.err, context.Canceled)

	g.pass <- nil
	assert.Equal(t, 3, requests(t, <-g.came))
	g.pass <- nil
	for i, o := range slices.Concat([]*outcome{first}, before, behind) {
		o.wait(t)
		assert.True(t, o.Allowed)
		assert.Equal(t, 3-i, o.Remaining)
	}
	assert.EqualValues(t, 4, g.charged())
	g.idle()
}

// When all have left there is nothing to send.
func TestBatchThatAllHaveLeftIsNotSent(t *testing.T) {
	g := newGated(t, 4)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	for range 3 {
		o := g.allow(ctx, "ann", 1, g.limit).wait(t)
		assert.ErrorIs(t, o.err, context.DeadlineExceeded)
	}
	g.pass <- nil
	assert.True(t, first.wait(t).Allowed)
	g.idle()
	assert.EqualValues(t, 1, g.charged())
}

// A caller whose batch has gone leaves at once too. Whether it was charged is not known to it: it was.
func TestLeavingAfterTheBatchHasGone(t *testing.T) {
	g := newGated(t, 4)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	ctx, cancel := context.WithCancel(context.Background())
	leaver := g.allow(ctx, "ann", 1, g.limit)
	g.until(1)
	stayer := g.queue(1)[0]
	g.pass <- nil
	assert.Equal(t, 2, requests(t, <-g.came))
	cancel()
	assert.ErrorIs(t, leaver.wait(t).err, context.Canceled)
	g.pass <- nil
	assert.Equal(t, 1, stayer.wait(t).Remaining)
	assert.Equal(t, 3, first.wait(t).Remaining)
	assert.EqualValues(t, 3, g.charged())
	g.idle()
}

// The call under way is the first caller's own. When its context ends, those who wait go without it.
func TestFirstCallerLeaves(t *testing.T) {
	g := newGated(t, 4)
	ctx, cancel := context.WithCancel(context.Background())
	first := g.allow(ctx, "ann", 1, g.limit)
	<-g.came
	others := g.queue(2)
	cancel()
	assert.ErrorIs(t, first.wait(t).err, context.Canceled)
	assert.Equal(t, 2, requests(t, <-g.came))
	g.pass <- nil
	assert.Equal(t, 3, others[0].wait(t).Remaining)
	assert.Equal(t, 2, others[1].wait(t).Remaining)
	g.idle()
}

func TestErrorOfABatchReachesAll(t *testing.T) {
	g := newGated(t, 4)
	broken := errors.New("connection reset")
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	others := g.queue(3)
	g.pass <- broken
	assert.ErrorIs(t, first.wait(t).err, broken)
	<-g.came
	last := g.queue(1)
	g.pass <- broken
	for _, o := range others {
		assert.ErrorIs(t, o.wait(t).err, ErrUnavailable)
		assert.ErrorIs(t, o.err, broken)
		assert.Zero(t, o.Decision)
	}
	assert.Equal(t, 1, requests(t, <-g.came), "and who came later is asked for all the same")
	g.pass <- nil
	assert.True(t, last[0].wait(t).Allowed)
	g.idle()
}

// What differs in anything goes by itself, at once.
func TestOtherQuestionsDoNotWait(t *testing.T) {
	g := newGated(t, 4)
	first := g.allow(context.Background(), "ann", 1, g.limit)
	<-g.came
	questions := []struct {
		key    string
		cost   int
		limits []Limit
	}{
		{"bob", 1, []Limit{g.limit}},
		{"ann", 2, []Limit{g.limit}},
		{"ann", 1, []Limit{PerHour("hot", 5)}}, // raised
		{"ann", 1, []Limit{PerHour("hot", 3)}},
		{"ann", 1, []Limit{PerDay("hot", 4)}},
		{"ann", 1, []Limit{PerHour("other", 4)}},
		{"ann", 1, []Limit{g.limit, PerHour("other", 4)}},
		{"ann", 1, []Limit{PerHour("other", 4), g.limit}},
		{"ann:hot", 1, []Limit{g.limit}},
		{"ann\n4\n3600000000\n1\n", 1, []Limit{g.limit}},
	}
	var outcomes []*outcome
	for _, q := range questions {
		outcomes = append(outcomes, g.allow(context.Background(), q.key, q.cost, q.limits...))
		<-g.came
	}
	assert.Zero(t, g.waiting())
	for range len(questions) + 1 {
		g.pass <- nil
	}
	require.NoError(t, first.wait(t).err)
	for _, o := range outcomes {
		require.NoError(t, o.wait(t).err)
	}
	g.idle()
}

// Redis is not held up by a batch of thousands, nor Lua by its arguments.
func TestLargeQueuesGoInParts(t *testing.T) {
	for _, test := range []struct {
		cost, callers int
		parts         []int
	}{
		{1, 2500, []int{1000, 1000, 500}},
		{300, 8, []int{3, 3, 2}},
		{5000, 2, []int{1, 1}},
	} {
		g := newGated(t, 100_000)
		first := g.allow(context.Background(), "ann", test.cost, g.limit)
		<-g.came
		var outcomes []*outcome
		for range test.callers {
			outcomes = append(outcomes, g.allow(context.Background(), "ann", test.cost, g.limit))
		}
		g.until(test.callers)
		g.pass <- nil
		for _, part := range test.parts {
			words := <-g.came
			if test.cost == 1 || part > 1 {
				assert.Equal(t, part, requests(t, words))
			}
			g.pass <- nil
		}
		remaining := map[int]bool{first.wait(t).Remaining: true}
		for _, o := range outcomes {
			require.NoError(t, o.wait(t).err)
			require.True(t, o.Allowed)
			remaining[o.Remaining] = true
		}
		assert.Len(t, remaining, test.callers+1, "each has its own")
		for i := range test.callers + 1 {
			require.True(t, remaining[100_000-(i+1)*test.cost])
		}
		assert.EqualValues(t, (test.callers+1)*test.cost, g.charged())
		g.idle()
	}
}

// Callers come and go at random, on few keys, some with contexts that end: each log holds exactly what was admitted and
// what has left without knowing.
func TestCoalescingUnderLoad(t *testing.T) {
	limiter, client, prefix := onShared(t)
	limit := PerHour("hot", 1_000_000)
	keys := keys(3)
	var mu sync.Mutex
	admitted, unknown := map[string]int64{}, map[string]int64{}
	remaining := map[string]map[int]bool{}
	var all sync.WaitGroup
	for g := range 64 {
		all.Go(func() {
			for i := range 100 {
				key := keys[(g+i)%len(keys)]
				ctx, cancel := context.Background(), func() {}
				if (g+i)%5 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*10*time.Microsecond)
				}
				d, err := limiter.Allow(ctx, key, limit)
				cancel()
				mu.Lock()
				switch {
				case err != nil:
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					unknown[key]++
				case assert.True(t, d.Allowed):
					admitted[key]++
					if remaining[key] == nil {
						remaining[key] = map[int]bool{}
					}
					assert.False(t, remaining[key][d.Remaining], "two were told the same")
					remaining[key][d.Remaining] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for _, key := range keys {
		charged, err := redistest.Do(t, client, "ZCARD", string(appendLogKey(nil, prefix, key, limit))).AsInt64()
		require.NoError(t, err)
		assert.GreaterOrEqual(t, charged, admitted[key])
		assert.LessOrEqual(t, charged, admitted[key]+unknown[key])
	}
	assert.Zero(t, gated{T: t, limiter: limiter}.waiting())
}
