package core

import "context"

// Allow decides whether to admit one request of key under all the given limits. If any limit has no room, the request
// is denied and no limit is charged. The error is non-nil exactly if there is no decision. It wraps ErrInvalid or
// ErrUnavailable.
//
// The key is what the request is counted by, such as a user. It may be any non-empty string. Different strings are
// counted separately.
//
// If ctx is cancelled, Allow returns an error at once. If ctx has a deadline that passes before Redis answers, the
// failure policy decides, as after the timeout. So do not let clients choose deadlines: under FailLocal, requests with
// too short a deadline are decided by the logs in this process, whose budget is in addition to the one in Redis.
//
// If Redis grants a request only after Allow has returned an error, the Limiter gives the charge back. If the failure
// policy has admitted the request instead, the charge stays. If the connection is lost before the reply, as when Redis
// hangs for some seconds, the Limiter asks what was granted as soon as Redis answers again. The charge stays if this
// takes longer than a minute, or than half of the shortest window of the requests in the same call, if the Limiter is
// closed first, or if the lost call reaches Redis even later.
//
// If ctx has an OpenTelemetry span that is recording, Allow sets its attributes exactlimit.limit, exactlimit.outcome,
// exactlimit.source and exactlimit.remaining, with or without WithMeterProvider, whose comment lists the outcomes. None
// of them contains the key.
func (l *Limiter) Allow(ctx context.Context, key string, limits ...Limit) (Decision, error) {
	return l.AllowN(ctx, key, 1, limits...)
}

// AllowN is Allow for a request that costs n units, such as bytes. Either all units are charged or none. The cost must
// be at least 1 and at most the smallest Max. A request is one entry in a log, whatever it costs.
func (l *Limiter) AllowN(ctx context.Context, key string, n int, limits ...Limit) (d Decision, err error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	if n < 1 {
		return Decision{}, invalid("cost %d: it must be at least 1", n)
	}
	for i := range limits {
		if limit := &limits[i]; n > limit.Max {
			return Decision{}, invalid("cost %d: limit %q never holds more than its Max of %d",
				n, limit.Name, limit.Max)
		}
	}
	if err := l.decide(ctx, &d, canonicalKey(key), n, limits); err != nil {
		if l.metrics != nil && !cancelled(ctx) {
			l.metrics.recordUnavailable(limits)
		}
		return Decision{}, err
	}
	if l.dryRun && !d.Allowed {
		d.Allowed, d.DryRun = true, true
	}
	if l.metrics != nil {
		l.metrics.recordDecision(&d)
	}
	l.setSpanAttributes(ctx, &d)
	return d, nil
}

// decide sets d by Redis, by the logs in this process, or by the failure policy.
func (l *Limiter) decide(ctx context.Context, d *Decision, key string, n int, limits []Limit) error {
	var q *question // not nil if Redis may still grant it
	if l.redis != nil {
		var err error
		q, err = l.redis.allow(ctx, d, key, n, limits, l.provisional)
		switch {
		case err == nil:
			return nil
		case cancelled(ctx) || l.policy == FailClosed && !l.dryRun:
			l.redis.refundUnwanted(q)
			return err
		case l.policy != FailLocal:
			*d = admitUncounted(limits)
		}
	}
	if !d.Allowed {
		l.inProcess.allow(d, key, n, limits)
	}
	if q != nil && (!d.Allowed || q.inFlight) {
		q.refundInFlightOnly = d.Allowed
		l.redis.refundUnwanted(q)
	}
	return nil
}

// Peek returns the decision that Allow would make now, and charges nothing. On Redis it always makes a call, because it
// does not use the denial cache. It reports a ban, but begins none. Its errors are those of Allow. Metrics do not count
// it, and a dry run does not change its denials.
func (l *Limiter) Peek(ctx context.Context, key string, limits ...Limit) (d Decision, err error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	key = canonicalKey(key)
	if l.redis != nil {
		d, err = l.redis.peek(ctx, key, limits)
		if err == nil || l.policy == FailClosed || cancelled(ctx) {
			return d, err
		}
		if l.policy == FailOpen {
			return admitUncounted(limits), nil
		}
	}
	l.inProcess.peek(&d, key, limits)
	return d, nil
}

// Reset deletes everything that key was charged under limits, and lifts its bans. Other instances may keep denying for
// the time that WithDenialCache sets. If Redis does not answer, Reset returns ErrUnavailable, whatever the policy, and
// the logs may or may not have been deleted. If the connection is lost and the first attempt reaches Redis after its
// retry, it also deletes what was admitted in between.
func (l *Limiter) Reset(ctx context.Context, key string, limits ...Limit) error {
	if err := l.check(ctx, key, limits); err != nil {
		return err
	}
	key = canonicalKey(key)
	defer l.waitQueues.wake(key)
	l.inProcess.reset(key, limits)
	if l.redis != nil {
		return l.redis.reset(ctx, key, limits)
	}
	return nil
}

// check returns an error if the arguments of a call are invalid, the Limiter is closed, or the context has ended.
func (l *Limiter) check(ctx context.Context, key string, limits []Limit) error {
	if err := Validate(limits...); err != nil {
		return err
	}
	if key == "" {
		return invalid("empty key: write what the request is counted by, such as \"user:42\"")
	}
	if l.closed.Load() {
		return unavailable(errClosed)
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	return nil
}
