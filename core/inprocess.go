package core

import (
	"errors"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// inProcess keeps logs in memory, and decides as the script does. There are no leases, because the logs end with the
// process: a request counts under an InFlight limit until it is released.
type inProcess struct {
	identity uint64    // in the receipts of the requests that it admits
	start    time.Time // times are microseconds since then, on Go's monotonic clock
	seed     maphash.Seed
	// shards hold the logs by key. The hash of the key selects the shard. A map delays new keys while it is resized:
	// one map of all keys by 200 ms at 1.5 million keys and by more than a second at 4 million, a shard by a 64th of
	// that.
	shards [64]*xsync.Map[string, *client]
	stop   chan struct{}
	swept  chan struct{} // closed when the sweeper has returned
}

// keyLogs is the logs of one key. They share one lock, so that one step decides a call under several limits.
type client struct {
	mu   sync.Mutex
	most [1]log // the array of logs while there is one log, as for most keys
	logs []log
	// The size is a multiple of a cache line. The first line has what each call writes.
}

// deleted reports whether the sweeper has deleted k from the map. A caller that has loaded k before must load again.
func (c *client) gone() bool { return c.logs != nil && len(c.logs) == 0 }

// sweepEvery is the pause between two sweeps. A sweep takes about a tenth of a second per million keys, and locks one
// key at a time.
const sweepEvery = 16 * time.Second

func newInProcess() *inProcess {
	p := newLogs()
	go p.sweepUntilClose()
	return p
}

// newUnsweptLogs returns logs without a sweeper.
func newLogs() *inProcess {
	p := &inProcess{
		identity: rand.Uint64(),
		start:    time.Now(),
		seed:     maphash.MakeSeed(),
		stop:     make(chan struct{}),
		swept:    make(chan struct{}),
	}
	for i := range p.shards {
		p.shards[i] = xsync.NewMap[string, *client]()
	}
	return p
}

// shard returns the map that holds the logs of a key.
func (p *inProcess) clients(key string) *xsync.Map[string, *client] {
	return p.shards[maphash.String(p.seed, key)%uint64(len(p.shards))]
}

func (p *inProcess) close() {
	close(p.stop)
	<-p.swept
	for _, clients := range p.shards {
		clients.Clear()
	}
}

func (p *inProcess) sweepUntilClose() {
	defer close(p.swept)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.sweep(p.now())
		}
	}
}

// sweep deletes idle logs, and keys that have no others. Since now is not in the future, each admission after a log was
// deleted has a later time than all entries that the log ever held.
func (p *inProcess) sweep(now int64) {
	for _, clients := range p.shards {
		clients.DeleteMatching(func(_ string, c *client) (idle, stop bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.logs = slices.DeleteFunc(c.logs, func(l log) bool { return l.idle(now) })
			if c.logs == nil {
				c.logs = c.most[:0] // deleted
			}
			return c.gone(), false
		})
	}
}

func (p *inProcess) now() int64 { return time.Since(p.start).Microseconds() }

// lock locks and returns the logs of a key. If there are none, it makes them if create is true, and else returns nil.
func (p *inProcess) locked(key string, make bool) *client {
	clients := p.clients(key)
	for {
		c, found := clients.Load(key)
		if !found {
			if !make {
				return nil
			}
			// Clone, because a key that is a substring of a request would keep the whole request in memory.
			c, _ = clients.LoadOrStore(strings.Clone(key), new(client))
		}
		c.mu.Lock()
		if !c.gone() {
			return c
		}
		c.mu.Unlock()
		runtime.Gosched() // the sweeper is about to delete it from the map
	}
}

func (p *inProcess) decide(d *Decision, key string, cost int, limits []Limit) {
	c := p.locked(key, true)
	c.decide(d, p.now(), cost, limits) // reads the clock under the lock, so that times in a log never decrease
	c.mu.Unlock()
	if d.Allowed {
		d.receipt.store, d.receipt.key = p.identity, key
	}
}

// settle charges a request what it has cost instead of the cost in its receipt. None of the limits may be InFlight.
func (p *inProcess) settle(paid receipt, cost int, limits []State) error {
	c := p.locked(paid.key, cost > paid.cost)
	if c == nil {
		return nil
	}
	defer c.mu.Unlock()
	return c.settle(p.now(), paid, cost, limits)
}

// release removes a request from the logs of InFlight limits.
func (p *inProcess) release(paid receipt, limits []Limit) {
	if c := p.locked(paid.key, false); c != nil {
		defer c.mu.Unlock()
		c.release(paid, limits)
	}
}

func (p *inProcess) peek(d *Decision, key string, limits []Limit) {
	c := p.locked(key, false)
	if c == nil {
		c = new(client)
		c.mu.Lock()
	}
	c.peek(d, p.now(), limits)
	c.mu.Unlock()
}

func (p *inProcess) reset(key string, limits []Limit) {
	c := p.locked(key, false)
	if c == nil {
		return
	}
	defer c.mu.Unlock()
	c.reset(limits)
}

