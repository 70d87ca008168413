package core

import (
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Option changes how Connect, New and NewInProcess make a Limiter. Most services need none. If an option makes no
// sense, such as a timeout of zero, they return an error that wraps ErrInvalid.
type Option func(*config) error

type config struct {
	prefix    string
	denials   int
	denialTTL time.Duration
	policy    FailurePolicy
	timeout   time.Duration
	logger    *slog.Logger
	meter     metric.Meter // nil when nothing is measured
}

func configure(opts []Option) (config, error) {
	c := config{
		prefix: "exactlimit", denials: 10_000, denialTTL: time.Second,
		timeout: 100 * time.Millisecond, logger: slog.Default(),
	}
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

// WithPrefix sets the beginning of the names of all keys in Redis. The default is "exactlimit". Services that share a
// Redis but not their limits, such as staging and production, need a prefix each. A prefix is 1 to 64 bytes of
// printable ASCII without spaces and braces, because braces choose the slot in Redis Cluster.
func WithPrefix(prefix string) Option {
	return func(c *config) error {
		if prefix == "" || len(prefix) > maxName {
			return invalid("prefix %q: it must be 1 to %d bytes long", prefix, maxName)
		}
		if strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r > '~' || r == '{' || r == '}' }) {
			return invalid("prefix %q: it must be printable ASCII without spaces and braces", prefix)
		}
		c.prefix = prefix
		return nil
	}
}

// WithDenialCache sets how many denials the Limiter remembers, and for how long each. The default is 10,000 denials and
// a second. While a denial is remembered, the same question is denied without a call to Redis. This is exact, because a
// full log stays full until its oldest entry expires, and a banned one until the ban ends. Zero entries turn the cache
// off.
//
// Denials by logs whose units may be given back are not remembered, unless the log is banned: see Limiter.Provisional.
// Because Redis begins a ban, a denial of a call with a limit that has a Ban is remembered only while that limit is
// banned.
//
// A denial takes about 400 bytes. If there are too few entries, some denials are forgotten and cost a call to Redis
// each. Longer times save calls if windows are long. But the Limiter may notice so late that another instance has
// called Reset or has given back units that were not charged by a Provisional view, that Redis has lost data, or that
// its clock was stepped forward.
func WithDenialCache(entries int, ttl time.Duration) Option {
	return func(c *config) error {
		if entries < 0 || entries > 10_000_000 {
			return invalid("denial cache of %d entries: it must be from 0, which turns it off, to 10,000,000", entries)
		}
		if entries > 0 && ttl < time.Millisecond {
			return invalid("denial cache that holds for %v: it must be at least 1ms; to turn it off, give it 0 entries", ttl)
		}
		c.denials, c.denialTTL = entries, ttl
		return nil
	}
}

// WithTimeout sets how long a call waits for Redis. The default is 100 ms, and the minimum 1 ms; a good value is
// several round trips. Only time in which this process was able to listen counts: while goroutines wait for a
// processor, a call waits for up to 20 timeouts more. If the context has an earlier deadline, the call waits until
// then.
//
// OnFailure decides what Redis has not decided by then. Redis may have charged such a request all the same.
func WithTimeout(timeout time.Duration) Option {
	return func(c *config) error {
		if timeout < time.Millisecond {
			return invalid("timeout of %v: it must be at least 1ms, such as 100*time.Millisecond", timeout)
		}
		c.timeout = timeout
		return nil
	}
}

// WithLogger sets the logger, instead of slog.Default. The Limiter logs that Redis does not answer, answers again, or
// is set up in a way that loses what was counted. Adapters log that a program misuses them, or that its errors keep
// them from limiting requests. Each error is logged about every ten seconds at most, and no key is ever logged. To log
// nothing, use slog.New(slog.DiscardHandler).
//
// The Limiter's own goroutines call the handler too, so a panic of the handler ends the process.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return invalid("nil logger: to hear nothing use slog.New(slog.DiscardHandler)")
		}
		c.logger = logger
		return nil
	}
}
