package core

import (
	"math"
	"slices"
	"sort"
	"time"
)

// ring is the log of one key under one limit, in this process: one entry for each admission, oldest first, as in the
// sorted set of the script. Times are in microseconds.
//
// Most logs hold only entries of one unit, and need just the low 32 bits of each entry's time. Within a window of up to
// 71 minutes no two times share them, so the newest time determines the rest. A log with a longer window keeps the high
// bits in a second half of times. A log that needs to know more about its entries has details.
//
// An entryID identifies an entry: two admissions to one log at the same time have different sequence numbers.
type log struct {
	ring    []uint32 // the low bits of each entry's time, and in a wide ring the high bits after them
	count   int      // of entries
	newest  int64    // the time of the last admission
	first   int      // the index of the oldest entry
	number  uint32   // the sequence number of the last admission
	undone  bool     // the last admission was given back, so the last entry is of an earlier one
	flights bool     // the limit is InFlight, so entries never expire
	details *details
	name    string // of the limit; name, window and inFlight identify the log among those of its key
	window  time.Duration
	banEnds int64 // when the ban ends; 0 if there was none
}

// entryID identifies an entry of a log.
type entryID struct {
	at     int64  // the time of the admission
	number uint32 // the sequence number among the admissions at that time
}

// details holds what the times of a log do not show. A log has details while an entry weighs more than one unit or is
// settled, while a sequence number differs from the entry's rank among the entries of the same time, which a refund can
// cause, and for a window after the log was cleared.
type details struct {
	ring    []detail
	before  uint64       // the sum of the entry before the oldest one
	added   []additional // those that have not expired, oldest first
	cleared entryID      // the last admission before the log was cleared; zero time if never
}

// detail describes one entry. The sum is the units of the entry and of all before it, so that a binary search finds the
// entry that holds a given unit. Sums may overflow, because only their differences are used.
type detail struct {
	sum     uint64
	number  uint32
	settled bool // the admission is settled, or the entry is a surcharge
}

// surcharge is an entry for what a request has cost beyond what it was charged.
type additional struct {
	of entryID // of the request
	at int64   // the time of the surcharge
}

// trim drops the entries up to the cutoff, which have expired, and returns how many units are left.
func (l *log) trim(before int64) int {
	gone := 0
	if l.flights {
		before = math.MinInt64
	} else if l.newest <= before {
		gone = l.count
	}
	for gone < l.count && l.at(gone) <= before {
		gone++
	}
	if gone > 0 {
		l.drop(gone, before)
	}
	if l.size() > smallRing && l.count < l.size()/4 {
		l.simplify(before)
		l.resize(max(2*l.count, smallRing))
	}
	return l.units()
}

// dropOldest removes the n oldest entries, whose times are up to the cutoff. Each time the head wraps around, it drops
// details that the log no longer needs.
func (l *log) drop(n int, before int64) {
	if d := l.details; d != nil {
		d.before = l.sum(n - 1)
		for len(d.added) > 0 && d.added[0].at <= before {
			d.added = d.added[1:]
		}
	}
	first := l.place(n)
	turned := first <= l.first
	l.first, l.count = first, l.count-n
	if turned && l.count > 0 {
		l.simplify(before)
	}
}

// smallRing is the longest ring, in entries, that is kept however empty it is.
const smallRing = 64

// wide reports whether the ring keeps all 64 bits of each time.
func (l *log) long() bool { return l.flights || l.window > math.MaxUint32*time.Microsecond }

// capacity returns how many entries fit into the ring.
func (l *log) size() int {
	if l.long() {
		return len(l.ring) / 2
	}
	return len(l.ring)
}

// index returns where entry i is in the ring. Entry 0 is the oldest.
func (l *log) place(i int) int {
	if i += l.first; i >= l.size() {
		i -= l.size()
	}
	return i
}

// at returns the time of entry i.
func (l *log) at(i int) int64 {
	place := l.place(i)
	if l.long() {
		return int64(l.ring[l.size()+place])<<32 | int64(l.ring[place])
	}
	return l.newest - int64(uint32(l.newest)-l.ring[place])
}

// setTime sets the time of the entry at an index.
func (l *log) set(place int, moment int64) {
	l.ring[place] = uint32(moment)
	if l.long() {
		l.ring[l.size()+place] = uint32(moment >> 32)
	}
}

