package core

import (
	"slices"
	"strconv"
	"time"
)

// Decision is the result of a call that decides a request. A denial is a Decision, not an error. A Decision is a plain
// value and may be kept. The zero Decision, which is returned with an error, has no meaning.
type Decision struct {
	// Allowed reports whether the request is admitted. If it is not, no limit was charged.
	Allowed bool
	// State is the state of the decisive limit: after a denial the one with the longest RetryAfter, and after an
	// admission the one with the fewest remaining units.
	State
	// Source is what made the decision.
	Source Source
	// DryRun reports whether a dry run let a denial pass. If so, Allowed is true, nothing was charged, and State is
	// that of the denial.
	DryRun bool

	states  []State       // of all limits in the order of the call, if there are several
	age     time.Duration // how old states are, if the denial was cached; State is up to date
	receipt receipt
}

// Holds reports whether the request was admitted under a limit that is InFlight, so it must be passed to Release when
// it ends. Holds is still true after Release.
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

// windowStates returns the states of the limits that are not InFlight.
func (d Decision) windowStates() []State {
	if !d.Holds() {
		return d.States()
	}
	return slices.DeleteFunc(slices.Clone(d.States()), func(s State) bool { return s.Limit.InFlight })
}

// receipt identifies an admission, so that it can be settled and released. It is zero if nothing was charged.
type receipt struct {
	storeID uint64 // identifies the logs in which it was charged
	key     string // canonical
	cost    int

	// In Redis, where one entry may stand for several requests:
	call     *call
	question int32 // its number in the call
	granted  int32 // how many requests the entry stands for
	position int32 // of the request among them, from 0

	entryID // in this process
}

// entry returns the id of the entry in Redis.
func (r receipt) entry() string { return r.call.id + "." + strconv.Itoa(int(r.question)) }

// lease returns the id of the admission in leases.
func (r receipt) lease() leaseID { return leaseID{r.call, r.question} }

// State is the state of one limit, for one key, after a decision.
type State struct {
	// Limit is the limit that was passed to the call.
	Limit Limit
	// Remaining is how many more units would be admitted now. It is zero if the log holds more than Max because Max was
	// lowered or Settle has charged beyond it.
	Remaining int
	// RetryAfter is the time until the same request has room in this limit, to the microsecond. If no other request is
	// admitted first, it is admitted after exactly that time. RetryAfter is zero if there is room now, so after an
	// admission it is about the next request. On Redis it is only a lower bound if more than about a thousand
	// admissions of several units must expire first, or fewer in a call with many requests: a request at that time is
	// denied again, with a new RetryAfter.
	//
	// If a limit that is InFlight has no room, RetryAfter is one second, because it is not known when requests end.
	// There may be room earlier or later.
	RetryAfter time.Duration
	// ResetAfter is the time until the whole budget is available, if nothing more is admitted. For a limit that is
	// InFlight, it is the lease while any request is in flight.
	ResetAfter time.Duration
	// Banned reports whether the limit denies because of a ban, which this denial may have begun: see Limit.Ban.
	// Remaining is then zero, and RetryAfter and ResetAfter are not before the end of the ban.
	Banned bool
}

// setBan changes the state to that of a limit whose ban ends after untilEnd, which must be positive.
func (s *State) setBan(untilEnd time.Duration) {
	s.Banned, s.Remaining = true, 0
	s.RetryAfter, s.ResetAfter = max(s.RetryAfter, untilEnd), max(s.ResetAfter, untilEnd)
}

// States returns the state of each limit of the call, in the order of the call. The caller must not change the slice.
func (d Decision) States() []State {
	if d.states == nil {
		return []State{d.State}
	}
	if d.age == 0 {
		return d.states
	}
	states := make([]State, len(d.states))
	for i, state := range d.states {
		states[i] = state.later(d.age)
	}
	return states
}

// later returns the state as it is some time later, if nothing is admitted meanwhile and no full log gets room.
func (s State) later(by time.Duration) State {
	s.RetryAfter, s.ResetAfter = max(0, s.RetryAfter-by), max(0, s.ResetAfter-by)
	return s
}

// setInFlightTimes sets the times of an InFlight limit. They do not depend on entries, because it is not known when
// requests end. The argument held means that the log holds any units, and full that it has no room for the request.
func (s *State) setInFlightTimes(held, full bool) {
	s.RetryAfter, s.ResetAfter = 0, 0
	if full {
		s.RetryAfter = time.Second
	}
	if held {
		s.ResetAfter = s.Limit.Window
	}
}

// Source is what made a decision. The zero Source means that there was no decision.
type Source uint8

const (
	// SourceRedis marks a decision by the script in Redis.
	SourceRedis Source = iota + 1
	// SourceInProcess marks a decision by the logs in this process's memory, because there is no Redis, or because it
	// did not answer and the policy is FailLocal.
	SourceInProcess
	// SourceDenialCache marks a denial without a call to Redis, because an earlier reply showed that there is no room
	// yet. If a limit had units left at that time, its Remaining is that of the earlier reply.
	SourceDenialCache
	// SourceFailOpen marks an admission that was not counted, because Redis did not answer and the policy is FailOpen.
	// The states are those of empty logs.
	SourceFailOpen
)

// String returns the name of the source in lower case, such as "denial-cache".
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

// newDecision returns the decision of a call, given the states of its limits. It keeps states.
func newDecision(allowed bool, states []State, source Source) Decision {
	decisive := states[0]
	for _, state := range states[1:] {
		if allowed && state.Remaining < decisive.Remaining || !allowed && state.RetryAfter > decisive.RetryAfter {
			decisive = state
		}
	}
	return Decision{Allowed: allowed, State: decisive, Source: source, states: states}
}
