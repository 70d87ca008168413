package core

import (
	"context"
	"errors"
	"slices"
	"strconv"
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
	came   chan *call
	broken atomic.Pointer[error] // if set, calls fail with it
}

// call is a call at the gate.
type call struct {
	words []string
	pass  chan error // lets it pass, or makes it fail
}

func (g *gate) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	c := &call{slices.Clone(cmd.Commands()), make(chan error)}
	if c.words[len(c.words)-1] == "" { // a probe
		return g.Client.Do(ctx, cmd)
	}
	if err := g.broken.Load(); err != nil {
		return rueidis.NewErrorResult(*err)
	}
	g.came <- c
	select {
	case err := <-c.pass:
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
	g := &gate{Client: redistest.Shared(t).Client(t), came: make(chan *call)}
	limiter, err := New(g, append([]Option{WithPrefix(redistest.Prefix()), patient, OnFailure(FailClosed)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { limiter.Close() })
	return gated{t, g, limiter, PerHour("hot", max)}
}

// lead has two calls come to the gate, one after the other, so that whoever comes now waits.
func (g gated) lead(cost int) (first, second *outcome, atGate [2]*call) {
	first = g.allow(context.Background(), "ann", cost, g.limit)
	atGate[0] = <-g.came
	second = g.allow(context.Background(), "ann", cost, g.limit)
	atGate[1] = <-g.came
	return first, second, atGate
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
	case call := <-g.came:
		g.Fatal("one call too many:", call.words)
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
func (c *call) requests(t *testing.T) int {
	const numbers = 3 + 1 + 3 // EVALSHA sha 1, the log, the id, max and window
	if len(c.words) == numbers {
		return 1
	}
	require.Len(t, c.words, numbers+2)
	n, err := strconv.Atoi(c.words[numbers])
	require.NoError(t, err)
	return n
}

// charged is how many units the hot log holds.
func (g gated) charged() int64 {
	n, err := redistest.Do(g, g.Client, "ZCARD", string(appendLogKey(nil, g.limiter.redis.prefix, "ann", g.limit))).AsInt64()
	require.NoError(g, err)
	return n
}

// Seven calls at once make three: the first two go by themselves, and all that came meanwhile go together when one of those
// is back. They are served in the order in which they came.
func TestCallsShareRoundTrips(t *testing.T) {
	g := newGated(t, 5)
	first, second, calls := g.lead(1)
	assert.Equal(t, 1, calls[0].requests(t))
	assert.Equal(t, 1, calls[1].requests(t))
	others := g.queue(5)
	calls[0].pass <- nil
	assert.Equal(t, State{Limit: g.limit, Remaining: 4, ResetAfter: time.Hour}, first.wait(t).State)
	batch := <-g.came
	assert.Equal(t, 5, batch.requests(t))
	calls[1].pass <- nil
	assert.Equal(t, 3, second.wait(t).Remaining)
	batch.pass <- nil
	for i, o := range others {
		o.wait(t)
		require.NoError(t, o.err)
		assert.Equal(t, i < 3, o.Allowed, i)
		assert.Equal(t, max(0, 2-i), o.Remaining, i)
		assert.Equal(t, i >= 2, o.RetryAfter > 0, "the last one admitted, and those behind it, know how long to wait")
		assert.Equal(t, SourceRedis, o.Source)
	}
	assert.EqualValues(t, 5, g.charged())
	g.idle()
}

// While a batch is under way the next one fills, and one that is known to be denied when its turn comes is not sent.
func TestKnownDenialEndsTheQueue(t *testing.T) {
	g := newGated(t, 4)
	first, second, calls := g.lead(1)
	third := g.queue(3)
	calls[0].pass <- nil
	batch := <-g.came
	assert.Equal(t, 3, batch.requests(t))
	fourth := g.queue(3)
	batch.pass <- nil
	for i, o := range slices.Concat([]*outcome{first}, third, fourth) {
		o.wait(t)
		require.NoError(t, o.err)
		assert.Equal(t, i < 4, o.Allowed, i)
		assert.Equal(t, i < 4, o.Source == SourceRedis, i)
	}
	calls[1].pass <- nil
	assert.False(t, second.wait(t).Allowed, "the third of Redis's calls found it full")
	assert.Equal(t, SourceRedis, second.Source)
	g.idle()
}

// A caller whose context ends while it waits leaves at once and is not charged; those behind it move up.
func TestWaiterThatLeavesIsNotCharged(t *testing.T) {
	g := newGated(t, 5)
	first, second, calls := g.lead(1)
	before := g.queue(1)
	ctx, cancel := context.WithCancel(context.Background())
	leaver := g.allow(ctx, "ann", 1, g.limit)
	g.until(2)
	behind := g.queue(2)
	cancel()
	leaver.wait(t) // while Redis has not answered anybody
	assert.ErrorIs(t, leaver.err, ErrUnavailable)
	assert.ErrorIs(t, leaver.err, context.Canceled)

	calls[0].pass <- nil
	first.wait(t)
	calls[1].pass <- nil
	second.wait(t)
	batch := <-g.came
	assert.Equal(t, 3, batch.requests(t))
	batch.pass <- nil
	for i, o := range slices.Concat([]*outcome{first, second}, before, behind) {
		o.wait(t)
		assert.True(t, o.Allowed)
		assert.Equal(t, 4-i, o.Remaining)
	}
	assert.EqualValues(t, 5, g.charged())
	g.idle()
}

// When all have left there is nothing to send.
func TestBatchThatAllHaveLeftIsNotSent(t *testing.T) {
	g := newGated(t, 4)
	first, second, calls := g.lead(1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	for range 3 {
		o := g.allow(ctx, "ann", 1, g.limit).wait(t)
		assert.ErrorIs(t, o.err, context.DeadlineExceeded)
	}
	calls[0].pass <- nil
	calls[1].pass <- nil
	assert.True(t, first.wait(t).Allowed)
	assert.True(t, second.wait(t).Allowed)
	g.idle()
	assert.EqualValues(t, 2, g.charged())
}

// A caller whose batch has gone leaves at once too. Whether it was charged is not known to it: it was.
func TestLeavingAfterTheBatchHasGone(t *testing.T) {
	g := newGated(t, 4)
	_, second, calls := g.lead(1)
	ctx, cancel := context.WithCancel(context.Background())
	leaver := g.allow(ctx, "ann", 1, g.limit)
	g.until(1)
	stayer := g.queue(1)[0]
	calls[0].pass <- nil
	batch := <-g.came
	assert.Equal(t, 2, batch.requests(t))
	cancel()
	assert.ErrorIs(t, leaver.wait(t).err, context.Canceled)
	batch.pass <- nil
	assert.Equal(t, 1, stayer.wait(t).Remaining)
	calls[1].pass <- nil
	assert.Equal(t, 0, second.wait(t).Remaining)
	assert.EqualValues(t, 4, g.charged())
	g.idle()
}

// A call under way is its caller's own. When that one's time is over, those who wait go without it.
func TestFirstCallerLeaves(t *testing.T) {
	g := newGated(t, 4)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	first := g.allow(ctx, "ann", 1, g.limit)
	<-g.came
	second := g.allow(context.Background(), "ann", 1, g.limit)
	call := <-g.came
	others := g.queue(2)
	assert.ErrorIs(t, first.wait(t).err, context.DeadlineExceeded)
	batch := <-g.came
	assert.Equal(t, 2, batch.requests(t))
	batch.pass <- nil
	assert.Equal(t, 3, others[0].wait(t).Remaining)
	assert.Equal(t, 2, others[1].wait(t).Remaining)
	call.pass <- nil
	assert.Equal(t, 1, second.wait(t).Remaining)
	g.idle()
}

func TestErrorOfABatchReachesAll(t *testing.T) {
	g := newGated(t, 4)
	broken := errors.New("connection reset")
	first, second, calls := g.lead(1)
	others := g.queue(3)
	g.broken.Store(&broken) // for whoever asks again, too
	calls[0].pass <- broken
	assert.ErrorIs(t, first.wait(t).err, broken)
	for _, o := range others {
		assert.ErrorIs(t, o.wait(t).err, ErrUnavailable)
		assert.ErrorIs(t, o.err, broken)
		assert.Zero(t, o.Decision)
	}
	g.broken.Store(nil)
	last := g.allow(context.Background(), "ann", 1, g.limit)
	(<-g.came).pass <- nil
	assert.True(t, last.wait(t).Allowed, "and who comes later is asked for all the same")
	calls[1].pass <- nil
	assert.True(t, second.wait(t).Allowed)
	g.idle()
}

// panicky is a client of the caller's own with a mistake in it.
type panicky struct {
	rueidis.Client
	panics atomic.Bool
}

func (p *panicky) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	if p.panics.Load() {
		time.Sleep(time.Millisecond) // so that others come to wait
		panic("in a hook")
	}
	return p.Client.Do(ctx, cmd)
}

// A panic in the caller's client is the caller's to recover from. It leaves nobody waiting, then or later.
func TestPanicInAClient(t *testing.T) {
	client := &panicky{Client: redistest.Shared(t).Client(t)}
	limiter, err := New(client, WithPrefix(redistest.Prefix()), OnFailure(FailClosed))
	require.NoError(t, err)
	defer limiter.Close()
	limit := PerHour("a", 1000)
	client.panics.Store(true)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					assert.Equal(t, "in a hook", p)
				}
			}()
			_, err := limiter.Allow(context.Background(), "ann", limit)
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, "in a hook")
		})
	}
	all.Wait()
	client.panics.Store(false)
	d, err := limiter.Allow(context.Background(), "ann", limit)
	require.NoError(t, err)
	assert.Equal(t, 999, d.Remaining)
}

