package core

import (
	"math"
	"sort"
	"time"
)

// log holds the moments at which one key's units were admitted under one limit, in microseconds, oldest first. It is the
// sorted set of the script without the ids, as a ring.
//
// The ring has the low 32 bits of each moment. Within a window of up to 71 minutes no two moments share them, so the
// newest moment tells the rest. The high bits of longer windows follow in a second half.
type log struct {
	ring   []uint32
	first  int // index of the oldest
	count  int
	newest int64
	name   string // of the limit, which with the window makes out the log among those of its key
	window time.Duration
}

// trim drops what was admitted at or before the moment given, and returns how many are left.
func (l *log) trim(before int64) int {
	if l.newest <= before {
		l.count = 0
	}
	for l.count > 0 && l.at(0) <= before {
		if l.first++; l.first == l.size() {
			l.first = 0
		}
		l.count--
	}
	if l.size() > smallRing && l.count < l.size()/4 {
		l.resize(max(2*l.count, smallRing))
	}
	return l.count
}

// idle says whether nothing is left of what was admitted after the moment given.
func (l *log) idle(before int64) bool { return l.count == 0 || l.newest <= before }

// smallRing is the longest ring, in entries, that is kept however empty it is.
const smallRing = 64

func (l *log) long() bool { return l.window > math.MaxUint32*time.Microsecond }

// size is how many entries the ring has room for.
func (l *log) size() int {
	if l.long() {
		return len(l.ring) / 2
	}
	return len(l.ring)
}

// place returns the index of entry i, of which 0 is the oldest.
func (l *log) place(i int) int {
	if i += l.first; i >= l.size() {
		i -= l.size()
	}
	return i
}

// at returns the moment of entry i.
func (l *log) at(i int) int64 {
	place := l.place(i)
	if l.long() {
		return int64(l.ring[l.size()+place])<<32 | int64(l.ring[place])
	}
	return l.newest - int64(uint32(l.newest)-l.ring[place])
}

// set makes it the moment of the entry at a place.
func (l *log) set(place int, moment int64) {
	l.ring[place] = uint32(moment)
	if l.long() {
		l.ring[l.size()+place] = uint32(moment >> 32)
	}
}

// add enters n units admitted now. The caller has seen that they fit max, so the ring need not grow beyond it.
func (l *log) add(now int64, n, max int) {
	if need := l.count + n; need > l.size() {
		l.resize(min(max, need*2))
	}
	l.newest = now
	for range n {
		l.set(l.place(l.count), now)
		l.count++
	}
}

// remove drops up to n of the units admitted at a moment.
func (l *log) remove(at int64, n int) {
	first := sort.Search(l.count, func(i int) bool { return l.at(i) >= at })
	last := first
	for last < l.count && last < first+n && l.at(last) == at {
		last++
	}
	newest := l.newest
	if last == l.count && first > 0 {
		newest = l.at(first - 1)
	}
	for ; last < l.count; first, last = first+1, last+1 {
		l.set(l.place(first), l.at(last))
	}
	l.count, l.newest = first, newest
}

func (l *log) resize(size int) {
	resized := *l
	resized.first = 0
	resized.ring = make([]uint32, size)
	if l.long() {
		resized.ring = make([]uint32, 2*size)
	}
	for i := range l.count {
		resized.set(i, l.at(i))
	}
	*l = resized
}

// state completes a state whose Limit is set, for a request of the given cost. It writes the fields where they will stay: a
// copy of what was just written would wait until the ring is written too.
func (l *log) state(s *State, now int64, cost int) {
	remaining := s.Limit.Max - l.count
	s.Remaining = max(0, remaining)
	if l.count > 0 {
		s.ResetAfter = l.leaves(l.newest, now)
	}
	if remaining < cost {
		s.RetryAfter = l.leaves(l.at(cost-remaining-1), now)
	}
}

// leaves returns how long it takes until what was admitted at a moment leaves the window.
func (l *log) leaves(at, now int64) time.Duration {
	return time.Duration(at-now)*time.Microsecond + l.window
}
