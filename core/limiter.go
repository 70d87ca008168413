package core

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// Limiter admits requests under limits that each call names. Create one with Connect, New or NewInProcess, share it
// between all handlers, and call Close when the service shuts down. A Limiter is safe for concurrent use. The zero
// Limiter is not usable.
//
// Most callers should use Allow.
type Limiter struct {
	redis     *redisLogs // nil without Redis
	inProcess *inProcess // used without Redis, and under FailLocal
	policy    FailurePolicy
	dryRun    bool
	// provisional is true in views for charges that are often given back.
	provisional bool
	logger      *slog.Logger
	metrics     *metrics // nil if nothing is measured
	waitQueues  *waitQueues
	closed      *atomic.Bool  // shared with all views
	closing     chan struct{} // closed by Close
}

// newLimiter returns a Limiter. The connection is nil without Redis.
func newLimiter(connection *connection, c config) (*Limiter, error) {
	l := &Limiter{
		inProcess: newInProcess(), policy: c.policy, logger: c.logger, waitQueues: newWaitQueues(c),
		closed: new(atomic.Bool), closing: make(chan struct{}),
	}
	var err error
	if c.meter != nil {
		l.metrics, err = newMetrics(c.meter, connection != nil)
	}
	if connection != nil {
		l.redis = newRedisLogs(connection, c, l.metrics, l.waitQueues.wake)
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

// New returns a Limiter that uses client, which may be connected to a single server, to Sentinel or to Redis Cluster.
// Close does not close the client.
//
// Make the client from the result of ClientOption, whose settings keep a Limiter exact and make it notice failures
// early. If you use other settings, leave ConnLifetime zero, because rueidis sends commands again when it replaces a
// connection, and do not set SendToReplicas. New cannot check either. No request waits while the client connects or
// gives up; only the Limiter's own goroutines do.
//
// New does not wait for Redis. If Redis does not answer, New returns no error, and the policy that OnFailure sets
// decides requests until Redis answers. A returned error wraps ErrInvalid or comes from the meter provider.
func New(client rueidis.Client, opts ...Option) (*Limiter, error) {
	if client == nil {
		return nil, invalid("no Redis client: use core.Connect(url), or core.NewInProcess() to run without Redis")
	}
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	return newLimiter(newConnection(client, c.logger), c)
}

// Connect returns a Limiter that uses the Redis at a URL:
//
//	redis://user:password@host:6379/0           one server, database 0; only the host is required
//	rediss://host:6379                          the same with TLS
//	redis://host1:6379?addr=host2:6379          Redis Cluster, found through any of its nodes
//	redis://host1:26379?addr=host2:26379&master_set=mymaster   Sentinel
//
// Other parameters are those of rueidis.ParseURL. Close closes the connections. If the URL is empty, Connect returns an
// in-process Limiter, like NewInProcess.
//
// If Redis does not answer, Connect returns no error. It waits for a few seconds at most, and keeps trying in the
// background. The policy that OnFailure sets decides requests until Redis answers. A returned error wraps ErrInvalid or
// comes from the meter provider. It quotes no part of the URL.
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
	return newLimiter(dial(option, c.logger), c)
}

// NewInProcess returns a Limiter that keeps the same exact logs in the memory of this process. It is for services with
// a single instance, for development and for tests. A returned error wraps ErrInvalid or comes from the meter provider.
//
// An admitted request takes 4 to 16 bytes until it leaves the window, and twice that in windows longer than 71 minutes.
// It takes 16 to 64 bytes more in logs with requests that cost more than one unit or were settled, and in logs in which
// some of the requests of the same microsecond were given back. The amount does not depend on the cost. A request that
// Settle has charged more takes twice the memory, and a refunded request none. A key takes about 200 bytes while it has
// any requests.
func NewInProcess(opts ...Option) (*Limiter, error) {
	c, err := configure(opts)
	if err != nil {
		return nil, err
	}
	return newLimiter(nil, c)
}

// DryRun returns a view of l that decides and counts, but allows everything, to show what limits would do.
// Decision.DryRun and the metrics mark denials that it lets pass. Requests that get no decision under FailClosed pass
// too.
func (l *Limiter) DryRun() *Limiter {
	view := *l
	view.dryRun = true
	view.metrics.expect(view.policy, view.dryRun)
	return &view
}

// Provisional returns a view of l for requests whose charges are often given back, by Settle or Refund. After this view
// has charged a log, no instance caches denials by the log until the log is empty. So a request is admitted as soon as
// there is room, no matter which instance gave units back, and each denial takes a call to Redis.
//
// Once units of a log are given back through another view, the log is treated in the same way. But the first time,
// other instances may notice this only after the time that WithDenialCache sets.
func (l *Limiter) Provisional() *Limiter {
	view := *l
	view.provisional = true
	return &view
}

// Logger returns the logger that WithLogger has set. It is for packages that build on this one.
func (l *Limiter) Logger() *slog.Logger { return l.logger }

// Close closes the connections that Connect has made, and frees the logs in this process. Later calls return
// ErrUnavailable. Close waits for calls in flight, so a client that was passed to New can be closed after it. If Redis
// hangs, Close returns a second after the timeout at the latest, and the remaining calls end when the client gives up.
// Closing a view closes the Limiter and all its views. Further calls of Close do nothing. The error is always nil.
func (l *Limiter) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	close(l.closing)
	if l.redis != nil {
		l.redis.close()
	}
	l.inProcess.close()
	l.metrics.close()
	return nil
}

var errClosed = errors.New("the limiter is closed")
