package core

import "time"

// log holds the moments at which one key's units were admitted under one limit, in microseconds, oldest first. It is the
// sorted set of the script without the ids, as a ring. A nil log is empty.
type log struct {
	ring  []int64
	first int // index of the oldest
	count int
}

// trim drops what was admitted at or before the moment given, and returns how many are left.
func (l *log) trim(before int64) int {
	if l == nil {
		return 0
	}
	for l.count > 0 && l.at(0) <= before {
		if l.first++; l.first == len(l.ring) {
			l.first = 0
		}
		l.count--
	}
	if len(l.ring) > smallRing && l.count < len(l.ring)/4 {
		l.resize(max(2*l.count, smallRing))
	}
	return l.count
}

// idle says whether nothing is left of what was admitted after the moment given.
func (l *log) idle(before int64) bool {
	return l.count == 0 || l.at(l.count-1) <= before
}

// smallRing is the longest ring, in entries, that is kept however empty it is.
const smallRing = 64

// at returns the moment of entry i, of which 0 is the oldest.
func (l *log) at(i int) int64 {
	if i += l.first; i >= len(l.ring) {
		i -= len(l.ring)
	}
	return l.ring[i]
}

// add enters n units admitted now. The caller has seen that they fit max, so the ring need not grow beyond it.
func (l *log) add(now int64, n, max int) {
	if need := l.count + n; need > len(l.ring) {
		l.resize(min(max, need*2))
	}
	for range n {
		i := l.first + l.count
		if i >= len(l.ring) {
			i -= len(l.ring)
		}
		l.ring[i] = now
		l.count++
	}
}

func (l *log) resize(size int) {
	ring := make([]int64, size)
	for i := range l.count {
		ring[i] = l.at(i)
	}
	l.ring, l.first = ring, 0
}

// state says where limit stands for a request of the given cost.
func (l *log) state(now int64, cost int, limit Limit) State {
	state := State{Limit: limit}
	if l == nil || l.count == 0 {
		state.Remaining = limit.Max
		return state
	}
	remaining := limit.Max - l.count
	leaves := func(i int) time.Duration {
		return time.Duration(l.at(i)-now)*time.Microsecond + limit.Window
	}
	if remaining < cost {
		state.RetryAfter = leaves(cost - remaining - 1)
	}
	state.Remaining = max(0, remaining)
	state.ResetAfter = leaves(l.count - 1)
	return state
}
