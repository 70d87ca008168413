package torture

import (
	"cmp"
	"slices"
)

// Flights is what callers saw of a run under a limit of requests in flight.
type Flights struct {
	Max   int
	Calls []Call
}

// Check returns in words where more than Max units were in flight at once, and where a request was denied although
// there was room.
func (f Flights) Check() []string {
	var found violations
	byKey := map[string][]Call{}
	for _, call := range f.Calls {
		if call.Err != "" {
			found.add("%s: %s", call.Key, call.Err)
		}
		byKey[call.Key] = append(byKey[call.Key], call)
	}
	for key, calls := range byKey {
		// A request surely counts from its admission until its handler returns, and perhaps from when it was sent until
		// it was released.
		surely := timeline(calls, func(c Call) (int64, int64) { return c.Came, c.Ends })
		perhaps := timeline(calls, func(c Call) (int64, int64) { return c.Sent, c.Ended })
		if most := slices.MaxFunc(surely, func(a, b level) int { return a.units - b.units }); most.units > f.Max {
			found.add("%s: %d units in flight at once at %d, where %d are allowed", key, most.units, most.from, f.Max)
		}
		for _, call := range calls {
			if !call.Allowed && call.Err == "" && most(perhaps, call.Sent, call.Came)+call.cost() <= f.Max {
				found.add("%s: a request was denied from %d to %d, while there was room", key, call.Sent, call.Came)
			}
		}
	}
	return found.list()
}

// level is how many units count from a time until the next level.
type level struct {
	from  int64
	units int
}

// timeline returns the levels of admitted calls, each of which counts during its span.
func timeline(calls []Call, span func(Call) (from, to int64)) []level {
	levels := []level{{}}
	for _, call := range calls {
		if call.Allowed {
			from, to := span(call)
			levels = append(levels, level{from, call.cost()}, level{to, -call.cost()})
		}
	}
	slices.SortFunc(levels, func(a, b level) int { // at the same time, ends come first
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.units, b.units))
	})
	for i := range levels[1:] {
		levels[i+1].units += levels[i].units
	}
	return levels
}

// most returns the most units that count at any time from one to another.
func most(levels []level, from, to int64) int {
	first, _ := slices.BinarySearchFunc(levels, from, func(l level, from int64) int {
		return cmp.Compare(l.from, from)
	})
	units := levels[max(0, first-1)].units
	for i := first; i < len(levels) && levels[i].from <= to; i++ {
		units = max(units, levels[i].units)
	}
	return units
}
