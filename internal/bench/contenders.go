package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/httprate"
	httprateredis "github.com/go-chi/httprate-redis"
	"github.com/go-redis/redis_rate/v10"
	"github.com/labstack/echo/v4/middleware"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislimiter"
	"github.com/sethvargo/go-limiter/memorystore"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
	vnmchuo "github.com/vnmchuo/ratelimiter"
	"go.opentelemetry.io/otel/sdk/metric"
	"golang.org/x/time/rate"

	"github.com/exactlimit/exactlimit/core"
)

// contender is a way to limit requests. The first of a list is ours, and the others are compared with it.
type contender struct {
	name      string
	module    string // whose version the report names
	how       string // it counts
	reference bool   // limits nothing; it shows what there is without a limiter
	open      func(setup) (*limiter, error)
	app       func(setup) (*app, error) // in the scenario service, instead of open
	exe       string                    // a build of this program for another checkout, or empty
}

// setup is what a contender is to do: at most max requests of a key in a window, for so many goroutines.
type setup struct {
	addrs   []string // of Redis: several for a cluster
	prefix  string   // of the keys, where it can be chosen
	workers int
	max     int
	window  time.Duration
	metered bool // whether ours is to measure itself, which costs it something
}

// url is the address as core.Connect takes it.
func (s setup) url() string {
	url := "redis://" + s.addrs[0]
	if others := s.addrs[1:]; len(others) > 0 {
		url += "?addr=" + strings.Join(others, "&addr=")
	}
	return url
}

// limiter is a contender at work.
type limiter struct {
	allow allow
	close func()
	each  func() allow                // if set, makes an allow of its own for each goroutine
	local func() int64                // if set, returns how many decisions were made without Redis
	said  func() (diagnostics, error) // if set, returns what the limiter logged and measured

	patient bool // its own timeout bounds a call, so callers set no deadline
}

func (l *limiter) decidedLocally() int {
	if l.local == nil {
		return 0
	}
	return int(l.local())
}

type allow = func(ctx context.Context, key string) (bool, error)

// ctx can be cancelled, like a request's. One that cannot would let rueidis take a way of its own.
var ctx, _ = context.WithCancel(context.Background())

// The ways in which go-redis sends commands: each call by itself, or collected by its AutoPipeline, in order or in
// eight batches at a time.
var (
	plain     *redis.AutoPipelineOptions
	ordered   = redis.DefaultBlockingAutoPipelineOptions()
	unordered = &redis.AutoPipelineOptions{MaxBatchSize: 300, MaxConcurrentBatches: 8, Unordered: true}
)

var (
	exactlimit = contender{name: ours, module: "github.com/exactlimit/exactlimit", how: "log", open: exactOnRedis}

	redisRate          = redisRateOn("redis_rate", plain)
	redisRateOrdered   = redisRateOn("redis_rate+AP", ordered)
	redisRateUnordered = redisRateOn("redis_rate+AP8", unordered)

	rueidisLimiter = contender{
		name: "rueidislimiter", module: "github.com/redis/rueidis/rueidislimiter", how: "fixed window", open: openRueidisLimiter,
	}
)

var onRedis = []contender{
	exactlimit,
	redisRate, redisRateOrdered, redisRateUnordered,
	ululeOn("ulule/limiter", plain), ululeOn("ulule/limiter+AP", ordered), ululeOn("ulule/limiter+AP8", unordered),
	rueidisLimiter,
	{name: "httprate", module: "github.com/go-chi/httprate-redis", how: "two fixed windows", open: func(s setup) (*limiter, error) {
		client, close, err := goRedis(s, plain)
		if err != nil {
			return nil, err
		}
		return fromHTTPRate(s, close, httprateredis.WithRedisLimitCounter(&httprateredis.Config{
			Client: client, PrefixKey: s.prefix, WindowLength: s.window, FallbackDisabled: true,
		})), nil
	}},
	{name: "vnmchuo", module: "github.com/vnmchuo/ratelimiter", how: "log, client's clock", open: func(s setup) (*limiter, error) {
		client, close, err := goRedis(s, plain)
		if err != nil {
			return nil, err
		}
		store := vnmchuo.NewRedisStore(client.(*redis.Client), vnmchuo.WithLimit(s.max), vnmchuo.WithWindow(s.window))
		return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
			r, err := store.Allow(ctx, key)
			return err == nil && r.Allowed, err
		}, close: close}, nil
	}},
}

var onCluster = []contender{exactlimit, redisRate, redisRateOrdered, redisRateUnordered, rueidisLimiter}

var overloaded = []contender{exactlimit, redisRate, redisRateOrdered, rueidisLimiter}

func redisRateOn(name string, pipeline *redis.AutoPipelineOptions) contender {
	open := func(s setup) (*limiter, error) {
		client, close, err := goRedis(s, pipeline)
		if err != nil {
			return nil, err
		}
		l, limit := redis_rate.NewLimiter(client), redis_rate.Limit{Rate: s.max, Burst: s.max, Period: s.window}
		return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
			r, err := l.Allow(ctx, key, limit)
			return err == nil && r.Allowed > 0, err
		}, close: close}, nil
	}
	return contender{name: name, module: "github.com/go-redis/redis_rate/v10", how: "GCRA", open: open}
}

func ululeOn(name string, pipeline *redis.AutoPipelineOptions) contender {
	open := func(s setup) (*limiter, error) {
		l, close, err := ululeOnRedis(s, pipeline)
		if err != nil {
			return nil, err
		}
		return fromUlule(l, close), nil
	}
	return contender{name: name, module: "github.com/ulule/limiter/v3", how: "fixed window", open: open}
}

