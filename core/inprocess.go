package core

import (
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// inProcess keeps logs in memory, and decides as the script does. It needs no leases, because the logs end with the
// process: under an InFlight limit, a request counts until it is released.
type inProcess struct {
	storeID uint64    // identifies these logs in receipts
	start   time.Time // times are microseconds since then, on Go's monotonic clock
	seed    maphash.Seed
	// shards hold the logs by key. The hash of the key selects the shard. A map delays new keys while it is resized. A
	// single map would delay them by 200 ms at 1.5 million keys, and by more than a second at 4 million. A shard delays
	// them by a 64th of that.
	shards      [64]*xsync.Map[string, *keyLogs]
	stop        chan struct{}
	sweeperDone chan struct{} // closed when the sweeper has returned
}

// sweepEvery is the pause between two sweeps. A sweep takes about a tenth of a second per million keys, and locks one
// key at a time.
const sweepEvery = 16 * time.Second

func newInProcess() *inProcess {
	p := newUnsweptLogs()
	go p.sweepUntilClose()
	return p
}

// newUnsweptLogs returns logs without a sweeper.
func newUnsweptLogs() *inProcess {
	p := &inProcess{
		storeID:     rand.Uint64(),
		start:       time.Now(),
		seed:        maphash.MakeSeed(),
		stop:        make(chan struct{}),
		sweeperDone: make(chan struct{}),
	}
	for i := range p.shards {
		p.shards[i] = xsync.NewMap[string, *keyLogs]()
	}
	return p
}

// shard returns the map that holds the logs of a key.
func (p *inProcess) shard(key string) *xsync.Map[string, *keyLogs] {
	return p.shards[maphash.String(p.seed, key)%uint64(len(p.shards))]
}

func (p *inProcess) close() {
	close(p.stop)
	<-p.sweeperDone
	for _, shard := range p.shards {
		shard.Clear()
	}
}

func (p *inProcess) sweepUntilClose() {
	defer close(p.sweeperDone)
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

// sweep deletes idle logs, and keys that have no other logs. Because now is not in the future, every later admission
// has a later time than all entries of the deleted logs.
func (p *inProcess) sweep(now int64) {
	for _, shard := range p.shards {
		shard.DeleteMatching(func(_ string, k *keyLogs) (idle, stop bool) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.logs = slices.DeleteFunc(k.logs, func(r ring) bool { return r.idle(now) })
			if k.logs == nil {
				k.logs = k.inline[:0] // deleted
			}
			return k.deleted(), false
		})
	}
}

func (p *inProcess) now() int64 { return time.Since(p.start).Microseconds() }

// lock locks and returns the logs of a key. If there are none, it creates them if create is true, and otherwise returns
// nil.
func (p *inProcess) lock(key string, create bool) *keyLogs {
	shard := p.shard(key)
	for {
		k, found := shard.Load(key)
		if !found {
			if !create {
				return nil
			}
			// Clone, because a key that is a substring of a request would keep the whole request in memory.
			k, _ = shard.LoadOrStore(strings.Clone(key), new(keyLogs))
		}
		k.mu.Lock()
		if !k.deleted() {
			return k
		}
		k.mu.Unlock()
		runtime.Gosched() // the sweeper is about to delete it from the map
	}
}

func (p *inProcess) allow(d *Decision, key string, cost int, limits []Limit) {
	k := p.lock(key, true)
	k.allow(d, p.now(), cost, limits) // reads the clock under the lock, so that times in a log never decrease
	k.mu.Unlock()
	if d.Allowed {
		d.receipt.storeID, d.receipt.key = p.storeID, key
	}
}

// settle changes the charge of a request from the cost in its receipt to the given cost. None of the limits may be
// InFlight.
func (p *inProcess) settle(receipt receipt, cost int, limits []State) error {
	k := p.lock(receipt.key, cost > receipt.cost)
	if k == nil {
		return nil
	}
	defer k.mu.Unlock()
	return k.settle(p.now(), receipt, cost, limits)
}

// release removes a request from the logs of InFlight limits.
func (p *inProcess) release(receipt receipt, limits []Limit) {
	if k := p.lock(receipt.key, false); k != nil {
		defer k.mu.Unlock()
		k.release(receipt, limits)
	}
}

func (p *inProcess) peek(d *Decision, key string, limits []Limit) {
	k := p.lock(key, false)
	if k == nil {
		k = new(keyLogs)
		k.mu.Lock()
	}
	k.peek(d, p.now(), limits)
	k.mu.Unlock()
}

func (p *inProcess) reset(key string, limits []Limit) {
	k := p.lock(key, false)
	if k == nil {
		return
	}
	defer k.mu.Unlock()
	k.reset(limits)
}
