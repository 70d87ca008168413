package core

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// ClientOption returns the options of the client that Connect makes for a URL. Use it to make a client with settings
// that no URL has, such as a client certificate or credentials that change:
//
//	option, err := core.ClientOption("rediss://cache:6379")
//	...
//	option.TLSConfig.Certificates = certificates
//	client, err := rueidis.NewClient(option)
//	...
//	limiter, err := core.New(client)
//
// The user and password of the URL are for Redis. If the sentinels have others, set option.Sentinel.Username and
// option.Sentinel.Password. Leave ConnLifetime zero, because rueidis sends commands again when it replaces a
// connection. The error wraps ErrInvalid.
func ClientOption(url string) (rueidis.ClientOption, error) {
	if url == "" {
		return rueidis.ClientOption{}, invalid("no Redis URL: write one such as redis://localhost:6379")
	}
	return parseURL(url)
}

// parseURL parses the URL that Connect takes. Its errors quote no part of the URL, because any part of a malformed URL
// may be the password.
func parseURL(text string) (rueidis.ClientOption, error) {
	u, err := url.Parse(text)
	if err != nil {
		return rueidis.ClientOption{}, invalid(
			"the Redis URL cannot be read: write redis://user:password@host:port/database, and " +
				"percent-encode punctuation in user and password")
	}
	if !slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme) {
		return rueidis.ClientOption{}, invalid(
			"the Redis URL must begin with redis://, or rediss:// for TLS, as in redis://localhost:6379/0")
	}
	switch {
	case u.Opaque != "":
		return rueidis.ClientOption{}, invalid("the Redis URL needs two slashes, as in redis://localhost:6379/0")
	case u.Fragment != "" || strings.HasSuffix(text, "#"):
		return rueidis.ClientOption{}, invalid(
			"the Redis URL has a # in it: percent-encode it as %%23 if it belongs to the password")
	case strings.Contains(u.Host, ","):
		return rueidis.ClientOption{}, invalid(
			"the Redis URL names one host: add others as in redis://host1:6379?addr=host2:6379")
	case u.Scheme == "unix" && u.Path == "":
		return rueidis.ClientOption{}, invalid("the Redis URL names no socket: write it as in unix:///run/redis.sock")
	case slices.Contains(u.Query()["addr"], ""):
		return rueidis.ClientOption{}, invalid(
			"an addr of the Redis URL is empty: write it as in redis://host1:6379?addr=host2:6379")
	case strings.HasPrefix(u.Query().Get("db"), "-"):
		return rueidis.ClientOption{}, invalid("the db of the Redis URL is negative")
	}
	if u.Scheme != "unix" {
		if database := strings.TrimPrefix(u.Path, "/"); database != "" {
			if n, err := strconv.Atoi(database); err != nil || n < 0 {
				return rueidis.ClientOption{}, invalid(
					"what follows the host of the Redis URL must be the number of a database, " +
						"as in redis://localhost:6379/0")
			}
		}
	}
	for name := range u.Query() {
		if !slices.Contains(urlParameters, name) {
			return rueidis.ClientOption{}, invalid(
				"the Redis URL has an unknown parameter: the known ones are %s", strings.Join(urlParameters, ", "))
		}
	}
	option, err := rueidis.ParseURL(text)
	if err != nil {
		return rueidis.ClientOption{}, invalid("a parameter of the Redis URL has an invalid value: " +
			"timeouts are written like 500ms, db is a number, skip_verify is true or false")
	}
	harden(&option)
	return option, nil
}

// urlParameters are the parameters that rueidis.ParseURL knows.
var urlParameters = []string{
	"addr", "client_name", "db", "dial_timeout", "master_set", "protocol", "skip_verify", "write_timeout",
	"client_cache", "max_retries",
}

// harden sets the options that a limiter needs to be exact and to notice failures early.
func harden(option *rueidis.ClientOption) {
	// One connection for each node. A few large calls are in flight at a time, so more connections save nothing.
	option.PipelineMultiplex = -1
	// A limiter does not use the client's cache, which would need the right to CLIENT TRACKING.
	option.DisableCache = true
	// A limiter does not need CLIENT SETINFO. Since version 7.2, Redis records in ACL LOG that a user has no right to
	// it.
	option.ClientSetInfo = rueidis.DisableClientSetInfo
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = time.Second
	}
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = 2 * time.Second
	}
	option.Sentinel.Dialer = option.Dialer
	option.Sentinel.TLSConfig = option.TLSConfig
	// Otherwise a client that misses an event of the sentinels would use a demoted master forever.
	option.Sentinel.TopologyRefreshInterval = 5 * time.Second
	option.ClusterOption.ShardsRefreshInterval = 10 * time.Second
	option.ClusterOption.MaxMovedRedirections = 5
}
