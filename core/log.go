package core

import (
	"math"
	"slices"
	"sort"
	"time"
)

// log holds what was admitted for one key under one limit: one entry for each admission, oldest first. It is the sorted
// set of the script, as a ring. Moments are in microseconds.
//
// Most logs hold only entries of one unit, and need just the low 32 bits of each entry's moment. Within a window of up
// to 71 minutes no two moments share them, so the newest moment tells the rest. The high bits of longer windows follow
// in a second half of the ring. A log that needs to know more of its entries has details.
//
// An admission is known by its entryID: two admissions of one log that share a moment have different numbers.
type log struct {
	ring    []uint32
	count   int    // of entries
	newest  int64  // the moment of the last admission
	first   int    // index of the oldest entry
	number  uint32 // of the last admission
	undone  bool   // the last admission was given back, and the last entry is an earlier one
	flights bool   // the limit is InFlight: entries leave only when they are removed
	details *details
	name    string // of the limit, which with the window identifies the log among those of its key
	window  time.Duration
	banEnds int64 // the moment at which the log admits again; 0 if it was never banned
}

// entryID identifies an entry of a log.
type entryID struct {
	at     int64  // the moment
	number uint32 // among the entries of the moment
}

// details holds, beside the ring, what the moments of a log do not tell. A log has them while an entry weighs more than
// one unit or is settled, while a number is not the entry's place among the entries of its moment, which a refund can
// cause, and for a window after the log was cleared.
type details struct {
	ring    []detail
	before  uint64       // the sum of the entry before the oldest
	added   []additional // those that have not expired, oldest first
	cleared entryID      // the last admission before the log was cleared, by which it and those before it are forgotten
}

// detail describes one entry. It holds the units of the entry and of all before it, so that the entry with which enough
// units leave is found by a binary search. Sums may overflow, as only their differences are used.
type detail struct {
	sum     uint64
	number  uint32
	settled bool // the entry is of an admission that is settled, or was added by that
}

// additional is an entry for what a request has cost beyond what it was charged.
type additional struct {
	of entryID
	at int64
}

// trim drops what was admitted at or before the given moment, and returns how many units are left.
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

// drop removes the n oldest entries, whose moments are up to before. Once in a turn of the ring it looks whether the
// log still needs its details.
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

func (l *log) long() bool { return l.flights || l.window > math.MaxUint32*time.Microsecond }

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

// sum returns the sum up to entry i.
func (l *log) sum(i int) uint64 { return l.details.ring[l.place(i)].sum }

// units returns how many units the log holds.
func (l *log) units() int {
	if l.details == nil || l.count == 0 {
		return l.count
	}
	return int(l.sum(l.count-1) - l.details.before)
}

// next returns the lowest number that an admission at a moment can have.
func (l *log) next(now int64) uint32 {
	if now != l.newest {
		return 0
	}
	return l.number + 1
}

// add enters an admission of n units. The ring need not grow beyond max entries.
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

// implies reports whether the place that the next entry will have among those of its moment is its number, in a log
// without details.
func (l *log) implies(now int64, number uint32) bool {
	if now != l.newest {
		return number == 0
	}
	return number == l.number+1 && !l.undone
}

// detail gives a log of entries of one unit, numbered by their places, its details.
func (l *log) detail() {
	l.details = &details{ring: make([]detail, l.size()), cleared: entryID{at: math.MinInt64}}
	number := uint32(0)
	for i := range l.count {
		number = l.implied(i, number)
		l.details.ring[l.place(i)] = detail{sum: uint64(i + 1), number: number}
	}
}

// simplify drops the details if the log does not need them. What was admitted up to before has expired.
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

// implied returns the number that entry i has by its place, given that of the entry before.
func (l *log) implied(i int, before uint32) uint32 {
	if i == 0 || l.at(i) != l.at(i-1) {
		return 0
	}
	return before + 1
}

// numbered returns the number of entry i, which details hold.
func (l *log) numbered(i int) uint32 { return l.details.ring[l.place(i)].number }

// settled reports whether entry i is settled.
func (l *log) settled(i int) bool { return l.details != nil && l.details.ring[l.place(i)].settled }

// find returns the index of an admission's entry, or -1.
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

// knows reports whether the log knows that an admission is settled: its entry says so, or an entry that was added by
// that is there, or its entry is gone although it has not expired and was not forgotten. What was admitted up to before
// has expired.
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

// settle settles an admission that is not settled, of which charged units were charged and which has cost so many. If
// its entry has expired, there is nothing to give back. What it has cost beyond its charge is charged now.
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

// lower takes units from entry i of a log with details.
func (l *log) lower(i int, units uint64) {
	for ; units > 0 && i < l.count; i++ {
		l.details.ring[l.place(i)].sum -= units
	}
}

// remove drops entry i.
func (l *log) remove(i int) {
	if l.details == nil && i+1 < l.count && l.at(i+1) == l.at(i) {
		l.detail() // of those that it leaves, some are no longer where their numbers say
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

// banned reports whether the log admits nothing because of a ban.
func (l *log) banned(now int64) bool { return now < l.banEnds }

// clear drops all entries and the ban, and keeps what tells later admissions from earlier ones, and which admissions
// are settled.
func (l *log) clear() {
	cleared := details{cleared: entryID{l.newest, l.number}}
	if l.details != nil {
		cleared.added = l.details.added
	}
	l.ring, l.count, l.first, l.details, l.undone, l.banEnds = nil, 0, 0, &cleared, true, 0
}

// idle reports whether the log can be forgotten: it holds nothing and is not banned, no later admission can share the
// moment of an earlier one, and it has not been cleared lately.
func (l *log) idle(now int64) bool {
	before := now - l.window.Microseconds()
	empty := l.count == 0 && (l.flights || l.details == nil || l.details.cleared.at <= before)
	return l.newest < now && (empty || !l.flights && l.newest <= before) && !l.banned(now)
}

// state completes a state whose Limit is set, for a request of the given cost. It writes the fields where they will
// stay: a copy of what was just written would wait until the ring is written too.
func (l *log) state(s *State, now int64, cost int) {
	remaining := s.Limit.Max - l.units()
	s.Remaining = max(0, remaining)
	if l.flights {
		s.suppose(l.count > 0, remaining < cost)
		return
	}
	if l.count > 0 {
		newest := l.newest // which costs no look into the ring
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

// holding returns the index of the entry that holds the nth unit, of which 1 is the oldest.
func (l *log) holding(n int) int {
	if l.details == nil {
		return n - 1
	}
	return sort.Search(l.count, func(i int) bool { return l.sum(i)-l.details.before >= uint64(n) })
}

// leaves returns how long it takes until what was admitted at a moment leaves the window.
func (l *log) leaves(at, now int64) time.Duration {
	return time.Duration(at-now)*time.Microsecond + l.window
}
