package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// nodes maps the slots of Redis Cluster to links, one for each master. The first link is for slots with an unknown
// master, and for a Redis that is not a cluster.
//
// The map may be out of date. The client finds the master of each slot by itself, so questions in the wrong link are
// answered too. But they are slower, and the circuit breaker of another master may stop them.
type nodes[Q Question[Q]] struct {
	table     atomic.Pointer[table[Q]]
	refreshAt atomic.Int64 // when to get the map again, by Dispatcher.Now

	mu         sync.Mutex // protects the following fields and changes of table
	closed     bool
	background sync.WaitGroup // the goroutine that gets the map
}

// table is one version of the map. It is immutable.
type table[Q Question[Q]] struct {
	links     []*link[Q]
	linkIndex []uint16 // for each slot the index in links; nil until a cluster has sent its map
}

const (
	// mapAge is how old the map may become. After a failure to get it, mapRetry passes until the next attempt.
	mapAge, mapRetry = 10 * time.Second, time.Second
	// mapTimeout is how long a node may take to send the map.
	mapTimeout = time.Second
)

// index returns the index of the link of a slot.
func (t *table[Q]) index(slot int) int {
	if t.linkIndex == nil {
		return 0
	}
	return int(t.linkIndex[slot])
}

// link returns the link of a slot.
func (n *nodes[Q]) link(slot int) *link[Q] {
	t := n.table.Load()
	return t.links[t.index(slot)]
}

// refresh gets the map from the cluster in the background, if it is due.
func (n *nodes[Q]) refresh(d *Dispatcher[Q], client rueidis.Client) {
	refreshAt, now := n.refreshAt.Load(), d.Now()
	if now < time.Duration(refreshAt) || !n.refreshAt.CompareAndSwap(refreshAt, int64(now+mapAge)) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.background.Go(func() {
		masters, err := askMasters(d.closing, client)
		if err != nil {
			n.refreshAt.Store(int64(d.Now() + mapRetry))
			return
		}
		n.update(d, masters)
	})
}

// update makes a new table. A master keeps the link of its first slot, so that after a failover the questions to a slot
// use the same link and circuit breaker as before.
func (n *nodes[Q]) update(d *Dispatcher[Q], masters [][]slotRange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	old := n.table.Load()
	t := &table[Q]{links: slices.Clone(old.links), linkIndex: make([]uint16, slots)}
	link := make([]int, len(masters)) // 0 if a master has none yet
	used := make([]bool, len(old.links)+len(masters))
	used[0] = true
	if old.linkIndex != nil {
		for m, ranges := range masters {
			if l := old.linkIndex[ranges[0].first]; !used[l] {
				link[m], used[l] = int(l), true
			}
		}
	}
	for m, ranges := range masters {
		if link[m] == 0 {
			link[m] = slices.Index(used, false)
			used[link[m]] = true
		}
		if link[m] == len(t.links) {
			t.links = append(t.links, newLink(d))
		}
		for _, r := range ranges {
			for slot := r.first; slot <= r.last; slot++ {
				t.linkIndex[slot] = uint16(link[m])
			}
		}
	}
	n.table.Store(t)
}

// close waits for the goroutine in the background, and returns all links. No link is added afterwards.
func (n *nodes[Q]) close() []*link[Q] {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.background.Wait()
	return n.table.Load().links
}

// slotRange is a range of slots.
type slotRange struct{ first, last int }

// askMasters gets the slots of each master from the first node that answers.
func askMasters(ctx context.Context, client rueidis.Client) (masters [][]slotRange, err error) {
	defer recoverPanic(func(p error) { err = p })
	err = errors.New("the client has no nodes")
	for _, node := range client.Nodes() {
		if masters, err = askNode(ctx, node); err == nil {
			return masters, nil
		}
	}
	return nil, err
}

// askNode gets the slots of each master from one node.
func askNode(ctx context.Context, node rueidis.Client) ([][]slotRange, error) {
	ctx, cancel := context.WithCancel(ctx) // without a deadline, at which rueidis would close the connection
	defer cancel()
	defer time.AfterFunc(mapTimeout, cancel).Stop()
	rows, err := node.Do(ctx, node.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, err
	}
	return parseSlots(rows)
}

// parseSlots returns the slots of each master, given the reply to CLUSTER SLOTS. Each row of the reply has the first
// and the last slot of a range, and then the nodes of the range, beginning with the master. A node has an address, a
// port and other fields.
func parseSlots(rows []rueidis.RedisMessage) (masters [][]slotRange, err error) {
	malformed := errors.New("not a reply to CLUSTER SLOTS")
	index := map[string]int{}
	for _, message := range rows {
		row, err := message.ToArray()
		if err != nil || len(row) < 3 {
			return nil, malformed
		}
		first, err1 := row[0].AsInt64()
		last, err2 := row[1].AsInt64()
		node, err3 := row[2].ToArray()
		err = errors.Join(err1, err2, err3)
		if err != nil || first < 0 || last < first || last >= slots || len(node) < 2 {
			return nil, malformed
		}
		host, _ := node[0].ToString() // null if the node does not know it
		port, err := node[1].AsInt64()
		if err != nil {
			return nil, malformed
		}
		name := fmt.Sprint(host, " ", port)
		m, found := index[name]
		if !found {
			m = len(masters)
			index[name], masters = m, append(masters, nil)
		}
		masters[m] = append(masters[m], slotRange{int(first), int(last)})
	}
	if len(masters) == 0 {
		return nil, malformed
	}
	return masters, nil
}
