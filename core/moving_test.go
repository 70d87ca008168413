package core

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/dispatch"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// counting is a client that counts the replies with a code.
type counting struct {
	rueidis.Client
	code string
	n    atomic.Int32
}

func (c *counting) count(results ...rueidis.RedisResult) {
	for _, result := range results {
		if dispatch.Code(result.Error()) == c.code {
			c.n.Add(1)
		}
	}
}

func (c *counting) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	result := c.Client.Do(ctx, cmd)
	c.count(result)
	return result
}

func (c *counting) DoMulti(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	results := c.Client.DoMulti(ctx, cmds...)
	c.count(results...)
	return results
}

// Row 24 of "What got through": while the logs of a key are on two nodes of a cluster, calls under several limits wait until they
// are on one, and are decided by Redis, exactly. Calls about other keys are not held up, and nothing is reported.
func TestHalfMigratedSlot(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	option, err := ClientOption(cluster.URL())
	require.NoError(t, err)
	inner, err := rueidis.NewClient(option)
	require.NoError(t, err)
	defer inner.Close()
	client, said := &counting{Client: inner, code: "TRYAGAIN"}, &record{}
	limiter, err := New(client, patient, WithLogger(slog.New(slog.NewTextHandler(said, nil))))
	require.NoError(t, err)
	defer limiter.Close()
	ctx := context.Background()
	limits := []Limit{PerHour("a", 1000), PerHour("b", 2000), PerDay("c", 3000)}
	var admitted atomic.Int64
	allow := func(key string, limits ...Limit) Decision {
		d, err := limiter.Allow(ctx, key, limits...)
		require.NoError(t, err)
		assert.Equal(t, SourceRedis, d.Source)
		assert.True(t, d.Allowed)
		return d
	}
	allow("ann", limits...)
	admitted.Add(1)
	slot := cluster.Slot(t, "{ann}")
	to := cluster.Masters[0]
	if cluster.MasterOfSlot(t, slot) == to {
		to = cluster.Masters[1]
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i < 4 {
					allow("ann", limits...)
					admitted.Add(1)
				} else {
					allow(fmt.Sprint("key", i), limits[1:]...)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	cluster.MoveSlot(t, slot, to, 200*time.Millisecond)
	close(stop)
	all.Wait()
	assert.Positive(t, client.n.Load(), "logs were on two nodes")
	d := allow("ann", limits...)
	admitted.Add(1)
	for _, state := range d.States() {
		assert.EqualValues(t, int64(state.Limit.Max)-admitted.Load(), state.Remaining)
	}
	assert.Empty(t, said.all())
}
