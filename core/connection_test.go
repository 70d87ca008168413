package core

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
	"github.com/exactlimit/exactlimit/lua"
)

// A Redis that is down when the limiter is made is an error of each call, until it is up.
func TestRedisComesLater(t *testing.T) {
	for name, connect := range map[string]func(t *testing.T, server *redistest.Server) *Limiter{
		"Connect": func(t *testing.T, server *redistest.Server) *Limiter {
			limiter, err := Connect(server.URL(), OnFailure(FailClosed))
			require.NoError(t, err)
			return limiter
		},
		"New": func(t *testing.T, server *redistest.Server) *Limiter {
			client, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{server.Addr}, ForceSingleClient: true, DisableCache: true,
			})
			require.Error(t, err)
			t.Cleanup(client.Close)
			limiter, err := New(client, OnFailure(FailClosed))
			require.NoError(t, err)
			return limiter
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			server.Kill()
			limiter := connect(t, server)
			defer limiter.Close()
			ctx, limit := context.Background(), PerMinute("late", 5)

			for range 3 {
				d, err := limiter.Allow(ctx, "ann", limit)
				assert.ErrorIs(t, err, ErrUnavailable)
				assert.Regexp(t, "connection refused|no answer within 100ms", err) // the latter on a busy machine
				assert.Zero(t, d)
				_, err = limiter.Peek(ctx, "ann", limit)
				assert.ErrorIs(t, err, ErrUnavailable)
				assert.ErrorIs(t, limiter.Reset(ctx, "ann", limit), ErrUnavailable)
			}
			require.NoError(t, server.Start())
			require.Eventually(t, func() bool {
				d, err := limiter.Allow(ctx, "ann", limit)
				return err == nil && d.Allowed && d.Remaining == 4 && d.Source == SourceRedis
			}, 10*time.Second, 20*time.Millisecond)
		})
	}
}

// Close does not wait for a Redis that refuses connections, and nothing of the limiter stays behind (see TestMain).
func TestCloseBeforeRedisComes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	limiter, err := Connect(server.URL())
	require.NoError(t, err)
	require.NoError(t, limiter.Close())
	require.NoError(t, limiter.Close())
	_, err = limiter.Allow(context.Background(), "ann", PerMinute("closed", 5))
	assert.ErrorIs(t, err, ErrUnavailable)
	assert.ErrorContains(t, err, "the limiter is closed")
}

func TestCloseLeavesTheCallersClient(t *testing.T) {
	client := redistest.Shared(t).Client(t)
	limiter, err := New(client)
	require.NoError(t, err)
	require.NoError(t, limiter.Close())
	redistest.Do(t, client, "PING")
}

func TestCredentials(t *testing.T) {
	server := redistest.Start(t, "requirepass sesame", "databases 4")
	ctx, limit := context.Background(), PerMinute("login", 1)
	for _, table := range []struct{ url, says string }{
		{"redis://:sesame@" + server.Addr + "/3", ""},
		{"redis://default:sesame@" + server.Addr + "/2", ""},
		{"redis://:hunter2@" + server.Addr, "WRONGPASS"},
		{"redis://" + server.Addr, "NOAUTH"},
		{"redis://:sesame@" + server.Addr + "/9", "DB index is out of range"},
	} {
		limiter, err := Connect(table.url, OnFailure(FailClosed))
		require.NoError(t, err, table.url)
		d, err := limiter.Allow(ctx, "ann", limit)
		if table.says == "" {
			assert.NoError(t, err, table.url)
			assert.True(t, d.Allowed, "each database has logs of its own")
		} else {
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, table.says)
			assert.NotContains(t, err.Error(), "hunter2")
		}
		require.NoError(t, limiter.Close())
	}
}

// A server that does not know AUTH quotes its arguments back. They are not passed on.
func TestCredentialsAreNotQuoted(t *testing.T) {
	server := redistest.Start(t, `rename-command AUTH ""`, `rename-command HELLO ""`)
	said := &record{}
	limiter := connectTo(t, "redis://ann:sesame@"+server.Addr, OnFailure(FailClosed), said.logger())
	_, err := limiter.Allow(context.Background(), "ann", PerMinute("login", 1))
	assert.ErrorIs(t, err, ErrUnavailable)
	assert.ErrorContains(t, err, "unknown command 'AUTH'")
	assert.NotContains(t, err.Error(), "sesame")
	assert.Contains(t, fmt.Sprint(said.all()), "unknown command 'AUTH'")
	assert.NotContains(t, fmt.Sprint(said.all()), "sesame")
}

func TestContextEnds(t *testing.T) {
	for _, url := range []string{redistest.Shared(t).URL(), ""} {
		limiter := connectTo(t, url, WithPrefix(redistest.Prefix()))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := limiter.Allow(ctx, "ann", PerMinute("gone", 5))
		assert.ErrorIs(t, err, ErrUnavailable)
		assert.ErrorIs(t, err, context.Canceled)
	}
}

