package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// Limiter admits requests under limits that each call names. Make one with Connect, New or NewInProcess, share it by all
// handlers, and Close it at the end. It is safe for concurrent use. The zero Limiter is not usable.
//
// Most callers want Allow.
type Limiter struct {
	redis     *redisLogs // nil when the logs are in this process
	inProcess *inProcess // the logs, or those that stand in for Redis
	policy    FailurePolicy
	dryRun    bool
	// provisional says that what is charged may be given back.
	provisional bool
	log         *slog.Logger
	metrics     *metrics      // nil when nothing is measured
	queues      *queues       // of the callers of Wait
	closed      *atomic.Bool  // of all that share the logs
	gone        chan struct{} // closed with them
}

// newLimiter returns a Limiter on a connection to Redis, which may be nil.
func newLimiter(connection *connection, c config) (*Limiter, error) {
	l := &Limiter{
		inProcess: newInProcess(), policy: c.policy, log: c.log, queues: newQueues(c), closed: new(atomic.Bool), gone: make(chan struct{}),
	}
	var err error
	if c.meter != nil {
		l.metrics, err = newMetrics(c.meter, connection != nil)
	}
	if connection != nil {
		l.redis = newRedisLogs(connection, c, l.metrics, l.queues.wake)
		if l.metrics != nil {
			l.metrics.observe(l.redis.state)
		}
	}
	l.metrics.expect(l.policy, l.dryRun)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("core: the meter provider: %w", err)
	}
	return l, nil
}

// New makes a Limiter on a client of the caller's own: for one Redis, for Sentinel or for Redis Cluster, with TLS and
// credentials, just as rueidis connects to them. Close leaves the client open.
//
// ClientOption has the settings that keep a client exact and nobody waiting, which Connect uses. With others, leave
// ConnLifetime zero, since rueidis sends commands again when it replaces a connection, and SendToReplicas unset: New cannot
// see either. No request waits for the client to make a connection or to give up; the limiter's own goroutines do.
//
// A Redis that does not answer is no error here: until it does, calls are decided as OnFailure says. New does not wait for
// it. An error wraps ErrInvalid, or is the meter provider's.
func New(client rueidis.Client, opts ...Option) (*Limiter, error) {
	if client == nil {
		return nil, invalid("no Redis client: use core.Connect(url), or core.NewInProcess() to run without Redis")
	}
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	return newLimiter(newConnection(client, c.log), c)
}

// Connect makes a Limiter on the Redis at a URL:
//
//	redis://user:password@host:6379/0           one Redis, database 0; everything but the host may be left out
//	rediss://host:6379                          the same with TLS
//	redis://host1:6379?addr=host2:6379          Redis Cluster, found through any of its nodes
//	redis://host1:26379?addr=host2:26379&master_set=mymaster   Sentinel
//
// Further parameters are rueidis.ParseURL's. The client it makes is closed by Close. An empty URL makes an in-process
// Limiter, as NewInProcess does.
//
// A Redis that does not answer is no error here: Connect waits for it for a few seconds at most, goes on trying in the
// background, and calls are decided as OnFailure says until it answers. An error wraps ErrInvalid, or is the meter provider's;
// it quotes nothing of the URL.
func Connect(url string, opts ...Option) (*Limiter, error) {
	if url == "" {
		return NewInProcess(opts...)
	}
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	option, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	return newLimiter(dial(option, c.log), c)
}

// NewInProcess makes a Limiter that keeps the same exact logs in this process's memory: for one instance, for
// development and for tests. An error wraps ErrInvalid, or is the meter provider's.
//
// An admitted request takes 4 to 16 bytes until it leaves the window, twice that if the window is longer than 71
// minutes. In a log with requests that cost more than one unit or are settled, or of whose requests in one microsecond
// some were given back, each takes 16 to 64 bytes more. A request takes the same whatever it costs, twice that if it
// has cost more than it was charged first, and nothing once it is refunded. A key takes about 200 bytes while it has
// any.
func NewInProcess(opts ...Option) (*Limiter, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	return newLimiter(nil, c)
}

