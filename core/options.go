package core

import (
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Option configures the Limiter that Connect, New or NewInProcess returns. Most services need none. If an option is
// invalid, such as a timeout of zero, these functions return an error that wraps ErrInvalid.
type Option func(*config) error

type config struct {
	prefix    string
	denials   int
	denialTTL time.Duration
	policy    FailurePolicy
	timeout   time.Duration
	logger    *slog.Logger
	meter     metric.Meter // nil if nothing is measured
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
// Redis but not their limits, such as staging and production, need different prefixes. A prefix is 1 to 64 bytes of
// printable ASCII without spaces or braces. Braces would select the slot in Redis Cluster.
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

// WithDenialCache sets how many denials the Limiter caches, and the longest time for which it uses each. The default is
// 10,000 denials and one second. While a denial is cached, the same request is denied without a call to Redis. This is
// exact, because a full log stays full until its oldest entry expires, and a ban lasts until its end. Zero entries turn
// the cache off.
//
// Denials by a log whose units may be given back are cached only while the log is banned: see Limiter.Provisional.
// Denials under a limit with a Ban are cached only while that limit is banned, because only Redis can begin a ban.
//
// A cached denial takes about 400 bytes. If the cache is too small, some denials are overwritten, and each of those
// costs a call to Redis. A longer ttl saves calls if windows are long. But the Limiter may take as long as ttl to
// notice that another instance has called Reset or has given back units that no Provisional view had charged, that
// Redis has lost data, or that Redis's clock was stepped forward.
func WithDenialCache(entries int, ttl time.Duration) Option {
	return func(c *config) error {
		if entries < 0 || entries > 10_000_000 {
			return invalid("denial cache of %d entries: it must be from 0, which turns it off, to 10,000,000", entries)
		}
		if entries > 0 && ttl < time.Millisecond {
			return invalid("denial cache with a ttl of %v: it must be at least 1ms; "+
				"to turn the cache off, set 0 entries", ttl)
		}
		c.denials, c.denialTTL = entries, ttl
		return nil
	}
}

// WithTimeout sets how long a call waits for Redis. The default is 100 ms, and the minimum 1 ms. A good value is
// several round trips. Only time in which this process was able to receive replies counts: if its goroutines have to
// wait for a processor, a call may wait for up to 20 timeouts more. If the context has an earlier deadline, the call
// waits until then.
//
// When that time is up, the policy that OnFailure sets decides the request. Redis may have charged it nevertheless: see
// Limiter.Allow.
func WithTimeout(timeout time.Duration) Option {
	return func(c *config) error {
		if timeout < time.Millisecond {
			return invalid("timeout of %v: it must be at least 1ms, such as 100*time.Millisecond", timeout)
		}
		c.timeout = timeout
		return nil
	}
}

// WithLogger sets the logger. The default is slog.Default(). The Limiter logs when Redis does not answer, when it
// answers again, and when the settings of Redis can lose counts. Adapters log misuse by the program, and errors that
// keep them from limiting requests. An error is logged at most about once every ten seconds. No message contains a key.
// To log nothing, use slog.New(slog.DiscardHandler).
//
// The Limiter's own goroutines use the logger too, so a panic of its handler ends the process.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) error {
		if logger == nil {
			return invalid("nil logger: to log nothing, use slog.New(slog.DiscardHandler)")
		}
		c.logger = logger
		return nil
	}
}
