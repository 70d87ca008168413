package torture

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/exactlimit/exactlimit/internal/redistest"
)

// History is a run under one limit: what the callers saw and what the servers recorded. Each of its methods checks a
// property that must hold whatever happened, and returns the violations in words.
type History struct {
	Max     int
	Window  time.Duration
	Within  time.Duration // how long a call may take
	Calls   []Call
	Records []redistest.Record // of each server, and of each life of its data
	Bans    map[string][]redistest.Ban
	// Log returns the name of a key's log in the records. If it is nil, the log has the name of the key.
	Log func(key string) string

	// Apart is how far the servers' clocks may be from the machine's at any time. The clock of Valkey 9.1 is up to some
	// hundred microseconds ahead, and not always as far.
	Apart time.Duration

	// GivesBack is true if calls were settled to less than they were charged. Unfounded then checks nothing.
	GivesBack bool

	Losses int              // how often servers may have forgotten admissions
	Lost   redistest.Record // what was forgotten, as far as it is known: see redistest.Missing
	Steps  []Step           // in their order
}

// Check returns what all checks find.
func (h History) Check() []string {
	return slices.Concat(h.OverAdmitted(), h.Unaccounted(), h.Repeated(), h.Unfounded(), h.Pardoned(), h.Late())
}

// OverAdmitted looks for windows, by the servers' clocks, in which more units were admitted than Max, or than Max once
// more for each time that data was lost. It returns the worst window of each log.
func (h History) OverAdmitted() []string {
	var found violations
	limit := h.Max * (1 + h.Losses)
	h.each(func(key string, admitted []redistest.Admission) {
		if w := h.worst(admitted); w.units > limit {
			found.add("%s: %d admissions within %v, where %d are allowed: from %d (%s, %s) to %d (%s, %s)",
				key, w.units, h.Window, limit, w.first.At, w.first.ID, w.first.Addr, w.last.At, w.last.ID, w.last.Addr)
		}
	})
	return found.list()
}

// window is the fullest window of a log, among those that end with an admission.
type window struct {
	units       int
	first, last redistest.Admission
}

func (h History) worst(admitted []redistest.Admission) (worst window) {
	admitted = byTime(admitted)
	first, units := 0, 0
	for _, a := range admitted { // the fullest can be slid until it ends at an admission
		units += a.Left()
		for admitted[first].At <= a.At-h.Window.Microseconds() {
			units -= admitted[first].Left()
			first++
		}
		if units > worst.units && !a.Added {
			worst = window{units, admitted[first], a}
		}
	}
	return worst
}

// Unaccounted compares the units that callers know to be admitted with those that servers recorded. Each unit that a
// caller knows of was recorded. Each unit that no caller knows of belongs to a call whose outcome its caller does not
// know. The same holds for what calls were settled to.
func (h History) Unaccounted() []string {
	var found violations
	acknowledged, unknown := map[string]int{}, map[string]int{}
	least, most, settles := map[string]int{}, map[string]int{}, false
	for _, call := range h.Calls {
		switch {
		case !call.known():
			unknown[call.Key] += call.cost()
		case call.Allowed:
			acknowledged[call.Key] += call.cost()
			low, high := h.charged(call)
			least[call.Key], most[call.Key] = least[call.Key]+low, most[call.Key]+high
			settles = settles || call.Settled != nil
		}
	}
	h.each(func(key string, admitted []redistest.Admission) {
		// A call that is sent again after its admission was forgotten may be admitted twice, or be denied.
		recorded, lost, left := 0, redistest.Units(h.Lost[h.log(key)]), 0
		for _, a := range admitted {
			left += a.Left()
			if !a.Added {
				recorded += a.Weight
			}
		}
		if acknowledged[key] > recorded {
			found.add("%s: callers were told of %d admissions, and the servers recorded %d",
				key, acknowledged[key], recorded)
		}
		if recorded > acknowledged[key]+unknown[key]+lost {
			found.add("%s: the servers recorded %d admissions; %d callers were told, %d do not know"+
				" and %d were forgotten", key, recorded, acknowledged[key], unknown[key], lost)
		}
		if least[key] > left && settles {
			found.add("%s: callers were told that calls have cost %d, and the servers have charged %d",
				key, least[key], left)
		}
		if left > most[key]+unknown[key]+lost && settles {
			found.add("%s: the servers have charged %d; what callers were told is %d at most, %d they do not know"+
				" and %d were forgotten", key, left, most[key], unknown[key], lost)
		}
	})
	return found.list()
}