// Allow asks to admit one request of key under all of limits. If one of them has no room the request is denied and
// charged to none. The error is non-nil exactly when there is no decision, and wraps ErrInvalid or ErrUnavailable.
//
// When its context is cancelled it returns at once, with an error. What Redis grants to it after that is given back, and so it
// is wherever Allow has returned an error because Redis did not answer in time. If the failure policy has let the request go
// on instead, what Redis grants late stays charged. If the connection is lost before the reply comes, as when Redis
// hangs for some seconds, Redis is asked what it has granted as soon as it answers again. A late grant stays charged if
// this takes longer than a minute, or than half of the shortest window of the requests that were sent together, if the
// limiter is closed before, or if the lost call reaches Redis even later.
//
// A deadline of the context before Redis has answered is a case for the failure policy, as the timeout is. So do not
// let a client choose it: under FailLocal each request with too short a deadline is decided in this process, whose
// budget comes on top of the one in Redis.
//
// If the context has an OpenTelemetry span that is recorded, it gets the decision as the attributes exactlimit.limit,
// exactlimit.outcome, exactlimit.source and exactlimit.remaining, with or without WithMeterProvider, whose comment
// lists the outcomes. The key is in none of them.
//
// The key says who is counted. It may be any non-empty string; different strings are different clients.
func (l *Limiter) Allow(ctx context.Context, key string, limits ...Limit) (Decision, error) {
	return l.AllowN(ctx, key, 1, limits...)
}

