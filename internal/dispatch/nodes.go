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

// nodes maps the slots of Redis Cluster to links, one for each master. The first link is for slots of which the master
// is not known, and for a Redis that is no cluster.
//
// The map may be out of date, since the client finds the master of each slot by itself: a slot in the wrong link is
// slower, and shares the fate of another master, but its questions are answered.
type nodes[Q Question[Q]] struct {
	table atomic.Pointer[table[Q]]
	due   atomic.Int64 // when to ask for the map again, by Dispatcher.Now

	mu     sync.Mutex // held to change what follows, and table
	closed bool
	asking sync.WaitGroup // the goroutine that asks for the map
}

// table is one version of the map. It is not changed.
type table[Q Question[Q]] struct {
	links []*link[Q]
	of    []uint16 // for each slot the index of its link; nil until a cluster has told
}

const (
	// mapAge is how old the map may become. After a failure to get it, mapRetry passes until the next attempt.
	mapAge, mapRetry = 10 * time.Second, time.Second
	// mapTimeout is how long a node may take to tell the map.
	mapTimeout = time.Second
)

// index returns the index of the link of a slot.
func (t *table[Q]) index(slot int) int {
	if t.of == nil {
		return 0
	}
	return int(t.of[slot])
}

// link returns the link of a slot.
func (n *nodes[Q]) link(slot int) *link[Q] {
	t := n.table.Load()
	return t.links[t.index(slot)]
}

// keep asks a cluster for the map in the background if it is due.
func (n *nodes[Q]) keep(d *Dispatcher[Q], client rueidis.Client) {
	due, now := n.due.Load(), d.Now()
	if now < time.Duration(due) || !n.due.CompareAndSwap(due, int64(now+mapAge)) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.asking.Go(func() {
		masters, err := askMasters(d.closing, client)
		if err != nil {
			n.due.Store(int64(d.Now() + mapRetry))
			return
		}
		n.set(d, masters)
	})
}

// set makes a new table. A master keeps the link of its first slot, so that after a failover the questions to a slot
// use the link, and the circuit breaker, that they used before.
func (n *nodes[Q]) set(d *Dispatcher[Q], masters [][]slotRange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	old := n.table.Load()
	t := &table[Q]{links: slices.Clone(old.links), of: make([]uint16, slots)}
	link := make([]int, len(masters)) // 0 as long as a master has none
	used := make([]bool, len(old.links)+len(masters))
	used[0] = true
	if old.of != nil {
		for m, ranges := range masters {
			if l := old.of[ranges[0].first]; !used[l] {
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
				t.of[slot] = uint16(link[m])
			}
		}
	}
	n.table.Store(t)
}

// close ends asking, and returns all links. No link is added afterwards.
func (n *nodes[Q]) close() []*link[Q] {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.asking.Wait()
	return n.table.Load().links
}

// slotRange is a range of slots.
type slotRange struct{ first, last int }

// askMasters asks one node after the other for the slots of each master.
func askMasters(ctx context.Context, client rueidis.Client) (masters [][]slotRange, err error) {
	defer caught(func(p error) { err = p })
	err = errors.New("the client has no nodes")
	for _, node := range client.Nodes() {
		if masters, err = askNode(ctx, node); err == nil {
			return masters, nil
		}
	}
	return nil, err
}

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

// parseSlots returns the slots of each master from the reply to CLUSTER SLOTS. Each row has the first and the last slot
// of a range and then its nodes, of which the first is the master. A node has an address, a port and other fields.
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
		if err := errors.Join(err1, err2, err3); err != nil || first < 0 || last < first || last >= slots || len(node) < 2 {
			return nil, malformed
		}
		host, _ := node[0].ToString() // may be null, if the node does not know it
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