// charged returns the least and the most that an admitted call may be charged after it was settled. Whether it gives
// back is not known if its window may have ended before.
func (h History) charged(c Call) (least, most int) {
	switch {
	case c.Settled == nil:
		return c.cost(), c.cost()
	case c.Settled.Err == "" && (c.Settled.Cost >= c.cost() || c.Settled.Came-c.Sent < h.Window.Microseconds()):
		return c.Settled.Cost, c.Settled.Cost
	}
	return min(c.cost(), c.Settled.Cost), max(c.cost(), c.Settled.Cost)
}

// Repeated looks for requests that were charged twice within a window. If data was lost, a server that does not know of
// the first charge may have made the second.
func (h History) Repeated() []string {
	var found violations
	look := func(key string, admitted []redistest.Admission) {
		last := map[string]redistest.Admission{}
		for _, a := range byTime(admitted) {
			if before, is := last[a.ID]; is && a.At-before.At < h.Window.Microseconds() {
				found.add("%s: %s was charged at %d (%s) and again at %d (%s)",
					key, a.ID, before.At, before.Addr, a.At, a.Addr)
			}
			last[a.ID] = a
		}
	}
	if h.Losses == 0 {
		h.each(look)
		return found.list()
	}
	for _, record := range h.Records {
		for _, key := range h.keys() {
			look(key, record[h.log(key)])
		}
	}
	return found.list()
}

// Pardoned looks for admissions during a ban, and for bans of logs that had room. What a question admits at the time at
// which it begins a ban comes before the ban. Clocks must not have stepped.
func (h History) Pardoned() []string {
	var found violations
	largest := 1
	for _, call := range h.Calls {
		largest = max(largest, call.cost())
	}
	h.each(func(key string, admitted []redistest.Admission) {
		for _, ban := range h.Bans[h.log(key)] {
			held := 0
			for _, a := range admitted {
				if a.At > ban.From && a.At < ban.To {
					found.add("%s: %s was admitted at %d, during a ban from %d to %d",
						key, a.ID, a.At, ban.From, ban.To)
				}
				if a.At > ban.From-h.Window.Microseconds() && a.At <= ban.From {
					held += a.Weight
				}
			}
			if held+largest <= h.Max {
				found.add("%s: banned at %d, when it held %d of %d units", key, ban.From, held, h.Max)
			}
		}
	})
	return found.list()
}

// Late looks for calls that took too long.
func (h History) Late() []string {
	var found violations
	for _, call := range h.Calls {
		if took := call.took(); took > h.Within {
			found.add("%s: a call from %d took %v, where %v are allowed (%s)",
				call.Key, call.Sent, took, h.Within, call.outcome())
		}
	}
	return found.list()
}

// Uneven looks for admissions that two limits do not share: a call under both charges the same to each.
func (h History) Uneven(other History) []string {
	var found violations
	ours, theirs := redistest.Merge(h.Records...), redistest.Merge(other.Records...)
	for _, key := range h.keys() {
		charged := map[string]int{}
		for _, a := range ours[h.log(key)] {
			charged[a.ID] = a.Left()
		}
		for _, a := range theirs[other.log(key)] {
			if charged[a.ID] != a.Left() {
				found.add("%s: %s was charged %d to one limit and %d to the other", key, a.ID, charged[a.ID], a.Left())
			}
			delete(charged, a.ID)
		}
		for id, units := range charged {
			found.add("%s: %s was charged %d to one limit and nothing to the other", key, id, units)
		}
	}
	return found.list()
}

func byTime(admitted []redistest.Admission) []redistest.Admission {
	return slices.SortedStableFunc(slices.Values(admitted), func(a, b redistest.Admission) int {
		return cmp.Compare(a.At, b.At)
	})
}

func (h History) log(key string) string {
	if h.Log == nil {
		return key
	}
	return h.Log(key)
}

func (h History) keys() []string {
	keys := map[string]bool{}
	for _, call := range h.Calls {
		keys[call.Key] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

// each calls look for the log of each key that was called, as all servers together recorded it.
func (h History) each(look func(key string, admitted []redistest.Admission)) {
	merged := redistest.Merge(h.Records...)
	for _, key := range h.keys() {
		look(key, h.unstepped(h.log(key), merged[h.log(key)]))
	}
}
