package redistest

import (
	"cmp"
	"slices"
)

// Admission is what an entry of a log stood for when the server recorded it.
type Admission struct {
	At       int64  // microseconds of the server's clock
	ID       string // without the weight
	Weight   int    // units
	Refunded int    // units that were given back later
	// Added marks what a request has cost beyond its charge. Its ID is that of the request's admission, followed by
	// "+". It was not admitted, so a window that ends with it may hold more than Max.
	Added bool
	// Moved is the score of the entry if it is not At: entries that a clock's step back leaves in the future are moved.
	Moved int64
	Addr  string // of the server whose record this is
	// Gone is the command that removed the entry, or the last part of it: ZREMRANGEBYSCORE or ZREMRANGEBYRANK after its
	// window, ZREM for a refund, DEL or UNLINK for a reset or for a log that expired or moved, or FLUSHALL. It is "" if
	// the entry is still there.
	Gone string
}

// Record is what a server added to each log, in that order.
type Record map[string][]Admission

// Ban is a ban of a log, in microseconds of the server's clock.
type Ban struct{ From, To int64 }

// Merge returns what is in any of the records, in the order of the servers' clocks. An admission that is in several of
// them is one, with the most weight and the least left that any of them has.
func Merge(records ...Record) Record {
	type entry struct {
		at int64
		id string
	}
	merged := Record{}
	if len(records) == 1 {
		return records[0]
	}
	seen := map[string]map[entry]int{} // of each log, the index in merged
	for _, record := range records {
		for log, admissions := range record {
			if seen[log] == nil {
				seen[log] = map[entry]int{}
			}
			for _, a := range admissions {
				i, found := seen[log][entry{a.At, a.ID}]
				if !found {
					i, found = seen[log][entry{a.Stands(), a.ID}]
				}
				if found {
					m := &merged[log][i]
					left := min(m.Left(), a.Left())
					m.Weight = max(m.Weight, a.Weight)
					m.Refunded = m.Weight - left
					if a.At > m.At { // the other record began after the entry had been moved
						m.Moved = cmp.Or(m.Moved, m.At)
						m.At = a.At
					}
					m.Moved = cmp.Or(m.Moved, a.Moved)
				} else {
					i = len(merged[log])
					merged[log] = append(merged[log], a)
				}
				seen[log][entry{a.At, a.ID}], seen[log][entry{a.Stands(), a.ID}] = i, i
			}
		}
	}
	for _, admissions := range merged {
		slices.SortStableFunc(admissions, func(a, b Admission) int { return int(a.At - b.At) })
	}
	return merged
}

// Stands returns the score of the entry.
func (a Admission) Stands() int64 { return cmp.Or(a.Moved, a.At) }

// Left returns the units that were not given back.
func (a Admission) Left() int { return a.Weight - a.Refunded }

// Missing returns what is in one record and not in another: after a failover, what the old master admitted and the new
// one does not know.
func Missing(from, in Record) Record {
	missing := Record{}
	for log, admissions := range from {
		there := map[string]bool{}
		for _, a := range in[log] {
			there[a.ID] = true
		}
		for _, a := range admissions {
			if !there[a.ID] {
				missing[log] = append(missing[log], a)
			}
		}
	}
	return missing
}

// Len returns the number of admissions in all logs.
func (r Record) Len() int {
	n := 0
	for _, admissions := range r {
		n += len(admissions)
	}
	return n
}

// Units returns the units admitted to all logs.
func (r Record) Units() int {
	n := 0
	for _, admissions := range r {
		n += Units(admissions)
	}
	return n
}

// Units returns the units of the admissions.
func Units(admissions []Admission) int {
	n := 0
	for _, a := range admissions {
		n += a.Weight
	}
	return n
}