func ululeOnRedis(s setup, pipeline *redis.AutoPipelineOptions) (*ulule.Limiter, func(), error) {
	client, close, err := goRedis(s, pipeline)
	if err != nil {
		return nil, nil, err
	}
	store, err := ululeredis.NewStoreWithOptions(client, ulule.StoreOptions{Prefix: s.prefix})
	if err != nil {
		close()
		return nil, nil, err
	}
	return ululeOf(store, s), close, nil
}

func openRueidisLimiter(s setup) (*limiter, error) {
	l, close, err := newRueidisLimiter(s)
	if err != nil {
		return nil, err
	}
	return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
		r, err := l.Allow(ctx, key)
		return r.Allowed, err
	}, close: close}, nil
}

func newRueidisLimiter(s setup) (rueidislimiter.RateLimiterClient, func(), error) {
	var client rueidis.Client
	l, err := rueidislimiter.NewRateLimiter(rueidislimiter.RateLimiterOption{
		ClientBuilder: func(option rueidis.ClientOption) (_ rueidis.Client, err error) {
			client, err = rueidis.NewClient(option)
			return client, err
		},
		ClientOption: rueidis.ClientOption{InitAddress: s.addrs},
		KeyPrefix:    s.prefix,
		Limit:        s.max,
		Window:       s.window,
	})
	if err != nil {
		return nil, nil, err
	}
	return l, client.Close, nil
}

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
	{name: "sethvargo", module: "github.com/sethvargo/go-limiter", how: "fixed window", open: func(s setup) (*limiter, error) {
		store, err := memorystore.New(&memorystore.Config{Tokens: uint64(s.max), Interval: s.window})
		if err != nil {
			return nil, err
		}
		return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
			_, _, _, ok, err := store.Take(ctx, key)
			return ok, err
		}, close: func() { store.Close(ctx) }}, nil
	}},
	{name: "ulule/limiter", module: "github.com/ulule/limiter/v3", how: "fixed window", open: func(s setup) (*limiter, error) {
		return fromUlule(ululeOf(ululememory.NewStore(), s), func() {}), nil
	}},
	{name: "httprate", module: "github.com/go-chi/httprate", how: "two fixed windows", open: func(s setup) (*limiter, error) {
		return fromHTTPRate(s, func() {}), nil
	}},
	{name: "Echo's store", module: "github.com/labstack/echo/v4", how: "token bucket", open: func(s setup) (*limiter, error) {
		store := echoStore(s)
		return &limiter{allow: func(_ context.Context, key string) (bool, error) {
			return store.Allow(key)
		}, close: func() {}}, nil
	}},
}

const ours = "exactlimit"

// exactOnRedis counts the decisions that were made without Redis, which would measure something else, and listens to
// what the limiter says about it.
func exactOnRedis(s setup) (*limiter, error) {
	words := &words{}
	options := []core.Option{core.WithPrefix(s.prefix), core.WithLogger(slog.New(words))}
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
	}, close: func() { l.Close() }, local: local.Load, patient: true, said: func() (d diagnostics, err error) {
		d.Warnings = words.warnings()
		if s.metered {
			d.Outage, err = outageDuration(reader)
		}
		return d, err
	}}, nil
}

func limitOf(s setup) core.Limit { return core.Limit{Name: "bench", Max: s.max, Window: s.window} }

// goRedis makes a client with a connection for each goroutine, so that none waits for one, and through it a pipeline
// if that is not plain.
func goRedis(s setup, pipeline *redis.AutoPipelineOptions) (client redis.UniversalClient, close func(), err error) {
	client = redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: s.addrs, PoolSize: s.workers, ContextTimeoutEnabled: true,
	})
	close = func() { client.Close() }
	if pipeline == nil {
		return client, close, nil
	}
	collected, err := client.AutoPipelineWithOptions(pipeline)
	if err != nil {
		close()
		return nil, nil, err
	}
	return collected, close, nil
}

func fromUlule(l *ulule.Limiter, close func()) *limiter {
	return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
		r, err := l.Get(ctx, key)
		return !r.Reached, err
	}, close: close}
}

func ululeOf(store ulule.Store, s setup) *ulule.Limiter {
	return ulule.New(store, ulule.Rate{Period: s.window, Limit: int64(s.max)})
}

// fromHTTPRate asks as httprate's middleware does, but has it write no fields.
func fromHTTPRate(s setup, close func(), options ...httprate.Option) *limiter {
	var failed atomic.Pointer[error]
	options = append(options,
		httprate.WithResponseHeaders(httprate.ResponseHeaders{}),
		httprate.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, err error) { failed.Store(&err) }))
	l := httprate.NewRateLimiter(s.max, s.window, options...)
	request, _ := http.NewRequest("GET", "/", nil)
	return &limiter{allow: func(ctx context.Context, key string) (bool, error) {
		if !l.OnLimit(nil, request, key) {
			return true, nil
		}
		if err := failed.Load(); err != nil {
			return false, *err
		}
		return false, nil
	}, close: close}
}

func echoStore(s setup) *middleware.RateLimiterMemoryStore {
	return middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{
		Rate: rate.Limit(float64(s.max) / s.window.Seconds()), Burst: s.max,
	})
}

// check sees that a contender limits at all, since one that does not measures nothing: of a fresh key it admits as
// many as it should and no more, and another key has a budget of its own.
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
