package torture

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/exactlimit/exactlimit/core"
	"github.com/exactlimit/exactlimit/internal/redistest"
)

// sentinelFailover replaces a master, in good order or because it hangs. What the master had not yet sent to its
// replica is forgotten.
func sentinelFailover(hang bool) func(*scene) {
	return func(s *scene) {
		set := redistest.StartSentinelSet(s, "shop", 1, redistest.AppendOnly...)
		s.losses = 1
		var old, master *redistest.Server
		s.play(set.URL(), set.Servers, func() {
			old = set.Master(s)
			if hang {
				master = set.Hang(s)
				s.last(500 * ms)
				require.NoError(s, old.Resume())
				old.AwaitReplica(s)
			} else {
				master = set.Failover(s)
			}
			s.until(set.URL())
		})
		s.forgotten(old, master)
	}
}

// clusterFailover replaces one of three masters. The keys of the others are not touched.
func clusterFailover(replace func(*redistest.Cluster, testing.TB, *redistest.Server) *redistest.Server) func(*scene) {
	return func(s *scene) {
		cluster := redistest.StartCluster(s, 3, 1, redistest.AppendOnly...)
		s.losses = 1
		var old, master *redistest.Server
		s.play(cluster.URL(), cluster.Servers(), func() {
			old = cluster.MasterOf(s, s.log(Key(0)))
			master = replace(cluster, s, old)
			s.until(cluster.URL())
		})
		s.forgotten(old, master)
	}
}

// slotsMoved moves the slot of each key to another master while it is in use. For a time the logs of a key are on two
// servers, which answer TRYAGAIN.
func slotsMoved(s *scene) {
	s.Policy = core.FailClosed
	s.Timeout, s.Second = 5*time.Second, core.Limit{Name: "second", Max: 2_500_000, Window: 300 * ms}
	cluster := redistest.StartCluster(s, 3, 0, redistest.AppendOnly...)
	h, _ := s.play(cluster.URL(), cluster.Servers(), func() {
		for _, key := range s.Keys {
			slot, from := cluster.Slot(s, s.log(key)), cluster.MasterOf(s, s.log(key))
			to := cluster.Masters[(slices.Index(cluster.Masters, from)+1)%len(cluster.Masters)]
			cluster.MoveSlot(s, slot, to, 100*ms)
		}
		s.until(cluster.URL())
	})
	assert.Zero(s, h.unknown(), "a call is sent again within its time: %v", h.errors())
}

// until waits until Redis decides calls for every key.
func (s *scene) until(url string) {
	limiter, err := core.Connect(url, core.WithPrefix(s.Prefix), core.OnFailure(core.FailClosed))
	require.NoError(s, err)
	defer limiter.Close()
	for _, key := range s.Keys {
		require.Eventually(s, func() bool {
			_, err := limiter.Peek(s.Context(), key, s.Limit)
			return err == nil
		}, 60*time.Second, 20*ms, "%s is not decided by Redis again", key)
	}
	s.last(500 * ms)
}

// forgotten writes into the report how many admissions of an old master the new one does not know.
func (s *scene) forgotten(old, master *redistest.Server) {
	s.Helper()
	lost := redistest.Missing(redistest.Merge(old.Records(s)...), redistest.Merge(master.Records(s)...))
	report[len(report)-1].Lost = lost.Len()
}
