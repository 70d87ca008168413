package core

import "context"

// Settle states what an admitted request has really cost, in units. It charges or gives back the difference to what the
// request was charged, in each of its limits that are not InFlight. Use it if the cost is known only when the request
// is done: reserve an estimate with AllowN, and settle it afterwards. A reservation that is never settled stays
// charged.
//
// If the request has cost less, units are given back as if it had been admitted at that cost. If it has cost more, the
// difference is charged as of now, even beyond Max, because the work has been done. Then Remaining is 0, and no request
// is admitted until enough has expired, which RetryAfter tells exactly. The cost is from 0 to 999,999,999,999,999. If
// the request has left the window of a limit, or was forgotten by Reset, it has nothing to give back there, and what it
// has cost beyond its reservation is charged all the same. Settle neither bans nor lifts a ban.
//
// A decision is settled once: a second Settle or Refund of it, with any cost, does nothing. If Redis does not answer,
// Settle returns ErrUnavailable whatever the policy, and may or may not have been done. Calling it again within the
// shortest Window of the decision's limits is safe, and repeats the cost that was stated first. Later, a difference
// that the first call charged may be charged again, after it has expired. In-process, a second call is recognized only
// while the request, or the difference that it was charged, has not left the longest Window and was not forgotten by
// Reset.
//
// Settle does nothing for an admission that was not counted, as under FailOpen or because a dry run let a denial pass.
// An error wraps ErrInvalid, and nothing is charged, if the cost is negative or too large, if the decision is a denial
// or Peek's and the cost is not 0, or if the decision is another Limiter's: it must be of l, or of a view of the same
// Limiter, such as OnFailure returns. After units were given back, other instances may go on denying for the time that
// WithDenialCache sets, unless the charge was Provisional.
func (l *Limiter) Settle(ctx context.Context, d Decision, cost int) error {
	receipt := d.receipt
	switch {
	case cost < 0:
		return invalid("actual cost %d: it must be at least 0, which gives back all that was charged", cost)
	case int64(cost) > maxMax:
		return invalid("actual cost %d: it must be at most %d", cost, int64(maxMax))
	case receipt.cost == 0 && (cost == 0 || d.DryRun || d.Source == SourceFailOpen):
		return nil
	case receipt.cost == 0:
		return invalid("the decision has charged nothing: settle those that Allow, AllowN or Wait have admitted")
	}
	redis, err := l.chargedInRedis(receipt, "settle")
	states := d.windowStates()
	switch {
	case err != nil || len(states) == 0:
		return err
	case redis:
		return l.redis.settle(ctx, receipt, cost, limitsOf(states))
	}
	defer l.waitQueues.wake(receipt.key)
	if err := l.inProcess.settle(receipt, cost, states); err != nil {
		return unavailable(err)
	}
	return nil
}

// Refund gives back what an admission was charged, as if the request had never come. It is Settle with a cost of 0, and
// Release. It lifts no ban, and does nothing for a denial or for a decision of Peek.
func (l *Limiter) Refund(ctx context.Context, d Decision) error {
	err := l.Settle(ctx, d, 0)
	if !d.Holds() {
		return err // rather than that of a Close since then
	}
	if released := l.Release(ctx, d); err == nil {
		err = released
	}
	return err
}

// Release ends an admitted request: it no longer counts in those of its limits that are InFlight. Its other limits stay
// charged. Call it once for each admission under such a limit, with a context that has not ended, such as one of
// context.WithoutCancel. Adapters do this themselves. Until then this Limiter renews the lease of the admission, so if
// Release is never called, the request counts for as long as this process runs. Decision.Holds reports whether there is
// anything to release.
//
// Release does nothing if the admission was released or refunded before, for a denial, and for an admission that was
// not counted or is under no such limit. If Redis does not answer, it returns ErrUnavailable whatever the policy. There
// is no need to call it again then: the Limiter goes on trying for about half a minute, and no longer renews the lease.
// The decision must be of l, or of a view of the same Limiter; for others the error wraps ErrInvalid.
func (l *Limiter) Release(ctx context.Context, d Decision) error {
	if d.receipt.cost == 0 {
		return nil
	}
	redis, err := l.chargedInRedis(d.receipt, "release")
	if err != nil || !d.Holds() {
		return err
	}
	limits := inFlightLimits(limitsOf(d.States()))
	if redis {
		return l.redis.release(ctx, d.receipt, limits)
	}
	l.inProcess.release(d.receipt, limits)
	l.waitQueues.wake(d.receipt.key)
	return nil
}

// chargedInRedis reports whether an admission was charged in Redis, and not in this process. The action is what the
// caller wants to do with the admission, for the error if another Limiter has charged it.
func (l *Limiter) chargedInRedis(receipt receipt, action string) (redis bool, _ error) {
	switch {
	case l.closed.Load():
		return false, unavailable(errClosed)
	case receipt.storeID == l.inProcess.storeID:
		return false, nil
	case l.redis != nil && receipt.storeID == l.redis.storeID:
		return true, nil
	}
	return false, invalid("the decision is another Limiter's: %s it with the one that made it", action)
}

// limitsOf returns the limits of states.
func limitsOf(states []State) []Limit {
	limits := make([]Limit, len(states))
	for i := range states {
		limits[i] = states[i].Limit
	}
	return limits
}
