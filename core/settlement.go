package core

import "context"

// Settle changes the charge of an admitted request to what the request really cost, in units. It charges or gives back
// the difference, in each of the request's limits that are not InFlight. Use it if the cost is known only when the
// request is done: reserve an estimate with AllowN, and settle it afterwards. A reservation that is never settled stays
// charged.
//
// If the request cost less than it was charged, units are given back as if it had been admitted at that cost. If it
// cost more, the difference is charged as of now, even beyond Max, because the work has been done. While a log holds
// more than Max, Remaining is 0 and no request is admitted; RetryAfter takes this into account. The cost must be from 0
// to 999,999,999,999,999. If the request has already left the window of a limit, or Reset has deleted it, nothing is
// given back there, but a difference is still charged. Settle neither begins nor lifts a ban.
//
// A decision is settled once: a second Settle or Refund of it does nothing, whatever its cost. If Redis does not
// answer, Settle returns ErrUnavailable, whatever the policy, and the charge may or may not have changed. It is safe to
// call Settle again within the shortest Window of the decision's limits; the cost of the first call then applies. If it
// is called again later, a difference that the first call charged may be charged a second time, after the first has
// expired. An in-process Limiter recognizes a second call only while the request, or the difference that was charged,
// has neither left the longest Window nor been deleted by Reset.
//
// Settle does nothing for an admission that was not counted, under FailOpen or because a dry run let a denial pass. It
// returns an error that wraps ErrInvalid, and charges nothing, if the cost is negative or too large, if the cost is not
// 0 and the decision is a denial or was made by Peek, or if another Limiter made the decision. Views of the same
// Limiter, such as those that OnFailure returns, may settle each other's decisions. After units are given back, other
// instances may keep denying for the time that WithDenialCache sets, unless a Provisional view charged them.
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
// Release. It does not lift a ban, and does nothing for a denial or for a decision that Peek made.
func (l *Limiter) Refund(ctx context.Context, d Decision) error {
	err := l.Settle(ctx, d, 0)
	if !d.Holds() {
		return err // without calling Release, which fails if the Limiter was closed meanwhile
	}
	if released := l.Release(ctx, d); err == nil {
		err = released
	}
	return err
}

// Release ends an admitted request, so that it no longer counts in those of its limits that are InFlight. Its other
// limits stay charged. Call Release once for each admission under such a limit, with a context that has not ended, such
// as one from context.WithoutCancel. Adapters do this themselves. Until then, this Limiter renews the lease of the
// admission, so a request that is never released counts for as long as this process runs. Decision.Holds reports
// whether there is anything to release.
//
// Release does nothing for an admission that was already released or refunded, that was not counted, or that is under
// no such limit, nor for a denial. If Redis does not answer, it returns ErrUnavailable, whatever the policy. There is
// no need to call it again then: the Limiter keeps trying for about half a minute, and no longer renews the lease. The
// error wraps ErrInvalid if the decision was made by another Limiter. Views of the same Limiter may release each
// other's decisions.
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

// chargedInRedis reports whether an admission was charged in Redis, and not in this process. If another Limiter charged
// it, the error names the action that the caller wanted to take.
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
