package redistest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Cluster is a Redis Cluster of masters that share the slots evenly.
type Cluster struct{ Masters []*Server }

// StartCluster runs a cluster of n masters for one test.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{}
	const slots = 16384
	nodes := make([]rueidis.Client, n)
	for i := range n {
		bus := FreePort(t) // the default, the port plus 10000, may be taken or no port at all
		s := Start(t, "cluster-enabled yes", fmt.Sprint("cluster-port ", bus), "cluster-node-timeout 2000")
		c.Masters = append(c.Masters, s)
		nodes[i] = s.Single(t)
		Do(t, nodes[i], "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/n), fmt.Sprint((i+1)*slots/n-1))
		Do(t, nodes[i], "CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1))
		if i > 0 {
			host, port, _ := strings.Cut(s.Addr, ":")
			Do(t, nodes[0], "CLUSTER", "MEET", host, port, fmt.Sprint(bus))
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, node := range nodes {
		for !clusterReady(node, n) {
			if time.Now().After(deadline) {
				t.Fatal("the cluster does not come up")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return c
}

func clusterReady(node rueidis.Client, n int) bool {
	info, err := node.Do(context.Background(), node.B().ClusterInfo().Build()).ToString()
	return err == nil && strings.Contains(info, "cluster_state:ok") &&
		strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))
}

// URL is the address as core.Connect takes it, naming every master.
func (c *Cluster) URL() string {
	var others []string
	for _, s := range c.Masters[1:] {
		others = append(others, "addr="+s.Addr)
	}
	return c.Masters[0].URL() + "?" + strings.Join(others, "&")
}

// Single connects to one node alone, without asking it for the cluster.
func (s *Server) Single(t testing.TB) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{s.Addr}, ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