// sum returns the units of entry i and of all before it.
func (l *log) sum(i int) uint64 { return l.details.ring[l.place(i)].sum }

// units returns how many units the log holds.
func (l *log) units() int {
	if l.details == nil || l.count == 0 {
		return l.count
	}
	return int(l.sum(l.count-1) - l.details.before)
}

// nextSeq returns the lowest sequence number that an admission can have now.
func (l *log) next(now int64) uint32 {
	if now != l.newest {
		return 0
	}
	return l.number + 1
}

// add adds the entry of an admission of n units. The ring never needs to hold more than max entries.
func (l *log) add(now int64, number uint32, n, max int) {
	if l.count == l.size() {
		l.resize(min(max, 2*(l.count+1)))
	}
	if l.details == nil && (n != 1 || !l.implies(now, number)) {
		l.detail()
	}
	if l.details != nil {
		sum := l.details.before + uint64(l.units()+n)
		l.details.ring[l.place(l.count)] = detail{sum: sum, number: number}
	}
	l.newest, l.number, l.undone = now, number, false
	l.set(l.place(l.count), now)
	l.count++
}

// impliesSeq reports whether, in a log without details, the next entry's rank among the entries of its time will be its
// sequence number.
func (l *log) implies(now int64, number uint32) bool {
	if now != l.newest {
		return number == 0
	}
	return number == l.number+1 && !l.undone
}

// addDetails adds details to a log whose entries have one unit each and implied sequence numbers.
func (l *log) detail() {
	l.details = &details{ring: make([]detail, l.size()), cleared: entryID{at: math.MinInt64}}
	number := uint32(0)
	for i := range l.count {
		number = l.implied(i, number)
		l.details.ring[l.place(i)] = detail{sum: uint64(i + 1), number: number}
	}
}

// dropUnneededDetails drops the details if the log does not need them. Entries up to the cutoff have expired.
func (l *log) simplify(before int64) {
	if l.details == nil || l.units() != l.count || l.details.cleared.at > before {
		return
	}
	number := uint32(0)
	for i := range l.count {
		number = l.implied(i, number)
		if number != l.numbered(i) || l.settled(i) {
			return
		}
	}
	l.details = nil
}

// impliedSeq returns the rank of entry i among the entries of its time, given that of the previous entry.
func (l *log) implied(i int, before uint32) uint32 {
	if i == 0 || l.at(i) != l.at(i-1) {
		return 0
	}
	return before + 1
}

// seq returns the sequence number of entry i in a log with details.
func (l *log) numbered(i int) uint32 { return l.details.ring[l.place(i)].number }

// settled reports whether entry i is settled.
func (l *log) settled(i int) bool { return l.details != nil && l.details.ring[l.place(i)].settled }

// find returns the number i of an admission's entry, or -1.
func (l *log) find(id entryID) int {
	at, number := id.at, id.number
	first := sort.Search(l.count, func(i int) bool { return l.at(i) >= at })
	i := first + sort.Search(l.count-first, func(i int) bool {
		if l.at(first+i) > at {
			return true
		}
		if l.details == nil {
			return uint32(i) >= number
		}
		return l.numbered(first+i) >= number
	})
	if i == l.count || l.at(i) != at || l.details != nil && l.numbered(i) != number {
		return -1
	}
	return i
}

// knowsSettled reports whether the log shows that an admission is settled: its entry is marked, it has a surcharge, or
// its entry is missing although it has neither expired nor been cleared. Entries up to the cutoff have expired.
func (l *log) knows(id entryID, before int64) bool {
	if i := l.find(id); i >= 0 {
		return l.settled(i)
	}
	if d := l.details; d != nil {
		if slices.ContainsFunc(d.added, func(a additional) bool { return a.of == id }) {
			return true
		}
		if id.at < d.cleared.at || id.at == d.cleared.at && id.number <= d.cleared.number {
			return false
		}
	}
	return id.at > before
}

