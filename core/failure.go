package core

import (
	"context"
	"errors"
)

// FailurePolicy says what becomes of a request that Redis does not decide in time: because it is down, cut off, too slow,
// or answers with an error. Redis being down must be neither an outage nor an open door, so the zero value is FailLocal.
type FailurePolicy uint8

const (
	// FailLocal decides by the same limits on logs in this process's memory. They begin empty and hold what was
	// admitted from them, so while Redis is away each instance admits at most Max in any window: of n instances,
	// n×Max, beside what Redis has admitted before. The same holds of calls whose context reaches its deadline before
	// Redis answers, so deadlines should not be for clients to choose.
	FailLocal FailurePolicy = iota
	// FailOpen admits. Nothing is counted.
	FailOpen
	// FailClosed admits nothing: calls return ErrUnavailable, which the adapters answer with 503.
	FailClosed
)

// String names the policy in lower case.
func (p FailurePolicy) String() string {
	switch p {
	case FailLocal:
		return "fail-local"
	case FailOpen:
		return "fail-open"
	case FailClosed:
		return "fail-closed"
	}
	return "unknown"
}

func (p FailurePolicy) validate() error {
	if p > FailClosed {
		return invalid("failure policy %d: write core.FailLocal, core.FailOpen or core.FailClosed", p)
	}
	return nil
}

// OnFailure sets what becomes of requests that Redis does not decide, instead of FailLocal. A Limiter that is in-process
// has no such requests.
func OnFailure(policy FailurePolicy) Option {
	return func(c *config) error {
		c.policy = policy
		return policy.validate()
	}
}

// OnFailure returns the same Limiter with another policy: the same logs, connections and memory, of which Close closes all.
// So one route can be closed while Redis is away, and the others go on:
//
//	login := ginlimit.New(limiter.OnFailure(core.FailClosed), ginlimit.ClientIP())
//
// It panics if there is no such policy.
func (l *Limiter) OnFailure(policy FailurePolicy) *Limiter {
	if err := policy.validate(); err != nil {
		panic(err)
	}
	other := *l
	other.policy = policy
	other.metrics.expect(other.policy, other.dryRun)
	return &other
}

// gaveUp says whether the caller has left, so that nobody wants a decision any more. A deadline of the caller's is another
// thing: it asks for a decision by then.
func gaveUp(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// admitUncounted is the decision under FailOpen.
func admitUncounted(limits []Limit) Decision {
	states := make([]State, len(limits))
	for i, limit := range limits {
		states[i] = State{Limit: limit, Remaining: limit.Max}
	}
	return decide(true, states, SourceFailOpen)
}