// A call that gives up leaves the connection to those beside it.
func TestDeadlineDoesNotCloseTheConnection(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client(t)
	limiter := connectTo(t, server.URL(), patient, OnFailure(FailClosed))
	limit := PerMinute("a", 9)
	for range 100 { // the client has a few connections, and dials each when it first uses it
		_, err := limiter.Peek(context.Background(), "ann", limit)
		require.NoError(t, err)
	}
	connections := func() string {
		info, err := redistest.Do(t, admin, "INFO", "stats").ToString()
		require.NoError(t, err)
		_, after, _ := strings.Cut(info, "total_connections_received:")
		n, _, _ := strings.Cut(after, "\r")
		return n
	}
	before := connections()

	redistest.Do(t, admin, "CLIENT", "PAUSE", "200")
	var beside sync.WaitGroup
	beside.Go(func() {
		time.Sleep(10 * time.Millisecond)
		_, err := limiter.Allow(context.Background(), "bob", limit)
		assert.NoError(t, err)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := limiter.Allow(ctx, "ann", limit)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	beside.Wait()
	assert.Equal(t, before, connections())
}

// Each instance has its prefix, and no prefix sees another's logs.
func TestPrefixes(t *testing.T) {
	server := redistest.Shared(t)
	limit := PerMinute("shared", 1)
	for range 2 {
		limiter, err := Connect(server.URL(), WithPrefix(redistest.Prefix()))
		require.NoError(t, err)
		d, err := limiter.Allow(context.Background(), "ann", limit)
		require.NoError(t, err)
		assert.True(t, d.Allowed)
		require.NoError(t, limiter.Close())
	}
}

func TestSentinel(t *testing.T) {
	master := redistest.Start(t)
	sentinel := redistest.StartSentinel(t, "shop", master)
	limiter := connectTo(t, sentinel.URL()+"?master_set=shop", patient)
	d, err := limiter.Allow(context.Background(), "ann", PerMinute("login", 5))
	require.NoError(t, err)
	assert.Equal(t, 4, d.Remaining)
	size, err := redistest.Do(t, master.Client(t), "DBSIZE").AsInt64()
	require.NoError(t, err)
	assert.Equal(t, int64(1), size)
}

func TestTLS(t *testing.T) {
	config, _ := redistest.TLS(t)
	server := redistest.Start(t, config...)
	for query, says := range map[string]string{"": "certificate", "?skip_verify=true": ""} {
		limiter, err := Connect("rediss://"+server.TLSAddr+query, OnFailure(FailClosed))
		require.NoError(t, err)
		d, err := limiter.Allow(context.Background(), "ann", PerMinute("login", 5))
		if says == "" {
			assert.NoError(t, err)
			assert.True(t, d.Allowed)
		} else {
			assert.ErrorIs(t, err, ErrUnavailable)
			assert.ErrorContains(t, err, says, "nobody vouches for the server")
		}
		require.NoError(t, limiter.Close())
	}
}

// On a cluster keys spread over the masters, the logs of one key stay together, and every call is one round trip.
func TestCluster(t *testing.T) {
	cluster := redistest.StartCluster(t, 3, 0)
	limiter := connectTo(t, cluster.URL(), patient)
	ctx := context.Background()
	burst, sustained := PerMinute("burst", 2), PerHour("sustained", 3)
	for _, key := range keys(60) {
		for i, allowed := range []bool{true, true, false} {
			d, err := limiter.Allow(ctx, key, burst, sustained)
			require.NoError(t, err)
			assert.Equal(t, allowed, d.Allowed, "%s, call %d", key, i)
		}
		d, err := limiter.Peek(ctx, key, sustained)
		require.NoError(t, err)
		assert.Equal(t, 1, d.Remaining, "the denied call charged nothing")
	}
	for _, master := range cluster.Masters {
		client := master.Single(t)
		size, err := redistest.Do(t, client, "DBSIZE").AsInt64()
		require.NoError(t, err)
		assert.Greater(t, size, int64(10), "every master has a share of 120 logs")
		loaded, err := redistest.Do(t, client, "SCRIPT", "EXISTS", sha(lua.Decide)).AsIntSlice()
		require.NoError(t, err)
		assert.Equal(t, []int64{1}, loaded)
	}
	require.NoError(t, limiter.Reset(ctx, "key1", burst, sustained))
	d, err := limiter.Allow(ctx, "key1", burst, sustained)
	require.NoError(t, err)
	assert.True(t, d.Allowed)
}

// Row 26 of "What got through": Close waits for calls, so the client can be closed after it.
func TestCloseAfterNewWaitsForCalls(t *testing.T) {
	for range 3 {
		var inFlight, calls atomic.Int32
		client := redistest.Shared(t).Hooked(t, func(_ []string, send func() rueidis.RedisResult) rueidis.RedisResult {
			calls.Add(1)
			inFlight.Add(1)
			defer inFlight.Add(-1)
			time.Sleep(50 * time.Millisecond) // longer than anything else that Close waits for
			return send()
		})
		limiter, err := New(client, WithPrefix(redistest.Prefix()), patient)
		require.NoError(t, err)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				for {
					key, limit := fmt.Sprint("key", i), PerHour("a", 1000)
					_, err := limiter.OnFailure(FailClosed).Allow(context.Background(), key, limit)
					if err != nil {
						assert.ErrorContains(t, err, "closed")
						return
					}
				}
			})
		}
		for calls.Load() < 10 {
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, limiter.Close())
		before := calls.Load()
		assert.Zero(t, inFlight.Load())
		all.Wait()
		assert.Equal(t, before, calls.Load(), "none begins later")
	}
}
