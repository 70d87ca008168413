package core

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// A Redis that hangs holds up no call for longer than the timeout, and none at all once that is known. When it goes on,
// so do calls to it. The outage and its end are told of once.
func TestHungRedis(t *testing.T) {
	server := redistest.Start(t)
	said := &record{}
	limiter := connectTo(t, server.URL(), said.logger())
	ctx, limit := context.Background(), PerHour("hung", 10_000)
	source := func(key string) Source {
		d, err := limiter.Allow(ctx, key, limit)
		require.NoError(t, err)
		require.True(t, d.Allowed)
		return d.Source
	}
	// Not all at once on a machine that may be slow: whoever waits too long for Redis is decided without it.
	require.Eventually(t, func() bool { return source("ann") == SourceRedis }, 10*time.Second, time.Millisecond)
	require.NoError(t, server.Pause())
	var all sync.WaitGroup
	for i := range 3000 { // more than can be on their way at a time
		all.Go(func() {
			d, err := limiter.Allow(ctx, fmt.Sprint("key", i), limit)
			assert.NoError(t, err)
			assert.Equal(t, SourceInProcess, d.Source)
		})
	}
	all.Wait()
	require.Eventually(t, func() bool { // half a timeout after the first calls have ended
		open, _ := limiter.redis.reporter.measure(0)
		return open == 1
	}, 10*time.Second, time.Millisecond)
	for i := range 3000 {
		assert.Equal(t, SourceInProcess, source(fmt.Sprint("key", i)))
	}

	require.NoError(t, server.Resume())
	require.Eventually(t, func() bool { return source("ann") == SourceRedis }, 10*time.Second, time.Millisecond)
	told := said.all()
	require.Len(t, told, 2, told)
	assert.Contains(t, told[0], "level=WARN")
	assert.Contains(t, told[0], "Redis does not answer; requests are decided without it")
	assert.Contains(t, told[1], "level=INFO")
	assert.Contains(t, told[1], "Redis decides again")
}

// A deadline of the caller's that is earlier than the timeout is kept too, and is no error: the policy decides.
func TestEarlierDeadline(t *testing.T) {
	g := newGated(t, 5, OnFailure(FailLocal)) // whose timeout is 10 seconds
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	o := g.allow(ctx, "ann", 1, g.limit)
	call := <-g.Came
	o.wait(t)
	require.NoError(t, o.err)
	assert.Equal(t, SourceInProcess, o.Source)
	assert.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
	call.Pass()
}

// A connection that is lost, with calls under way or without, is made by a probe and costs no call more than a second
// attempt.
func TestLostConnections(t *testing.T) {
	server := redistest.Start(t)
	limiter := connectTo(t, server.URL(), patient, OnFailure(FailClosed))
	admin := server.Client(t)
	kill := func() { redistest.Do(t, admin, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }
	ctx, limit := context.Background(), PerHour("killed", 1_000_000)
	for range 20 {
		kill() // nobody is under way
		d, err := limiter.Allow(ctx, "ann", limit)
		require.NoError(t, err)
		assert.Equal(t, SourceRedis, d.Source)
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	var calls atomic.Int64
	for i := range 20 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := limiter.Allow(ctx, fmt.Sprint("key", i), limit)
				if !assert.NoError(t, err) {
					return
				}
				calls.Add(1)
			}
		})
	}
	for range 50 {
		time.Sleep(20 * time.Millisecond)
		kill()
	}
	close(stop)
	all.Wait()
	assert.Greater(t, calls.Load(), int64(100))
}

// A node of a cluster that hangs costs its own keys alone.
func TestHungNode(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0, "cluster-require-full-coverage no") // or the others refuse theirs too
	limiter := connectTo(t, cluster.URL())
	ctx, limit := context.Background(), PerHour("a", 1_000_000)
	redis := func(key string) bool {
		d, err := limiter.Allow(ctx, key, limit)
		require.NoError(t, err)
		return d.Source == SourceRedis
	}
	nodeOf := func(key string) int {
		n, err := redistest.Do(t, cluster.Masters[0].Single(t), "CLUSTER", "KEYSLOT", "{"+key+"}").AsInt64()
		require.NoError(t, err)
		return int(n) * 3 / 16384
	}
	var byNode [3][]string
	for _, key := range keys(300) {
		require.Eventually(t, func() bool { return redis(key) }, 10*time.Second, time.Millisecond)
		byNode[nodeOf(key)] = append(byNode[nodeOf(key)], key)
	}
	require.NoError(t, cluster.Masters[1].Pause())
	var all sync.WaitGroup
	for i := range 3000 { // more than can be on their way to it
		all.Go(func() {
			d, err := limiter.Allow(ctx, byNode[1][i%len(byNode[1])], limit)
			assert.NoError(t, err)
			assert.Equal(t, SourceInProcess, d.Source)
		})
	}
	all.Wait()
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); { // until the others know
		for _, key := range byNode[1] {
			require.False(t, redis(key))
		}
		for _, node := range []int{0, 2} {
			for _, key := range byNode[node][:10] {
				require.Eventually(t, func() bool { return redis(key) }, 10*time.Second, time.Millisecond)
			}
		}
	}
	require.NoError(t, cluster.Masters[1].Resume())
	for _, key := range byNode[1] {
		require.Eventually(t, func() bool { return redis(key) }, 20*time.Second, time.Millisecond)
	}
}

// Row 19 of "What got through": a client of the user's own, with any settings, whose Redis hangs holds up neither calls
// nor Close. All of them return before Redis goes on, also where the client itself would wait for an hour.
func TestPlainClientAndAHungRedis(t *testing.T) {
	for name, option := range map[string]rueidis.ClientOption{
		"plain":                          {},
		"plain, patient":                 {ConnWriteTimeout: time.Hour},
		"DisableAutoPipelining":          {DisableAutoPipelining: true},
		"DisableAutoPipelining, patient": {DisableAutoPipelining: true, ConnWriteTimeout: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			option.InitAddress, option.DisableCache = []string{server.Addr}, true
			client, err := rueidis.NewClient(option)
			require.NoError(t, err)
			defer client.Close()
			limiter, err := New(client, silent)
			require.NoError(t, err)
			limit := PerHour("a", 9)
			require.Eventually(t, func() bool {
				d, err := limiter.Allow(context.Background(), "ann", limit)
				return err == nil && d.Source != SourceInProcess
			}, 10*time.Second, time.Millisecond)
			require.NoError(t, server.Pause())
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				for range 2 { // before the breaker opens, and after
					var all sync.WaitGroup
					for i := range 50 {
						all.Go(func() {
							d, err := limiter.Allow(context.Background(), fmt.Sprint("key", i), limit)
							assert.NoError(t, err)
							assert.Equal(t, SourceInProcess, d.Source)
						})
					}
					all.Wait()
				}
				assert.NoError(t, limiter.Close())
			}()
			select {
			case <-returned:
			case <-time.After(30 * time.Second):
				t.Error("a call or Close waits for Redis")
			}
			require.NoError(t, server.Resume())
			<-returned
		})
	}
}
