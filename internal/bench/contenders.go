package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	httprateredis "github.com/go-chi/httprate-redis"
	"github.com/redis/go-redis/v9"
	"github.com/sethvargo/go-limiter/memorystore"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	vnmchuo "github.com/vnmchuo/ratelimiter"
	"go.opentelemetry.io/otel/sdk/metric"

	"github.com/exactlimit/exactlimit/core"
)

// contender is a rate limiter that is measured. The first one of a list is exactlimit; the others are compared with it.
type contender struct {
	name      string
	module    string // the report contains its version
	how       string // how it counts
	reference bool   // whether it limits nothing, and shows the rate without a limiter
	open      func(setup) (*limiter, error)
	app       func(setup) (*app, error) // replaces open in the scenario service
	exe       string                    // a build of this program for another checkout, or empty
}

// setup configures a contender: at most max requests of a key in a window, from a number of goroutines.
type setup struct {
	addrs   []string // of Redis: several for a cluster
	prefix  string   // of the keys, if the contender has one
	workers int
	max     int
	window  time.Duration
	metered bool // whether exactlimit has a meter provider
}

// url returns the URL for core.Connect.
func (s setup) url() string {
	url := "redis://" + s.addrs[0]
	if others := s.addrs[1:]; len(others) > 0 {
		url += "?addr=" + strings.Join(others, "&addr=")
	}
	return url
}

// limiter is an open contender.
type limiter struct {
	allow       allow
	close       func()
	each        func() allow                // if set, returns a new allow for each goroutine
	local       func() int64                // if set, returns how many decisions were made without Redis
	diagnostics func() (diagnostics, error) // may be nil
	ownTimeout  bool                        // whether the limiter has a timeout, so callers set no deadline
}

func (l *limiter) decidedLocally() int {
	if l.local == nil {
		return 0
	}
	return int(l.local())
}

type allow = func(ctx context.Context, key string) (bool, error)

// ctx can be canceled, like that of a request. With other contexts rueidis works differently.
var ctx, _ = context.WithCancel(context.Background())

var (
	exactlimit = contender{name: ours, module: "github.com/exactlimit/exactlimit", how: "log", open: exactOnRedis}

	redisRate          = redisRateOn("redis_rate", plain)
	redisRateOrdered   = redisRateOn("redis_rate+AP", ordered)
	redisRateUnordered = redisRateOn("redis_rate+AP8", unordered)

	rueidisLimiter = contender{
		name: "rueidislimiter", module: "github.com/redis/rueidis/rueidislimiter", how: "fixed window",
		open: openRueidisLimiter,
	}
)

var onRedis = []contender{
	exactlimit,
	redisRate, redisRateOrdered, redisRateUnordered,
	ululeOn("ulule/limiter", plain), ululeOn("ulule/limiter+AP", ordered), ululeOn("ulule/limiter+AP8", unordered),
	rueidisLimiter,
	{name: "httprate", module: "github.com/go-chi/httprate-redis", how: "two fixed windows",
		open: func(s setup) (*limiter, error) {
			client, close, err := goRedis(s, plain)
			if err != nil {
				return nil, err
			}
			return fromHTTPRate(s, close, httprateredis.WithRedisLimitCounter(&httprateredis.Config{
				Client: client, PrefixKey: s.prefix, WindowLength: s.window, FallbackDisabled: true,
			})), nil
		}},
	{name: "vnmchuo", module: "github.com/vnmchuo/ratelimiter", how: "log, client's clock",
		open: func(s setup) (*limiter, error) {
			client, close, err := goRedis(s, plain)
			if err != nil {
				return nil, err
			}
			store := vnmchuo.NewRedisStore(client.(*redis.Client), vnmchuo.WithLimit(s.max),
				vnmchuo.WithWindow(s.window))
			return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
				r, err := store.Allow(ctx, key)
				return err == nil && r.Allowed, err
			}, close: close}, nil
		}},
}

var onCluster = []contender{exactlimit, redisRate, redisRateOrdered, redisRateUnordered, rueidisLimiter}

var overloaded = []contender{exactlimit, redisRate, redisRateOrdered, rueidisLimiter}

var inMemory = []contender{
	{name: ours, module: "github.com/exactlimit/exactlimit", how: "log", open: func(s setup) (*limiter, error) {
		l, err := core.NewInProcess()
		if err != nil {
			return nil, err
		}
		limit := limitOf(s)
		return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
			d, err := l.Allow(ctx, key, limit)
			return d.Allowed, err
		}, close: func() { l.Close() }}, nil
	}},
	{name: "sethvargo", module: "github.com/sethvargo/go-limiter", how: "fixed window",
		open: func(s setup) (*limiter, error) {
			store, err := memorystore.New(&memorystore.Config{Tokens: uint64(s.max), Interval: s.window})
			if err != nil {
				return nil, err
			}
			return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
				_, _, _, ok, err := store.Take(ctx, key)
				return ok, err
			}, close: func() { store.Close(ctx) }}, nil
		}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "fixed window",
		open: func(s setup) (*limiter, error) {
			return fromUlule(ululeOf(ululememory.NewStore(), s), func() {}), nil
		}},
	{name: "httprate", module: "github.com/go-chi/httprate", how: "two fixed windows",
		open: func(s setup) (*limiter, error) {
			return fromHTTPRate(s, func() {}), nil
		}},
	{name: "Echo's store", module: "github.com/labstack/echo/v4", how: "token bucket",
		open: func(s setup) (*limiter, error) {
			store := echoStore(s)
			return &limiter{allow: func(_ context.Context, key string) (bool, error) {
				return store.Allow(key)
			}, close: func() {}}, nil
		}},
}

const ours = "exactlimit"

// exactOnRedis also counts the decisions that were made without Redis, and collects the diagnostics.
func exactOnRedis(s setup) (*limiter, error) {
	warnings := &warningCounter{}
	options := []core.Option{core.WithPrefix(s.prefix), core.WithLogger(slog.New(warnings))}
	reader := metric.NewManualReader()
	if s.metered {
		options = append(options, core.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	}
	l, err := core.Connect(s.url(), options...)
	if err != nil {
		return nil, err
	}
	limit := limitOf(s)
	var local atomic.Int64
	return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
		d, err := l.Allow(ctx, key, limit)
		if err == nil && d.Source != core.SourceRedis && d.Source != core.SourceDenialCache {
			local.Add(1)
		}
		return d.Allowed, err
	}, close: func() { l.Close() }, local: local.Load, ownTimeout: true,
		diagnostics: func() (d diagnostics, err error) {
			d.Warnings = warnings.counted()
			if s.metered {
				d.Outage, err = outageDuration(reader)
			}
			return d, err
		}}, nil
}

func limitOf(s setup) core.Limit { return core.Limit{Name: "bench", Max: s.max, Window: s.window} }

// check checks that a contender limits: that it admits exactly max requests of a new key, and that another key has
// its own budget.
func (c contender) check(s setup, keys [2]string) error {
	s.max, s.window, s.workers = 5, time.Hour, 1
	l, err := c.open(s)
	if err != nil {
		return err
	}
	defer l.close()
	for _, key := range keys {
		for i := range s.max + 2 {
			ok, err := l.allow(ctx, key)
			if err != nil {
				return err
			}
			if ok != (i < s.max) {
				return fmt.Errorf("request %d of key %q with a limit of %d: allowed is %v", i+1, key, s.max, ok)
			}
		}
	}
	return nil
}
