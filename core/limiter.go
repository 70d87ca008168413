package core

import (
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
	redis     *redisLogs // nil if the logs are in this process
	inProcess *inProcess // the logs, or those that stand in for Redis
	policy    FailurePolicy
	dryRun    bool
	// provisional is set in views whose charges may be given back.
	provisional bool
	logger      *slog.Logger
	metrics     *metrics      // nil if nothing is measured
	waitQueues  *waitQueues   // of callers of Wait
	closed      *atomic.Bool  // shared with all views
	closing     chan struct{} // closed by Close
}

// newLimiter returns a Limiter on a connection to Redis, which may be nil.
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
	return newLimiter(newConnection(client, c.logger), c)
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
	return newLimiter(dial(option, c.logger), c)
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

// Logger returns the logger that WithLogger has set, for packages that build on this one.
func (l *Limiter) Logger() *slog.Logger { return l.logger }

// Close releases what the Limiter holds: its connections if Connect made them, and its memory if it is in-process.
// Later calls return ErrUnavailable. Close waits for calls in flight, so a client that was given to New can be closed
// after it. If Redis hangs, Close returns within the timeout and a second, and calls in flight end when the client
// gives up. Calling it again does nothing. The error is always nil.
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
