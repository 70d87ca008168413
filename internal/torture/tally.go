package torture

import "time"

// Outcome is the decision on a call, and its source.
type Outcome int

// The outcomes of a call.
const (
	Admitted  Outcome = iota // by Redis
	Denied                   // by Redis
	Cached                   // denied by the denial cache
	InProcess                // decided without Redis
	Undecided                // an error
	outcomes
)

// Outcomes is the number of calls with each outcome.
type Outcomes [outcomes]int64

func (o *Outcomes) add(other Outcomes) {
	for i, n := range other {
		o[i] += n
	}
}

// since returns the difference to an earlier count.
func (o Outcomes) since(others Outcomes) Outcomes {
	for i, n := range others {
		o[i] -= n
	}
	return o
}

// decided returns the number of calls that were decided.
func (o Outcomes) decided() int64 { return o[Admitted] + o[Denied] + o[Cached] + o[InProcess] }

// Units is what callers know of one key from the beginning of a soak, in units.
type Units struct {
	Told     int64 // admitted by Redis
	Unknown  int64 // of calls that Redis may have admitted
	Returned int64 // the most that was given back
	Surely   int64 // the least that was given back
	Added    int64 // the most that was charged later
	Owed     int64 // the least that was charged later
}

func (u *Units) add(other Units) {
	u.Told += other.Told
	u.Unknown += other.Unknown
	u.Returned += other.Returned
	u.Surely += other.Surely
	u.Added += other.Added
	u.Owed += other.Owed
}

// settled counts a change of a charge, so long after the request was sent.
func (u *Units) settled(by int64, after, window time.Duration, err error) {
	switch {
	case by < 0:
		u.Returned -= by
		if err == nil && after < window/2 { // or the entry may have expired, and nothing was given back
			u.Surely -= by
		}
	case by > 0:
		u.Added += by
		if after >= window { // a settle that is sent again charges again if the first charge has expired
			u.Added += by
		}
		if err == nil {
			u.Owed += by
		}
	}
}

// Tally is what all callers of a process have counted.
type Tally struct {
	Outcomes   Outcomes
	Units      [][]Units // of each use, and of each of its keys
	Heap       uint64    // bytes that the process has from the system for its heap
	Violations []string
}

func newTally(uses []Use) (t Tally) {
	for _, use := range uses {
		t.Units = append(t.Units, make([]Units, use.Keys))
	}
	return t
}

func (t *Tally) add(other Tally) {
	t.Outcomes.add(other.Outcomes)
	for u := range other.Units {
		for k, units := range other.Units[u] {
			t.Units[u][k].add(units)
		}
	}
	t.Heap += other.Heap
	t.Violations = append(t.Violations, other.Violations...)
}
