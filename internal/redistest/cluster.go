package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Cluster is a Redis Cluster whose first masters share the slots evenly.
type Cluster struct {
	Masters  []*Server // at the start, before failovers
	Replicas []*Server // first those of the first master
}

const slots = 16384

// StartCluster runs a cluster for one test, of so many masters, each with so many replicas, with further lines of
// configuration. A master that does not answer for a second is failed over, unless config sets cluster-node-timeout.
func StartCluster(t testing.TB, masters, replicasEach int, config ...string) *Cluster {
	t.Helper()
	Long(t)
	c := &Cluster{}
	startNode := func() *Server {
		bus := FreePort(t) // the default, the port plus 10000, may be in use or too large
		s := Start(t, append([]string{
			"cluster-enabled yes", fmt.Sprint("cluster-port ", bus), "cluster-node-timeout 1000",
			"cluster-replica-validity-factor 0", // a replica takes over however far it is behind
		}, config...)...)
		if first := c.Servers(); len(first) > 0 {
			host, port, _ := strings.Cut(s.Addr, ":")
			Do(t, first[0].Single(t), "CLUSTER", "MEET", host, port, fmt.Sprint(bus))
		}
		return s
	}
	for i := range masters {
		s := startNode()
		c.Masters = append(c.Masters, s)
		Do(t, s.Single(t), "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/masters), fmt.Sprint((i+1)*slots/masters-1))
	}
	for range masters * replicasEach {
		c.Replicas = append(c.Replicas, startNode())
	}
	for i, s := range c.Servers() { // each is still a master
		s.await(t, 30*time.Second, "knows the cluster", func() bool {
			return len(s.view()) == masters*(1+replicasEach)
		})
		if i >= masters {
			Do(t, s.Single(t), "CLUSTER", "REPLICATE", c.Masters[(i-masters)/replicasEach].id(t))
			s.AwaitReplica(t)
		}
	}
	for _, s := range c.Servers() {
		s.await(t, 30*time.Second, "finds the cluster well", func() bool {
			info, _ := s.ask("CLUSTER", "INFO")
			replicas := 0
			for _, node := range s.view() {
				if node.master != "" {
					replicas++
				}
			}
			return strings.Contains(info, "cluster_state:ok") && replicas == len(c.Replicas)
		})
	}
	return c
}

// Servers returns all servers of the cluster.
func (c *Cluster) Servers() []*Server { return slices.Concat(c.Masters, c.Replicas) }

// URL returns a URL for core.Connect that names every server.
func (c *Cluster) URL() string { return url(c.Servers()) }

func url(servers []*Server) string {
	var others []string
	for _, s := range servers[1:] {
		others = append(others, "addr="+s.Addr)
	}
	return servers[0].URL() + "?" + strings.Join(others, "&")
}

// Records returns the records of all servers.
func (c *Cluster) Records(t testing.TB) []Record {
	t.Helper()
	return records(t, c.Servers())
}

func records(t testing.TB, servers []*Server) []Record {
	t.Helper()
	var records []Record
	for _, s := range servers {
		records = append(records, s.Records(t)...)
	}
	return records
}

// Slot returns the slot of a key.
func (c *Cluster) Slot(t testing.TB, key string) int {
	t.Helper()
	for _, s := range c.Servers() {
		if text, err := s.ask("CLUSTER", "KEYSLOT", key); err == nil {
			slot, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return slot
		}
	}
	t.Fatal("no server of the cluster answers")
	return 0
}

// MasterOf returns the master that has a key's slot.
func (c *Cluster) MasterOf(t testing.TB, key string) *Server {
	t.Helper()
	return c.MasterOfSlot(t, c.Slot(t, key))
}

// MasterOfSlot returns the master of a slot, as soon as all servers that answer agree on it.
func (c *Cluster) MasterOfSlot(t testing.TB, slot int) *Server {
	t.Helper()
	return c.awaitMaster(t, slot, nil)
}

// awaitMaster waits until all servers agree on the master of a slot, and it is not the given one.
func (c *Cluster) awaitMaster(t testing.TB, slot int, not *Server) *Server {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var master *Server
		agreed := true
		for _, s := range c.Servers() {
			if view := s.view(); view != nil {
				owner := c.server(view.owner(slot))
				agreed = agreed && owner != nil && owner != not && (master == nil || master == owner)
				master = owner
			}
		}
		if agreed && master != nil && master.Role() == "master" {
			return master
		}
	}
	t.Fatalf("slot %d has no master that all agree on", slot)
	return nil
}

