package core

import "strings"

// Option changes how a Limiter is made. Without any, a Limiter does what most services want.
type Option func(*config) error

type config struct {
	prefix string
}

func configure(opts []Option) (config, error) {
	c := config{prefix: "exactlimit"}
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