// AllowN is Allow for a request that costs n units, such as bytes: all of them are charged or none is. The cost is at least 1
// and at most the smallest Max. A request that costs a million is charged by one entry, like one that costs 1.
func (l *Limiter) AllowN(ctx context.Context, key string, n int, limits ...Limit) (d Decision, err error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	if n < 1 {
		return Decision{}, invalid("cost %d: it must be at least 1", n)
	}
	for i := range limits {
		if limit := &limits[i]; n > limit.Max {
			return Decision{}, invalid("cost %d: limit %q never holds more than its Max of %d", n, limit.Name, limit.Max)
		}
	}
	if err := l.decide(ctx, &d, canonicalKey(key), n, limits); err != nil {
		if l.metrics != nil && !gaveUp(ctx) {
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
	describe(ctx, &d)
	return d, nil
}

func (l *Limiter) decide(ctx context.Context, d *Decision, key string, n int, limits []Limit) error {
	var q *question // that Redis may still grant
	if l.redis != nil {
		var err error
		q, err = l.redis.decide(ctx, d, key, n, limits, l.provisional)
		switch {
		case err == nil:
			return nil
		case gaveUp(ctx) || l.policy == FailClosed && !l.dryRun:
			l.redis.giveBack(q)
			return err
		case l.policy != FailLocal:
			*d = admitUncounted(limits)
		}
	}
	if !d.Allowed {
		l.inProcess.decide(d, key, n, limits)
	}
	if q != nil && (!d.Allowed || q.inFlight) {
		q.keep = d.Allowed
		l.redis.giveBack(q)
	}
	return nil
}

// DryRun returns the same Limiter as one that counts and decides, and lets pass what it would deny: to see what limits would
// do before they do it. Such admissions are marked, in Decision.DryRun and in the metrics. As nobody is to notice, requests
// that nobody decides pass too, under FailClosed.
func (l *Limiter) DryRun() *Limiter {
	other := *l
	other.dryRun = true
	other.metrics.expect(other.policy, other.dryRun)
	return &other
}

// Provisional returns a view of l for requests whose charge is often given back, by Settle or Refund. From the first
// charge that this view makes to a log until the log is empty, no instance remembers that the log is full, so a request
// is admitted as soon as there is room, whichever instance has given units back. Each denial is then a call to Redis. A
// log of which units have been given back is treated the same way; without Provisional, other instances notice the
// first time after as long as WithDenialCache sets.
func (l *Limiter) Provisional() *Limiter {
	other := *l
	other.provisional = true
	return &other
}

// Peek returns the decision that Allow would make now, and charges nothing. On Redis it is a call of its own, whatever is
// remembered of denials. It shows a ban and begins none. Its errors are Allow's. Metrics do not count it, and a dry run
// shows its denials as they are.
func (l *Limiter) Peek(ctx context.Context, key string, limits ...Limit) (d Decision, err error) {
	if err := l.check(ctx, key, limits); err != nil {
		return Decision{}, err
	}
	key = canonicalKey(key)
	if l.redis != nil {
		d, err = l.redis.peek(ctx, key, limits)
		if err == nil || l.policy == FailClosed || gaveUp(ctx) {
			return d, err
		}
		if l.policy == FailOpen {
			return admitUncounted(limits), nil
		}
	}
	l.inProcess.peek(&d, key, limits)
	return d, nil
}

// Settle states what an admitted request has really cost, in units, and charges or gives back the difference to what it
// was charged, in each of its limits that are not InFlight. It is for requests whose cost is known only when they are
// done: reserve an estimate with AllowN, and settle it afterwards. A reservation that is never settled stays charged.
//
// If the request has cost less, units are given back as if it had been admitted at that cost. If it has cost more, the
// difference is charged as of now, even beyond Max, because the work has been done: then Remaining is 0, and no request
// is admitted until enough has expired, which RetryAfter tells exactly. The cost may be up to 999,999,999,999,999, and
// 0. If the request has left the window of a limit meanwhile, it has nothing there to give back, and what it has cost
// beyond its reservation is charged all the same. So it is if Reset has forgotten the request. Settle neither bans nor
// lifts a ban.
//
// A decision is settled once: a second Settle or Refund of it, with any cost, does nothing. Where Redis does not
// answer, Settle returns ErrUnavailable whatever the policy, and may or may not have been done. Calling it again within
// the shortest Window of the decision's limits is safe, and repeats what was stated first. Later, a difference that was
// charged by the first call may be charged again, after it has expired. In-process, a second call is known to be one
// only while the request, or the difference that it was charged, has not left the longest Window, and was not forgotten
// by Reset.
//
// An admission that was not counted, as under FailOpen or because a dry run let a denial pass, has nothing to settle,
// and Settle does nothing. An error wraps ErrInvalid if the cost is negative or too large, if the decision is a denial
// or Peek's and the cost is not 0, or if the decision is another Limiter's: it must be of this one, or of a view of it,
// such as by OnFailure. Nothing is charged then. Other instances may go on denying for as long as WithDenialCache says
// after units were given back, unless the charge was Provisional.
func (l *Limiter) Settle(ctx context.Context, d Decision, cost int) error {
	paid := d.receipt
	switch {
	case cost < 0:
		return invalid("actual cost %d: it must be at least 0, which gives back all that was charged", cost)
	case int64(cost) > maxMax:
		return invalid("actual cost %d: it must be at most %d", cost, int64(maxMax))
	case paid.cost == 0 && (cost == 0 || d.DryRun || d.Source == SourceFailOpen):
		return nil
	case paid.cost == 0:
		return invalid("the decision has charged nothing: settle those that Allow, AllowN or Wait have admitted")
	}
	redis, err := l.madeBy(paid, "settle")
	windows := d.windows()
	switch {
	case err != nil || len(windows) == 0:
		return err
	case redis:
		return l.redis.settle(ctx, paid, cost, limitsOf(windows))
	}
	defer l.queues.wake(paid.key)
	if err := l.inProcess.settle(paid, cost, windows); err != nil {
		return unavailable(err)
	}
	return nil
}

// Refund gives back what an admission was charged, so that it counts no more, as if a request that failed had never
// come. It is Settle with a cost of 0, and Release. It lifts no ban, and does nothing for a denial or a Peek.
func (l *Limiter) Refund(ctx context.Context, d Decision) error {
	err := l.Settle(ctx, d, 0)
	if released := l.Release(ctx, d); err == nil {
		err = released
	}
	return err
}

// Release says that an admitted request has ended: it no longer counts in those of its limits that are InFlight. The
// others stay charged. Call it once for each admission under such a limit, with a context that has not ended, such as
// context.WithoutCancel's; adapters do it themselves. Until then this Limiter renews what the admission holds, so it is
// held for as long as this process runs if Release is forgotten. Decision.Holds reports whether there is anything to
// release.
//
// A second Release of the same admission does nothing, and so does one after a Refund, one of a denial, and one of an
// admission that was not counted or is under no such limit. Where Redis does not answer it returns ErrUnavailable
// whatever the policy. There is no need to call it again then: the Limiter goes on trying for about half a minute, and no
// longer renews. The decision must be of this Limiter, or of a view of it: another's is an error that wraps ErrInvalid.
func (l *Limiter) Release(ctx context.Context, d Decision) error {
	if d.receipt.cost == 0 {
		return nil
	}
	redis, err := l.madeBy(d.receipt, "release")
	if err != nil || !d.Holds() {
		return err
	}
	flights := inFlight(limitsOf(d.States()))
	if redis {
		return l.redis.release(ctx, d.receipt, flights)
	}
	l.inProcess.release(d.receipt, flights)
	l.queues.wake(d.receipt.key)
	return nil
}

// madeBy reports whether the admission with a receipt, which a caller wants to do something with, was made by Redis, or
// else in this process.
func (l *Limiter) madeBy(paid receipt, do string) (redis bool, _ error) {
	switch {
	case l.closed.Load():
		return false, unavailable(errClosed)
	case paid.store == l.inProcess.identity:
		return false, nil
	case l.redis != nil && paid.store == l.redis.identity:
		return true, nil
	}
	return false, invalid("the decision is another Limiter's: %s it with the one that made it", do)
}

func limitsOf(states []State) []Limit {
	limits := make([]Limit, len(states))
	for i := range states {
		limits[i] = states[i].Limit
	}
	return limits
}

// Reset forgets what key has been charged under limits, as if it had never come, and lifts its bans. Other instances
// may go on denying for as long as WithDenialCache says. Where Redis does not answer it returns ErrUnavailable
// whatever the policy, and may or may not have forgotten.
func (l *Limiter) Reset(ctx context.Context, key string, limits ...Limit) error {
	if err := l.check(ctx, key, limits); err != nil {
		return err
	}
	key = canonicalKey(key)
	defer l.queues.wake(key)
	l.inProcess.reset(key, limits)
	if l.redis != nil {
		return l.redis.reset(ctx, key, limits)
	}
	return nil
}

// Logger is what WithLogger has set, for packages that build on this one.
func (l *Limiter) Logger() *slog.Logger { return l.log }

// Close releases what the Limiter holds: its connections if Connect made them, its memory if it is in-process. Calls that come
// later return ErrUnavailable. It waits for the calls that are in flight, so a client given to New can be closed after it. If
// Redis hangs, it returns a second after the timeout at the latest, and what is in flight ends by itself when the client gives
// up. Closing twice does nothing. The error is always nil.
func (l *Limiter) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	close(l.gone)
	if l.redis != nil {
		l.redis.close()
	}
	l.inProcess.close()
	l.metrics.close()
	return nil
}

var errClosed = errors.New("the limiter is closed")

func (l *Limiter) check(ctx context.Context, key string, limits []Limit) error {
	if err := Validate(limits...); err != nil {
		return err
	}
	if key == "" {
		return invalid("empty key: a key says who is counted, such as \"user:42\"")
	}
	if l.closed.Load() {
		return unavailable(errClosed)
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	return nil
}