func (c *Cluster) server(addr string) *Server {
	for _, s := range c.Servers() {
		if s.Addr == addr {
			return s
		}
	}
	return nil
}

// Failover has a replica take over from a master in good order, and returns the replica. The master becomes its
// replica.
func (c *Cluster) Failover(t testing.TB, master *Server) *Server {
	t.Helper()
	slot := c.slotOf(t, master)
	id := master.id(t)
	for _, s := range c.Servers() {
		if view := s.view(); view != nil && view.master(s.Addr) == id {
			Do(t, s.Single(t), "CLUSTER", "FAILOVER")
			return c.awaitMaster(t, slot, master)
		}
	}
	t.Fatalf("%s has no replica", master.Addr)
	return nil
}

// Kill kills a master and returns the replica that has taken over.
func (c *Cluster) Kill(t testing.TB, master *Server) *Server {
	t.Helper()
	slot := c.slotOf(t, master)
	master.Kill()
	return c.awaitMaster(t, slot, master)
}

// Hang pauses a master and returns the replica that has taken over. Once resumed, the master finds out after a while.
func (c *Cluster) Hang(t testing.TB, master *Server) *Server {
	t.Helper()
	slot := c.slotOf(t, master)
	if err := master.Pause(); err != nil {
		t.Fatal(err)
	}
	return c.awaitMaster(t, slot, master)
}

// slotOf returns a slot of a master.
func (c *Cluster) slotOf(t testing.TB, master *Server) int {
	t.Helper()
	for slot, view := 0, master.view(); slot < slots; slot++ {
		if view.owner(slot) == master.Addr {
			return slot
		}
	}
	t.Fatalf("%s is not a master with slots", master.Addr)
	return 0
}

// MoveSlot moves a slot to another master while it is in use. It pauses before the keys move, when the old master
// redirects requests for keys that it lacks; after the first keys have moved, when the keys of a call may be on both
// masters; and after all have moved, before the servers are told.
func (c *Cluster) MoveSlot(t testing.TB, slot int, to *Server, pause time.Duration) {
	t.Helper()
	from := c.MasterOfSlot(t, slot)
	source, target := from.Single(t), to.Single(t)
	number := fmt.Sprint(slot)
	host, port, _ := strings.Cut(to.Addr, ":")
	Do(t, target, "CLUSTER", "SETSLOT", number, "IMPORTING", from.id(t))
	Do(t, source, "CLUSTER", "SETSLOT", number, "MIGRATING", to.id(t))
	time.Sleep(pause)
	for most := "1"; ; most = "100" {
		keys, err := Do(t, source, "CLUSTER", "GETKEYSINSLOT", number, most).AsStrSlice()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		Do(t, source, append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, keys...)...)
		time.Sleep(pause)
	}
	// The new master is told first, so that no client is redirected in a circle.
	for _, s := range append([]*Server{to, from}, c.Servers()...) {
		if s.Role() == "master" {
			Do(t, s.Single(t), "CLUSTER", "SETSLOT", number, "NODE", to.id(t))
		}
	}
	c.awaitMaster(t, slot, from)
}

func (s *Server) id(t testing.TB) string {
	t.Helper()
	id, err := s.ask("CLUSTER", "MYID")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// view is the cluster as one of its servers describes it.
type view []struct {
	addr   string
	master string   // the id of a replica's master; "" for a master
	slots  []string // as ranges
}

// view returns nil if the server does not answer.
func (s *Server) view() (v view) {
	text, err := s.ask("CLUSTER", "NODES")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(text) {
		// id host:port@bus[,hostname] flags master ping pong epoch link slot...
		words := strings.Fields(line)
		if len(words) < 8 || strings.Contains(words[2], "handshake") {
			continue
		}
		addr, _, _ := strings.Cut(words[1], "@")
		v = append(v, struct {
			addr, master string
			slots        []string
		}{addr, strings.Trim(words[3], "-"), words[8:]})
	}
	return v
}

func (v view) master(of string) string {
	for _, node := range v {
		if node.addr == of {
			return node.master
		}
	}
	return ""
}

func (v view) owner(slot int) string {
	for _, node := range v {
		for _, text := range node.slots {
			first, last, is := strings.Cut(text, "-")
			if !is {
				last = first
			}
			from, err := strconv.Atoi(first)
			to, err2 := strconv.Atoi(last)
			if err == nil && err2 == nil && from <= slot && slot <= to { // a slot that is moving is written as [5->-id]
				return node.addr
			}
		}
	}
	return ""
}

// Single connects to one node only, without asking it for the cluster.
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
