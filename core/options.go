package core

import (
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Option changes how a Limiter is made. Without any, a Limiter does what most services want. What makes no sense, such as a
// timeout of zero, is an error of Connect, New or NewInProcess that wraps ErrInvalid.
type Option func(*config) error

type config struct {
	prefix     string
	denials    int
	denialHold time.Duration
	policy     FailurePolicy
	timeout    time.Duration
	log        *slog.Logger
	meter      metric.Meter // nil when nothing is measured
}

func configure(opts []Option) (config, error) {
	c := config{prefix: "exactlimit", denials: 10_000, denialHold: time.Second, timeout: 100 * time.Millisecond, log: slog.Default()}
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

// WithPrefix sets what the names of all keys in Redis begin with, instead of "exactlimit". Services that share a Redis
// and not their limits, such as staging and production, set one each. It is 1 to 64 bytes of printable ASCII without
// spaces and braces, since braces choose the slot in Redis Cluster.
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

// WithDenialCache sets how many denials are remembered at most, instead of 10,000, and for how long each, instead of
// a second. While a denial is remembered the same question is denied without a call to Redis, which is exact: a full
// log has room when its entries leave and not before, and a banned one when the ban ends. Denials by logs whose units
// may be given back are not remembered, unless the log is banned: see Limiter.Provisional. Redis begins a ban, so a
// denial of a call with a limit that has a Ban is only remembered while that limit is banned. No entries turn the
// cache off.
//
// A denial remembered takes about 400 bytes. Of too few, some are forgotten and cost a call to Redis each. A longer time
// saves calls where windows are long; it is also how late it may be seen that another instance has called Reset, or has
// given back units that were not charged by a Provisional view, that Redis has lost data, or that its clock was stepped
// forward.
func WithDenialCache(entries int, hold time.Duration) Option {
	return func(c *config) error {
		if entries < 0 || entries > 10_000_000 {
			return invalid("denial cache of %d entries: it must be from 0, which turns it off, to 10,000,000", entries)
		}
		if entries > 0 && hold < time.Millisecond {
			return invalid("denial cache that holds for %v: it must be at least 1ms; to turn it off, give it 0 entries", hold)
		}
		c.denials, c.denialHold = entries, hold
		return nil
	}
}

// WithTimeout sets how long a call waits for Redis, instead of 100 ms. Only time in which this process was able to listen
// counts: where goroutines wait for a processor, a call waits for up to 20 timeouts more. A call whose context has an earlier
// deadline waits until then. What Redis has not decided by then is decided as OnFailure says, and may have been charged all the same. It is
// at least 1ms, and should be some times what a round trip takes.
func WithTimeout(timeout time.Duration) Option {
	return func(c *config) error {
		if timeout < time.Millisecond {
			return invalid("timeout of %v: it must be at least 1ms, such as 100*time.Millisecond", timeout)
		}
		c.timeout = timeout
		return nil
	}
}

// WithLogger sets where to say that Redis no longer answers, or does again, or is set up in a way that loses what is
// counted, and where the adapters say that a program misuses them or that its errors keep them from limiting
// requests; instead of slog.Default. No error is logged more often than about every ten seconds, and no key is. To
// hear nothing use slog.New(slog.DiscardHandler). The limiter's own goroutines call the handler too, so if it panics, the
// process ends.
func WithLogger(log *slog.Logger) Option {
	return func(c *config) error {
		if log == nil {
			return invalid("nil logger: to hear nothing use slog.New(slog.DiscardHandler)")
		}
		c.log = log
		return nil
	}
}
