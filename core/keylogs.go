package core

import (
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
)

// keyLogs is the logs of one key. They share a lock, so that a call under several limits is decided in one step.
type keyLogs struct {
	mu     sync.Mutex
	inline [1]ring // the array of logs as long as there is only one, as for most keys
	logs   []ring
	// The size of a keyLogs is a multiple of a cache line. The first line holds what each call writes.
}

// deleted reports whether the sweeper has deleted k from the map. A caller that loaded k before that must load the key
// again.
func (k *keyLogs) deleted() bool { return k.logs != nil && len(k.logs) == 0 }

// allow decides a request, as the verb admit of the script does.
func (k *keyLogs) allow(d *Decision, now int64, cost int, limits []Limit) {
	var buffer [4]int
	indexes, allowed := k.checkRoom(buffer[:0], now, cost, limits)
	if allowed {
		seq := uint32(0) // unused by the admissions of this time in all of the logs
		for i := range limits {
			if indexes[i] < 0 {
				indexes[i] = k.addLog(&limits[i])
			}
			seq = max(seq, k.logs[indexes[i]].nextSeq(now))
		}
		for i := range limits {
			k.logs[indexes[i]].add(now, seq, cost, limits[i].Max)
		}
		d.receipt.cost, d.receipt.entryID = cost, entryID{now, seq}
	} else {
		k.beginBans(now, cost, limits, indexes)
	}
	k.setDecision(d, allowed, now, cost, limits, indexes)
}

// peek decides a request of cost 1 and charges nothing, as the verb peek of the script does.
func (k *keyLogs) peek(d *Decision, now int64, limits []Limit) {
	var buffer [4]int
	indexes, allowed := k.checkRoom(buffer[:0], now, 1, limits)
	k.setDecision(d, allowed, now, 1, limits, indexes)
}

// checkRoom appends the index of each limit's log to indexes, or -1 if the limit has no log. It reports whether all of
// the logs have room for cost units.
func (k *keyLogs) checkRoom(indexes []int, now int64, cost int, limits []Limit) (_ []int, room bool) {
	room = true
	for i := range limits {
		limit := &limits[i]
		found := k.find(limit)
		if found >= 0 {
			r := &k.logs[found]
			if r.trim(now-limit.Window.Microseconds()) > limit.Max-cost || r.banned(now) {
				room = false
			}
		}
		indexes = append(indexes, found)
	}
	return indexes, room
}

// beginBans bans the logs that had no room for a denied request, if their limits have a Ban.
func (k *keyLogs) beginBans(now int64, cost int, limits []Limit, indexes []int) {
	for i := range limits {
		if limit := &limits[i]; limit.Ban > 0 && indexes[i] >= 0 {
			if r := &k.logs[indexes[i]]; !r.banned(now) && r.units() > limit.Max-cost {
				r.banEnds = now + limit.Ban.Microseconds()
			}
		}
	}
}

// find returns the index of a limit's log, or -1.
func (k *keyLogs) find(limit *Limit) int {
	for i := range k.logs {
		if r := &k.logs[i]; r.window == limit.Window && r.inFlight == limit.InFlight && r.name == limit.Name {
			return i
		}
	}
	return -1
}

// addLog adds the log of a limit, and returns its index.
func (k *keyLogs) addLog(limit *Limit) int {
	if k.logs == nil {
		k.logs = k.inline[:0]
	}
	if len(k.logs) == len(k.inline) {
		k.logs = slices.Grow(k.logs, 1)
		k.inline[0] = ring{} // frees the times that the log had before it was moved
	}
	k.logs = append(k.logs, ring{
		newest: math.MinInt64, name: strings.Clone(limit.Name), window: limit.Window, inFlight: limit.InFlight,
	})
	return len(k.logs) - 1
}

// setDecision sets d to a decision, with the states of the limits after it.
func (k *keyLogs) setDecision(d *Decision, allowed bool, now int64, cost int, limits []Limit, indexes []int) {
	if len(limits) == 1 {
		d.Allowed, d.Source = allowed, SourceInProcess
		k.state(&d.State, indexes[0], now, cost, &limits[0])
		return
	}
	states := make([]State, len(limits))
	for i := range limits {
		k.state(&states[i], indexes[i], now, cost, &limits[i])
	}
	receipt := d.receipt
	*d = newDecision(allowed, states, SourceInProcess)
	d.receipt = receipt
}

// state sets the state of a limit. Its log has the index i, or the limit has no log if i is -1.
func (k *keyLogs) state(s *State, i int, now int64, cost int, limit *Limit) {
	s.Limit = *limit
	if i < 0 {
		s.Remaining = limit.Max
		return
	}
	k.logs[i].state(s, now, cost)
}

// settle does what the verb settle of the script does. It does nothing if a log shows that the request is settled.
func (k *keyLogs) settle(now int64, receipt receipt, cost int, limits []State) error {
	for i := range limits {
		r, cutoff := &ring{}, now-limits[i].Limit.Window.Microseconds()
		if found := k.find(&limits[i].Limit); found >= 0 {
			r = &k.logs[found]
		}
		r.trim(cutoff)
		if r.knowsSettled(receipt.entryID, cutoff) {
			return nil
		}
		if cost > receipt.cost && r.units() > maxUnits-(cost-receipt.cost) {
			return errTooManyUnits
		}
	}
	for i := range limits {
		limit := &limits[i].Limit
		found := k.find(limit)
		if found < 0 && cost > receipt.cost {
			found = k.addLog(limit)
		}
		if found >= 0 {
			k.logs[found].settle(receipt.entryID, receipt.cost, cost, now)
		}
	}
	return nil
}

// release does what the verb settle of the script does with an actual cost of 0.
func (k *keyLogs) release(receipt receipt, limits []Limit) {
	for i := range limits {
		if found := k.find(&limits[i]); found >= 0 {
			r := &k.logs[found]
			if entry := r.find(receipt.entryID); entry >= 0 {
				r.remove(entry)
			}
		}
	}
}

// reset clears the logs of limits. The sweeper deletes them later: see ring.idle.
func (k *keyLogs) reset(limits []Limit) {
	for i := range limits {
		if found := k.find(&limits[i]); found >= 0 {
			k.logs[found].clear()
		}
	}
}

// maxUnits is the most units that a log may hold, which is more than any Max. In Redis, larger numbers are not exact.
const maxUnits = min(1<<53-1, math.MaxInt)

var errTooManyUnits = errors.New("the log would hold more units than can be counted")