// What differs in anything goes by itself, at once.
func TestOtherQuestionsDoNotWait(t *testing.T) {
	g := newGated(t, 4)
	first, second, calls := g.lead(1)
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
	outcomes, atGate := []*outcome{first, second}, calls[:]
	for _, q := range questions {
		outcomes = append(outcomes, g.allow(context.Background(), q.key, q.cost, q.limits...))
		atGate = append(atGate, <-g.came)
	}
	assert.Zero(t, g.waiting())
	for _, call := range atGate {
		call.pass <- nil
	}
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
		first, second, calls := g.lead(test.cost)
		outcomes := []*outcome{first, second}
		for range test.callers {
			outcomes = append(outcomes, g.allow(context.Background(), "ann", test.cost, g.limit))
		}
		g.until(test.callers)
		calls[0].pass <- nil
		for _, part := range test.parts {
			batch := <-g.came
			assert.Equal(t, part, batch.requests(t))
			batch.pass <- nil
		}
		calls[1].pass <- nil
		remaining := map[int]bool{}
		for _, o := range outcomes {
			require.NoError(t, o.wait(t).err)
			require.True(t, o.Allowed)
			remaining[o.Remaining] = true
		}
		assert.Len(t, remaining, len(outcomes), "each has its own")
		for i := range outcomes {
			require.True(t, remaining[100_000-(i+1)*test.cost])
		}
		assert.EqualValues(t, len(outcomes)*test.cost, g.charged())
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