// settle settles an admission that is not settled yet, from the units that it was charged to those that it has cost. If
// its entry has expired, there is nothing to give back. What it has cost beyond its charge is charged as of now.
func (l *log) settle(id entryID, charged, cost int, now int64) {
	i := l.find(id)
	switch {
	case i < 0:
	case cost == 0:
		l.remove(i)
	default:
		if l.details == nil {
			l.detail()
		}
		l.lower(i, uint64(max(0, charged-cost)))
		l.details.ring[l.place(i)].settled = true
	}
	if cost > charged {
		if l.details == nil {
			l.detail()
		}
		l.add(now, l.next(now), cost-charged, math.MaxInt)
		l.details.ring[l.place(l.count-1)].settled = true
		l.details.added = append(l.details.added, additional{id, now})
	}
}

// subtract takes units from entry i of a log with details.
func (l *log) lower(i int, units uint64) {
	for ; units > 0 && i < l.count; i++ {
		l.details.ring[l.place(i)].sum -= units
	}
}

// remove removes entry i.
func (l *log) remove(i int) {
	if l.details == nil && i+1 < l.count && l.at(i+1) == l.at(i) {
		l.detail() // since the ranks of later entries of the same time change
	}
	l.undone = l.undone || i == l.count-1
	if l.details != nil {
		before := l.details.before
		if i > 0 {
			before = l.sum(i - 1)
		}
		l.lower(i, l.sum(i)-before)
	}
	for ; i+1 < l.count; i++ {
		l.set(l.place(i), l.at(i+1))
		if l.details != nil {
			l.details.ring[l.place(i)] = l.details.ring[l.place(i+1)]
		}
	}
	l.count--
}

// resize moves the entries into a ring of another capacity.
func (l *log) resize(size int) {
	resized := *l
	resized.first = 0
	resized.ring = make([]uint32, size)
	if l.long() {
		resized.ring = make([]uint32, 2*size)
	}
	if l.details != nil {
		details := *l.details
		details.ring = make([]detail, size)
		resized.details = &details
	}
	for i := range l.count {
		resized.set(i, l.at(i))
		if l.details != nil {
			resized.details.ring[i] = l.details.ring[l.place(i)]
		}
	}
	*l = resized
}

// banned reports whether a ban is in force.
func (l *log) banned(now int64) bool { return now < l.banEnds }

// clear removes all entries and the ban. It keeps the surcharges and the last entryID, so that later admissions get
// other IDs, and so that knowsSettled does not take what was cleared for settled.
func (l *log) clear() {
	cleared := details{cleared: entryID{l.newest, l.number}}
	if l.details != nil {
		cleared.added = l.details.added
	}
	l.ring, l.count, l.first, l.details, l.undone, l.banEnds = nil, 0, 0, &cleared, true, 0
}

// idle reports whether the log can be deleted: it holds nothing, it is not banned, no later admission can have the
// same time as an earlier one, and it was not cleared within the window.
func (l *log) idle(now int64) bool {
	before := now - l.window.Microseconds()
	empty := l.count == 0 && (l.flights || l.details == nil || l.details.cleared.at <= before)
	return l.newest < now && (empty || !l.flights && l.newest <= before) && !l.banned(now)
}

// state completes a state whose Limit is set, for a request of the given cost. It writes the fields in place, because
// copying what was just written would stall the processor until the ring is written too.
func (l *log) state(s *State, now int64, cost int) {
	remaining := s.Limit.Max - l.units()
	s.Remaining = max(0, remaining)
	if l.flights {
		s.suppose(l.count > 0, remaining < cost)
		return
	}
	if l.count > 0 {
		newest := l.newest // without reading the ring
		if l.undone {
			newest = l.at(l.count - 1)
		}
		s.ResetAfter = l.leaves(newest, now)
	}
	if remaining < cost {
		s.RetryAfter = l.leaves(l.at(l.holding(cost-remaining)), now)
	}
	if l.banned(now) {
		s.ban(time.Duration(l.banEnds-now) * time.Microsecond)
	}
}

// entryOfUnit returns the number i of the entry that holds the nth unit. Unit 1 is the oldest.
func (l *log) holding(n int) int {
	if l.details == nil {
		return n - 1
	}
	return sort.Search(l.count, func(i int) bool { return l.sum(i)-l.details.before >= uint64(n) })
}

// expiresIn returns the time from now until an entry with the time at expires.
func (l *log) leaves(at, now int64) time.Duration {
	return time.Duration(at-now)*time.Microsecond + l.window
}
