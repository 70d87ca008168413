package core

import (
	"math"
	"sort"
	"time"
)

// ring is the log of one key under one limit, in this process. It has one entry for each admission, oldest first, like
// the sorted set of the script. Times are in microseconds.
//
// In most logs each entry has one unit, and needs just the low 32 bits of its time. No two times within a window of up
// to 71 minutes share them, so the high bits follow from the newest time. A log with a longer window keeps the high
// bits in a second half of times. A log that has to know more about its entries has details.
//
// An entryID identifies an entry. Two admissions to one log at the same time have different sequence numbers.
type ring struct {
	times       []uint32 // the low bits of each entry's time; in a wide ring, the high bits follow
	count       int      // of entries
	newest      int64    // the time of the last admission
	head        int      // the index of the oldest entry
	lastSeq     uint32   // the sequence number of the last admission
	lastRemoved bool     // the last admission was given back, so the last entry is an earlier one's
	inFlight    bool     // the limit is InFlight, so entries never expire
	details     *details
	name        string // of the limit; name, window and inFlight identify the log among those of its key
	window      time.Duration
	banEnds     int64 // when the ban ends; 0 if there was none
}

// entryID identifies an entry of a log.
type entryID struct {
	at  int64  // the time of the admission
	seq uint32 // the sequence number among the admissions at that time
}

// trim drops the entries up to the cutoff, which have expired, and returns how many units are left.
func (r *ring) trim(cutoff int64) int {
	expired := 0
	if r.inFlight {
		cutoff = math.MinInt64
	} else if r.newest <= cutoff {
		expired = r.count
	}
	for expired < r.count && r.at(expired) <= cutoff {
		expired++
	}
	if expired > 0 {
		r.dropOldest(expired, cutoff)
	}
	if r.capacity() > smallRing && r.count < r.capacity()/4 {
		r.dropUnneededDetails(cutoff)
		r.resize(max(2*r.count, smallRing))
	}
	return r.units()
}

// dropOldest removes the n oldest entries, whose times are up to the cutoff. Each time the head wraps around, it drops
// details that the log no longer needs.
func (r *ring) dropOldest(n int, cutoff int64) {
	if d := r.details; d != nil {
		d.base = r.sum(n - 1)
		for len(d.surcharges) > 0 && d.surcharges[0].at <= cutoff {
			d.surcharges = d.surcharges[1:]
		}
	}
	head := r.index(n)
	wrapped := head <= r.head
	r.head, r.count = head, r.count-n
	if wrapped && r.count > 0 {
		r.dropUnneededDetails(cutoff)
	}
}

// smallRing is the capacity up to which a ring never shrinks.
const smallRing = 64

// wide reports whether the ring keeps all 64 bits of each time.
func (r *ring) wide() bool { return r.inFlight || r.window > math.MaxUint32*time.Microsecond }

// capacity returns how many entries the ring has room for.
func (r *ring) capacity() int {
	if r.wide() {
		return len(r.times) / 2
	}
	return len(r.times)
}

// index returns where entry i is in the ring. Entry 0 is the oldest.
func (r *ring) index(i int) int {
	if i += r.head; i >= r.capacity() {
		i -= r.capacity()
	}
	return i
}

// at returns the time of entry i.
func (r *ring) at(i int) int64 {
	index := r.index(i)
	if r.wide() {
		return int64(r.times[r.capacity()+index])<<32 | int64(r.times[index])
	}
	return r.newest - int64(uint32(r.newest)-r.times[index])
}

// setTime sets the time of the entry at an index.
func (r *ring) setTime(index int, at int64) {
	r.times[index] = uint32(at)
	if r.wide() {
		r.times[r.capacity()+index] = uint32(at >> 32)
	}
}

// nextSeq returns the lowest sequence number that is free for an admission at now.
func (r *ring) nextSeq(now int64) uint32 {
	if now != r.newest {
		return 0
	}
	return r.lastSeq + 1
}

// add adds the entry of an admission of n units. The ring never needs to hold more than max entries.
func (r *ring) add(now int64, seq uint32, n, max int) {
	if r.count == r.capacity() {
		r.resize(min(max, 2*(r.count+1)))
	}
	if r.details == nil && (n != 1 || !r.impliesSeq(now, seq)) {
		r.addDetails()
	}
	if r.details != nil {
		sum := r.details.base + uint64(r.units()+n)
		r.details.entries[r.index(r.count)] = detail{sum: sum, seq: seq}
	}
	r.newest, r.lastSeq, r.lastRemoved = now, seq, false
	r.setTime(r.index(r.count), now)
	r.count++
}