// allow decides a request, as the verb admit of the script does.
func (c *client) decide(d *Decision, now int64, cost int, limits []Limit) {
	var few [4]int
	logs, allowed := c.count(few[:0], now, cost, limits)
	if allowed {
		number := uint32(0) // that no other admission of this time has in any of the logs
		for i := range limits {
			if logs[i] < 0 {
				logs[i] = c.open(&limits[i])
			}
			number = max(number, c.logs[logs[i]].next(now))
		}
		for i := range limits {
			c.logs[logs[i]].add(now, number, cost, limits[i].Max)
		}
		d.receipt.cost, d.receipt.entryID = cost, entryID{now, number}
	} else {
		c.ban(now, cost, limits, logs)
	}
	c.describe(d, allowed, now, cost, limits, logs)
}

// beginBans bans those logs that have no room for a request that was denied, if their limits have a Ban.
func (c *client) ban(now int64, cost int, limits []Limit, logs []int) {
	for i := range limits {
		if limit := &limits[i]; limit.Ban > 0 && logs[i] >= 0 {
			if l := &c.logs[logs[i]]; !l.banned(now) && l.units() > limit.Max-cost {
				l.banEnds = now + limit.Ban.Microseconds()
			}
		}
	}
}

// peek decides a request of cost 1 and charges nothing, as the verb peek of the script does.
func (c *client) peek(d *Decision, now int64, limits []Limit) {
	var few [4]int
	logs, allowed := c.count(few[:0], now, 1, limits)
	c.describe(d, allowed, now, 1, limits, logs)
}

// checkRoom appends the index of each limit's log to indexes, or -1 if there is none. It reports whether all of the
// logs have room for cost units.
func (c *client) count(logs []int, now int64, cost int, limits []Limit) (_ []int, room bool) {
	room = true
	for i := range limits {
		limit := &limits[i]
		found := c.find(limit)
		if found >= 0 {
			l := &c.logs[found]
			if l.trim(now-limit.Window.Microseconds()) > limit.Max-cost || l.banned(now) {
				room = false
			}
		}
		logs = append(logs, found)
	}
	return logs, room
}

// find returns the index of a limit's log, or -1.
func (c *client) find(limit *Limit) int {
	for i := range c.logs {
		if l := &c.logs[i]; l.window == limit.Window && l.flights == limit.InFlight && l.name == limit.Name {
			return i
		}
	}
	return -1
}

// addLog adds the log of a limit, and returns its index.
func (c *client) open(limit *Limit) int {
	if c.logs == nil {
		c.logs = c.most[:0]
	}
	if len(c.logs) == len(c.most) {
		c.logs = slices.Grow(c.logs, 1)
		c.most[0] = log{} // or it would keep its times in memory
	}
	c.logs = append(c.logs, log{
		newest: math.MinInt64, name: strings.Clone(limit.Name), window: limit.Window, flights: limit.InFlight,
	})
	return len(c.logs) - 1
}

// setDecision sets a decision and the states of the logs after it.
func (c *client) describe(d *Decision, allowed bool, now int64, cost int, limits []Limit, logs []int) {
	if len(limits) == 1 {
		d.Allowed, d.Source = allowed, SourceInProcess
		c.state(&d.State, logs[0], now, cost, &limits[0])
		return
	}
	states := make([]State, len(limits))
	for i := range limits {
		c.state(&states[i], logs[i], now, cost, &limits[i])
	}
	receipt := d.receipt
	*d = decide(allowed, states, SourceInProcess)
	d.receipt = receipt
}

// state sets the state of a limit, whose log has the index i.
func (c *client) state(s *State, i int, now int64, cost int, limit *Limit) {
	s.Limit = *limit
	if i < 0 {
		s.Remaining = limit.Max
		return
	}
	c.logs[i].state(s, now, cost)
}

// settle does what the verb settle of the script does. It does nothing if a log shows that the request is settled.
func (c *client) settle(now int64, paid receipt, cost int, limits []State) error {
	for i := range limits {
		l, before := &log{}, now-limits[i].Limit.Window.Microseconds()
		if found := c.find(&limits[i].Limit); found >= 0 {
			l = &c.logs[found]
		}
		l.trim(before)
		if l.knows(paid.entryID, before) {
			return nil
		}
		if cost > paid.cost && l.units() > mostUnits-(cost-paid.cost) {
			return errTooMany
		}
	}
	for i := range limits {
		limit := &limits[i].Limit
		found := c.find(limit)
		if found < 0 && cost > paid.cost {
			found = c.open(limit)
		}
		if found >= 0 {
			c.logs[found].settle(paid.entryID, paid.cost, cost, now)
		}
	}
	return nil
}

// release does what the verb settle of the script does with an actual cost of 0.
func (c *client) release(paid receipt, limits []Limit) {
	for i := range limits {
		if found := c.find(&limits[i]); found >= 0 {
			l := &c.logs[found]
			if entry := l.find(paid.entryID); entry >= 0 {
				l.remove(entry)
			}
		}
	}
}

// maxUnits is the most units that a log may hold. It is more than any Max. In Redis, larger numbers are not exact.
const mostUnits = min(1<<53-1, math.MaxInt)

var errTooMany = errors.New("the log would hold more units than can be counted")

// reset clears the logs of limits. The sweeper deletes them once no admission can be mistaken for one that they held.
func (c *client) reset(limits []Limit) {
	for i := range limits {
		if found := c.find(&limits[i]); found >= 0 {
			c.logs[found].clear()
		}
	}
}
