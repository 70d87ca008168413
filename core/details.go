package core

import (
	"math"
	"slices"
	"sort"
)

// details holds what the times of a log do not show. A log has details if an entry has more than one unit or is
// settled, if the sequence number of an entry is not its rank among the entries of the same time, as after a refund, or
// if the log was cleared within the last window.
type details struct {
	entries    []detail
	base       uint64      // the sum of the entry before the oldest one
	surcharges []surcharge // those that have not expired, oldest first
	cleared    entryID     // the last admission before the log was cleared; its time is math.MinInt64 if it never was
}

// detail describes one entry. The sum is the units of the entry and of all before it. So a binary search finds the
// entry that holds a given unit. Sums may overflow, because only their differences are used.
type detail struct {
	sum     uint64
	seq     uint32
	settled bool // the admission is settled, or the entry is a surcharge
}

// surcharge is an entry for what a request has cost beyond its charge.
type surcharge struct {
	id entryID // of the request
	at int64   // the time of the surcharge
}

// sum returns the units of entry i and of all before it.
func (r *ring) sum(i int) uint64 { return r.details.entries[r.index(i)].sum }

// units returns how many units the log holds.
func (r *ring) units() int {
	if r.details == nil || r.count == 0 {
		return r.count
	}
	return int(r.sum(r.count-1) - r.details.base)
}

// impliesSeq reports whether seq is the rank that the next entry will have among the entries of its time, in a log
// without details.
func (r *ring) impliesSeq(now int64, seq uint32) bool {
	if now != r.newest {
		return seq == 0
	}
	return seq == r.lastSeq+1 && !r.lastRemoved
}

// impliedSeq returns the rank of entry i among the entries of its time. The rank of the previous entry is previous.
func (r *ring) impliedSeq(i int, previous uint32) uint32 {
	if i == 0 || r.at(i) != r.at(i-1) {
		return 0
	}
	return previous + 1
}

// addDetails adds details to a log, whose entries have one unit each and sequence numbers that are their ranks.
func (r *ring) addDetails() {
	r.details = &details{entries: make([]detail, r.capacity()), cleared: entryID{at: math.MinInt64}}
	seq := uint32(0)
	for i := range r.count {
		seq = r.impliedSeq(i, seq)
		r.details.entries[r.index(i)] = detail{sum: uint64(i + 1), seq: seq}
	}
}

// dropUnneededDetails drops the details if the log does not need them. Entries up to the cutoff have expired.
func (r *ring) dropUnneededDetails(cutoff int64) {
	if r.details == nil || r.units() != r.count || r.details.cleared.at > cutoff {
		return
	}
	seq := uint32(0)
	for i := range r.count {
		seq = r.impliedSeq(i, seq)
		if seq != r.seq(i) || r.settled(i) {
			return
		}
	}
	r.details = nil
}

// seq returns the sequence number of entry i in a log with details.
func (r *ring) seq(i int) uint32 { return r.details.entries[r.index(i)].seq }

// settled reports whether entry i is settled.
func (r *ring) settled(i int) bool { return r.details != nil && r.details.entries[r.index(i)].settled }

// knowsSettled reports whether the log shows that an admission is settled: its entry is marked, it has a surcharge, or
// its entry is missing although it has neither expired nor been cleared. Entries up to the cutoff have expired.
func (r *ring) knowsSettled(id entryID, cutoff int64) bool {
	if i := r.find(id); i >= 0 {
		return r.settled(i)
	}
	if d := r.details; d != nil {
		if slices.ContainsFunc(d.surcharges, func(s surcharge) bool { return s.id == id }) {
			return true
		}
		if id.at < d.cleared.at || id.at == d.cleared.at && id.seq <= d.cleared.seq {
			return false
		}
	}
	return id.at > cutoff
}

// subtract takes units from entry i of a log with details.
func (r *ring) subtract(i int, units uint64) {
	for ; units > 0 && i < r.count; i++ {
		r.details.entries[r.index(i)].sum -= units
	}
}

// entryOfUnit returns the number i of the entry that holds the nth unit. Unit 1 is the oldest.
func (r *ring) entryOfUnit(n int) int {
	if r.details == nil {
		return n - 1
	}
	return sort.Search(r.count, func(i int) bool { return r.sum(i)-r.details.base >= uint64(n) })
}
