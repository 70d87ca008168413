package redistest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Masters of a cluster are replaced in good order, killed and hung, and a slot moves while it is in use. The records
// have what was admitted meanwhile.
func TestClusterFailsOver(t *testing.T) {
	c := StartCluster(t, 3, 1, AppendOnly...)
	client := newClient(t, c.Masters[0].Addr, c.Masters[1].Addr)
	last := int64(0)
	add := func(log string) { // a client follows the change
		last++
		require.Eventually(t, func() bool {
			return client.Do(context.Background(), client.B().Zadd().Key(log).ScoreMember().
				ScoreMember(float64(last), fmt.Sprint("id", last)).Build()).Error() == nil
		}, 20*time.Second, 20*time.Millisecond)
	}
	const log = "{ann}:log"
	add(log)
	first := c.MasterOf(t, log)
	assert.Equal(t, c.Slot(t, "ann"), c.Slot(t, log))
	assert.Contains(t, c.Masters, first)
	second := c.Failover(t, first)
	assert.Contains(t, c.Replicas, second)
	add(log)
	first.AwaitReplica(t)
	third := c.Kill(t, second)
	assert.Equal(t, first, third)
	add(log)
	require.NoError(t, second.Start())
	second.AwaitReplica(t)
	assert.Equal(t, second, c.Hang(t, third))
	require.NoError(t, third.Resume())
	third.AwaitReplica(t)
	add(log)

	var to *Server
	for _, s := range c.Masters {
		if s.Role() == "master" && s != second {
			to = s
		}
	}
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for i := range 20 {
			add(log)
			add(fmt.Sprint("{ann}:", i)) // not on the old master, which redirects to the new one
			time.Sleep(5 * time.Millisecond)
		}
	}()
	c.MoveSlot(t, c.Slot(t, log), to, 50*time.Millisecond)
	<-moved
	assert.Equal(t, to, c.MasterOf(t, log))
	n, err := client.Do(context.Background(), client.B().Zcard().Key(log).Build()).AsInt64()
	require.NoError(t, err)
	assert.Equal(t, int64(24), n)
	all := Merge(c.Records(t)...)
	assert.Len(t, all[log], 24)
	assert.Equal(t, int(last), all.Len())
}

// What the old master admitted without its replica is forgotten, and the records have it.
func TestSentinelFailsOver(t *testing.T) {
	set := StartSentinelSet(t, "shop", 2, AppendOnly...)
	first := set.Master(t)
	assert.Equal(t, set.Servers[0], first)
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{set.Sentinels[0].Addr, set.Sentinels[1].Addr}, DisableCache: true,
		Sentinel: rueidis.SentinelOption{MasterSet: "shop"},
	})
	require.NoError(t, err)
	defer client.Close()
	Do(t, client, "ZADD", "log", "1", "a")
	second := set.Failover(t)
	assert.NotEqual(t, first, second)
	assert.Eventually(t, func() bool {
		return client.Do(context.Background(), client.B().Arbitrary("ZADD", "log", "2", "b").Build()).Error() == nil
	}, 20*time.Second, 20*time.Millisecond)

	for _, s := range set.Servers {
		if s != second {
			s.await(t, 20*time.Second, "has b", func() bool { return s.Admissions(t).Len() == 2 })
		}
	}
	third := set.Hang(t)
	add(t, third, "log", 3, "c")
	require.NoError(t, second.Resume())
	add(t, second, "log", 4, "d") // which a failover will make it forget
	second.AwaitReplica(t)
	assert.Equal(t, "slave", second.Role())
	assert.Equal(t, third, set.Master(t))
	ids := func(admissions []Admission) (ids []string) {
		for _, a := range admissions {
			ids = append(ids, a.ID)
		}
		return ids
	}
	assert.Equal(t, []string{"a", "b", "c", "d"}, ids(Merge(set.Records(t)...)["log"]))
	assert.Equal(t, []string{"d"}, ids(Missing(Merge(set.Records(t)...), third.Admissions(t))["log"]))
	assert.GreaterOrEqual(t, len(second.Records(t)), 2, "it began anew")
}
