package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// Limiter admits requests under limits that each call names. Make one with Connect, New or NewInProcess, share it
// between all handlers, and Close it at the end. It is safe for concurrent use. The zero Limiter is not usable.
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
		return nil, fmt.Errorf("exactlimit: the meter provider: %w", err)
	}
	return l, nil
}

// New makes a Limiter on a client of the caller's own: for one Redis, for Sentinel or for Redis Cluster, with TLS and
// credentials, as rueidis connects to them. Close does not close the client.
//
// ClientOption has the settings that keep a client exact and fast to give up, and Connect uses them. With other
// settings, leave ConnLifetime zero, because rueidis sends commands again when it replaces a connection, and leave
// SendToReplicas unset: New can see neither. No request waits for the client to make a connection or to give up. The
// Limiter's own goroutines do.
//
// If Redis does not answer, New returns no error and does not wait: OnFailure decides calls until Redis answers. An
// error wraps ErrInvalid, or is the meter provider's.
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
// Further parameters are those of rueidis.ParseURL. Close closes the client. With an empty URL, Connect makes an
// in-process Limiter, as NewInProcess does.
//
// If Redis does not answer, Connect returns no error. It waits for a few seconds at most, goes on trying in the
// background, and OnFailure decides calls until Redis answers. An error wraps ErrInvalid, or is the meter provider's.
// It quotes nothing of the URL.
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

// NewInProcess makes a Limiter that keeps the same exact logs in this process's memory: for a single instance, for
// development and for tests. An error wraps ErrInvalid, or is the meter provider's.
//
// An admitted request takes 4 to 16 bytes until it leaves the window, and twice that if the window is longer than 71
// minutes. Each request takes 16 to 64 bytes more in a log with requests that cost more than one unit or are settled,
// and in a log in which some of the requests of one microsecond were given back. A request takes the same whatever it
// costs, twice that if it has cost more than it was charged first, and nothing once it is refunded. A key takes about
// 200 bytes while it has any requests.
func NewInProcess(opts ...Option) (*Limiter, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	return newLimiter(nil, c)
}

// Allow decides whether to admit one request of key under all of limits. If a limit has no room, the request is denied
// and no limit is charged. The error is non-nil exactly when there is no decision. It wraps ErrInvalid or
// ErrUnavailable.
//
// The key is what the request is counted by. It may be any non-empty string; different strings are different clients.
//
// If ctx is cancelled, Allow returns an error at once. If it has a deadline that passes before Redis answers, the
// failure policy decides, as after the timeout. So do not let clients choose deadlines: under FailLocal, each request
// with too short a deadline is decided in this process, whose budget is in addition to the one in Redis.
//
// What Redis grants after Allow has returned an error is given back. If the failure policy has admitted the request
// instead, a late grant stays charged. If the connection was lost before the reply, as when Redis hangs for some
// seconds, the Limiter asks Redis what it has granted as soon as Redis answers again. A late grant stays charged if
// this takes longer than a minute, or than half of the shortest window of the requests that were sent together, if the
// Limiter is closed before, or if the lost call reaches Redis even later.
//
// If ctx has an OpenTelemetry span that is recorded, the span gets the attributes exactlimit.limit, exactlimit.outcome,
// exactlimit.source and exactlimit.remaining, with or without WithMeterProvider, whose comment lists the outcomes. None
// of them holds the key.
func (l *Limiter) Allow(ctx context.Context, key string, limits ...Limit) (Decision, error) {
	return l.AllowN(ctx, key, 1, limits...)
}

// AllowN is Allow for a request that costs n units, such as bytes. All units are charged or none. The cost is at least
// 1 and at most the smallest Max. A request that costs a million is one entry, like one that costs 1.
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
	l.describe(ctx, &d)
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

// DryRun returns a view of l that decides and counts, but allows everything, to show what limits would do. A denial
// that it lets pass is marked in Decision.DryRun and in the metrics. Requests that got no decision under FailClosed
// pass too.
func (l *Limiter) DryRun() *Limiter {
	other := *l
	other.dryRun = true
	other.metrics.expect(other.policy, other.dryRun)
	return &other
}

// Provisional returns a view of l for requests whose charge is often given back, by Settle or Refund. From the first
// charge that this view makes to a log until the log is empty, no instance remembers that the log is full. So a request
// is admitted as soon as there is room, whichever instance has given units back, and each denial is a call to Redis. A
// log of which units have been given back is treated the same way. Without Provisional, other instances notice the
// first time after the time that WithDenialCache sets.
func (l *Limiter) Provisional() *Limiter {
	other := *l
	other.provisional = true
	return &other
}

// Peek returns the decision that Allow would make now, and charges nothing. On Redis it always is a call, because it
// does not use the denial cache. It shows a ban, but begins none. Its errors are those of Allow. Metrics do not count
// it, and a dry run does not change its denials.
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
// may go on denying for the time that WithDenialCache sets. If Redis does not answer, Reset returns ErrUnavailable
// whatever the policy, and may or may not have been done.
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

// Logger returns the logger that WithLogger has set, for packages that build on this one.
func (l *Limiter) Logger() *slog.Logger { return l.log }

// Close releases what the Limiter holds: its connections if Connect made them, and its memory if it is in-process.
// Later calls return ErrUnavailable. Close waits for calls in flight, so a client that was given to New can be closed
// after it. If Redis hangs, Close returns within the timeout and a second, and calls in flight end when the client
// gives up. Calling it again does nothing. The error is always nil.
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
