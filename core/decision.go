package core

import (
	"slices"
	"strconv"
	"time"
)

// Decision is the answer to one call. A denial is a decision like any other, not an error. It is a plain value and may
// be kept; the zero Decision comes with an error and means nothing.
type Decision struct {
	// Allowed says whether the request may go on. If not, it was charged to no limit.
	Allowed bool
	// State is where the limit stands that matters most: of those asked for, the one that has room last when denied, and
	// the one with the fewest remaining when allowed.
	State
	// Source says who decided.
	Source Source
	// DryRun marks a denial that a dry run let pass: Allowed is true, nothing was charged, and State is that of the denial.
	DryRun bool

	states  []State       // of every limit when the call had several, in its order
	age     time.Duration // of states; State is as of now
	receipt receipt
}

// Holds reports whether the request is admitted and under a limit that is InFlight, so that it must be given to Release
// when it has ended. It is true after Release too.
func (d Decision) Holds() bool {
	if d.receipt.cost == 0 {
		return false
	}
	for i := range d.states {
		if d.states[i].Limit.InFlight {
			return true
		}
	}
	return d.Limit.InFlight
}

// windows returns the states of the limits that are not InFlight.
func (d Decision) windows() []State {
	if !d.Holds() {
		return d.States()
	}
	return slices.DeleteFunc(slices.Clone(d.States()), func(s State) bool { return s.Limit.InFlight })
}

// receipt identifies an admission, so that it can be settled and released. It is zero if nothing was charged.
type receipt struct {
	store uint64 // the identity of the store that charged it
	key   string // canonical
	cost  int

	// In Redis: the admission is one of those that one entry stands for.
	call     *call
	question int32 // in the call
	granted  int32 // how many requests the entry stands for
	place    int32 // of the request among them

	entryID // in-process
}

// entry returns the id of the entry in Redis.
func (r receipt) entry() string { return r.call.id + "." + strconv.Itoa(int(r.question)) }

// lease identifies the admission among those that hold units of requests in flight.
func (r receipt) lease() leaseID { return leaseID{r.call, r.question} }

// State is where one limit of one key stands after a decision.
type State struct {
	// Limit is the limit as the call gave it.
	Limit Limit
	// Remaining is how many units would still be admitted now. It is zero too where the log holds more than Max, as Max
	// was lowered, or Settle has charged beyond it.
	Remaining int
	// RetryAfter is how long until the same request has room in this limit, to the microsecond: after exactly that time
	// it is admitted, unless others come first. It is zero when there is room now, so after an admission it speaks of the
	// next request. In Redis it is a lower bound if the request waits for about a thousand admissions of more than one unit to
	// expire, or fewer if its call asks much: at that time it is denied again, and told more.
	//
	// Of a limit that is InFlight and has no room it is always one second, since nobody knows when a request will end:
	// room may come earlier or later.
	RetryAfter time.Duration
	// ResetAfter is how long until the whole budget is back, if nothing more is admitted. Of a limit that is InFlight it is
	// the lease, while any request is under way.
	ResetAfter time.Duration
	// Banned reports whether the limit denies because of a ban, also if this is the denial that begins it: see
	// Limit.Ban. Then Remaining is zero, and neither RetryAfter nor ResetAfter ends before the ban.
	Banned bool
}

// ban makes it the state of a limit whose ban ends after a time, which is not zero.
func (s *State) ban(left time.Duration) {
	s.Banned, s.Remaining = true, 0
	s.RetryAfter, s.ResetAfter = max(s.RetryAfter, left), max(s.ResetAfter, left)
}

// States returns the state of each limit of the call, in its order. The caller must not change it.
func (d Decision) States() []State {
	if d.states == nil {
		return []State{d.State}
	}
	if d.age == 0 {
		return d.states
	}
	states := make([]State, len(d.states))
	for i, state := range d.states {
		states[i] = state.aged(d.age)
	}
	return states
}

// aged returns the state as it is some time later, if nothing was admitted since and, where it was full, it still is.
func (s State) aged(by time.Duration) State {
	s.RetryAfter, s.ResetAfter = max(0, s.RetryAfter-by), max(0, s.ResetAfter-by)
	return s
}

// suppose sets what nobody knows of a limit that is InFlight, given whether it holds anything and whether it is full.
func (s *State) suppose(held, full bool) {
	s.RetryAfter, s.ResetAfter = 0, 0
	if full {
		s.RetryAfter = time.Second
	}
	if held {
		s.ResetAfter = s.Limit.Window
	}
}

// Source says who made a decision. The zero Source is that of no decision.
type Source uint8

const (
	// SourceRedis marks a decision of the script in Redis.
	SourceRedis Source = iota + 1
	// SourceInProcess marks a decision of the logs in this process's memory: there is no Redis, or it did not answer and the
	// policy is FailLocal.
	SourceInProcess
	// SourceDenialCache marks a denial without a call to Redis, which has said before that there is no room until later.
	// Limits that still have room, for less than the cost or beside others that have none, are shown as they stood then.
	SourceDenialCache
	// SourceFailOpen marks an admission that nobody counted, as Redis did not answer and the policy is FailOpen. Its State
	// is that of an empty log.
	SourceFailOpen
)

// String names the source in lower case, as logs and metrics want it.
func (s Source) String() string {
	switch s {
	case SourceRedis:
		return "redis"
	case SourceInProcess:
		return "in-process"
	case SourceDenialCache:
		return "denial-cache"
	case SourceFailOpen:
		return "fail-open"
	}
	return "none"
}

// decide puts together the decision of one call from the states of its limits. It keeps states.
func decide(allowed bool, states []State, source Source) Decision {
	most := states[0]
	for _, state := range states[1:] {
		if allowed && state.Remaining < most.Remaining || !allowed && state.RetryAfter > most.RetryAfter {
			most = state
		}
	}
	return Decision{Allowed: allowed, State: most, Source: source, states: states}
}
