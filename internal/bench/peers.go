package main

import (
	"context"
	"net/http"
	"sync/atomic"

	"github.com/go-chi/httprate"
	"github.com/go-redis/redis_rate/v10"
	"github.com/labstack/echo/v4/middleware"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislimiter"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"
	"golang.org/x/time/rate"
)

// These are the ways in which go-redis sends commands: each call by itself, or collected by its AutoPipeline, in order
// or in eight batches at a time.
var (
	plain     *redis.AutoPipelineOptions
	ordered   = redis.DefaultBlockingAutoPipelineOptions()
	unordered = &redis.AutoPipelineOptions{MaxBatchSize: 300, MaxConcurrentBatches: 8, Unordered: true}
)

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

// goRedis returns a client with a connection for each goroutine, so that no goroutine waits for one. Unless pipeline is
// plain, the client collects commands.
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

// fromHTTPRate calls httprate as its middleware does, but without writing fields.
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
