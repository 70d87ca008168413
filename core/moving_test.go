package core

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// Row 24 of "What got through": while the logs of a key are on two nodes of a cluster, calls under several limits wait
// until they are on one, and are decided by Redis, exactly. Calls about other keys are not held up, and nothing is
// reported.
func TestHalfMigratedSlot(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	said := &record{}
	limiter := connectTo(t, cluster.URL(), patient, said.logger())
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
	var errors []string // that the masters have answered with
	for _, master := range cluster.Masters {
		info, err := redistest.Do(t, master.Single(t), "INFO", "errorstats").ToString()
		require.NoError(t, err)
		errors = append(errors, info)
	}
	assert.Contains(t, fmt.Sprint(errors), "errorstat_TRYAGAIN:", "logs were on two nodes")
	d := allow("ann", limits...)
	admitted.Add(1)
	for _, state := range d.States() {
		assert.EqualValues(t, int64(state.Limit.Max)-admitted.Load(), state.Remaining)
	}
	assert.Empty(t, said.all())
}

// While a slot moves, the node that it leaves refuses to make a log again that the script has emptied there. Then the
// call has charged nothing, and is sent again, to the other node.
func TestExpiredLogInASlotThatMoves(t *testing.T) {
	cluster := redistest.StartCluster(t, 2, 0)
	said := &record{}
	limiter := connectTo(t, cluster.URL(), patient, said.logger())
	const window = 20 * time.Millisecond
	limits := []Limit{{Name: "a", Max: 5, Window: window}, {Name: "b", Max: 1, Window: window}}
	banning := Limit{Name: "c", Max: 1, Window: window, Ban: time.Hour}
	allow := func() {
		d, err := limiter.Allow(context.Background(), "ann", limits[0])
		require.NoError(t, err)
		assert.Equal(t, SourceRedis, d.Source)
		assert.Equal(t, 4, d.Remaining)
		d, err = limiter.Allow(context.Background(), "ann", limits[1])
		require.NoError(t, err)
		assert.Equal(t, SourceRedis, d.Source)
		assert.True(t, d.Allowed)
		require.NoError(t, limiter.Reset(context.Background(), "ann", banning))
		for _, allowed := range []bool{true, false} {
			d, err = limiter.Allow(context.Background(), "ann", banning)
			require.NoError(t, err)
			assert.Equal(t, allowed, d.Allowed)
		}
		time.Sleep(25 * time.Millisecond)
		d, err = limiter.Peek(context.Background(), "ann", banning)
		require.NoError(t, err)
		assert.True(t, d.Banned, "the ban outlives the entries")
	}
	allow()
	slot := cluster.Slot(t, "{ann}")
	to := cluster.Masters[0]
	if cluster.MasterOfSlot(t, slot) == to {
		to = cluster.Masters[1]
	}
	var moved atomic.Bool
	var moving sync.WaitGroup
	moving.Go(func() {
		defer moved.Store(true)
		cluster.MoveSlot(t, slot, to, 100*time.Millisecond)
	})
	for !moved.Load() {
		allow()
	}
	moving.Wait()
	assert.Empty(t, said.all())
}
