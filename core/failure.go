package core

import (
	"context"
	"errors"
)

// FailurePolicy determines what happens to a request that Redis does not decide in time, because Redis is down,
// unreachable or too slow, or because it answers with an error. The zero value is FailLocal, because an outage of Redis
// should neither stop a service nor remove its limits.
type FailurePolicy uint8

const (
	// FailLocal applies the same limits to logs in this process's memory, which begin empty and hold only requests that
	// they have admitted. So while Redis is away, each instance admits at most Max in any window, and n instances admit
	// up to n×Max, in addition to what Redis admitted before.
	//
	// The same applies to calls whose context reaches its deadline before Redis answers, so do not let clients choose
	// deadlines.
	FailLocal FailurePolicy = iota
	// FailOpen admits every request and counts nothing.
	FailOpen
	// FailClosed admits no request. Calls return ErrUnavailable, which adapters answer with 503.
	FailClosed
)

// String returns the policy's name in lower case, such as "fail-local".
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

// OnFailure sets the policy for requests that Redis does not decide. The default is FailLocal. An in-process Limiter
// ignores it.
func OnFailure(policy FailurePolicy) Option {
	return func(c *config) error {
		c.policy = policy
		return policy.validate()
	}
}

// OnFailure returns a view of l with another policy. The view shares the logs and connections of l, and closing either
// of them closes both. For example, one route can refuse requests while Redis does not answer, and the others go on:
//
//	login := ginlimit.New(limiter.OnFailure(core.FailClosed), ginlimit.ClientIP())
//
// OnFailure panics if the policy does not exist.
func (l *Limiter) OnFailure(policy FailurePolicy) *Limiter {
	if err := policy.validate(); err != nil {
		panic(err)
	}
	view := *l
	view.policy = policy
	view.metrics.expect(view.policy, view.dryRun)
	return &view
}

// cancelled reports whether the caller has cancelled ctx, and needs no decision any more. After a deadline it still
// does.
func cancelled(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// admitUncounted returns the decision under FailOpen.
func admitUncounted(limits []Limit) Decision {
	states := make([]State, len(limits))
	for i, limit := range limits {
		states[i] = State{Limit: limit, Remaining: limit.Max}
	}
	return newDecision(true, states, SourceFailOpen)
}