// find returns the number i of the entry of an admission, or -1.
func (r *ring) find(id entryID) int {
	at, seq := id.at, id.seq
	first := sort.Search(r.count, func(i int) bool { return r.at(i) >= at })
	i := first + sort.Search(r.count-first, func(i int) bool {
		if r.at(first+i) > at {
			return true
		}
		if r.details == nil {
			return uint32(i) >= seq
		}
		return r.seq(first+i) >= seq
	})
	if i == r.count || r.at(i) != at || r.details != nil && r.seq(i) != seq {
		return -1
	}
	return i
}

// settle changes the charge of an admission that is not settled yet from charged units to cost. If its entry has
// expired, nothing is given back. If it cost more than it was charged, the difference is charged as of now.
func (r *ring) settle(id entryID, charged, cost int, now int64) {
	i := r.find(id)
	switch {
	case i < 0:
	case cost == 0:
		r.remove(i)
	default:
		if r.details == nil {
			r.addDetails()
		}
		r.subtract(i, uint64(max(0, charged-cost)))
		r.details.entries[r.index(i)].settled = true
	}
	if cost > charged {
		if r.details == nil {
			r.addDetails()
		}
		r.add(now, r.nextSeq(now), cost-charged, math.MaxInt)
		r.details.entries[r.index(r.count-1)].settled = true
		r.details.surcharges = append(r.details.surcharges, surcharge{id, now})
	}
}

// remove removes entry i.
func (r *ring) remove(i int) {
	if r.details == nil && i+1 < r.count && r.at(i+1) == r.at(i) {
		r.addDetails() // because the ranks of later entries of the same time change
	}
	r.lastRemoved = r.lastRemoved || i == r.count-1
	if r.details != nil {
		base := r.details.base
		if i > 0 {
			base = r.sum(i - 1)
		}
		r.subtract(i, r.sum(i)-base)
	}
	for ; i+1 < r.count; i++ {
		r.setTime(r.index(i), r.at(i+1))
		if r.details != nil {
			r.details.entries[r.index(i)] = r.details.entries[r.index(i+1)]
		}
	}
	r.count--
}

// resize moves the entries into a ring of another capacity.
func (r *ring) resize(capacity int) {
	resized := *r
	resized.head = 0
	resized.times = make([]uint32, capacity)
	if r.wide() {
		resized.times = make([]uint32, 2*capacity)
	}
	if r.details != nil {
		details := *r.details
		details.entries = make([]detail, capacity)
		resized.details = &details
	}
	for i := range r.count {
		resized.setTime(i, r.at(i))
		if r.details != nil {
			resized.details.entries[i] = r.details.entries[r.index(i)]
		}
	}
	*r = resized
}

// banned reports whether the log is banned.
func (r *ring) banned(now int64) bool { return now < r.banEnds }

// clear removes all entries and the ban. It keeps the surcharges and the last entryID. So later admissions get other
// IDs, and knowsSettled does not mistake cleared admissions for settled ones.
func (r *ring) clear() {
	cleared := details{cleared: entryID{r.newest, r.lastSeq}}
	if r.details != nil {
		cleared.surcharges = r.details.surcharges
	}
	r.times, r.count, r.head, r.details, r.lastRemoved, r.banEnds = nil, 0, 0, &cleared, true, 0
}

// idle reports whether the log can be deleted: it holds nothing, it is not banned, no later admission can have the same
// time as an earlier one, and it was not cleared within the window.
func (r *ring) idle(now int64) bool {
	cutoff := now - r.window.Microseconds()
	empty := r.count == 0 && (r.inFlight || r.details == nil || r.details.cleared.at <= cutoff)
	return r.newest < now && (empty || !r.inFlight && r.newest <= cutoff) && !r.banned(now)
}

// state sets the fields of a state, whose Limit is set already, for a request of the given cost. It sets them one by
// one, because copying what was just written would stall the processor until the ring is written too.
func (r *ring) state(s *State, now int64, cost int) {
	remaining := s.Limit.Max - r.units()
	s.Remaining = max(0, remaining)
	if r.inFlight {
		s.setInFlightTimes(r.count > 0, remaining < cost)
		return
	}
	if r.count > 0 {
		newest := r.newest // which avoids reading the ring
		if r.lastRemoved {
			newest = r.at(r.count - 1)
		}
		s.ResetAfter = r.expiresIn(newest, now)
	}
	if remaining < cost {
		s.RetryAfter = r.expiresIn(r.at(r.entryOfUnit(cost-remaining)), now)
	}
	if r.banned(now) {
		s.setBan(time.Duration(r.banEnds-now) * time.Microsecond)
	}
}

// expiresIn returns the time from now until an entry of the time at expires.
func (r *ring) expiresIn(at, now int64) time.Duration {
	return time.Duration(at-now)*time.Microsecond + r.window
}
